"""Prompts that are learned for pairs and for expressions alike: coupled ones (MaPLe), and a pool of them (L2P)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.errors import ConfigError
from lpi.methods.prompted import (
    PROMPT_STD,
    Frozen,
    PromptLearner,
    PromptOptions,
    first_words,
    fitting_depth,
    normal,
)
from lpi.options import Count, Weight
from lpi.prompts.low_rank import TOWERS

MAPLE_DEPTH = 9


class CoupledPrompts(PromptLearner):
    """Prompts of the text tower, and those of the vision tower made from them; see `lpi.methods.maple`.

    Paper: MaPLe (arXiv 2210.03117).
    """

    @dataclass(frozen=True)
    class Options(PromptOptions):
        """What MaPLe takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.004}

        length: Annotated[Count, "prompt tokens a block, b"] = 2
        depth: Annotated[
            int | None,
            "prompted blocks of the shallower tower, J; by default the paper's 9, or all where there are fewer",
        ] = None
        words: Annotated[
            str,
            "the first block's text prompts start at the embeddings of these words, as many as fit; all others at "
            "N(0, 0.02^2)",
        ] = "a photo of a"

    options: Options

    def _layers(self) -> int:
        return fitting_depth(self.options.depth, MAPLE_DEPTH, min(self.backbone.depths.values()))

    def blocks(self, tower: str) -> tuple[int, ...]:
        """The blocks of a tower that prompts enter."""
        depths = self.backbone.depths
        return tuple(layer * depths[tower] // min(depths.values()) for layer in range(self._layers()))

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """Text prompts [J, length, text width], and the maps' weights [J, text, vision width] and biases [J, 1, ...].

        The maps start as any linear layer does: from U(-1 / sqrt(inputs), 1 / sqrt(inputs)).
        """
        layers, widths = self._layers(), self.backbone.widths
        prompts = normal((layers, self.options.length, widths["text"]), PROMPT_STD, generator)
        if self.options.words:
            first_words(self.backbone, self.options.words, prompts.data[0])

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
        """See :class:`PromptLearner`."""
        learned = dict(self.learned.named_parameters())
        states: Tensor = learned["prompts"]  # [J, length, text width]
        if tower == "vision":
            states = torch.baddbmm(learned["bias"], states, learned["weight"])  # [J, length, vision width]
        placeholders = tower == "text" and self.reserved_tokens() > 0
        gate = learned.get(f"gate_{tower}")
        return (TowerPrompts(states, self.blocks(tower), "replace", placeholders=placeholders, gate=gate),)

    def reserved_tokens(self) -> int:
        """The first block's prompts take their place before the caption."""
        return self.placeholders(self.options.length)


class PooledPrompts(PromptLearner):
    """A pool of prompts with keys, from which every item takes the nearest; see `lpi.methods.l2p`.

    Paper: Learning to Prompt for Continual Learning (arXiv 2112.08654).
    """

    @dataclass(frozen=True)
    class Options(PromptOptions):
        """What L2P takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1.2e-3}

        pool: Annotated[Count, "prompts in a tower's pool, M"] = 10
        chosen: Annotated[Count, "how many of them an item takes, N"] = 5
        length: Annotated[Count, "tokens of one prompt, L_p"] = 5
        match_weight: Annotated[Weight, "weight of the distance between items and the keys they chose, lambda"] = 0.5

        def check(self) -> None:
            """See :class:`Table`."""
            if self.chosen > self.pool:
                raise ConfigError(f"chosen must be at most pool={self.pool}; got {self.chosen}.")

    options: Options

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """Keys [pool, features] and prompts [pool, length, width] of each tower."""
        o = self.options
        learned = nn.ParameterDict(self.gates(1, *TOWERS))
        for tower in TOWERS:
            directions = torch.randn((o.pool, self.backbone.feature_width), generator=generator)
            learned[f"keys_{tower}"] = nn.Parameter(F.normalize(directions, dim=-1))
            shape = (o.pool, o.length, self.backbone.widths[tower])
            learned[f"pool_{tower}"] = normal(shape, PROMPT_STD, generator)
        return learned

    def choose(self, tower: str, query: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts that items take, nearest key first.

        Args:
            tower: whose pool.
            query: L2-normalised, [batch, features].

        Returns:
            Cosine distances [batch, chosen] and rows of the pool int64 [batch, chosen].
        """
        keys = F.normalize(self.learned.get_parameter(f"keys_{tower}"), dim=-1)
        nearest = (1 - query @ keys.T).topk(self.options.chosen, dim=1, largest=False)
        return nearest.values, nearest.indices

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`PromptLearner`; each item has prompts of its own."""
        learned = dict(self.learned.named_parameters())
        _, rows = self.choose(tower, query())
        states = learned[f"pool_{tower}"][rows].flatten(1, 2)  # [batch, chosen * length, width]
        return (TowerPrompts(states[:, None], (0,), "shallow", gate=learned.get(f"gate_{tower}")),)

    def constraints(self, frozen: Frozen) -> dict[str, Tensor]:
        """The pull between items and the keys they chose, both towers."""
        distances = [
            self.choose(tower, query)[0].sum(dim=1).mean() for tower, query in zip(TOWERS, frozen(), strict=True)
        ]
        return {"match": self.options.match_weight * torch.stack(distances).sum()}
