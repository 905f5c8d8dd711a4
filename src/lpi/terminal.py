"""What reaches a terminal: names are strangers' and may hold anything, and not every terminal knows every letter."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO, cast

_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they make a line read in another order


def plain(text: str) -> str:
    """A text in which whatever a terminal would obey, or couldn't show, is written out.

    >>> plain("red\\x1b[2J boat")
    'red\\\\x1b[2J boat'
    """
    if text.isprintable():
        return text
    return "".join(letter if _harmless(letter) else ascii(letter)[1:-1] for letter in text)


def _harmless(letter: str) -> bool:
    if letter in "\n\t":
        return True
    return unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and ord(letter) not in _TURNING


class PlainStream:
    """A stream that takes only what is :func:`plain`, and never fails for a letter that it doesn't know.

    Attributes:
        behind: the stream itself, for what draws on a terminal.
    """

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        """Write a text; see :func:`plain`."""
        encoding = getattr(self.behind, "encoding", None) or "utf-8"
        return self.behind.write(plain(text).encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def drawing(stream: TextIO) -> TextIO:
    """The stream behind a :class:`PlainStream`, for what draws bars and tables: its texts must be plain already."""
    return stream.behind if isinstance(stream, PlainStream) else stream


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """Makes standard output and error plain for a while."""
    out, err = (cast("TextIO", PlainStream(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
