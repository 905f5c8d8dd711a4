"""The contract of a learner that finds what an expression means, over tasks that arrive one after another.

It learns as any other method does: tasks begin and end, a loss is given, queries are sent to tasks. What differs is
what goes in (a picture together with an expression) and what comes out (boxes with scores).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lpi.backbones.base import TextInputs
from lpi.backbones.detectors.base import Detections, GroundingBackbone
from lpi.backbones.detectors.inputs import PictureInputs, to_pixels
from lpi.backbones.given import PictureLike, given_picture, given_texts
from lpi.methods.base import FALLBACK, Learner, Problem
from lpi.methods.encoder import task_index, tokens
from lpi.methods.grounding.losses import detection_losses
from lpi.methods.options import MethodOptions
from lpi.metrics.boxes import nms


@dataclass(frozen=True)
class GroundingBatch:
    """Expressions ready for a forward pass, one a picture.

    Attributes:
        pictures: of the batch; a picture that several expressions are about stands here several times.
        texts: tokens of the expressions.
        boxes: what each means, [batch, 4], (centre x, centre y, width, height) in 0..1 of the picture's frame.
    """

    pictures: PictureInputs
    texts: TextInputs
    boxes: Tensor

    def to(self, device: torch.device | str) -> GroundingBatch:
        """The same batch on another device."""
        return GroundingBatch(self.pictures.to(device), self.texts.to(device), self.boxes.to(device))


@dataclass(frozen=True)
class Found:
    """A box that was found.

    Attributes:
        box: left, top, right, bottom in pixels of the picture, inside it.
        score: 0..1.
        task: whose knowledge was used; ``None`` for the frozen detector's.
    """

    box: tuple[float, float, float, float]
    score: float
    task: str | None


@dataclass(frozen=True)
class GroundingOptions(MethodOptions):
    """What every method for expressions takes."""

    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.003}


class GroundingMethod(Learner):
    """A continual learner of referring expressions over a frozen detector.

    Beside what every :class:`Learner` answers (``begin_task``, ``loss`` of a :class:`GroundingBatch`, ``end_task``,
    ``trainable``), it answers :meth:`detect` under a route, and :meth:`routes`.
    """

    problem: ClassVar[Problem] = "grounding"
    Options: ClassVar[type[MethodOptions]] = GroundingOptions
    backbone: GroundingBackbone
    #: what every method learns from by default; see :func:`lpi.methods.grounding.losses.detection_losses`
    weights: ClassVar[dict[str, float]] = {"alignment": 0.2, "place": 1.0}

    # ---- what a method answers -----------------------------------------------------------------------------------

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """Named scalars, already weighted; the detector's losses by default."""
        return detection_losses(self.detect(batch.pictures, batch.texts, 0), batch.boxes, **self.weights)

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """What is found under one route; FALLBACK is the frozen detector."""
        return self.backbone.detect(pictures, texts)

    def routes(self, features: Mapping[str, Tensor]) -> Tensor:
        """The route of each expression, int64 [batch].

        Args:
            features: frozen features of the pictures and the expressions, [batch, features] each.
        """
        return torch.zeros(len(features["vision"]), dtype=torch.int64)

    # ---- what others call ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def search(self, pictures: PictureInputs, texts: TextInputs, routes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [batch, queries, 4] as centre and size, and scores [batch, queries], each row under its own route."""
        boxes: list[Tensor] = [torch.empty(0)] * len(texts)
        scores: list[Tensor] = [torch.empty(0)] * len(texts)
        for route in sorted(set(routes.tolist())):
            rows = (routes == route).nonzero()[:, 0].cpu()
            own = rows.to(texts.ids.device)
            found = self.detect(pictures.rows(rows), TextInputs(texts.ids[own], texts.mask[own]), route)
            for place, row in enumerate(rows.tolist()):
                boxes[row], scores[row] = found.boxes[place], found.scores[place]
        return torch.stack(boxes), torch.stack(scores)

    @torch.no_grad()
    def routing_features(self, pictures: PictureInputs, expressions: Sequence[str]) -> dict[str, Tensor]:
        """Frozen features of pictures and expressions, [batch, features] a tower, to be routed by."""
        worded = [self.router.wording(expression) for expression in expressions] if self.router else list(expressions)
        texts = self.backbone.inputs.tokenize(worded).to(self.backbone.device)
        return self.backbone.frozen_features(pictures, texts)

    @torch.no_grad()
    def locate(
        self,
        image: PictureLike,
        expressions: str | Sequence[str],
        *,
        task: str | None = None,
        count: int = 5,
        suppress: float = 0.7,
        least: float = 0.0,
    ) -> list[list[Found]]:
        """The best boxes for each expression, best first.

        Args:
            image: a PIL picture of any size and mode, a path, or uint8 pixels [height, width, 3].
            expressions: what to look for; a single text is a list of one.
            task: use this task's knowledge; by default each expression is routed.
            count: at most so many boxes an expression.
            suppress: a box that overlaps a better one by more than this share (IoU) is left out; 1 keeps all.
            least: a box that scores less is left out.

        Raises:
            UnknownNameError: no such task was learned.
            ConfigError: this is no picture, or these are no texts.
            DataError: an expression without words, or a picture that can't be read.
        """
        expressions, image = given_texts(expressions)[0], given_picture(image)
        if not expressions:
            return []
        one = self.backbone.inputs.pictures([image]).to(self.backbone.device)
        pictures = one.rows(torch.zeros(len(expressions), dtype=torch.int64))
        if task is not None:
            routes = torch.full((len(expressions),), task_index(self, task))
        elif self.router is not None:
            routes = self.routes(self.routing_features(pictures, expressions)).cpu()
        else:
            routes = torch.zeros(len(expressions), dtype=torch.int64)
        boxes, scores = self.search(pictures, tokens(self, expressions), routes)
        corners = to_pixels(boxes, pictures.frames).cpu()
        corners[..., 0::2] = corners[..., 0::2].clamp(0, image.width)
        corners[..., 1::2] = corners[..., 1::2].clamp(0, image.height)
        answers = []
        for row, route in enumerate(routes.tolist()):
            used = self.tasks[route] if self.router is not None and route != FALLBACK else task
            best = nms(corners[row], scores[row].cpu(), most=count, share=suppress).tolist()
            answers.append(
                [
                    Found(
                        box=(left, top, right, bottom),
                        score=float(scores[row, place]),
                        task=used,
                    )
                    for place, (left, top, right, bottom) in ((place, corners[row, place].tolist()) for place in best)
                    if float(scores[row, place]) >= least
                ]
            )
        return answers
