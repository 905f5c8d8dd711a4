"""A closed form on the frozen model: canonical correlations of its states, a map for each task or one for all.

It learns a task in seconds and keeps nothing of a single item: whatever takes training steps has to be better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lpi.methods.closing import PROJECTION, ClosedForm, ClosedFormOptions, Head, reduced
from lpi.options import Above, Count, Size


class CCA(ClosedForm):
    """Canonical correlation analysis on the frozen model's states.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Paper: regularised canonical correlation analysis (Vinod 1976, Journal of Econometrics 4).
    Differs: each direction counts by its correlation squared; the frozen features stand beside the map's vectors, at a
    share.
    """

    @dataclass(frozen=True)
    class Options(ClosedFormOptions):
        """What the closed form takes."""

        dimensions: Annotated[Count, "directions that are kept of a map"] = 128
        projection: Annotated[Size, PROJECTION] = 0
        shrinkage: Annotated[
            Above | None, "of the covariances, in mean variances; by default what serves held-back pairs of a task best"
        ] = None

    options: Options

    @property
    def extra_width(self) -> int:
        """See :class:`lpi.methods.encoder.Widened`."""
        return self.options.dimensions

    def new_expert(self, generator: torch.Generator) -> Head:
        """See :class:`Experts`."""
        return Head(self.backbone, self.options.dimensions, self.options.projection)

    def seen(self, features: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ClosedForm`."""
        return features, reduced(summary, self.options.projection)

    def frozen_blocks(self, tower: str) -> int:
        """Those below the states that the map reads."""
        return self.backbone.middle(tower)

    def strength(self) -> float | None:
        """See :class:`ClosedForm`."""
        return self.options.shrinkage
