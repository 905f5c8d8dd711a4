"""An index on its way to another model, searched as one: new vectors as they are, old ones over a rotation.

``next`` in the folder of an index is an index of its own, with the new model, that grows until it takes the place of
the old one (:mod:`lpi.search.migration`). Once it holds enough of the pictures, queries are encoded by the new model
alone. They are compared with the new vectors as they are, and, rotated, with the old vectors of those pictures that
have no new one yet.

The rotation is learned from pictures that have vectors of both kinds. For a linear map that asks for no query: if a
rotation predicts new vectors of pictures from old ones, ``new = W old + shift``, then, but for what is the same for all
pictures, ``query . new = (W^T query) . old``, so words go over its transpose. Differs from Drift-Adapter (arXiv
2509.23471), where a query is taken to where the old model would have put *the query*: words then rank pictures as the
old model did.

Cosines of the two kinds don't lie on one scale: the two models spread their scores differently, and a rotation never
hits quite. But the pictures that it was learned from have vectors of both kinds, so every query tells by itself how
its two kinds of scores compare: those with the old vectors are moved and stretched until, over these pictures, mean
and standard deviation are those with the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lpi.backbones.given import PictureLike
from lpi.errors import ConfigError
from lpi.search.best import TIES, best_rows_each, check_count, in_order
from lpi.search.filters import Filters
from lpi.search.hits import Hit, Query, hit_of
from lpi.search.scoring import Probe
from lpi.search.snapshot import Snapshot, check_least
from lpi.search.table import IN_FILTER, Row

SAMPLE = 1000  # pictures from which a rotation is learned well enough to be searched over
MOST = 4000  # pictures that it is learned from where there are more
LEAST = 20  # pictures below which there is nothing to learn from


def enough(ready: int, pictures: int) -> bool:
    """Whether so many new vectors, of so many pictures, are enough to search with the new model."""
    return ready >= max(LEAST, min(SAMPLE, pictures // 2))


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
class Bridge:
    """A map from the new model's queries to the old model's vectors.

    Attributes:
        new, old: vectors of the pictures that it was learned from, [pictures, new features] and [.., old features].
        rotation: [new features, old features].
    """

    new: Tensor
    old: Tensor
    rotation: Tensor

    @classmethod
    def learn(cls, new: Tensor, old: Tensor) -> Bridge:
        """The rotation that brings new vectors nearest to old ones, but for a shift, by least squares.

        It is U V^T of the SVD of new^T old, both centred: a shift moves all scores of a query alike.
        """
        centred = [own.double() - own.double().mean(dim=0) for own in (new, old)]  # [pictures, features]
        left, _, right = torch.linalg.svd(centred[0].T @ centred[1], full_matrices=False)
        return cls(new, old, (left @ right).float())

    def carry(self, query: Tensor) -> tuple[Tensor, Scale]:
        """A query [new features] as one for old vectors [old features], and what takes its scores to the new scale."""
        over = functional.normalize(query @ self.rotation, dim=0)
        return over, scale_like(self.old @ over, self.new @ query)


class Pair:
    """Two snapshots of one folder under two models, searched as one; for its calls see :class:`Snapshot`.

    Args:
        old: all pictures but those that came since the move began.
        new: those that have a new vector.
        bridge: from queries of the new model to vectors of the old one.
    """

    def __init__(self, old: Snapshot, new: Snapshot, bridge: Bridge) -> None:
        self.old, self.new, self.bridge = old, new, bridge

    @property
    def side(self) -> int:
        """See :class:`Snapshot`."""
        return self.new.side

    def encode_texts(self, texts: str | Sequence[str], scoring: str) -> list[Query]:
        """See :class:`Snapshot`."""
        return self._as_current(self.new.encode_texts(texts, scoring))

    def encode_images(self, images: PictureLike | Sequence[PictureLike], scoring: str) -> list[Query]:
        """See :class:`Snapshot`."""
        return self._as_current(self.new.encode_images(images, scoring))

    def _as_current(self, queries: list[Query]) -> list[Query]:
        return [replace(query, stage=self.old.stage.number) for query in queries]

    def find(
        self,
        probes: Sequence[Probe],
        k: int,
        filters: Filters | None = None,
        *,
        exact: bool = False,
        least: float | None = None,
    ) -> list[list[Hit]]:
        """See :class:`Snapshot`.

        Raises:
            ConfigError: a query was encoded for another way of scoring than ``plain``, ``k`` is less than 1, or
                ``least`` is given: scores of two models say nothing of that.
            UnknownNameError: the filter names a task that neither model knows.
        """
        check_count(k)
        if least is not None:
            check_least(least, known=False)
        filters = self._filters(filters)
        if any(probe.membership is not None for probe in probes):
            raise ConfigError("while the index moves to another model, scoring must be plain. See: lpi migrate")
        return [self._find(probe.vector, k, filters, exact) for probe in probes]

    def _filters(self, given: Filters | None) -> Filters:
        filters = given or Filters()
        filters.check([*self.old.tasks, *self.new.tasks])
        return filters.in_folder(
            lambda where: self.old.rows.any(where) or self.new.rows.any(where),
            lambda: {*self.old.rows.folders(), *self.new.rows.folders()},
        )

    def measure(self) -> bool:
        """See :class:`Snapshot`: of two models nothing is measured."""
        return False

    def similar(self, key: str, k: int, filters: Filters | None = None, *, exact: bool = False) -> list[Hit]:
        """See :class:`Snapshot`: old vectors are compared, and the new one of a picture that has no other."""
        if self.old.rows.known([key]):
            return self.old.similar(key, k, filters, exact=exact)
        self.new.picture(key)
        vector = torch.from_numpy(self.new.rows.vectors([key])[0])
        return self._find(vector, k, self._filters(filters), exact, without=key)

    def picture(self, key: str) -> Hit:
        """See :class:`Snapshot`."""
        return (self.old if self.old.rows.known([key]) else self.new).picture(key)

    def rank_captions(self, image: PictureLike, captions: Sequence[str], scoring: str) -> list[tuple[str, float]]:
        """See :class:`Snapshot`."""
        return self.new.rank_captions(image, captions, scoring)

    def _find(self, query: Tensor, k: int, filters: Filters, exact: bool, without: str | None = None) -> list[Hit]:
        """The best k pictures of both halves, of which the new one counts for pictures that are in both."""

        def best(half: Snapshot, vector: Tensor, count: int) -> list[Row]:
            if filters.task and filters.task not in half.tasks:
                return []
            return best_rows_each(half.rows, [Probe(vector)], count, filters, exact, without)[0]

        over, scale = self.bridge.carry(query)
        fresh = best(self.new, query, k + TIES)
        rows = merged(fresh, k, lambda count: best(self.old, over, count), scale, self.new.rows.known)
        return [hit_of(row) for row in rows]


def merged(
    fresh: Sequence[Row],
    k: int,
    old: Callable[[int], list[Row]],
    scale: Callable[[float], float],
    known: Callable[[list[str]], set[str]],
) -> list[Row]:
    """The best k rows of two tables, of which the first one counts for pictures that are in both.

    How many of the second's best rows are in the first isn't known beforehand, so more of them are asked for until no
    further one can be among the best k.

    Args:
        fresh: the best k rows of the first table, or all where there are fewer.
        k: how many are wanted.
        old: gives so many of the best rows of the second table, best first.
        scale: takes the second's scores to the first's scale, rising.
        known: which of some ids the first table has.
    """
    count = k + TIES
    while True:
        rows = old(count)
        done = known([row["id"] for row in rows])
        waiting: list[Row] = [{**row, "score": scale(row["score"])} for row in rows if row["id"] not in done]
        both = in_order([*fresh, *waiting])[:k]
        certain = len(both) == k and bool(rows) and scale(rows[-1]["score"]) < both[-1]["score"]
        if certain or len(rows) < count:
            return both
        count *= 4


def pair_of(old: Snapshot, new: Snapshot) -> Pair | None:
    """Two snapshots as one, if :func:`enough` of the pictures have vectors of both kinds to learn a rotation from."""
    ids = sorted(new.rows.columns("id")["id"])  # hashes: the first ones are as good as drawn
    known = old.rows.known(ids)
    shared = [key for key in ids if key in known]
    if not enough(len(shared), len(old.rows)):
        return None
    parts = [shared[start : start + IN_FILTER] for start in range(0, min(len(shared), MOST), IN_FILTER)]
    vectors = [np.concatenate([half.rows.vectors(part) for part in parts]) for half in (new, old)]
    return Pair(old, new, Bridge.learn(*map(torch.from_numpy, vectors)))
