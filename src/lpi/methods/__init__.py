"""Methods: one file, one class, one name. The folder is the registry; nobody edits a list.

A method of one's own need not lie in it: the path of a file, or the name of a module that can be imported, stands for
the one method in it wherever a person names a method. What a file names that was found somewhere, such as the
``config.json`` of a saved method, is only ever a method of the library: else whoever sends a folder could run code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from lpi.backbones.base import DualEncoder
from lpi.errors import ConfigError, MissingFileError, UnknownNameError, did_you_mean
from lpi.methods.base import Method, check_options

NOT_METHODS = {"adapters", "base", "checkpoint", "experts", "prompted", "tuned"}
GROUNDING_METHODS = ("finetune", "joint", "l2p", "lpi", "maple", "zero_shot")
"""The methods for referring expressions, which are saved under their modules' names."""

Named = str | Path | type[Method]
"""How a person names a method: by its name, its file, its module, or as the class itself."""


def method_names() -> list[str]:
    """The names of all methods in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in NOT_METHODS)


def method_class(name: str) -> type[Method]:
    """The one method in ``methods/<name>.py``, in the file ``name``, or in the module ``name``.

    Args:
        name: a file in this folder, the path of a file of one's own (it ends in ``.py``), or a module's dotted name.

    Raises:
        UnknownNameError: there is no such method or module; the message names the nearest method.
        MissingFileError: there is no such file.
        ConfigError: the file can't be executed, or doesn't hold exactly one method.
    """
    if name in method_names():
        module = importlib.import_module(f"{__name__}.{name}")
    else:
        module = _from_file(Path(name)) if name.endswith(".py") else _from_elsewhere(name)
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        found = ", ".join(sorted(value.__name__ for value in own)) or "none"
        raise ConfigError(f"{name} must define exactly one subclass of lpi.methods.base.Method; found {found}.")
    return own[0]


def is_registered(name: object) -> bool:
    """Whether a name, wherever it was found, is that of a method of the library, which needs nobody's leave to run.

    >>> is_registered("lpi"), is_registered("lpi.grounding.lpi"), is_registered("lpi.py"), is_registered("this")
    (True, True, False, False)
    """
    if not isinstance(name, str):
        return False
    package, _, last = name.rpartition(".")
    return name in method_names() or (package == "lpi.grounding" and last in GROUNDING_METHODS)


def named_class(named: Named) -> type[Method]:
    """The class that a person names; see :func:`method_class`."""
    return named if isinstance(named, type) else method_class(str(named))


def recorded_name(found: type[Method]) -> str:
    """The name under which a class is saved: of one of the library, its own; of any other only what a person called it.

    The latter ends in ``.py`` and leads nowhere: it is for the message that asks for the file.
    """
    name = method_source(found)
    return name if is_registered(name) else f"{found.__module__.rpartition('.')[2]}.py"


def outside(found: type[Method]) -> type[Method] | None:
    """The same class if it is none of the library's: it must then be named again wherever it is loaded."""
    return None if is_registered(method_source(found)) or found.__module__.startswith("lpi.") else found


def _from_file(path: Path) -> ModuleType:
    """The module in a file, executed once."""
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such file with a method.")
    path = path.resolve()
    # two files of one name are two modules; the last part is the method's short name
    called = f"lpi_outside_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.{path.stem}"
    if called not in sys.modules:
        spec = importlib.util.spec_from_file_location(called, path)
        assert spec is not None  # it ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[called] = module  # dataclasses and type hints look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[called]
            raise ConfigError(f"{path}: executing it failed with {type(error).__name__}: {error}.") from error
    return sys.modules[called]


def _from_elsewhere(name: str) -> ModuleType:
    """A module that can be imported, but isn't ours."""
    try:
        there = importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # a package on the way to it is missing, or the name is none
        there = False
    if not there:
        raise UnknownNameError(
            f"No method is called {name!r}. {did_you_mean(name, method_names())} "
            "A method of your own is the path of its file, ending in .py, or a module that can be imported."
        )
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"importing {name} failed with {type(error).__name__}: {error}.") from error


def method_source(found: type[Method]) -> str:
    """The name under which :func:`method_class` gives a class again: a short name, a file's path or a module."""
    package, _, last = found.__module__.rpartition(".")
    if package == __name__:
        return last
    if package.startswith("lpi_outside_"):
        return str(sys.modules[found.__module__].__file__)
    return found.__module__


def method(name: str | type[Method], backbone: DualEncoder, *, preset: str | None = None, **options: Any) -> Method:
    """A method by name (or class), over a frozen backbone.

    Args:
        name: a file in this folder, the path of a file or the name of a module of your own, or a class.
        backbone: what it stands on.
        preset: one of the class's named sets of options; ``options`` win over it.
        options: the constructor's keyword arguments.

    Raises:
        UnknownNameError: no such method or preset.
        MissingFileError: no such file.
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
