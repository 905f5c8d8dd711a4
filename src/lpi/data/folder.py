"""Any folder of tasks, or one JSONL file: the two forms in which people keep captioned pictures of their own.

A folder of tasks is ``<root>/<task>/captions.jsonl`` (or ``metadata.jsonl``, as the Hugging Face imagefolder has it, or
another form of :mod:`lpi.data.captions`) beside ``<root>/<task>/images/``. A line is one picture::

    {"image": "images/boat.jpg", "captions": ["a red boat", "a small boat at sea"], "split": "train"}
    {"file_name": "images/boat.jpg", "text": "a red boat"}

Picture names are relative to the file's folder (in a folder of tasks also to its ``images/``).

Folders named like splits are splits, never tasks: ``<root>/<split>/metadata.jsonl`` is one task that is called like the
root (or the tasks that a "task" column names), ``<root>/<split>/<task>/captions.jsonl`` and
``<root>/<task>/<split>/captions.jsonl`` are tasks with these splits.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.data.captions import CAPTION_FILES, bears_captions, read_rows
from lpi.data.records import SPLITS, CaptionedImage, FilePicture
from lpi.data.rows import (
    SHARES,
    OnError,
    PictureFolder,
    clean_captions,
    draw_splits,
    folder_split,
    raise_error,
    split_name,
)
from lpi.errors import ConfigError, DataError, LpiError, MissingFileError, did_you_mean
from lpi.reading import Row, is_text, require_folder

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
        root: holds one folder a task, a split, or both, see :mod:`lpi.data.folder`; hidden folders are passed over.
        split: puts every picture into this split, whatever folders and rows say.
        split_shares: train, val and test, for a file that is in no split's folder and whose rows have no "split": drawn
            by the hash of the name.
        on_error: takes each bad row's error and the row is left out; by default the first is raised.

    Returns:
        Records whose pictures are named ``<task>/images/<file>``, as they lie under ``root``.

    Raises:
        MissingFileError: no such folder, or a task without a captions file.
        DataError: a bad row, one whose "split" isn't its folder's (the message names file and line), or folders of
            tasks beside folders of splits.
    """
    root = Path(root)
    require_folder(root)
    folders = folders_in(root)
    if not folders or (len(folders) == 1 and folders[0].name == "images"):
        here = next((name for name in CAPTION_FILES if (root / name).is_file()), None)
        hint = f"Give the file itself: {root / here}." if here else "Expected <task>/captions.jsonl and <task>/images/."
        raise MissingFileError(f"{root}: there is no task folder in it. {hint}")
    files = _files_by_split(root, folders) if all_splits(root, folders) else _files_by_task(folders, on_error)
    records = []
    # tasks in name order, and each task's splits in theirs, however the folders are nested
    for file in sorted(files, key=lambda file: (file.task or "", SPLITS.index(file.split or "train"))):
        records += file.load(root, split=split, split_shares=split_shares, on_error=on_error)
    return records


def load_task(
    folder: str | Path, task: str, *, split_shares: Sequence[float] = SHARES, on_error: OnError = raise_error
) -> list[CaptionedImage]:
    """The pictures of one task's folder: of its captions file, or of those in its folders of splits.

    Args:
        folder: the task's.
        task: its name.
        split_shares: see :func:`load_folder`.
        on_error: likewise.

    Raises:
        MissingFileError: no such folder, or no captions file in it.
        DataError: see :func:`load_folder`.
    """
    folder = Path(folder)
    require_folder(folder)
    files = _files_of_task(folder, task)
    return [
        record
        for file in files
        for record in file.load(folder, split=None, split_shares=split_shares, on_error=on_error)
    ]


@dataclass(frozen=True, slots=True)
class _CaptionsFile:
    """A captions file, and what the folders around it say: its task (``None``: its rows do) and its split, if any."""

    path: Path
    task: str | None
    split: str | None = None

    def load(
        self, root: Path, *, split: str | None, split_shares: Sequence[float], on_error: OnError
    ) -> list[CaptionedImage]:
        """Its pictures, named from ``root``; ``split`` overrides its own."""
        return load_jsonl(
            self.path,
            task_field=None if self.task is not None else "task",
            task=self.task,
            split=split or self.split,
            strict_split=split is None and self.split is not None,
            split_shares=split_shares,
            names_from=root,
            on_error=on_error,
        )


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, in name order, hidden ones left out.

    Raises:
        DataError: the name of one isn't UTF-8: it would name a task.
    """
    found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for path in found:
        if not is_text(path.name):
            raise DataError(f"{root}: the name of the folder {path.name!a} isn't UTF-8. Rename it.")
    return found


def all_splits(root: Path, folders: Sequence[Path]) -> bool:
    """Whether folders are splits rather than tasks, by their names.

    Raises:
        DataError: some are and some aren't.
    """
    splits = [folder.name for folder in folders if folder_split(folder.name)]
    others = [folder.name for folder in folders if not folder_split(folder.name)]
    if splits and others:
        raise DataError(
            f"{root}: holds folders named like splits ({', '.join(splits)}) beside others ({', '.join(others[:3])}"
            f"{', ..' if len(others) > 3 else ''}). Make them all splits, or all tasks; rename or move the others."
        )
    return bool(splits)


def _files_by_task(folders: Sequence[Path], on_error: OnError) -> list[_CaptionsFile]:
    """The captions files of folders that are tasks."""
    files = []
    for folder in folders:
        try:
            files += _files_of_task(folder, folder.name)
        except LpiError as error:
            on_error(error)
    return files


def _files_of_task(folder: Path, task: str) -> list[_CaptionsFile]:
    """The captions files of one task's folder: its own, or one a split."""
    inner = folders_in(folder)
    splits = [path for path in inner if folder_split(path.name) and _has_captions(path)]
    if not splits:
        return [_CaptionsFile(captions_file(folder), task)]
    if _has_captions(folder):
        raise DataError(f"{folder}: holds a captions file, and so does {splits[0]}. Keep one of the two.")
    all_splits(folder, inner)
    files = [_CaptionsFile(captions_file(path), task, folder_split(path.name)) for path in inner]
    return sorted(files, key=lambda file: SPLITS.index(file.split or "train"))


