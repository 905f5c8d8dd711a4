"""Expressions in one JSONL file, the plain form for data of one's own. A line is one expression::

    {"image": "images/1.jpg", "expression": "the left dog", "box": [9, 40, 120, 200], "task": "pets", "split": "train"}

``box`` is in pixels; whether it is left, top, right, bottom or left, top, width, height must be said when reading:
a box of one form often is a box of the other as well, only the wrong one.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lpi.data.expressions.record import (
    BoxForm,
    ReferringExpression,
    check_form,
    picture_size,
    read_box,
    read_expression,
    read_size,
)
from lpi.data.rows import (
    SHARES,
    OnError,
    PictureFolder,
    draw_splits,
    raise_error,
    read_json_lines,
    split_name,
)
from lpi.errors import DataError, LpiError, did_you_mean
from lpi.reading import Row, require_folder, shown

_PICTURE = ("image", "file_name")
_EXPRESSION = ("expression", "phrase")
_BOX = ("box", "bbox")
_UNDRAWN = ""


def load_expressions(
    path: str | Path,
    *,
    boxes: BoxForm,
    image_root: str | Path | None = None,
    task_field: str = "task",
    task: str | None = None,
    split: str | None = None,
    split_shares: Sequence[float] = SHARES,
    on_error: OnError = raise_error,
) -> list[ReferringExpression]:
    """The expressions of a JSONL file, in file order.

    Args:
        path: the file.
        boxes: how it writes boxes: ``xyxy`` or ``xywh`` (as COCO does).
        image_root: the folder that picture names are relative to; by default the file's own.
        task_field: the column that names an expression's task.
        task: one task for every expression, instead of a column.
        split: puts every expression into this split, whatever the lines say.
        split_shares: train, val and test, where no line has a "split": drawn by the hash of the picture's name, so
            that all expressions of a picture share a split; small tasks get their share first.
        on_error: takes each bad line's error and the line is left out; by default the first is raised.

    Raises:
        MissingFileError: no such file or folder.
        DataError: a bad line; the message names file and line.
        ConfigError: an unknown form of boxes.
    """
    check_form(boxes)
    path = Path(path)
    forced = None if split is None else split_name(split, "split")
    root = Path(image_root) if image_root is not None else path.parent
    if image_root is not None:
        require_folder(root)
    reader = _LineReader(path, PictureFolder(root), boxes, task_field, task)
    records = []
    for number, row in read_json_lines(path, on_error):
        try:
            records.append(reader.read(number, row))
        except LpiError as error:
            on_error(error)
    if not records:
        on_error(DataError(f"{path}: holds no expression that can be used. Write one JSON object a line."))
        return []
    if forced is not None:
        return [replace(record, split=forced) for record in records]
    return _with_splits(records, split_shares, on_error)


def is_expressions_file(path: Path) -> bool:
    """Whether the first line of a JSONL file has an expression and a box, rather than captions."""
    for _, row in read_json_lines(path, on_error=lambda error: None):
        return any(column in row for column in _EXPRESSION) and any(column in row for column in _BOX)
    return False


@dataclass
class _LineReader:
    """Reads the lines of one file; knows the sizes of the pictures it has met."""

    path: Path
    pictures: PictureFolder
    boxes: BoxForm
    task_field: str
    task: str | None

    def __post_init__(self) -> None:
        self.sizes: dict[Path, tuple[int, int]] = {}

    def read(self, number: int, row: Row) -> ReferringExpression:
        where = f"{self.path}, line {number}"
        picture = self.pictures.picture(where, row[_column(row, _PICTURE, where)])
        column = _column(row, _EXPRESSION, where)
        expression = read_expression(row[column], where, column)
        size = self._size(picture.path, row, where)
        box = read_box(row[_column(row, _BOX, where)], form=self.boxes, size=size, where=where)
        split = split_name(row["split"], where) if row.get("split") is not None else _UNDRAWN
        used = {*_PICTURE, *_EXPRESSION, *_BOX, "split", "width", "height"}
        others = {key: str(value) for key, value in row.items() if isinstance(value, str | int | float)}
        return ReferringExpression(
            picture,
            expression,
            box,
            size,
            self.task if self.task is not None else self._task(row, where),
            split,
            where,
            {key: value for key, value in others.items() if key not in used},
        )

    def _size(self, file: Path, row: Row, where: str) -> tuple[int, int]:
        if file not in self.sizes:
            self.sizes[file] = picture_size(file)
        size = self.sizes[file]
        if "width" in row and "height" in row:
            said = read_size(row["width"], row["height"], where)
            if said != size:
                raise DataError(
                    f"{where}: the picture should be {said[0]} x {said[1]} pixels and is {size[0]} x {size[1]}, so its "
                    "box can't be trusted. Use the picture that was annotated, or scale the box."
                )
        return size

    def _task(self, row: Row, where: str) -> str:
        if self.task_field not in row:
            raise DataError(f'{where}: no column "{self.task_field}" to name the task. {did_you_mean("task", row)}')
        task = row[self.task_field]
        if not isinstance(task, str | int) or isinstance(task, bool) or not str(task).strip():
            raise DataError(f'{where}: the task under "{self.task_field}" must be a name; got {shown(task)}.')
        return str(task)


def _column(row: Row, known: Sequence[str], where: str) -> str:
    """The first of the known columns that the row has."""
    for column in known:
        if column in row:
            return column
    found = ", ".join(f'"{key}"' for key in row) or "nothing"
    raise DataError(f'{where}: no column "{known[0]}" (or "{known[1]}"); found {found}. Add or rename it.')


def _with_splits(
    records: list[ReferringExpression], shares: Sequence[float], on_error: OnError
) -> list[ReferringExpression]:
    """The records with their own splits, or with drawn ones where no line has any."""
    without = [record for record in records if record.split == _UNDRAWN]
    if not without:
        return records
    if len(without) < len(records):
        for record in without:
            on_error(
                DataError(f'{record.name}: no "split", though other lines have one. Add it to all lines, or to none.')
            )
        return [record for record in records if record.split != _UNDRAWN]
    pictures: dict[str, set[str]] = defaultdict(set)
    for record in records:
        pictures[record.picture.name].add(record.task)
    counts = Counter(task for tasks in pictures.values() for task in tasks)
    # A picture shows things of several tasks: it is drawn with the rarest, which has the fewest pictures to spare.
    rarest = {name: min(tasks, key=lambda task: (counts[task], task)) for name, tasks in pictures.items()}
    drawn = draw_splits(rarest, shares)
    return [replace(record, split=drawn[record.picture.name]) for record in records]
