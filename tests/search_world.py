"""A folder of painted pictures, a model that knows two of their three domains, and captions for the third."""

import json
import shutil
from pathlib import Path
from typing import Any

import tiny
from conftest import COLOURS, SHAPES, SMALL, Painted

import lpi
from lpi.config import TrainingSettings
from lpi.methods.checkpoint import save_method
from lpi.search.building import create, move_root
from lpi.search.encoding import Single
from lpi.search.index import SearchIndex
from lpi.search.teaching import Lesson, learn, read_domain
from lpi.search.writer import Writer, change
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task

HARD: dict[str, Any] = {**SMALL, "soft_tasks": 1, "ood": "nearest"}  # one task a picture, for every picture
QUICK = TrainingSettings(steps=3, batch=8, device="cpu")


class World:
    """``photos`` (24 pictures in folders by colour), ``model`` (knows warm and cold), ``dull`` (captioned)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.photos, self.model, self.captioned, self.index = (
            root / name for name in ("photos", "model", "captioned", "index")
        )

    @classmethod
    def make(cls, root: Path, stream: TaskStream) -> "World":
        world = cls(root)
        for task, colours in COLOURS.items():
            for colour in colours:
                for shape in SHAPES:
                    world.paint(f"{task}/{colour}/{shape}.png", colour, shape, 3)
            rows = []
            for number, split in ((0, "train"), (1, "train"), (2, "test")):
                for colour in colours:
                    for shape in SHAPES:
                        name = f"images/{colour}-{shape}-{number}.png"
                        file = world.captioned / task / name
                        file.parent.mkdir(parents=True, exist_ok=True)
                        Painted(colour, shape, number).open().save(file)
                        captions = [f"{colour} {shape}", f"{shape} {number}"]
                        rows.append({"image": name, "captions": captions, "split": split})
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (world.captioned / task / "captions.jsonl").write_text(text)
        backbone = lpi.backbone(tiny.tiny_clip(root / "clip"))
        method = lpi.method("lpi", backbone, **HARD)
        for task in stream.tasks[:2]:
            learn_task(method, task, settings=QUICK, seed=0)
        save_method(method, world.model)
        return world

    def copy(self, root: Path) -> "World":
        """The same world elsewhere, to be spoiled; the model and its backbone stay where they are."""
        other = World(root)
        shutil.copytree(self.photos, other.photos)
        if self.index.exists():
            shutil.copytree(self.index, other.index)
            move_root(other.index, other.photos)
        other.model, other.captioned = self.model, self.captioned
        return other

    def build_once(self) -> SearchIndex:
        """The world's own index, made when it is first asked for."""
        return SearchIndex.open(self.index, device="cpu") if self.index.exists() else self.build()

    def paint(self, name: str, colour: str, shape: str, number: int) -> Path:
        file = self.photos / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Painted(colour, shape, number).open().save(file)
        return file

    def build(self, index: Path | None = None, model: Path | None = None) -> SearchIndex:
        """A finished index."""
        place = index or self.index
        create(place, self.photos, model or self.model, device="cpu")
        with change(place, device="cpu") as writer:
            writer.update()
        return SearchIndex.open(place, device="cpu")

    def update(self, **options: Any) -> Any:
        with change(self.index, device="cpu") as writer:
            return writer.update(**options)

    def lesson(self, writer: Writer, task: str = "dull") -> Lesson:
        return learn(writer, read_domain(self.captioned / task, task), settings=QUICK)


def vectors_of(index: SearchIndex, stage: int | None = None) -> dict[str, tuple[Any, ...]]:
    """Every picture's paths, routing and the bytes of its vector, by id."""
    rows = index.rows(stage)
    names = ("id", "paths", "task", "routes", "weights", "distances")
    columns = rows.columns(*names)
    vectors: Single = rows.vectors(columns["id"])
    return {
        row[0]: (*map(str, row[1:]), vector.tobytes())
        for row, vector in zip(zip(*columns.values(), strict=True), vectors, strict=True)
    }
