"""LPI over a detector: the same prompts, keys and prompt losses, with the detector's losses in retrieval's place.

Where the towers run on their own (OWL-ViT, OWLv2) prompts and their interaction are those of any dual encoder. Where
they advance together (Grounding DINO), prompts are added to the states and the interaction acts on the states
themselves: there, what a picture's first patches hold is told to the expression, and the other way round.
``preset="best"`` adds a low-rank change of the detector's weights, and lets picture and expression both say which task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from lpi.backbones.base import TextInputs, TowerPrompts
from lpi.backbones.detectors.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.backbones.detectors.inputs import PictureInputs
from lpi.errors import ConfigError
from lpi.methods.base import FALLBACK
from lpi.methods.grounding.base import GroundingBatch, GroundingMethod, GroundingOptions
from lpi.methods.grounding.losses import detection_losses
from lpi.methods.low_rank import (
    AdapterTable,
    InteractionTable,
    LowRankOptions,
    LowRankTasks,
    PromptLossTable,
    PromptTable,
    TaskPrompts,
)
from lpi.methods.options import Preset, RouterTable
from lpi.options import Weight
from lpi.prompts.interaction import OTHER, Interaction
from lpi.prompts.low_rank import TOWERS
from lpi.routing import router_class
from lpi.routing.nearest import NearestKeys
from lpi.routing.whitened import WhitenedKeys


@dataclass(frozen=True)
class GroundingLossTable(PromptLossTable):
    """The detector's losses, and those of the prompts."""

    detection_weight: Annotated[Weight, "weight of the detector's losses beside the layer and the task loss"] = 0.8
    alignment_share: Annotated[Weight, "how much of the detector's focal loss counts; 1 is the paper's"] = (
        GroundingMethod.weights["alignment"]
    )
    place_weight: Annotated[
        Weight, "of the loss that lets all boxes on the object be right together (ours); 0 is the paper's"
    ] = GroundingMethod.weights["place"]


def told(interaction: Interaction, states: dict[str, Tensor], layer: int, *, neutral: bool) -> dict[str, Tensor]:
    """What the interaction adds to the states at the prompt positions, [batch, length, width] a tower.

    With a = ``interaction.share``, states become LN((1 - a) x + a W(other)), both from the old values.

    Args:
        interaction: of the task.
        states: of both towers, [batch, length, width].
        layer: counted from 0.
        neutral: add the outcome (whose gain, or without a norm whose maps, start at zero) instead of putting it in
            the place of the old states.

    Paper: LPI (arXiv 2501.14369), multi-modal correlation module.
    Differs: ``neutral`` is ours; it begins exactly at the frozen model.
    """
    changes = {}
    for tower in TOWERS:
        own, share = states[tower], interaction.share
        heard = share * interaction.maps[tower](states[OTHER[tower]], layer)
        if neutral and not interaction.norms:
            changes[tower] = heard
            continue
        mixed = (1 - share) * own + heard
        outcome = interaction.norms[tower](mixed) if interaction.norms else mixed
        changes[tower] = outcome if neutral else outcome - own
    return changes


