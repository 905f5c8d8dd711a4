"""Continual vision-language retrieval: teach a frozen CLIP-like model one domain after another.

The names below load what they need when they are first used, so that ``import lpi`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpi.backbones.loading import load_backbone as backbone
    from lpi.methods import method
    from lpi.methods.base import Method
    from lpi.methods.checkpoint import load_method
    from lpi.methods.checkpoint import load_method as load
    from lpi.search.index import SearchIndex
    from lpi.tasks.stream import Task, TaskStream

__version__ = "0.1.0"

_WHERE = {
    "backbone": ("lpi.backbones.loading", "load_backbone"),
    "method": ("lpi.methods", "method"),
    "Method": ("lpi.methods.base", "Method"),
    "load": ("lpi.methods.checkpoint", "load_method"),
    "load_method": ("lpi.methods.checkpoint", "load_method"),
    "SearchIndex": ("lpi.search.index", "SearchIndex"),
    "Task": ("lpi.tasks.stream", "Task"),
    "TaskStream": ("lpi.tasks.stream", "TaskStream"),
}

__all__ = ["Method", "SearchIndex", "Task", "TaskStream", "backbone", "load", "load_method", "method"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'lpi' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
