"""Ridge regression of each tower's frozen features on the other's: a map for each task, or one for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.closed_form import Moments, ridge
from lpi.methods.closing import ClosedForm, ClosedFormOptions
from lpi.methods.pairs import Pairs
from lpi.options import Above
from lpi.prompts.low_rank import TOWERS


class Regression(nn.Module):
    """Maps from each tower's features to the other's.

    Args:
        width: of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        for tower in TOWERS:  # filled when the task ends
            self.register_buffer(f"map_{tower}", torch.zeros(width, width, dtype=torch.float16))

    def forward(self, tower: str, features: Tensor, states: Tensor) -> Tensor:
        """Features and what they say of the other tower's, [items, 2 * features], of length 1.

        A picture x and a caption y score (x W_t y + W_v x y) / 2, each part a cosine.
        """
        mapped = F.normalize(states @ self.get_buffer(f"map_{tower}").to(states), dim=-1)
        both = (states, mapped) if tower == "vision" else (mapped, states)
        return torch.cat(both, dim=1) / 2**0.5

    def fit(self, pairs: Pairs, moments: Moments | None, strength: float) -> None:
        """Solve for the maps.

        Args:
            pairs: the task's.
            moments: what is fitted instead of the task's own sums.
            strength: of the ridge.
        """
        maps = ridge(pairs.moments() if moments is None else moments, strength=strength)
        for tower, weights in maps.items():
            self.get_buffer(f"map_{tower}").copy_(weights)


class Ridge(ClosedForm):
    """Ridge regression on the frozen model's features.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Paper: RanPAC (arXiv 2307.02251), RAIL (arXiv 2406.18868): sums of frozen features add up over tasks.
    Differs: those classify, with drawn features on top; here each tower's features are regressed on the other's.
    """

    @dataclass(frozen=True)
    class Options(ClosedFormOptions):
        """What ridge regression takes."""

        strength: Annotated[Above, "of the ridge, in means of the squares"] = 1.0

    options: Options

    @property
    def extra_width(self) -> int:
        """See :class:`lpi.methods.encoder.Widened`."""
        return self.backbone.feature_width

    def new_expert(self, generator: torch.Generator) -> Regression:
        """See :class:`Experts`."""
        return Regression(self.backbone.feature_width)

    def seen(self, features: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ClosedForm`: the features themselves."""
        features = F.normalize(features, dim=-1)
        return features, features

    def read(self, tower: str, inputs: Any) -> tuple[Tensor, Tensor]:
        """See :class:`ClosedForm`; they may be kept after all blocks, of which there is no summary."""
        features = getattr(self.backbone, tower)(inputs)
        return self.seen(features, features)

    def strength(self) -> float:
        """See :class:`ClosedForm`."""
        return self.options.strength