def _files_by_split(root: Path, folders: Sequence[Path]) -> list[_CaptionsFile]:
    """The captions files of folders that are splits: their own, or one a task."""
    own = [folder for folder in folders if _has_captions(folder)]
    files = []
    if own:  # with as many folders of pictures in them as there may be
        for folder in folders:
            path = captions_file(folder)
            task = None if _has_tasks(path) else root.resolve().name or "all"
            files.append(_CaptionsFile(path, task, folder_split(folder.name)))
        return files
    for folder in folders:
        tasks = folders_in(folder)
        if not any(_has_captions(task) for task in tasks):
            captions_file(folder)  # says that there is none
        files += [_CaptionsFile(captions_file(task), task.name, folder_split(folder.name)) for task in tasks]
    return files


def _has_captions(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CAPTION_FILES)


def _has_tasks(path: Path) -> bool:
    """Whether the rows of a file name their tasks, by its first row that can be read."""
    first = next(read_rows(path, lambda error: None), None)
    return first is not None and "task" in first[1]


def captions_file(folder: Path) -> Path:
    """The captions file of a task's folder; the folder itself, where its pictures have text files or carry captions.

    Raises:
        MissingFileError: there is none.
        DataError: there are two, which would be two answers to one question.
    """
    found = [folder / name for name in CAPTION_FILES if (folder / name).is_file()]
    if not found:
        if bears_captions(folder):
            return folder
        tables = [path.name for path in folder.glob("*.csv")]
        hint = f"Call {tables[0]} captions.csv." if tables else "Write one, or move the folder away."
        raise MissingFileError(
            f"{folder}: there is no captions.jsonl or metadata.jsonl in it (or .csv, captions.json, text files). {hint}"
        )
    if len(found) > 1:
        raise DataError(f"{folder}: holds both {found[0].name} and {found[1].name}. Remove one of them.")
    return found[0]


def own_captions(folder: Path) -> Path | None:
    """The captions file of a folder that is one task's (:func:`captions_file`); ``None`` of a folder of tasks.

    Raises:
        DataError: it holds two.
    """
    inner = [own for own in folders_in(folder) if own.name != "images"]
    return captions_file(folder) if _has_captions(folder) or (not inner and bears_captions(folder)) else None


def load_jsonl(
    path: str | Path,
    *,
    task_field: str | None = "task",
    task: str | None = None,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    where: Where | None = None,
    train_where: Where | None = None,
    split: str | None = None,
    strict_split: bool = False,
    split_shares: Sequence[float] = SHARES,
    names_from: str | Path | None = None,
    on_error: OnError = raise_error,
) -> list[CaptionedImage]:
    """The pictures of one captions file, in file order: JSON lines, or what else :mod:`lpi.data.captions` reads.

    Every row is checked, also those that a filter leaves out. Unknown columns become the record's ``fields`` where
    they hold one value.

    Args:
        path: the file, to whose folder pictures are relative; or a folder whose pictures bear their captions.
        task_field: the column that names a row's task.
        task: one task for every row, instead of a column.
        tasks: tasks made of several values of a column: ``{"people": {"field": "group", "values": ["face", "body"]}}``.
            Rows of none of them are left out.
        where: keeps the rows whose column has this value, or one of these values; all columns must agree.
        train_where: the same for training rows only.
        split: puts every picture into this split, whatever the rows say.
        strict_split: refuses a row that says another split than ``split``, instead.
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
    reader = _RowReader(path, None if names_from is None else Path(names_from))
    drafts = []
    for place, row in read_rows(path, on_error):
        try:
            draft = reader.read(place, row)
            if strict_split and forced is not None and draft.split not in (None, forced):
                raise DataError(
                    f'{draft.where}: "split" is {draft.split}, but the whole file is {forced}, as its folder is named. '
                    "Move the row, or leave its split out."
                )
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

    def __init__(self, path: Path, names_from: Path | None) -> None:
        folder = path if path.is_dir() else path.parent
        self.prefix = os.path.relpath(folder, names_from or folder)
        self.pictures = PictureFolder(folder)
        self.places: dict[Path, str] = {}

    def read(self, where: str, row: Row) -> _Draft:
        image_column = _column(row, _IMAGE_COLUMNS, where, "picture")
        captions = self._captions(row, where)
        image = row[image_column]
        picture = self.pictures.picture(where, image, f"images/{image}")
        found = picture.path
        first = self.places.setdefault(found, where)
        if first != where:
            place = first.rpartition(", ")[2]
            raise DataError(f"{where}: {image!r} is already on {place}. Put all its captions into one row.")
        fields = {key: _text(value) for key, value in row.items() if _is_scalar(value) and key != image_column}
        split = split_name(row["split"], where) if row.get("split") is not None else None
        if split is not None:
            fields["split"] = split
        name = os.path.normpath(os.path.join(self.prefix, picture.name)).replace(os.sep, "/")
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
