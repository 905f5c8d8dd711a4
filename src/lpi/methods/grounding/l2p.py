"""L2P in a detector: picture and expression take prompts of a pool by their frozen features. See `lpi.methods.l2p`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lpi.methods.grounding.base import GroundingOptions
from lpi.methods.grounding.prompted import GroundingPrompted
from lpi.methods.prompt_sets import PooledPrompts


class GroundingL2P(PooledPrompts, GroundingPrompted):
    """A pool of prompts in each tower of a frozen detector.

    Args:
        backbone: the frozen detector.
        options: see :class:`Options`.

    Raises:
        ConfigError: an option out of range, or a detector without room for prompt tokens.
    """

    @dataclass(frozen=True)
    class Options(PooledPrompts.Options):
        """What L2P takes for expressions."""

        training: ClassVar[Mapping[str, Any]] = GroundingOptions.training

    options: Options
