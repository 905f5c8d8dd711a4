"""What methods share that correct the frozen model's features by what all tasks' training items show; no steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lpi.backbones.base import Images, Texts
from lpi.errors import LpiError
from lpi.methods.base import FALLBACK, Method, TrainingBatch
from lpi.methods.options import MethodOptions


class Corrected(Method):
    """Frozen features, corrected."""

    @dataclass(frozen=True)
    class Options(MethodOptions):
        """What is learned without steps takes no training."""

        training: ClassVar[Mapping[str, Any]] = {"epochs": 0}

    @property
    def known(self) -> bool:
        """Whether a task has been learned, so that there is something to correct by."""
        raise NotImplementedError

    def corrected(self, tower: str, features: Tensor) -> Tensor:
        """Frozen features of items [items, features] as they are compared, L2-normalised."""
        raise NotImplementedError

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """None: there is nothing to learn by steps."""
        raise LpiError(f"{type(self).__name__} has nothing to learn by steps.")

    def trainable(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def frozen_blocks(self, tower: str) -> int:
        """All of them."""
        return self.backbone.depths[tower]

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._features("vision", super().image_features(images, route), route)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return self._features("text", super().text_features(texts, route), route)

    def _features(self, tower: str, features: Tensor, route: int) -> Tensor:
        return features if route == FALLBACK or not self.known else self.corrected(tower, features)