class GroundingLPI(LowRankTasks, GroundingMethod):
    """Low-rank prompts with cross-modal interaction in a frozen detector, one set a task.

    Args:
        backbone: the frozen detector.
        options: see :class:`Options`.

    Raises:
        ConfigError: an unknown choice, sizes that don't fit the detector, or an option that means nothing here.

    Paper: LPI (arXiv 2501.14369), referring expression comprehension.
    """

    @dataclass(frozen=True)
    class Options(LowRankOptions):
        """What LPI takes for expressions."""

        training: ClassVar[Mapping[str, Any]] = GroundingOptions.training

        losses: GroundingLossTable = GroundingLossTable()
        routing: RouterTable = field(
            default_factory=partial(WhitenedKeys.Options, view="features", soft_tasks=1, reach="own")
        )
        route_by: Annotated[
            Literal["vision", "text", "both"],
            "which features say what task an expression belongs to: those of the picture (the paper), of the "
            "expression, or the product of what both say",
        ] = "vision"
        foreign_to: Annotated[
            Literal["either", "both"],
            "where both say it, what goes to the frozen detector: what its picture or its words find far from every "
            "task (``either``), or what both do",
        ] = "either"

        def check(self) -> None:
            """See :class:`Table`: a detector has no vectors of pictures or expressions alone, to look at or to mix."""
            super().check()
            if self.router is not None and router_class(self.router).learns:
                raise ConfigError(f"router must keep keys, not learn them, for a detector; got {self.router!r}.")
            for name, only in (("view", "features"), ("soft_tasks", 1)):
                value = getattr(self.routing, name, only)
                if value != only:
                    raise ConfigError(
                        f"routing.{name} must be {only!r} for a detector, which has no vectors of pictures or "
                        f"expressions alone; got {value!r}."
                    )

        @classmethod
        def presets(cls) -> dict[str, Preset]:
            """See :class:`lpi.methods.options.Options`."""
            prompts, mixing = PromptTable(start="paper"), InteractionTable(norm="unit")
            fallback: Any = {"out_of_domain": "fallback", "posterior_temperature": 0.2}
            return {
                "best": Preset(cls(adapter=AdapterTable(rank=4), route_by="both")),
                "paper": Preset(
                    cls(
                        prompts=prompts,
                        interaction=mixing,
                        losses=GroundingLossTable(alignment_share=1.0, place_weight=0.0),
                        router="nearest",
                        routing=NearestKeys.Options(metric="cosine", **fallback),
                    )
                ),
                "authors-release": Preset(
                    cls(
                        prompts=prompts,
                        interaction=mixing,
                        losses=GroundingLossTable(
                            alignment_share=1.0,
                            place_weight=0.0,
                            task_form="authors",
                            task_temperature=0.001,
                            semantics="names",
                            near_threshold=0.4,
                            centre_semantics=False,
                        ),
                        router="nearest",
                        routing=NearestKeys.Options(metric="l1", **fallback),
                    )
                ),
            }

    options: Options
    backbone: GroundingBackbone

    def __init__(self, backbone: GroundingBackbone, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        o = self.options
        mixing = o.interaction
        if backbone.joint and o.prompts.start == "paper" and mixing.enabled and mixing.norm == "matched":
            raise ConfigError(
                "norm must be 'unit' or 'none' with start='paper' where both towers advance together: what is normed "
                "are the detector's own states, not prompts; got 'matched'."
            )
        backbone.check(self._entering(self.new_expert(torch.Generator().manual_seed(0))))

    def silent_prompts(self) -> bool:
        """See :class:`LowRankTasks`: where both towers advance together, no norm stands between prompts and states."""
        return super().silent_prompts() or (self.backbone.joint and self.options.prompts.start == "neutral")

    # ---- learning ----------------------------------------------------------------------------------------------------

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """The detector's losses, the layer loss and the task loss, each times its weight."""
        o, expert = self.options.losses, self.expert(-1)
        raw = expert.raw()
        found = self._detected(expert, batch.pictures, batch.texts, raw)
        losses = detection_losses(found, batch.boxes, alignment=o.alignment_share, place=o.place_weight)
        return {name: o.detection_weight * part for name, part in losses.items()} | self.prompt_losses(raw)

    # ---- finding -----------------------------------------------------------------------------------------------------

    def _entering(self, expert: TaskPrompts, raw: dict[str, Tensor] | None = None) -> GroundingPrompts:
        """What enters the detector for one task."""
        raw = expert.raw() if raw is None else raw
        if not self.backbone.joint:
            states = expert(raw)
            vision, text = (self.entering(expert, states, tower) for tower in TOWERS)
            return GroundingPrompts(vision, text)
        vision, text = (
            TowerPrompts(raw[tower], self.blocks[tower], self.options.prompts.injection) for tower in TOWERS
        )
        if expert.interaction is None:
            return GroundingPrompts(vision, text)
        exchange = partial(told, expert.interaction, neutral=self.options.prompts.start == "neutral")
        return GroundingPrompts(vision, text, exchange)

    def _detected(
        self, expert: TaskPrompts, pictures: PictureInputs, texts: TextInputs, raw: dict[str, Tensor] | None = None
    ) -> Detections:
        with self.changed(expert) as model:
            return cast(GroundingBackbone, model).detect(pictures, texts, self._entering(expert, raw))

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """See :class:`GroundingMethod`."""
        if route == FALLBACK:
            return self.backbone.detect(pictures, texts)
        return self._detected(self.expert(route), pictures, texts)

    def routes(self, features: Mapping[str, Tensor]) -> Tensor:
        """The task of each expression, by what ``route_by`` says; FALLBACK where its router has it."""
        by, router = self.options.route_by, self.router
        assert router is not None  # experts need one
        if by != "both" or not len(self.experts):
            tower = "text" if by == "text" else "vision"
            alone: Tensor = router(tower, features[tower]).tasks
            return alone
        found = [router(tower, features[tower]) for tower in TOWERS]
        far = torch.stack([one.tasks == FALLBACK for one in found])
        lost = far.any(dim=0) if self.options.foreign_to == "either" else far.all(dim=0)
        likely = torch.stack([one.posteriors for one in found])
        return likely.log().sum(dim=0).argmax(dim=1).masked_fill(lost, FALLBACK)
