"""Test pictures and captions, decoded once, and what methods make of them.

The frozen backbone's features of all test data are computed once and route every query. Where a method is *stable*
(what was encoded under a task's route never changes), features are kept from stage to stage and only what the router
now sends elsewhere is encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder, View
from lpi.config import EvaluationSettings
from lpi.data.records import CaptionedImage
from lpi.devices import Settled, autocast
from lpi.features import FEATURES, FrozenStates, frozen_image_features, frozen_text_features
from lpi.methods.base import Method
from lpi.methods.encoder import MapsFrozen, Once, tokens, width_of
from lpi.metrics.ranking import Similarity
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Routing, all_under
from lpi.routing.mix import mix
from lpi.tasks.batches import PictureStore
from lpi.tasks.relevance import relevance

TOWERS = ("vision", "text")
DIRECTIONS = ("text_to_image", "image_to_text")
Towers = dict[str, Tensor]
"""Something of both towers, by their names."""


class TestSet:
    """Test pictures and captions of some tasks, decoded once, with the frozen backbone's features.

    Attributes:
        tasks: how many there are.
        records: the pictures in gallery order.
        texts: all their captions.
        pairs: which caption is right for which picture, [pairs, 2].
        task: for each tower, the true task of each picture or caption, int64 [items].
        frozen: for each tower, frozen L2-normalised features, [items, features].
    """

    __test__ = False  # not a test case

    def __init__(
        self, groups: Sequence[Sequence[CaptionedImage]], backbone: DualEncoder, *, settings: EvaluationSettings
    ) -> None:
        self.records = [record for group in groups for record in group]
        self.texts, owner, pairs = relevance(self.records, equal_captions=settings.equal_captions)
        self.owner, self.pairs = torch.from_numpy(owner), torch.from_numpy(pairs)
        picture_task = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(g) for g in groups]))
        self.task = {"vision": picture_task, "text": picture_task[self.owner]}
        self.tasks = len(groups)
        self.backbone, self.batch = backbone, settings.batch
        inputs = backbone.inputs
        self.store = PictureStore([r.picture for r in self.records], inputs.prepare, side=min(inputs.image_size))
        self.frozen = {
            "vision": frozen_image_features(backbone, self.store, self.batch).cpu(),
            "text": frozen_text_features(backbone, self.texts, self.batch).cpu(),
        }
        self._routing: dict[tuple[str, str, View], Tensor] = {}
        self.states = FrozenStates(backbone, self.store, self.texts, batch=self.batch)

    def count(self, tower: str) -> int:
        """Number of pictures or captions."""
        return len(self.task[tower])

    def upto(self, tower: str, tasks: int) -> Tensor:
        """Rows of the first ``tasks`` tasks."""
        return (self.task[tower] < tasks).nonzero()[:, 0]

    def routing_features(self, method: Method, tower: str) -> Tensor:
        """What routes each item under a method, [items, routing features].

        Plain features, early states or both, of captions in the method's own wording; computed once for all methods.
        """
        router = method.router
        if router is None:
            return self.frozen[tower]
        wording, view = "" if tower == "vision" else router.wording(""), router.look(tower)
        if view == FEATURES and not wording:
            return self.frozen[tower]
        key = (tower, wording, view)
        if key not in self._routing:
            if tower == "vision":
                found = frozen_image_features(self.backbone, self.store, self.batch, view)
            else:
                texts = [router.wording(text) for text in self.texts]
                found = frozen_text_features(self.backbone, texts, self.batch, view)
            self._routing[key] = found.cpu()
        return self._routing[key]

    @torch.no_grad()
    def encode(self, method: Method, tower: str, rows: Tensor, route: int, precision: Settled = "float32") -> Tensor:
        """Features of some rows under one route, [rows, features]."""
        encoded = method.image_features if tower == "vision" else method.text_features
        parts = []
        for inputs in self._inputs(method, tower, rows):
            with autocast(precision, method.backbone.device):
                parts.append(encoded(inputs, route).float())
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def read(self, method: MapsFrozen, tower: str, rows: Tensor, precision: Settled) -> tuple[Tensor, Tensor]:
        """What a method maps of some rows, see :class:`lpi.methods.encoder.MapsFrozen`."""
        assert isinstance(method, Method)  # and reads what others do
        parts = []
        for inputs in self._inputs(method, tower, rows):
            with autocast(precision, method.backbone.device):
                parts.append([part.float() for part in method.read(tower, inputs)])
        features, states = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        return features, states

    def _inputs(self, method: Method, tower: str, rows: Tensor) -> Iterator[Any]:
        """What a method reads of some rows, in batches: kept states if there are any."""
        groups = torch.split(rows, self.batch)
        if self.states.keeps(tower, method):
            yield from (self.states(tower, method, part) for part in groups)
        elif tower == "text":
            yield from (tokens(method, [self.texts[row] for row in part.tolist()]) for part in groups)
        else:
            for pixels in self.store.in_turn([part.tolist() for part in groups]):
                yield self.backbone.inputs.normalise(pixels.to(method.backbone.device))


class FeatureCache:
    """Features of a test set's items under each route, encoded when first asked for."""

    def __init__(self, test: TestSet, precision: Settled) -> None:
        self.test, self.precision = test, precision
        self._features: dict[tuple[str, int], Tensor] = {}
        self._known: dict[tuple[str, int], Tensor] = {}
        self._once: dict[str, Once] = {}

    def features(self, method: Method, tower: str, rows: Tensor, routes: Tensor) -> Tensor:
        """Features of ``rows``, each under its own route, [rows, features]."""
        routes = routes[:, None]
        return self.mixed(method, tower, rows, routes, torch.ones(routes.shape))

    def mixed(self, method: Method, tower: str, rows: Tensor, routes: Tensor, weights: Tensor) -> Tensor:
        """Features of ``rows`` under several routes each, weighted, added and normalised, [rows, features].

        Args:
            method: whose.
            tower: ``vision`` or ``text``.
            rows: which items, int64 [rows].
            routes: int64 [rows, k].
            weights: [rows, k].
        """
        return mix(
            routes,
            weights,
            lambda own, route: self._under(method, tower, rows[own], route),
            width=width_of(method),
        )

    def by_task(
        self, method: Method, tower: str, rows: Tensor, routes: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors of ``rows`` under each task, [rows, tasks, features], and how much each counts, [rows, tasks].

        Only what counts is encoded; the rest is zero. A route that merges tasks counts for the first of them.
        Arguments are those of :meth:`mixed`.
        """
        assert method.router is not None
        vectors = torch.zeros(len(rows), len(method.tasks), width_of(method))
        shares = torch.zeros(vectors.shape[:2])
        for each, counts in zip(routes.T, weights.T, strict=True):
            tasks = method.router.tasks_of(each)
            own = ((tasks != FALLBACK) & (counts > 0)).nonzero()[:, 0]
            vectors[own, tasks[own]] = self.features(method, tower, rows[own], each[own])
            shares[own, tasks[own]] = counts[own]
        return vectors, shares

    def _under(self, method: Method, tower: str, rows: Tensor, route: int) -> Tensor:
        if route == FALLBACK:
            return self.test.frozen[tower][rows]
        if isinstance(method, MapsFrozen) and method.maps(route):
            return self._mapped(method, tower, rows, route)
        key = (tower, route)
        if key not in self._features:
            count = self.test.count(tower)
            self._features[key] = torch.empty(count, width_of(method))  # untouched rows take no memory
            self._known[key] = torch.zeros(count, dtype=torch.bool)
        missing = rows[~self._known[key][rows]]
        if len(missing):
            missing = self._by_length(tower, missing)
            self._features[key][missing] = self.test.encode(method, tower, missing, route, self.precision)
            self._known[key][missing] = True
        return self._features[key][rows]

    @torch.no_grad()
    def _mapped(self, method: MapsFrozen, tower: str, rows: Tensor, route: int) -> Tensor:
        """Vectors of ``rows`` from what was read of them, once for all routes."""
        if tower not in self._once:
            self._once[tower] = Once(
                self.test.count(tower), lambda missing: self.test.read(method, tower, missing, self.precision)
            )
        self._once[tower](self._by_length(tower, rows))
        features, states = self._once[tower](rows)
        device = self.test.backbone.device
        return method.mapped(tower, features.to(device), states.to(device), route).float().cpu()

    def _by_length(self, tower: str, rows: Tensor) -> Tensor:
        """Captions of like length together, so that little of a batch is padding."""
        if tower == "vision":
            return rows
        return rows[torch.tensor([len(self.test.texts[row]) for row in rows.tolist()]).argsort(stable=True)]


@dataclass(frozen=True)
class Encoded:
    """Test items of the first tasks as a method encodes them.

    Attributes:
        rows: which items, int64 [items] a tower.
        routes: the likeliest task of each, int64 [items].
        features: what is scored, [items, features].
        mixed: what ``features`` were made from: the method's own vectors, [items, width].
        similarity: what scores two features.
    """

    rows: Towers
    routes: Towers
    features: Towers
    mixed: Towers = field(default_factory=dict)
    similarity: Similarity = "dot"

    def upto(self, test: TestSet, tasks: int) -> tuple[Towers, Towers]:
        """Rows and features of the first ``tasks`` tasks only."""
        chosen = {tower: test.task[tower][rows] < tasks for tower, rows in self.rows.items()}
        return (
            {tower: rows[chosen[tower]] for tower, rows in self.rows.items()},
            {tower: features[chosen[tower]] for tower, features in self.features.items()},
        )


def routed(method: Method, tower: str, features: Tensor) -> Routing:
    """Where a method sends items with these routing features, [items, routing features]."""
    if method.router is None:
        return all_under(0, features)
    found: Routing = method.router(tower, features.to(method.backbone.device))
    return found
