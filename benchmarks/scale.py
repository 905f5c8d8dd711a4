"""What grows with what: tasks, prompt tokens, pictures in the gallery, pairs in a batch.

    python benchmarks/scale.py --results results/scale.json

The embedded model and drawn pictures; seconds are medians of repetitions, one thing changed at a time.

- ``tasks``: LPI (preset best) that has learned 1 to 200 tasks: milliseconds to route and encode a text and a picture
  (of 64 at once, and of one alone), seconds to save and to load it, numbers and megabytes that it keeps. Tasks are
  learned in a step each from eight pictures: what they cost later doesn't depend on how well they were learned.
- ``prompts``: milliseconds of a training step of 32 pairs, and to encode 64 pictures, with 1 to 64 tokens a layer.
- ``batch``: pairs a second in training, by pairs in a batch.
- ``gallery``: milliseconds of an exact search for ten of so many vectors of 512 numbers in half precision, which read
  the matrix once: the share of the memory's rate that is reached stands beside it.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

import lpi
from lpi.config import TrainingSettings
from lpi.evaluation.machine import environment
from lpi.features import TrainingSet
from lpi.methods.base import Method, begin, stored_parameters
from lpi.search.matrix import Matrix
from lpi.storage import write_json
from lpi.tasks.stream import TaskStream

TASKS, PROMPTS, BATCHES = (1, 10, 50, 100, 200), (1, 4, 16, 64), (8, 32, 128, 256)
GALLERIES = (1_000, 10_000, 100_000, 1_000_000)
WIDTH, FIRST, ENCODED = 512, 10, 64


def median(act: Callable[[], object], repeats: int) -> float:
    """Milliseconds, the first time left out."""
    act()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(taken), 3)


def pictures(count: int) -> tuple[list[Any], list[str], TaskStream]:
    stream = TaskStream.from_scenes(families=["food"], train=count, validation=0, test=0, held_out=0)
    records = stream.tasks[0].train
    return [record.picture.open() for record in records], [record.captions[0] for record in records], stream


def of_tasks(numbers: tuple[int, ...], repeats: int) -> dict[str, Any]:
    images, texts, stream = pictures(ENCODED)
    task = replace(stream.tasks[0], train=stream.tasks[0].train[:8])
    method: Method = lpi.method("lpi", "lpi-tiny", preset="best")
    found: dict[str, Any] = {}
    for number in range(1, max(numbers) + 1):
        method.learn(task, name=f"task {number}", steps=1, batch=8, seed=number)
        if number not in numbers:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            save = median(lambda folder=folder: method.save_pretrained(folder), 1)  # type: ignore[misc]
            load = median(lambda folder=folder: lpi.load(folder), 1)  # type: ignore[misc]
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
        found[str(number)] = {
            "texts_ms": median(lambda: method.encode_texts(texts), repeats),
            "pictures_ms": median(lambda: method.encode_images(images), repeats),
            "one_text_ms": median(lambda: method.encode_texts(texts[:1]), repeats),
            "one_picture_ms": median(lambda: method.encode_images(images[:1]), repeats),
            "save_seconds": round(save / 1000, 3),
            "load_seconds": round(load / 1000, 3),
            "stored_numbers": stored_parameters(method),
            "megabytes": round(size, 2),
        }
        print(number, found[str(number)], file=sys.stderr, flush=True)
    return found


def step_of(size: int, length: int) -> tuple[Callable[[], object], Method]:
    """A training step of so many pairs, decoded beforehand, and the method that takes it."""
    _, _, stream = pictures(size)
    method: Method = lpi.method("lpi", "lpi-tiny", length=length)
    training = TrainingSet(stream.tasks[0], method.backbone)
    settings = TrainingSettings(batch=size)
    begin(method, training.data(1, training.once_more(method, settings)), torch.Generator().manual_seed(0))
    batch = next(iter(training.epochs(method, settings)(seed=0, epoch=0)))
    optimiser = torch.optim.AdamW(method.trainable(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        torch.stack(list(method.loss(batch).values())).sum().backward()
        optimiser.step()

    return step, method


def of_prompts(numbers: tuple[int, ...], repeats: int) -> dict[str, Any]:
    images, _, stream = pictures(ENCODED)
    found = {}
    for length in numbers:
        step, _ = step_of(32, length)
        method: Method = lpi.method("lpi", "lpi-tiny", length=length)
        method.learn(replace(stream.tasks[0], train=stream.tasks[0].train[:8]), steps=1, batch=8)
        found[str(length)] = {
            "step_ms": median(step, repeats),
            "pictures_ms": median(lambda own=method: own.encode_images(images), repeats),  # type: ignore[misc]
        }
        print(length, found[str(length)], file=sys.stderr, flush=True)
    return found


def of_batches(sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    found = {}
    for size in sizes:
        taken = median(step_of(size, 16)[0], repeats)
        found[str(size)] = {"step_ms": taken, "pairs_per_second": round(1000 * size / taken, 1)}
        print(size, found[str(size)], file=sys.stderr, flush=True)
    return found


def of_galleries(sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    found = {}
    rate = memory_rate(repeats)
    for size in sizes:
        vectors = torch.empty(size, WIDTH, dtype=torch.float16)
        generator = torch.Generator().manual_seed(0)
        for own in vectors.split(100_000):
            own.copy_(normalize(torch.randn(len(own), WIDTH, generator=generator)))
        matrix = Matrix(vectors, np.arange(size, dtype=np.int64))
        query = torch.randn(1, WIDTH, generator=generator).numpy()
        taken = median(lambda own=matrix, asked=query: own.candidates(asked, FIRST), repeats)  # type: ignore[misc]
        share = vectors.nbytes / (taken / 1000) / rate
        found[str(size)] = {
            "ms": taken,
            "megabytes": round(vectors.nbytes / 2**20, 1),
            "of_memory_rate": round(share, 3),
        }
        print(size, found[str(size)], file=sys.stderr, flush=True)
    return found


def memory_rate(repeats: int) -> float:
    """Bytes a second at which a gigabyte is read: its sum, by all threads."""
    held = torch.ones(2**28)
    return float(held.nbytes / (median(held.sum, repeats) / 1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--galleries", type=int, nargs="+", default=GALLERIES)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--results", type=Path)
    choices = parser.parse_args()
    figures = {
        "tasks": of_tasks(tuple(choices.tasks), choices.repeats),
        "prompts": of_prompts(PROMPTS, choices.repeats),
        "batch": of_batches(BATCHES, choices.repeats),
        "gallery": of_galleries(tuple(choices.galleries), choices.repeats),
        "command": " ".join(["python", "benchmarks/scale.py", *map(shlex.quote, sys.argv[1:])]),
        **environment(),
    }
    if choices.results is not None:
        write_json(choices.results, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
