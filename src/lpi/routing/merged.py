"""Two prototypes: a query takes its nearest task, or the two nearest at once where it lies between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lpi.errors import ConfigError
from lpi.options import Above, Count
from lpi.prompts.task_keys import FALLBACK, TaskKeys, task_distances, task_posteriors
from lpi.routing.base import Router, TaskFeatures

PAIR = 1000  # the route PAIR * (i + 1) + j is tasks i and j merged, i the nearer


def pair(first: Tensor, second: Tensor) -> Tensor:
    """The routes of two merged tasks, int64, the nearer first; :func:`tasks_behind` takes them apart."""
    return PAIR * (first + 1) + second


def tasks_behind(route: int) -> tuple[int, ...]:
    """The tasks behind a route.

    >>> tasks_behind(3), tasks_behind(4002), tasks_behind(-1)
    ((3,), (3, 2), ())
    """
    if route >= PAIR:
        return route // PAIR - 1, route % PAIR
    return () if route == FALLBACK else (route,)


class MergedPrototypes(Router):
    """Prototypes by cosine; a query between two tasks takes both, a half each.

    Where the method can merge two tasks into one route, such a query has that route; elsewhere its vector is mixed from
    the vectors under both.

    Paper: Dynamic Adapter Routing (arXiv 2605.31229).
    """

    @dataclass(frozen=True)
    class Options(Router.Options):
        """How prototypes are made and read."""

        prototypes: Annotated[Count, "prototypes a task and tower: 1 is the mean feature, more are centroids"] = 1
        margin: Annotated[
            float, Field(ge=0, le=2), "two tasks are merged where their cosines differ by less; 0 never merges"
        ] = 0.05
        posterior_temperature: Annotated[
            Above, "of the soft assignment to tasks, in units of the average training distance"
        ] = 0.1

    options: Options

    def begin_task(self, features: TaskFeatures, generator: torch.Generator) -> None:
        """See :class:`Router`.

        Raises:
            ConfigError: as many tasks as routes can name were learned.
        """
        if len(self.kept) >= PAIR:
            raise ConfigError(f"merged prototypes tell at most {PAIR} tasks apart. Forget some first.")
        super().begin_task(features, generator)

    def fit(self, tower: str, points: Tensor, generator: torch.Generator) -> None:
        """See :class:`Router`."""
        count = self.options.prototypes
        keys = TaskKeys.fit(points.cpu(), clusters=count, metric="cosine", quantile=1.0, generator=generator)
        self._task(-1).keep(f"prototypes_{tower}", keys.centroids.to(points.device))
        self._task(-1).keep(f"scale_{tower}", keys.scale.to(points.device))

    def keys(self, tower: str) -> list[TaskKeys]:
        """The prototypes of each task in one tower, as keys."""
        return [
            TaskKeys(centroids, scale, scale, centroids[:0], torch.zeros(()))
            for centroids, scale in zip(
                self._column(f"prototypes_{tower}"), self._column(f"scale_{tower}"), strict=True
            )
        ]

    def distances(self, tower: str, features: Tensor) -> Tensor:
        """One minus the cosine to the nearest prototype of each task, [items, tasks]."""
        return task_distances(features.cpu(), self.keys(tower), "cosine")

    def posteriors(self, tower: str, distances: Tensor) -> Tensor:
        """See :class:`Router`."""
        temperature = self.options.posterior_temperature
        return task_posteriors(distances, self.keys(tower), metric="cosine", temperature=temperature)

    def choose(self, tower: str, features: Tensor, distances: Tensor, posteriors: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Router`: the nearest task, or the two nearest where the margin between them is small."""
        if distances.shape[1] == 1:
            return super().choose(tower, features, distances, posteriors)
        near, tasks = distances.topk(2, dim=1, largest=False)
        undecided = near[:, 1] - near[:, 0] < self.options.margin
        if not self.merges:
            half = torch.where(undecided, 0.5, 0.0)
            return tasks, torch.stack([1 - half, half], dim=1)
        routes = torch.where(undecided, pair(tasks[:, 0], tasks[:, 1]), tasks[:, 0])[:, None]
        return routes, torch.ones(routes.shape)

    def tasks_of(self, routes: Tensor) -> Tensor:
        """The nearer of two merged tasks."""
        return torch.where(routes >= PAIR, routes // PAIR - 1, routes)
