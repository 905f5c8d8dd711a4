"""The protocol for expressions: after each stage, every task seen so far, P@k with the task inferred and given.

An expression counts as found at k where one of its first k boxes overlaps the true one enough. What is kept from stage
to stage is the place of that box, three counts an expression and route: where a method is *stable*, only expressions
that are now sent elsewhere are looked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lpi.backbones.detectors.base import GroundingBackbone
from lpi.config import EvaluationSettings
from lpi.data.expressions.record import ReferringExpression
from lpi.devices import Settled
from lpi.evaluation.problem import routing_of
from lpi.evaluation.records import Averages, FrozenRecord, PerTask, StageRecord, first_tasks
from lpi.expression_data import ExpressionSet
from lpi.methods.base import FALLBACK
from lpi.methods.encoder import tokens
from lpi.methods.experts import stage_of
from lpi.methods.grounding.base import GroundingMethod
from lpi.metrics.boxes import KS, cxcywh_to_xyxy, hit_ranks, nms, precision_per_task
from lpi.metrics.ranking import Ranks
from lpi.tasks.grounding import GroundingStream

UNKNOWN = -1  # a count that wasn't made yet


@dataclass(frozen=True)
class Best:
    """The best boxes for an expression, best first.

    Attributes:
        boxes: left, top, right, bottom in 0..1 of the detector's frame, [boxes, 4].
        scores: of each, [boxes].
    """

    boxes: Tensor
    scores: Tensor


class TestExpressions:
    """Test expressions of some tasks, with the frozen detector's features, and where their objects were found.

    Attributes:
        task: the task of each expression, int64 [expressions].
        frozen: frozen features of each expression's picture and words, [expressions, features] a tower.
    """

    __test__ = False  # not a test case

    def __init__(
        self, groups: Sequence[Sequence[ReferringExpression]], backbone: GroundingBackbone, settings: EvaluationSettings
    ) -> None:
        self.records = [record for group in groups for record in group]
        self.tasks, self.settings, self.backbone = len(groups), settings, backbone
        self.task = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(group) for group in groups]))
        self.set = ExpressionSet("test", self.records, backbone, batch=settings.batch)
        pictures: dict[str, int] = {}
        picture = [pictures.setdefault(record.picture.name, len(pictures)) for record in self.records]
        words = {expression: row for row, expression in enumerate(self.set.expressions)}
        self._words = torch.tensor([words[record.expression] for record in self.records])
        self.frozen = {
            "vision": self.set.image_features.cpu()[torch.tensor(picture)],
            "text": self.set.text_features.cpu()[self._words],
        }
        self._worded: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what earlier methods found; what the frozen detector finds stays."""
        frozen = getattr(self, "_ranks", {}).get(FALLBACK)
        self._ranks: dict[int, Tensor] = {} if frozen is None else {FALLBACK: frozen}

    def upto(self, tasks: int) -> Tensor:
        """Rows of the first ``tasks`` tasks."""
        return (self.task < tasks).nonzero()[:, 0]

    @torch.no_grad()
    def routes(self, method: GroundingMethod, rows: Tensor) -> Tensor:
        """Where a method sends some of the expressions, int64 [rows]."""
        if method.router is None:
            return torch.zeros(len(rows), dtype=torch.int64)
        frozen = {"vision": self.frozen["vision"][rows], "text": self._texts(method)[rows]}
        return method.routes({tower: values.to(method.backbone.device) for tower, values in frozen.items()}).cpu()

    def _texts(self, method: GroundingMethod) -> Tensor:
        """Features of the expressions in the words that the method routes by, [expressions, features]."""
        wording = method.router.wording("") if method.router is not None else ""
        if wording == "":
            return self.frozen["text"]
        if wording not in self._worded:
            assert method.router is not None  # or there is no wording
            texts = [method.router.wording(text) for text in self.set.expressions]
            self._worded[wording] = self.set.features_of(texts).cpu()[self._words]
        return self._worded[wording]

    @torch.no_grad()
    def best(self, method: GroundingMethod | None, rows: Tensor, route: int) -> list[Best]:
        """The best boxes for some of the expressions under one route; without a method, the frozen detector's."""
        found = []
        for part in torch.split(rows, self.settings.batch):
            if method is None or route == FALLBACK:
                batch = self.set.ready(part.tolist(), self.backbone.inputs.tokenize)
                boxes, scores = self.backbone(batch.pictures, batch.texts)
            else:
                batch = self.set.ready(part.tolist(), partial(tokens, method))
                seen = method.detect(batch.pictures, batch.texts, route)
                boxes, scores = seen.boxes, seen.scores
            corners = cxcywh_to_xyxy(boxes.float().cpu())
            for own, score in zip(corners, scores.float().cpu(), strict=True):
                kept = nms(own, score, most=max(KS), share=self.settings.suppress, ties=True)
                found.append(Best(own[kept], score[kept]))
        return found

    def truth(self, rows: Tensor) -> Tensor:
        """The true boxes, left, top, right, bottom in 0..1 of the detector's frame, [rows, 4]."""
        return torch.tensor([self.set.units(row) for row in rows.tolist()])

    def ranks(self, method: GroundingMethod | None, rows: Tensor, routes: Tensor) -> Ranks:
        """The place of the first right box of some expressions, each under its own route."""
        result = torch.empty(len(rows), 3, dtype=torch.int64)
        for route in torch.unique(routes).tolist():
            chosen = (routes == route).nonzero()[:, 0]
            known = self._ranks.setdefault(route, torch.full((len(self.records), 3), UNKNOWN))
            missing = rows[chosen][known[rows[chosen], 0] == UNKNOWN]
            if len(missing):
                best = self.best(method, missing, route)
                boxes, scores = [found.boxes for found in best], [found.scores for found in best]
                ranks = hit_ranks(boxes, self.truth(missing), scores=scores, overlap=self.settings.overlap)
                known[missing] = ranks.counts
            result[chosen] = known[rows[chosen]]
        return Ranks(result)

    def precision(self, ranks: Ranks, rows: Tensor, tasks: int) -> PerTask:
        """P@k of the first tasks."""
        found = precision_per_task(ranks, self.task[rows].tolist(), tasks=tasks)
        return {f"p{k}": values for k, values in found.items()}


