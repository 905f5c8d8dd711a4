"""A contact sheet: pictures with a caption underneath, for a person to look at."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lpi.data.records import CaptionedImage
from lpi.errors import ConfigError

_MARGIN = 8
_LINE = 13
_LINES = 4


def contact_sheet(
    records: Sequence[CaptionedImage], *, columns: int = 8, side: int = 144, captions: bool = True
) -> Image.Image:
    """The pictures in rows of ``columns``, each ``side`` pixels wide, its first caption wrapped below it.

    Raises:
        ConfigError: no records, or no columns.
    """
    if not records or columns < 1:
        raise ConfigError(f"A contact sheet needs records and columns; got {len(records)} and {columns}.")
    rows = -(-len(records) // columns)
    cell_height = side + _MARGIN + (_LINES * _LINE + 6 if captions else 0)
    sheet = Image.new("RGB", (columns * (side + _MARGIN) + _MARGIN, rows * cell_height + _MARGIN), (252, 251, 248))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10.5)
    for place, record in enumerate(records):
        x = _MARGIN + (place % columns) * (side + _MARGIN)
        y = _MARGIN + (place // columns) * cell_height
        sheet.paste(_square(record.picture.open(side), side), (x, y))
        if captions:
            for row, line in enumerate(textwrap.wrap(record.captions[0], width=max(8, int(side / 5.4)))[:_LINES]):
                draw.text((x, y + side + 4 + row * _LINE), line, fill=(50, 50, 58), font=font)
    return sheet


def _square(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    fitted = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = Image.new("RGB", (side, side), (240, 239, 235))
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return square
