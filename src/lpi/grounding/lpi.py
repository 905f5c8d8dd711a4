"""LPI over a detector: the same prompts, keys and prompt losses, with the detector's losses in retrieval's place.

Where the towers run on their own (OWL-ViT, OWLv2) prompts and their interaction are those of any dual encoder. Where
they advance together (Grounding DINO), prompts are added to the states and the interaction acts on the states
themselves: there, what a picture's first patches hold is told to the expression, and the other way round.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

import torch
from torch import Tensor

from lpi.backbones.base import TextInputs, TowerPrompts
from lpi.errors import ConfigError, check_choice
from lpi.grounding.backbones.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.grounding.backbones.inputs import PictureInputs
from lpi.grounding.base import GroundingBatch, GroundingMethod
from lpi.grounding.losses import detection_losses
from lpi.losses import layer_loss
from lpi.methods.base import FALLBACK
from lpi.methods.lpi import LPI, TaskPrompts
from lpi.prompts.interaction import OTHER, Interaction
from lpi.prompts.low_rank import TOWERS

Built = TypeVar("Built", bound=Callable[..., None])
RouteBy = Literal["vision", "text", "both"]
#: options of LPI that are about towers and vectors of pictures and captions on their own, and what they must be here
WITHOUT: dict[str, Any] = {
    "distill_weight": 0.0,
    "memory": 0,
    "soft_tasks": 1,
    "multi_positive": True,
    "routing": "features",
    "adapter_rank": 0,
}


def taking_options_of(parent: type) -> Callable[[Built], Built]:
    """Let a constructor that hands ``**options`` on show its parent's by name and type, as if it listed them itself."""

    def shown(constructor: Built) -> Built:
        own = inspect.signature(constructor)
        named = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        theirs = [
            one.replace(default=WITHOUT.get(one.name, one.default))
            for one in inspect.signature(parent.__init__).parameters.values()  # type: ignore[misc]
            if one.kind is one.KEYWORD_ONLY
        ]
        hints = get_type_hints(parent.__init__)  # type: ignore[misc]
        constructor.__signature__ = own.replace(parameters=[*named, *theirs])  # type: ignore[attr-defined]
        constructor.__annotations__ |= {one.name: hints[one.name] for one in theirs}
        return constructor

    return shown


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