class GroundingEvaluator:
    """Measures methods on one stream of expressions.

    Args:
        backbone: the frozen detector.
        stream: whose test splits and held-out expressions are used.
        settings: how.
    """

    def __init__(self, backbone: GroundingBackbone, stream: GroundingStream, settings: EvaluationSettings) -> None:
        self.backbone, self.stream, self.settings = backbone, stream, settings
        self.test = TestExpressions([task.test for task in stream.tasks], backbone, settings)
        self.held_out = TestExpressions([stream.held_out], backbone, settings) if stream.held_out else None

    def reset(self, precision: Settled | None = None) -> None:
        """Forget what earlier methods found; boxes are found in float32 whatever the precision."""
        self.test.reset()
        if self.held_out:
            self.held_out.reset()

    def frozen(self) -> FrozenRecord:
        """The frozen detector at every stage."""
        every = self._precision(None, self.test, self.test.upto(len(self.stream.tasks)))
        held_out = self._held_out(None)
        return FrozenRecord(
            [
                StageRecord(
                    stage=stage,
                    task=task.name,
                    seen=first_tasks(every, stage + 1),
                    next=self._next(every, stage),
                    held_out=held_out,
                )
                for stage, task in enumerate(self.stream.tasks)
            ]
        )

    def stage(self, method: GroundingMethod, stage: int) -> StageRecord:
        """One stage: P@k of every task seen, oracle, next task, held-out expressions, routing."""
        if not method.stable:
            self.reset()
        seen = stage + 1
        ahead = min(seen + self.settings.transfer, len(self.stream.tasks))
        rows = self.test.upto(ahead)
        routes = self.test.routes(method, rows)
        every = self.test.precision(self.test.ranks(method, rows, routes), rows, ahead)
        own, items = self.test.upto(seen), None
        if seen == len(self.stream.tasks):
            first = self.test.ranks(method, own, routes).within(1)
            items = [first[self.test.task[own] == task].tolist() for task in range(seen)]
        oracle = routing = None
        if method.router is not None:
            routing = {"both": routing_of(self.test.task[own], routes[: len(own)], seen)}
            if self.settings.oracle:
                oracle = self.test.precision(self.test.ranks(method, own, self.test.task[own]), own, seen)
        return StageRecord(
            stage=stage,
            task=self.stream.tasks[stage].name,
            seen=first_tasks(every, seen),
            items=items,
            oracle=oracle,
            next=self._next(every, stage) if ahead > seen else None,
            held_out=self._held_out(method),
            routing=routing,
        )

    def _next(self, every: PerTask, stage: int) -> Averages | None:
        """The task after a stage, where the settings ask for it and there is one."""
        if not self.settings.transfer or stage + 1 == len(self.stream.tasks):
            return None
        return {name: values[stage + 1] for name, values in every.items()}

    def replay(self, method: GroundingMethod, stages: int) -> None:
        """Look for what an uninterrupted run would have looked for in its first stages, in the same groups.

        The last bits of a box can depend on what else is in its batch; a resumed run must end with the same ones.
        """
        if method.stable:
            for stage in range(stages if method.router is not None else 0):
                self.stage(stage_of(method, stage), stage)

    def _precision(self, method: GroundingMethod | None, test: TestExpressions, rows: Tensor) -> PerTask:
        frozen = torch.full((len(rows),), FALLBACK)
        routes = frozen if method is None else test.routes(method, rows)
        return test.precision(test.ranks(method, rows, routes), rows, test.tasks)

    def _held_out(self, method: GroundingMethod | None) -> Averages | None:
        if self.held_out is None:
            return None
        found = self._precision(method, self.held_out, self.held_out.upto(1))
        return {k: values[0] for k, values in found.items()}
