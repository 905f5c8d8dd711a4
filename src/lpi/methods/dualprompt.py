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

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TowerPrompts
from lpi.errors import ConfigError, check_choice
from lpi.methods.base import FALLBACK, TaskData, recorded
from lpi.methods.prompted import PROMPT_STD, Plain, Prompted, Start, at_least, even, normal
from lpi.prompts.low_rank import TOWERS

Form = Literal["prefix", "prompt"]
KeyStart = Literal["random", "mean"]
PAPER_GENERAL, PAPER_EXPERT = 2, 3


class DualPrompt(Prompted):
    """General and expert prompts.

    Args:
        backbone: the frozen dual encoder.
        form: ``prefix``: half of a block's prompts are keys, half values, of its attention; ``prompt``: tokens, to
            which every prompted block adds its own.
        general_length: general prompts a block, L_g.
        general_depth: blocks with general prompts, the lowest; by default the paper's 2.
        expert_length: expert prompts a block, L_e.
        expert_depth: blocks with expert prompts, the next; by default the paper's 3, or what is left.
        match_weight: weight of the distance between a task's items and its key, lambda.
        key_start: where a key begins: ``random``, or at the ``mean`` of the task's frozen features (ours), where the
            matching loss is smallest anyway.
        posterior_temperature: divides the cosines between query and keys where tasks are assigned softly.
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 0.012}

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        form: Form = "prefix",
        general_length: int = 6,
        general_depth: int | None = None,
        expert_length: int = 20,
        expert_depth: int | None = None,
        match_weight: float = 1.0,
        key_start: KeyStart = "random",
        posterior_temperature: float = 0.1,
        multi_positive: bool = True,
        start: Start = "paper",
    ) -> None:
        at_least(1, general_length=general_length, expert_length=expert_length)
        at_least(0, match_weight=match_weight)
        check_choice("form", form, Form)
        check_choice("key_start", key_start, KeyStart)
        if not posterior_temperature > 0:
            raise ConfigError(f"posterior_temperature must be above 0; got {posterior_temperature}.")
        if form == "prefix":
            even(general_length=general_length, expert_length=expert_length)
        super().__init__(backbone, **recorded(locals()))

    def depths(self) -> tuple[int, int]:
        """How many blocks have general, and how many have expert prompts.

        Raises:
            ConfigError: more than the shallower tower has, or no block for experts.
        """
        blocks = min(self.backbone.depths.values())
        general, expert = self.options["general_depth"], self.options["expert_depth"]
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
            shape = (layers, self.options["general_length"], self.backbone.widths[tower])
            learned[f"prompts_{tower}"] = normal(shape, PROMPT_STD, generator)
        return learned

    def make_own(self, generator: torch.Generator, data: TaskData | None) -> nn.Module:
        """A task's expert prompts [expert_depth, expert_length, width] and key [features], of each tower."""
        _, layers = self.depths()
        own = nn.ParameterDict(self.gates(layers, *TOWERS))
        for tower in TOWERS:
            shape = (layers, self.options["expert_length"], self.backbone.widths[tower])
            own[f"prompts_{tower}"] = normal(shape, PROMPT_STD, generator)
            key = torch.randn(self.backbone.feature_width, generator=generator)
            if data is not None and self.options["key_start"] == "mean":
                plain = data.plain.image_features if tower == "vision" else data.plain.text_features
                key = plain.mean(dim=0)
            own[f"key_{tower}"] = nn.Parameter(F.normalize(key, dim=0))
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
            if self.options["form"] == "prefix":
                parts.append(TowerPrompts(states, blocks, "prefix", gate=gate))
                continue
            for layer, block in enumerate(blocks):  # one set a block: each adds its tokens to those that are there
                own_gate = None if gate is None else gate[layer : layer + 1]
                parts.append(TowerPrompts(states[layer : layer + 1], (block,), "shallow", gate=own_gate))
        return parts

    def constraints(self, plain: Plain) -> dict[str, Tensor]:
        """The pull between the task's items and its key, both towers."""
        newest = len(self.tasks) - 1
        pulls = [self.distances(tower, query)[:, newest].mean() for tower, query in zip(TOWERS, plain(), strict=True)]
        return {"match": self.options["match_weight"] * torch.stack(pulls).sum()}

    # ---- routing -----------------------------------------------------------------------------------------------------

    @property
    def routed(self) -> bool:
        """A query takes the expert of its nearest key."""
        return True

    def distances(self, tower: str, plain: Tensor) -> Tensor:
        """Cosine distance of each query to each task's key, [queries, tasks]."""
        keys = torch.stack([expert.get_parameter(f"key_{tower}") for expert in self.experts])
        return 1 - F.normalize(plain, dim=-1) @ F.normalize(keys, dim=-1).T

    def posteriors(self, distances: Tensor, tower: str) -> Tensor:
        """See :class:`Method`."""
        temperature: float = self.options["posterior_temperature"]
        return (-distances / temperature).softmax(dim=1)

    @torch.no_grad()
    def route(self, tower: str, plain: Tensor) -> Tensor:
        """The task of the nearest key."""
        if not len(self.experts):
            return torch.full((len(plain),), FALLBACK)
        return self.distances(tower, plain.to(self.device)).argmin(dim=1)
