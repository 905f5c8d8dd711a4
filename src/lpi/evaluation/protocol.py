"""The protocol: after each stage, every task seen so far against the union gallery of all tasks seen so far.

The frozen backbone's features of all test data are computed once and route every query. Where a method is *stable*
(what was encoded under a task's route never changes), features are kept from stage to stage and only what the router
now sends elsewhere is encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder, TowerState, View
from lpi.config import EvaluationSettings
from lpi.data.records import CaptionedImage
from lpi.evaluation.ranking import Gallery, recall_both_directions
from lpi.methods.base import Method
from lpi.methods.encoder import tokens
from lpi.methods.experts import stage_of
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Routing, all_under
from lpi.routing.mix import mix
from lpi.routing.score import Probe, scored_features, scored_features_with_frozen
from lpi.tasks.batches import PictureStore
from lpi.tasks.relevance import relevance
from lpi.tasks.stream import TaskStream
from lpi.trainer import FEATURES, plain_image_features, plain_text_features, trunk_states

TOWERS = ("vision", "text")


class TestSet:
    """Test pictures and captions of some tasks, decoded once, with the frozen backbone's features.

    Attributes:
        tasks: how many there are.
        records: the pictures in gallery order.
        texts: all their captions.
        pairs: which caption is right for which picture, [pairs, 2].
        task: for each tower, the true task of each picture or caption, int64 [items].
        plain: for each tower, unprompted L2-normalised features, [items, features].
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
        self.plain = {
            "vision": plain_image_features(backbone, self.store, self.batch).cpu(),
            "text": plain_text_features(backbone, self.texts, self.batch).cpu(),
        }
        self._routing: dict[tuple[str, str, View], Tensor] = {}
        self._trunks: dict[int, TowerState] = {}

    @torch.no_grad()
    def trunk(self, blocks: int) -> TowerState | None:
        """States of all pictures after the lowest ``blocks`` blocks; ``None`` for 0, or if they are too many to keep.

        Below the first prompted block a picture's states are the same under every route: they are computed once.
        """
        if blocks == 0:
            return None
        if blocks not in self._trunks:
            states = trunk_states(self.backbone, self.store, blocks, batch=self.batch)
            if states is None:
                return None
            self._trunks = {blocks: states}  # one depth at a time: the states are large
        return self._trunks[blocks]

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
            return self.plain[tower]
        wording, view = "" if tower == "vision" else router.wording(""), router.look(tower)
        if view == FEATURES and not wording:
            return self.plain[tower]
        key = (tower, wording, view)
        if key not in self._routing:
            if tower == "vision":
                found = plain_image_features(self.backbone, self.store, self.batch, view)
            else:
                texts = [router.wording(text) for text in self.texts]
                found = plain_text_features(self.backbone, texts, self.batch, view)
            self._routing[key] = found.cpu()
        return self._routing[key]

    @torch.no_grad()
    def encode(self, method: Method, tower: str, rows: Tensor, route: int) -> Tensor:
        """Features of some rows under one route, [rows, features]."""
        parts = []
        trunk = self.trunk(method.frozen_blocks()) if tower == "vision" else None
        for part in torch.split(rows, self.batch):
            if trunk is not None:
                states = replace(trunk, states=trunk.states[part].to(method.backbone.device))
                parts.append(method.image_features(states, route))
            elif tower == "vision":
                pixels = self.store.pixels(part.tolist()).to(method.backbone.device)
                parts.append(method.image_features(self.backbone.inputs.normalise(pixels), route))
            else:
                parts.append(method.text_features(tokens(method, [self.texts[row] for row in part.tolist()]), route))
        return torch.cat(parts).cpu()


