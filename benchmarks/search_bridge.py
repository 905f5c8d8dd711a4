"""How much of a new backbone's recall its queries keep over a rotation to old vectors, before all is embedded again.

    python benchmarks/search_bridge.py --small
    python benchmarks/search_bridge.py --real FOLDER --results results/search_bridge.json
    python benchmarks/search_bridge.py --real FOLDER --large --results results/search_bridge_large.json

Pairs of an old and a new backbone: the embedded one before and after a short alignment, and at two input sizes; with
``--real`` the same with the backbone FOLDER/backbones/dino-minilm on the photographs of FOLDER/flickr8k; with
``--large`` two upgrades worth making. A part of the pictures is the sample that the rotation is learned from, captions
of other pictures are the queries. For each pair:

- ``full``: recall when everything is embedded again; ``stale``: recall when nothing changes, old queries on old
  vectors; ``bridges``, ``procrustes`` (the rotation): by sample size, over several samples, the share of the full
  recall@10 that new queries on old vectors reach (``recall_at_10_kept``), and the share of the new model's own first
  ten that are among the ten found (``overlap_at_10``, for captions and for pictures as queries);
- ``on_the_way``, ``mixing``: overlap while a random part of the pictures has new vectors, by whether the two kinds of
  scores are brought to one scale.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from search_data import with_store
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, VisionTextDualEncoderModel

import lpi
from lpi.backbones.align import align
from lpi.backbones.loading import load_backbone, locate, quiet
from lpi.data.records import CaptionedImage
from lpi.data.scenes import load_scenes
from lpi.data.source import load_source
from lpi.evaluation.machine import environment
from lpi.evaluation.ranking import count_ranks, recall_at
from lpi.search.pair import Bridge
from lpi.storage import write_json
from lpi.tasks.relevance import relevance

FIRST = 10
KIND = "procrustes"  # the only one left; results of before have others beside it
BATCH = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with flickr8k and backbones/dino-minilm")
    parser.add_argument("--large", action="store_true", help="only the large upgrades, with --real")
    parser.add_argument("--small", action="store_true", help="few pictures, in a minute or two")
    parser.add_argument("--pictures", type=int, default=4000, help="of a gallery, the sample among them")
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 100, 250, 500, 1000, 2000])
    parser.add_argument("--seeds", type=int, default=3, help="samples of each size")
    parser.add_argument("--results", type=Path, default=Path("results/search_bridge.json"))
    options = parser.parse_args()
    if options.small:
        options.pictures, options.samples, options.seeds = 240, [50, 100], 2
    return options


# ---- two models, and what they make of pictures and words ------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What one model made of everything."""

    pictures: Tensor
    captions: Tensor


@dataclass(frozen=True)
class World:
    """Pictures and captions; the first ``test`` pictures are those that the captions were written for."""

    records: Sequence[CaptionedImage]
    test: int
    captions: list[str]
    pairs: Tensor


def world_of(test: Sequence[CaptionedImage], others: Sequence[CaptionedImage], captions: int) -> World:
    few = [CaptionedImage(r.picture, r.captions[:captions], r.task, r.split) for r in test]
    texts, _, pairs = relevance(few, equal_captions=True)
    return World([*test, *others], len(test), texts, torch.from_numpy(pairs))


def made(world: World, method: lpi.Method) -> Made:
    """Vectors as an index would hold them, and queries as it would encode them."""
    side, pictures = min(method.backbone.inputs.image_size), []
    for start in range(0, len(world.records), BATCH):
        opened = [record.picture.open(side) for record in world.records[start : start + BATCH]]
        pictures.append(method.encode_images(opened).float())
        print(f"  {start + len(opened)}/{len(world.records)}", end="\r", file=sys.stderr, flush=True)
    return Made(torch.cat(pictures), method.encode_texts(world.captions).float())


def realigned(source: str | Path, records: Sequence[CaptionedImage], out: Path, **options: Any) -> Path:
    """The towers of a backbone with projections that were learned anew, and briefly."""
    path = locate(source)
    kind = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
    with quiet():
        model = (CLIPModel if kind == "clip" else VisionTextDualEncoderModel).from_pretrained(path, dtype=torch.float32)
        for tower, part, beside in (
            ("vision", model.vision_model, AutoImageProcessor.from_pretrained(path, backend="pil")),
            ("text", model.text_model, AutoTokenizer.from_pretrained(path)),
        ):
            part.save_pretrained(out / tower)
            beside.save_pretrained(out / tower)
    return align(out / "vision", out / "text", records, out=out / "joined", batch=128, **options).path


