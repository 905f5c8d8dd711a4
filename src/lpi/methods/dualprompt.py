"""DualPrompt: general prompts that all tasks train in the lowest blocks, a task's own expert prompts above them.

While a task is learned its expert prompts are used, and a key is pulled towards the frozen features of its items; a
query later takes the expert of its nearest key. The general prompts go on learning, so an earlier task's features
still move.

Paper: DualPrompt (arXiv 2204.04799): G- and E-Prompt, section 4.1; prompting functions "prompt tuning" and "prefix
tuning", section 4.2; matching loss and objective, section 4.3.
Differs: each tower has prompts and keys of its own, so pictures and captions are routed and embedded apart. Prefixes
join keys and values after the block's projections, as in the released code (the paper's formula puts them before,
which is the same up to the frozen maps). ``length`` counts keys and values together, as the paper's L_p does; its
general length of 5 can't be halved, so the default is 6. Where a tower is too shallow for the paper's 2 + 3 blocks,
the experts keep those that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.errors import ConfigError
from lpi.methods.base import TaskData
from lpi.methods.options import RoutedOptions, RouterName, RouterTable
from lpi.methods.prompted import PROMPT_STD, Prompted, PromptOptions, even, normal
from lpi.options import Count
from lpi.prompts.low_rank import TOWERS
from lpi.routing.learned import LearnedKeys

Form = Literal["prefix", "prompt"]
PAPER_GENERAL, PAPER_EXPERT = 2, 3


class DualPrompt(Prompted):
    """General and expert prompts.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(RoutedOptions, PromptOptions):
        """What DualPrompt takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.012}

        form: Annotated[
            Form,
            "prefix: half of a block's prompts are keys, half values, of its attention; prompt: tokens, to which every "
            "prompted block adds its own",
        ] = "prefix"
        general_length: Annotated[Count, "general prompts a block, L_g"] = 6
        general_depth: Annotated[int | None, "blocks with general prompts, the lowest; by default the paper's 2"] = None
        expert_length: Annotated[Count, "expert prompts a block, L_e"] = 20
        expert_depth: Annotated[
            int | None, "blocks with expert prompts, the next; by default the paper's 3, or what is left"
        ] = None
        router: RouterName = "learned"
        routing: RouterTable = field(default_factory=LearnedKeys.Options)

        def check(self) -> None:
            """See :class:`Table`."""
            super().check()
            if self.form == "prefix":
                even(general_length=self.general_length, expert_length=self.expert_length)

    options: Options

    def depths(self) -> tuple[int, int]:
        """How many blocks have general, and how many have expert prompts.

        Raises:
            ConfigError: more than the shallower tower has, or no block for experts.
        """
        blocks = min(self.backbone.depths.values())
        general, expert = self.options.general_depth, self.options.expert_depth
        if general is None:
            general = min(PAPER_GENERAL, blocks - (1 if expert is None else expert))
        if expert is None:
            expert = min(PAPER_EXPERT, blocks - general)
        if general < 0 or expert < 1 or general + expert > blocks:
            raise ConfigError(
                f"general_depth from 0 and expert_depth from 1 must together be at most {blocks}, the blocks of the "
                f"shallower tower; got {general} and {expert}."
            )
        return general, expert

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """The general prompts of each tower, [general_depth, general_length, width]."""
        layers, _ = self.depths()
        learned = nn.ParameterDict(self.gates(layers, *TOWERS) if layers else {})
        for tower in TOWERS if layers else ():
            shape = (layers, self.options.general_length, self.backbone.widths[tower])
            learned[f"prompts_{tower}"] = normal(shape, PROMPT_STD, generator)
        return learned

    def make_own(self, generator: torch.Generator, data: TaskData | None) -> nn.Module:
        """A task's expert prompts [expert_depth, expert_length, width] of each tower; keys are drawn in between."""
        _, layers = self.depths()
        own = nn.ParameterDict(self.gates(layers, *TOWERS))
        for tower in TOWERS:
            shape = (layers, self.options.expert_length, self.backbone.widths[tower])
            own[f"prompts_{tower}"] = normal(shape, PROMPT_STD, generator)
            if data is not None and isinstance(self.router, LearnedKeys):
                self.router.draw(tower, data.looks, generator)
        return own

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`."""
        parts: list[TowerPrompts] = []
        for module, first in ((self.learned, 0), (self.experts[route], self.depths()[0])):
            held = dict(module.named_parameters())
            if f"prompts_{tower}" not in held:
                continue
            states, gate = held[f"prompts_{tower}"], held.get(f"gate_{tower}")
            blocks = tuple(range(first, first + len(states)))
            if self.options.form == "prefix":
                parts.append(TowerPrompts(states, blocks, "prefix", gate=gate))
                continue
            for layer, block in enumerate(blocks):  # one set a block: each adds its tokens to those that are there
                own_gate = None if gate is None else gate[layer : layer + 1]
                parts.append(TowerPrompts(states[layer : layer + 1], (block,), "shallow", gate=own_gate))
        return parts

    def trainable(self) -> list[nn.Parameter]:
        """See :class:`Prompted`; a tower's key comes behind its prompts."""
        if not len(self.experts):
            return []
        keys = dict(self.router.kept[-1].named_parameters()) if self.router is not None else {}
        ordered: list[nn.Parameter] = []
        for name, parameter in self.experts[-1].named_parameters():
            ordered.append(parameter)
            kind, _, tower = name.partition("_")
            if kind == "prompts" and f"key_{tower}" in keys:
                ordered.append(keys[f"key_{tower}"])
        return [*self.learned.parameters(), *ordered]
