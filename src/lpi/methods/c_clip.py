"""C-CLIP: low-rank changes that are merged into the weights after each task, and held by contrast to the old features.

A task is learned as a LoRA, half of which then joins the weights for good: no task has to be told apart later. While
it is learned, a projector must find, from a new feature, the old model's feature of the same picture or caption among
those of all others: nearer to the old space than to stand still, and free to move within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.methods.adapters import features_before, grouped, within
from lpi.methods.base import Saved, TaskData, TrainingBatch
from lpi.methods.merged import MergedDelta
from lpi.options import Share, Weight


def consolidation_loss(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Each new feature should be nearest to the old feature of the same item, scalar.

    Args:
        new: projected features of the model that learns, of pictures and captions one after another, [items, features].
        old: features of the model before the task, in the same order, [items, features].
        temperature: divides the cosines.

    Returns:
        Cross-entropy in nats, both directions averaged.
    """
    logits = F.normalize(new, dim=-1) @ F.normalize(old, dim=-1).T / temperature
    same = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


class CCLIP(MergedDelta):
    """LoRA merged after each task, with contrastive knowledge consolidation.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Raises:
        ConfigError: a number out of range, or an unknown choice.

    Paper: C-CLIP (ICLR 2025; it has no arXiv number): LoRA integration with coefficient 0.5, consolidation loss
        eq. 5, total eq. 7.
    Differs: pictures and captions are rows of one contrast (2N items), as its text describes; a public
        re-implementation contrasts pairs, each a picture's and a caption's features side by side, which batches with
        several captions a picture don't have. No batch norm in the projector: the loss would depend on it in
        small batches. One learning rate for both towers (the paper's texts learn 10 to 80 times faster): all methods
        here share the trainer's. The old features are those of pictures as in evaluation.
    """

    @dataclass(frozen=True)
    class Options(MergedDelta.Options):
        """What C-CLIP takes."""

        merge: Annotated[Share, "the share of a task's change that joins the weights"] = 0.5
        weight: Annotated[Weight, "of the consolidation loss"] = 1.0
        temperature: Annotated[float, Field(ge=1e-3), "of the consolidation loss"] = 0.07

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.before: tuple[Tensor, Tensor] | None = None
        self._project(torch.Generator().manual_seed(0))

    def _project(self, generator: torch.Generator) -> None:
        """A projector drawn anew."""
        width = self.backbone.feature_width
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        for parameter in self.projector.parameters():
            drawn = 2 * torch.rand(parameter.shape, generator=generator) - 1
            parameter.data.copy_(drawn / width**0.5)

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Start a change, and keep the features that the task's pairs have without it."""
        super().begin_task(data, generator)
        self._project(generator)
        self.projector.to(self.backbone.device)
        self.before = features_before(self, data)

    def trainable(self) -> list[nn.Parameter]:
        """The change and the projector."""
        return [*self.change.parameters(), *self.projector.parameters()]

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss and the consolidation."""
        assert self.before is not None  # begin_task comes first
        images, texts = self.both(batch)
        parts = {"item": self.item(batch, images, texts)}
        if self.options.weight:
            new = self.projector(torch.cat([images, texts]))
            old = torch.cat([self.before[0][batch.picture_rows], self.before[1][batch.caption_rows]])
            parts["consolidate"] = self.options.weight * consolidation_loss(new, old, self.options.temperature)
        return parts

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Merge a share of the change."""
        self.adapted.merge(self.change, self.options.merge * self.factor)
        self.before = None

    def shared_state(self) -> dict[str, Tensor]:
        """The merged weights, and what the last task trained."""
        return {**super().shared_state(), **grouped("projector", self.projector.state_dict())}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        self.projector.load_state_dict(within(shared, "projector"))
