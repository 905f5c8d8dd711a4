"""Whitened keys: distances to k-means keys in units of how the tasks spread on average, as in discriminant analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import is_not
from typing import Annotated, Literal

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.options import Count, Weight
from lpi.prompts.task_keys import (
    FALLBACK,
    Metric,
    TaskKeys,
    own_distances,
    task_distances,
    task_posteriors,
    whitening,
)
from lpi.routing.base import Routing
from lpi.routing.nearest import NearestKeys

PARTS = 8  # that a task's items are cut into, to see how far what a key hasn't seen lies from it
TEMPERATURES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
IMPOSSIBLE = 1e-30  # a task is never quite that, nor does one item decide for all
SOFT = 0.03  # chosen on validation pictures of seven archives, and photographs of none of them
UNKNOWN = 0.2  # the temperature while there is one task


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
        clusters: Annotated[Count, "k-means keys for each task and tower"] = 1
        covariance_rank: Annotated[
            Count, "directions of a task's spread that are kept: more tell tasks apart better, and take more room"
        ] = 64
        out_of_domain: Annotated[
            Literal["nearest", "fallback"], "fallback sends what is far from every task to the frozen model"
        ] = "fallback"
        reach: Annotated[
            Literal["average", "own"],
            "far from a task is measured by how the tasks spread on average, or by how that ``own`` one spreads, which "
            "tells more of what belongs to none, and doesn't change as tasks arrive",
        ] = "average"
        soft_tasks: Annotated[
            Count, "a query's vector is mixed from so many of its likeliest tasks', weighted by their posteriors"
        ] = 3
        posterior_temperature: Annotated[
            Weight,
            "of the soft assignment to tasks; 0.1 is that of equal Gaussians, and 0 takes the one under which training "
            "items that the keys haven't seen are likeliest to belong where they do",
        ] = 0.0

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
        distances, own_spread = self._unseen(tower, points.cpu(), generator)
        reached = own_spread if self.options.reach == "own" else distances[:, -1]
        self.keep(tower, replace(keys, radius=reached.quantile(self.options.quantile)), points.device)
        own = [task_posteriors(distances, (), metric="whitened", temperature=each)[:, -1] for each in TEMPERATURES]
        likely = torch.stack(own).clamp(min=IMPOSSIBLE).log().sum(dim=1)
        self._task(-1).keep(f"likely_{tower}", likely.to(points.device))

    def _unseen(self, tower: str, points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Whitened distances of the newest task's training items to each task, itself last, [items, tasks].

        Beside them those to itself in units of its own spread, [items].

        Each part of the points is measured against keys of the other parts: a covariance from a hundred points fits
        those very points, and would call most new ones far.
        """
        # copied: where a tensor lies in memory, fresh or read from a file, decides the last bits of its products
        before = self.stage(len(self.kept) - 2).keys(tower)
        earlier = [TaskKeys(**{name: part.clone() for name, part in vars(own).items()}) for own in before]
        parts = torch.randperm(len(points), generator=generator).chunk(PARTS)
        found, own_spread = [], []
        for place, own in enumerate(parts):
            others = torch.cat([*parts[:place], *parts[place + 1 :]]) if len(parts) > 1 else own
            keys = self.made(points[others], generator)
            found.append(task_distances(points[own], [*earlier, keys], "whitened"))
            own_spread.append(own_distances(points[own], keys))
        return torch.cat(found), torch.cat(own_spread)

    def nearest(self, tower: str, features: Tensor, distances: Tensor) -> Tensor:
        """See :class:`NearestKeys`; how far an item is from its task is measured as ``reach`` says."""
        if self.options.reach == "average" or self.options.out_of_domain == "nearest":
            return super().nearest(tower, features, distances)
        far = self._excess(tower, features, distances) > 1
        return torch.where(far, FALLBACK, distances.argmin(dim=1))

    def inside(self, tower: str, routing: Routing) -> Tensor:
        """See :class:`Router`: one half at the radius of the nearest task, and a step that rises over 3 % of it."""
        if self.options.out_of_domain == "nearest":
            return super().inside(tower, routing)
        return torch.sigmoid((1 - self._excess(tower, routing.features, routing.distances)) / SOFT)

    def _excess(self, tower: str, features: Tensor, distances: Tensor) -> Tensor:
        """How far each item lies from its nearest task, in radii of it, [items]."""
        found, tasks = distances.amin(dim=1), distances.argmin(dim=1)
        points = features.cpu()
        for index, keys in enumerate(self.keys(tower)):
            own = (tasks == index).nonzero()[:, 0]
            if self.options.reach == "own":
                found[own] = own_distances(points[own], keys)
            found[own] /= keys.radius.clamp(min=1e-6)
        return found

    def temperature(self, tower: str) -> float:
        """See :class:`NearestKeys`: the one that is given, or the one that fits."""
        return self.options.posterior_temperature or self.calibrated(tower)

    def calibrated(self, tower: str) -> float:
        """The temperature under which all tasks' training items are likeliest to belong where they do.

        Each task's items were measured against the tasks before it and keys of its own that hadn't seen them; so much
        of each temperature is kept, and nothing of an item.
        """
        likely = torch.stack(self._column(f"likely_{tower}")).sum(dim=0)
        return TEMPERATURES[int(likely.argmax())] if likely.any() else UNKNOWN  # a first task can't be confused

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
