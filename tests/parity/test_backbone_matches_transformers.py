"""Every tower family with prompts off gives the stock model's features, and the stock processor's pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    OwlViTConfig,
    OwlViTModel,
    ViTImageProcessorPil,
)

from lpi.backbones import DualEncoder, Inputs, PatchInputs, PixelRecipe, TextInputs, load_backbone
from lpi.backbones.towers import cut, text_tower, vision_tower

TOLERANCE = 1e-6
CAPTIONS = ["the dog", "a cat on the red mat", "x", "one two three four five six seven eight nine ten eleven twelve"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: make(root / name) for name, make in tiny.FAMILIES.items()}


def stock(backbone: DualEncoder, folder: Path, attention: str = "sdpa") -> Any:
    model = type(backbone.model).from_pretrained(folder, attn_implementation=attention).eval()
    return model.requires_grad_(False)


def stock_images(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    if model.config.model_type == "siglip2":
        patches, shapes = cut(pixels, model.config.vision_config.patch_size)
        return model.get_image_features(patches, torch.ones(patches.shape[:2], dtype=torch.int), shapes).pooler_output
    grows = getattr(model.config.vision_config, "model_type", "") != "dinov2"
    return model.get_image_features(pixels, **({"interpolate_pos_encoding": True} if grows else {})).pooler_output


def rough_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("attention", ["lpi", "sdpa", "eager"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_features_equal_the_stock_model(family: str, attention: str, folders: dict[str, Path]) -> None:
    backbone = load_backbone(folders[family])
    other = "sdpa" if attention == "lpi" else attention
    backbone.model.set_attn_implementation(attention)
    model = stock(backbone, folders[family], other)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    texts = backbone.inputs.tokenize(CAPTIONS)
    with torch.no_grad():
        images = stock_images(model, pixels)
        captions = model.get_text_features(texts.ids, attention_mask=texts.mask).pooler_output
        assert (backbone.encode_images(pixels) - images).abs().max() <= TOLERANCE
        assert (backbone.encode_texts(texts) - captions).abs().max() <= TOLERANCE
    assert images.std(0).min() > 1e-3, "a model that gives the same for all pictures proves nothing"
    assert captions.std(0).min() > 1e-3


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_text_trimmed_to_the_longest_caption_equals_text_padded_to_the_context(
    family: str, folders: dict[str, Path]
) -> None:
    backbone = load_backbone(folders[family])
    tokenizer = AutoTokenizer.from_pretrained(folders[family])
    tokenizer.padding_side = "right"
    texts = CAPTIONS[:3]
    padded = tokenizer(
        texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt", return_attention_mask=True
    )
    trimmed = backbone.inputs.tokenize(texts)
    whole = backbone.inputs.whole_context
    assert trimmed.ids.shape[1] == 24 if whole else trimmed.ids.shape[1] < 24
    mask = torch.ones_like(padded.attention_mask) if whole else padded.attention_mask
    features = stock(backbone, folders[family]).get_text_features(padded.input_ids, attention_mask=mask).pooler_output
    for texts_read in (trimmed, TextInputs(padded.input_ids, mask)):
        # as unit vectors: sums over other numbers of rows are rounded differently, in proportion to what is summed
        difference = normalize(backbone.encode_texts(texts_read)) - normalize(features)
        assert difference.abs().max() <= TOLERANCE


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_another_picture_size_equals_the_stock_model_with_interpolated_positions(
    family: str, folders: dict[str, Path]
) -> None:
    backbone = load_backbone(folders[family], image_size=48)
    assert backbone.inputs.image_size == (48, 48)
    pixels = backbone.inputs.images([rough_picture(70, 60)])
    assert pixels.shape == (1, 3, 48, 48)
    expected = stock_images(stock(backbone, folders[family]), pixels)
    assert (backbone.encode_images(pixels) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("size", [(32, 32), (50, 40), (40, 50), (33, 200), (7, 9), (64, 32)])
@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name != "siglip2"])
def test_pixels_equal_the_stock_processor(family: str, size: tuple[int, int], folders: dict[str, Path]) -> None:
    inputs = load_backbone(folders[family]).inputs
    processor = AutoImageProcessor.from_pretrained(folders[family], backend="pil")
    picture = rough_picture(*size)
    expected = processor(picture, return_tensors="pt").pixel_values
    assert (inputs.images([picture]) - expected).abs().max() <= TOLERANCE
    assert inputs.prepare(picture).dtype == np.uint8


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=2),
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 33, "width": 31}),
        CLIPImageProcessorPil(do_resize=False, crop_size={"height": 33, "width": 31}),
        ViTImageProcessorPil(size={"height": 40, "width": 24}, do_normalize=False),
        ViTImageProcessorPil(size={"height": 40, "width": 24}, image_mean=0.5, image_std=0.25, resample=1),
    ],
    ids=["margin", "smaller than the crop", "crop only", "oblong", "one mean"],
)
@pytest.mark.parametrize("size", [(61, 40), (40, 61), (20, 20)])
def test_any_recipe_equals_the_stock_processor(processor: Any, size: tuple[int, int]) -> None:
    recipe = PixelRecipe.from_processor(processor)
    inputs = Inputs(recipe, tiny.bert_tokenizer(), context=24)
    picture = rough_picture(*size)
    expected = processor(picture, return_tensors="pt").pixel_values
    assert (inputs.images([picture]) - expected).abs().max() <= TOLERANCE
    assert inputs.image_size == tuple(expected.shape[-2:])


def test_patches_in_the_pictures_own_proportions_equal_the_stock_model(folders: dict[str, Path]) -> None:
    backbone = load_backbone(folders["siglip2"])
    pictures = [rough_picture(50, 40), rough_picture(30, 90), rough_picture(64, 64)]
    processor = AutoImageProcessor.from_pretrained(folders["siglip2"], backend="pil")
    expected = processor(pictures, return_tensors="pt")
    inputs = backbone.inputs.patches(pictures)
    assert (inputs.patches - expected.pixel_values).abs().max() <= TOLERANCE
    assert inputs.mask.tolist() == expected.pixel_attention_mask.tolist()
    assert inputs.shapes.tolist() == expected.spatial_shapes.tolist()
    assert not inputs.mask.all()
    features = stock(backbone, folders["siglip2"]).get_image_features(**expected).pooler_output
    same = PatchInputs(expected.pixel_values, expected.pixel_attention_mask, expected.spatial_shapes)
    assert (backbone.encode_images(same) - features).abs().max() <= TOLERANCE


def test_owl_vit_s_towers_run_through_the_clip_adapters() -> None:
    torch.manual_seed(0)
    text = {**tiny.TEXT, "vocab_size": 50, "max_position_embeddings": 16}
    model = OwlViTModel(
        OwlViTConfig(text_config=text, vision_config={**tiny.VISION, **tiny.PICTURE}, projection_dim=16)
    )
    model.eval().requires_grad_(False)
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(1, 49, (3, 9))
    ids[0, 4], ids[1, 8], ids[2, 2] = 49, 49, 49
    ids[0, 5:], ids[2, 3:] = 0, 0
    mask = (ids > 0).long()
    vision = vision_tower(model.vision_model, model.visual_projection)
    texts = text_tower(model.text_model, model.text_projection)
    assert (vision(pixels) - model.get_image_features(pixels).pooler_output).abs().max() <= TOLERANCE
    expected = model.get_text_features(ids, attention_mask=mask).pooler_output
    assert (texts(TextInputs(ids, mask)) - expected).abs().max() <= TOLERANCE


def test_a_clip_vision_tower_on_its_own_is_pooled_as_the_stock_one() -> None:
    torch.manual_seed(0)
    model = CLIPVisionModel(CLIPVisionConfig(**tiny.VISION, **tiny.PICTURE)).eval().requires_grad_(False)
    pixels = torch.randn(2, 3, 32, 32)
    assert (vision_tower(model)(pixels) - model(pixels).pooler_output).abs().max() <= TOLERANCE
