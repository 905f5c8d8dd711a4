"""The device to compute on, and the precision to compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import torch

from lpi.errors import ConfigError

Settled: TypeAlias = Literal["float32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """``auto`` takes an accelerator where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has a kind for every reason
        raise ConfigError(f"training.device must be auto, cpu or a device of this machine; got {name!r}.") from error
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; elsewhere it is emulated, and slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def settled_precision(precision: Literal["auto"] | Settled, device: torch.device, *, wide: bool) -> Settled:
    """The precision that ``auto`` stands for on a device; any other stands for itself.

    Args:
        precision: as a person set it.
        device: where the model is.
        wide: the model is wide enough to gain on a processor.
    """
    if precision != "auto":
        return precision
    gains = wide or device.type != "cpu"
    return "bfloat16" if gains and multiplies_bfloat16(device) else "float32"


def autocast(precision: Settled, device: torch.device) -> AbstractContextManager[object]:
    """The precision to compute in."""
    wanted = precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """No autocast: frozen features are kept and route queries, so they mustn't depend on who asks for them first."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
