"""MaPLe in a detector: prompts of the vision tower are linear in the text tower's. See `lpi.methods.maple`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lpi.methods.grounding.base import GroundingOptions
from lpi.methods.grounding.prompted import GroundingPrompted
from lpi.methods.prompt_sets import CoupledPrompts


class GroundingMaPLe(CoupledPrompts, GroundingPrompted):
    """Coupled prompts for both towers of a frozen detector, trained on from task to task.

    Args:
        backbone: the frozen detector.
        options: see :class:`Options`.

    Raises:
        ConfigError: an option out of range, or a detector without room for prompt tokens.
    """

    @dataclass(frozen=True)
    class Options(CoupledPrompts.Options):
        """What MaPLe takes for expressions."""

        training: ClassVar[Mapping[str, Any]] = GroundingOptions.training

    options: Options
