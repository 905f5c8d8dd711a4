"""Draws boxes with their labels on a picture, so that a person can judge them at a glance, also on a small one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image, ImageDraw, ImageFont

from lpi.data.expressions.record import Box
from lpi.errors import ConfigError, DataError, did_you_mean

Kind = Literal["true", "predicted", "other"]

# Told apart by everybody who sees colours differently, and by how they are drawn: the true box's line is broken.
_COLOURS: dict[str, tuple[int, int, int]] = {"true": (0, 158, 115), "predicted": (213, 94, 0), "other": (0, 114, 178)}
_PAPER, _INK = (255, 255, 255), (24, 24, 28)
_Rectangle = tuple[float, float, float, float]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box to be drawn: left, top, right, bottom in pixels of the picture, its label, and what it is.

    ``true`` is drawn with a broken green line, ``predicted`` with a full orange one, ``other`` with a thin blue one.
    """

    box: Box
    label: str = ""
    kind: Kind = "predicted"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"No drawn box is called {self.kind!r}. {did_you_mean(str(self.kind), get_args(Kind))}")
        if not (self.box[0] <= self.box[2] and self.box[1] <= self.box[3]):  # NaN compares with nothing
            raise DataError(f"A drawn box must be left, top, right, bottom in rising order; got {list(self.box)}.")


def draw_boxes(
    image: Image.Image, boxes: Sequence[DrawnBox], *, caption: str = "", least_side: int = 360
) -> Image.Image:
    """A copy of a picture with boxes on it, the first on top, and a caption below.

    A small picture is enlarged, so that labels stay readable beside it. Labels don't cover each other while there is
    room, nor ever leave the picture.

    Args:
        image: any picture.
        boxes: in the pixels of ``image``, the most important first.
        caption: such as the expression; wrapped into as many lines as it needs.
        least_side: the shorter side of what is drawn on, in pixels.

    Returns:
        RGB.

    Raises:
        ConfigError: ``least_side`` is below 1.
    """
    if least_side < 1:
        raise ConfigError(f"least_side must be at least 1; got {least_side}.")
    factor = max(1.0, least_side / min(image.size))
    canvas = image.convert("RGB")
    if factor > 1.0:
        size = (round(image.width * factor), round(image.height * factor))
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    text_size = max(13, round(min(canvas.size) / 28))
    font = ImageFont.load_default(text_size)
    draw = ImageDraw.Draw(canvas)
    scaled = [_scaled(one.box, factor, canvas.size) for one in boxes]
    line = max(2, round(min(canvas.size) / 160))
    for one, box in reversed(list(zip(boxes, scaled, strict=True))):
        _draw_edges(draw, box, one.kind, line)
    taken: list[_Rectangle] = []
    for one, box in zip(boxes, scaled, strict=True):
        if one.label:
            taken.append(_draw_label(draw, one, box, font=font, size=canvas.size, line=line, taken=taken))
    return _captioned(canvas, caption, text_size) if caption else canvas


def _scaled(box: Box, factor: float, size: tuple[int, int]) -> _Rectangle:
    """The box on the canvas, cut at its edges."""
    width, height = size[0] - 1, size[1] - 1
    left, top, right, bottom = (edge * factor for edge in box)
    return min(max(left, 0), width), min(max(top, 0), height), min(max(right, 0), width), min(max(bottom, 0), height)


def _draw_edges(draw: ImageDraw.ImageDraw, box: _Rectangle, kind: Kind, line: int) -> None:
    """A box's four edges, on a wider white line so that they show on any ground."""
    width = max(1, line // 2) if kind == "other" else line
    left, top, right, bottom = box
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_PAPER, width=width + 2)
    if kind != "true":
        draw.rectangle(box, outline=_COLOURS[kind], width=width)
        return
    dash = 4 * line
    half = line / 2
    for start in range(int(left), int(right) + 1, 2 * dash):
        for y in (top + half, bottom - half):
            draw.line((start, y, min(start + dash, right), y), fill=_COLOURS[kind], width=line)
    for start in range(int(top), int(bottom) + 1, 2 * dash):
        for x in (left + half, right - half):
            draw.line((x, start, x, min(start + dash, bottom)), fill=_COLOURS[kind], width=line)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    one: DrawnBox,
    box: _Rectangle,
    *,
    font: _Font,
    size: tuple[int, int],
    line: int,
    taken: Sequence[_Rectangle],
) -> _Rectangle:
    """Writes a label by its box, where no other is if there is such a place; returns where it stands."""
    pad = max(2, line)
    text = _fitting(one.label, font, size[0] - 2 * pad)
    wide, tall = font.getbbox(text)[2] + 2 * pad, sum(font.getbbox("Åg")[1::2]) + pad
    left, top, right, bottom = box
    wanted = [(left, top - tall), (left, bottom), (left, top), (right - wide, bottom - tall), (right - wide, top)]
    wanted += [(left, top + step * tall) for step in (-2, 1, 2, 3)]
    places = [(min(max(x, 0), max(size[0] - wide, 0)), min(max(y, 0), max(size[1] - tall, 0))) for x, y in wanted]
    rectangles = [(x, y, x + wide, y + tall) for x, y in places]
    free = [place for place in rectangles if not any(_meet(place, other) for other in taken)]
    chosen = (free or rectangles)[0]
    draw.rectangle(chosen, fill=_COLOURS[one.kind], outline=_PAPER)
    draw.text((chosen[0] + pad, chosen[1] + pad / 2), text, fill=_PAPER, font=font)
    return chosen


def _fitting(text: str, font: _Font, room: float) -> str:
    """The text, or as much of its start as fits, with two dots."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}..") > room:
        text = text[:-1]
    return f"{text}.."


def _meet(first: _Rectangle, second: _Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _captioned(image: Image.Image, caption: str, text_size: int) -> Image.Image:
    """The picture on a strip of paper that says the caption."""
    font = ImageFont.load_default(text_size)
    pad = text_size // 2
    lines: list[str] = []
    for word in caption.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= image.width - 2 * pad:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    step = round(1.35 * text_size)
    page = Image.new("RGB", (image.width, image.height + step * len(lines) + pad), _PAPER)
    page.paste(image)
    draw = ImageDraw.Draw(page)
    for number, words in enumerate(lines):
        place = (pad, image.height + pad / 2 + number * step)
        draw.text(place, _fitting(words, font, image.width - 2 * pad), fill=_INK, font=font)
    return page
