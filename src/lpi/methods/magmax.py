"""MagMax: of all tasks' changes of a weight, the largest one counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lpi.methods.merged import Merged
from lpi.options import Above


class MagMax(Merged):
    """Sequential fine-tuning; what encodes are the frozen weights plus, of each, its largest change after any task.

    Paper: MagMax (arXiv 2407.06322), section 4.
    """

    @dataclass(frozen=True)
    class Options(Merged.Options):
        """What MagMax takes."""

        scale: Annotated[Above, "lambda, of the merged change"] = 0.5

    options: Options

    def merge(self, frozen: Tensor, before: Tensor, learned: Tensor) -> Tensor:
        """See :class:`Merged`."""
        largest, now = (before - frozen) / self.options.scale, learned - frozen
        return frozen + self.options.scale * torch.where(now.abs() > largest.abs(), now, largest)
