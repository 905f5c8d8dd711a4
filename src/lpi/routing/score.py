"""The score of a query and a candidate: the cosine of their vectors, and whether they belong to the same tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lpi.prompts.task_keys import FALLBACK


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


def scored_features_with_frozen(probe: Probe, weight: float, *, frozen: Tensor, tasks: Tensor, tower: str) -> Tensor:
    """As :func:`scored_features`, but a pair of which one side belongs to no task has the frozen model's cosine.

    With the frozen features f, the vectors v, and k, which is 1 for what belongs to a task and 0 for what doesn't, the
    inner product is k k' v v' + (1 - k k') f f', plus the agreement.

    Args:
        probe: the items.
        weight: of the agreement.
        frozen: the frozen model's features, L2-normalised, [items, features].
        tasks: the task of each item, int64 [items]; FALLBACK for none.
        tower: ``vision`` or ``text``: the two sides of a pair.
    """
    assert probe.membership is not None  # only routed items belong to tasks
    known = (tasks != FALLBACK)[:, None]
    sign = 1 if tower == "vision" else -1
    return torch.cat([known * probe.vector, frozen, sign * known * frozen, weight**0.5 * probe.membership], dim=1)
