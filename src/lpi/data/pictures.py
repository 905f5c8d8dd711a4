"""The one door by which pictures come in: files, uploads and what larger files hold; everything else asks here.

Only formats of one list are opened, decided by content. Whatever goes wrong with a picture is that picture's problem:
one line that names it, never an error of the decoder's own, which nobody could foresee.
"""

import importlib
import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from lpi.errors import DataError, LpiError, MissingFileError

# What browsers show and cameras write, with the suffixes by which a folder is looked through. Others are left out: a
# decoder that nobody needs is one more to attack, and some start a program (EPS) or know their files by no mark (TGA).
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "JPEG2000": (".jp2",),
    "ICO": (".ico",),
}
# Pictures that aren't read are found all the same, so that each is skipped by name and not overlooked.
SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes} | {".heic", ".heif", ".jxl", ".tga"}

DECODERS = {
    "HEIC": ("pillow-heif", "register_heif_opener"),
    "AVIF": ("pillow-avif-plugin", ""),
    "JPEG XL": ("pillow-jxl", ""),
}
"""Formats that Pillow doesn't know by itself: the package that does, and what it is told by."""
LARGEST_PROFILE = 4 * 1024**2
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, scanners and microscopes give
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND = 1 << 22
"""Pixels that are worked on at once where a whole picture would need several copies of itself."""
_LONGEST_REASON = 160


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Whatever is raised inside becomes one line that names the picture.

    Args:
        where: names it.

    Raises:
        DataError: a decoder raised something, whatever it was; errors of this library pass as they are.
        MissingFileError: there is no such file.
    """
    try:
        yield
    except LpiError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{where}: there is no such picture. Check its name.") from error
    except PermissionError as error:
        raise DataError(
            f"{where}: the picture can't be read (permission denied). Allow reading it, or leave it out."
        ) from error
    except Exception as error:  # decoders raise anything: struct.error, AttributeError, KeyError, MemoryError ..
        raise DataError(f"{where}: the picture can't be read ({_reason(error)}). Replace or remove it.") from error


def _reason(error: Exception) -> str:
    """What a decoder complains of, in a few words of one line."""
    if isinstance(error, UnidentifiedImageError):  # its own words repeat the name
        return f"its content is none of {', '.join(FORMATS)}"
    if isinstance(error, MemoryError):
        return "there isn't enough memory for it"
    words = str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)
    plain = "".join(letter if letter.isprintable() else " " for letter in words[: 4 * _LONGEST_REASON])
    short = " ".join(plain.split())
    if len(short) > _LONGEST_REASON:
        short = f"{short[:_LONGEST_REASON].rstrip()} .."
    known = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError | Warning)
    if short and known:
        return short
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


class NotAFileError(OSError):
    """What lies there is a folder, a pipe, a socket or a device."""


def check_regular(path: Path) -> os.stat_result:
    """Refuse what isn't a file of bytes, before it is opened: a pipe would be waited for, a device may do anything.

    Returns:
        Its status.

    Raises:
        NotAFileError: it is something else.
        OSError: it isn't there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise NotAFileError(f"it is {kind}, not a file")
    return status


@contextmanager
def opened(source: Path | BinaryIO, where: str) -> Iterator[Image.Image]:
    """A picture whose header has been read and whose pixels haven't.

    Args:
        source: the file, or what holds its bytes.
        where: names it in messages.

    Raises:
        DataError: it isn't a picture of a known format, or what is done with it inside the block fails.
        MissingFileError: there is no such file.
    """
    with naming(where):
        if isinstance(source, Path):
            check_regular(source)
        try:
            image = Image.open(source, formats=_formats())
        except UnidentifiedImageError as error:
            if (known := _undecoded(source)) is None:
                raise
            kind, package = known
            raise DataError(
                f"{where}: this is {kind}, for which no decoder is installed. Convert it, or install one: "
                f"pip install {package}"
            ) from error
        with image:
            yield image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    for package, register in DECODERS.values():
        with suppress(Exception):  # not installed, or not for this Pillow
            module = importlib.import_module(package.replace("-", "_"))
            if register:  # the others do it as they are imported
                getattr(module, register)()
    return tuple(name for name in (*FORMATS, "HEIF", "JXL") if name in Image.OPEN)  # an older Pillow has no AVIF


