"""What prompt-based rivals have in common in a detector: their prompts are those that they give a dual encoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lpi.backbones.base import TextInputs
from lpi.errors import ConfigError
from lpi.grounding.backbones.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.grounding.backbones.inputs import PictureInputs
from lpi.grounding.base import GroundingBatch, GroundingMethod
from lpi.grounding.losses import detection_losses
from lpi.methods.base import FALLBACK
from lpi.methods.prompted import Plain, Prompted


class GroundingPrompted(GroundingMethod, Prompted):
    """A :class:`lpi.methods.prompted.Prompted` method with the detector's losses in retrieval's place.

    A class lists it before the method whose prompts it takes. Its prompts are tokens of their own, for which only
    detectors have room whose towers run on their own (OWL-ViT, OWLv2).
    """

    backbone: GroundingBackbone

    def __init__(self, backbone: GroundingBackbone, **options: Any) -> None:
        if backbone.joint:
            raise ConfigError(
                f"{type(self).__name__} needs a detector whose towers run on their own, such as OWL-ViT: its prompts "
                "are tokens, and where both towers advance together there is no room for further ones."
            )
        super().__init__(backbone, **options)

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """The detector's losses, and the method's own constraints."""
        plain = self._plain_of(batch.pictures, batch.texts)
        found = self._found(batch.pictures, batch.texts, len(self.tasks) - 1, plain)
        return detection_losses(found, batch.boxes, **self.weights) | self.constraints(plain)

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """See :class:`GroundingMethod`; FALLBACK is the frozen detector, and so is any route before the first task."""
        if route == FALLBACK or not self.tasks:
            return self.backbone.detect(pictures, texts)
        return self._found(pictures, texts, route, self._plain_of(pictures, texts))

    def _found(self, pictures: PictureInputs, texts: TextInputs, route: int, plain: Plain) -> Detections:
        (vision,) = self.entering("vision", route, lambda: plain()[0])
        (text,) = self.entering("text", route, lambda: plain()[1])
        return self.backbone.detect(pictures, texts, GroundingPrompts(vision, text))

    def _plain_of(self, pictures: PictureInputs, texts: TextInputs) -> Plain:
        """Frozen features that prompts may be chosen by; computed once, and only if somebody asks."""

        @cache
        def plain() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                features = self.backbone.plain_features(pictures, texts)
            return features["vision"], features["text"]

        return plain
