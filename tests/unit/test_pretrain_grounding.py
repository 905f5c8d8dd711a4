"""The embedded detector's pre-training: how it begins, what it is shown, and that a few steps can be saved and used."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lpi.backbones import load_backbone
from lpi.backbones.detectors import loading
from lpi.backbones.detectors.loading import load_grounding_backbone
from lpi.config import TrainingSettings
from lpi.data.expressions.scenes import general_expressions
from lpi.errors import MissingFileError
from lpi.methods import method as make_method
from lpi.pretrain.grounding import (
    START_SIDE,
    SceneDetector,
    SceneSupply,
    TinyDetector,
    cxcywh_to_xyxy,
    finer,
    focal,
    near_middle,
    pretrain_grounding,
    some_of,
    untrained,
)
from lpi.trainer import Step

SMALL = TinyDetector(image_size=48, context=24)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    untrained(folder, SMALL, seed=0)
    return folder


def test_the_towers_begin_as_those_of_the_embedded_backbone(tmp_path: Path) -> None:
    untrained(tmp_path, TinyDetector(image_size=96, context=56), seed=0)  # the backbone's own sizes
    detector, backbone = load_grounding_backbone(tmp_path), load_backbone("lpi-tiny")
    image = Image.effect_noise((96, 96), 60).convert("RGB")
    pixels = detector.inputs.pictures([image])
    words = ["the small red car", "a dog to the left of the oven"]
    found = detector.frozen_features(pixels, detector.inputs.tokenize(words))
    with torch.no_grad():
        pictures = torch.nn.functional.normalize(backbone.encode_images(pixels.pixels), dim=-1)
        texts = torch.nn.functional.normalize(backbone.encode_texts(backbone.inputs.tokenize(words)), dim=-1)
    torch.testing.assert_close(found["vision"], pictures, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["text"], texts, rtol=0, atol=1e-5)


def test_boxes_begin_where_their_patches_are(begun: Path) -> None:
    detector = load_grounding_backbone(begun)
    image = Image.new("RGB", (48, 48), "white")
    with torch.no_grad():
        boxes, _ = detector(detector.inputs.pictures([image]), detector.inputs.tokenize(["a dog"]))
    assert boxes.shape == (1, 16, 4)
    torch.testing.assert_close(boxes[0, :, 2:], torch.full((16, 2), START_SIDE), rtol=0, atol=1e-3)
    torch.testing.assert_close(boxes[0, 0, :2], torch.tensor([0.25, 0.25]), rtol=0, atol=1e-3)


def test_positions_of_a_finer_grid_keep_the_class_token_and_the_middle() -> None:
    positions = torch.arange(10.0)[:, None].repeat(1, 3)
    fine = finer(positions, 9)
    assert fine.shape == (82, 3)
    assert torch.equal(fine[0], positions[0])
    torch.testing.assert_close(fine[1 + 40], positions[1 + 4])  # the middle patch is the middle patch
    torch.testing.assert_close(finer(positions, 3), positions)


def test_patches_near_the_middle_of_a_box() -> None:
    boxes = torch.tensor([[0.5, 0.5, 1.0, 0.5], [0.1, 0.9, 0.01, 0.01]])
    near = near_middle(boxes, 4, 4).reshape(2, 4, 4)
    assert near[0].tolist() == [[False] * 4, [False, True, True, False], [False, True, True, False], [False] * 4]
    assert near[1].nonzero().tolist() == [[3, 0]]  # a speck still has its patch


def test_the_focal_loss_by_hand() -> None:
    logits, right = torch.tensor([[0.0, 2.0]]), torch.tensor([[True, False]])
    wrong = torch.tensor(2.0).sigmoid()
    expected = 0.25 * 0.25 * torch.tensor(2.0).log() + 0.75 * wrong**2 * -(1 - wrong).log()
    torch.testing.assert_close(focal(logits, right), expected)


def test_the_supply_depends_on_seed_and_number_alone(begun: Path) -> None:
    detector = load_grounding_backbone(begun)
    supply = SceneSupply(detector, 6, seed=3, each=4)
    settings = TrainingSettings(batch=4, epochs=2)
    give = supply.epochs(None, settings)
    first = list(give(seed=0, epoch=0))
    assert len(supply) == 6
    assert [len(batch.pictures) for batch in first] == [4, 2]
    (resumed,) = give(seed=9, epoch=0, start=1)
    assert torch.equal(resumed.pictures.pixels, first[1].pictures.pixels)
    assert torch.equal(resumed.boxes, first[1].boxes)
    again = next(give(seed=0, epoch=1))
    assert not torch.equal(again.pictures.pixels, first[0].pictures.pixels)
    batch = first[0]
    assert len(batch.texts) == len(batch.owner) == len(batch.boxes)
    assert batch.owner.bincount(minlength=4).max() <= 4
    corners = cxcywh_to_xyxy(batch.boxes)
    assert (corners >= -1e-5).all()
    assert (corners <= 1 + 1e-5).all()


def test_rarer_ways_to_mean_something_come_first() -> None:
    kept: list[str] = []
    said: list[str] = []
    for records in general_expressions(60, seed=0):
        said += [record.fields["way"] for record in records]
        kept += [record.fields["way"] for record in some_of(records, 3)]
        assert len(some_of(records, 3)) == min(3, len(records))
    assert kept.count("relation") / len(kept) > 1.3 * said.count("relation") / len(said)


def test_a_few_steps_learn_and_can_be_loaded(tmp_path: Path) -> None:
    noted: list[Step] = []
    settings = TrainingSettings(batch=8, learning_rate=2e-3, device="cpu")
    pretrain_grounding(
        tmp_path, pictures=24, epochs=4, shape=SMALL, settings=settings, on_step=noted.append, say=lambda line: None
    )
    assert sum(step.loss for step in noted[-3:]) < 0.9 * sum(step.loss for step in noted[:3])
    assert noted[0].parts.keys() == {"place", "score", "box", "overlap"}
    detector = load_grounding_backbone(tmp_path)
    method = make_method("lpi", detector, length=4)
    ((best, *_),) = method.locate(Image.new("RGB", (60, 40), "white"), ["the red car"])
    assert 0 <= best.box[0] <= best.box[2] <= 60
    assert "lpi pretrain grounding" in (tmp_path / "training.txt").read_text()


def test_many_expressions_of_a_picture_are_learned_at_once(begun: Path) -> None:
    learner = SceneDetector(load_grounding_backbone(begun))
    batch = SceneSupply(learner.tuned, 2, seed=0).ready(0, 2)
    parts = learner.loss(batch)
    with torch.no_grad():  # the stock model's own way, one expression a picture, sees the same boxes
        rows = batch.owner
        found = learner.tuned.detect(batch.pictures.rows(rows), batch.texts, None)
    near = near_middle(batch.boxes, 4, 4)
    own = found.logits[..., 0]
    place = (own.logsumexp(1) - own.masked_fill(~near, -torch.inf).logsumexp(1)).mean()
    torch.testing.assert_close(parts["place"], place, rtol=1e-4, atol=1e-4)


def test_without_its_weights_the_embedded_detector_says_how_to_make_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading.resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingFileError, match=r"lpi-tiny-grounding: its weights are not .* lpi pretrain grounding"):
        load_grounding_backbone("lpi-tiny-grounding")
