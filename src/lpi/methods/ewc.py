"""EWC: full fine-tuning that holds on to the weights that earlier tasks needed.

After each task the diagonal of the Fisher information says how much each weight matters to it. Later tasks may move
a weight only against a quadratic pull towards where it was, the harder the more it mattered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.methods.adapters import grouped, within
from lpi.methods.base import Saved, TaskData, TrainingBatch
from lpi.methods.tuned import Tuned
from lpi.options import Weight


def joined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two quadratic pulls as one, which has the same gradient everywhere.

    F1 (w - c1)^2 + F2 (w - c2)^2 = (F1 + F2) (w - c)^2 + a constant, with c their mean, weighted by F1 and F2.

    Args:
        first: strengths and centres of one pull, two tensors of one shape.
        second: of the other.
    """
    (one, here), (two, there) = first, second
    total = one + two
    centre = torch.where(total > 0, (one * here + two * there) / total.clamp(min=torch.finfo(total.dtype).tiny), there)
    return total, centre


class EWC(Tuned):
    """Full fine-tuning with elastic weight consolidation.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Paper: Elastic Weight Consolidation (arXiv 1612.00796), eq. 3, a penalty for each earlier task. The penalties are
        kept as one (:func:`joined`): the same gradients, and the memory doesn't grow with the tasks.
    Differs: the likelihood of a pair depends on the batch it is contrasted with, so there is no gradient a sample.
        Squared gradients of whole batches, times the batch's size, stand for the samples': equal in expectation where
        the samples' gradients are independent with mean zero, as they are at an optimum.
    """

    @dataclass(frozen=True)
    class Options(Tuned.Options):
        """What EWC takes."""

        strength: Annotated[Weight, "lambda, of the pull towards what earlier tasks needed"] = 1000.0

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.importance: dict[str, Tensor] = {}
        self.centre: dict[str, Tensor] = {}

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`."""
        for kept in (self.importance, self.centre):
            kept.update({name: value.to(self.backbone.device) for name, value in kept.items()})

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss and, from the second task on, the pull of the earlier ones."""
        parts = super().loss(batch)
        if self.importance:
            weights = dict(self.tuned.model.named_parameters())
            pull = [
                (strength * (weights[name] - self.centre[name]).square()).sum()
                for name, strength in self.importance.items()
            ]
            parts["pull"] = 0.5 * self.options.strength * torch.stack(pull).sum()
        return parts

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Measure what this task needs, and join its pull to that of the tasks before."""
        seed = int(torch.randint(2**31, (), generator=generator))
        for name, value in self.fisher(data, seed).items():
            now = dict(self.tuned.model.named_parameters())[name].detach().clone()
            before = (self.importance.get(name, torch.zeros_like(value)), self.centre.get(name, now))
            self.importance[name], self.centre[name] = joined(before, (value, now))

    def fisher(self, data: TaskData, seed: int) -> dict[str, Tensor]:
        """The diagonal of the Fisher information on a task, averaged over its pairs; by name of the weight."""
        weights = {name: weight for name, weight in self.tuned.model.named_parameters() if weight.requires_grad}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        pairs = 0
        for batch in data.batches(seed=seed):
            loss = self.item(batch, *self.both(batch))
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            size = len(batch.texts)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    total[name] += size * size * gradient.square()  # the size once for the pairs, once as the weight
            pairs += size
        return {name: value / max(1, pairs) for name, value in total.items()}

    def shared_state(self) -> dict[str, Tensor]:
        """The weights, how much each matters, and where it is pulled to."""
        return {
            **super().shared_state(),
            **grouped("importance", self.importance),
            **grouped("centre", self.centre),
        }

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.importance, self.centre = within(shared, "importance"), within(shared, "centre")
        super().restore(tasks, {name: value for name, value in shared.items() if "/" not in name})
