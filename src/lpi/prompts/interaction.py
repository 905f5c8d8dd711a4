"""The cross-modal interaction: in every prompted layer, each tower's prompts learn from the other's.

Two affine maps a layer would cost D (dv+1) dt numbers a direction; they are held as CP factors over
(layer, input + 1, output), the extra input row being the bias, and applied factor by factor.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lpi.errors import ConfigError, check_choice
from lpi.prompts.low_rank import TOWERS

Norm = Literal["matched", "unit", "none"]
OTHER = {"vision": "text", "text": "vision"}


class LowRankMap(nn.Module):
    """An affine map a layer, W[l] of shape [input + 1, output], as factors [D, r], [input + 1, r], [output, r].

    Args:
        layers: number of layers, D.
        inputs: width of what comes in.
        outputs: width of what goes out.
        rank: number of components, r.
        zero_output: start the output factor at zero, so that the map starts at exactly zero.
        generator: source of the initial values (Kaiming-uniform with a = sqrt 5).
    """

    def __init__(
        self, *, layers: int, inputs: int, outputs: int, rank: int, zero_output: bool, generator: torch.Generator
    ) -> None:
        super().__init__()

        def kaiming(rows: int) -> nn.Parameter:
            bound = math.sqrt(6 / ((1 + 5) * rank))  # a = sqrt 5; the fan-in of a [rows, r] factor is r
            return nn.Parameter((torch.rand((rows, rank), generator=generator) * 2 - 1) * bound)

        self.layer, self.input, self.output = kaiming(layers), kaiming(inputs + 1), kaiming(outputs)
        if zero_output:
            nn.init.zeros_(self.output)

    def forward(self, states: Tensor, layer: int | None = None) -> Tensor:
        """Map [D, ..., input] to [D, ..., output], each layer by its own W; or one layer's [..., input]."""
        components = states @ self.input[:-1] + self.input[-1]  # [..., r]: the bias row is an input that is always 1
        scale = self.layer if layer is None else self.layer[layer]
        if layer is None:
            scale = scale.reshape(scale.shape[0], *[1] * (states.dim() - 2), scale.shape[1])
        return (components * scale) @ self.output.T


class Interaction(nn.Module):
    """Mix what the other tower knows into each prompt: x' = LN((1 - a) x + a W(other)), both from the old values.

    Args:
        layers, widths: as of the prompts.
        rank: components of each map, r_i.
        share: how much comes from the other side, a, in [0, 1].
        norm: ``unit`` is an ordinary LayerNorm (gain 1), which sets the prompts' scale to 1 an entry whatever the
            factors say; ``matched`` starts the gain at the rms of the prompts that come in; ``none`` leaves the norm
            out.
        neutral: start so that what comes out is exactly zero. With a norm its gain starts at zero; without one,
            the maps' output factors do (and the prompts' channel factors have to).
        generator: source of the initial values.

    Raises:
        ConfigError: ``share`` outside [0, 1], ``rank`` below 1, or an unknown norm.

    Paper: LPI (arXiv 2501.14369), multi-modal correlation module.
    Differs: ``matched`` is ours. In a dual encoder both sides are the prompts themselves, so that pictures and
    captions can still be embedded on their own.
    """

    def __init__(
        self,
        *,
        layers: int,
        widths: dict[str, int],
        rank: int = 4,
        share: float = 0.1,
        norm: Norm = "matched",
        neutral: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_choice("norm", norm, Norm)
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"interaction_share must be between 0 and 1; got {share}.")
        if rank < 1:
            raise ConfigError(f"interaction_rank must be at least 1; got {rank}.")
        self.share = share
        self.maps = nn.ModuleDict(  # maps["vision"] maps text prompts to vision width (W_tv in the paper)
            {
                tower: LowRankMap(
                    layers=layers,
                    inputs=widths[OTHER[tower]],
                    outputs=widths[tower],
                    rank=rank,
                    zero_output=neutral and norm == "none",
                    generator=generator,
                )
                for tower in TOWERS
            }
        )
        self.norms = nn.ModuleDict()
        if norm != "none":
            for tower in TOWERS:
                gain = nn.LayerNorm(widths[tower])
                if neutral:
                    nn.init.zeros_(gain.weight)
                self.norms[tower] = gain
        self.match_scale = norm == "matched" and not neutral

    @torch.no_grad()
    def match(self, prompts: dict[str, Tensor]) -> None:
        """Start the gains at the rms of the prompts that come in ([layers, length, width] each), if asked for."""
        if self.match_scale:
            for tower, norm in self.norms.items():
                norm.get_parameter("weight").fill_(float(prompts[tower].square().mean().sqrt()))

    def forward(self, prompts: dict[str, Tensor]) -> dict[str, Tensor]:
        """From old prompts to new ones, [layers, length, width] a tower."""
        mixed = {
            tower: (1 - self.share) * prompts[tower] + self.share * self.maps[tower](prompts[OTHER[tower]])
            for tower in TOWERS
        }
        return {tower: self.norms[tower](states) if self.norms else states for tower, states in mixed.items()}


def interaction_parameters(*, layers: int, widths: dict[str, int], rank: int, norm: bool = True) -> int:
    """The closed formula: 2 r D + 2 r (dv + dt + 1) for the maps and 2 (dv + dt) for the norms.

    >>> interaction_parameters(layers=9, widths={"vision": 768, "text": 512}, rank=4)
    12880
    """
    both = widths["vision"] + widths["text"]
    return 2 * rank * layers + 2 * rank * (both + 1) + (2 * both if norm else 0)
