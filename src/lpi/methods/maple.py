"""MaPLe: prompts in both towers, those of the vision tower a linear function of the text tower's.

Every one of the first J blocks of the text tower gets fresh prompt tokens; for each of them a learned linear map makes
the prompts of the vision tower's block from them, so the two towers can't drift apart on their own. Trained on from
task to task.

Paper: MaPLe (arXiv 2210.03117), section 3.2: deep language prompting [_, W_i] = L_i([P_i-1, W_i-1]), deep vision
prompting [c_i, E_i, _] = V_i([c_i-1, E_i-1, P~_i-1]), both up to block J, and the coupling P~_k = F_k(P_k), F_k linear.
Differs: the caption stands where the class name does, and the loss is the symmetric one over pairs. Where the towers
differ in depth, prompts of block l of the shallower one (n blocks) meet block floor(l N / n) of the other (N); between,
their states go on. A text tower without placeholders (BERT) gets all of them as tokens without positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TowerPrompts
from lpi.methods.base import recorded
from lpi.methods.prompted import PROMPT_STD, Prompted, Start, at_least, first_words, fitting_depth, normal

PAPER_DEPTH = 9


class MaPLe(Prompted):
    """Coupled prompts for both towers.

    Args:
        backbone: the frozen dual encoder.
        length: prompt tokens a block, b.
        depth: prompted blocks of the shallower tower, J; by default the paper's 9, or all where there are fewer.
        words: the first block's text prompts start at the embeddings of these words, as many as fit; all others at
            N(0, 0.02^2).
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 0.004}

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        length: int = 2,
        depth: int | None = None,
        words: str = "a photo of a",
        multi_positive: bool = True,
        start: Start = "paper",
    ) -> None:
        at_least(1, length=length)
        fitting_depth(depth, PAPER_DEPTH, min(backbone.depths.values()))
        super().__init__(backbone, **recorded(locals()))

    def _layers(self) -> int:
        return fitting_depth(self.options["depth"], PAPER_DEPTH, min(self.backbone.depths.values()))

    def blocks(self, tower: str) -> tuple[int, ...]:
        """The blocks of a tower that prompts enter."""
        depths = self.backbone.depths
        return tuple(layer * depths[tower] // min(depths.values()) for layer in range(self._layers()))

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """Text prompts [J, length, text width], and the maps' weights [J, text, vision width] and biases [J, 1, ...].

        The maps start as any linear layer does: from U(-1 / sqrt(inputs), 1 / sqrt(inputs)).
        """
        layers, widths = self._layers(), self.backbone.widths
        prompts = normal((layers, self.options["length"], widths["text"]), PROMPT_STD, generator)
        if self.options["words"]:
            first_words(self.backbone, self.options["words"], prompts.data[0])

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * widths["text"] ** -0.5)

        return nn.ParameterDict(
            {
                "prompts": prompts,
                "weight": drawn(layers, widths["text"], widths["vision"]),
                "bias": drawn(layers, 1, widths["vision"]),
                **self.gates(layers, "vision", "text"),
            }
        )

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`."""
        learned = dict(self.learned.named_parameters())
        states: Tensor = learned["prompts"]  # [J, length, text width]
        if tower == "vision":
            states = torch.baddbmm(learned["bias"], states, learned["weight"])  # [J, length, vision width]
        placeholders = tower == "text" and self.room() > 0
        gate = learned.get(f"gate_{tower}")
        return (TowerPrompts(states, self.blocks(tower), "replace", placeholders=placeholders, gate=gate),)

    def room(self) -> int:
        """The first block's prompts take their place before the caption."""
        return self.placeholder_room(self.options["length"])
