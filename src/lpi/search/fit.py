"""How well a picture fits a query, between 0 and 1: a half is where nonsense ends.

A cosine alone doesn't say: the best picture for meaningless words may score as high as one for words that fit. So each
stage of an index is asked some hundred queries without meaning, words drawn at random from the vocabulary of its model.
A picture's cosine with given words is measured against those with the words without meaning, in their standard
deviations, which follow from mean and covariance of their vectors. The mean over a query's :data:`FIRST` best is how
well its best picture fits, and a half is what all but :data:`NONSENSE` of the queries without meaning stay below: what
chance finds stands alone more often than what is meant. The other pictures fit less, by how much less they stand out.
Pictures are queried with differently: there, a half is how alike a picture of the index and its nearest are, in all but
:data:`LONERS` of them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.methods.base import Method
from lpi.search.encoding import Single, text_probes
from lpi.search.scoring import Probe
from lpi.search.table import Rows
from lpi.storage import read_tensors, write_tensors

QUERIES = 384  # without meaning, and as many pictures that are looked at
LEAST_PICTURES = 20  # below which nothing can be said
LEAST_WORDS = 1000  # likewise: to a model with few words, such as lpi-tiny, any of them mean something together
NEAR = 32  # pictures by cosine, among which the best are looked for
FIRST = 5
NONSENSE, LONERS = 0.03, 0.05
WELL = 0.5
FILE = "fit.safetensors"


@dataclass(frozen=True)
class Scale:
    """From how much a picture stands out to how well it fits."""

    half: float
    spread: float

    @classmethod
    def of(cls, seen: Single, share: float) -> Scale:
        """The scale on which ``share`` of what was seen is above a half."""
        return cls(float(np.quantile(seen, 1 - share)), max(float(seen.std()), 1e-6))

    def __call__(self, found: Single) -> Single:
        """How well pictures fit, [pictures]."""
        fits: Single = (1 / (1 + np.exp(-2 * (found - self.half) / self.spread))).astype(np.float32)
        return fits


@dataclass(frozen=True)
class Fit:
    """What was measured of a stage.

    Attributes:
        mean, covariance: of the vectors of words without meaning, [features] and [features, features].
        words, pictures: for queries of either kind.
    """

    mean: Single
    covariance: Single
    words: Scale
    pictures: Scale

    def __call__(self, probe: Probe, vectors: Single) -> list[float]:
        """How well pictures fit a query.

        Args:
            probe: the query.
            vectors: the nearest pictures' [pictures, features], at least :data:`NEAR` where there are so many.
        """
        cosines = vectors @ probe.vector.numpy()
        if probe.kind == "image":
            return [float(one) for one in self.pictures(cosines)]
        found = standing_out(cosines, vectors, self.mean, self.covariance)
        return [float(one) for one in self.words(found - found[:NEAR].max() + first(found[:NEAR]))]


def standing_out(cosines: Single, vectors: Single, mean: Single, covariance: Single) -> Single:
    """Cosines with one query, in standard deviations above those with words without meaning, [pictures].

    For a vector v, their mean is mean . v and their variance v^T covariance v: nothing need be kept of a picture.
    """
    spread = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", vectors, covariance, vectors), 1e-12))
    found: Single = ((cosines - vectors @ mean) / spread).astype(np.float32)
    return found


def first(found: Single) -> float:
    """The mean of the best few, or of all where there are fewer."""
    return float(np.sort(found)[-FIRST:].mean())


def meaningless(words: Sequence[str]) -> list[str]:
    """Queries of one to nine words, drawn from all of a vocabulary; always the same."""
    draw = random.Random(0)
    return [" ".join(draw.choice(words) for _ in range(draw.randint(1, 9))) for _ in range(QUERIES)]


class Fitting:
    """The :class:`Fit` of one stage, measured once and kept with its model.

    Args:
        place: the folder of the model; ``None`` keeps nothing.
    """

    def __init__(self, place: Path | None = None) -> None:
        self.place, self._lock = place, threading.Lock()
        self.known: Fit | None = None

    def recall(self, version: int) -> dict[str, Tensor]:
        """Take up what is kept, if it is of this version of the rows; returns all that is kept."""
        try:
            kept = {} if self.place is None else read_tensors(self.place / FILE)
            if int(kept["version"]) == version:
                self.known = _fit(kept["nonsense"], kept["scales"].tolist())
        except (MissingFileError, CheckpointError, KeyError):  # it is measured anew
            return {}
        return kept

    def measure(self, method: Method, rows: Rows, version: int) -> Fit | None:
        """What is known of a stage, measured if nobody did; ``None`` where too little is there to say.

        Args:
            method: the stage's model.
            rows: its pictures.
            version: of these.
        """
        with self._lock:
            words = method.backbone.inputs.words() if self.known is None else ()
            if self.known is None and len(rows) >= LEAST_PICTURES and len(words) >= LEAST_WORDS:
                nonsense = self.recall(version).get("nonsense")
                if nonsense is None:
                    nonsense = text_probes(method, meaningless(words), "plain").vectors
                if self.known is None:
                    scales = measured(nonsense, rows)
                    self.known = _fit(nonsense, scales)
                    self._keep(nonsense, scales, version)
            return self.known

    def _keep(self, nonsense: Tensor, scales: list[float], version: int) -> None:
        if self.place is None:
            return
        kept = {"nonsense": nonsense, "scales": torch.tensor(scales), "version": torch.tensor(version)}
        try:
            write_tensors(self.place / FILE, kept)
        except OutputError:  # somebody else's index: the next one measures again
            return


def _fit(nonsense: Tensor, scales: Sequence[float]) -> Fit:
    vectors = nonsense.numpy().astype(np.float32)
    mean, covariance = vectors.mean(axis=0), np.cov(vectors.T).astype(np.float32)
    return Fit(mean, covariance, Scale(*scales[:2]), Scale(*scales[2:]))


def measured(nonsense: Tensor, rows: Rows) -> list[float]:
    """Half and spread for words, then for pictures.

    Args:
        nonsense: vectors of words without meaning, [queries, features].
        rows: the pictures.
    """
    vectors = nonsense.numpy().astype(np.float32)
    fit, best = _fit(nonsense, (0.0, 1.0, 0.0, 1.0)), []
    for query, near in zip(vectors, _near(rows, vectors, NEAR), strict=True):
        best.append(first(standing_out(near @ query, near, fit.mean, fit.covariance)))
    own = rows.vectors(sorted(rows.columns("id")["id"])[:QUERIES])  # hashes: the first ones are as good as drawn
    alike = [np.sort(near @ one)[-2:].min() for one, near in zip(own, _near(rows, own, 2), strict=True)]
    words = Scale.of(np.asarray(best, dtype=np.float32), NONSENSE)
    pictures = Scale.of(np.asarray(alike, dtype=np.float32), 1 - LONERS)
    return [words.half, words.spread, pictures.half, pictures.spread]


def _near(rows: Rows, vectors: Single, count: int) -> list[Single]:
    """The vectors of the pictures nearest to each of some vectors, [count, features] each."""
    found: list[Single] = []
    for start in range(0, len(vectors), 64):
        each = rows.nearest_each(vectors[start : start + 64], count=count, where=None, exact=False, columns=("vector",))
        found += [np.asarray([row["vector"] for row in near], dtype=np.float32) for near in each]
    return found