def plain(source: str | Path, image_size: int | None = None) -> lpi.Method:
    return lpi.method("lpi", load_backbone(source, image_size=image_size))


# ---- what a bridge keeps ---------------------------------------------------------------------------------------------


def recalls(world: World, scores: Tensor) -> dict[str, float]:
    ranks = count_ranks(lambda start, stop: scores[start:stop], len(scores), world.pairs)
    return {str(k): round(recall_at(k, ranks), 4) for k in (1, 5, FIRST)}


def without_itself(scores: Tensor) -> Tensor:
    """Scores of the first pictures as queries; a picture is always nearest to itself."""
    scores[torch.arange(len(scores)), torch.arange(len(scores))] = -2.0
    return scores


def kept_at(k: int, found: Tensor, wanted: Tensor) -> float:
    """How many of each query's first k under some scores are among its first k under others, as a share."""
    first, right = found.topk(k, dim=1).indices, wanted.topk(k, dim=1).indices
    return float((first[:, :, None] == right[:, None, :]).any(dim=2).double().mean())


class Judge:
    """Holds what is found over a rotation against what the new model finds."""

    def __init__(self, world: World, old: Made, new: Made) -> None:
        self.world, self.old, self.new = world, old, new
        self.right = new.captions @ new.pictures.T
        self.right_images = without_itself(new.pictures[: world.test] @ new.pictures.T)
        self.full = recalls(world, self.right)

    def of(self, texts: Tensor, images: Tensor) -> dict[str, Any]:
        """Figures of captions [texts, old features] and of pictures [images, old features] on old vectors."""
        found = texts @ self.old.pictures.T
        recall = recalls(self.world, found)
        return {
            "recall": recall,
            "recall_at_10_kept": round(recall["10"] / self.full["10"], 4),
            "overlap_at_10": {
                "text": round(kept_at(FIRST, found, self.right), 4),
                "image": round(kept_at(FIRST, without_itself(images @ self.old.pictures.T), self.right_images), 4),
            },
        }

    def stale(self) -> dict[str, Any]:
        return self.of(self.old.captions, self.old.pictures[: self.world.test])

    def sample(self, count: int, seed: int) -> Tensor:
        """Rows of pictures that no caption was written for."""
        return torch.tensor(random.Random(seed).sample(range(self.world.test, len(self.world.records)), count))

    def bridge(self, rows: Tensor) -> Bridge:
        return Bridge.learn(self.new.pictures[rows], self.old.pictures[rows])

    def rotated(self, count: int, seed: int) -> dict[str, Any]:
        bridge = self.bridge(self.sample(count, seed))
        return self.of(*(over(bridge, own) for own in (self.new.captions, self.new.pictures[: self.world.test])))


def over(bridge: Bridge, queries: Tensor) -> Tensor:
    return torch.stack([bridge.carry(query)[0] for query in queries])


def mean_of(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of figures that are laid out alike, and what recall_at_10_kept was each time."""

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([value[key] for value in values]) for key in values[0]}
        return round(sum(values) / len(values), 4)

    return {**mean(figures), "recall_at_10_kept_each": [figure["recall_at_10_kept"] for figure in figures]}


def mixing(judge: Judge, count: int) -> dict[str, Any]:
    """Overlap while a part of the pictures has new vectors; the sample's always have."""
    rows = judge.sample(count, 0)
    bridge = judge.bridge(rows)
    carried = [bridge.carry(query) for query in judge.new.captions]
    raw = torch.stack([query for query, _ in carried]) @ judge.old.pictures.T
    lines = torch.tensor([[scale.slope, scale.offset] for _, scale in carried])
    scaled = lines[:, :1] * raw + lines[:, 1:]
    rest = torch.ones(len(judge.world.records), dtype=torch.bool)
    rest[rows] = False
    order = rest.nonzero()[:, 0]
    order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0))]
    found = {}
    for share in (0.1, 0.25, 0.5, 0.75):
        new = ~rest
        new[order[: round(share * len(order))]] = True
        ways = {"as_they_are": raw, "by_query": scaled}
        found[str(share)] = {
            name: round(kept_at(FIRST, torch.where(new, judge.right, scores), judge.right), 4)
            for name, scores in ways.items()
        }
    return found


