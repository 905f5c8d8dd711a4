"""What methods with a module of its own for each task have in common: tasks go again, and stages stay."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from lpi.errors import ConfigError, LpiError
from lpi.methods.base import Learner, Saved, load_by_shape
from lpi.methods.encoder import task_index

Kept = TypeVar("Kept", bound="Experts")
Own = TypeVar("Own", bound=Learner)


def stage_of(method: Own, k: int) -> Own:
    """A method as it was after stage ``k`` (0-based).

    Raises:
        LpiError: it keeps no earlier stage.
        ConfigError: there was no such stage.
    """
    if not isinstance(method, Experts):
        raise LpiError(f"{type(method).__name__} keeps no earlier stage.")
    return method.stage(k)


class Experts(Learner):
    """A method that keeps one module a task and never changes it once the task has been learned.

    Attributes:
        experts: the tasks' modules, in the order of learning.
    """

    experts: nn.ModuleList

    def new_expert(self, generator: torch.Generator) -> nn.Module:
        """The module of one more task, as it is before the task is learned."""
        return nn.Module()

    def task_state(self, index: int) -> dict[str, Tensor]:
        """See :class:`Learner`: the task's module."""
        return dict(self.experts[index].state_dict())

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Learner`."""
        generator = torch.Generator().manual_seed(0)
        self.experts = nn.ModuleList(load_by_shape(self.new_expert(generator), state) for _, state in tasks)
        self.experts.to(self.backbone.device)

    def forget(self, task: str) -> None:
        """Take away what was learned and kept for a task; every other task stays bit-identical."""
        index = task_index(self, task)
        del self.experts[index]
        del self.tasks[index]
        if self.router is not None:
            self.router.forget(index)

    def stage(self: Kept, k: int) -> Kept:
        """The method as it was after stage ``k`` (0-based); shares backbone and experts with this one.

        Raises:
            ConfigError: there was no such stage.
        """
        if not 0 <= k < len(self.experts):
            raise ConfigError(f"stage must be between 0 and {len(self.experts) - 1}; got {k}.")
        earlier = copy(self)
        earlier._modules = dict(self._modules)
        earlier.experts = nn.ModuleList(list(self.experts)[: k + 1])
        earlier.tasks = self.tasks[: k + 1]
        if self.router is not None:
            earlier.router = self.router.stage(k)
        return earlier
