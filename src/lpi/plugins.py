"""Classes that a person names: by the name of a file in a folder of the library, by a file of their own, or a module.

What a file names that was found somewhere, such as the ``config.json`` of a saved method, is only ever a class of the
library: else whoever sends a folder could run code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from lpi.errors import ConfigError, MissingFileError, UnknownNameError, did_you_mean

OUTSIDE = "lpi_outside_"  # modules of files of a person's own are called so
Kind = TypeVar("Kind")


def names_in(package: ModuleType, without: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """The names of the modules in a package that hold a class to be named; folders aren't."""
    found = pkgutil.iter_modules(package.__path__)
    return sorted(module.name for module in found if module.name not in without and not module.ispkg)


def named(name: str, base: type[Kind], *, package: str, known: Sequence[str], what: str) -> type[Kind]:
    """The one class of its kind in ``package/<name>.py``, in the file ``name``, or in the module ``name``.

    Args:
        name: one of ``known``, the path of a file of one's own (it ends in ``.py``), or a module's dotted name.
        base: what it is a subclass of.
        package: where the library's own lie.
        known: their names.
        what: such a class is called so in messages.

    Raises:
        UnknownNameError: there is no such name or module; the message names the nearest.
        MissingFileError: there is no such file.
        ConfigError: the file can't be executed, or doesn't hold exactly one such class.
    """
    if name in known:
        module = importlib.import_module(f"{package}.{name}")
    else:
        module = _from_file(Path(name), what) if name.endswith(".py") else _from_elsewhere(name, known, what)
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        found = ", ".join(sorted(value.__name__ for value in own)) or "none"
        kind = f"{base.__module__}.{base.__name__}"
        raise ConfigError(f"{name} must define exactly one subclass of {kind}; found {found}.")
    return own[0]


def source_of(found: type) -> str:
    """The name under which :func:`named` gives a class again: a file's path or a module's dotted name."""
    if found.__module__.startswith(OUTSIDE):
        return str(sys.modules[found.__module__].__file__)
    return found.__module__


def _from_file(path: Path, what: str) -> ModuleType:
    """The module in a file, executed once."""
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such file with a {what}.")
    path = path.resolve()
    # two files of one name are two modules; the last part is the short name
    called = f"{OUTSIDE}{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.{path.stem}"
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


def _from_elsewhere(name: str, known: Sequence[str], what: str) -> ModuleType:
    """A module that can be imported, but isn't ours."""
    try:
        there = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a package on the way to it is missing, or the name is none
        there = False
    if not there:
        raise UnknownNameError(
            f"No {what} is called {name!r}. {did_you_mean(name, known)} "
            f"A {what} of your own is the path of its file, ending in .py, or a module that can be imported."
        )
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"importing {name} failed with {type(error).__name__}: {error}.") from error
