"""What is merged when a task ends: weights of a model that goes on learning, or low-rank changes of a frozen one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.methods.adapters import (
    DeltaBackbone,
    LowRank,
    Targets,
    UpperShare,
    blocks_below,
    grouped,
    item_level,
    within,
)
from lpi.methods.base import Method, Saved, TaskData, TrainingBatch
from lpi.methods.options import PairOptions
from lpi.methods.tuned import Tuned
from lpi.options import Weight

MERGED = "merged"


class Merged(Tuned):
    """A copy of the backbone that goes on learning, and a second one, merged after every task, that encodes.

    Args:
        backbone: where both start; itself left as it is.
        options: see :class:`Options`.

    Attributes:
        merged: the second one.
    """

    def __init__(self, backbone: DualEncoder, options: Tuned.Options | None = None) -> None:
        super().__init__(backbone, options)
        self.merged = deepcopy(backbone)
        self.merged.requires_grad_(False)

    def merge(self, frozen: Tensor, before: Tensor, learned: Tensor) -> Tensor:
        """A weight of the merged model after a task.

        Args:
            frozen: in the backbone.
            before: in the merged model before the task.
            learned: in the model that goes on learning, after it.
        """
        raise NotImplementedError

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`: of the merged model."""
        return F.normalize(self.merged.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return F.normalize(self.merged.encode_texts(texts), dim=-1)

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """:meth:`merge` every weight that learns."""
        super().end_task(data, generator)
        frozen, learned = (dict(one.model.named_parameters()) for one in (self.backbone, self.tuned))
        for name, weight in self.merged.model.named_parameters():
            if learned[name].requires_grad:
                weight.copy_(self.merge(frozen[name], weight, learned[name]))

    def shared_state(self) -> dict[str, Tensor]:
        """All weights of both."""
        return {**super().shared_state(), **grouped(MERGED, self.merged.model.state_dict())}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.merged.model.load_state_dict(within(shared, MERGED))
        super().restore(tasks, {name: value for name, value in shared.items() if not name.startswith(f"{MERGED}/")})


class MergedDelta(Method):
    """Low-rank changes that are learned for a task and then join the weights.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Attributes:
        adapted: the model with the weights so far.
        change: of the newest task.
    """

    @dataclass(frozen=True)
    class Options(PairOptions):
        """What such changes take."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-3}

        rank: Annotated[int, "of the changes of a task"] = 16
        alpha: Annotated[Weight, "a change is multiplied by alpha / rank"] = 32.0
        targets: Annotated[Targets, "which layers of the blocks are changed"] = "all"
        upper: UpperShare = 1.0

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        first = blocks_below(backbone, self.options.upper)
        self.adapted = DeltaBackbone(backbone, self.options.targets, own=True, first=first)
        self.change = self.new_change(torch.Generator().manual_seed(0))

    @property
    def factor(self) -> float:
        """By which a change is multiplied."""
        return self.options.alpha / self.options.rank

    def new_change(self, generator: torch.Generator) -> LowRank:
        """A change of zero."""
        return LowRank(self.adapted.layers, rank=self.options.rank, generator=generator)

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Start a change."""
        self.change = self.new_change(generator).to(self.backbone.device)

    def both(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch under the change, [images, features] and [texts, features]."""
        with self.adapted.with_deltas((self.change, self.factor)) as model:
            images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)

    def item(self, batch: TrainingBatch, images: Tensor, texts: Tensor) -> Tensor:
        """The item-level loss of a batch's features, scalar."""
        scale, multi = self.backbone.logit_scale.exp(), self.options.multi_positive
        return item_level(batch, images, texts, logit_scale=scale, multi_positive=multi)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss alone."""
        return {"item": self.item(batch, *self.both(batch))}

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Merge the change."""
        self.adapted.merge(self.change, self.factor)

    def frozen_blocks(self, tower: str) -> int:
        """See :class:`Method`: those below the changed ones."""
        return blocks_below(self.backbone, self.options.upper)[tower]

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; with what has been merged so far."""
        return F.normalize(self.adapted.model.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return F.normalize(self.adapted.model.encode_texts(texts), dim=-1)

    def shared_state(self) -> dict[str, Tensor]:
        """The merged weights, and the last change."""
        layers = self.adapted.layers
        return {
            **grouped("weight", {name: layer.weight for name, layer in layers.items()}),
            **grouped("bias", {name: layer.bias for name, layer in layers.items() if layer.bias is not None}),
            **grouped("change", self.change.state_dict()),
        }

    @torch.no_grad()
    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for kind in ("weight", "bias"):
            for name, value in within(shared, kind).items():
                cast(Tensor, getattr(self.adapted.layers[name], kind)).copy_(value)
        self.change.load_state_dict(within(shared, "change"))
