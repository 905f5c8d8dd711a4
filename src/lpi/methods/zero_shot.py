"""The frozen backbone as it is: the floor of every table. It learns nothing and forgets nothing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lpi.errors import LpiError
from lpi.methods.base import Method, TrainingBatch


class ZeroShot(Method):
    """No learning at all."""

    stable: ClassVar[bool] = True

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """There is none; the trainer does not ask a method without trainable parameters."""
        raise LpiError("zero_shot has nothing to learn.")
