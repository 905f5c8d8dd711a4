"""Two towers joined by learning their projections."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import VisionTextDualEncoderModel

from lpi.backbones import load_backbone
from lpi.backbones.align import align
from lpi.errors import BackboneError, ConfigError, DataError, OutputError

COLOURS = ("red", "green", "blue", "black", "white", "yellow")
SHAPES = ("square", "circle", "bar")


@dataclass(frozen=True)
class Drawing:
    colour: str
    shape: str
    place: int

    def open(self, side: int | None = None) -> Image.Image:
        image = Image.new("RGB", (48, 48), "grey")
        draw, (x, y) = ImageDraw.Draw(image), divmod(self.place, 3)
        box = (4 + 6 * x, 4 + 6 * y, 26 + 6 * x, 26 + 6 * y)
        if self.shape == "circle":
            draw.ellipse(box, fill=self.colour)
        else:
            draw.rectangle(box if self.shape == "square" else (*box[:2], box[2], box[1] + 6), fill=self.colour)
        return image


@dataclass(frozen=True)
class Record:
    picture: Drawing
    captions: tuple[str, ...]


RECORDS = [
    Record(Drawing(colour, shape, place), (f"a {colour} {shape}", f"the {shape} is {colour}"))
    for colour in COLOURS
    for shape in SHAPES
    for place in (0, 4)
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {
        "dinov2": tiny.tiny_vision(root / "dinov2"),
        "vit": tiny.tiny_vision(root / "vit", kind="vit"),
        "clip": tiny.tiny_clip(root / "clip"),
        "bert": tiny.tiny_text(root / "bert"),
        "roberta": tiny.tiny_text(root / "roberta", kind="roberta"),
    }


@pytest.mark.parametrize(("vision", "text"), [("dinov2", "bert"), ("vit", "roberta"), ("clip", "bert")])
def test_projections_are_learned_and_the_stock_format_is_saved(
    vision: str, text: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    seen: list[tuple[str, int, int]] = []
    result = align(
        sources[vision],
        sources[text],
        RECORDS,
        out=tmp_path / "joined",
        feature_width=20,
        epochs=80,
        batch=18,
        learning_rate=1e-2,
        progress=lambda *what: seen.append(what),
    )
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers go on undisturbed"
    assert result.losses[-1] < 0.7 * result.losses[0]
    assert ("epochs", 80, 80) in seen
    assert ("pictures", 36, 36) in seen
    assert ("captions", 72, 72) in seen

    expected = {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    assert set(result.learned) == expected | {"text_model.pooler.dense.weight", "text_model.pooler.dense.bias"}
    joined = load_file(result.path / "model.safetensors")
    for side, source in (("vision", sources[vision]), ("text", sources[text])):
        for name, tensor in load_file(source / "model.safetensors").items():
            name = name.removeprefix(f"{side}_model.") if vision == "clip" else name
            new = joined.get(f"{side}_model.{name}")
            if new is not None:
                assert torch.equal(new, tensor) == (f"{side}_model.{name}" not in result.learned), name

    backbone = load_backbone(result.path)
    stock = VisionTextDualEncoderModel.from_pretrained(result.path).eval().requires_grad_(False)
    pixels = backbone.inputs.images([record.picture.open() for record in RECORDS])
    texts = backbone.inputs.tokenize([record.captions[0] for record in RECORDS])
    images, captions = backbone.encode_images(pixels), backbone.encode_texts(texts)
    out = stock(input_ids=texts.ids, attention_mask=texts.mask, pixel_values=pixels)
    torch.testing.assert_close(torch.nn.functional.normalize(images, dim=-1), out.image_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.nn.functional.normalize(captions, dim=-1), out.text_embeds, atol=1e-6, rtol=0)
    best = out.logits_per_image.argmax(1)
    right = [RECORDS[int(found)].captions == record.captions for found, record in zip(best, RECORDS, strict=True)]
    assert sum(right) >= 8, "two of 36 by chance"


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(sources: dict[str, Path], tmp_path: Path) -> None:
    def run(name: str, seed: int) -> bytes:
        align(sources["dinov2"], sources["bert"], RECORDS, out=tmp_path / name, epochs=2, batch=12, seed=seed)
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert run("one", 0) == run("two", 0) != run("three", 1)


def test_another_picture_size_is_saved_with_the_model(sources: dict[str, Path], tmp_path: Path) -> None:
    for vision in ("dinov2", "vit"):
        out = tmp_path / vision
        align(sources[vision], sources["bert"], RECORDS[:4], out=out, epochs=1, batch=4, image_size=48)
        assert load_backbone(out).inputs.image_size == (48, 48)


def test_a_vision_pooler_that_was_never_trained_is_learned(sources: dict[str, Path], tmp_path: Path) -> None:
    source = tiny.tiny_vision(tmp_path / "bare", kind="vit")
    weights = {k: v for k, v in load_file(source / "model.safetensors").items() if not k.startswith("pooler.")}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    result = align(source, sources["bert"], RECORDS[:8], out=tmp_path / "out", epochs=1, batch=8)
    assert "vision_model.pooler.dense.weight" in result.learned
    assert load_backbone(result.path).feature_width == 256


def test_what_cannot_be_aligned_is_refused_before_anything_is_written(sources: dict[str, Path], tmp_path: Path) -> None:
    vision, text, out = sources["dinov2"], sources["bert"], tmp_path / "out"
    with pytest.raises(ConfigError, match="batch must be at least 2; got 1"):
        align(vision, text, RECORDS, out=out, batch=1)
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="learning_rate must be a number of at least 0; got"):
            align(vision, text, RECORDS, out=out, learning_rate=rate)
    with pytest.raises(ConfigError, match="epochs must be at least 1; got 0"):
        align(vision, text, RECORDS, out=out, epochs=0)
    with pytest.raises(DataError, match="at least 2 captioned pictures; got 1"):
        align(vision, text, RECORDS[:1], out=out)
    with pytest.raises(DataError, match="Picture 2 has no caption"):
        align(vision, text, [RECORDS[0], Record(Drawing("red", "bar", 0), ())], out=out)
    with pytest.raises(BackboneError, match="No text tower of the family 'dinov2'"):
        align(vision, vision, RECORDS, out=out)
    assert not out.exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_already_is_never_overwritten(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        align(sources["dinov2"], sources["bert"], RECORDS, out=tmp_path)
    with pytest.raises(OutputError, match="is there already"):
        align(sources["dinov2"], sources["bert"], RECORDS, out=tmp_path / "mine.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
