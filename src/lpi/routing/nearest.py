"""The nearest k-means key: a query goes to the task of the training centroid that lies nearest to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from lpi.options import Above, Count, Quantile
from lpi.prompts.task_keys import FALLBACK, Metric, TaskKeys, route, task_distances, task_posteriors
from lpi.routing.base import Router

KEY_PARTS = ("centroids", "radius", "scale", "spread", "rest")


class NearestKeys(Router):
    """K-means keys, by cosine or L1 distance.

    Paper: S-Prompts (arXiv 2207.12819), section 3.4; LPI (arXiv 2501.14369) with cosines.
    Differs: a soft choice, and queries that belong to no task, are ours; both are off by default.
    """

    @dataclass(frozen=True)
    class Options(Router.Options):
        """How keys are made and read."""

        clusters: Annotated[Count, "k-means keys for each task and tower"] = 5
        metric: Annotated[Literal["cosine", "l1"], "distance between a query and the keys"] = "cosine"
        out_of_domain: Annotated[
            Literal["nearest", "fallback"], "fallback sends what is far from every task to the frozen model"
        ] = "nearest"
        quantile: Annotated[Quantile, "how far is far, as a quantile of the training distances"] = 0.97
        soft_tasks: Annotated[
            Count, "a query's vector is mixed from so many of its likeliest tasks', weighted by their posteriors"
        ] = 1
        posterior_temperature: Annotated[
            Above, "of the soft assignment to tasks, in units of the average training distance"
        ] = 0.1

    options: Options

    @property
    def metric(self) -> Metric:
        """How far a query is from a key."""
        return self.options.metric

    def made(self, points: Tensor, generator: torch.Generator) -> TaskKeys:
        """The keys of a task from its training items, [items, routing features]."""
        o = self.options
        return TaskKeys.fit(
            points.cpu(), clusters=o.clusters, metric=self.metric, quantile=o.quantile, generator=generator
        )

    def fit(self, tower: str, points: Tensor, generator: torch.Generator) -> None:
        """See :class:`Router`."""
        self.keep(tower, self.made(points, generator), points.device)

    def keep(self, tower: str, keys: TaskKeys, device: torch.device) -> None:
        """Keep the newest task's keys of one tower."""
        for part in KEY_PARTS:
            self._task(-1).keep(f"{part}_{tower}", getattr(keys, part).to(device))

    def keys(self, tower: str) -> list[TaskKeys]:
        """The keys of each task in one tower."""
        parts = [self._column(f"{part}_{tower}") for part in KEY_PARTS]
        return [TaskKeys(*own) for own in zip(*parts, strict=True)]

    def distances(self, tower: str, features: Tensor) -> Tensor:
        """See :class:`Router`: to the nearest key of each task."""
        return task_distances(features.cpu(), self.keys(tower), self.metric)

    def posteriors(self, tower: str, distances: Tensor) -> Tensor:
        """See :class:`Router`."""
        return task_posteriors(distances, self.keys(tower), metric=self.metric, temperature=self.temperature(tower))

    def temperature(self, tower: str) -> float:
        """Of the posteriors in one tower."""
        return self.options.posterior_temperature

    def nearest(self, tower: str, features: Tensor, distances: Tensor) -> Tensor:
        """The nearest task of each item, int64 [items]; FALLBACK beyond its radius, if the options say so."""
        return route(distances, self.keys(tower), fall_back=self.options.out_of_domain == "fallback")

    def choose(self, tower: str, features: Tensor, distances: Tensor, posteriors: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Router`: the ``soft_tasks`` likeliest tasks; one alone for an item that falls back."""
        routes = self.nearest(tower, features, distances)[:, None]
        count = min(self.options.soft_tasks, distances.shape[1])
        if count <= 1:
            return routes, torch.ones(routes.shape)
        shares, likeliest = posteriors.topk(count, dim=1)
        lost = routes == FALLBACK
        alone = torch.zeros(count)
        alone[0] = 1.0
        shares = torch.where(lost, alone, shares / shares.sum(dim=1, keepdim=True))
        return torch.where(lost, routes, likeliest), shares
