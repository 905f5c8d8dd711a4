"""Of the rate at which the model alone computes, how much is left from picture files to vectors, and to a trained task?

    python benchmarks/pipeline.py --results results/pipeline.json

JPEG files of 640 x 480 pixels are drawn (smooth shapes and noise, 60 to 90 kB each). ``embed``: the whole of
`lpi.search.embedding.Embedder`, from files to features in a store, over the rate at which its encoder alone embeds
batches that are there already. ``train``: an epoch of the trainer from the files, nothing kept in memory, over one
whose pictures are. Both are measured in turn, pair by pair; ratios are medians of pairs. Models: ViT-B/16's shapes with
random weights, and ``lpi-tiny``.

``reachable`` is what processor time allows: decoding has to be done by the same cores as the model's work, so that of
the model's rate model / (model + rest) is left, where nothing ever waits. The seconds of processor time that both take
for a picture stand beside it. ``share_of_reachable`` above 1 is possible where the model alone leaves cores idle.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from step import CLIP_B16, models
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.backbones.loading import load_backbone
from lpi.data.content import content_id
from lpi.data.records import CaptionedImage, FilePicture
from lpi.evaluation.machine import environment
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.search.embedding import Embedder, Job
from lpi.search.encoding import Encoder
from lpi.search.routes import Routes
from lpi.storage import write_json
from lpi.tasks.batches import PictureStore
from lpi.tasks.stream import Task
from lpi.trainer import learn_task, training_for

MODELS = ("vit_b16", "lpi-tiny")
BATCH = 32


@dataclass(frozen=True)
class Cost:
    """What a picture costs: seconds on the clock, and of processor time."""

    wall: float
    processor: float


def draw(folder: Path, files: int) -> list[Path]:
    """JPEG files of 640 x 480 pixels, all different."""
    paths = []
    for number in range(files):
        chance = np.random.default_rng(number)
        shapes = Image.fromarray(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        noisy = np.asarray(shapes) + chance.normal(0, 8, (480, 640, 3))
        paths.append(folder / f"{number:05d}.jpg")
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(paths[-1], quality=88)
    return paths


def cost(work: Callable[[], object], pictures: int) -> Cost:
    """What each picture of some work costs."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - wall) / pictures, (time.process_time() - processor) / pictures)


class Nowhere:
    """A store that keeps nothing: writing isn't the pipeline's."""

    def known(self, key: str) -> set[str]:
        """Nothing is."""
        return set()

    def keep(self, key: str, ids: list[str], features: Any, **about: Any) -> None:
        """It isn't."""


def embedding(backbone: DualEncoder, paths: list[Path]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Files to features, and the model's part of that alone."""
    encoder = Encoder(method("lpi", backbone), batch=BATCH)  # untaught, as `lpi index` begins
    jobs = [Job(content_id(path), (path,), None) for path in paths]
    height, width = backbone.inputs.image_size
    ready = torch.randint(0, 256, (BATCH, 3, height, width), dtype=torch.uint8)

    def whole() -> None:
        store: Any = Nowhere()
        found = Embedder(Routes(encoder, store)).run(jobs)
        assert found.embedded == len(jobs), found.problems

    def alone() -> None:
        for start in range(0, len(jobs), BATCH):
            part: Tensor = ready[: min(BATCH, len(jobs) - start)]
            encoder.read(part)

    return whole, alone


def training(backbone: DualEncoder, paths: list[Path]) -> tuple[Callable[[], object], Callable[[], object]]:
    """An epoch of LPI from files, and one from pictures that are in memory."""
    records = tuple(
        CaptionedImage(FilePicture(path, path.name), (f"a picture {number}",)) for number, path in enumerate(paths)
    )
    kept = TrainingSet(Task("drawn", records, (), ()), backbone, batch=BATCH)
    fresh = TrainingSet(Task("drawn", records, (), ()), backbone, batch=BATCH)
    inputs = backbone.inputs
    fresh.store = PictureStore(
        [record.picture for record in records], inputs.prepare, side=min(inputs.image_size), memory_bytes=0
    )
    kept.store.pixels(range(len(kept)))
    for name in ("image_features", "text_features"):  # what both need before the first step
        setattr(fresh, name, getattr(kept, name))

    def epoch(data: TrainingSet) -> None:
        learner = method("lpi", backbone, router=None)
        learn_task(learner, data, settings=training_for(type(learner), {"epochs": 1, "batch": BATCH}))

    return lambda: epoch(fresh), lambda: epoch(kept)


def compared(whole: Callable[[], object], alone: Callable[[], object], pictures: int, pairs: int) -> dict[str, float]:
    """The share of the model's rate that the whole has, and what is reachable."""
    whole(), alone()  # the first calls allocate and pick kernels
    measured = [(cost(whole, pictures), cost(alone, pictures)) for _ in range(pairs)]

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 5)

    share = median([model.wall / own.wall for own, model in measured])
    reachable = median([min(1.0, model.processor / own.processor) for own, model in measured])
    return {
        "share_of_model_rate": share,
        "reachable": reachable,
        "share_of_reachable": round(share / reachable, 3),
        "pictures_per_second": median([1 / own.wall for own, _ in measured]),
        "processor_seconds_a_picture": median([own.processor for own, _ in measured]),
        "of_these_the_model": median([model.processor for _, model in measured]),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="pictures to embed; a quarter of them are learned from")
    parser.add_argument("--pairs", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--results", type=Path, help="also write the figures to this JSON file")
    choices = parser.parse_args()
    figures: dict[str, Any] = {"embed": {}, "train": {}}
    with tempfile.TemporaryDirectory(prefix="lpi-pipeline-") as work:
        paths = draw(Path(work), choices.files)
        for name in choices.models:
            backbone = models(CLIP_B16)[0] if name == "vit_b16" else load_backbone(name)
            few = paths[: max(BATCH, len(paths) // 4)]
            for part, (make, own) in {"embed": (embedding, paths), "train": (training, few)}.items():
                figures[part][name] = compared(*make(backbone, own), len(own), choices.pairs)
                print(part, name, figures[part][name], file=sys.stderr, flush=True)
    command = " ".join(["python", "benchmarks/pipeline.py", *map(shlex.quote, sys.argv[1:])])
    figures |= {"files": choices.files, "pairs": choices.pairs, "command": command, **environment()}
    if choices.results is not None:
        write_json(choices.results, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
