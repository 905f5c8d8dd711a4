"""Any folder of tasks, or one JSONL file: the two forms in which people keep captioned pictures of their own.

A folder of tasks is ``<root>/<task>/captions.jsonl`` (or ``metadata.jsonl``, as the Hugging Face imagefolder has it)
beside ``<root>/<task>/images/``. A line is one picture::

    {"image": "images/boat.jpg", "captions": ["a red boat", "a small boat at sea"], "split": "train"}
    {"file_name": "images/boat.jpg", "text": "a red boat"}

Picture names are relative to the file's folder (in a folder of tasks also to its ``images/``).
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.data.records import CaptionedImage, FilePicture
from lpi.data.rows import (
    SHARES,
    OnError,
    PictureFolder,
    Row,
    clean_captions,
    draw_splits,
    raise_error,
    read_json_lines,
    require_folder,
    split_name,
)
from lpi.errors import ConfigError, DataError, LpiError, MissingFileError, did_you_mean

CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")
Where = Mapping[str, "Sequence[str] | str"]

_IMAGE_COLUMNS = ("image", "file_name")
_LIST_COLUMNS = ("captions",)
_TEXT_COLUMNS = ("text", "caption")


def load_folder(
    root: str | Path,
    *,
    split: str | None = None,
    split_shares: Sequence[float] = SHARES,
    on_error: OnError = raise_error,
) -> list[CaptionedImage]:
    """The pictures of a folder of tasks, tasks in name order, rows in file order.

    Args:
        root: holds one folder a task; hidden folders are passed over.
        split: puts every picture into this split, whatever the rows say.
        split_shares: train, val and test, for a file whose rows have no "split": drawn by the hash of the name.
        on_error: takes each bad row's error and the row is left out; by default the first is raised.

    Returns:
        Records whose pictures are named ``<task>/images/<file>``.

    Raises:
        MissingFileError: no such folder, or a task without a captions file.
        DataError: a bad row; the message names file and line.
    """
    root = Path(root)
    require_folder(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders or (len(folders) == 1 and folders[0].name == "images"):
        here = next((name for name in CAPTION_FILES if (root / name).is_file()), None)
        hint = f"Give the file itself: {root / here}." if here else "Expected <task>/captions.jsonl and <task>/images/."
        raise MissingFileError(f"{root}: there is no task folder in it. {hint}")
    records = []
    for folder in folders:
        try:
            path = captions_file(folder)
        except LpiError as error:
            on_error(error)
            continue
        records += load_jsonl(
            path,
            task_field=None,
            task=folder.name,
            split=split,
            split_shares=split_shares,
            names_from=root,
            on_error=on_error,
        )
    return records


def captions_file(folder: Path) -> Path:
    """The captions file of a task's folder.

    Raises:
        MissingFileError: there is none.
        DataError: there are two, which would be two answers to one question.
    """
    found = [folder / name for name in CAPTION_FILES if (folder / name).is_file()]
    if not found:
        tables = [path.name for path in folder.glob("*.csv")]
        hint = f"{tables[0]} isn't read: write it as JSONL." if tables else "Write one, or move the folder away."
        raise MissingFileError(f"{folder}: there is no captions.jsonl or metadata.jsonl in it. {hint}")
    if len(found) > 1:
        raise DataError(f"{folder}: holds both captions.jsonl and metadata.jsonl. Remove one of them.")
    return found[0]


def load_jsonl(
    path: str | Path,
    *,
    task_field: str | None = "task",
    task: str | None = None,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    where: Where | None = None,
    train_where: Where | None = None,
    split: str | None = None,
    split_shares: Sequence[float] = SHARES,
    names_from: str | Path | None = None,
    on_error: OnError = raise_error,
) -> list[CaptionedImage]:
    """The pictures of one JSONL file, in file order.

    Every row is checked, also those that a filter leaves out. Unknown columns become the record's ``fields`` where
    they hold one value.

    Args:
        path: the file; pictures are relative to its folder.
        task_field: the column that names a row's task.
        task: one task for every row, instead of a column.
        tasks: tasks made of several values of a column: ``{"people": {"field": "group", "values": ["face", "body"]}}``.
            Rows of none of them are left out.
        where: keeps the rows whose column has this value, or one of these values; all columns must agree.
        train_where: the same for training rows only.
        split: puts every picture into this split, whatever the rows say.
        split_shares: train, val and test, where no row has a "split": drawn by the hash of the name within its task,
            before any filter, so that a filter never moves a picture to another split.
        names_from: the folder that picture names are relative to; by default the file's own.
        on_error: takes each bad row's error and the row is left out; by default the first is raised.

    Raises:
        MissingFileError: no such file.
        DataError: a bad row (file and line are named), or a filter that nothing matches.
        ConfigError: a filter or a task is written wrongly.
    """
    path = Path(path)
    forced = None if split is None else split_name(split, "split")
    wanted = {name: _filter(choice.get("field"), choice.get("values"), name) for name, choice in (tasks or {}).items()}
    reader = _RowReader(path, Path(names_from) if names_from is not None else path.parent)
    drafts = []
    for number, row in read_json_lines(path, on_error):
        try:
            draft = reader.read(number, row)
            draft.task = _row_task(draft, task_field=task_field, task=task, tasks=wanted)
            drafts.append(draft)
        except DataError as error:
            on_error(error)
    if not drafts:
        on_error(DataError(f"{path}: holds no picture that can be used. Write one JSON object a line."))
        return []
    _settle_splits(drafts, forced, split_shares, on_error)
    keep, keep_train = _filters(where, "where"), _filters(train_where, "train_where")
    for name, values in [*wanted.values(), *keep, *keep_train]:
        _require_values(path, drafts, name, values)
    return [
        draft.record()
        for draft in drafts
        if draft.task is not None
        and all(draft.fields.get(name) in values for name, values in keep)
        and (draft.split != "train" or all(draft.fields.get(name) in values for name, values in keep_train))
    ]


@dataclass(slots=True)
class _Draft:
    """A row that was read and checked, before its split is settled and filters see it."""

    where: str
    picture: FilePicture
    captions: tuple[str, ...]
    fields: dict[str, str]
    split: str | None
    task: str | None = None

    def record(self) -> CaptionedImage:
        assert self.task is not None
        assert self.split is not None
        return CaptionedImage(self.picture, self.captions, self.task, self.split, self.fields)


class _RowReader:
    """Reads the rows of one file: knows its folder and the pictures it has seen."""

    def __init__(self, path: Path, names_from: Path) -> None:
        self.path = path
        self.prefix = os.path.relpath(path.parent, names_from)
        self.pictures = PictureFolder(path.parent)
        self.lines: dict[Path, int] = {}

    def read(self, number: int, row: Row) -> _Draft:
        where = f"{self.path}, line {number}"
        image_column = _column(row, _IMAGE_COLUMNS, where, "picture")
        image = row[image_column]
        if not isinstance(image, str) or not image.strip():
            raise DataError(f'{where}: "{image_column}" must be a file name; got {image!r}.')
        captions = self._captions(row, where)
        name, found = image, self.pictures.find(image)
        if found is None:
            name = f"images/{image}"
            found = self.pictures.find(name)
        if found is None:
            folder = self.pictures.root
            raise DataError(f"{where}: there is no picture {image!r} in {folder}. {self.pictures.nearest(image)}")
        first = self.lines.setdefault(found, number)
        if first != number:
            raise DataError(f"{where}: {image!r} is already on line {first}. Put all its captions into one row.")
        fields = {key: _text(value) for key, value in row.items() if _is_scalar(value) and key != image_column}
        split = split_name(row["split"], where) if row.get("split") is not None else None
        if split is not None:
            fields["split"] = split
        name = os.path.normpath(os.path.join(self.prefix, name)).replace(os.sep, "/")
        return _Draft(where, FilePicture(found, name), captions, fields, split)

    @staticmethod
    def _captions(row: Row, where: str) -> tuple[str, ...]:
        column = _column(row, (*_LIST_COLUMNS, *_TEXT_COLUMNS), where, "caption")
        value = row[column]
        if column in _TEXT_COLUMNS and isinstance(value, str):
            value = [value]
        return clean_captions(value, where, column)


def _column(row: Row, known: Sequence[str], where: str, what: str) -> str:
    """The first of the known columns that the row has."""
    for column in known:
        if column in row:
            return column
    expected = " or ".join(f'"{column}"' for column in known)
    for column in known:
        near = difflib.get_close_matches(column, row, n=1, cutoff=0.6)
        if near:
            raise DataError(f'{where}: no {what} column ({expected}). Did you mean "{column}" by "{near[0]}"?')
    found = ", ".join(f'"{key}"' for key in row) or "nothing"
    raise DataError(f"{where}: no {what} column ({expected}); found {found}. Rename the column.")


def _row_task(
    draft: _Draft, *, task_field: str | None, task: str | None, tasks: Mapping[str, tuple[str, frozenset[str]]]
) -> str | None:
    """The task of a row, or ``None`` where it belongs to none of ``tasks``."""
    if tasks:
        found = [name for name, (column, values) in tasks.items() if draft.fields.get(column) in values]
        if len(found) > 1:
            raise DataError(f"{draft.where}: belongs to the tasks {' and '.join(found)}. Make their values disjoint.")
        return found[0] if found else None
    if task is not None:
        return task
    if task_field is None:
        raise ConfigError("Say which task the rows belong to: give task_field, task or tasks.")
    if task_field not in draft.fields:
        columns = [name for name in draft.fields if name != "split"]
        hint = did_you_mean(task_field, columns) if columns else "Add the column, or give one task for all rows."
        raise DataError(f'{draft.where}: no column "{task_field}" to name the task. {hint}')
    if not draft.fields[task_field].strip():
        raise DataError(f'{draft.where}: the task under "{task_field}" is empty. Name it.')
    return draft.fields[task_field]


def _settle_splits(drafts: list[_Draft], forced: str | None, shares: Sequence[float], on_error: OnError) -> None:
    """Gives every row its split: the forced one, its own, or one drawn where no row has any."""
    if forced is not None:
        for draft in drafts:
            draft.split = forced
        return
    without = [draft for draft in drafts if draft.split is None]
    if without and len(without) < len(drafts):
        for draft in without:
            on_error(
                DataError(f'{draft.where}: no "split", though other rows have one. Add it to all rows, or to none.')
            )
        drafts[:] = [draft for draft in drafts if draft.split is not None]
    elif without:
        drawn = draw_splits({draft.picture.name: draft.task or "" for draft in drafts}, shares)
        for draft in drafts:
            draft.split = drawn[draft.picture.name]


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def _text(value: object) -> str:
    """A single value as filters and task names see it, spelled as in the file."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filter(column: object, values: object, name: str) -> tuple[str, frozenset[str]]:
    """A column and the values it may have."""
    if not isinstance(column, str) or not column:
        raise ConfigError(f'{name}: expected a "field" and "values"; got field {column!r}.')
    if _is_scalar(values):
        return column, frozenset([_text(values)])
    if not isinstance(values, Sequence) or not values or not all(_is_scalar(value) for value in values):
        raise ConfigError(f"{name}: expected a value or a list of values for {column!r}; got {values!r}.")
    return column, frozenset(_text(value) for value in values)


def _filters(where: Where | None, name: str) -> list[tuple[str, frozenset[str]]]:
    return [_filter(column, values, name) for column, values in (where or {}).items()]


def _require_values(path: Path, drafts: list[_Draft], column: str, values: frozenset[str]) -> None:
    """Refuses a filter with a column or value that no row has: a misspelt filter must not give an empty task."""
    seen: set[str] = set()
    columns: set[str] = set()
    for draft in drafts:
        columns.update(draft.fields)
        if column in draft.fields:
            seen.add(draft.fields[column])
    if not seen:
        raise DataError(f"{path}: no row has a column {column!r} to filter by. {did_you_mean(column, columns)}")
    for value in sorted(values - seen):
        raise DataError(f"{path}: no row has {value!r} under {column!r}. {did_you_mean(value, seen)}")