class FeatureCache:
    """Features of a test set's items under each route, encoded when first asked for."""

    def __init__(self, test: TestSet) -> None:
        self.test = test
        self._features: dict[tuple[str, int], Tensor] = {}
        self._known: dict[tuple[str, int], Tensor] = {}

    def features(self, method: Method, tower: str, rows: Tensor, routes: Tensor) -> Tensor:
        """Features of ``rows``, each under its own route, [rows, features]."""
        result = torch.empty(len(rows), self.test.plain[tower].shape[1])
        for route in torch.unique(routes).tolist():
            chosen = (routes == route).nonzero()[:, 0]
            result[chosen] = self._under(method, tower, rows[chosen], route)
        return result

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
            width=self.test.plain[tower].shape[1],
        )

    def _under(self, method: Method, tower: str, rows: Tensor, route: int) -> Tensor:
        if route == FALLBACK:
            return self.test.plain[tower][rows]
        key = (tower, route)
        if key not in self._features:
            count = self.test.count(tower)
            self._features[key] = torch.empty(count, self.test.plain[tower].shape[1])  # untouched rows take no memory
            self._known[key] = torch.zeros(count, dtype=torch.bool)
        missing = rows[~self._known[key][rows]]
        if len(missing):
            if tower == "text":  # captions of like length together, so that little of a batch is padding
                missing = missing[
                    torch.tensor([len(self.test.texts[row]) for row in missing.tolist()]).argsort(stable=True)
                ]
            self._features[key][missing] = self.test.encode(method, tower, missing, route)
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
    """

    rows: dict[str, Tensor]
    routes: dict[str, Tensor]
    features: dict[str, Tensor]
    mixed: dict[str, Tensor] = field(default_factory=dict)

    def upto(self, test: TestSet, tasks: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Rows and features of the first ``tasks`` tasks only."""
        chosen = {tower: test.task[tower][rows] < tasks for tower, rows in self.rows.items()}
        return (
            {tower: rows[chosen[tower]] for tower, rows in self.rows.items()},
            {tower: features[chosen[tower]] for tower, features in self.features.items()},
        )


