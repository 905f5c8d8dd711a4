"""Methods: one file, one class, one name. The folder is the registry; nobody edits a list.

Methods for referring expressions lie in :mod:`lpi.methods.grounding`; a name means the one that suits the backbone. A
method of one's own need not lie here: the path of a file, or the name of a module that can be imported, stands for the
one method in it wherever a person names a method.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lpi.backbones.base import DualEncoder
from lpi.config import TrainingSettings, short_name
from lpi.devices import pick_device
from lpi.errors import ConfigError, UnknownNameError, did_you_mean, kind_of
from lpi.methods.base import Learner, Problem, recorded_options
from lpi.methods.options import options_of
from lpi.plugins import named, names_in, source_of

NOT_METHODS = {
    *("adapters", "base", "checkpoint", "closing", "corrected", "encoder", "experts", "listing", "low_rank", "merged"),
    *("older", "options", "pairs", "prompt_sets", "prompted", "tuned"),
}
GROUNDING = f"{__name__}.grounding"
NOT_GROUNDING_METHODS = {"base", "expressions", "losses", "prompted", "tuned"}

LOADERS = {
    "retrieval": ("lpi.backbones.loading", "load_backbone"),
    "grounding": ("lpi.backbones.detectors.loading", "load_grounding_backbone"),
}
"""Where the backbones of a problem are loaded; only what is needed is imported, for detectors take their time."""

Named = str | Path | type[Learner]
"""How a person names a method: by its name, its file, its module, or as the class itself."""


def method_names(problem: Problem = "retrieval") -> list[str]:
    """The names of all methods for a problem."""
    if problem == "grounding":
        return names_in(importlib.import_module(GROUNDING), NOT_GROUNDING_METHODS)
    return names_in(sys.modules[__name__], NOT_METHODS)


def method_class(name: str, problem: Problem = "retrieval") -> type[Learner]:
    """The one method in ``methods/<name>.py``, in the file ``name``, or in the module ``name``.

    Args:
        name: a file in the folder of the problem's methods, the path of a file of one's own (it ends in ``.py``), or a
            module's dotted name.
        problem: what it shall be asked.

    Raises:
        UnknownNameError: there is no such method or module, or it is asked something else; the message names the
            nearest method.
        MissingFileError: there is no such file.
        ConfigError: the file can't be executed, or doesn't hold exactly one method.
    """
    known = method_names(problem)
    package = GROUNDING if problem == "grounding" else __name__
    found = named(name, Learner, package=package, known=known, what=WHAT[problem])
    if found.problem != problem:
        raise UnknownNameError(f"The method {name!r} {DOES_NOT[problem]}. {did_you_mean(name, known)}")
    return found


WHAT: Mapping[Problem, str] = {"retrieval": "method", "grounding": "method for expressions"}
DOES_NOT: Mapping[Problem, str] = {
    "retrieval": "finds boxes, and has no vectors of pictures and captions",
    "grounding": "finds no boxes",
}


def is_registered(name: object, problem: object = "retrieval") -> bool:
    """Whether a name, wherever it was found, is that of a method of the library, which needs nobody's leave to run.

    >>> is_registered("lpi"), is_registered("lpi", "grounding"), is_registered("lpi.py"), is_registered("this")
    (True, True, False, False)
    """
    if not isinstance(name, str) or problem not in ("retrieval", "grounding"):
        return False
    return name in method_names("grounding" if problem == "grounding" else "retrieval")


def named_class(name: Named, problem: Problem = "retrieval") -> type[Learner]:
    """The class that a person names; see :func:`method_class`."""
    return name if isinstance(name, type) else method_class(str(name), problem)


def recorded_name(found: type[Learner]) -> str:
    """The name under which a class is saved: of one of the library, its own; of any other only what a person called it.

    The latter ends in ``.py`` and leads nowhere: it is for the message that asks for the file.
    """
    name = method_source(found)
    return name if is_registered(name, found.problem) else f"{found.__module__.rpartition('.')[2]}.py"


def outside(found: type[Learner]) -> type[Learner] | None:
    """The same class if it is none of the library's: it must then be named again wherever it is loaded."""
    registered = is_registered(method_source(found), found.problem)
    return None if registered or found.__module__.startswith("lpi.") else found


