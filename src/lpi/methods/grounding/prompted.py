"""What prompt-based rivals have in common in a detector: their prompts are those that they give a dual encoder."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from lpi.backbones.base import TextInputs
from lpi.backbones.detectors.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.backbones.detectors.inputs import PictureInputs
from lpi.errors import ConfigError
from lpi.methods.base import FALLBACK
from lpi.methods.grounding.base import GroundingBatch, GroundingMethod
from lpi.methods.grounding.losses import detection_losses
from lpi.methods.options import MethodOptions
from lpi.methods.prompted import Frozen, PromptLearner, PromptOptions


class GroundingPrompted(PromptLearner, GroundingMethod):
    """Prompts that are learned for expressions, with the detector's losses.

    A class lists its prompts before it. They are tokens of their own, for which only detectors have room whose towers
    run on their own (OWL-ViT, OWLv2).
    """

    Options: ClassVar[type[MethodOptions]] = PromptOptions
    backbone: GroundingBackbone

    def __init__(self, backbone: GroundingBackbone, options: PromptOptions | None = None) -> None:
        if backbone.joint:
            raise ConfigError(
                f"{type(self).__name__} needs a detector whose towers run on their own, such as OWL-ViT: its prompts "
                "are tokens, and where both towers advance together there is no room for further ones."
            )
        super().__init__(backbone, options)

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """The detector's losses, and the method's own constraints."""
        frozen = self._frozen(batch.pictures, batch.texts)
        found = self._found(batch.pictures, batch.texts, len(self.tasks) - 1, frozen)
        return detection_losses(found, batch.boxes, **self.weights) | self.constraints(frozen)

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """See :class:`GroundingMethod`; FALLBACK is the frozen detector, and so is any route before the first task."""
        if route == FALLBACK or not self.tasks:
            return self.backbone.detect(pictures, texts)
        return self._found(pictures, texts, route, self._frozen(pictures, texts))

    def _found(self, pictures: PictureInputs, texts: TextInputs, route: int, frozen: Frozen) -> Detections:
        (vision,) = self.entering("vision", route, lambda: frozen()[0])
        (text,) = self.entering("text", route, lambda: frozen()[1])
        return self.backbone.detect(pictures, texts, GroundingPrompts(vision, text))

    def _frozen(self, pictures: PictureInputs, texts: TextInputs) -> Frozen:
        """Frozen features that prompts may be chosen by; computed once, and only if somebody asks."""

        @cache
        def features() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                found = self.backbone.frozen_features(pictures, texts)
            return found["vision"], found["text"]

        return features
