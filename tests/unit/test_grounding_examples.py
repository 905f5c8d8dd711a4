"""A task's expressions as batches: boxes follow their pictures, order follows the seed, pictures are opened once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_grounding import pictures, tiny_dino, tiny_owl

from lpi import expression_data as examples
from lpi.backbones.detectors import GroundingBackbone, load_grounding_backbone
from lpi.config import EvaluationSettings
from lpi.data.expressions.record import ReferringExpression
from lpi.errors import DataError
from lpi.evaluation.precision import TestExpressions
from lpi.expression_data import ExpressionSet
from lpi.methods import method as make_method

OPENED: list[tuple[str, int | None]] = []


@dataclass(frozen=True)
class Drawn:
    """A picture that notes when it is opened; it opens at half its full size."""

    name: str
    image: Image.Image

    def open(self, side: int | None = None) -> Image.Image:
        OPENED.append((self.name, side))
        return self.image.convert("RGB")


IMAGES = pictures(3)  # opened: 90 x 60, 64 x 72, 50 x 50
RECORDS = [
    ReferringExpression(Drawn("first", IMAGES[0]), "the red car", (20, 12, 110, 60), (180, 120)),
    ReferringExpression(Drawn("first", IMAGES[0]), "dog", (0, 0, 180, 120), (180, 120)),
    ReferringExpression(Drawn("second", IMAGES[1]), "dog", (64, 0, 128, 144), (128, 144)),
    ReferringExpression(Drawn("third", IMAGES[2]), "a cat", (0, 50, 100, 100), (100, 100)),
    ReferringExpression(Drawn("third", IMAGES[2]), "the big tree", (10, 10, 20, 20), (100, 100)),
]


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> GroundingBackbone:
    return load_grounding_backbone(tiny_dino(tmp_path_factory.mktemp("dino")))


def test_boxes_follow_their_pictures(dino: GroundingBackbone) -> None:
    batch = ExpressionSet("a", RECORDS, dino).ready([0, 1, 2, 3], dino.inputs.tokenize)
    expected = [
        [65 / 180, 36 / 120, 90 / 180, 48 / 120],
        [0.5, 0.5, 1.0, 1.0],
        [0.75, 0.5, 0.5, 1.0],
        [0.5, 0.75, 1.0, 0.5],
    ]
    torch.testing.assert_close(batch.boxes, torch.tensor(expected))
    assert len(batch.pictures) == len(batch.texts) == 4


def test_boxes_of_an_owlv2_refer_to_the_square(tmp_path: Path) -> None:
    owl = load_grounding_backbone(tiny_owl(tmp_path, version=2))
    batch = ExpressionSet("a", RECORDS, owl).ready([1, 2], owl.inputs.tokenize)
    expected = [[0.5, 30 / 90, 1.0, 60 / 90], [48 / 72, 0.5, 32 / 72, 1.0]]
    torch.testing.assert_close(batch.boxes, torch.tensor(expected))


def test_features_belong_to_the_pictures_in_the_order_of_first_sight(tmp_path: Path) -> None:
    owl = load_grounding_backbone(tiny_owl(tmp_path))
    alone = [
        owl.frozen_features(owl.inputs.pictures([record.picture.open()]), None)["vision"]
        for record in (RECORDS[0], RECORDS[2], RECORDS[3])
    ]
    torch.testing.assert_close(ExpressionSet("a", RECORDS, owl).image_features, torch.cat(alone), atol=1e-4, rtol=0)
    test = TestExpressions([RECORDS[:2], RECORDS[2:]], owl, EvaluationSettings())
    of_each = torch.cat([alone[number] for number in (0, 0, 1, 2, 2)])
    torch.testing.assert_close(test.frozen["vision"], of_each, atol=1e-4, rtol=0)
    assert (alone[0] - alone[2]).abs().max() > 1e-3  # the other way round, they would be others'


def test_an_epoch_depends_on_seed_and_epoch_alone(dino: GroundingBackbone) -> None:
    training, method = ExpressionSet("a", RECORDS, dino), make_method("lpi", dino, length=8)

    def boxes(seed: int, epoch: int, start: int = 0) -> list[list[float]]:
        batches = training.epoch(method, size=2, seed=seed, epoch=epoch, start=start)
        return [box for batch in batches for box in batch.boxes.tolist()]

    whole = boxes(1, 0)
    assert len(whole) == len(training) == 5
    assert sorted(whole) == sorted(boxes(1, 1)) == sorted(boxes(2, 0))
    assert whole == boxes(1, 0)
    assert len({str(order) for order in (whole, boxes(1, 1), boxes(2, 0))}) > 1
    assert boxes(1, 0, start=1) == whole[2:]
    assert boxes(1, 0, start=3) == []


def test_features_are_of_different_pictures_and_different_expressions(dino: GroundingBackbone) -> None:
    training = ExpressionSet("a", RECORDS, dino, batch=2)
    data = training.data(7)
    assert data.frozen.image_features.shape == (3, 64)
    assert data.frozen.text_features.shape == (4, 24)
    assert data.captions == ["the red car", "dog", "a cat", "the big tree"]
    assert (data.name, data.steps) == ("a", 7)
    alone = dino.frozen_features(None, dino.inputs.tokenize(["a cat"]))["text"]
    torch.testing.assert_close(data.frozen.text_features[2:3], alone, rtol=0, atol=1e-5)


def test_pictures_are_opened_once_as_long_as_there_is_room(
    dino: GroundingBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    OPENED.clear()
    training = ExpressionSet("a", RECORDS, dino)
    for _ in range(2):
        training.ready(range(5), dino.inputs.tokenize)
    assert OPENED == [("first", 48), ("second", 48), ("third", 48)]
    OPENED.clear()
    monkeypatch.setattr(examples, "KEPT_BYTES", 3 * 90 * 60)
    small = ExpressionSet("a", RECORDS, dino)
    for _ in range(2):
        small.ready([0, 2], dino.inputs.tokenize)
    assert [name for name, _ in OPENED] == ["first", "second", "second"]


def test_a_task_without_expressions_is_refused(dino: GroundingBackbone) -> None:
    with pytest.raises(DataError, match="task 'a' has no expressions"):
        ExpressionSet("a", [], dino)
