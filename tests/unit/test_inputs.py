"""Pixels and tokens: what the towers get to see."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from lpi.backbones import Inputs, PixelRecipe
from lpi.errors import BackboneError, ConfigError

RECIPE = PixelRecipe.from_processor(
    CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(RECIPE, tiny.clip_tokenizer(12), context=12)


def test_a_picture_of_any_mode_becomes_bytes_of_the_trained_size(inputs: Inputs) -> None:
    for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"):
        pixels = inputs.prepare(Image.new(mode, (50, 70)))
        assert pixels.shape == (32, 32, 3)
        assert pixels.dtype == np.uint8


def test_normalised_bytes_follow_the_formula(inputs: Inputs) -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 1, 3).expand(1, 3, 1, 3)
    expected = (pixels.double() / 255 - torch.tensor(RECIPE.mean)[:, None, None]) / torch.tensor(RECIPE.std)[
        :, None, None
    ]
    torch.testing.assert_close(inputs.normalise(pixels).double(), expected, atol=1e-6, rtol=0)
    assert inputs.normalise(pixels).dtype == torch.float32


def test_another_size_keeps_the_margin_in_proportion() -> None:
    assert RECIPE.at(64).resize == 72
    assert RECIPE.at(64).size == (64, 64)
    squashed = PixelRecipe.from_processor(ViTImageProcessorPil(size={"height": 224, "width": 224}))
    assert squashed.at(112).resize == (112, 112)


def test_texts_are_padded_to_the_longest_of_the_batch(inputs: Inputs) -> None:
    texts = inputs.tokenize(["dog", "the dog"])
    assert texts.ids.shape == (2, 4)
    assert texts.mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert len(texts) == 2


@pytest.mark.parametrize("room", [0, 5])
def test_a_caption_that_is_too_long_is_cut_and_keeps_its_end(inputs: Inputs, room: int) -> None:
    ids = inputs.tokenize(["dog " * 40], reserved=room).ids[0]
    assert len(ids) == 12 - room
    assert ids[-1] == inputs.tokenizer.eos_token_id
    assert ids[0] == inputs.tokenizer.bos_token_id


def test_captions_that_would_be_cut_are_found(inputs: Inputs) -> None:
    captions = ["dog", "dog " * 10, "dog " * 11, "dog " * 40]
    assert inputs.too_long(captions) == [2, 3]  # ten words, start and end fill the context of 12
    assert inputs.too_long(captions, reserved=1) == [1, 2, 3]


def test_room_for_more_than_the_context_is_refused(inputs: Inputs) -> None:
    with pytest.raises(ConfigError, match="context of 12; got 10"):
        inputs.tokenize(["dog"], reserved=10)


def test_siglip_is_padded_to_its_context_and_attends_to_all_of_it() -> None:
    inputs = Inputs(RECIPE, tiny.siglip_tokenizer(12), context=12, whole_context=True)
    texts = inputs.tokenize(["dog"])
    assert texts.ids.shape == (1, 12)
    assert texts.mask.tolist() == [[1] * 12]
    assert inputs.tokenize(["dog"], reserved=4).ids.shape == (1, 8)


def test_padding_is_on_the_right_whatever_the_tokenizer_says() -> None:
    tokenizer = tiny.clip_tokenizer(12)
    tokenizer.padding_side = "left"
    texts = Inputs(RECIPE, tokenizer, context=12).tokenize(["dog", "the dog"])
    assert texts.mask[0].tolist() == [1, 1, 1, 0]


def test_a_processor_that_gives_pictures_of_different_sizes_is_refused() -> None:
    with pytest.raises(BackboneError, match="Set do_center_crop and crop_size"):
        PixelRecipe.from_processor(CLIPImageProcessorPil(do_center_crop=False))


def test_a_processor_that_does_something_unknown_is_refused() -> None:
    odd = SimpleNamespace(do_resize=True, size={"longest_edge": 32})
    with pytest.raises(BackboneError, match=r"can't be resized to \{'longest_edge': 32\}"):
        PixelRecipe.from_processor(odd)
    with pytest.raises(BackboneError, match="pads pictures"):
        PixelRecipe.from_processor(ViTImageProcessorPil(do_pad=True))


def test_only_backbones_that_read_patches_give_them(inputs: Inputs) -> None:
    with pytest.raises(BackboneError, match=r"Use images\(\)"):
        inputs.patches([Image.new("RGB", (8, 8))])


def test_what_decides_the_inputs_is_described(inputs: Inputs) -> None:
    described = inputs.describe()
    assert described["context"] == 12
    assert described != Inputs(RECIPE.at(64), tiny.clip_tokenizer(12), context=12).describe()
    assert described != Inputs(RECIPE, tiny.bert_tokenizer(12), context=12).describe()


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 20_000_000)])
def test_a_line_of_pixels_is_cut_before_it_is_enlarged(
    size: tuple[int, int], inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = Image.Image.resize, []

    def resize(image: Image.Image, size: tuple[int, int], *options: Any, **named: Any) -> Image.Image:
        made.append((image.width * image.height, size[0] * size[1]))
        return whole(image, size, *options, **named)

    monkeypatch.setattr(Image.Image, "resize", resize)
    assert inputs.prepare(Image.new("RGB", size, "teal"))[9, 9].tolist() == [0, 128, 128]
    assert max(max(both) for both in made) < 40 * 40


@pytest.mark.parametrize("size", [(1, 65), (3, 300), (300, 4), (7, 1001), (40, 4000), (9000, 130)])
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_a_long_picture_looks_as_if_the_whole_had_been_resized(size: tuple[int, int], resample: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture, scale = Image.fromarray(noise), 36 / min(size)
    longest = int(36 * max(size) / min(size))
    whole = picture.resize((36, longest) if scale * size[0] < 37 else (longest, 36), Image.Resampling(resample))
    left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32))).astype(int)
    found = Inputs(replace(RECIPE, resample=int(resample)), tiny.clip_tokenizer(12), context=12).prepare(picture)
    assert np.abs(found - expected).max() <= 1  # the last bit of a weight, rounded


@pytest.mark.parametrize("size", [(10, 640), (640, 10), (90, 60)])
def test_up_to_a_length_of_64_widths_a_picture_is_prepared_to_the_bit_as_ever(
    size: tuple[int, int], inputs: Inputs
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
    )
    expected = processor(Image.fromarray(noise), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(inputs.prepare(Image.fromarray(noise)), expected)
