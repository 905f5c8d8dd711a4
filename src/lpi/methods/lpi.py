"""LPI: low-rank prompts for both towers of a frozen dual encoder, one small set a task.

The prompts of a task are one low-rank tensor a tower with a layer factor in common; in every prompted layer each
tower's prompts take up something of the other's; contrastive losses on items, layers and tasks train them. A query
goes to the task of its nearest k-means key, so tasks never overwrite each other.

Paper: Low-rank Prompt Interaction (arXiv 2501.14369, ACM MM 2024).
Differs: the defaults are what measured best here with prompts alone: prompts added *into* the first
tokens, a start at the frozen model, kept features of earlier tasks as negatives, a pull towards the frozen model,
whitened keys and a soft choice of the task. ``preset="best"`` adds what prompts can't do, a low-rank change of the
frozen weights, and leaves out the norm. ``preset="paper"`` and ``preset="authors-release"`` are the published readings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder, Images, Texts, TowerPrompts, TowerState
from lpi.losses import distillation_loss, item_loss
from lpi.methods.base import FALLBACK, Method, TaskData, TrainingBatch, router_losses
from lpi.methods.closing import Beside, ClosingTable, Head, reduced, states_of
from lpi.methods.low_rank import (
    AdapterTable,
    InteractionTable,
    LowRankOptions,
    LowRankTasks,
    PromptLossTable,
    PromptTable,
    TaskPrompts,
)
from lpi.methods.options import Preset
from lpi.methods.pairs import frozen_pairs, pairs_of
from lpi.options import Size, Weight
from lpi.prompts.low_rank import TOWERS
from lpi.routing.nearest import NearestKeys

ENOUGH = 8  # pictures kept out of the steps, to decide whether these are kept; of a task with fewer, none is
PUBLISHED_TRAINING: Mapping[str, Any] = {
    "optimiser": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "batch": 64,
    "epochs": 10,
    "captions_per_image": 1,
    "augment": "crop_flip",
    "clip": 0.0,
}
"""How the authors train for retrieval (method of arXiv 2501.14369 and its released code).

