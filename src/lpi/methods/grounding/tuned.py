"""What methods that change the detector's own weights have in common: a private copy that goes on learning."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lpi.backbones.base import TextInputs
from lpi.backbones.detectors.base import Detections, GroundingBackbone
from lpi.backbones.detectors.inputs import PictureInputs
from lpi.methods.base import Saved
from lpi.methods.grounding.base import GroundingMethod, GroundingOptions


class GroundingTuned(GroundingMethod):
    """A copy of the detector, all of whose weights go on learning.

    Args:
        backbone: where it starts; itself left as it is.
    """

    @dataclass(frozen=True)
    class Options(GroundingOptions):
        """What a copy of the detector takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 2e-4, "weight_decay": 0.01}

    options: Options

    def __init__(self, backbone: GroundingBackbone, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.tuned = deepcopy(backbone).requires_grad_(True)

    def trainable(self) -> list[nn.Parameter]:
        """Every weight of the copy."""
        return list(self.tuned.parameters())

    def detect(self, pictures: PictureInputs, texts: TextInputs, route: int) -> Detections:
        """See :class:`GroundingMethod`; there is one route."""
        return self.tuned.detect(pictures, texts)

    def shared_state(self) -> dict[str, Tensor]:
        """All weights of the copy; what several layers have in common is there once."""
        return {name: weight.detach() for name, weight in self.tuned.model.named_parameters()}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for name, weight in self.tuned.model.named_parameters():
            weight.data.copy_(shared[name])
