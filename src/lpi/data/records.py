"""What a data source hands on: captioned pictures, expressions with boxes, and the card of a data set."""

import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from lpi.data.pictures import open_image

SPLITS = ("train", "val", "test", "held_out")
OPENED_SIDE = 64
"""Pictures are decoded towards this side to see that they are whole: a JPEG then costs a fraction of its full size."""


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


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture in a file."""

    path: Path
    name: str

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`Picture`."""
        return open_image(self.path, str(self.path), side)


def require_readable(pictures: Iterable[Picture], *, workers: int = 4) -> None:
    """Open every picture that is a file once, so that a broken one is named before hours are spent on the others.

    Args:
        pictures: of any kind; drawn ones can't be broken, and one file is opened once.
        workers: threads that open them.

    Raises:
        DataError, MissingFileError: of the first in their order that can't be opened.
    """
    files = dict.fromkeys(picture for picture in pictures if isinstance(picture, FilePicture))

    def attempt(picture: FilePicture) -> None:
        picture.open(OPENED_SIDE)

    with ThreadPoolExecutor(workers, thread_name_prefix="open") as pool:
        jobs = [pool.submit(attempt, picture) for picture in files]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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
