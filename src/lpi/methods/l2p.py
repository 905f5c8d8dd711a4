"""L2P: a pool of prompts with keys, from which every item takes those whose keys are nearest to its frozen feature.

The feature of the frozen model asks, the keys answer: the N prompts with the nearest keys are put in front of the
item's tokens, and a second term of the loss pulls chosen keys towards the features that chose them. Tasks share
the pool; what keeps them apart is only that different items choose different prompts.

Paper: Learning to Prompt for Continual Learning (arXiv 2112.08654), section 4: the choice K_x = argmin over N keys of
the sum of distances gamma(q(x), k), here cosine, the prompted input [P_s1; ...; P_sN; x_e], and the objective
L + lambda sum over K_x of gamma(q(x), k).
Differs: each tower has a pool of its own, asked by its own frozen feature in the common space (the paper has one
tower and its class token), so pictures and captions can be embedded apart. The pooled vector is the tower's own and
not the mean over prompt tokens, which would leave the common space. Every item chooses for itself in training too;
the released code may take one choice for a whole batch. The paper's optional penalty on prompts that are chosen often
is left out, as it is there. Keys start as random directions, prompts at N(0, 0.02^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TowerPrompts
from lpi.errors import ConfigError
from lpi.methods.base import recorded
from lpi.methods.prompted import PROMPT_STD, Plain, Prompted, Start, at_least, normal
from lpi.prompts.low_rank import TOWERS


class L2P(Prompted):
    """A pool of prompts in each tower.

    Args:
        backbone: the frozen dual encoder.
        pool: prompts in a tower's pool, M.
        chosen: how many of them an item takes, N.
        length: tokens of one prompt, L_p.
        match_weight: weight of the distance between items and the keys they chose, lambda.
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 1.2e-3}

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        pool: int = 10,
        chosen: int = 5,
        length: int = 5,
        match_weight: float = 0.5,
        multi_positive: bool = True,
        start: Start = "paper",
    ) -> None:
        at_least(1, pool=pool, chosen=chosen, length=length)
        at_least(0, match_weight=match_weight)
        if chosen > pool:
            raise ConfigError(f"chosen must be at most pool={pool}; got {chosen}.")
        super().__init__(backbone, **recorded(locals()))

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """Keys [pool, features] and prompts [pool, length, width] of each tower."""
        o = self.options
        learned = nn.ParameterDict(self.gates(1, *TOWERS))
        for tower in TOWERS:
            directions = torch.randn((o["pool"], self.backbone.feature_width), generator=generator)
            learned[f"keys_{tower}"] = nn.Parameter(F.normalize(directions, dim=-1))
            shape = (o["pool"], o["length"], self.backbone.widths[tower])
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
        nearest = (1 - query @ keys.T).topk(self.options["chosen"], dim=1, largest=False)
        return nearest.values, nearest.indices

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`; each item has prompts of its own."""
        learned = dict(self.learned.named_parameters())
        _, rows = self.choose(tower, query())
        states = learned[f"pool_{tower}"][rows].flatten(1, 2)  # [batch, chosen * length, width]
        return (TowerPrompts(states[:, None], (0,), "shallow", gate=learned.get(f"gate_{tower}")),)

    def constraints(self, plain: Plain) -> dict[str, Tensor]:
        """The pull between items and the keys they chose, both towers."""
        distances = [
            self.choose(tower, query)[0].sum(dim=1).mean() for tower, query in zip(TOWERS, plain(), strict=True)
        ]
        return {"match": self.options["match_weight"] * torch.stack(distances).sum()}
