"""L2P in a detector: picture and expression take prompts of a pool by their frozen features. See `lpi.methods.l2p`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lpi.grounding.backbones.base import GroundingBackbone
from lpi.grounding.base import GroundingBatch
from lpi.grounding.lpi import taking_options_of
from lpi.grounding.prompted import GroundingPrompted
from lpi.methods.l2p import L2P
from lpi.prompts.low_rank import TOWERS


class GroundingL2P(GroundingPrompted, L2P):
    """A pool of prompts in each tower of a frozen detector.

    Args:
        backbone: the frozen detector.
        options: see :class:`lpi.methods.l2p.L2P`.

    Raises:
        ConfigError: an option out of range, or a detector without room for prompt tokens.
    """

    @taking_options_of(L2P)
    def __init__(self, backbone: GroundingBackbone, **options: Any) -> None:
        super().__init__(backbone, **options)
        self._check_towers()

    def beside(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """The pull between items and the keys they chose, both towers."""
        plain = self.frozen(batch.pictures, batch.texts)
        distances = [self.choose(tower, plain[tower])[0].sum(dim=1).mean() for tower in TOWERS]
        return {"match": self.options["match_weight"] * torch.stack(distances).sum()}
