"""Messages are for people: they read the same whatever the error derives from, and suggest the nearest name."""

import pytest

from lpi import errors
from lpi.errors import ConfigError, LpiError, MissingFileError, UnknownNameError, did_you_mean


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("dept", ["rank", "depth"]) == "Did you mean 'depth'?"


def test_all_names_are_given_when_none_is_near() -> None:
    assert did_you_mean("zebra", ["rank", "depth"]) == "Known: depth, rank."


def test_a_missing_name_reads_as_a_sentence_and_not_as_a_repr() -> None:
    assert str(UnknownNameError("No method is called 'lip'.")) == "No method is called 'lip'."


def test_an_error_without_a_message_is_empty() -> None:
    assert str(LpiError()) == ""


def test_every_error_is_an_lpi_error_with_a_docstring() -> None:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(found) == 10
    assert all(issubclass(kind, LpiError) and kind.__doc__ for kind in found)


@pytest.mark.parametrize(
    ("kind", "standard"),
    [
        (errors.ConfigError, ValueError),
        (errors.DataError, ValueError),
        (errors.BackboneError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.MissingFileError, FileNotFoundError),
        (errors.OutputError, OSError),
        (errors.UnknownNameError, KeyError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_an_error_can_be_caught_as_the_standard_one(kind: type[Exception], standard: type[Exception]) -> None:
    with pytest.raises(standard) as caught:
        raise kind("what must hold; what was found.")
    assert str(caught.value) == "what must hold; what was found."


def test_a_missing_file_keeps_its_message() -> None:
    assert str(MissingFileError("a.toml is not there.")) == "a.toml is not there."


def test_a_name_of_thousands_of_letters_does_not_fill_the_screen() -> None:
    said = str(ConfigError(f"No method is called {'x' * 5000!r}. Known: a."))
    assert len(said) < 400
    assert said.endswith(".. Known: a.")
