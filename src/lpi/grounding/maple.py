"""MaPLe in a detector: prompts of the vision tower are linear in the text tower's. See `lpi.methods.maple`."""

from __future__ import annotations

from typing import Any

from lpi.grounding.backbones.base import GroundingBackbone
from lpi.grounding.lpi import taking_options_of
from lpi.grounding.prompted import GroundingPrompted
from lpi.methods.maple import MaPLe


class GroundingMaPLe(GroundingPrompted, MaPLe):
    """Coupled prompts for both towers of a frozen detector, trained on from task to task.

    Args:
        backbone: the frozen detector.
        options: see :class:`lpi.methods.maple.MaPLe`.

    Raises:
        ConfigError: an option out of range, or a detector without room for prompt tokens.
    """

    @taking_options_of(MaPLe)
    def __init__(self, backbone: GroundingBackbone, **options: Any) -> None:
        super().__init__(backbone, **options)
