"""DAR: a LoRA expert for each task on the frozen model; a query takes the nearest one, or two merged if undecided.

Experts never change once their task is learned. A prototype for each task and tower says which expert a query
needs; when its second-nearest prototype is almost as near, the weights of both experts are merged for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.methods.adapters import (
    DeltaBackbone,
    LowRank,
    Targets,
    UpperShare,
    WeightDelta,
    blocks_below,
    grouped,
    item_level,
    within,
)
from lpi.methods.base import Method, Saved, TaskData, TrainingBatch, router_losses, router_trainable
from lpi.methods.experts import Experts
from lpi.methods.options import PairOptions, RoutedOptions, RouterName, RouterTable
from lpi.options import Weight
from lpi.routing.merged import MergedPrototypes, tasks_behind


class DAR(Experts, Method):
    """Dynamic adapter routing: LoRA experts chosen and merged by prototypes.

    A route that is a task, and a route that is two tasks merged, both stand for experts that never change again: what
    was encoded under either stays bit-identical. Which route a query takes may change as tasks arrive.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Raises:
        ConfigError: a number out of range, or an unknown choice.

    Paper: Dynamic Adapter Routing (arXiv 2605.31229): rank 8, prototype routing, the two nearest merged at a margin
        below 0.05.
    Differs: only the paper's abstract and figures were at hand: which layers carry the LoRA, alpha, and that both
        merged experts count a half each are our reading. Each side of a pair routes itself, as a search must (the
        paper's one-sided setting); its main tables route a pair's picture and caption together.
    """

    @dataclass(frozen=True)
    class Options(RoutedOptions, PairOptions):
        """What DAR takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-3}

        rank: Annotated[int, "of each expert's changes"] = 8
        alpha: Annotated[Weight, "a change is multiplied by alpha / rank"] = 16.0
        targets: Annotated[Targets, "which layers of the blocks are changed"] = "attention"
        upper: UpperShare = 1.0
        router: RouterName = "merged"
        routing: RouterTable = field(default_factory=MergedPrototypes.Options)

    options: Options
    stable = True

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        if self.router is not None:
            self.router.merges = True
        self.adapted = DeltaBackbone(backbone, self.options.targets, first=blocks_below(backbone, self.options.upper))
        self.experts = nn.ModuleList()
        self.new_expert(torch.Generator().manual_seed(0))  # refuses a wrong rank now, not when a task begins

    def new_expert(self, generator: torch.Generator) -> LowRank:
        """See :class:`Experts`: a change of the weights."""
        return LowRank(self.adapted.layers, rank=self.options.rank, generator=generator)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add a fresh expert."""
        self.experts.requires_grad_(False)
        self.experts.append(self.new_expert(generator).to(self.backbone.device))

    def trainable(self) -> list[nn.Parameter]:
        """The newest expert, and no others."""
        return [*self.experts[-1].parameters(), *router_trainable(self)] if len(self.experts) else []

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss under the newest expert."""
        newest = len(self.experts) - 1
        images, texts = self.image_features(batch.images, newest), self.text_features(batch.texts, newest)
        scale, multi = self.backbone.logit_scale.exp(), self.options.multi_positive
        item = item_level(batch, images, texts, logit_scale=scale, multi_positive=multi)
        return {"item": item} | router_losses(self, batch.frozen)

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep what routes the task's queries; its expert never changes again."""
        self.experts.requires_grad_(False)
        super().end_task(data, generator)

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def frozen_blocks(self, tower: str) -> int:
        """See :class:`Method`: those below the changed ones."""
        return blocks_below(self.backbone, self.options.upper)[tower]

    def _deltas(self, route: int) -> list[tuple[WeightDelta, float]]:
        """The changes behind a route and their factors: merging is the mean of the experts' weights."""
        chosen = tasks_behind(route)
        factor = self.options.alpha / self.options.rank / max(1, len(chosen))
        found: list[tuple[WeightDelta, float]] = []
        for index in chosen:
            expert = self.experts[index]
            assert isinstance(expert, WeightDelta)
            found.append((expert, factor))
        return found

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; a route is a task, two of them merged, or FALLBACK: the frozen backbone."""
        with self.adapted.with_deltas(*self._deltas(route)) as model:
            return F.normalize(model.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        with self.adapted.with_deltas(*self._deltas(route)) as model:
            return F.normalize(model.encode_texts(texts), dim=-1)

    # ---- saving ------------------------------------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """See :class:`Learner`: one expert."""
        return grouped("expert", super().task_state(index))

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Learner`."""
        super().restore([(name, within(state, "expert")) for name, state in tasks], shared)