def compare(name: str, world: World, old: Made, new: Made, options: argparse.Namespace) -> dict[str, Any]:
    print(name, file=sys.stderr)
    judge = Judge(world, old, new)
    samples = [count for count in options.samples if count <= len(world.records) - world.test]
    return {
        "pictures": len(world.records),
        "captions": len(world.captions),
        "features": {"old": old.pictures.shape[1], "new": new.pictures.shape[1]},
        "full": {"recall": judge.full},
        "stale": judge.stale(),
        "bridges": {
            KIND: {str(count): mean_of([judge.rotated(count, n) for n in range(options.seeds)]) for count in samples}
        },
        "on_the_way": {KIND: {"sample": samples[-1], "mixing": mixing(judge, samples[-1])}},
    }


def scenes(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The embedded backbone on the embedded world."""
    families = 12
    train, test = 3 * options.pictures // (4 * families), options.pictures // (4 * families)
    records = load_scenes(train=train, validation=24, test=test, held_out=0)
    split = {name: [r for r in records if r.split == name] for name in ("train", "validation", "test")}
    world = world_of(split["test"], split["train"], captions=2)
    joined = realigned("lpi-tiny", split["validation"], work / "tiny", feature_width=96, epochs=10)
    new = plain("lpi-tiny")
    now = made(world, new)
    return {
        "scenes: aligned briefly, 96 features -> lpi-tiny": compare(
            "scenes, alignment", world, made(world, plain(joined)), now, options
        ),
        "scenes: lpi-tiny at 120 pixels -> at 96": compare(
            "scenes, size", world, made(world, plain("lpi-tiny", 120)), now, options
        ),
    }


def real(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """A backbone that was trained on photographs, on photographs."""
    source = options.real / "backbones" / "dino-minilm"
    records = load_source(options.real / "flickr8k")
    chance = random.Random(0)
    test = [r for r in records if r.split == "test"][: options.pictures // 4]
    train = [r for r in records if r.split == "train"]
    chance.shuffle(train)
    others, aligned = train[: options.pictures - len(test)], train[-min(1000, options.pictures) :]
    world = world_of(test, others, captions=2)
    joined = realigned(source, aligned, work / "real", feature_width=192, epochs=10)
    new = plain(source)
    now = made(world, new)
    return {
        "flickr8k: dino-minilm aligned briefly, 192 features -> dino-minilm": compare(
            "flickr8k, alignment", world, made(world, plain(joined)), now, options
        ),
        "flickr8k: dino-minilm at 140 pixels -> at 112": compare(
            "flickr8k, size", world, made(world, plain(source, 140)), now, options
        ),
    }


def large(options: argparse.Namespace) -> dict[str, Any]:
    """Upgrades worth making, on photographs: another family of model, and twice the side of the input."""
    source = options.real / "backbones" / "dino-minilm"
    records = load_source(options.real / "flickr8k")
    test = [r for r in records if r.split == "test"][: options.pictures // 4]
    train = [r for r in records if r.split == "train"]
    random.Random(0).shuffle(train)
    world = world_of(test, train[: options.pictures - len(test)], captions=2)
    small = plain(source)
    now = made(world, small)
    return {
        "flickr8k: lpi-tiny -> dino-minilm": compare(
            "flickr8k, another model", world, made(world, plain("lpi-tiny")), now, options
        ),
        "flickr8k: dino-minilm at 112 pixels -> at 224": compare(
            "flickr8k, twice the side", world, now, made(world, plain(source, 224)), options
        ),
    }


def main() -> None:
    options = arguments()
    work = Path(tempfile.mkdtemp(prefix="lpi-bridge-"))
    started = time.monotonic()
    try:
        if options.large:
            pairs = large(options)
        else:
            pairs = scenes(options, work)
            if options.real is not None:
                pairs |= real(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    write_json(
        options.results,
        {
            "pairs": pairs,
            "seeds": list(range(options.seeds)),
            "seconds": round(time.monotonic() - started, 1),
            "command": "python benchmarks/search_bridge.py " + " ".join(sys.argv[1:]),
            **with_store(environment()),
        },
    )
    print(f"Written to {options.results}")


if __name__ == "__main__":
    main()
