"""The contract of a router: what it looks at, what it keeps of each task, and where it sends a query.

A method has one router or none. The router never changes what a task learned; it says whose knowledge a query takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, View
from lpi.options import Share, Table
from lpi.prompts.low_rank import TOWERS
from lpi.prompts.task_keys import FALLBACK

Own = TypeVar("Own", bound="Router")


class TaskFeatures(Protocol):
    """Gives a task's training pictures or different captions as a router looks at them, [items, width of the view]."""

    def __call__(self, tower: str, view: View) -> Tensor:
        """L2-normalised; of the pictures for ``vision``, of the captions for ``text``."""


@dataclass(frozen=True)
class Routing:
    """Where items were routed. All tensors but ``features`` are on the processor.

    Attributes:
        features: what the router looked at, [items, routing features].
        distances: to each task, [items, tasks]; no column where tasks aren't told apart.
        posteriors: how likely each task is, [items, tasks]; rows sum to 1.
        routes: whose knowledge encodes each item, the likeliest first, int64 [items, k].
        weights: how much each of them counts, [items, k]; rows sum to 1.
        tasks: the task that each first route belongs to, int64 [items]; FALLBACK for none.
    """

    features: Tensor
    distances: Tensor
    posteriors: Tensor
    routes: Tensor
    weights: Tensor
    tasks: Tensor

    @property
    def membership(self) -> Tensor:
        """How much each item belongs to each task, [items, tasks]; see :func:`membership`."""
        return membership(self.posteriors, self.tasks)


def membership(posteriors: Tensor, tasks: Tensor) -> Tensor:
    """How much items belong to each task, [items, tasks]; the inner product of two says whether they agree.

    These are the posteriors; but what belongs to no task agrees with every task alike, and with its like as much as two
    items of one task do.

    Args:
        posteriors: how likely each task is, [items, tasks].
        tasks: the task that each item was sent to, int64 [items]; FALLBACK for none.
    """
    lost = (tasks == FALLBACK).to(posteriors.device)[:, None]
    return torch.where(lost, max(1, posteriors.shape[1]) ** -0.5, posteriors)


def most_agreement(memberships: Tensor) -> float:
    """The largest inner product of an item's membership, [tasks], with any: one task's alone, or that of no task."""
    if not len(memberships):
        return 0.0
    return max(float(memberships.max()), float(memberships.sum()) / math.sqrt(len(memberships)))


def all_under(route: int, features: Tensor) -> Routing:
    """Items that no router looked at, all under one route.

    Args:
        route: which.
        features: one row an item; of any width.
    """
    count = len(features)
    routes, nothing = torch.full((count, 1), route), torch.empty(count, 0)
    return Routing(features, nothing, nothing, routes, torch.ones(count, 1), routes[:, 0])


class Kept(nn.Module):
    """What a router keeps of one task: named tensors, of which parameters are learned."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        for name, tensor in (tensors or {}).items():
            self.keep(name, tensor)

    def keep(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor under a name."""
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def __getitem__(self, name: str) -> Tensor:
        found = getattr(self, name)
        assert isinstance(found, Tensor)
        return found