class Evaluator:
    """Measures methods on one stream.

    Args:
        backbone: the frozen model.
        stream: whose test splits and held-out pictures are used.
        settings: how.
    """

    def __init__(self, backbone: DualEncoder, stream: TaskStream, settings: EvaluationSettings) -> None:
        self.backbone, self.stream, self.settings = backbone, stream, settings
        self.test = TestSet([task.test for task in stream.tasks], backbone, settings=settings)
        self.held_out = TestSet([stream.held_out], backbone, settings=settings) if stream.held_out else None
        self.reset()

    def reset(self) -> None:
        """Forget features of earlier methods."""
        self._cache = FeatureCache(self.test)
        self._held_out_cache = FeatureCache(self.held_out) if self.held_out else None

    def zero_shot(self) -> dict[str, Any]:
        """The record in ``zero_shot.json``: the frozen backbone at every stage."""
        stages: list[dict[str, Any]] = []
        for stage, task in enumerate(self.stream.tasks):
            rows = {tower: self.test.upto(tower, stage + 1) for tower in TOWERS}
            features = {tower: self.test.plain[tower][rows[tower]] for tower in TOWERS}
            record = {"stage": stage, "task": task.name, "recall": self._recall(rows, features), "fixed": None}
            stages.append(record)
        if self.settings.fixed_gallery:
            for stage, record in enumerate(stages):
                record["fixed"] = first_tasks(stages[-1]["recall"], stage + 1)
        if self.settings.transfer:  # what forward transfer is counted from
            for record, following in pairwise(stages):
                record["next"] = {
                    d: {k: values[-1] for k, values in by_k.items()} for d, by_k in following["recall"].items()
                }
        held_out = None
        if self.held_out:
            held_out = self._held_out_recall(self.held_out.plain)
        return {"stages": stages, "held_out": held_out}

    def stage(self, method: Method, stage: int) -> dict[str, Any]:
        """The record of one stage: recall of every task seen, oracle, next task, held-out data, routing."""
        tasks = len(self.stream.tasks)
        if not method.stable:
            self.reset()
        known = self._encode(method, stage)
        record: dict[str, Any] = {
            "stage": stage,
            "task": self.stream.tasks[stage].name,
            "recall": self._recall(*known.upto(self.test, stage + 1)),
            "fixed": None,
            "oracle": None,
            "next": None,
            "held_out": None,
            "routing": None,
            "cosine": None,
            "frozen": None,
        }
        if self.settings.fixed_gallery:
            record["fixed"] = first_tasks(self._recall(known.rows, known.features), stage + 1)
        if method.router is not None:
            rows = {tower: self.test.upto(tower, stage + 1) for tower in TOWERS}
            if self.settings.oracle:
                own = {t: self._cache.features(method, t, rows[t], self.test.task[t][rows[t]]) for t in TOWERS}
                record["oracle"] = self._recall(rows, own)
            if self.settings.scoring == "routed":
                record["cosine"], record["frozen"] = self._beside(method, known, rows)
            record["routing"] = {t: self._routing(rows[t], known.routes[t][rows[t]], t, stage + 1) for t in TOWERS}
        if self.settings.transfer and stage + 1 < tasks:
            recall = self._recall(*known.upto(self.test, stage + 2))
            record["next"] = {d: {k: values[-1] for k, values in by_k.items()} for d, by_k in recall.items()}
        if self.held_out and self._held_out_cache:
            found = self._encoded(method, self.held_out, self._held_out_cache, self.held_out.tasks)
            record["held_out"] = self._held_out_recall(found.features)
        return record

    def replay(self, method: Method, stages: int) -> None:
        """Encode what an uninterrupted run would have encoded in its first stages, in the same groups.

        The last bits of a feature can depend on what else is in its batch; a resumed run must end with the same ones.
        """
        if method.stable:
            for stage in range(stages):
                self.stage(stage_of(method, stage), stage)

    # ---- for those who measure the same model in other ways ----------------------------------------------------------

    def seen(self, method: Method, stage: int) -> Encoded:
        """The test items of the tasks seen as the method encodes them after a stage; kept from :meth:`stage`."""
        known = self._encode(method, stage)
        rows, features = known.upto(self.test, stage + 1)
        return Encoded(rows, {tower: known.routes[tower][: len(rows[tower])] for tower in TOWERS}, features)

    def under(self, method: Method, tower: str, rows: Tensor, routes: Tensor) -> Tensor:
        """Features of some test items, each under the task it is given, [rows, features]."""
        return self._cache.features(method, tower, rows, routes)

    def mixed(self, method: Method, tower: str, rows: Tensor, routes: Tensor, weights: Tensor) -> Tensor:
        """Features of some test items under a mixture that is given; see :meth:`FeatureCache.mixed`."""
        return self._cache.mixed(method, tower, rows, routes, weights)

    def recall(self, rows: dict[str, Tensor], features: dict[str, Tensor], *, gallery: Gallery) -> dict[str, Any]:
        """Recall of each task among the items given, against that gallery."""
        return self._recall(rows, features, gallery)

    def _encode(self, method: Method, stage: int) -> Encoded:
        """The test data that a stage looks at: of the tasks seen, of the next one, or of all."""
        tasks = len(self.stream.tasks)
        ahead = tasks if self.settings.fixed_gallery else stage + 2 if self.settings.transfer else stage + 1
        return self._encoded(method, self.test, self._cache, min(ahead, tasks))

    def _encoded(self, method: Method, test: TestSet, cache: FeatureCache, tasks: int) -> Encoded:
        rows, routes, mixed, features = {}, {}, {}, {}
        for tower in TOWERS:
            rows[tower] = test.upto(tower, tasks)
            plain = test.routing_features(method, tower)[rows[tower]]
            routing = routed(method, tower, plain)
            routes[tower] = routing.tasks
            mixed[tower] = features[tower] = cache.mixed(method, tower, rows[tower], routing.routes, routing.weights)
            if self.settings.scoring == "routed" and method.router is not None:
                frozen = test.plain[tower][rows[tower]]
                features[tower] = self._scored(tower, mixed[tower], frozen, routing)
        return Encoded(rows, routes, features, mixed)

    def _scored(self, tower: str, mixed: Tensor, frozen: Tensor, routing: Routing) -> Tensor:
        """Features whose inner product is the ``routed`` score; see :mod:`lpi.routing.score`."""
        probe, weight = Probe(mixed, routing.membership), self.settings.routed_weight
        if self.settings.foreign_pairs == "mixed":
            return scored_features(probe, weight)
        return scored_features_with_frozen(probe, weight, frozen=frozen, tasks=routing.tasks, tower=tower)

    def _beside(self, method: Method, known: Encoded, rows: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a ``routed`` score is to be held against: plain cosines of the same features, and the frozen features
        with the same routing. Only what is above both comes from the two together.
        """
        tasks = len(method.tasks)
        cosine, frozen = {}, {}
        for tower in TOWERS:  # tasks come first to last
            cosine[tower] = known.mixed[tower][: len(rows[tower])]
            agreement = known.features[tower][: len(rows[tower]), -tasks:]
            frozen[tower] = torch.cat([self.test.plain[tower][rows[tower]], agreement], dim=1)
        return self._recall(rows, cosine), self._recall(rows, frozen)

    def _recall(
        self, rows: dict[str, Tensor], features: dict[str, Tensor], gallery: Gallery | None = None
    ) -> dict[str, Any]:
        place = torch.full((self.test.count("vision"),), -1)
        place[rows["vision"]] = torch.arange(len(rows["vision"]))
        text_place = torch.full((self.test.count("text"),), -1)
        text_place[rows["text"]] = torch.arange(len(rows["text"]))
        pairs = torch.stack([text_place[self.test.pairs[:, 0]], place[self.test.pairs[:, 1]]], dim=1)
        return dict(
            recall_both_directions(
                features["text"],
                features["vision"],
                pairs[(pairs >= 0).all(dim=1)],
                text_task=self.test.task["text"][rows["text"]],
                image_task=self.test.task["vision"][rows["vision"]],
                gallery=gallery or self.settings.gallery,
                similarity="dot",
            )
        )

    def _held_out_recall(self, features: dict[str, Tensor]) -> dict[str, Any]:
        assert self.held_out is not None
        recall = recall_both_directions(
            features["text"],
            features["vision"],
            self.held_out.pairs,
            text_task=self.held_out.task["text"],
            image_task=self.held_out.task["vision"],
            similarity="dot",
        )
        return {direction: {k: values[0] for k, values in by_k.items()} for direction, by_k in recall.items()}

    def _routing(self, rows: Tensor, routes: Tensor, tower: str, tasks: int) -> dict[str, Any]:
        true = self.test.task[tower][rows]
        column = torch.where(routes == FALLBACK, torch.full_like(routes, tasks), routes)
        confusion = torch.bincount(true * (tasks + 1) + column, minlength=tasks * (tasks + 1)).reshape(tasks, tasks + 1)
        return {"accuracy": float((routes == true).float().mean()), "confusion": confusion.tolist()}

    def top(self, features: dict[str, Tensor], direction: str, query: int, count: int = 5) -> list[tuple[int, float]]:
        """The best candidates of one query and their scores."""
        query_side, gallery_side = ("text", "vision") if direction == "text_to_image" else ("vision", "text")
        scores = features[gallery_side] @ features[query_side][query]
        best = scores.topk(min(count, len(scores)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def final_features(self, method: Method) -> dict[str, Tensor]:
        """Features of all test data after the last stage, scored as the settings say."""
        return self._encode(method, len(self.stream.tasks) - 1).features


def routed(method: Method, tower: str, features: Tensor) -> Routing:
    """Where a method sends items with these routing features, [items, routing features]."""
    if method.router is None:
        return all_under(0, features)
    found: Routing = method.router(tower, features.to(method.backbone.device))
    return found


def first_tasks(recall: Mapping[str, Any], tasks: int) -> dict[str, Any]:
    """The first tasks' figures of a recall record."""
    return {direction: {k: values[:tasks] for k, values in by_k.items()} for direction, by_k in recall.items()}
