"""Which reader does a path need? Looks at the path and calls it."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lpi.data.captions import CAPTION_FILES, read_rows
from lpi.data.coco import load_coco
from lpi.data.folder import load_folder, load_jsonl, own_captions
from lpi.data.karpathy import load_karpathy
from lpi.data.records import CaptionedImage
from lpi.errors import ConfigError, DataError, MissingFileError, did_you_mean

R = TypeVar("R")


def load_source(path: str | Path, **options: Any) -> list[CaptionedImage]:
    """The records of any source that the library reads, told apart by what the path is.

    A ``.jsonl`` or ``.csv`` file or ``captions.json``, or one captioned folder in any form of :mod:`lpi.data.captions`,
    is read by :func:`load_jsonl`, as one task that is called like the folder where neither rows nor options name tasks;
    another folder as a folder of tasks by :func:`load_folder`; a ``.zip`` or ``.json`` by :func:`load_karpathy` (with
    ``image_root``), or by :func:`load_coco` where ``instances_json`` is among the options.

    Args:
        path: the file or folder.
        options: keyword arguments of that reader.

    Raises:
        MissingFileError: there is no such path.
        DataError: no reader is known for it, or the reader's own errors.
        ConfigError: an option that the reader doesn't have or lacks.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such file or folder. Check the path.")
    if path.is_dir():
        here = own_captions(path)
        return _one_task(here, path, options) if here else call_reader(load_folder, path, options)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".csv") or path.name in CAPTION_FILES:
        return _one_task(path, path.parent, options)
    if suffix in (".json", ".zip"):
        return call_reader(load_coco if "instances_json" in options else load_karpathy, path, options)
    raise DataError(
        f"{path}: no reader for {suffix or 'a file without suffix'}. Known: a folder, .jsonl, .csv, .json, .zip."
    )


def _one_task(captions: Path, folder: Path, options: Mapping[str, Any]) -> list[CaptionedImage]:
    """The pictures of one captions file, all of one task where nothing says to which they belong."""
    named = {"task", "task_field", "tasks"} & set(options)
    rows = () if named else (row for _, row in read_rows(captions, lambda error: None))
    if not named and not any("task" in row for row in rows):
        options = {**options, "task": folder.resolve().name or "all"}
    return call_reader(load_jsonl, captions, options)


def call_reader(reader: Callable[..., list[R]], path: Path, options: Mapping[str, Any]) -> list[R]:
    """Calls a reader of whatever records, and says which option it doesn't know or still needs.

    Raises:
        ConfigError: such an option.
    """
    first, *known = inspect.signature(reader).parameters.values()
    names = [parameter.name for parameter in known]
    for name in options:
        if name not in names:
            raise ConfigError(f"{path}: {reader.__name__} has no option {name!r}. {did_you_mean(name, names)}")
    for parameter in known:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ConfigError(f"{path}: {reader.__name__} needs {parameter.name!r}. Give it beside {first.name!r}.")
    return reader(path, **options)
