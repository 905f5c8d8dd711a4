"""How much one request may ask for, and what is said to one that asks for more."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from lpi.data.pictures import open_image, opened
from lpi.errors import DataError, LpiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_HITS = 500
LONGEST_QUERY = 1000  # letters; a model reads far fewer
LONGEST_SHAPE = 10_000  # times as long as it is wide: a line, of which a model sees nothing


class RefusedError(LpiError):
    """A request that isn't answered, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What a person who serves may set.

    Attributes:
        upload_bytes: of a request's body.
        pixels: of a picture to search by, or to learn from.
        lesson_bytes, lesson_files: of everything that is sent to learn one domain from.
        waiting: requests that wait for one kind of work; one more is turned away.
        head_seconds: within which a request's head must be here, or its connection is closed.
        body_seconds: likewise its body.
        connections: at once; for one more, the one that is needed least is closed. ``None`` for as many as the limit
            on open files allows.
    """

    upload_bytes: int = 20 * 1024**2
    pixels: int = 64_000_000
    lesson_bytes: int = 2 * 1024**3
    lesson_files: int = 20_000
    waiting: int = 256
    head_seconds: float = 10.0
    body_seconds: float = 120.0
    connections: int | None = None


class BodyLimit:
    """Counts a request's body as it comes in, whether or not its length was told, and stops at the limit.

    Args:
        app: what it stands before.
        most: bytes.
    """

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"")
        count = int(told) if told.isdigit() else 0
        heard = 0

        async def counted() -> Message:
            nonlocal heard
            if max(count, heard) <= self.most:
                message = await receive()
                heard += len(message.get("body", b""))
                if heard <= self.most:
                    return message
            raise RefusedError(413, f"the body must have at most {self.most:,} bytes. Make the picture smaller.")

        await self.app(scope, counted, send)


def read_picture(content: bytes, *, pixels: int, side: int | None = None) -> Image.Image:
    """A picture that somebody sent, in RGB, upright.

    Args:
        content: the bytes of its file.
        pixels: the most that it may have; a small file may well claim more.
        side: see :func:`lpi.data.pictures.open_image`.

    Raises:
        DataError: it can't be read.
        RefusedError: it is too large, or a mere line.
    """
    if not content:
        raise DataError("the request has no picture. Send its bytes as the body, or as the field 'image' of a form.")
    try:
        with opened(io.BytesIO(content), "what was sent") as image:
            width, height = image.size
    except DataError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise RefusedError(413, f"the picture must have at most {pixels:,} pixels. Make it smaller.") from error
        raise DataError("the picture can't be read. Send a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.") from error
    check_shape(width, height, pixels)
    return open_image(io.BytesIO(content), "what was sent", side)


def check_shape(width: int, height: int, pixels: int, name: str = "the picture") -> None:
    """Refuse a picture of too many pixels, or a mere line.

    Raises:
        RefusedError: it is one.
    """
    if width * height > pixels:
        raise RefusedError(413, f"{name} must have at most {pixels:,} pixels; got {width} x {height}. Make it smaller.")
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        raise RefusedError(
            413,
            f"the length of {name} must be at most {LONGEST_SHAPE:,} times its width; got {width} x {height}. Cut it.",
        )


def said(errors: list[Any], known: dict[str, str]) -> str:
    """The first of pydantic's complaints about a request in one line.

    Args:
        errors: as ``ValidationError.errors()`` gives them.
        known: how a complaint about an unknown name ends, by name.
    """
    first = errors[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return f"there is no parameter {name!r}. {known.get(name, '')}".strip()
    if first["type"] == "missing":
        return f"{name} is missing. See /openapi.json for what is asked for."
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}; got {str(first.get('input'))[:80]!r}."
