"""The one door for pictures: what comes in, how it looks then, and that one bad picture is one line that names it."""

import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms, JpegImagePlugin

import lpi
from lpi.data import pictures
from lpi.data.expressions.record import picture_size
from lpi.data.pictures import FORMATS, SUFFIXES, eight_bits, in_colour, open_image
from lpi.data.records import FilePicture
from lpi.errors import DataError, LpiError, MissingFileError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n"
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(path: Path, size: tuple[int, int] = (20, 10), **options: Any) -> Path:
    Image.new("RGB", size, "teal").save(path, **options)
    return path


def opened(path: Path, side: int | None = None) -> Image.Image:
    return FilePicture(path, path.name).open(side)


def note(kind: int, value: bytes) -> bytes:
    """EXIF with an orientation of any type, its four bytes as given."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI", 1, 0x0112, kind, 1) + value + b"\0\0\0\0"


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_pictures_are_opened_in_one_place_only() -> None:
    source = Path(lpi.__file__).parent
    places = [file.name for file in source.rglob("*.py") if re.search(r"Image\.open\(", file.read_text("utf-8"))]
    assert places == ["pictures.py"]


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack requires 4 bytes"),
        AttributeError("'NoneType' object has no attribute 'x'"),
        TypeError("an integer is required"),
        KeyError(274),
        IndexError("out of range"),
        RuntimeError("Failed to decode image"),
        MemoryError(),
        zlib.error("Error -3 while decompressing data"),
        Image.DecompressionBombError("too many pixels"),
        Image.DecompressionBombWarning("many pixels"),
        OverflowError("int too large"),
        RecursionError("maximum recursion depth exceeded"),
        AssertionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        EOFError(),
        ValueError("first line\nsecond line\x1b[2J " + 5000 * "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_is_one_line_that_names_the_picture(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    path = saved(tmp_path / "boat.jpg")
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", fails)
    with pytest.raises(
        DataError, match=r"boat\.jpg: the picture can't be read \(\S.*\)\. Replace or remove it"
    ) as said:
        opened(path)
    assert str(said.value).isprintable()
    assert len(str(said.value)) < len(str(path)) + 300


def test_a_picture_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "boat.jpg")

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(DataError, match=r"boat\.jpg: the picture can't be read \(permission denied\)\. Allow"):
        opened(saved(tmp_path / "boat.jpg"))


@pytest.mark.parametrize("content", [POSTSCRIPT, b"BLP2" + bytes(200), b"DDS " + bytes(200), b"8BPS\0\1" + bytes(99)])
def test_a_name_does_not_decide_what_decodes_a_picture_and_no_program_is_started(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: the picture can't be read \(its content is none of JPEG, PNG,"):
        opened(path)
    with pytest.raises(DataError, match=r"x\.jpg: the picture can't be read \(its content"):
        picture_size(path)


def test_a_pipe_a_folder_and_a_device_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to(os.devnull)
    for name, kind in (
        ("pipe.jpg", "a pipe"),
        ("folder.jpg", "a folder"),
        ("device.jpg", "a pipe, a socket or a device"),
    ):
        for use in (opened, picture_size):
            with pytest.raises(DataError, match=rf"{name}: the picture can't be read \(it is {kind}"):
                use(tmp_path / name)
    with pytest.raises(MissingFileError, match=r"dot\.jpg: there is no such picture"):
        opened(saved(tmp_path / "a.jpg") / "dot.jpg")


def test_a_file_is_found_by_the_suffixes_of_the_formats_that_are_read() -> None:
    assert {suffix for suffixes in FORMATS.values() for suffix in suffixes} <= SUFFIXES
    assert "EPS" not in FORMATS
    assert ".heic" in SUFFIXES, "what can't be read is skipped by name, not overlooked"


# ---- how it looks ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # a decoder's own doubts about such a note
@pytest.mark.parametrize("exif", [note(2, b"6\0\0\0"), note(12, b"\xff\xff\0\0"), note(3, b"\x63\0\0\0")])
def test_a_fine_picture_with_a_damaged_note_is_shown_as_it_lies(exif: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path / "odd.jpg", exif=exif)
    assert opened(path).size == picture_size(path) == (20, 10)


@pytest.mark.parametrize("error", [struct.error("short"), AttributeError("x"), TypeError("x")])
def test_a_note_that_cannot_be_read_leaves_the_picture(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    path = saved(tmp_path / "odd.webp")
    monkeypatch.setattr(Image.Image, "getexif", fails)
    assert opened(path).size == picture_size(path) == (20, 10)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_a_picture_is_upright_once_and_its_size_is_known_before(turned: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    path = saved(tmp_path / f"side.{kind}", exif=exif)
    expected = (10, 20) if turned >= 5 else (20, 10)
    shown = opened(path)
    assert shown.size == picture_size(path) == expected
    assert pictures.upright(shown) is shown


def deep(mode: str) -> Image.Image:
    """The same ramp of 256 shades in a mode of more bits."""
    values: dict[str, Any] = {
        "I;16": RAMP.astype(np.uint16) * 257,
        "I;16B": (RAMP.astype(np.uint16) * 257).astype(">u2"),
        "I": RAMP.astype(np.int32) * 257,
        "F": RAMP.astype(np.float32) / 255,
    }
    return Image.fromarray(values[mode])


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_more_than_eight_bits_show_what_eight_show(mode: str, tmp_path: Path) -> None:
    picture = deep(mode)
    for suffix in ("tif",) if mode in ("F", "I") else ("png", "tif"):
        picture.save(tmp_path / f"deep.{suffix}")
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / f"deep.{suffix}"))[..., 1], RAMP)
    np.testing.assert_array_equal(np.asarray(in_colour(picture))[..., 0], RAMP)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 128, 255], "uint16", [0, 128, 255]),  # eight bits in a larger file
        ([0, 1023], "uint16", [0, 255]),
        ([0, 2048, 4095], "uint16", [0, 128, 255]),  # a camera's twelve bits
        ([0, 16383], "uint16", [0, 255]),
        ([0, 257, 65535], "uint16", [0, 1, 255]),
        ([0, 257, 65535], "int32", [0, 1, 255]),
        ([0, 100_000], "int32", [0, 255]),
        ([-1000, 0, 1000], "int32", [0, 128, 255]),  # Hounsfield units
        ([-(2**31), 2**31 - 1], "int32", [0, 255]),
        ([0, 0.5, 1], "float32", [0, 128, 255]),
        ([0, 100.4, 200], "float32", [0, 100, 200]),
        ([-1, 0, 1], "float32", [0, 128, 255]),
        ([0, 500, 1000], "float32", [0, 128, 255]),
        ([np.nan, 0, np.inf, 1, -np.inf], "float32", [0, 0, 255, 255, 0]),
        ([7e4, 7e4], "float32", [128, 128]),
        ([0, 0], "uint16", [0, 0]),
    ],
)
def test_grey_values_are_scaled_by_their_range(values: list[float], kind: str, expected: list[int]) -> None:
    assert eight_bits(np.array([values], dtype=kind))[0].tolist() == expected


def test_a_picture_without_any_finite_value_is_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), np.nan, dtype=np.float32)).save(tmp_path / "nothing.tif")
    with pytest.raises(DataError, match=r"nothing\.tif: .*none of its values is a finite number"):
        opened(tmp_path / "nothing.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA", "P"])
def test_cut_outs_of_every_kind_are_seen_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    if mode == "P":
        picture = Image.new("P", (4, 4), 1)
        picture.info["transparency"] = 1
    elif mode in ("La", "LA", "PA"):
        picture = clear.convert("LA") if mode != "PA" else Image.new("PA", (4, 4))
        picture = picture.convert("La") if mode == "La" else picture
    else:
        picture = clear.convert(mode)
    assert in_colour(picture).getpixel((1, 1)) == (255, 255, 255)


def test_a_shade_of_sixteen_bits_that_is_clear_is_seen_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535, 300]], dtype=np.uint16)).save(tmp_path / "c.png", transparency=300)
    assert np.asarray(opened(tmp_path / "c.png"))[0, :, 0].tolist() == [0, 255, 255]


def test_a_large_cut_out_is_laid_on_white_in_bands_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    whole = np.asarray(in_colour(Image.fromarray(noise)))
    monkeypatch.setattr(pictures, "_BAND", 50)
    np.testing.assert_array_equal(np.asarray(in_colour(Image.fromarray(noise))), whole)
    grey = (RAMP.astype(np.uint16) * 257).repeat(3, axis=1)
    np.testing.assert_array_equal(eight_bits(grey), RAMP.repeat(3, axis=1))


def test_print_colours_and_bytes_in_memory_come_in_by_the_same_door() -> None:
    content = io.BytesIO()
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(content, "JPEG", quality=100)
    red, green, blue = open_image(io.BytesIO(content.getvalue()), "what was sent", None).getpixel((4, 4))
    assert (red < 10, green > 245, blue > 245) == (True, True, True)
    with pytest.raises(LpiError, match=r"what was sent: the picture can't be read"):
        open_image(io.BytesIO(content.getvalue()[:100]), "what was sent", None)


# Colours --------------------------------------------------------------------------------------------------------------


def held_as(image: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    held = io.BytesIO()
    image.save(held, kind, **options)
    held.seek(0)
    return held


def test_a_picture_in_colours_of_another_profile_is_shown_in_those_of_screens() -> None:
    """A profile that is nothing but another white, which any difference shows."""
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (200, 30, 60)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert image is not None
    image.info["icc_profile"] = other
    red, green, blue = in_colour(image).getpixel((0, 0))
    assert abs(red - 200) + abs(green - 30) + abs(blue - 60) < 12


@pytest.mark.parametrize("profile", [b"", b"nonsense", b"\0" * 128, b"x" * (5 * 1024**2)])
def test_a_damaged_profile_makes_no_picture_unreadable(profile: bytes) -> None:
    image = Image.new("RGB", (4, 4), (200, 30, 60))
    image.info["icc_profile"] = profile
    assert in_colour(image).getpixel((0, 0)) == (200, 30, 60)


def test_an_srgb_profile_changes_no_shade() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    held = held_as(Image.new("RGB", (4, 4), (200, 30, 60)), "PNG", icc_profile=profile)
    assert open_image(held, "x", None).getpixel((0, 0)) == (200, 30, 60)


def test_printers_colours_come_out_as_screens(tmp_path: Path) -> None:
    held = held_as(Image.new("RGB", (16, 16), (250, 20, 20)).convert("CMYK"), "JPEG", quality=95)
    red, green, blue = open_image(held, "x", None).getpixel((8, 8))
    assert red > 200 > 80 > max(green, blue)


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    held = held_as(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(held, "x", None).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("head", "kind", "package"),
    [(b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC", "pillow-heif"), (b"\xff\x0a" + b"\0" * 40, "JPEG XL", "pillow-jxl")],
)
def test_a_format_without_a_decoder_is_named_with_what_would_help(head: bytes, kind: str, package: str) -> None:
    with pytest.raises(
        DataError, match=f"x: this is {kind}, for which no decoder is installed.* pip install {package}"
    ):
        open_image(io.BytesIO(head), "x", None)
