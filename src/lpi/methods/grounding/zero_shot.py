"""The frozen detector as it is: the baseline of every table. It learns nothing and forgets nothing."""

from __future__ import annotations

from torch import Tensor, nn

from lpi.errors import LpiError
from lpi.methods.grounding.base import GroundingBatch, GroundingMethod


class GroundingZeroShot(GroundingMethod):
    """No learning at all."""

    stable = True

    def trainable(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """There is none; the trainer does not ask a method without trainable parameters."""
        raise LpiError("zero_shot has nothing to learn.")
