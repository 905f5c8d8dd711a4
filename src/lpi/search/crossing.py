"""An index on its way to another model, searched as one: old vectors over a bridge, new ones as they are.

``next`` in the folder of an index is an index of its own, with the new model, that grows until it takes the place of
the old one (:mod:`lpi.search.migration`). As soon as the bridge is learned, ``next/bridge.json`` says so: from then on
a query is encoded by the new model alone. It is compared with the new vectors as it is, and, taken over the bridge,
with the old vectors of those pictures that have no new one yet.

Cosines of the two kinds don't lie on one scale: the two models spread their scores differently, and a bridge never
hits quite. But the sample's pictures have vectors of both kinds, so every query tells by itself how its two kinds of
scores compare: those with the old vectors are moved and stretched until, over the sample, mean and standard deviation
are those with the new ones. One line for all queries, fitted on the sample, was tried and mixes the two halves less
well (``benchmarks/search_bridge.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpi.errors import CheckpointError
from lpi.search.bridge import KINDS, Bridge, Pairs
from lpi.search.identity import tensors_hash
from lpi.search.manifest import NEXT, Manifest, successor
from lpi.storage import read_json, read_tensors, write_json, write_tensors

FILE = "bridge.json"
FORMAT = 1
ABOUT = ("old", "new", "sample", "kept")
ANCHORS = ("anchors.new", "anchors.old")


@dataclass(frozen=True)
class Scale:
    """A line, rising: takes the scores of one kind to the scale of another."""

    slope: float
    offset: float

    def __call__(self, score: float) -> float:
        """A score on the other scale."""
        return self.slope * score + self.offset


def scale_like(found: Tensor, wanted: Tensor) -> Scale:
    """The line that gives some scores [pictures] mean and standard deviation of others [pictures]."""
    spread = float(found.std(correction=0))
    slope = float(wanted.std(correction=0)) / spread if spread > 1e-6 else 1.0
    slope = max(slope, 1e-3)  # rising, so that the order stays as it is
    return Scale(slope, float(wanted.mean()) - slope * float(found.mean()))


@dataclass(frozen=True)
class Crossing:
    """What is needed to search an index on its way.

    Attributes:
        bridge: takes the new model's queries to the old vectors.
        anchors: both models' vectors of the sample's pictures.
        old, new: what stands for the two models.
        sample: how the bridge was learned, as plain values: kind, sample and seed as they were asked for.
        kept: what was measured on the held-out part of the sample.
    """

    bridge: Bridge
    anchors: Pairs
    old: str
    new: str
    sample: dict[str, Any]
    kept: dict[str, Any]

    @torch.no_grad()
    def carry(self, query: Tensor) -> tuple[Tensor, Scale]:
        """A query of the new model [new features] as one for old vectors [old features], and how to read its scores."""
        over = self.bridge(query[None])[0]
        return over, scale_like(self.anchors.old @ over, self.anchors.new @ query)


def save_crossing(folder: Path, crossing: Crossing) -> None:
    """Let it count: the file of tensors, named by its content, then the one that names it.

    Args:
        folder: of the new index.
        crossing: what to save.
    """
    tensors = crossing.bridge.tensors() | dict(zip(ANCHORS, (crossing.anchors.new, crossing.anchors.old), strict=True))
    digest = tensors_hash(tensors)
    write_tensors(folder / f"bridge-{digest}.safetensors", tensors)
    about = {name: getattr(crossing, name) for name in ABOUT}
    write_json(folder / FILE, {"format": FORMAT, "kind": crossing.bridge.kind, "tensors": digest, **about})
    for other in folder.glob("bridge-*.safetensors"):
        if other.name != f"bridge-{digest}.safetensors":
            other.unlink()


def load_crossing(folder: Path, *, old: str, new: str) -> Crossing:
    """What :func:`save_crossing` wrote.

    Args:
        folder: of the new index.
        old, new: the models that it must be a bridge between.

    Raises:
        MissingFileError, CheckpointError: it isn't there, is damaged, or belongs to other models.
    """
    about = read_json(folder / FILE)
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("kind") not in KINDS:
        raise CheckpointError(f"{folder / FILE} isn't of format {FORMAT}, the one this version reads. Migrate again.")
    for side, wanted in (("old", old), ("new", new)):
        if about[side] != wanted:
            raise CheckpointError(
                f"{folder / FILE} bridges from model {about['new']} to model {about['old']}, but the {side} one is "
                f"{wanted}. Give up the migration with --abandon and begin it again."
            )
    file = folder / f"bridge-{about['tensors']}.safetensors"
    tensors = read_tensors(file)
    if tensors_hash(tensors) != about["tensors"]:
        raise CheckpointError(f"{file} doesn't hold what {FILE} says. Take both from one backup, or migrate again.")
    anchors = Pairs(*(tensors.pop(name) for name in ANCHORS))
    return Crossing(KINDS[about["kind"]](**tensors), anchors, **{name: about[name] for name in ABOUT})


def is_crossing(folder: Path, manifest: Manifest) -> bool:
    """Whether an index can be searched with the model that it is on its way to."""
    return (folder / NEXT / FILE).is_file() and successor(folder, manifest) is not None
