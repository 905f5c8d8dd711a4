"""KeepLoRA: low-rank changes that read only directions which neither the weights nor earlier tasks make much use of.

What a layer knows in general lies along the main directions of its weights, what a task taught it along those of the
task's inputs. A new task's change reads what is left: the main directions of the task's own gradient there. Those stay;
what it writes along them is learned, and joins the weights when the task ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.methods.adapters import Targets, grouped, within
from lpi.methods.base import Saved, TaskData
from lpi.methods.merged import MergedDelta
from lpi.options import Share, Weight


def extended(basis: Tensor, square: Tensor, share: float) -> Tensor:
    """A basis and as few further directions as make it hold a share of the energy, orthonormal columns [in, more].

    Args:
        basis: orthonormal columns, [in, some].
        square: X' X of what has the energy, the rows of X [.., in]; [in, in].
        share: of the trace of ``square``.
    """
    basis64, square64 = basis.double(), square.double()
    missing = share * square64.trace() - (basis64.T @ square64 @ basis64).trace()
    if missing <= 0:
        return basis
    outside = torch.eye(len(square), dtype=torch.double, device=square.device) - basis64 @ basis64.T
    sizes, directions = torch.linalg.eigh(outside @ square64 @ outside)
    count = int((sizes.flip(0).cumsum(0) < missing).sum()) + 1
    room = len(square) - basis.shape[1]
    return torch.cat([basis, directions.flip(1)[:, : min(count, room)].to(basis)], dim=1)


def read_directions(gradient: Tensor, basis: Tensor, rank: int) -> Tensor:
    """The main directions along which a gradient reads its inputs, outside a basis, rows [rank, in].

    Args:
        gradient: of a weight, [out, in].
        basis: orthonormal columns, [in, some].
        rank: how many; where there are fewer, the others are zero.
    """

    def left(rows: Tensor) -> Tensor:
        return rows - rows @ basis @ basis.T

    directions = torch.linalg.svd(left(gradient), full_matrices=False).Vh[:rank]
    return left(directions)  # those of no size may lie anywhere


class KeepLoRA(MergedDelta):
    """LoRA off the main directions of the weights and of earlier tasks' inputs, merged after each task.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Attributes:
        bases: of each layer, the directions that are left alone, orthonormal columns [in, some].

    Paper: KeepLoRA (arXiv 2601.19659), residual gradient adaptation; rank 16 on query, key, value and output, 85 and 20
        per cent of the weights' energy and 99 of the inputs', from its authors' settings.
    Differs: the paper's abstract and parts of its authors' code were at hand. Which share is the weights' and which the
        inputs', that energy is that of squared sizes, and that all directions are those of a layer's inputs, are our
        reading. What the tokens of all training pairs show, padding too, counts as the inputs, under the weights that
        the task leaves.
    """

    @dataclass(frozen=True)
    class Options(MergedDelta.Options):
        """What KeepLoRA takes."""

        alpha: Annotated[Weight, "a change is multiplied by alpha / rank"] = 16.0
        targets: Annotated[Targets, "which layers of the blocks are changed"] = "attention"
        energy_vision: Annotated[Share, "of the vision tower's weights, in the directions that are left alone"] = 0.85
        energy_text: Annotated[Share, "likewise, of the text tower's"] = 0.2
        energy_inputs: Annotated[Share, "likewise, of the inputs of each task"] = 0.99

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.bases: dict[str, Tensor] = {}

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Start a change that reads the directions of the task's gradient outside those that are left alone."""
        super().begin_task(data, generator)
        if not self.bases:
            for name, layer in self.adapted.layers.items():
                share = getattr(self.options, f"energy_{name.partition('/')[0]}")
                weight = layer.weight.detach()
                self.bases[name] = extended(weight[:0].T, weight.T @ weight, share)
        gradients = self._gradients(data, seed=int(torch.randint(2**31, (), generator=generator)))
        for name, gradient in gradients.items():
            self.change.down[name].data.copy_(read_directions(gradient, self.bases[name], self.options.rank))
        self.change.down.requires_grad_(False)

    def _gradients(self, data: TaskData, *, seed: int) -> dict[str, Tensor]:
        """Of the item-level loss by each layer's weight, [out, in], averaged over a task's batches."""
        weights = {name: layer.weight for name, layer in self.adapted.layers.items()}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            for count, batch in enumerate(data.batches(seed=seed), 1):
                loss = self.item(batch, *self.both(batch))
                for name, found in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
                    total[name] += (found - total[name]) / count
        for weight in weights.values():
            weight.requires_grad_(False)
        return total

    def trainable(self) -> list[nn.Parameter]:
        """What the change writes."""
        return list(self.change.up.parameters())

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Merge the change; from now on the directions of the task's inputs are left alone."""
        super().end_task(data, generator)
        with self._watched() as squares:
            for batch in data.batches(seed=0, captions=0):
                self.image_features(batch.images, 0)
                self.text_features(batch.texts, 0)
        for name, square in squares.items():
            self.bases[name] = extended(self.bases[name], square, self.options.energy_inputs)

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Tensor]]:
        """The sums X' X of what each layer is given meanwhile, [in, in]."""
        squares: dict[str, Tensor] = {}

        def add(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2).float()
            squares[name] = squares.get(name, 0) + rows.T @ rows

        hooks = [layer.register_forward_pre_hook(partial(add, name)) for name, layer in self.adapted.layers.items()]
        try:
            yield squares
        finally:
            for hook in hooks:
                hook.remove()

    def shared_state(self) -> dict[str, Tensor]:
        """See :class:`MergedDelta`, and the directions that are left alone."""
        return {**super().shared_state(), **grouped("basis", self.bases)}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        self.bases = {name: value.to(self.backbone.device) for name, value in within(shared, "basis").items()}