def _undecoded(source: Path | BinaryIO) -> tuple[str, str] | None:
    """The name of a format that is known but can't be decoded here, and the package that could, by its first bytes."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(32)
    else:
        source.seek(0)
        head = source.read(32)
    kind = None
    if head[4:8] == b"ftyp":
        brands = {"AVIF": (b"avi",), "HEIC": (b"hei", b"hev", b"mif1", b"msf1")}
        kind = next((name for name, marks in brands.items() if any(mark in head for mark in marks)), None)
    elif head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        kind = "JPEG XL"
    if kind is None or (kind == "AVIF" and "AVIF" in _formats()):
        return None
    return kind, DECODERS[kind][0]


def open_image(source: Path | BinaryIO, where: str, side: int | None) -> Image.Image:
    """A picture from a file or from bytes, in RGB, upright, cut-outs on white, more than 8 bits brought to 8.

    Args:
        source: what holds it.
        where: names it in messages.
        side: see :meth:`lpi.data.records.Picture.open`.

    Raises:
        DataError: it is broken.
        MissingFileError: there is no such file.
    """
    with opened(source, where) as image:
        if side is not None:  # only JPEG obeys: decoding at 1/2, 1/4 or 1/8 is several times faster
            image.draft("RGB", (2 * side, 2 * side))
        image.load()
        ready = in_colour(upright(image))
        ready = ready.copy() if ready is image else ready  # its own pixels, without the file behind them
        ready.info.clear()  # what the file said of itself is done: nobody shall turn the picture a second time
        return ready


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its camera's note says; one whose note can't be read stays as it is."""
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for note in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        turned.info.pop(note, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an :func:`opened` picture once it is upright; its pixels aren't needed."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # its size is that after turning in some versions of Pillow, not in others
        width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged note must not make a fine picture unreadable
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def in_colour(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB, cut-outs on white, more than 8 bits brought to 8 by :func:`eight_bits`.

    Returns:
        The very same picture where nothing is to be done.
    """
    if image.mode in DEEP_MODES:
        clear = image.info.get("transparency")
        grey = eight_bits(np.asarray(image))
        if clear is not None:  # the one shade that is meant to be seen through
            grey = np.where(np.asarray(image) == clear, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")
    image = in_srgb(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    ready = Image.new("RGB", image.size)
    rows = max(1, _BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        band = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
        # cut-outs are made to be seen on white, not on black
        ready.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), (0, top))
    return ready


def in_srgb(image: Image.Image) -> Image.Image:
    """A picture in the colours that screens show, where it brings a profile of others (a camera's, a printer's).

    Returns:
        The very same picture where it brings none, or one that is damaged: better other shades than no picture.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or len(profile) > LARGEST_PROFILE:
        return image
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(theirs):
            return image
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        flat = image if image.mode in ("RGB", "L", "CMYK", "LAB") else image.convert("RGB")
        ready = ImageCms.profileToProfile(flat, theirs, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    if ready is None:
        return image
    if alpha is not None:
        ready.putalpha(alpha)
    return ready


def eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits as bytes, so that a picture shows what it shows elsewhere.

    Whole numbers from 0 to 65,535 are scaled by the smallest depth that holds them all (8, 10, 12, 14 or 16 bits):
    a camera's 12 bits lie in a file of 16, and would be nearly black by the file's own range. Floats within 0..1 are
    scaled to 0..255, and within 0..255 are taken as they are. Whatever else, negative numbers too, is scaled from its
    least to its greatest value. NaN is shown as the least value, infinity as the nearest finite one.

    Args:
        values: [height, width], integers or floats.

    Returns:
        [height, width] uint8.

    Raises:
        ValueError: no value is a finite number.
    """
    floats = np.issubdtype(values.dtype, np.floating)
    rows = max(1, _BAND // max(1, values.shape[1]))
    bands = [values[top : top + rows] for top in range(0, len(values), rows)]
    low, high = math.inf, -math.inf
    for band in bands:
        known = band[np.isfinite(band)] if floats else band
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
    if low > high:
        raise ValueError("none of its values is a finite number")
    start, end = _range(low, high, floats=floats)
    ready = np.empty(values.shape, dtype=np.uint8)
    for place, band in enumerate(bands):
        exact = np.clip(np.nan_to_num(band.astype(np.float64), nan=low, posinf=high, neginf=low), low, high)
        ready[place * rows : place * rows + len(band)] = np.rint((exact - start) * (255 / (end - start)))
    return ready


def _range(low: float, high: float, *, floats: bool) -> tuple[float, float]:
    """What becomes 0 and what becomes 255."""
    if floats and low >= 0 and high <= 255:
        return 0, (1 if high <= 1 else 255)
    fitting = [2**bits - 1 for bits in DEPTHS if high <= 2**bits - 1]
    if not floats and low >= 0 and fitting:
        return 0, fitting[0]
    if low == high:  # one shade: neither white nor black
        return low - 1, low + 1
    return low, high
