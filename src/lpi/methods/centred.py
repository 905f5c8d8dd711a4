"""The frozen model without the gap between its towers: each one's mean over all tasks is taken off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.errors import LpiError
from lpi.methods.base import FALLBACK, Method, Saved, TaskData, TrainingBatch
from lpi.methods.options import MethodOptions
from lpi.prompts.low_rank import TOWERS


class Centred(Method):
    """Frozen features, less the mean of their tower over the training items of all tasks. No steps, and sums alone.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Paper: Mind the gap (arXiv 2203.02053): features of the towers of a contrastive model lie around two directions.
    """

    @dataclass(frozen=True)
    class Options(MethodOptions):
        """It takes none."""

        training: ClassVar[Mapping[str, Any]] = {"epochs": 0}

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.count = dict.fromkeys(TOWERS, torch.zeros(()))
        self.total = {tower: torch.zeros(backbone.feature_width) for tower in TOWERS}

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """None: there is nothing to learn by steps."""
        raise LpiError("centred has nothing to learn by steps.")

    def trainable(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add the task's features to the sums."""
        super().end_task(data, generator)
        for tower, features in (("vision", data.frozen.image_features), ("text", data.frozen.text_features)):
            self.count[tower] = self.count[tower] + len(features)
            self.total[tower] = self.total[tower] + features.float().sum(0).cpu()

    def frozen_blocks(self, tower: str) -> int:
        """All of them."""
        return self.backbone.depths[tower]

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`."""
        return self._centred("vision", super().image_features(images, route), route)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :class:`Method`."""
        return self._centred("text", super().text_features(texts, route), route)

    def _centred(self, tower: str, features: Tensor, route: int) -> Tensor:
        if route == FALLBACK or not self.count[tower]:
            return features
        mean = self.total[tower] / self.count[tower]
        return F.normalize(features - mean.to(features.device), dim=-1)

    def shared_state(self) -> dict[str, Tensor]:
        """The sums and counts."""
        return {f"{name}/{tower}": getattr(self, name)[tower] for name in ("count", "total") for tower in TOWERS}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for name in ("count", "total"):
            setattr(self, name, {tower: shared[f"{name}/{tower}"] for tower in TOWERS})