class Router(nn.Module):
    """Sends queries to tasks.

    A subclass says what it keeps of a task (:meth:`fit`) and how far a query is from each (:meth:`distances`); the
    nearest task is chosen, unless it chooses otherwise (:meth:`choose`).

    Attributes:
        options: see :class:`Options`.
        kept: what is kept of each task, in the order of learning.
        placeholders: words that stand in for prompts where captions are routed behind them.
        merges: whether the method can encode under two tasks' knowledge merged into one route.
    """

    @dataclass(frozen=True)
    class Options(Table):
        """What every router takes."""

        view: Annotated[
            Literal["features", "states", "both"],
            "queries are told apart by their frozen features (the papers), by the pooled states of their tokens inside "
            "the frozen towers (ours: how they look and are worded, at a fraction of a pass), or by both",
        ] = "features"
        depth_vision: Annotated[Share, "after which share of the vision tower's blocks those states are taken"] = 2 / 3
        depth_text: Annotated[Share, "after which share of the text tower's blocks those states are taken"] = 0.0
        words: Annotated[
            Literal["plain", "placeholders"], "captions are routed as they are, or behind placeholder words"
        ] = "plain"

    options: Options
    learns: ClassVar[bool] = False

    def __init__(self, backbone: DualEncoder, options: Options) -> None:
        super().__init__()
        self.options = options
        self.depths = dict(backbone.depths)
        self.width = backbone.feature_width
        self.placeholders = 0
        self.merges = False
        self.kept = nn.ModuleList()

    # ---- what a router looks at --------------------------------------------------------------------------------------

    def look(self, tower: str) -> View:
        """What of a pass through a frozen tower tells a query's task."""
        kind, share = self.options.view, getattr(self.options, f"depth_{tower}")
        depth = None if kind == "features" else round(share * self.depths[tower])
        return View(depth, features=kind != "states")

    def wording(self, text: str) -> str:
        """The words whose look routes a caption."""
        return "X " * self.placeholders + text if self.options.words == "placeholders" else text

    # ---- what it keeps -----------------------------------------------------------------------------------------------

    def begin_task(self, features: TaskFeatures, generator: torch.Generator) -> None:
        """Make room for one more task."""
        self.kept.requires_grad_(False)
        self.kept.append(Kept())

    def fit(self, tower: str, points: Tensor, generator: torch.Generator) -> None:
        """Keep what tells the newest task in one tower.

        Args:
            tower: ``vision`` or ``text``.
            points: the task's training items as the router looks at them, [items, routing features].
            generator: decides what is drawn.
        """

    def end_task(self, features: TaskFeatures, generator: torch.Generator) -> None:
        """:meth:`fit` both towers."""
        for tower in TOWERS:
            self.fit(tower, features(tower, self.look(tower)), generator)
        self.kept.requires_grad_(False)

    def newest(self) -> list[nn.Parameter]:
        """What the newest task may change of the router."""
        return list(self.kept[-1].parameters()) if len(self.kept) else []

    def losses(self, vision: Tensor, text: Tensor) -> dict[str, Tensor]:
        """What the router adds to the loss of a batch, weighted.

        Args:
            vision: frozen features of the batch's pictures, [images, features].
            text: frozen features of its captions, [texts, features].
        """
        return {}

    def _task(self, index: int) -> Kept:
        found = self.kept[index]
        assert isinstance(found, Kept)
        return found

    def _column(self, name: str) -> list[Tensor]:
        """One tensor of every task, on the processor."""
        return [self._task(index)[name].cpu() for index in range(len(self.kept))]

    # ---- where it sends queries --------------------------------------------------------------------------------------

    def distances(self, tower: str, features: Tensor) -> Tensor:
        """Distance of routing features [items, routing features] to each task, [items, tasks]."""
        raise NotImplementedError

    def posteriors(self, tower: str, distances: Tensor) -> Tensor:
        """How likely each task is, [items, tasks], from :meth:`distances`; rows sum to 1."""
        raise NotImplementedError

    def choose(self, tower: str, features: Tensor, distances: Tensor, posteriors: Tensor) -> tuple[Tensor, Tensor]:
        """Routes int64 [items, k], the likeliest first, and their weights [items, k]; the nearest task by default.

        Args:
            tower: ``vision`` or ``text``.
            features: [items, routing features].
            distances, posteriors: of them, [items, tasks].
        """
        routes = distances.argmin(dim=1, keepdim=True)
        return routes, torch.ones(routes.shape)

    def inside(self, tower: str, routing: Routing) -> Tensor:
        """How likely each item belongs to any task, [items]; by default as :meth:`choose` decided."""
        return (routing.tasks != FALLBACK).float()

    def tasks_of(self, routes: Tensor) -> Tensor:
        """The task that each route belongs to first of all, int64, FALLBACK for none; of the same shape."""
        return routes

    @torch.no_grad()
    def forward(self, tower: str, features: Tensor) -> Routing:
        """Where items are sent.

        Args:
            tower: ``vision`` or ``text``.
            features: what :meth:`look` names, L2-normalised, [items, routing features].
        """
        if not len(self.kept):
            return all_under(FALLBACK, features)
        distances = self.distances(tower, features).cpu()
        posteriors = self.posteriors(tower, distances)
        routes, weights = self.choose(tower, features, distances, posteriors)
        return Routing(features, distances, posteriors, routes, weights, self.tasks_of(routes[:, 0]))

    # ---- saving ------------------------------------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """What is stored for one task."""
        return dict(self.kept[index].state_dict())

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take over what :meth:`task_state` gave for each task."""
        self.kept = nn.ModuleList(Kept(state) for state in states)

    def forget(self, index: int) -> None:
        """Take away what was kept of a task."""
        del self.kept[index]

    def stage(self: Own, k: int) -> Own:
        """The router as it was after stage ``k`` (0-based); shares what it keeps with this one."""
        earlier = copy(self)
        earlier._modules = dict(self._modules)
        earlier.kept = nn.ModuleList(list(self.kept)[: k + 1])
        return earlier
