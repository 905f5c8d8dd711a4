"""S-Prompts: free prompts for each task, learned alone and never touched again; k-means centroids tell which to use.

A task's prompts enter the first block of each tower and nothing else is learned, so tasks can't disturb each other:
what a task could do when it was learned, it can do for ever, as long as its queries find it. They do by
their frozen feature's nearest centroid. This is what LPI decomposes, deepens and couples.

Paper: S-Prompts (arXiv 2207.12819), the language-image form (S-liPrompts) of section 3.3, and 3.4 for the routing.
Differs: the caption stands where the class name does, so captions are routed too, by centroids of the task's captions;
the loss is the symmetric one over pairs. A text tower without placeholders (BERT) gets its prompts as tokens without
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.methods.base import TaskData
from lpi.methods.experts import Experts
from lpi.methods.options import RoutedOptions, RouterName, RouterTable
from lpi.methods.prompted import PROMPT_STD, Prompted, PromptOptions, normal
from lpi.options import Count
from lpi.prompts.low_rank import TOWERS
from lpi.routing.nearest import NearestKeys


class TaskPrompts(nn.Module):
    """A task's prompts, [1, length, width] a tower, and their gates."""

    def __init__(self, prompts: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterDict(prompts)


class SPrompts(Experts, Prompted):
    """Independent prompts a task.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(RoutedOptions, PromptOptions):
        """What S-Prompts takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1.2e-3}

        vision_length: Annotated[Count, "prompt tokens of the vision tower, L_I"] = 10
        text_length: Annotated[Count, "prompt tokens of the text tower, L_T"] = 16
        router: RouterName = "nearest"
        routing: RouterTable = field(default_factory=partial(NearestKeys.Options, metric="l1"))

    options: Options
    stable = True

    def make_own(self, generator: torch.Generator, data: TaskData | None) -> nn.Module:
        """A task's prompts, from N(0, 0.02^2)."""
        lengths = {"vision": self.options.vision_length, "text": self.options.text_length}
        prompts = {
            tower: normal((1, lengths[tower], self.backbone.widths[tower]), PROMPT_STD, generator) for tower in TOWERS
        }
        return TaskPrompts(prompts | self.gates(1, *TOWERS))

    def new_expert(self, generator: torch.Generator) -> nn.Module:
        """See :class:`Experts`."""
        return self.make_own(generator, None)

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`."""
        expert = self.experts[route]
        assert isinstance(expert, TaskPrompts)
        held = dict(expert.held)
        placeholders = tower == "text" and self.reserved_tokens() > 0
        gate = held.get(f"gate_{tower}")
        return (TowerPrompts(held[tower], (0,), "shallow", placeholders=placeholders, gate=gate),)

    def reserved_tokens(self) -> int:
        """The text prompts take their place before the caption."""
        return self.placeholders(self.options.text_length)
