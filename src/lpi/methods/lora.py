"""LoRA: low-rank changes of the linear layers, one set for all tasks, trained on from task to task.

A matrix product of two thin factors is added to the weights of the frozen model and learned in their place. The layers
are those of the PEFT library.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.extras import missing_extra
from lpi.methods.adapters import Targets, check_range, private_copy, target_layers
from lpi.methods.base import TaskData, recorded
from lpi.methods.tuned import Copied


def inject(backbone: DualEncoder, *, rank: int, alpha: int, targets: Targets) -> dict[str, nn.Parameter]:
    """Put PEFT's layers into a backbone's blocks, in place; returns their factors by name.

    Raises:
        MissingExtraError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("method 'lora' needs PEFT, which is not installed", "methods") from error
    chosen = {id(layer) for layer in target_layers(backbone, targets).values()}
    names = [name for name, module in backbone.model.named_modules() if id(module) in chosen]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), backbone.model)
    return {name: weight for name, weight in backbone.model.named_parameters() if ".lora_" in name}


class LoRA(Copied):
    """One set of low-rank changes for all tasks.

    Args:
        backbone: the frozen dual encoder.
        rank: of each change, r.
        alpha: a change is multiplied by alpha / rank.
        targets: which layers of the blocks: ``query_value``, ``attention``, ``mlp`` or ``all``.
        multi_positive: captions that equal another picture's count as positives of it.

    Raises:
        ConfigError: a number out of range, or an unknown choice.
        MissingExtraError: PEFT is not installed.

    Paper: LoRA (arXiv 2106.09685), eq. 3 and section 4.2 (queries and values).
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        rank: int = 8,
        alpha: int = 16,
        targets: Targets = "query_value",
        multi_positive: bool = True,
    ) -> None:
        super().__init__(backbone, **recorded(locals()))
        check_range("rank", rank, 1)
        check_range("alpha", alpha, 0)
        self.tuned = private_copy(backbone)
        self._factors = inject(self.tuned, rank=rank, alpha=alpha, targets=targets)
        self._start(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        """PEFT's own start, drawn from our generator: the lower factor uniform, the upper one zero."""
        for name, factor in self._factors.items():
            if ".lora_A." in name:
                drawn = 2 * torch.rand(factor.shape, generator=generator) - 1
                factor.copy_(drawn / factor.shape[1] ** 0.5)

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """The first task starts at the frozen model, every further one where the last ended."""
        super().begin_task(data, generator)
        if len(self.tasks) == 1:
            self._start(generator)

    def trainable(self) -> list[nn.Parameter]:
        """The factors."""
        return list(self._factors.values())

    def shared_state(self) -> dict[str, Tensor]:
        """The factors."""
        return {name: factor.detach() for name, factor in self._factors.items()}

    @torch.no_grad()
    def restore(self, tasks: Any, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        for name, factor in self._factors.items():
            factor.copy_(shared[name])
