"""Experiment files: what is known becomes typed settings, what is not is refused with the nearest name that is."""

from pathlib import Path
from typing import Any

import pytest

from lpi.config import Experiment, TrainingSettings, parse, parse_changes, read_experiment, shipped
from lpi.errors import ConfigError, MissingFileError

TEXT = """
about = "A test."
seeds = [0, 1]

[stream]
kind = "scenes"
difficulty = "easy"
train_limit = 12

[method]
name = "lpi"
rank = 4
injection = "into"

[training]
epochs = 2
learning_rate = 0.02

[rows.wide]
method.rank = 8

[rows.paper]
method = {preset = "paper"}

[rows.finetune]
method.name = "finetune"
training.learning_rate = 1e-5

[rows.dotted]
"method.name" = "finetune"
"training.epochs" = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_file_becomes_typed_settings_named_after_it(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.name == "small"
    assert experiment.seeds == [0, 1]
    assert experiment.training == TrainingSettings(epochs=2, learning_rate=0.02)
    assert experiment.stream.train_limit == 12
    assert experiment.stream.source() == {"difficulty": "easy"}
    assert experiment.method == {"name": "lpi", "rank": 4, "injection": "into"}


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("training.epochs=7", ("training", "epochs"), 7),
        ("training.learning_rate = 1e-3", ("training", "learning_rate"), 1e-3),
        ("training.steps=40", ("training", "steps"), 40),
        ("evaluation.oracle=false", ("evaluation", "oracle"), False),
        ("stream.order=['b', 'a']", ("stream", "order"), ["b", "a"]),
        ("seeds=[3]", ("seeds",), [3]),
        ("name=other", ("name",), "other"),
        ("name='a=b'", ("name",), "a=b"),
        ("about=", ("about",), ""),
        ("training.device=cuda:1", ("training", "device"), "cuda:1"),
    ],
)
def test_set_changes_one_value(file: Path, change: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = read_experiment(file, [change])
    for key in path:
        found = getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_set_reaches_a_methods_own_options(file: Path) -> None:
    changed = read_experiment(file, ["method.rank=2", "method.norm=none", "method.interaction=true"])
    assert changed.method == {"name": "lpi", "rank": 2, "injection": "into", "norm": "none", "interaction": True}


def test_later_changes_win(file: Path) -> None:
    assert read_experiment(file, ["seeds=[1]", "seeds=[2]"]).seeds == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epoch=2", r"small.toml: \[training\] has no option 'epoch'. Did you mean 'epochs'\?"),
        ("evaluation.orakel=true", r"small.toml: \[evaluation\] has no option 'orakel'. Did you mean 'oracle'\?"),
        ("trainings.epochs=2", r"small.toml: the top level has no option 'trainings'. Did you mean 'training'\?"),
        ("training.epochs=-1", r"small.toml: epochs in \[training\]: .*greater than or equal to 0; got -1"),
        ("training.epochs=many", r"epochs in \[training\]: .*integer.*; got 'many'"),
        ("training.optimiser=adam", r"optimiser in \[training\]: .*'adamw' or 'sgd'; got 'adam'"),
        ("training=3", r"small.toml: training in the top level: .*; got 3"),
        ("stream.kind=photos", r"kind in \[stream\]: .*; got 'photos'"),
        ("seeds", r"--set takes key=value; got 'seeds'"),
        ("name.first=x", r"name.first: 'name' is a value and has no keys of its own"),
    ],
)
def test_what_is_not_known_is_refused(file: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_experiment(file, [change])


def test_bad_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("seeds = [1\n[x]\n")
    with pytest.raises(ConfigError, match=r"bad.toml is not valid TOML: .*line 2"):
        read_experiment(path)


def test_a_missing_experiment_is_named() -> None:
    with pytest.raises(MissingFileError, match=r"nowhere: there is no such experiment file"):
        read_experiment("nowhere")


# Rows -----------------------------------------------------------------------------------------------------------------


def test_the_main_variant_comes_first_and_is_named_after_its_method(file: Path) -> None:
    assert read_experiment(file).variant_names() == ["lpi", "wide", "paper", "finetune", "dotted"]
    assert read_experiment(file, ["method.preset=paper"]).main_variant == "lpi_paper"


def test_the_main_variant_is_the_file_without_its_rows(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.variant("lpi") == experiment.model_copy(update={"rows": {}})


def test_a_row_changes_what_it_names_and_keeps_the_rest(file: Path) -> None:
    experiment = read_experiment(file, ["training.batch=16"])
    wide = experiment.variant("wide")
    assert wide.method == {"name": "lpi", "rank": 8, "injection": "into"}
    assert (wide.training, wide.stream, wide.seeds, wide.name) == (
        experiment.training,
        experiment.stream,
        [0, 1],
        "small",
    )
    assert experiment.method["rank"] == 4  # the experiment itself is left as it is


def test_a_row_of_another_preset_is_not_undone_by_the_options_of_the_main_variant(file: Path) -> None:
    assert read_experiment(file).variant("paper").method == {"name": "lpi", "preset": "paper"}
    best, paper = (read_experiment("compare_scenes").variant(name).method for name in ("lpi_small", "lpi"))
    small = {
        "view": "both",
        "ood_quantile": 0.95,
        "rank": 2,
        "interaction_rank": 1,
        "adapter_rank": 1,
        "clusters": 1,
        "directions": 4,
        "memory": 8,
        "dimensions": 0,
    }
    assert best == {"name": "lpi", "preset": "best", **small}
    assert paper["injection"] == "replace"


@pytest.mark.parametrize("name", ["finetune", "dotted"])
def test_a_row_of_another_method_leaves_the_options_of_the_first_behind(file: Path, name: str) -> None:
    row = read_experiment(file).variant(name)
    assert row.method == {"name": "finetune"}
    assert row.stream.source() == {"difficulty": "easy"}
    assert (row.training.learning_rate, row.training.epochs) == {"finetune": (1e-5, 2), "dotted": (0.02, 1)}[name]


def test_an_unknown_row_names_the_nearest(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"experiment 'small' has no row 'fine_tune'. Did you mean 'finetune'\?"):
        read_experiment(file).variant("fine_tune")


def test_a_row_with_an_unknown_key_is_refused_by_its_name(file: Path) -> None:
    experiment = read_experiment(file, ["rows.wide.training.epoch=1"])
    with pytest.raises(ConfigError, match=r"row 'wide' of small: \[training\] has no option 'epoch'"):
        experiment.variant("wide")


def test_a_row_named_like_the_main_one_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="the row 'lpi' has the name of the main row"):
        read_experiment(file, ["rows.lpi.training.epochs=1"])


# What comes with the package ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../victim", "a/b", "a\\b", ".", "..", "", "  ", "/", "a\0b", "a\nb", "a\x1b[31m", "\udcff", "\u2028"]
)
def test_a_name_that_leads_elsewhere_is_refused_in_one_line(name: str) -> None:
    settings = {"method": {"name": "lpi"}, "stream": {}}
    for content in (
        {"name": name},
        {"name": "x", **settings, "rows": {name: {"method.rank": 1}}},
        {"name": "x", "method": {"name": "lpi", "preset": f"../{name}"}},
    ):
        with pytest.raises(ConfigError, match="can't name a folder: it must have letters") as refused:
            parse(content, "e.toml")
        assert "\n" not in str(refused.value)


def test_names_in_any_language_are_names() -> None:
    for name in ("Köln 2024", "狗", "a.b", "..a", "lpi+ewc", "x" * 200):
        assert parse({"name": name, "rows": {name: {"method.rank": 1}}}, "e.toml").variant_names() == ["lpi", name]


@pytest.mark.parametrize("name", ["rows", "seeds", "command", "settings", "frozen", "versions", "zero_shot"])
def test_a_row_may_have_the_name_of_anything_else_in_the_results(name: str) -> None:
    assert parse({"rows": {name: {"method.rank": 1}}}, "e.toml").variant_names() == ["lpi", name]


def test_changes_are_parsed_as_toml_or_else_taken_as_text() -> None:
    changes = ["method.rank=8", "training.optimiser = sgd", "stream.order=['a']", "name='x=y'", "method.rank=4"]
    assert parse_changes(changes) == {
        "training.optimiser": "sgd",
        "stream.order": ["a"],
        "name": "x=y",
        "method.rank": 4,
    }
    with pytest.raises(ConfigError, match=r"--set takes key=value; got 'method\.rank'"):
        parse_changes(["method.rank"])


def test_every_shipped_experiment_and_each_of_its_rows_is_read() -> None:
    for name, path in shipped().items():
        experiment = read_experiment(name)
        assert experiment.name
        for row in experiment.variant_names():
            assert isinstance(experiment.variant(row), Experiment), path


def test_an_empty_experiment_has_defaults() -> None:
    assert parse({}, "nothing").main_variant == "lpi"
