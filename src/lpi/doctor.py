"""What this machine has, and what the library can do on it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any, TypedDict

from lpi.extras import EXTRAS, install_line, missing


class Finding(TypedDict):
    """One thing about this machine: whether it is as wanted, and what a person is told."""

    ok: bool
    says: str


def examine() -> dict[str, Finding]:
    """Findings by name, each with ``ok`` and what it ``says``."""
    import torch
    import transformers

    free = shutil.disk_usage(Path.cwd()).free / 2**30
    findings = {
        "python": _finding(True, platform.python_version()),
        "torch": _finding(True, f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} processors"),
        "transformers": _finding(True, transformers.__version__),
        "accelerator": _accelerator(torch),
        "disk": _finding(free > 2, f"{free:.0f} GiB free here"),
        "backbone": _backbone(),
    }
    for name, extra in EXTRAS.items():
        there = not missing(name)
        advice = f"{extra.purpose}: there" if there else f"{extra.purpose}: not installed; {install_line(name)}"
        findings[name] = _finding(there, advice)
    return findings


def _finding(ok: bool, says: str) -> Finding:
    return Finding(ok=ok, says=says)


def _accelerator(torch: Any) -> Finding:
    if torch.cuda.is_available():
        return _finding(True, f"{torch.cuda.get_device_name()}, bfloat16: {torch.cuda.is_bf16_supported()}")
    if Path("/proc/driver/nvidia/version").exists():
        return _finding(
            False,
            f"there is an NVIDIA driver, but torch {torch.__version__} (CUDA {torch.version.cuda}) can't use it. "
            "Update the driver, or install a torch built for it.",
        )
    return _finding(True, "none; everything runs on the processor")


def _backbone() -> Finding:
    from lpi.backbones.loading import load_backbone
    from lpi.errors import LpiError

    try:
        backbone = load_backbone("lpi-tiny")
    except LpiError as error:
        return _finding(False, str(error))
    return _finding(True, f"lpi-tiny {backbone.identity} loads")
