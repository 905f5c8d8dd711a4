"""Mod-X: full fine-tuning that keeps the pattern of similarities between pictures and captions that don't match.

What turns while a contrastive model learns on is its sense of how near things are that do not belong together. So the
similarities within a batch are held to what they were before the task, except for pictures and captions that the model
matched wrongly then.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lpi.methods.tuned import Aligned, answered


def off_diagonal_loss(new: Tensor, old: Tensor, positives: Tensor) -> Tensor:
    """Keep the rows of a similarity matrix as they were, where they were right.

    Args:
        new: cosines of the model that learns, [queries, candidates].
        old: of the model before the task, [queries, candidates].
        positives: which candidates are right, bool [queries, candidates].

    Returns:
        Kullback-Leibler divergence in nats of the new from the old rows' softmax, summed over the rows whose best
        candidate was right, scalar.
    """
    divergence = F.kl_div(new.log_softmax(1), old.log_softmax(1), reduction="none", log_target=True).sum(1)
    return (divergence * answered(old, positives)).sum()


class ModX(Aligned):
    """Full fine-tuning that maintains off-diagonal information.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Aligned`.

    Paper: Mod-X (arXiv 2305.07437), the screening of wrong rows and the loss L_Mod-X; alpha = 20 in the authors'
        scripts. As in their code the softmax is over plain cosines, and the sum is over the batch.
    Differs: a batch may hold several right captions for a picture: a row counts where the best one is any of them.
        The first task's teacher is the frozen model. Its similarities are those of pictures as in evaluation.
    """

    def kept(self, new: Tensor, old: Tensor, positives: Tensor) -> Tensor:
        """See :class:`Aligned`."""
        return off_diagonal_loss(new, old, positives)
