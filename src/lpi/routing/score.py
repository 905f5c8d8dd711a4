"""The score of a query and a candidate: the cosine of their vectors, and whether they belong to the same tasks."""

from __future__ import annotations

from dataclasses import dataclass

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
