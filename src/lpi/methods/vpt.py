"""VPT: learned tokens among the picture's patches, fresh ones in every block, trained on from task to task.

In its deep form each block gets prompt tokens of its own and what the block made of them is thrown away; in its
shallow form they enter the first block and go on. Only the vision tower learns: captions stay where the frozen model
put them.

Paper: Visual Prompt Tuning (arXiv 2203.12119), eq. 4-5 (shallow: ``depth=1``) and eq. 7 (deep).
Differs: there is no classification head to learn; pictures are compared with captions in the common space. Prompts
stand behind the patches and not between the class token and them, which a tower without a mask can't tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.methods.prompted import Prompted, PromptOptions, fitting_depth
from lpi.options import Count
from lpi.prompts.low_rank import check_numbers


class VPT(Prompted):
    """Visual prompts in every block.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(PromptOptions):
        """What VPT takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1.2e-3}

        length: Annotated[Count, "prompt tokens a block, p; the paper searches from 1 to 200"] = 10
        depth: Annotated[
            int | None, "how many of the lowest blocks get tokens of their own; all by default, 1 is the shallow form"
        ] = None

    options: Options

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """The tokens, [depth, length, vision width], from U(-v, v) with v^2 = 6 / (3 side^2 + width): Xavier's."""
        vision = self.backbone.vision
        layers = fitting_depth(self.options.depth, vision.depth, vision.depth)
        bound = math.sqrt(6 / (3 * vision.config.patch_size**2 + vision.width))
        check_numbers(layers, self.options.length, vision.width)
        drawn = torch.rand((layers, self.options.length, vision.width), generator=generator)
        return nn.ParameterDict({"tokens": nn.Parameter((2 * drawn - 1) * bound), **self.gates(layers, "vision")})

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`."""
        if tower == "text":
            return ()
        learned = dict(self.learned.named_parameters())
        states = learned["tokens"]
        return (TowerPrompts(states, tuple(range(len(states))), "replace", gate=learned.get("gate_vision")),)
