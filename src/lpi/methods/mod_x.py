"""Mod-X: full fine-tuning that keeps the pattern of similarities between pictures and captions that don't match.

What turns while a contrastive model learns on is its sense of how near things are that do not belong together. So the
similarities within a batch are held to what they were before the task, except for pictures and captions that the model
matched wrongly then.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.methods.adapters import check_range
from lpi.methods.base import TrainingBatch, recorded
from lpi.methods.tuned import Compared


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
    right = positives.gather(1, old.argmax(dim=1, keepdim=True))[:, 0]
    divergence = F.kl_div(new.log_softmax(1), old.log_softmax(1), reduction="none", log_target=True).sum(1)
    return (divergence * right).sum()


class ModX(Compared):
    """Full fine-tuning that maintains off-diagonal information.

    Args:
        backbone: where it starts; itself left as it is.
        weight: alpha, of the alignment of the similarities.
        multi_positive: captions that equal another picture's count as positives of it.
        upper: which share of each tower's blocks learns, from the top; 1 is everything.

    Raises:
        ConfigError: a negative weight.

    Paper: Mod-X (arXiv 2305.07437), the screening of wrong rows and the loss L_Mod-X; alpha = 20 in the authors'
        scripts. As in their code the softmax is over plain cosines, and the sum is over the batch.
    Differs: a batch may hold several right captions for a picture: a row counts where the best one is any of them.
        The first task's teacher is the frozen model. Its similarities are those of pictures as in evaluation.
    """

    def __init__(
        self, backbone: DualEncoder, *, weight: float = 20.0, multi_positive: bool = True, upper: float = 1.0
    ) -> None:
        options = recorded(locals())
        super().__init__(backbone, multi_positive=multi_positive, upper=upper)
        self.options = options
        check_range("weight", weight, 0.0)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss and the alignment of the similarities, both directions averaged."""
        images, texts = self.both(batch)
        new = images @ texts.T
        old_images, old_texts = self.old(batch)
        old = old_images @ old_texts.T
        positives = batch.positives
        kept = (off_diagonal_loss(new, old, positives) + off_diagonal_loss(new.T, old.T, positives.T)) / 2
        return {"item": self.item(batch, images, texts), "align": self.options["weight"] * kept}