def method_source(found: type[Learner]) -> str:
    """The name under which :func:`method_class` gives a class again: a short name, a file's path or a module."""
    package, _, last = found.__module__.rpartition(".")
    return last if package in (__name__, GROUNDING) else source_of(found)


class Loader(Protocol):
    """Loads a frozen model by its name."""

    def __call__(self, source: str | Path, *, image_size: int | None = None) -> DualEncoder:
        """See :func:`lpi.backbones.loading.load_backbone`."""


def loader_of(problem: Problem) -> Loader:
    """What loads the backbones of a problem."""
    module, name = LOADERS[problem]
    load: Loader = getattr(importlib.import_module(module), name)
    return load


def method(
    name: Named,
    backbone: DualEncoder | str | Path,
    preset: str | None = None,
    *,
    device: str | None = None,
    **options: Any,
) -> Any:
    """A method by name (or class), over a frozen backbone.

    Args:
        name: a method's name, the path of a file or the name of a module of your own, or a class.
        backbone: what it stands on, or the name or folder of one; a detector's methods find boxes.
        preset: one of the method's named sets of options; ``options`` win over it.
        device: move both there: ``cpu``, ``cuda``, ``auto``.
        options: the method's options, flat (``rank=4``) or as tables (``prompts={"rank": 4}``).

    Returns:
        A :class:`lpi.methods.base.Method`, or over a detector a :class:`lpi.methods.grounding.base.GroundingMethod`.

    Raises:
        UnknownNameError: no such method, preset or router.
        MissingFileError: no such file.
        ConfigError: an option that the method doesn't have, or a value it refuses; or a name or backbone that is none.
    """
    if not isinstance(name, str | Path | type) or (isinstance(name, type) and not issubclass(name, Learner)):
        raise ConfigError(f"a method is its name or its class; got {kind_of(name)}. See: lpi methods")
    if preset is not None and not isinstance(preset, str):
        raise ConfigError(f"preset must be a name; got {kind_of(preset)}.")
    if isinstance(backbone, str | Path):
        detector = str(backbone) == "lpi-tiny-grounding" or (isinstance(name, type) and name.problem == "grounding")
        backbone = loader_of("grounding" if detector else "retrieval")(backbone)
    elif not hasattr(backbone, "problem"):
        raise ConfigError(f"a method stands on a backbone; got {kind_of(backbone)}. Make one with lpi.backbone(..).")
    found = named_class(name, backbone.problem)
    called = found.__module__.rpartition(".")[2]
    made = found(backbone, options_of(found.Options, options, preset=preset, called=called))
    return made if device is None else made.to(pick_device(device))


def training_of(found: type[Learner], preset: str | None = None) -> dict[str, Any]:
    """The training settings that suit a method, and those of a preset over them; an experiment's own win over both."""
    of_preset = found.Options.presets()[preset].training if preset in found.Options.presets() else {}
    return {**found.Options.training, **of_preset}


def settled(method: Mapping[str, Any], training: TrainingSettings, problem: Problem = "retrieval") -> TrainingSettings:
    """Training settings with those that suit a method where none is given.

    Args:
        method: an experiment's table: ``name``, and ``preset`` if it has one.
        training: what the experiment sets; the rest is filled in.
        problem: what the method is asked.
    """
    suited = training_of(method_class(str(method.get("name", "lpi")), problem), method.get("preset"))
    return training.model_copy(
        update={key: value for key, value in suited.items() if key not in training.model_fields_set}
    )


__all__ = [
    "Named",
    "is_registered",
    "loader_of",
    "method",
    "method_class",
    "method_names",
    "method_source",
    "named_class",
    "outside",
    "recorded_name",
    "recorded_options",
    "settled",
    "short_name",
    "training_of",
]
