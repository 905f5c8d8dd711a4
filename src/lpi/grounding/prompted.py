"""What prompt-based rivals have in common in a detector: their prompts are those that they give a dual encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from lpi.backbones.base import TextInputs, TowerPrompts
from lpi.errors import ConfigError
from lpi.grounding.backbones.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.grounding.backbones.inputs import PictureInputs
from lpi.grounding.base import GroundingBatch, GroundingMethod
from lpi.grounding.losses import detection_losses
from lpi.methods.base import FALLBACK
from lpi.methods.prompted import Prompted
from lpi.prompts.low_rank import TOWERS


class GroundingPrompted(GroundingMethod, Prompted):
    """A :class:`lpi.methods.prompted.Prompted` method with the detector's losses in retrieval's place.

    A class lists it before the method whose prompts it takes. Its prompts are tokens of their own, for which only
    detectors have room whose towers run on their own (OWL-ViT, OWLv2).
    """

    backbone: GroundingBackbone

    def _check_towers(self) -> None:
        """Refuse a detector whose towers advance together.

        Raises:
            ConfigError: it is one.
        """
        if self.backbone.joint:
            raise ConfigError(
                f"{type(self).__name__} needs a detector whose towers run on their own, such as OWL-ViT: its prompts "
                "are tokens, and where both towers advance together there is no room for further ones."
            )

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """The detector's own losses, and the method's own constraints."""
        found = self.detect(batch.pictures, batch.texts, len(self.tasks) - 1)
        return detection_losses(found, batch.boxes) | self.beside(batch)

    def beside(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """What the loss holds beside the detector's own, weighted."""
        return {}

    @torch.no_grad()
    def frozen(self, pictures: PictureInputs, texts: TextInputs) -> dict[str, Tensor]:
        """Unprompted, L2-normalised features that prompts may be chosen by, [batch, features] a tower."""
        return self.backbone.plain_features(pictures, texts)

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """See :class:`GroundingMethod`; FALLBACK is the frozen detector, and so is any route before the first task."""
        if route == FALLBACK or not self.tasks:
            return self.backbone.detect(pictures, texts)
        vision, text = (self._entering(tower, pictures, texts, route) for tower in TOWERS)
        return self.backbone.detect(pictures, texts, GroundingPrompts(vision, text))

    def _entering(self, tower: str, pictures: PictureInputs, texts: TextInputs, route: int) -> TowerPrompts:
        (part,) = self.entering(tower, route, lambda: self.frozen(pictures, texts)[tower])
        return part
