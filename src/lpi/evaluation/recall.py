"""Measures retrieval: after each stage, every task seen so far against the union gallery of all tasks seen so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.config import EvaluationSettings
from lpi.devices import Settled
from lpi.evaluation.problem import routing_of
from lpi.evaluation.records import Averages, FrozenRecord, PerTask, StageRecord, first_tasks
from lpi.evaluation.test_set import DIRECTIONS, TOWERS, Encoded, FeatureCache, TestSet, Towers, routed
from lpi.methods.base import Method
from lpi.methods.encoder import width_of
from lpi.methods.experts import stage_of
from lpi.metrics.ranking import (
    Gallery,
    Ranks,
    Similarity,
    cosine_block,
    ranks_both_directions,
    recall_both_directions,
    recalls_of,
)
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Routing
from lpi.routing.score import Matched, Probe, scored_features, scored_features_by_task
from lpi.tasks.stream import TaskStream

NEGLIGIBLE = 0.01  # a share of a task below which no item is encoded under it


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
        self.precision: Settled = "float32"
        self.reset()

    def reset(self, precision: Settled | None = None) -> None:
        """Forget features of earlier methods; see :meth:`lpi.evaluation.problem.Evaluator.reset`."""
        self.precision = precision or self.precision
        self._cache = FeatureCache(self.test, self.precision)
        self._held_out_cache = FeatureCache(self.held_out, self.precision) if self.held_out else None

    def frozen(self) -> FrozenRecord:
        """The frozen model in every stage."""
        stages: list[StageRecord] = []
        held_out = self._held_out(self.held_out.frozen) if self.held_out else None
        everything = self._held_out(self.held_out.frozen, self.test.frozen) if self.held_out else None
        for stage, task in enumerate(self.stream.tasks):
            rows = {tower: self.test.upto(tower, stage + 1) for tower in TOWERS}
            features = {tower: self.test.frozen[tower][rows[tower]] for tower in TOWERS}
            stages.append(
                StageRecord(stage, task.name, self.recall(rows, features), held_out=held_out, everything=everything)
            )
        if self.settings.fixed_gallery:
            every = stages[-1].seen
            stages = [replace(record, fixed=first_tasks(every, record.stage + 1)) for record in stages]
        if self.settings.transfer:  # what forward transfer is counted from
            ahead = [*(last_task(following.seen) for following in stages[1:]), None]
            stages = [replace(record, next=found) for record, found in zip(stages, ahead, strict=True)]
        return FrozenRecord(stages)

    def stage(self, method: Method, stage: int) -> StageRecord:
        """One stage: recall of every task seen, oracle, next task, held-out data, routing."""
        tasks = len(self.stream.tasks)
        if not method.stable:
            self.reset()
        known = self._encode(method, stage)
        own_rows, own_features = known.upto(self.test, stage + 1)
        ranks = self._ranks(own_rows, own_features, similarity=known.similarity)
        fixed = oracle = cosine = frozen = following = held_out = everything = routing = None
        if self.settings.fixed_gallery:
            fixed = first_tasks(self.recall(known.rows, known.features, similarity=known.similarity), stage + 1)
        if method.router is not None:
            rows = {tower: self.test.upto(tower, stage + 1) for tower in TOWERS}
            if self.settings.oracle:
                own = {t: self._cache.features(method, t, rows[t], self.test.task[t][rows[t]]) for t in TOWERS}
                oracle = self.recall(rows, own)
            if self.settings.scoring == "routed":
                cosine, frozen = self._beside(method, known, rows)
            routing = {t: routing_of(self.test.task[t][rows[t]], known.routes[t][rows[t]], stage + 1) for t in TOWERS}
        if self.settings.transfer and stage + 1 < tasks:
            following = last_task(self.recall(*known.upto(self.test, stage + 2), similarity=known.similarity))
        if self.held_out and self._held_out_cache:
            found = self._encoded(method, self.held_out, self._held_out_cache, self.held_out.tasks)
            held_out = self._held_out(found.features, similarity=found.similarity)
            if len(known.rows["vision"]) == self.test.count("vision"):
                everything = self._held_out(found.features, known.features, similarity=found.similarity)
        return StageRecord(
            stage=stage,
            task=self.stream.tasks[stage].name,
            seen=named(recalls_of(ranks)),
            items=self._by_item(own_rows, ranks) if stage + 1 == tasks else None,
            fixed=fixed,
            oracle=oracle,
            cosine=cosine,
            frozen=frozen,
            next=following,
            held_out=held_out,
            everything=everything,
            routing=routing,
        )

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
        routes = {tower: known.routes[tower][: len(rows[tower])] for tower in TOWERS}
        return Encoded(rows, routes, features, similarity=known.similarity)

    def under(self, method: Method, tower: str, rows: Tensor, routes: Tensor) -> Tensor:
        """Features of some test items, each under the task it is given, [rows, features]."""
        return self._cache.features(method, tower, rows, routes)

    def mixed(self, method: Method, tower: str, rows: Tensor, routes: Tensor, weights: Tensor) -> Tensor:
        """Features of some test items under a mixture that is given; see :meth:`FeatureCache.mixed`."""
        return self._cache.mixed(method, tower, rows, routes, weights)

    def recall(
        self, rows: Towers, features: Towers, gallery: Gallery | None = None, similarity: Similarity = "dot"
    ) -> PerTask:
        """Recall of each task among the items given, against that gallery; by default the settings'."""
        return named(recalls_of(self._ranks(rows, features, gallery, similarity)))

    def _by_item(self, rows: Towers, ranks: Mapping[str, Sequence[Ranks]]) -> list[list[float]]:
        """What each picture with its captions adds to R@1, by task: the mean over a task's pictures is its R@1.

        A picture adds half of whether it found a caption, and half of its captions that found it, by the mean number of
        captions a picture.
        """
        found = []
        for task, (texts, images) in enumerate(zip(ranks["text_to_image"], ranks["image_to_text"], strict=True)):
            owner = self.test.owner[rows["text"]][self.test.task["text"][rows["text"]] == task]
            own = torch.zeros(len(images), dtype=torch.float64)
            own.scatter_add_(0, owner - owner.min(), texts.within(1))  # every picture has captions, so min is the first
            found.append(((images.within(1) + own * len(images) / len(texts)) / 2).tolist())
        return found

    def _ranks(
        self, rows: Towers, features: Towers, gallery: Gallery | None = None, similarity: Similarity = "dot"
    ) -> dict[str, list[Ranks]]:
        place = torch.full((self.test.count("vision"),), -1)
        place[rows["vision"]] = torch.arange(len(rows["vision"]))
        text_place = torch.full((self.test.count("text"),), -1)
        text_place[rows["text"]] = torch.arange(len(rows["text"]))
        pairs = torch.stack([text_place[self.test.pairs[:, 0]], place[self.test.pairs[:, 1]]], dim=1)
        return ranks_both_directions(
            features["text"],
            features["vision"],
            pairs[(pairs >= 0).all(dim=1)],
            text_task=self.test.task["text"][rows["text"]],
            image_task=self.test.task["vision"][rows["vision"]],
            gallery=gallery or self.settings.gallery,
            similarity=similarity,
        )

    def _encode(self, method: Method, stage: int) -> Encoded:
        """The test data that a stage looks at: of the tasks seen, of the next one, or of all."""
        tasks = len(self.stream.tasks)
        ahead = tasks if self.settings.fixed_gallery else stage + 2 if self.settings.transfer else stage + 1
        return self._encoded(method, self.test, self._cache, min(ahead, tasks))

    def _encoded(self, method: Method, test: TestSet, cache: FeatureCache, tasks: int) -> Encoded:
        rows, routes, mixed, features = {}, {}, {}, {}
        scored = self.settings.scoring == "routed" and method.router is not None
        similarity: Similarity = "dot"
        if scored and self.settings.unrouted_score == "matched":
            similarity = Matched(len(method.tasks), width_of(method), self.settings.routed_weight)
        for tower in TOWERS:
            rows[tower] = test.upto(tower, tasks)
            looked_at = test.routing_features(method, tower)[rows[tower]]
            routing = routed(method, tower, looked_at)
            routes[tower] = routing.tasks
            mixed[tower] = features[tower] = cache.mixed(method, tower, rows[tower], routing.routes, routing.weights)
            if isinstance(similarity, Matched):
                features[tower] = packed(similarity, method, tower, rows[tower], routing, cache)
            elif scored:
                features[tower] = self._scored(method, tower, rows[tower], routing, mixed[tower], cache)
        return Encoded(rows, routes, features, mixed, similarity)

    def _scored(
        self, method: Method, tower: str, rows: Tensor, routing: Routing, mixed: Tensor, cache: FeatureCache
    ) -> Tensor:
        """Features whose inner product is the ``routed`` score; see :mod:`lpi.routing.score`."""
        weight = self.settings.routed_weight
        if self.settings.unrouted_score == "mixed":
            return scored_features(Probe(mixed, routing.membership), weight)
        vectors, shares = cache.by_task(method, tower, rows, routing.routes, routing.weights)
        frozen = cache.test.frozen[tower][rows]
        return scored_features_by_task(
            vectors, shares, frozen=frozen, membership=routing.membership, weight=weight, tower=tower
        )

    def _beside(self, method: Method, known: Encoded, rows: Towers) -> tuple[PerTask, PerTask]:
        """What a ``routed`` score is to be held against: plain cosines of the same features, and the frozen features
        with the same routing. Only what is above both comes from the two together.
        """
        tasks, similarity = len(method.tasks), known.similarity
        cosine, frozen = {}, {}
        for tower in TOWERS:  # tasks come first to last
            cosine[tower] = known.mixed[tower][: len(rows[tower])]
            scored = known.features[tower][: len(rows[tower])]
            if isinstance(known.similarity, Matched):
                similarity, frozen[tower] = known.similarity.unlearned(scored)
            else:
                frozen[tower] = torch.cat([self.test.frozen[tower][rows[tower]], scored[:, -tasks:]], dim=1)
        return self.recall(rows, cosine), self.recall(rows, frozen, similarity=similarity)

    def _held_out(self, features: Towers, tested: Towers | None = None, *, similarity: Similarity = "dot") -> Averages:
        """Recall of the held-out queries, in a gallery of their own or with the test data of all tasks in it."""
        assert self.held_out is not None
        task = self.held_out.task
        if tested is not None:  # behind the held-out ones, whose places stay
            features = {tower: torch.cat([features[tower], tested[tower]]) for tower in TOWERS}
            task = {
                tower: torch.cat([task[tower], torch.ones(len(tested[tower]), dtype=torch.int64)]) for tower in TOWERS
            }
        recall = recall_both_directions(
            features["text"],
            features["vision"],
            self.held_out.pairs,
            text_task=task["text"],
            image_task=task["vision"],
            tasks=1,
            similarity=similarity,
        )
        return last_task(named(recall))

    def scores(self, encoded: Encoded, direction: str, query: int) -> Tensor:
        """Of all candidates for one query, [candidates]."""
        ours, theirs = ("text", "vision") if direction == "text_to_image" else ("vision", "text")
        asked = encoded.features[ours][query : query + 1]
        return cosine_block(asked, encoded.features[theirs], similarity=encoded.similarity)(0, 1)[0]

    def top(self, encoded: Encoded, direction: str, query: int, count: int = 5) -> list[tuple[int, float]]:
        """The best candidates of one query and their scores."""
        scores = self.scores(encoded, direction, query)
        best = scores.topk(min(count, len(scores)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def final(self, method: Method) -> Encoded:
        """All test data after the last stage, scored as the settings say."""
        return self._encode(method, len(self.stream.tasks) - 1)


def packed(score: Matched, method: Method, tower: str, rows: Tensor, routing: Routing, cache: FeatureCache) -> Tensor:
    """What :class:`Matched` compares of some items, [rows, packed].

    Every item belongs to a task as far as it may: what the router sent to none takes its likeliest ones. A weight that
    is next to nothing isn't worth a vector.
    """
    assert method.router is not None
    inside = method.router.inside(tower, routing)
    shares, tasks = routing.posteriors.topk(routing.routes.shape[1], dim=1)
    lost = (routing.tasks == FALLBACK)[:, None]
    routes = torch.where(lost, tasks, routing.routes)
    weights = torch.where(lost, shares / shares.sum(dim=1, keepdim=True), routing.weights) * inside[:, None]
    vectors, counted = cache.by_task(method, tower, rows, routes, torch.where(weights < NEGLIGIBLE, 0.0, weights))
    return score.pack(vectors, counted, cache.test.frozen[tower][rows], routing.posteriors, inside)


def named(recall: Mapping[str, Mapping[str, list[float]]]) -> PerTask:
    """Recalls by direction and k under the names of their metrics.

    >>> named({"text_to_image": {"1": [0.5]}, "image_to_text": {"1": [0.25]}})
    {'t2i_r1': [0.5], 'i2t_r1': [0.25]}
    """
    short = dict(zip(DIRECTIONS, ("t2i", "i2t"), strict=True))
    return {f"{short[d]}_r{k}": list(values) for d, by_k in recall.items() for k, values in by_k.items()}


def last_task(measured: PerTask) -> Averages:
    """The last task's figures."""
    return {name: values[-1] for name, values in measured.items()}
