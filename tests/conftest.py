"""What many tests share: tiny frozen backbones, and a stream of three small tasks of painted pictures."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from commands import Ended, Type
from PIL import Image, ImageDraw

from lpi.backbones import DualEncoder, load_backbone
from lpi.backbones.detectors import GroundingBackbone, load_grounding_backbone
from lpi.cli import main as entry
from lpi.config import TrainingSettings
from lpi.data.records import CaptionedImage
from lpi.features import TrainingSet
from lpi.methods.base import Method, TrainingBatch
from lpi.methods.encoder import tokens
from lpi.tasks.batches import batches
from lpi.tasks.stream import Task, TaskStream
from lpi.trainer import learn_task

torch.set_num_threads(1)  # the models are tiny, and pytest runs a worker a core: more threads only wait for each other

COLOURS = {"warm": ("red", "gold"), "cold": ("blue", "teal"), "dull": ("gray", "black")}
SHAPES = ("dot", "box", "bar", "tip")
SMALL: dict[str, Any] = {"rank": 2, "length": 4, "interaction_rank": 2, "clusters": 2}
PUBLISHED: dict[str, Any] = {
    "distill_weight": 0.0,
    "memory": 0,
    "soft_tasks": 1,
    "ood": "nearest",
    "routing": "features",
}


@dataclass(frozen=True)
class Painted:
    """A shape of one colour, at a place that its number decides."""

    colour: str
    shape: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.colour}-{self.shape}-{self.number}"

    def open(self, side: int | None = None) -> Image.Image:
        image = Image.new("RGB", (32, 32), (240, 236, 10 * self.number))
        left = 2 + 4 * self.number
        corners = {
            "dot": (left, 8, left + 12, 20),
            "box": (left, 4, left + 16, 28),
            "bar": (left, 12, 30, 18),
            "tip": (left, 2, left + 6, 12),
        }[self.shape]
        draw = ImageDraw.Draw(image)
        (draw.ellipse if self.shape in ("dot", "tip") else draw.rectangle)(corners, fill=self.colour)
        return image


def _records(task: str, numbers: tuple[int, ...], split: str) -> tuple[CaptionedImage, ...]:
    return tuple(
        CaptionedImage(Painted(colour, shape, number), (f"{colour} {shape}", f"{shape} {number}"), task, split)
        for colour in COLOURS[task]
        for shape in SHAPES
        for number in numbers
    )


@pytest.fixture(scope="session")
def stream() -> TaskStream:
    """Three tasks of 16 training and 8 test pictures, two captions each."""
    tasks = [Task(name, _records(name, (0, 1), "train"), (), _records(name, (2,), "test")) for name in COLOURS]
    return TaskStream("painted", tuple(tasks))


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DualEncoder]:
    """Gives the tiny backbone of a family, made once: ``clip``, ``siglip``, ``dinov2-bert``, ..."""
    root = tmp_path_factory.mktemp("families")
    made: dict[str, DualEncoder] = {}

    def backbone(family: str) -> DualEncoder:
        if family not in made:
            made[family] = load_backbone(tiny.FAMILIES[family](root / family))
        return made[family]

    return backbone


@pytest.fixture(scope="session")
def clip(families: Callable[[str], DualEncoder]) -> DualEncoder:
    return families("clip")


@pytest.fixture(scope="session")
def dual(families: Callable[[str], DualEncoder]) -> DualEncoder:
    """DINOv2 beside BERT: 4 blocks of width 32, 3 of width 24."""
    return families("dinov2-bert")


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """LPI's options at a size that a test can wait for, with what this library adds to the method switched off."""
    return {**SMALL, **PUBLISHED}


Learn = Callable[..., Method]


@pytest.fixture(scope="session")
def learn() -> Learn:
    """``learn(method, tasks, seed=0, **settings)`` teaches a method some tasks, quickly."""

    def teach(method: Method, tasks: Any, *, seed: int = 0, **settings: Any) -> Method:
        chosen = TrainingSettings(**{"steps": 3, "batch": 8, "device": "cpu", **settings})
        for task in tasks:
            learn_task(method, task, settings=chosen, seed=seed)
        return method

    return teach


@pytest.fixture(scope="session")
def ready() -> Callable[..., TrainingBatch]:
    """``ready(method, task)``: the first batch of a task as the trainer would hand it over."""

    def batch_of(method: Method, task: Task, *, size: int = 8, captions: int = 1) -> TrainingBatch:
        training = TrainingSet(task, method.backbone)
        batch = next(batches(task.train, training.store, size=size, captions_per_image=captions, seed=0, epoch=0))
        rows = [training.caption_row[text] for text in batch.texts]
        return TrainingBatch(
            images=method.backbone.inputs.normalise(batch.pixels),
            texts=tokens(method, batch.texts),
            positives=batch.positives,
            owner=batch.owner,
            frozen=lambda: (training.image_features[batch.indices], training.text_features[rows]),
            picture_rows=batch.indices,
            caption_rows=torch.tensor(rows),
        )

    return batch_of


@pytest.fixture(scope="session")
def pictures(stream: TaskStream, clip: DualEncoder) -> torch.Tensor:
    """The test pictures of all tasks as uint8 pixels, [24, 3, 32, 32]."""
    prepared = [clip.inputs.prepare(record.picture.open()) for task in stream.tasks for record in task.test]
    return torch.stack([torch.tensor(pixels).permute(2, 0, 1) for pixels in prepared])


@pytest.fixture(scope="session")
def captions(stream: TaskStream) -> list[str]:
    """One caption of each test picture."""
    return [record.captions[0] for task in stream.tasks for record in task.test]


@pytest.fixture
def type_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Types a command, in this process."""

    def typed(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["lpi", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            entry()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return typed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, stream: TaskStream) -> Any:
    """A folder of painted pictures, a model that knows two of its three domains, and an index; see search_world."""
    from search_world import World  # which takes its colours from here

    made = World.make(tmp_path_factory.mktemp("world"), stream)
    made.build()
    return made


@pytest.fixture(scope="module")
def index(world: Any) -> Any:
    """The index of :func:`world`, opened."""
    return world.build_once()


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GroundingBackbone]:
    """One tiny frozen detector of every family."""
    from tiny_grounding import DETECTORS

    return {
        name: load_grounding_backbone(make(tmp_path_factory.mktemp("detectors") / name))
        for name, make in DETECTORS.items()
    }
