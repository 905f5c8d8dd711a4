"""The score of a query and a candidate: the cosine of their vectors, and whether they belong to the same tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """What of items is compared: of queries, or of the candidates that they are compared with.

    Attributes:
        vector: L2-normalised, [items, features].
        membership: how much each belongs to each task, [items, tasks]; ``None`` where only cosines count.
    """

    vector: Tensor
    membership: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, row: int) -> Probe:
        kept = slice(row, row + 1) if row != -1 else slice(row, None)
        return Probe(self.vector[kept], None if self.membership is None else self.membership[kept])


def routed_score(queries: Probe, candidates: Probe, weight: float) -> Tensor:
    """Cosines plus ``weight`` times the agreement on the tasks, [queries, candidates].

    Args:
        queries: what is asked.
        candidates: what is compared with it.
        weight: of the agreement; it counts where both sides have a membership.
    """
    cosines = queries.vector @ candidates.vector.T
    if queries.membership is None or candidates.membership is None:
        return cosines
    return cosines + weight * queries.membership @ candidates.membership.T


def scored_features(probe: Probe, weight: float) -> Tensor:
    """Features whose inner product is :func:`routed_score`, [items, features + tasks]."""
    if probe.membership is None:
        return probe.vector
    return torch.cat([probe.vector, weight**0.5 * probe.membership], dim=1)


def scored_features_by_task(
    vectors: Tensor, shares: Tensor, *, frozen: Tensor, membership: Tensor, weight: float, tower: str
) -> Tensor:
    """Features whose inner product scores a pair under a task only as far as both sides belong to it.

    Vectors under maps of two tasks don't compare. With the shares a_t of a pair's one side and b_t of the other, their
    vectors v_t and w_t, and the frozen features f and g, the inner product is

        sum_t a_t b_t v_t w_t + (1 - sum_t a_t b_t) f g

    plus the agreement: what the sides don't share, the frozen model scores.

    Args:
        vectors: of each item under each task, L2-normalised, [items, tasks, features].
        shares: how much each item belongs to each task, [items, tasks]; rows sum to 1, or to 0 for no task.
        frozen: the frozen model's features, L2-normalised, [items, frozen features].
        membership: see :class:`Probe`, [items, tasks].
        weight: of the agreement.
        tower: ``vision`` or ``text``: the two sides of a pair.

    Returns:
        Of shape [items, tasks * (features + frozen features) + frozen features + tasks].
    """
    sign = 1 if tower == "vision" else -1
    shared = torch.cat([vectors, sign * frozen[:, None].expand(-1, shares.shape[1], -1)], dim=2)
    return torch.cat([(shares[:, :, None] * shared).flatten(1), frozen, weight**0.5 * membership], dim=1)


@dataclass(frozen=True)
class Matched:
    """Scores pairs under the task that would explain them best, if they belonged together.

    A query belongs to task t with probability a_t, to none with a_0, and has the vector v_t under t and the frozen
    features f; a candidate likewise b_t, b_0, w_t and g. That both belong to the same is Z = sum_t a_t b_t + a_0 b_0,
    and given that, they belong to t with probability a_t b_t / Z. The score is the expected cosine, plus the evidence:

        (sum_t a_t b_t v_t w_t + a_0 b_0 f g) / Z + weight * log Z

    What one side alone is unsure of, the other may still decide, so a doubt costs far less than in
    :func:`scored_features_by_task`. It is no inner product: :meth:`pack` puts what an item needs into one row, and the
    object is called with packed queries and candidates.

    Attributes:
        tasks: how many.
        width: of a vector under a task.
        weight: of the evidence.
    """

    tasks: int
    width: int
    weight: float
    LEAST: ClassVar[float] = 1e-3  # no two items have nothing in common for sure

    def pack(self, vectors: Tensor, shares: Tensor, frozen: Tensor, posteriors: Tensor, inside: Tensor) -> Tensor:
        """One row an item, [items, 2 * tasks + 1 + tasks * width + frozen features].

        Args:
            vectors: of each item under each task, L2-normalised, [items, tasks, width].
            shares: how much each task's vector counts, [items, tasks]; rows sum to ``inside``, or to less where a task
                isn't worth a vector.
            frozen: the frozen model's features, L2-normalised, [items, frozen features].
            posteriors: how likely each task is, [items, tasks]; rows sum to 1.
            inside: how likely the item belongs to any task, [items].
        """
        own, outside = inside[:, None] * posteriors, 1 - inside[:, None]
        return torch.cat([shares, own, outside, (shares[:, :, None] * vectors).flatten(1), frozen], dim=1)

    def unlearned(self, packed: Tensor) -> tuple[Matched, Tensor]:
        """The same items with their frozen features in the place of every task's vectors, and the score of these."""
        shares, own, outside, _, frozen = self._parts(packed)
        instead = (shares[:, :, None] * frozen[:, None]).flatten(1)
        return replace(self, width=frozen.shape[1]), torch.cat([shares, own, outside, instead, frozen], dim=1)

    def __call__(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Scores, [queries, candidates], of packed ones."""
        shares, own, outside, vectors, frozen = self._parts(queries)
        other_shares, other_own, other_outside, other_vectors, other_frozen = self._parts(candidates)
        neither = outside @ other_outside.T
        explained = shares @ other_shares.T + neither
        cosines = vectors @ other_vectors.T + neither * (frozen @ other_frozen.T)
        together = own @ other_own.T + neither
        return cosines / (explained + self.LEAST) + self.weight * (together + self.LEAST).log()

    def _parts(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Shares, posteriors, outside, weighted vectors and frozen features."""
        vectors = self.tasks * self.width
        rest = packed.shape[1] - 2 * self.tasks - 1 - vectors
        sizes = [self.tasks, self.tasks, 1, vectors, rest]
        return tuple(torch.split_with_sizes(packed, sizes, dim=1))
