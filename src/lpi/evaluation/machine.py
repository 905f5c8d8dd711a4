"""What a result can only be repeated with: versions, machine and commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import torch

ROOT = Path(__file__).resolve().parents[3]  # of the library's own source, where it runs from a checkout
VERSIONED = ("lpi", "torch", "transformers", "numpy", "pillow", "safetensors")


class Environment(TypedDict):
    """Versions of packages, the machine, and the commit of this checkout, if it is one."""

    versions: dict[str, str]
    machine: dict[str, str | int | None]
    commit: str | None


def environment() -> Environment:
    """Versions, machine and commit: what a result can only be repeated with."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine: dict[str, str | int | None] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {"versions": versions, "machine": machine, "commit": commit_of(ROOT)}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's own word will do
    return platform.processor() or platform.machine()


def commit_of(root: Path) -> str | None:
    """The commit of a checkout, with ``-dirty`` behind it if a file was changed that makes figures; or ``None``.

    Results, and the pages made from them, are what runs write: they make nothing.
    """
    if not (root / ".git").exists():
        return None
    commit = _git(root, "describe", "--always", "--abbrev=12")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!docs")
    return f"{commit}-dirty" if commit and changed else commit or None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
