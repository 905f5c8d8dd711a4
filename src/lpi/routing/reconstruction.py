"""Reconstruction: a query goes to the task whose auto-encoder rebuilds its feature best, or to none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.options import Quantile, Size
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Router


def rebuilding_error(points: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """The length of what a linear auto-encoder loses of points [points, features] in rebuilding them, [points].

    Args:
        points: L2-normalised.
        mean: of the task's points, [features].
        directions: orthonormal, [hidden, features].
    """
    centred = points - mean
    error: Tensor = (centred - centred @ directions.T @ directions).norm(dim=1)
    return error


class Reconstruction(Router):
    """An auto-encoder a task and tower.

    A linear auto-encoder with a squared loss is at its best a principal component analysis (Baldi and Hornik, 1989),
    so it is computed, not trained.

    Paper: MoE-Adapters (arXiv 2403.11549), the auto-selector (DDAS), eq. 6 to 8.
    Differs: the auto-encoders are linear, over the backbone's own features of both towers (the paper: AlexNet's, of
        pictures). The radius is that of points which the auto-encoder hasn't seen.
    """

    @dataclass(frozen=True)
    class Options(Router.Options):
        """How features are rebuilt."""

        hidden: Annotated[Size, "width of the auto-encoders"] = 16
        out_of_domain: Annotated[
            Literal["nearest", "fallback"], "fallback sends what no task can rebuild to the frozen model"
        ] = "fallback"
        quantile: Annotated[Quantile, "how badly is too badly, as a quantile of the errors of unseen items"] = 0.99

    options: Options

    def fit(self, tower: str, points: Tensor, generator: torch.Generator) -> None:
        """See :class:`Router`; the radius is a quantile of the errors of points that the auto-encoder hasn't seen.

        Each half of the points is rebuilt by what is fitted to the other: its own it would rebuild too well.
        """
        units, own = F.normalize(points.cpu().float(), dim=-1), self._task(-1)
        order = torch.randperm(len(units), generator=generator)
        halves = order.chunk(2) if len(units) > 1 else (order, order)
        errors = [
            rebuilding_error(units[unseen], *self._auto_encoder(units[seen])) for unseen, seen in (halves, halves[::-1])
        ]
        radius = torch.cat(errors).quantile(self.options.quantile)
        mean, directions = self._auto_encoder(units)
        for name, value in (("mean", mean), ("directions", directions), ("radius", radius)):
            own.keep(f"{name}_{tower}", value.to(points.device))

    def _auto_encoder(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """The mean [features] and the directions [hidden, features] that rebuild points best."""
        mean = units.mean(dim=0)
        _, _, directions = torch.linalg.svd(units - mean, full_matrices=False)
        return mean, directions[: self.options.hidden].contiguous()

    def distances(self, tower: str, features: Tensor) -> Tensor:
        """How badly each task's auto-encoder rebuilds each item, [items, tasks]."""
        tasks = [self._task(index) for index in range(len(self.kept))]
        units = F.normalize(features.float(), dim=-1).to(tasks[0][f"mean_{tower}"].device)
        errors = [rebuilding_error(units, task[f"mean_{tower}"], task[f"directions_{tower}"]) for task in tasks]
        return torch.stack(errors, dim=1).cpu()

    def posteriors(self, tower: str, distances: Tensor) -> Tensor:
        """A softmax of the negative squared errors, in units of the tasks' mean squared radius, rows sum to 1."""
        unit = torch.stack(self._column(f"radius_{tower}")).square().mean().clamp(min=1e-6)
        return (-distances.square() / unit).softmax(dim=1)

    def choose(self, tower: str, features: Tensor, distances: Tensor, posteriors: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Router`; FALLBACK where the best task rebuilds worse than it ever did in training."""
        error, task = distances.min(dim=1)
        if self.options.out_of_domain == "fallback":
            radii = torch.stack(self._column(f"radius_{tower}"))
            task = torch.where(error > radii[task], torch.full_like(task, FALLBACK), task)
        return task[:, None], torch.ones(len(task), 1)
