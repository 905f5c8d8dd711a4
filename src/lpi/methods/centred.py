"""The frozen model without the gap between its towers: each one's mean over all tasks is subtracted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.methods.base import Saved, TaskData
from lpi.methods.corrected import Corrected
from lpi.prompts.low_rank import TOWERS


class Centred(Corrected):
    """Frozen features, less the mean of their tower over the training items of all tasks. No steps, and sums alone.

    Args:
        backbone: the frozen dual encoder.
        options: it takes none.

    Paper: Mind the gap (arXiv 2203.02053): features of the towers of a contrastive model lie around two directions.
    """

    def __init__(self, backbone: DualEncoder, options: Corrected.Options | None = None) -> None:
        super().__init__(backbone, options)
        self.count = dict.fromkeys(TOWERS, torch.zeros(()))
        self.total = {tower: torch.zeros(backbone.feature_width) for tower in TOWERS}

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add the task's features to the sums."""
        super().end_task(data, generator)
        for tower, features in (("vision", data.frozen.image_features), ("text", data.frozen.text_features)):
            self.count[tower] = self.count[tower] + len(features)
            self.total[tower] = self.total[tower] + features.float().sum(0).cpu()

    @property
    def known(self) -> bool:
        """See :class:`Corrected`."""
        return bool(self.count["vision"])

    def corrected(self, tower: str, features: Tensor) -> Tensor:
        """See :class:`Corrected`."""
        mean = self.total[tower] / self.count[tower]
        return F.normalize(features - mean.to(features.device), dim=-1)

    def shared_state(self) -> dict[str, Tensor]:
        """The sums and counts."""
        return {f"{name}/{tower}": getattr(self, name)[tower] for name in ("count", "total") for tower in TOWERS}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for name in ("count", "total"):
            setattr(self, name, {tower: shared[f"{name}/{tower}"] for tower in TOWERS})
