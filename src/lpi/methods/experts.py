"""What methods with a module of its own for each task have in common: tasks go again, and stages stay."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from operator import is_not
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.errors import ConfigError
from lpi.methods.base import Method
from lpi.prompts.low_rank import TOWERS
from lpi.prompts.task_keys import TaskKeys, task_distances, task_posteriors, whitening

KEY_PARTS = tuple(part.name for part in fields(TaskKeys))
Own = TypeVar("Own", bound="Experts")


class Keyed(nn.Module):
    """What a task has for itself, with its routing keys as buffers; they are filled when the task ends."""

    def __init__(self) -> None:
        super().__init__()
        for tower in TOWERS:
            for part in KEY_PARTS:
                self.register_buffer(f"{part}_{tower}", torch.empty(0))

    def keys(self, tower: str) -> TaskKeys:
        """The routing keys of one tower."""
        return TaskKeys(*(self.get_buffer(f"{part}_{tower}").cpu() for part in KEY_PARTS))

    def set_keys(self, tower: str, keys: TaskKeys) -> None:
        """Keep the routing keys of one tower."""
        for part in KEY_PARTS:
            place = self.get_buffer(f"{part}_{tower}").device
            setattr(self, f"{part}_{tower}", getattr(keys, part).to(place))


class Experts(Method):
    """A method that keeps one module a task and never changes it once the task has been learned.

    Attributes:
        experts: the tasks' modules, in the order of learning.
    """

    experts: nn.ModuleList

    def forget(self, task: str) -> None:
        """Take away what was learned and kept for a task; every other task stays bit-identical."""
        index = self.task_index(task)
        del self.experts[index]
        del self.tasks[index]

    def stage(self: Own, k: int) -> Own:
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
        return earlier


class KeyedExperts(Experts):
    """Experts that are :class:`Keyed`; the options ``metric`` and ``posterior_temperature`` say how keys are read."""

    def __init__(self, backbone: DualEncoder, **options: Any) -> None:
        super().__init__(backbone, **options)
        self._whitenings: dict[str, tuple[list[Tensor], Tensor]] = {}  # by tower: of which spreads, and the map

    def _keys(self, tower: str) -> list[TaskKeys]:
        return [cast(Keyed, expert).keys(tower) for expert in self.experts]

    def distances(self, tower: str, plain: Tensor) -> Tensor:
        """See :class:`Method`."""
        keys, metric = self._keys(tower), self.options["metric"]
        white = self._whitening(tower, keys) if metric == "whitened" else None
        return task_distances(plain.cpu(), keys, metric, white=white)

    def _whitening(self, tower: str, keys: Sequence[TaskKeys]) -> Tensor:
        """:func:`whitening`, computed anew only when the tasks' spreads are no longer the same tensors.

        It inverts a matrix as wide as the routing features, which a search would otherwise pay for with every query.
        """
        spreads = [expert.get_buffer(f"spread_{tower}") for expert in self.experts]
        known = self._whitenings.get(tower)
        if known is None or len(known[0]) != len(spreads) or any(map(is_not, known[0], spreads)):
            known = self._whitenings[tower] = (spreads, whitening(keys))
        return known[1]

    def posteriors(self, distances: Tensor, tower: str) -> Tensor:
        """See :class:`Method`."""
        temperature = self.options["posterior_temperature"]
        return task_posteriors(distances, self._keys(tower), metric=self.options["metric"], temperature=temperature)
