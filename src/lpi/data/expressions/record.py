"""What a grounding source hands on: an expression, the picture it is about, and the box of the object it means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from lpi.data.pictures import opened, upright_size
from lpi.data.records import Picture
from lpi.errors import ConfigError, DataError, did_you_mean
from lpi.reading import is_number, is_text, shown

Box = tuple[float, float, float, float]
BoxForm = Literal["xyxy", "xywh"]
"""``xyxy`` is left, top, right, bottom; ``xywh`` is left, top, width, height, as COCO writes it."""

LARGEST = 10**9
"""Pixels of a side beyond which a number is none of a picture."""
SLACK = 1.0
"""Pixels by which a published box may stick out of its picture (annotators round); it is then cut at the edge."""


@dataclass(frozen=True, slots=True)
class ReferringExpression:
    """An expression and the one object of a picture that it means.

    Attributes:
        picture: opens as RGB; its full size is ``size``.
        expression: what a person says to mean the object.
        box: left, top, right, bottom in pixels of the full-size picture, inside it and of some area.
        size: width and height that the box is measured in: a picture opened smaller has its box scaled with it.
        task: the task it belongs to.
        split: train, val, test or held_out.
        name: file and line, or file and record, that it was read from; messages name it.
        fields: what else the source says of it, such as the object's category.
    """

    picture: Picture
    expression: str
    box: Box
    size: tuple[int, int]
    task: str = ""
    split: str = "train"
    name: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


def check_form(form: object) -> None:
    """Refuse a box form that isn't known.

    Raises:
        ConfigError: neither xyxy nor xywh.
    """
    if form not in get_args(BoxForm):
        raise ConfigError(
            f"boxes must be 'xyxy' (left, top, right, bottom) or 'xywh' (left, top, width, height); got {form!r}. "
            + did_you_mean(str(form), get_args(BoxForm))
        )


def read_box(values: object, *, form: BoxForm, size: tuple[int, int], where: str) -> Box:
    """Four numbers of a file as left, top, right, bottom, checked against their picture.

    >>> read_box([10, 20, 30, 40], form="xywh", size=(100, 100), where="line 1")
    (10.0, 20.0, 40.0, 60.0)

    Args:
        values: what the file holds.
        form: how the file writes boxes.
        size: width and height of the picture in pixels.
        where: file and line or record, for messages.

    Raises:
        DataError: not four finite numbers, edges in the wrong order, no area, or more than a pixel outside.
        ConfigError: an unknown form.
    """
    check_form(form)
    numbers = _numbers(values, where)
    left, top, third, fourth = numbers
    shown = f"[{', '.join(f'{number:g}' for number in numbers)}]"
    if form == "xywh":
        if third < 0 or fourth < 0:
            raise DataError(
                f"{where}: a box's width and height must be above 0; got {shown} as left, top, width, height. "
                "Put the top left corner first."
            )
        right, bottom = left + third, top + fourth
    else:
        right, bottom = third, fourth
        if right < left or bottom < top:
            raise DataError(
                f"{where}: a box's left must be before its right, its top above its bottom; got {shown}. Swap them, or "
                "say boxes='xywh' if these are left, top, width, height."
            )
    width, height = size
    if left < -SLACK or top < -SLACK or right > width + SLACK or bottom > height + SLACK:
        other = "left, top, right, bottom" if form == "xywh" else "left, top, width, height"
        raise DataError(
            f"{where}: the box {shown} ({form}) lies outside the picture of {width} x {height} pixels. Correct it, or "
            f"say boxes={'xyxy' if form == 'xywh' else 'xywh'!r} if these are {other}."
        )
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise DataError(f"{where}: the box {shown} ({form}) has no area inside the picture. Correct it, or remove it.")
    return box


def _numbers(values: object, where: str) -> tuple[float, float, float, float]:
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or len(values) != 4:
        raise DataError(
            f"{where}: a box must be a list of four numbers; got {shown(values)}. Write [10, 20, 110, 220]."
        )
    for value in values:
        if not is_number(value):
            raise DataError(f"{where}: a box must be four numbers; got {shown(value)}. Correct it.")
    left, top, third, fourth = (float(value) for value in values)
    return left, top, third, fourth


def read_expression(value: object, where: str, column: str = "expression") -> str:
    """An expression without surrounding space.

    Raises:
        DataError: no text, or an empty one.
    """
    if not isinstance(value, str):
        raise DataError(f'{where}: "{column}" must be one expression, as text; got {shown(value)}.')
    if not value.strip():
        raise DataError(f'{where}: "{column}" is empty. Write what means the object, or remove the record.')
    if not is_text(value):
        raise DataError(f'{where}: "{column}" holds half a character ({shown(value)}). Save it as UTF-8.')
    return value.strip()


def read_size(width: object, height: object, where: str) -> tuple[int, int]:
    """Width and height that a file gives for a picture.

    Raises:
        DataError: not two whole numbers above 0.
    """
    for value in (width, height):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
            raise DataError(
                f"{where}: a picture's width and height must be pixels; got {shown(width)} x {shown(height)}."
            )
    assert isinstance(width, int)
    assert isinstance(height, int)
    return width, height


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is opened (upright), from its header alone.

    Raises:
        MissingFileError: there is no such file.
        DataError: it isn't a picture.
    """
    with opened(path, str(path)) as image:
        return upright_size(image)
