"""What a person may give to be encoded: texts and pictures of several kinds, told apart before anything is computed.

A text is a list of letters to Python, and an array of pixels can be read in many ways. What is meant is taken, and
whatever could mean something else is refused: a vector of the wrong thing looks like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lpi.data.pictures import in_colour, naming, upright
from lpi.data.records import FilePicture, Picture
from lpi.errors import ConfigError

PictureLike: TypeAlias = "Image.Image | str | PathLike[str] | Picture | NDArray[np.uint8] | Tensor"
Prepare: TypeAlias = Callable[[Image.Image], NDArray[np.uint8]]

_KINDS = "a PIL picture, a path, uint8 pixels (array [height, width, 3], tensor [3, height, width]), or a list of these"


def given_texts(texts: str | Iterable[str]) -> tuple[list[str], bool]:
    """Texts as a list, and whether a single one was given.

    >>> given_texts("a red boat")
    (['a red boat'], True)

    Raises:
        ConfigError: not a text nor several in their order.
    """
    if isinstance(texts, str):
        texts, single = [texts], True
    elif isinstance(texts, np.ndarray) and texts.ndim != 1:  # of no dimension it can't even be gone through
        raise ConfigError(f"texts must be a text or a list of texts; got an array of {texts.ndim} dimensions.")
    elif isinstance(texts, Iterable) and not isinstance(texts, bytes | bytearray | Mapping | Set | Tensor):
        texts, single = list(texts), False
    else:
        raise ConfigError(f"texts must be a text or a list of texts; got {_kind(texts)}.")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"texts must be a text or a list of texts; got {_kind(text)} at place {place}.")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"texts must be whole characters; got half of one at place {place}: {ascii(text)[:80]}.")
    return texts, single


def given_pixels(
    images: PictureLike | Iterable[PictureLike], prepare: Prepare, size: tuple[int, int]
) -> tuple[Tensor, bool]:
    """Pictures as a backbone sees them, and whether a single one was given.

    Args:
        images: a picture or several: opened by PIL, a path, a record's picture, uint8 pixels as an array
            [height, width, 3] or a tensor [3, height, width]; or pixels of a batch, as an array
            [images, height, width, 3] or a tensor [images, 3, height, width].
        prepare: makes pixels of the backbone's size from a picture.
        size: height and width of these. A tensor of this size is what ``prepare`` gave, and stays as it is.

    Returns:
        [images, 3, height, width] uint8.

    Raises:
        ConfigError: these are no pictures, or could be read in several ways.
        DataError, MissingFileError: a file can't be read as a picture.
    """
    if isinstance(images, Tensor) and images.dim() == 4:
        _check_pixels(images, images.dtype == torch.uint8, images.shape[1], images.shape[2:])
        if tuple(images.shape[2:]) == size:
            return images, False
        images = list(images)
    elif isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    elif _is_one(images):
        return _one(images, prepare, size)[None], True
    elif not isinstance(images, Iterable) or isinstance(images, bytes | bytearray | memoryview | Mapping | Set):
        raise ConfigError(f"images must be {_KINDS}; got {_kind(images)}.")
    ready = [_one(image, prepare, size).cpu() for image in images]
    return (torch.stack(ready) if ready else torch.empty(0, 3, *size, dtype=torch.uint8)), False


def _is_one(image: object) -> TypeGuard[PictureLike]:
    return isinstance(image, Image.Image | str | PathLike | Picture | np.ndarray | Tensor)


def given_picture(image: PictureLike, side: int | None = None) -> Image.Image:
    """One picture as PIL has it, in RGB, upright, cut-outs on white.

    Args:
        image: see :func:`given_pixels`.
        side: see :meth:`lpi.data.records.Picture.open`.

    Raises:
        ConfigError: it is no picture, or could be read in several ways.
        DataError, MissingFileError: a file can't be read as a picture.
    """
    if isinstance(image, str | PathLike):
        path = Path(image)
        return FilePicture(path, str(path)).open(side)
    if isinstance(image, Tensor):
        right = image.dim() == 3
        _check_pixels(image, right and image.dtype == torch.uint8, image.shape[0] if right else 0, image.shape[1:])
        return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())
    if isinstance(image, np.ndarray):
        right = image.ndim == 3
        _check_pixels(image, right and image.dtype == np.uint8, image.shape[-1] if right else 0, image.shape[:2])
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        with naming(str(getattr(image, "filename", "") or "a picture that was given")):  # only now is it decoded
            if not all(image.size):
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            image.load()
            return in_colour(upright(image))
    if isinstance(image, Picture):
        return image.open(side)
    raise ConfigError(f"images must be {_KINDS}; got {_kind(image)} for one of them.")


def _one(image: PictureLike, prepare: Prepare, size: tuple[int, int]) -> Tensor:
    """One picture, [3, height, width] uint8."""
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.shape == (3, *size):
        return image
    return torch.tensor(prepare(given_picture(image, min(size)))).permute(2, 0, 1)


def _check_pixels(pixels: Any, right: bool, channels: int, size: Sequence[int]) -> None:
    """Refuse pixels that aren't bytes of three channels where they belong.

    Raises:
        ConfigError: they aren't.
    """
    if right and channels == 3 and all(size):
        return
    tensor = isinstance(pixels, Tensor)
    kind = str(pixels.dtype).removeprefix("torch.")
    wanted = "[images, 3, height, width] or [3, height, width]" if tensor else "[height, width, 3]"
    raise ConfigError(
        f"pixels must be uint8 {wanted}, 0 to 255 and not normalised; got {kind} {list(pixels.shape)}. "
        "Convert them, or give PIL pictures."
    )


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
