"""OPCM: each task is learned from the frozen weights, and changes are merged without each other's main directions.

Changes of weights are added up one by one, each without its part along the main directions of the sum so far, and the
sum is scaled to the length that a single task's change has on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.methods.base import Saved, TaskData
from lpi.methods.merged import Merged
from lpi.options import Share

KEPT = ("scale", "lengths")  # what is known of the sum beside the merged weights


def off_main_directions(change: Tensor, before: Tensor, share: float) -> Tensor:
    """A change of a matrix without its part along the main directions of an earlier one, [out, in].

    With U S V' the singular value decomposition of the earlier change and r the directions whose singular values are
    ``share`` of their sum, the entries of U' change V are dropped that stand in the first r rows and columns, or on the
    diagonal.

    Args:
        change: [out, in].
        before: [out, in].
        share: alpha.
    """
    left, sizes, right = torch.linalg.svd(before, full_matrices=False)
    inside = left.T @ change @ right.T  # [k, k]; what lies outside both bases stays
    main = int((sizes.cumsum(0) <= share * sizes.sum()).sum())
    dropped = torch.eye(len(sizes), dtype=torch.bool, device=change.device)
    dropped[:main, :main] = True
    found: Tensor = change - left @ (inside * dropped) @ right
    return found


class OPCM(Merged):
    """Fine-tuning from the frozen weights for every task; the tasks' changes, merged one after another, encode.

    Args:
        backbone: where all tasks start; itself left as it is.
        options: see :class:`Options`.

    Paper: Merging Models on the Fly Without Retraining (arXiv 2501.09522), orthogonal projection and adaptive scaling;
        alpha = 0.5.
    Differs: as in its authors' code, only what lies along main directions on both sides is dropped, and the diagonal.
        Embeddings are matrices like others (theirs: linear layers only). The changes' lengths are those of all weights.
    """

    @dataclass(frozen=True)
    class Options(Merged.Options):
        """What OPCM takes."""

        share: Annotated[Share, "alpha, of the sum of singular values that the main directions have"] = 0.5

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.scale = torch.ones(())  # lambda, by which the sum of the changes was divided
        self.lengths = torch.zeros(())  # of the tasks' changes, added up

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`: begin at the frozen weights."""
        self.restart()

    def merge(self, frozen: Tensor, before: Tensor, learned: Tensor) -> Tensor:
        """See :class:`Merged`; not scaled yet."""
        earlier, change = before - frozen, learned - frozen
        if change.dim() == 2 and earlier.any():
            change = off_main_directions(change, earlier, self.options.share)
        return frozen + self.scale.to(frozen) * earlier + change

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Merged`; then scale the sum."""
        self.lengths = self.lengths + self._length(self.tuned)
        super().end_task(data, generator)
        wanted = self.lengths / len(self.tasks)
        self.scale = self._length(self.merged) / wanted.clamp_min(1e-12)
        frozen = dict(self.backbone.model.named_parameters())
        for name, weight in self.merged.model.named_parameters():
            weight.copy_(torch.lerp(frozen[name], weight, 1 / self.scale.clamp_min(1e-12).to(weight)))

    def _length(self, model: DualEncoder) -> Tensor:
        """Of a model's change in all its weights, scalar."""
        frozen = dict(self.backbone.model.named_parameters())
        changes = [(weight - frozen[name]).norm() for name, weight in model.model.named_parameters()]
        length: Tensor = torch.stack(changes).norm().cpu()
        return length

    def shared_state(self) -> dict[str, Tensor]:
        """All weights of both, and how the sum was scaled."""
        return {**super().shared_state(), **{name: getattr(self, name) for name in KEPT}}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.scale, self.lengths = (shared[name] for name in KEPT)
        super().restore(tasks, {name: value for name, value in shared.items() if name not in KEPT})
