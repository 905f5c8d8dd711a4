"""Optional parts: what each is for, what it needs, and the line that installs it for this copy of the library."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from lpi.errors import MissingExtraError


class Extra(NamedTuple):
    """One optional part.

    Attributes:
        modules: what must be importable.
        purpose: what it is for.
    """

    modules: tuple[str, ...]
    purpose: str


EXTRAS = {
    "report": Extra(("matplotlib",), "HTML reports"),
    "log": Extra(("tensorboard",), "TensorBoard scalars"),
    "search": Extra(("lancedb",), "an index of pictures"),
    "serve": Extra(("lancedb", "fastapi", "uvicorn", "python_multipart", "prometheus_client"), "the search page"),
    "cluster": Extra(("lancedb", "daft"), "embedding with many workers"),
    "methods": Extra(("peft",), "the method lora"),
    "grounding": Extra(("scipy",), "learning to find boxes"),
    "docs": Extra(("mkdocs", "mkdocstrings"), "the documentation as a site"),
    "collections": Extra(("pyarrow",), "public data sets in Parquet files"),
}
"""By the names of ``[project.optional-dependencies]`` in pyproject.toml; a test holds the two together."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that can't be imported here."""
    return [module for module in EXTRAS[extra].modules if util.find_spec(module) is None]


def install_line(extra: str) -> str:
    """The command that installs an extra for this copy of the library.

    A clone installs itself with its own constraints. An installed package names what the extra requires: no line
    names the library itself, since whoever holds that name in an index would be installed.

    >>> install_line("report").startswith("pip install ")
    True
    """
    clone = Path(__file__).parents[2]
    if (clone / "pyproject.toml").is_file() and (clone / "constraints.txt").is_file():
        return f"pip install -c constraints.txt -e '.[{extra}]'"
    wanted = [
        line.partition(";")[0].strip()
        for line in metadata.requires("lpi") or ()
        if f"extra == '{extra}'" in line.replace('"', "'")
    ]
    return f"pip install {' '.join(shlex.quote(line) for line in wanted)}"


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """The error for a person who needs an extra that isn't installed, naming the line that installs it.

    Args:
        what: what needs it, and what that is: a sentence without its full stop.
        extra: one of :data:`EXTRAS`.
    """
    error = sys.exc_info()[1]
    there = isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError) and not missing(extra)
    if there:  # too little memory, or a damaged file
        return MissingExtraError(f"{', '.join(EXTRAS[extra].modules)} can't be loaded, though installed: {error}")
    line = install_line(extra)
    where = " in the folder of this clone" if line.startswith("pip install -c") else ""
    return MissingExtraError(f"{what}. Install it{where}, in the activated environment: {line}")
