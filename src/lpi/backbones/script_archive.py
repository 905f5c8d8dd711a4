"""Reads the tensors of a TorchScript archive and runs nothing of it.

OpenAI's own checkpoints are such archives: programs, with weights. ``torch.jit.load`` executes what a program says is
to be done when it is loaded, and a program can write files. All that is needed here is the pickle of its modules, in
which classes are names and tensors are places in other files of the archive.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KINDS = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """Stands for every class of the program; unpickling fills it with the module's values."""


def _first(value: Any, *rest: Any) -> Any:
    return value


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # which refuses to look beyond the storage


class _ModuleUnpickler(pickle.Unpickler):
    """Knows tensors and containers, and takes every class of the program for a bag of values."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self._archive, self._data = archive, f"{name.removesuffix('.pkl')}/"
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for."""
        if module.partition(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in KINDS:
            return KINDS[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # lists that say what is in them
            return _first
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, place: Any) -> Tensor:
        """The flat tensor that a file of the archive holds."""
        _, kind, key, *_ = place
        if not isinstance(kind, torch.dtype):
            raise pickle.UnpicklingError(f"it holds numbers of an unknown kind {str(kind)[:40]}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._data}{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=kind) if content else torch.empty(0, dtype=kind)
        return self._storages[key]


def is_script(file: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_script(file: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by their dotted names.

    Raises:
        pickle.UnpicklingError, KeyError, RuntimeError, ValueError: it is damaged, or holds more than modules.
    """
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = _ModuleUnpickler(archive, name).load()
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", root)], set()
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{key}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{key}.", value))
    return tensors
