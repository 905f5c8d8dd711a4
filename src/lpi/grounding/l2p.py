"""L2P in a detector: picture and expression take prompts of a pool by their frozen features. See `lpi.methods.l2p`."""

from __future__ import annotations

from typing import Any

from lpi.grounding.backbones.base import GroundingBackbone
from lpi.grounding.lpi import taking_options_of
from lpi.grounding.prompted import GroundingPrompted
from lpi.methods.l2p import L2P


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
