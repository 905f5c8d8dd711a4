"""A closed form on the frozen model: canonical correlations of its states, a map a task or one from all tasks' sums.

It learns a task in seconds, keeps nothing of an item and forgets nothing: whatever takes steps has to be better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.closed_form import Moments
from lpi.errors import LpiError
from lpi.methods.base import FALLBACK, Method, Saved, TaskData, TrainingBatch, router_losses, router_trainable
from lpi.methods.closing import Head, pairs_of, state_widths
from lpi.methods.experts import Experts
from lpi.methods.options import RoutedOptions
from lpi.options import Above, Count

SUMS = "sums/"


class CCA(Experts, Method):
    """Canonical correlation analysis on the frozen model's states.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Paper: regularised canonical correlation analysis (Vinod 1976, Journal of Econometrics 4).
    Differs: each direction counts by its correlation; the frozen features stand beside the map's vectors, at a share.
    """

    @dataclass(frozen=True)
    class Options(RoutedOptions):
        """What the closed form takes."""

        training: ClassVar[Mapping[str, Any]] = {"epochs": 0}

        dimensions: Annotated[Count, "directions that are kept of a map"] = 128
        maps: Annotated[
            Literal["task", "sum"],
            "a map a task, which wants a router; or one for all tasks, from the sum of their covariances",
        ] = "task"
        shrinkage: Annotated[
            Above | None, "of the covariances, in mean variances; by default what serves held-back pairs of a task best"
        ] = None

    options: Options
    stable: ClassVar[bool] = False

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.experts = nn.ModuleList()
        self.sums: Moments | None = None

    @property
    def extra_width(self) -> int:
        """See :class:`lpi.methods.encoder.Widened`."""
        return self.options.dimensions

    def new_expert(self, generator: torch.Generator) -> nn.Module:
        """See :class:`Experts`."""
        return Head(state_widths(self.backbone), self.options.dimensions)

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`: room for one more map."""
        self.experts.append(self.new_expert(generator).to(self.backbone.device))

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """That of the router, if it learns; else the trainer doesn't ask for one."""
        parts = router_losses(self, batch.frozen)
        if not parts:
            raise LpiError("cca has nothing to learn by steps.")
        return parts

    def trainable(self) -> list[nn.Parameter]:
        """Nothing, unless the router learns."""
        return router_trainable(self)

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Fit the newest map; or add the task's sums to those of the earlier ones, and fit the one map anew."""
        super().end_task(data, generator)
        pairs = pairs_of(data, self.read)
        head: Any = self.experts[-1]
        if self.options.maps == "sum":
            self.sums = pairs.moments() if self.sums is None else self.sums + pairs.moments()
        head.fit(pairs, self.sums, self.options.shrinkage)
        head.to(self.backbone.device)

    def frozen_blocks(self, tower: str) -> int:
        """All of them."""
        return self.backbone.depths[tower]

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._encode("vision", images, route)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return self._encode("text", texts, route)

    def _encode(self, tower: str, inputs: Images | Texts, route: int) -> Tensor:
        features, states = self.read(tower, inputs)
        if route == FALLBACK or not self.tasks:
            return F.pad(F.normalize(features, dim=-1), (0, self.extra_width))
        newest = self.options.maps == "sum"
        found: Tensor = self.experts[-1 if newest else route](tower, features, states)
        return found

    def read(self, tower: str, inputs: Any) -> tuple[Tensor, Tensor]:
        """Features of inputs, [items, features], and the states that the map is for, [items, states]."""
        return self.backbone.with_summary(tower, inputs)

    def shared_state(self) -> dict[str, Tensor]:
        """The sums of all tasks, where they make one map."""
        return {} if self.sums is None else {f"{SUMS}{name}": value for name, value in vars(self.sums).items()}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        sums = {name.removeprefix(SUMS): value for name, value in shared.items() if name.startswith(SUMS)}
        self.sums = Moments(**sums) if sums else None
