"""A moving average over tasks of the weights of a model that is fine-tuned task after task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from lpi.methods.merged import Merged
from lpi.options import Share


class EMA(Merged):
    """Sequential fine-tuning; what encodes is an exponential moving average of its weights after each task.

    Paper: Momentum-based weight interpolation for continual learning (arXiv 2211.03186).
    Differs: there the average moves, and replaces the model, every few steps of a classifier with replay; here once a
    task, and the model goes on from its own weights.
    """

    @dataclass(frozen=True)
    class Options(Merged.Options):
        """What the moving average takes."""

        decay: Annotated[Share, "of the average so far in the next; the frozen model is the first"] = 0.5

    options: Options

    def merge(self, frozen: Tensor, before: Tensor, learned: Tensor) -> Tensor:
        """See :class:`Merged`."""
        return self.options.decay * before + (1 - self.options.decay) * learned
