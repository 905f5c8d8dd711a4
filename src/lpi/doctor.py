"""What this machine has, and what the library can do on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

EXTRAS = {
    "report": ("matplotlib", "HTML reports"),
    "log": ("tensorboard", "TensorBoard scalars"),
}


def examine() -> dict[str, dict[str, Any]]:
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
    for extra, (module, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        advice = f"{purpose}: there" if there else f"{purpose}: not installed; pip install 'lpi[{extra}]'"
        findings[extra] = _finding(there, advice)
    return findings


def _finding(ok: bool, says: str) -> dict[str, Any]:
    return {"ok": ok, "says": says}


def _accelerator(torch: Any) -> dict[str, Any]:
    if torch.cuda.is_available():
        return _finding(True, f"{torch.cuda.get_device_name()}, bfloat16: {torch.cuda.is_bf16_supported()}")
    if Path("/proc/driver/nvidia/version").exists():
        return _finding(
            False,
            f"there is an NVIDIA driver, but torch {torch.__version__} (CUDA {torch.version.cuda}) can't use it. "
            "Update the driver, or install a torch built for it.",
        )
    return _finding(True, "none; everything runs on the processor")


def _backbone() -> dict[str, Any]:
    from lpi.backbones.loading import load_backbone
    from lpi.errors import LpiError

    try:
        backbone = load_backbone("lpi-tiny")
    except LpiError as error:
        return _finding(False, str(error))
    return _finding(True, f"lpi-tiny {backbone.identity} loads")
