"""With prompts off, a grounding backbone is the stock detector: the same inputs, boxes, scores and losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_grounding import DETECTORS, EXPRESSIONS, pictures
from torch import Tensor

from lpi.backbones.detectors import GroundingBackbone, load_grounding_backbone
from lpi.backbones.detectors.inputs import to_pixels
from lpi.methods.grounding.losses import detection_losses

IMAGES = pictures(4)


@pytest.fixture(scope="module", params=list(DETECTORS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = DETECTORS[request.param](tmp_path_factory.mktemp(request.param))
    return made


@pytest.fixture(scope="module")
def backbone(folder: Path) -> GroundingBackbone:
    return load_grounding_backbone(folder)


def ready(backbone: GroundingBackbone, count: int = 4) -> dict[str, Tensor]:
    """What the checkpoint's processor makes of the pictures and expressions."""
    joint = {"padding": True} if backbone.joint else {"truncation": True}
    texts = [[text] for text in EXPRESSIONS[:count]]
    images = [image.convert("RGB") for image in IMAGES[:count]]
    return dict(backbone.inputs.processor(images=images, text=texts, return_tensors="pt", **joint))


def stock(folder: Path, backbone: GroundingBackbone) -> Any:
    return type(backbone.model).from_pretrained(folder).eval()


def test_inputs_are_those_of_the_checkpoints_processor(backbone: GroundingBackbone) -> None:
    theirs = ready(backbone)
    seen, texts = backbone.inputs.pictures(IMAGES), backbone.inputs.tokenize(EXPRESSIONS)
    assert torch.equal(seen.pixels, theirs["pixel_values"])
    assert torch.equal(texts.ids, theirs["input_ids"])
    assert torch.equal(texts.mask, theirs["attention_mask"])
    if backbone.joint:
        assert seen.mask is not None
        assert torch.equal(seen.mask, theirs["pixel_mask"])
        assert (seen.mask == 0).any()  # pictures of several shapes are padded


@torch.no_grad()
def test_boxes_and_scores_equal_the_stock_detectors(folder: Path, backbone: GroundingBackbone) -> None:
    theirs = stock(folder, backbone)(**ready(backbone))
    boxes, scores = backbone(backbone.inputs.pictures(IMAGES), backbone.inputs.tokenize(EXPRESSIONS))
    torch.testing.assert_close(boxes, theirs.pred_boxes, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, theirs.logits.sigmoid().amax(-1), rtol=0, atol=1e-5)
    assert boxes.std(dim=1).max() > 0.01  # the tiny detectors tell queries apart
    assert scores.std() > 1e-3


@torch.no_grad()
def test_another_size_equals_the_stock_detectors(folder: Path) -> None:
    backbone = load_grounding_backbone(folder, image_size=64)
    inputs = ready(backbone, 2)
    larger = {} if backbone.joint else {"interpolate_pos_encoding": True}
    theirs = stock(folder, backbone)(**inputs, **larger)
    boxes, scores = backbone(backbone.inputs.pictures(IMAGES[:2]), backbone.inputs.tokenize(EXPRESSIONS[:2]))
    assert inputs["pixel_values"].shape[2] >= 64
    torch.testing.assert_close(boxes, theirs.pred_boxes, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, theirs.logits.sigmoid().amax(-1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_boxes_in_pixels_equal_the_processors(folder: Path, backbone: GroundingBackbone) -> None:
    theirs = stock(folder, backbone)(**ready(backbone))
    sizes = [(image.height, image.width) for image in IMAGES]
    options: dict[str, Any] = {"text_threshold": 0.5} if backbone.joint else {}
    answers = backbone.inputs.processor.post_process_grounded_object_detection(
        theirs, threshold=-1.0, target_sizes=sizes, **options
    )
    seen = backbone.inputs.pictures(IMAGES)
    boxes, scores = backbone(seen, backbone.inputs.tokenize(EXPRESSIONS))
    corners = to_pixels(boxes, seen.frames)
    for row, answer in enumerate(answers):
        torch.testing.assert_close(corners[row], answer["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(scores[row], answer["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("folder", ["grounding-dino", "mm-grounding-dino"], indirect=True)  # OWL has no stock loss
def test_the_parts_of_the_loss_equal_the_stock_detectors(folder: Path, backbone: GroundingBackbone) -> None:
    truth = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.2, 0.5]])
    labels = [{"class_labels": torch.tensor([0]), "boxes": box[None]} for box in truth]
    theirs = stock(folder, backbone)(**ready(backbone, 2), labels=labels).loss_dict
    found = backbone.detect(backbone.inputs.pictures(IMAGES[:2]), backbone.inputs.tokenize(EXPRESSIONS[:2]))
    ours = detection_losses(found, truth)
    torch.testing.assert_close(ours["alignment"], 2 * theirs["loss_ce"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours["box"], 5 * theirs["loss_bbox"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours["overlap"], 2 * theirs["loss_giou"], rtol=1e-5, atol=1e-5)


def test_the_loss_of_a_batch_is_the_mean_of_its_expressions(backbone: GroundingBackbone) -> None:
    # transformers' own gives other numbers from three expressions on: it looks their tokens up in the wrong row
    image = [IMAGES[0]] * 4
    truth = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.2, 0.5], [0.7, 0.2, 0.3, 0.3], [0.4, 0.4, 0.7, 0.6]])
    seen = backbone.inputs.pictures(image)
    together = detection_losses(backbone.detect(seen, backbone.inputs.tokenize(EXPRESSIONS)), truth, place=1.0)
    alone = [
        detection_losses(
            backbone.detect(seen.rows(torch.tensor([row])), backbone.inputs.tokenize([text])),
            truth[row : row + 1],
            place=1.0,
        )
        for row, text in enumerate(EXPRESSIONS)
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in alone]).mean(), rtol=1e-4, atol=1e-4)
