"""CODA-Prompt: every item's prompt is a weighted sum of components, and every task adds components of its own.

How much a component counts is the cosine between its key and the item's frozen feature, after the component's own
attention has picked the feature's relevant channels: prompts are assembled rather than chosen, and the weights
learn end to end. Earlier tasks' components stay as they are and go on being used; an orthogonality loss keeps new ones
from repeating them.

Paper: CODA-Prompt (arXiv 2211.13218), section 4: p = sum_m alpha_m P_m with alpha_m = cos(q(x) * A_m, K_m), expansion
by components of each task with those of earlier ones frozen, and the objective
L + lambda (L_ortho(P) + L_ortho(K) + L_ortho(A)), where L_ortho(B) = ||B B^T - I||.
Differs: each tower has components of its own, weighted by its own frozen feature in the common space, so pictures and
captions can be embedded apart. A fixed number of components a task, since nobody knows how many tasks will come. The
norm is Frobenius' (the released code takes the mean of the squares, times a millionth), and components start
orthonormal to all earlier ones as far as there is room, where that loss is zero. Prefixes join keys and values after
the block's projections, as in the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.methods.base import TaskData
from lpi.methods.prompted import Frozen, Prompted, PromptOptions, even, fitting_depth
from lpi.options import Count, Weight
from lpi.prompts.low_rank import TOWERS

PAPER_DEPTH = 5
PARTS = ("prompts", "attention", "keys")


def orthonormal_rows(count: int, earlier: Tensor, generator: torch.Generator) -> Tensor:
    """Unit rows at right angles to each other and to the ``earlier`` ones, random otherwise, [count, width].

    Rows for which no direction is left are random units.

    Args:
        count: how many.
        earlier: [rows, width], not necessarily orthonormal.
        generator: decides.
    """
    drawn = F.normalize(torch.randn((count, earlier.shape[1]), generator=generator), dim=-1)
    basis = torch.linalg.qr(earlier.T)[0].T  # [rows, width]
    rows = []
    for row in drawn:
        if len(basis) < earlier.shape[1]:
            for _ in range(2):  # the second round removes what rounding left of the first
                row = F.normalize(row - basis.T @ (basis @ row), dim=0)
            basis = torch.cat([basis, row[None]])
        rows.append(row)
    return torch.stack(rows)


def orthogonality(rows: Tensor) -> Tensor:
    """How far rows are from orthonormal, ||B B^T - I||, averaged over layers, scalar.

    Args:
        rows: [layers, components, width].

    Paper: CODA-Prompt (arXiv 2211.13218), L_ortho.
    """
    own = torch.eye(rows.shape[1], device=rows.device)
    distance: Tensor = torch.linalg.matrix_norm(rows @ rows.transpose(1, 2) - own)  # [layers]
    return distance.mean()


class CODAPrompt(Prompted):
    """Prompts assembled from components.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(PromptOptions):
        """What CODA-Prompt takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.012}

        components: Annotated[Count, "that a task adds to each tower (M / N in the paper: 100 over 10 tasks)"] = 10
        length: Annotated[Count, "prompts a block, L_p, half of them keys and half values of its attention"] = 8
        depth: Annotated[
            int | None,
            "prompted blocks of both towers, the lowest; by default the paper's 5, or all where there are fewer",
        ] = None
        orthogonality_weight: Annotated[Weight, "weight of the three orthogonality terms, lambda"] = 0.1

        def check(self) -> None:
            """See :class:`Table`."""
            even(length=self.length)

    options: Options

    def _layers(self) -> int:
        return fitting_depth(self.options.depth, PAPER_DEPTH, min(self.backbone.depths.values()))

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """Only the gates, if there are any."""
        return nn.ParameterDict(self.gates(self._layers(), *TOWERS))

    def make_own(self, generator: torch.Generator, data: TaskData | None) -> nn.Module:
        """A task's components: prompts [depth, components, length * width], attention and keys [..., features]."""
        count = self.options.components
        own = nn.ParameterDict()
        for tower in TOWERS:
            sizes = (self.options.length * self.backbone.widths[tower], *[self.backbone.feature_width] * 2)
            for part, size in zip(PARTS, sizes, strict=True):
                layers = []
                for layer in range(self._layers()):
                    known = [expert.get_parameter(f"{part}_{tower}")[layer].detach().cpu() for expert in self.experts]
                    earlier = torch.cat([torch.empty(0, size), *known])
                    layers.append(orthonormal_rows(count, earlier, generator))
                own[f"{part}_{tower}"] = nn.Parameter(torch.stack(layers))
        return own

    def components(self, part: str, tower: str) -> Tensor:
        """Those of all tasks so far, [depth, tasks * components, ...]; only the newest task's carry gradient."""
        return torch.cat([expert.get_parameter(f"{part}_{tower}") for expert in self.experts], dim=1)

    def weights(self, tower: str, query: Tensor) -> Tensor:
        """How much each component counts for each item in each layer, [batch, depth, components].

        Args:
            tower: whose components.
            query: L2-normalised, [batch, features].
        """
        attention, keys = self.components("attention", tower), self.components("keys", tower)
        # cos(q * A, K) without the [batch, depth, components, features] that q * A would be
        products = torch.einsum("bf,lmf->blm", query, attention * F.normalize(keys, dim=-1))
        lengths = torch.einsum("bf,lmf->blm", query.square(), attention.square()).clamp(min=1e-16).sqrt()
        return products / lengths

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`; each item has prompts of its own."""
        weights, prompts = self.weights(tower, query()), self.components("prompts", tower)
        states = torch.einsum("blm,lmw->blw", weights, prompts)
        states = states.reshape(*states.shape[:2], self.options.length, -1)  # [batch, depth, length, width]
        gate = dict(self.learned.named_parameters()).get(f"gate_{tower}")
        return (TowerPrompts(states, tuple(range(states.shape[1])), "prefix", gate=gate),)

    def constraints(self, frozen: Frozen) -> dict[str, Tensor]:
        """The three orthogonality terms, both towers."""
        if not self.options.orthogonality_weight:
            return {}
        terms = [orthogonality(self.components(part, tower)) for tower in TOWERS for part in PARTS]
        return {"orthogonality": self.options.orthogonality_weight * torch.stack(terms).sum()}
