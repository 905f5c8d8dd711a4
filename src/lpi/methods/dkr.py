"""DKR: full fine-tuning held to the earlier model's similarities, after the wrong ones are corrected.

What the earlier model says of new pictures and captions is partly wrong. Mod-X leaves a query that it answers wrongly
out; here it is held to the model that learns, where that one answers rightly, and else to the truth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.methods.tuned import Aligned, answered


def rectified(new: Tensor, old: Tensor, positives: Tensor) -> Tensor:
    """The similarities that a model shall keep, row by row, [queries, candidates].

    Args:
        new: cosines of the model that learns, [queries, candidates].
        old: of the model before the task, [queries, candidates].
        positives: which candidates are right, bool [queries, candidates].

    Returns:
        The old row where its best candidate is right; else the new one, where its best is; else 1 for what is right
        and 0 for what isn't.
    """
    truth = torch.where(answered(new, positives)[:, None], new.detach(), positives.to(new))
    return torch.where(answered(old, positives)[:, None], old, truth)


class DKR(Aligned):
    """Full fine-tuning that maintains rectified similarities.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Aligned`.

    Paper: Continual Vision-Language Retrieval via Dynamic Knowledge Rectification (AAAI 2024; no arXiv number).
    Differs: only the paper's abstract was at hand: that a row which neither model answers becomes 1 and 0 before the
        softmax, and the softmax, the sum over the batch and its weight, which are Mod-X's, are our reading. What Mod-X
        differs in, this does.
    """

    def kept(self, new: Tensor, old: Tensor, positives: Tensor) -> Tensor:
        """See :class:`Aligned`."""
        target = rectified(new, old, positives).log_softmax(1)
        return F.kl_div(new.log_softmax(1), target, reduction="sum", log_target=True)
