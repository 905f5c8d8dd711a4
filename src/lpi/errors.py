"""Every exception the library raises, and the helper that suggests the name a person meant."""

import difflib
import re
from collections.abc import Iterable
from typing import get_args


class LpiError(Exception):
    """The root of all errors that this library raises on purpose.

    The message is for a person: one sentence with what must hold and what was found, one with what to do.
    The command line prints it as it is and ends with exit code 2.
    """

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; a message must read the same whatever it derives from.
        # and a name of five thousand letters is cut, wherever it came from.
        return re.sub(r"(\S{280})\S{40,}", r"\1..", str(self.args[0])) if self.args else ""


class ConfigError(LpiError, ValueError):
    """An option, an experiment file or a combination of settings is wrong."""


class DataError(LpiError, ValueError):
    """A record, a picture or a caption is wrong; the message names file and line."""


class MissingFileError(LpiError, FileNotFoundError):
    """A file or folder that was named is not there."""


class OutputError(LpiError, OSError):
    """A folder can't be written to, or the disk is full."""


class BackboneError(LpiError, ValueError):
    """A model folder can't serve as a backbone."""


class CheckpointError(LpiError, ValueError):
    """A saved method or task is damaged, or was made for another backbone."""


class ShapeError(LpiError, ValueError):
    """Tensors that must agree in shape do not."""


class UnknownNameError(LpiError, KeyError):
    """No method, experiment, preset or task has that name."""


class MissingExtraError(LpiError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


MOST_LISTED = 40


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all of them when none is near.

    >>> did_you_mean("dept", ["depth", "rank"])
    "Did you mean 'depth'?"
    >>> did_you_mean("zebra", ["depth", "rank"])
    'Known: depth, rank.'
    >>> did_you_mean("birds", [])
    'There are none yet.'
    """
    names = sorted(known)
    if not names:
        return "There are none yet."
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    more = f", .. ({len(names)} in all)" if len(names) > MOST_LISTED else ""
    return f"Known: {', '.join(names[:MOST_LISTED])}{more}."


def kind_of(value: object) -> str:
    """What a value is, for a message: its class, or the value itself where it is short.

    >>> kind_of(5), kind_of([1] * 1000)
    ('5', 'a list')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return (
        repr(value)
        if isinstance(value, str | int | float | bytes | None) and len(repr(value)) < 80
        else (f"a {type(value).__name__}")
    )


def check_choice(name: str, value: str, choices: object) -> None:
    """Refuse a value that is none of a Literal's."""
    known = get_args(choices)
    if value not in known:
        near = did_you_mean(str(value), known)
        hint = f" {near}" if near.startswith("Did") else ""
        raise ConfigError(f"{name} must be one of {', '.join(known)}; got {value!r}.{hint}")


_NO_MEMORY = re.compile(r"(?i)can('t|not) allocate memory|out of memory|bad_alloc|can't start new thread|failed to map")


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there is too little memory, in whichever library's words.

    >>> lacks_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), lacks_memory(RuntimeError("shapes"))
    (True, False)
    """
    while error is not None:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
