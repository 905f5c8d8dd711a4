"""What a data source hands on: captioned pictures, expressions with boxes, and the card of a data set."""

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from PIL import Image, ImageOps, UnidentifiedImageError

from lpi.errors import DataError, MissingFileError

SPLITS = ("train", "val", "test", "held_out")


@runtime_checkable
class Picture(Protocol):
    """Something that can be opened as a picture: a file, or a scene that is drawn on demand."""

    @property
    def name(self) -> str:
        """Identifies the picture within its source, for messages, reports and duplicates."""

    def open(self, side: int | None = None) -> Image.Image:
        """The picture in RGB, upright.

        Args:
            side: the shortest side in pixels that the caller will resize to; lets a JPEG be decoded at a
                smaller scale and a scene be drawn at that size. ``None`` gives the full size.

        Raises:
            DataError: the file is broken; the message names it.
            MissingFileError: there is no such file.
        """


def open_image(source: Path | BinaryIO, where: str, side: int | None) -> Image.Image:
    """A picture from a file or from bytes, in RGB, upright, cut-outs on white.

    Args:
        source: what holds it.
        where: names it in messages.
        side: see :meth:`Picture.open`.

    Raises:
        DataError: it is broken.
        MissingFileError: there is no such file.
    """
    try:
        with Image.open(source) as image:
            if side is not None:  # only JPEG obeys: decoding at 1/2, 1/4 or 1/8 is several times faster
                image.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(image)
            if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA"):
                rgba = upright.convert("RGBA")  # cut-outs are made to be seen on white, not on black
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return upright.convert("RGB")
    except FileNotFoundError as error:
        raise MissingFileError(f"{where}: there is no such picture. Check the name in the captions file.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the picture can't be read ({error}). Replace or remove it.") from error


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture in a file."""

    path: Path
    name: str

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`Picture`."""
        if not os.path.isfile(self.path) and os.path.exists(self.path):  # opening a pipe would wait for ever
            raise DataError(f"{self.path}: no file but a folder, a pipe, a socket or a device. Replace or remove it.")
        return open_image(self.path, str(self.path), side)


@dataclass(frozen=True, slots=True)
class Referral:
    """An expression and the object it means: box (left, top, right, bottom) in pixels of the opened picture."""

    phrase: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A picture and the captions that people (or a grammar) wrote for it."""

    picture: Picture
    captions: tuple[str, ...]
    task: str = ""
    split: str = "train"
    fields: Mapping[str, str] = field(default_factory=dict)
    referrals: tuple[Referral, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """What a person must know of a data set before using it."""

    name: str
    source: str
    licence: str
    groups: str
    files: Mapping[str, str] = field(default_factory=dict)


class _PunctuationTable(dict[int, int]):
    """Maps punctuation and control characters to a space, one character at a time as they are met.

    Letters, marks and symbols stay: dropping everything that isn't a letter would make all emoji captions equal
    and take the vowel signs from Hindi or Thai.
    """

    def __missing__(self, code: int) -> int:
        self[code] = ord(" ") if unicodedata.category(chr(code))[0] in "PZC" else code
        return self[code]


_PUNCTUATION = _PunctuationTable()


def normal_caption(text: str) -> str:
    """A caption as it is compared with others: without case, punctuation and extra space.

    A caption of punctuation only is compared as it stands.

    >>> normal_caption("A red  boat, at sea.")
    'a red boat at sea'
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION).split())
    return folded or text.strip()
