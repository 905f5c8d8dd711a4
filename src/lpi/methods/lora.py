"""LoRA: low-rank changes of the linear layers, one set for all tasks, trained on from task to task.

A matrix product of two thin factors is added to the weights of the frozen model and learned in their place. The layers
are those of the PEFT library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.extras import missing_extra
from lpi.methods.adapters import Targets, UpperShare, blocks_below, private_copy, target_layers
from lpi.methods.base import Saved, TaskData
from lpi.methods.options import PairOptions
from lpi.methods.tuned import TrainableCopy
from lpi.options import Count, Size


def inject(backbone: DualEncoder, *, rank: int, alpha: int, targets: Targets, upper: float) -> dict[str, nn.Parameter]:
    """Put PEFT's layers into a backbone's blocks, in place; returns their factors by name.

    Raises:
        MissingExtraError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("method 'lora' needs PEFT, which is not installed", "methods") from error
    chosen = {id(layer) for layer in target_layers(backbone, targets, blocks_below(backbone, upper)).values()}
    names = [name for name, module in backbone.model.named_modules() if id(module) in chosen]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), backbone.model)
    return {name: weight for name, weight in backbone.model.named_parameters() if ".lora_" in name}


class LoRA(TrainableCopy):
    """One set of low-rank changes for all tasks.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Raises:
        ConfigError: a number out of range, or an unknown choice.
        MissingExtraError: PEFT is not installed.

    Paper: LoRA (arXiv 2106.09685), eq. 3 and section 4.2 (queries and values).
    """

    @dataclass(frozen=True)
    class Options(PairOptions):
        """What LoRA takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3}

        rank: Annotated[Count, "of each change, r"] = 8
        alpha: Annotated[Size, "a change is multiplied by alpha / rank"] = 16
        targets: Annotated[Targets, "which layers of the blocks are changed"] = "query_value"
        upper: UpperShare = 1.0

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        o = self.options
        self.tuned = private_copy(backbone)
        self._factors = inject(self.tuned, rank=o.rank, alpha=o.alpha, targets=o.targets, upper=o.upper)
        self._start(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        """PEFT's own start, drawn from our generator: the lower factor uniform, the upper one zero."""
        for name, factor in self._factors.items():
            if ".lora_A." in name:
                drawn = 2 * torch.rand(factor.shape, generator=generator) - 1
                factor.copy_(drawn / factor.shape[1] ** 0.5)

    def frozen_blocks(self, tower: str) -> int:
        """See :class:`Method`: those below the changed ones."""
        return blocks_below(self.backbone, self.options.upper)[tower]

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """The first task starts at the frozen model, every further one where the last ended."""
        if len(self.tasks) == 1:
            self._start(generator)

    def trainable(self) -> list[nn.Parameter]:
        """The factors."""
        return list(self._factors.values())

    def shared_state(self) -> dict[str, Tensor]:
        """The factors."""
        return {name: factor.detach() for name, factor in self._factors.items()}

    @torch.no_grad()
    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for name, factor in self._factors.items():
            factor.copy_(shared[name])
