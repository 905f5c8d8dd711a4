"""One run over several processes, as ``torchrun`` or ``accelerate launch`` start them: a batch is cut among them.

All processes do the same in step, with the same numbers; only what a tower makes of a batch is shared out: each runs
its part of the rows, and all get the features of all of them. Losses are thus over the whole batch whatever a method's
loss is, and after the gradients are averaged they are those of one process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lpi.errors import ConfigError

Inputs = TypeVar("Inputs")
Prompts = TypeVar("Prompts")
_sharing = False


def world() -> int:
    """How many processes share the work; 1 outside :func:`together`."""
    return dist.get_world_size() if _sharing else 1


@contextmanager
def together() -> Iterator[int]:
    """Share the work among the processes that were started for it; gives the number of this one, 0 if it is alone.

    Raises:
        ConfigError: this process doesn't hear of the others.
    """
    global _sharing
    wanted = os.environ.get("WORLD_SIZE", "1")
    if wanted in ("", "1"):
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"WORLD_SIZE is {wanted}, but the other processes can't be reached ({error}). Start all of them with "
            "torchrun --nproc-per-node N -m lpi run .., or unset WORLD_SIZE."
        ) from error
    _sharing = True
    try:
        yield dist.get_rank()
    finally:
        _sharing = False
        dist.destroy_process_group()


@contextmanager
def own_copy(folder: Path, number: int, *, empty: bool) -> Iterator[Path]:
    """The folder itself for the first process; for another one a copy that is gone afterwards.

    Args:
        folder: that a run writes to.
        number: of this process.
        empty: nothing of the folder is wanted.
    """
    with tempfile.TemporaryDirectory(prefix="lpi-process-") as place:
        own = Path(place) / folder.name if number else folder
        if number and folder.is_dir() and not empty:
            shutil.copytree(folder, own)
        if world() > 1:
            dist.barrier()  # the first process changes nothing before the others have their copies
        yield own


def shared(
    run: Callable[[Inputs, Prompts], Tensor],
    inputs: Inputs,
    prompts: Prompts,
    part: Callable[[Inputs, Prompts, Tensor], tuple[Inputs, Prompts]],
) -> Tensor:
    """What a tower makes of a batch, [batch, features], each process having run its part.

    Args:
        run: of inputs and prompts to features.
        inputs: as many as the batch is long.
        prompts: for all of them.
        part: inputs and prompts of some rows, int64 [rows].
    """
    count, processes = len(inputs), world()  # type: ignore[arg-type]
    if processes == 1 or not count:
        return run(inputs, prompts)
    size = -(-count // processes)
    first = dist.get_rank() * size
    rows = torch.arange(first, first + size).clamp(max=count - 1)  # the last one again, where there are too few
    own = run(*part(inputs, prompts, rows))
    found: Tensor = _Gathered.apply(own.float())  # type: ignore[no-untyped-call]
    return found[:count].to(own.dtype)


class _Gathered(torch.autograd.Function):
    """Rows of all processes, [processes * rows, ..]; backwards, the sum of what all of them want of the own ones."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(world())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole.chunk(world())[dist.get_rank()]


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """The mean over processes of every gradient, in place: that of one process over the whole batch.

    Each process has its part of what flows through a tower, as often as there are processes (:func:`shared`), and all
    of what doesn't.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world() == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world()
    for gradient, mean in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
