"""The frozen backbone as it is: the baseline of every table. It learns nothing and forgets nothing.

With a router it still tells tasks apart, which a routed score makes use of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.errors import LpiError
from lpi.methods.base import Method, TaskData, TrainingBatch, router_losses, router_trainable
from lpi.methods.experts import Experts
from lpi.methods.options import RoutedOptions


class ZeroShot(Experts, Method):
    """No learning at all.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(RoutedOptions):
        """What the frozen model takes: a router, if it shall have one."""

        training: ClassVar[Mapping[str, Any]] = {}

    options: Options
    stable = True

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.experts = nn.ModuleList()  # of which there is nothing to keep

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`."""
        self.experts.append(nn.Module())

    def task_state(self, index: int) -> dict[str, Tensor]:
        """See :class:`Learner`: nothing."""
        return {}

    def trainable(self) -> list[nn.Parameter]:
        """Nothing, unless the router learns."""
        return router_trainable(self)

    def frozen_blocks(self, tower: str) -> int:
        """All of them: what is encoded under several routes runs once."""
        return self.backbone.depths[tower]

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """That of the router, if it learns; else the trainer doesn't ask for one."""
        parts = router_losses(self, batch.frozen)
        if not parts:
            raise LpiError("zero_shot has nothing to learn.")
        return parts
