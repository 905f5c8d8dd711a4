"""Fine-tuning whose weights are merged when a task ends: one model goes on learning, the merged one encodes."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.methods.adapters import grouped, within
from lpi.methods.base import Saved, TaskData, TrainingBatch
from lpi.methods.tuned import Tuned

MERGED = "merged"


class Merged(Tuned):
    """A copy of the backbone that goes on learning, and a second one, merged after every task, that encodes.

    Args:
        backbone: where both start; itself left as it is.
        options: see :class:`Options`.

    Attributes:
        merged: the second one.
    """

    def __init__(self, backbone: DualEncoder, options: Tuned.Options | None = None) -> None:
        super().__init__(backbone, options)
        self.merged = deepcopy(backbone)
        self.merged.requires_grad_(False)

    def merge(self, frozen: Tensor, before: Tensor, learned: Tensor) -> Tensor:
        """A weight of the merged model after a task.

        Args:
            frozen: in the backbone.
            before: in the merged model before the task.
            learned: in the model that goes on learning, after it.
        """
        raise NotImplementedError

    def both(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """See :class:`TrainableCopy`: of the model that learns."""
        images, texts = self.tuned.encode_images(batch.images), self.tuned.encode_texts(batch.texts)
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`: of the merged model."""
        return F.normalize(self.merged.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return F.normalize(self.merged.encode_texts(texts), dim=-1)

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """:meth:`merge` every weight that learns."""
        super().end_task(data, generator)
        frozen, learned = (dict(one.model.named_parameters()) for one in (self.backbone, self.tuned))
        for name, weight in self.merged.model.named_parameters():
            if learned[name].requires_grad:
                weight.copy_(self.merge(frozen[name], weight, learned[name]))

    def shared_state(self) -> dict[str, Tensor]:
        """All weights of both."""
        return {**super().shared_state(), **grouped(MERGED, self.merged.model.state_dict())}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.merged.model.load_state_dict(within(shared, MERGED))
        super().restore(tasks, {name: value for name, value in shared.items() if not name.startswith(f"{MERGED}/")})