class GroundingLPI(GroundingMethod, LPI):
    """Low-rank prompts with cross-modal interaction in a frozen detector, one set a task.

    Args:
        backbone: the frozen detector.
        detection_weight: weight of the detector's losses beside the layer and the task loss.
        alignment_share: how much of the detector's focal loss counts; 1 is the paper's.
        place_weight: of the loss that lets all boxes on the object be right together (ours; see
            :func:`lpi.grounding.losses.place_loss`); 0 is the paper's.
        route_by: which features say what task an expression belongs to: those of the picture (``vision``, the paper),
            of the expression (``text``), or the product of what both say (``both``).
        options: LPI's own; see :class:`lpi.methods.lpi.LPI`.

    Raises:
        ConfigError: an unknown choice, sizes that don't fit the detector, or an option that means nothing here.

    Paper: LPI (arXiv 2501.14369), referring expression comprehension.
    """

    stable: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"start": "paper", "norm": "unit", "metric": "cosine", "alignment_share": 1.0, "place_weight": 0.0},
        "authors-release": {
            "alignment_share": 1.0,
            "place_weight": 0.0,
            "start": "paper",
            "norm": "unit",
            "task_form": "authors",
            "task_temperature": 0.001,
            "semantics": "names",
            "near_threshold": 0.4,
            "centre_semantics": False,
            "metric": "l1",
        },
    }

    @taking_options_of(LPI)
    def __init__(
        self,
        backbone: GroundingBackbone,
        *,
        detection_weight: float = 0.8,
        alignment_share: float = GroundingMethod.weights["alignment"],
        place_weight: float = GroundingMethod.weights["place"],
        route_by: RouteBy = "vision",
        **options: Any,
    ) -> None:
        for name, only in WITHOUT.items():
            if options.get(name, only) != only:
                raise ConfigError(
                    f"{name} must be {only} for a detector, which has no towers and vectors of pictures or expressions "
                    f"alone; got {options[name]}."
                )
        super().__init__(backbone, **{**WITHOUT, **options})
        self.options |= {
            "detection_weight": detection_weight,
            "alignment_share": alignment_share,
            "place_weight": place_weight,
            "route_by": route_by,
        }
        check_choice("route_by", route_by, RouteBy)
        for name in ("detection_weight", "alignment_share", "place_weight"):
            if self.options[name] < 0:
                raise ConfigError(f"{name} must be at least 0; got {self.options[name]}.")
        if backbone.joint:
            self._check_joint()
        backbone.check(self._entering(self._new_expert(torch.Generator().manual_seed(0))))

    def _check_joint(self) -> None:
        o = self.options
        if o["injection"] != "into":
            raise ConfigError(
                f"injection must be 'into' where both towers advance together: a map has no room for further tokens; "
                f"got {o['injection']!r}."
            )
        if o["start"] == "paper" and o["interaction"] and o["norm"] == "matched":
            raise ConfigError(
                "norm must be 'unit' or 'none' with start='paper' where both towers advance together: what is normed "
                "are the detector's own states, not prompts; got 'matched'."
            )

    def _new_expert(self, generator: torch.Generator) -> TaskPrompts:
        expert = super()._new_expert(generator)
        if self.backbone.joint and self.options["start"] == "neutral":
            with torch.no_grad():  # no norm stands between the prompts and the states, so they must be zero themselves
                for name, factor in expert.prompts.factors.items():
                    if name.startswith(("channel", "free")):
                        factor.zero_()
        return expert

    # ---- learning ----------------------------------------------------------------------------------------------------

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """The detector's losses, the layer loss and the task loss, each times its weight."""
        o, expert = self.options, self._expert(-1)
        raw = expert.raw()
        found = self.backbone.detect(batch.pictures, batch.texts, self._entering(expert, raw))
        losses = detection_losses(found, batch.boxes, alignment=o["alignment_share"], place=o["place_weight"])
        parts = {name: o["detection_weight"] * part for name, part in losses.items()}
        if o["layer_weight"]:
            parts["layer"] = o["layer_weight"] * layer_loss(raw["vision"], raw["text"], scaling=o["layer_scaling"])
        if o["task_weight"] and len(self.experts) > 1:
            parts["task"] = o["task_weight"] * self._task_loss(raw)
        return parts

    # ---- finding -----------------------------------------------------------------------------------------------------

    def _entering(self, expert: TaskPrompts, raw: dict[str, Tensor] | None = None) -> GroundingPrompts:
        """What enters the detector for one task."""
        raw = expert.raw() if raw is None else raw
        if not self.backbone.joint:
            states = expert(raw)
            vision, text = (self._enter(expert, states, tower) for tower in TOWERS)
            return GroundingPrompts(vision, text)
        vision, text = (TowerPrompts(raw[tower], self.blocks[tower], "into") for tower in TOWERS)
        if expert.interaction is None:
            return GroundingPrompts(vision, text)
        exchange = partial(told, expert.interaction, neutral=self.options["start"] == "neutral")
        return GroundingPrompts(vision, text, exchange)

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """See :class:`GroundingMethod`."""
        prompts = None if route == FALLBACK else self._entering(self._expert(route))
        return self.backbone.detect(pictures, texts, prompts)

    def routes(self, plain: dict[str, Tensor]) -> Tensor:
        """The nearest task of each expression, by what ``route_by`` says; FALLBACK as :meth:`LPI.route` has it."""
        by = self.options["route_by"]
        if by != "both" or not len(self.experts):
            return self.route("text" if by == "text" else "vision", plain["text" if by == "text" else "vision"]).cpu()
        likely = torch.stack([self.posteriors(self.distances(tower, plain[tower]), tower) for tower in TOWERS])
        lost = torch.stack([self.route(tower, plain[tower]).cpu() == FALLBACK for tower in TOWERS]).all(dim=0)
        return likely.log().sum(dim=0).argmax(dim=1).masked_fill(lost, FALLBACK)
