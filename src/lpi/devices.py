"""The device to compute on, and the precision to compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from lpi.errors import ConfigError


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


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The precision to compute in. ``auto`` keeps float32 on a processor: there the conversions cost what they win."""
    wanted = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """No autocast: frozen features are kept and route queries, so they mustn't depend on who asks for them first."""
    return torch.autocast(device.type, enabled=False)
