"""WiSE-FT: a weighted mean of the frozen model and one fine-tuned task after task, weight by weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from lpi.methods.merged import Merged
from lpi.options import Share


class WiseFT(Merged):
    """Sequential fine-tuning, drawn back towards the frozen weights when it encodes.

    Paper: Robust fine-tuning of zero-shot models (arXiv 2109.01903), section 3.
    Differs: there the model is fine-tuned once; here it goes on from task to task.
    """

    @dataclass(frozen=True)
    class Options(Merged.Options):
        """What WiSE-FT takes."""

        share: Annotated[Share, "alpha, of the fine-tuned weights in the sum; the frozen ones have the rest"] = 0.5

    options: Options

    def merge(self, frozen: Tensor, before: Tensor, learned: Tensor) -> Tensor:
        """See :class:`Merged`."""
        return (1 - self.options.share) * frozen + self.options.share * learned