Differs: their rate falls once an epoch, ours every step; their crops are of 8 % to all of a picture, ours of half to
all; an epoch of theirs shows every caption, ours every picture with one of its captions; their decay goes on shrinking
the prompts of earlier tasks, ours leaves them alone.
"""


@dataclass(frozen=True)
class LossTable(PromptLossTable):
    """All losses, and what of earlier tasks takes part in them."""

    distill_weight: Annotated[
        Weight, "weight of staying near the frozen model's retrieval distribution on the batch (ours)"
    ] = 0.2
    memory: Annotated[
        Size,
        "so many frozen training features are kept for each task and tower, and compete as negatives in later tasks "
        "(ours): a task's own pictures alone don't show it what else will be searched",
    ] = 32
    multi_positive: Annotated[bool, "captions that equal another picture's count as positives of it"] = True


class LPI(LowRankTasks, Method):
    """Low-rank prompts with cross-modal interaction, one set a task, routed by k-means keys.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Raises:
        ConfigError: an unknown choice, or sizes that don't fit the backbone.
    """

    @dataclass(frozen=True)
    class Options(LowRankOptions):
        """What LPI takes for retrieval."""

        losses: LossTable = LossTable()
        closing: ClosingTable = field(default_factory=ClosingTable)

        @classmethod
        def presets(cls) -> dict[str, Preset]:
            """See :class:`lpi.methods.options.Options`."""
            published = LossTable(memory=0, distill_weight=0.0)
            return {
                "best": Preset(
                    cls(
                        interaction=InteractionTable(norm="none"),
                        adapter=AdapterTable(rank=4),
                        closing=ClosingTable(dimensions=32, projection=600, beside="both"),
                    )
                ),
                "paper": Preset(
                    cls(
                        prompts=PromptTable(injection="replace", start="paper"),
                        losses=published,
                        router="nearest",
                        routing=NearestKeys.Options(metric="cosine", posterior_temperature=0.2),
                    ),
                    PUBLISHED_TRAINING,
                ),
                "authors-release": Preset(
                    cls(
                        prompts=PromptTable(injection="shallow", start="paper"),
                        interaction=InteractionTable(enabled=False),
                        losses=LossTable(
                            memory=0,
                            distill_weight=0.0,
                            multi_positive=False,
                            layer_scaling="raw",
                            task_form="authors",
                            task_temperature=0.001,
                            semantics="names",
                            near_threshold=0.4,
                            centre_semantics=False,
                        ),
                        router="nearest",
                        routing=NearestKeys.Options(metric="l1", words="placeholders", posterior_temperature=0.2),
                    ),
                    PUBLISHED_TRAINING,
                ),
            }

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self._held_every = 0  # of the task that is learned
        self.new_expert(torch.Generator().manual_seed(0))  # refuses wrong sizes now, not when a task begins

    def new_expert(self, generator: torch.Generator) -> TaskPrompts:
        """See :class:`LowRankTasks`; with a closed form, if there shall be one."""
        expert = super().new_expert(generator)
        if self.extra_width:
            o = self.options.closing
            expert.head = Head(self.backbone, o.dimensions, o.projection)
            if o.beside != "nothing":
                expert.beside = Beside(*o.widths(self.backbone.feature_width))
        return expert

    @property
    def extra_width(self) -> int:
        """See :class:`lpi.methods.encoder.Widened`."""
        o = self.options.closing
        return o.dimensions + sum(o.widths(self.backbone.feature_width)) if o.dimensions else 0

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`LowRankTasks`; of a task with too few pictures to decide by some of them, none is kept out."""
        super().begin_task(data, generator)
        every = self.options.closing.check_every if self.extra_width else 0
        self._held_every = every if every and len(data.frozen.image_features) // every >= ENOUGH else 0

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Item, layer and task level, and the pull towards the frozen model, each times its weight."""
        o, expert = self.options.losses, self.expert(-1)
        held = self._held(batch.picture_rows)
        if len(held) and bool(held.all()):  # a short batch of kept-out pictures: the step changes nothing by them
            return {"item": 0 * torch.stack([parameter.sum() for parameter in self.trainable()]).sum()}
        if bool(held.any()):
            batch = batch.only(~held)
        raw = expert.raw()
        states = expert(raw)
        with self.changed(expert) as model:
            images = model.encode_images(batch.images, self.entering(expert, states, "vision"))
            texts = model.encode_texts(batch.texts, self.entering(expert, states, "text"))
        images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
        scale = self.backbone.logit_scale.exp()
        positives = batch.positives
        if not o.multi_positive:
            positives = F.one_hot(batch.owner, len(images)).T.bool()
        others = self._others()
        item = item_loss(
            images,
            texts,
            positives,
            logit_scale=scale,
            other_images=others["vision"],
            other_texts=others["text"],
        )
        parts = {"item": item} | self.prompt_losses(raw)
        if o.distill_weight:
            frozen_images, frozen_texts = batch.frozen()
            teacher = scale * frozen_images @ frozen_texts.T
            parts["distill"] = o.distill_weight * distillation_loss(scale * images @ texts.T, teacher)
        return parts | router_losses(self, batch.frozen)

    def _others(self) -> dict[str, Tensor | None]:
        """What earlier tasks left to compete with, [others, features] a tower; nothing for the first task."""
        earlier = [self.expert(index) for index in range(len(self.experts) - 1)]
        if not earlier or not self.options.losses.memory:
            return dict.fromkeys(TOWERS)
        return {tower: torch.cat([getattr(task, f"memory_{tower}").float() for task in earlier]) for tower in TOWERS}

    def kept_features(self) -> int:
        """See :class:`LowRankTasks`: for later tasks to compete with."""
        return self.options.losses.memory

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`LowRankTasks`; the closed form is made of the states as the task has changed them."""
        super().end_task(data, generator)
        expert = self.expert(-1)
        if expert.head is None:
            return
        best = expert.head.fit(frozen_pairs(data, self.seen, self.options.closing.cuts))
        expert.head.changed.fill_(False)
        if not data.steps:
            return
        cuts = 0 if best.pairs.cuts is None else len(best.pairs.cuts)
        prompts = self.tower_prompts(-1)
        with self.changed(expert) as model:
            changed = pairs_of(data, lambda tower, inputs: self._states(model, tower, inputs, prompts[tower]), cuts)
        held = self._held(torch.arange(len(changed.states["vision"])))
        if not held.any():
            expert.head.changed.fill_(True)
            expert.head.fit(changed)
        elif expert.beside is None:
            expert.head.fit_better(best.pairs, changed, held)
        else:
            expert.beside.fit(best, changed, held)

    def _held(self, rows: Tensor) -> Tensor:
        """Which of a task's pictures are kept out of its steps, bool [some]."""
        every = self._held_every
        return rows % every == every - 1 if every else torch.zeros(len(rows), dtype=torch.bool)

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def tower_prompts(self, index: int) -> dict[str, TowerPrompts]:
        """What enters each tower for task ``index``."""
        expert = self.expert(index)
        states = expert()
        return {tower: self.entering(expert, states, tower) for tower in TOWERS}

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._encode("vision", images, route)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return self._encode("text", texts, route)

    def _encode(self, tower: str, inputs: Images | Texts, route: int) -> Tensor:
        if route == FALLBACK:
            return F.normalize(getattr(self.backbone, tower)(inputs), dim=-1)
        expert = self.expert(route)
        if expert.head is None:
            with self.changed(expert) as model:
                return F.normalize(getattr(model, tower)(inputs, self.tower_prompts(route)[tower]), dim=-1)
        if expert.beside is not None:
            inputs = self._below(tower, inputs)

        def changed() -> tuple[Tensor, Tensor]:
            with self.changed(expert) as model:
                return self._states(model, tower, inputs, self.tower_prompts(route)[tower])

        frozen = not expert.head.changed
        seen = self._states(self.backbone, tower, inputs, None) if frozen else changed()
        found: Tensor = expert.head(tower, *seen)
        if expert.beside is not None:
            found = expert.beside(tower, found, changed)
        return found

    def maps(self, route: int) -> bool:
        """See :class:`lpi.methods.encoder.MapsFrozen`: a closed form of frozen states with nothing beside it."""
        if route == FALLBACK:
            return False
        expert = self.expert(route)
        alone = expert.beside is None or not expert.beside.weights.any()
        return expert.head is not None and not expert.head.changed and alone

    def seen(self, features: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`lpi.methods.encoder.MapsFrozen`."""
        return features, reduced(summary, self.options.closing.projection)

    def read(self, tower: str, inputs: Any) -> tuple[Tensor, Tensor]:
        """See :class:`lpi.methods.encoder.MapsFrozen`."""
        return self._states(self.backbone, tower, inputs, None)

    def mapped(self, tower: str, features: Tensor, states: Tensor, route: int) -> Tensor:
        """See :class:`lpi.methods.encoder.MapsFrozen`."""
        expert = self.expert(route)
        assert expert.head is not None  # or nothing is mapped
        found: Tensor = expert.head(tower, features, states)
        return found if expert.beside is None else expert.beside.padded(found)

    def _below(self, tower: str, inputs: Any) -> Any:
        """The states that two passes have in common, where they have any."""
        encoder, common = getattr(self.backbone, tower), self.frozen_blocks(tower)
        if isinstance(inputs, TowerState) or not common:
            return inputs
        return encoder.advance(encoder.begin(inputs), 0, common)

    def _states(
        self, model: DualEncoder, tower: str, inputs: Any, prompts: TowerPrompts | None
    ) -> tuple[Tensor, Tensor]:
        return states_of(model, tower, inputs, prompts, projection=self.options.closing.projection)

    def frozen_blocks(self, tower: str) -> int:
        """The blocks below the first prompted one, and below what the closed form reads."""
        first = self.blocks[tower][0]
        return min(first, self.backbone.middle(tower)) if self.extra_width else first
