"""Whitened keys: distances to k-means keys in units of how the tasks spread on average, as in discriminant analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import is_not
from typing import Annotated, Literal

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.options import Above, Count
from lpi.prompts.task_keys import Metric, TaskKeys, task_distances, whitening
from lpi.routing.nearest import NearestKeys


class WhitenedKeys(NearestKeys):
    """K-means keys under the map that levels the tasks' average spread (ours).

    What varies inside every task says little about which task it is, and is divided out. The defaults are those that
    measured best for LPI.
    """

    @dataclass(frozen=True)
    class Options(NearestKeys.Options):
        """How keys are made and read."""

        view: Annotated[
            Literal["features", "states", "both"],
            "queries are told apart by their frozen features, by the pooled states of their tokens inside the frozen "
            "towers (how they look and are worded, at a fraction of a pass), or by both",
        ] = "states"
        metric: Annotated[
            Literal["whitened"], "distance between a query and the keys; another takes the nearest router"
        ] = "whitened"  # type: ignore[assignment]
        covariance_rank: Annotated[
            Count, "directions of a task's spread that are kept: more tell tasks apart better, and take more room"
        ] = 16
        out_of_domain: Annotated[
            Literal["nearest", "fallback"], "fallback sends what is far from every task to the frozen model"
        ] = "fallback"
        soft_tasks: Annotated[
            Count, "a query's vector is mixed from so many of its likeliest tasks', weighted by their posteriors"
        ] = 3
        posterior_temperature: Annotated[Above, "of the soft assignment to tasks; 0.1 is that of equal Gaussians"] = 0.2

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options) -> None:
        super().__init__(backbone, options)
        self._whitenings: dict[str, tuple[list[Tensor], Tensor]] = {}  # by tower: of which spreads, and the map

    @property
    def metric(self) -> Metric:
        """How far a query is from a key."""
        return "whitened"

    def made(self, points: Tensor, generator: torch.Generator) -> TaskKeys:
        """See :class:`NearestKeys`."""
        o = self.options
        return TaskKeys.fit(
            points.cpu(),
            clusters=o.clusters,
            directions=o.covariance_rank,
            metric="whitened",
            quantile=o.quantile,
            generator=generator,
        )

    def fit(self, tower: str, points: Tensor, generator: torch.Generator) -> None:
        """See :class:`Router`."""
        keys = self.made(points, generator)
        radius = self._radius(tower, points.cpu(), generator)
        self.keep(tower, replace(keys, radius=radius), points.device)

    def _radius(self, tower: str, points: Tensor, generator: torch.Generator) -> Tensor:
        """How far what belongs to the newest task lies from keys that haven't seen it, scalar, in whitened distance.

        Each half of the points is measured against keys of the other half: a covariance from a hundred points fits
        those very points, and would call most new ones far.
        """
        earlier = self.stage(len(self.kept) - 2).keys(tower)
        order = torch.randperm(len(points), generator=generator)
        halves = order.chunk(2) if len(points) > 1 else (order, order)
        distances = [
            task_distances(points[own], [*earlier, self.made(points[other], generator)], "whitened")[:, -1]
            for own, other in (halves, halves[::-1])
        ]
        return torch.cat(distances).quantile(self.options.quantile)

    def distances(self, tower: str, features: Tensor) -> Tensor:
        """See :class:`Router`."""
        keys = self.keys(tower)
        return task_distances(features.cpu(), keys, "whitened", white=self._whitening(tower, keys))

    def _whitening(self, tower: str, keys: Sequence[TaskKeys]) -> Tensor:
        """:func:`whitening`, computed anew only when the tasks' spreads are no longer the same tensors.

        It inverts a matrix as wide as the routing features, which a search would otherwise pay for with every query.
        """
        spreads = [self._task(index)[f"spread_{tower}"] for index in range(len(self.kept))]
        known = self._whitenings.get(tower)
        if known is None or len(known[0]) != len(spreads) or any(map(is_not, known[0], spreads)):
            known = self._whitenings[tower] = (spreads, whitening(keys))
        return known[1]
