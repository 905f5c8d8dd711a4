"""What a person may give to be encoded: every call has the right outcome, or one line that says what is wanted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Painted
from PIL import Image

import lpi
from lpi.backbones import DualEncoder
from lpi.backbones.given import given_picture, given_pixels, given_texts
from lpi.errors import ConfigError, DataError, LpiError, MissingFileError, UnknownNameError
from lpi.methods.base import Method
from lpi.methods.encoder import route_images, route_texts

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def method(clip: DualEncoder) -> Method:
    return lpi.method("zero_shot", clip)


@pytest.fixture(scope="module")
def routed(clip: DualEncoder, learn: Callable[..., Method], stream: Any, small: dict[str, Any]) -> Method:
    return learn(lpi.method("lpi", clip, **small), stream.tasks[:2])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "noise.png"
    Image.fromarray(NOISE).save(path)
    return path


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_a_text_is_one_vector_and_a_list_one_each(method: Method, routed: Method) -> None:
    for model in (method, routed):
        several = model.encode_texts(["a red dot", "a box"])
        assert several.shape == (2, model.backbone.feature_width)
        one = model.encode_texts("a red dot")
        assert one.shape == (model.backbone.feature_width,)
        torch.testing.assert_close(one, model.encode_texts(["a red dot"])[0])
        for same in (("a red dot", "a box"), np.array(["a red dot", "a box"]), (t for t in ["a red dot", "a box"])):
            torch.testing.assert_close(model.encode_texts(same), several)  # type: ignore[arg-type]
    assert routed.encode_texts("a dot", task="cold").ndim == 1
    with pytest.raises(UnknownNameError, match="No task is called 3"):
        routed.encode_texts("a dot", task=3)  # type: ignore[arg-type]
    assert route_texts(routed, "a dot").routes.shape[0] == 1
    assert method.encode_texts([]).shape == (0, method.backbone.feature_width)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (None, "got None"),
        (7, "got int"),
        (b"a dot", "got bytes"),
        ({"a": 1}, "got dict"),
        ({"a", "b"}, "got set"),
        (["a dot", None], "got None at place 1"),
        (["a dot", 3], "got int at place 1"),
        ([["a dot"]], "got list at place 0"),
        ([b"a dot"], "got bytes at place 0"),
        (np.array("a dot"), "an array of 0 dimensions"),
        (["half \udcff"], "half of one at place 0"),
    ],
)
def test_what_is_no_text_is_one_clear_line(texts: Any, said: str, method: Method) -> None:
    for call in (method.encode_texts, partial(route_texts, method), method.backbone.inputs.tokenize, given_texts):
        with pytest.raises(ConfigError, match=said) as refused:
            call(texts)
        assert "\n" not in str(refused.value)


def test_a_single_text_is_not_taken_for_its_letters(method: Method) -> None:
    inputs = method.backbone.inputs
    assert torch.equal(inputs.tokenize("the dog").ids, inputs.tokenize(["the dog"]).ids)
    assert inputs.too_long("dog " * 40) == [0]


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_every_way_of_giving_a_picture_gives_its_vector(method: Method, routed: Method, file: Path) -> None:
    channels_first = torch.tensor(NOISE).permute(2, 0, 1)
    ways: list[Any] = [Image.fromarray(NOISE), file, str(file), Image.open(file), NOISE, channels_first]
    for model in (method, routed):
        expected = model.encode_images([Image.fromarray(NOISE)])[0]
        for way in ways:
            assert model.encode_images(way).shape == expected.shape
            torch.testing.assert_close(model.encode_images(way), expected)
            torch.testing.assert_close(model.encode_images([way, Image.new("RGB", (9, 9))])[0], expected)
        for batch in (channels_first[None], NOISE[None], ways, tuple(ways), iter(ways)):
            torch.testing.assert_close(model.encode_images(batch)[-1], expected)  # type: ignore[arg-type]
        assert route_images(model, file).routes.shape[0] == 1
    assert routed.encode_images(file, task="cold").ndim == 1
    assert method.encode_images(Painted("red", "dot", 1)).ndim == 1
    assert method.encode_images([]).shape == (0, method.backbone.feature_width)


def test_pixels_of_the_backbones_size_are_encoded_as_they_are(method: Method, pictures: torch.Tensor) -> None:
    kept, single = given_pixels(pictures, method.backbone.inputs.prepare, (32, 32))
    assert kept is pictures
    assert not single
    assert method.backbone.inputs.pixels(pictures) is pictures
    torch.testing.assert_close(method.encode_images(pictures[0]), method.encode_images(pictures)[0])
    assert method.encode_images(torch.empty(0, 3, 32, 32, dtype=torch.uint8)).shape[0] == 0


def test_pixels_of_another_size_are_resized_like_a_picture(method: Method) -> None:
    batch = torch.tensor(NOISE).permute(2, 0, 1)[None]
    expected = method.backbone.inputs.prepare(Image.fromarray(NOISE))
    np.testing.assert_array_equal(method.backbone.inputs.pixels(batch)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_a_picture_of_any_mode_is_seen_as_if_it_were_opened_from_a_file(mode: str, method: Method) -> None:
    grey = np.arange(1024).reshape(32, 32)
    deep = {"I;16": grey.astype(np.uint16) * 63, "I": grey.astype(np.int32) * 63, "F": grey.astype(np.float32) / 1023}
    picture = (
        Image.fromarray(deep[mode]) if mode in deep else Image.fromarray((grey // 4).astype(np.uint8)).convert(mode)
    )
    pixels = method.backbone.inputs.prepare(picture)
    assert 60 < pixels.mean() < 190
    np.testing.assert_array_equal(method.backbone.inputs.pixels(picture)[0].permute(1, 2, 0).numpy(), pixels)


def test_a_picture_is_turned_as_its_camera_says_but_once(method: Method, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "side.png"
    Image.fromarray(NOISE).save(path, exif=exif)
    expected = method.encode_images(Image.fromarray(NOISE).transpose(Image.Transpose.ROTATE_270))
    for way in (path, Image.open(path), given_picture(path), given_picture(Image.open(path))):
        torch.testing.assert_close(method.encode_images(way), expected)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "got None"),
        (3, "got int"),
        (b"\x89PNG", "got bytes"),
        ({"a": 1}, "got dict"),
        ([None], "got None for one of them"),
        ([[NOISE]], "got list for one of them"),
        (torch.rand(2, 3, 32, 32), r"got float32 \[2, 3, 32, 32\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), r"got int64"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), r"got uint8 \[2, 32, 32, 3\]"),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"got uint8 \[32, 32, 3\]"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"got uint8 \[2, 1, 32, 32\]"),
        (torch.zeros(32, 32, dtype=torch.uint8), r"got uint8 \[32, 32\]"),
        (torch.zeros(3, 0, 32, dtype=torch.uint8), r"got uint8 \[3, 0, 32\]"),
        ([torch.zeros(1, 3, 32, 32, dtype=torch.uint8)], r"got uint8 \[1, 3, 32, 32\]"),
        (NOISE / 255, r"got float64 \[40, 56, 3\]"),
        (NOISE.transpose(2, 0, 1), r"got uint8 \[3, 40, 56\]"),
        (NOISE[None].transpose(0, 3, 1, 2), r"got uint8 \[3, 40, 56\]"),
        (NOISE[..., 0], r"got uint8 \[40, 56\]"),
        (NOISE.astype(np.uint16), r"got uint16"),
        (NOISE > 3, r"got bool"),
    ],
)
def test_what_is_no_picture_or_could_be_read_in_two_ways_is_one_clear_line(
    images: Any, said: str, method: Method
) -> None:
    for call in (method.encode_images, partial(route_images, method), method.backbone.inputs.images):
        with pytest.raises(ConfigError, match=said) as refused:
            call(images)
        assert "\n" not in str(refused.value)


def test_a_file_that_is_no_picture_or_isnt_there_is_named(method: Method, file: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.png: there is no such picture"):
        method.encode_images(file.with_name("gone.png"))
    cut = file.with_name("cut.png")
    cut.write_bytes(file.read_bytes()[:300])
    with Image.open(cut) as lazy:
        for way in (cut, [cut], lazy):
            with pytest.raises(DataError, match=r"cut\.png: the picture can't be read"):
                method.encode_images(way)


# ---- the backbone itself, and the index ------------------------------------------------------------------------------


def test_a_backbone_refuses_what_was_not_prepared(clip: DualEncoder, pictures: torch.Tensor) -> None:
    for images in (pictures, [Image.new("RGB", (9, 9))], pictures[0].float(), NOISE):
        with pytest.raises(ConfigError, match=r"normalised pixels.*inputs\.images\(\.\.\)"):
            clip.encode_images(images)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"reads tokens; got str.*inputs\.tokenize\(\.\.\)"):
        clip.encode_texts("a dot")  # type: ignore[arg-type]
    assert clip.encode_images(clip.inputs.images(Image.new("RGB", (9, 9)))).shape == (1, clip.feature_width)


def test_an_index_takes_the_same_and_refuses_the_same(index: Any, file: Path) -> None:
    assert len(index.encode_texts("a red dot")) == len(index.encode_images(file)) == 1
    assert index.encode_images([]) == index.encode_texts([]) == []
    best = index.search_image(file, 3)
    assert index.search_image(NOISE, 3) == index.search_image(torch.tensor(NOISE).permute(2, 0, 1), 3) == best
    refused: list[tuple[Callable[[Any], Any], Any]] = [
        (index.search_text, None),
        (index.search_text, ["a dot"]),
        (index.search_image, None),
        (index.search_image, NOISE / 255),
        (index.search_image, [file]),
        (index.encode_images, 3),
        (lambda captions: index.rank_captions(file, captions), [None]),
    ]
    for call, given in refused:
        with pytest.raises(LpiError, match="must be"):
            call(given)
    assert index.rank_captions(file, "a red dot")[0][0] == "a red dot"
