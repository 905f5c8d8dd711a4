"""Test pictures and captions, decoded once, and what methods make of them.

The frozen backbone's features of all test data are computed once and route every query. Where a method is *stable*
(what was encoded under a task's route never changes), features are kept from stage to stage and only what the router
now sends elsewhere is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder, View
from lpi.config import EvaluationSettings
from lpi.data.records import CaptionedImage
from lpi.devices import Settled, autocast
from lpi.features import FEATURES, FrozenStates, frozen_image_features, frozen_text_features
from lpi.methods.base import Method
from lpi.methods.encoder import tokens, width_of
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
        parts = []
        device, groups = method.backbone.device, torch.split(rows, self.batch)
        seen = tower == "vision" and not self.states.keeps(tower, method)
        pictures = self.store.in_turn([part.tolist() for part in groups] if seen else [])
        for part in groups:
            pixels = next(pictures) if seen else None
            below = None if seen else self.states(tower, method, part)
            with autocast(precision, device):
                if tower == "text":
                    texts = [self.texts[row] for row in part.tolist()]
                    found = method.text_features(tokens(method, texts) if below is None else below, route)
                elif pixels is not None:
                    found = method.image_features(self.backbone.inputs.normalise(pixels.to(device)), route)
                else:
                    assert below is not None  # or pictures are seen
                    found = method.image_features(below, route)
            parts.append(found.float())
        return torch.cat(parts).cpu()


class FeatureCache:
    """Features of a test set's items under each route, encoded when first asked for."""

    def __init__(self, test: TestSet, precision: Settled) -> None:
        self.test, self.precision = test, precision
        self._features: dict[tuple[str, int], Tensor] = {}
        self._known: dict[tuple[str, int], Tensor] = {}

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
        key = (tower, route)
        if key not in self._features:
            count = self.test.count(tower)
            self._features[key] = torch.empty(count, width_of(method))  # untouched rows take no memory
            self._known[key] = torch.zeros(count, dtype=torch.bool)
        missing = rows[~self._known[key][rows]]
        if len(missing):
            if tower == "text":  # captions of like length together, so that little of a batch is padding
                missing = missing[
                    torch.tensor([len(self.test.texts[row]) for row in missing.tolist()]).argsort(stable=True)
                ]
            self._features[key][missing] = self.test.encode(method, tower, missing, route, self.precision)
            self._known[key][missing] = True
        return self._features[key][rows]


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
