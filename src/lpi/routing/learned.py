"""Learned keys: each task pulls a key of its own towards its items' frozen features while it is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import View
from lpi.errors import ConfigError
from lpi.options import Above, Weight
from lpi.prompts.low_rank import TOWERS
from lpi.routing.base import Kept, Router, TaskFeatures


class LearnedKeys(Router):
    """One key a task and tower, learned beside the task.

    Paper: DualPrompt (arXiv 2204.04799), section 4.3: the matching loss.
    """

    @dataclass(frozen=True)
    class Options(Router.Options):
        """How keys are learned and read."""

        match_weight: Annotated[Weight, "weight of the distance between a task's items and its key, lambda"] = 1.0
        key_start: Annotated[
            Literal["random", "mean"],
            "where a key begins: random, or at the mean of the task's frozen features (ours), where the matching loss "
            "is smallest anyway",
        ] = "random"
        posterior_temperature: Annotated[Above, "divides the cosines where tasks are assigned softly"] = 0.1

        def check(self) -> None:
            """See :class:`Table`."""
            if self.view != "features":
                raise ConfigError(f"learned keys are of frozen features: view must be 'features'; got {self.view!r}.")

    options: Options
    learns: ClassVar[bool] = True

    def begin_task(self, features: TaskFeatures, generator: torch.Generator) -> None:
        """See :class:`Router`."""
        for tower in TOWERS:
            self.draw(tower, features, generator)

    def draw(self, tower: str, features: TaskFeatures, generator: torch.Generator) -> None:
        """Begin the newest task's key of one tower; its first key makes room for the task.

        A method whose random numbers must come in an order of its own draws the keys itself.
        """
        if not len(self.kept) or all(hasattr(self.kept[-1], f"key_{name}") for name in TOWERS):
            super().begin_task(features, generator)
        key = torch.randn(self.width, generator=generator)
        if self.options.key_start == "mean":
            key = features(tower, View()).mean(dim=0)
        self._task(-1).keep(f"key_{tower}", nn.Parameter(F.normalize(key, dim=0)))

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """See :class:`Router`."""
        self.kept = nn.ModuleList(
            Kept({name: nn.Parameter(value, requires_grad=False) for name, value in state.items()}) for state in states
        )

    def losses(self, vision: Tensor, text: Tensor) -> dict[str, Tensor]:
        """The pull between the newest task's items and its key, both towers."""
        pulls = [
            self.distances(tower, query)[:, -1].mean() for tower, query in zip(TOWERS, (vision, text), strict=True)
        ]
        return {"match": self.options.match_weight * torch.stack(pulls).sum()}

    def distances(self, tower: str, features: Tensor) -> Tensor:
        """Cosine distance of each item to each task's key, [items, tasks]."""
        keys = torch.stack([self._task(index)[f"key_{tower}"] for index in range(len(self.kept))])
        return 1 - F.normalize(features.to(keys.device), dim=-1) @ F.normalize(keys, dim=-1).T

    def posteriors(self, tower: str, distances: Tensor) -> Tensor:
        """See :class:`Router`."""
        return (-distances / self.options.posterior_temperature).softmax(dim=1)
