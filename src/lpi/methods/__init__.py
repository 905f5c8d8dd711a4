"""Methods: one file, one class, one name. The folder is the registry; nobody edits a list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from lpi.backbones.base import DualEncoder
from lpi.errors import UnknownNameError, did_you_mean
from lpi.methods.base import Method, check_options

NOT_METHODS = {"base", "checkpoint", "tuned"}


def method_names() -> list[str]:
    """The names of all methods in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in NOT_METHODS)


def method_class(name: str) -> type[Method]:
    """The one method in ``methods/<name>.py``.

    Raises:
        UnknownNameError: there is no such file; the message names the nearest one.
    """
    if name not in method_names():
        raise UnknownNameError(f"No method is called {name!r}. {did_you_mean(name, method_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    found: type[Method] = own[0]
    return found


def method(name: str | type[Method], backbone: DualEncoder, *, preset: str | None = None, **options: Any) -> Method:
    """A method by name (or class), over a frozen backbone.

    Args:
        name: a file in this folder, or a class of your own.
        backbone: what it stands on.
        preset: one of the class's named sets of options; ``options`` win over it.
        options: the constructor's keyword arguments.

    Raises:
        UnknownNameError: no such method or preset.
        ConfigError: an option that the method doesn't have, or a value it refuses.
    """
    found = method_class(name) if isinstance(name, str) else name
    if preset is not None:
        if preset not in found.presets:
            raise UnknownNameError(
                f"{found.__name__} has no preset {preset!r}. "
                + (did_you_mean(preset, found.presets) if found.presets else "It has none.")
            )
        options = {**found.presets[preset], **options}
    check_options(found, options)
    return found(backbone, **options)
