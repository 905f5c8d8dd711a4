"""Prompts as a product of layer, position and channel factors: the low-rank decomposition of LPI.

All prompts of one task, for all layers, are one three-way tensor per tower. It is held as CP factors, of which
the two towers share the layer factor: what they have in common is *when* (at which depth) a component acts,
what is their own is *where* and *with what*.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lpi.errors import ConfigError, check_choice

TOWERS = ("vision", "text")
Sharing = Literal["none", "layer"]
Decomposition = Literal["cp", "free"]
FACTOR_STD = 0.5
MOST_NUMBERS = 2**27  # half a gigabyte, of what a task learns a few thousand of


def check_numbers(*shape: int) -> None:
    """Refuse prompts of a size beyond any use before they take memory.

    Raises:
        ConfigError: more than :data:`MOST_NUMBERS`.
    """
    if math.prod(shape) > MOST_NUMBERS:
        raise ConfigError(
            f"prompts of {' x '.join(map(str, shape))} numbers are more than {MOST_NUMBERS:,}. Take a smaller length, "
            "rank or pool."
        )


def normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std^2), on the CPU, so that a seed means the same on every device.

    Raises:
        ConfigError: more than :data:`MOST_NUMBERS`.
    """
    check_numbers(*shape)
    return nn.Parameter(torch.randn(shape, generator=generator) * std)


class LowRankPrompts(nn.Module):
    """The prompts of one task for both towers, r (D + 2P + dv + dt) numbers with a shared layer factor.

    ::

        prompt[l, p, c] = (1/r) sum_k  layer[l, k] position[p, k] channel[c, k]

    Args:
        layers: number of prompted layers, D.
        length: prompt tokens a layer, P.
        widths: hidden width of each tower, ``{"vision": dv, "text": dt}``.
        rank: number of components, r. At least 1.
        sharing: which factors the towers have in common: ``none``, ``layer`` (the paper).
        decomposition: ``cp``, or ``free`` for one unconstrained [D, P, width] tensor a tower.
        zero_channels: start the channel factors at zero, so that the prompts start at exactly zero.
        generator: source of the initial values.

    Raises:
        ConfigError: a size below 1 or an unknown choice.

    Paper: LPI (arXiv 2501.14369), low-rank interaction-augmented decomposition.
    Differs: the mean over components is a contraction; the [D, P, width, r] tensor is never made.
    """

    def __init__(
        self,
        *,
        layers: int,
        length: int,
        widths: dict[str, int],
        rank: int = 4,
        sharing: Sharing = "layer",
        decomposition: Decomposition = "cp",
        zero_channels: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        for name, value in (("layers", layers), ("length", length), ("rank", rank)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        check_choice("sharing", sharing, Sharing)
        check_choice("decomposition", decomposition, Decomposition)
        self.layers, self.length, self.rank = layers, length, rank
        self.factors = nn.ParameterDict()
        if decomposition == "free":
            # the same spread per entry as the product of three factors has at the start
            std = 0.0 if zero_channels else FACTOR_STD**3 / math.sqrt(rank)
            for tower in TOWERS:
                self.factors[f"free_{tower}"] = normal((layers, length, widths[tower]), std, generator)
            return
        if sharing == "none":
            for tower in TOWERS:
                self.factors[f"layer_{tower}"] = normal((layers, rank), FACTOR_STD, generator)
        else:
            self.factors["layer"] = normal((layers, rank), FACTOR_STD, generator)
        for tower in TOWERS:
            self.factors[f"position_{tower}"] = normal((length, rank), FACTOR_STD, generator)
        for tower in TOWERS:
            std = 0.0 if zero_channels else FACTOR_STD
            self.factors[f"channel_{tower}"] = normal((widths[tower], rank), std, generator)

    def _factor(self, kind: str, tower: str) -> Tensor:
        factor: Tensor = self.factors[kind if kind in self.factors else f"{kind}_{tower}"]
        return factor

    def forward(self, tower: str) -> Tensor:
        """The prompts of one tower, [layers, length, width]."""
        if f"free_{tower}" in self.factors:
            return self._factor("free", tower)
        layer, position = self._factor("layer", tower), self._factor("position", tower)  # [D, r], [P, r]
        mixed = (layer[:, None] * position[None]).flatten(0, 1)  # [D * P, r]
        prompts = mixed @ self._factor("channel", tower).T / self.rank  # [D * P, width]
        return prompts.reshape(self.layers, self.length, -1)


def low_rank_parameters(
    *, layers: int, length: int, widths: dict[str, int], rank: int, sharing: Sharing = "layer"
) -> int:
    """The closed formula for the number of learned numbers a task, r (D + 2P + dv + dt) with a shared layer factor.

    >>> low_rank_parameters(layers=9, length=16, widths={"vision": 768, "text": 512}, rank=4)
    5284
    """
    per_component = (2 * layers if sharing == "none" else layers) + 2 * length
    return rank * (per_component + widths["vision"] + widths["text"])
