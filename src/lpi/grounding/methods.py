"""Making, saving and loading the methods for referring expressions.

Each is a file of this folder with one class in it, as in ``lpi.methods``, whose own machinery does the work: a
grounding method is named there by its module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lpi.errors import CheckpointError, UnknownNameError, did_you_mean
from lpi.grounding.backbones.base import GroundingBackbone
from lpi.grounding.backbones.loading import load_grounding_backbone
from lpi.grounding.base import GroundingMethod
from lpi.methods import GROUNDING_METHODS, Named, method_class
from lpi.methods import method as build_method
from lpi.methods.checkpoint import load_method
from lpi.storage import read_json

METHODS = GROUNDING_METHODS


def grounding_method(
    name: str, backbone: GroundingBackbone, *, preset: str | None = None, **options: Any
) -> GroundingMethod:
    """A method for referring expressions, over a frozen detector.

    Args:
        name: one of :data:`METHODS`, or whatever :func:`lpi.methods.method` takes.
        backbone: what it stands on.
        preset: one of the class's named sets of options; ``options`` win over it.
        options: the constructor's keyword arguments.

    Raises:
        UnknownNameError: no such method or preset, or one that finds no boxes.
        ConfigError: an option that the method doesn't have, or a value it refuses.
    """
    made = build_method(grounding_class(name), backbone, preset=preset, **options)
    assert isinstance(made, GroundingMethod)
    return made


def grounding_class(name: str) -> type[GroundingMethod]:
    """The class of a method for referring expressions; see :func:`grounding_method`.

    Raises:
        UnknownNameError: no such method, or one that finds no boxes.
    """
    elsewhere = "." in name
    if not elsewhere and name not in METHODS:
        raise UnknownNameError(f"No method for expressions is called {name!r}. {did_you_mean(name, METHODS)}")
    found = method_class(name if elsewhere else f"lpi.grounding.{name}")
    if not issubclass(found, GroundingMethod):
        raise UnknownNameError(f"The method {name!r} finds no boxes. {did_you_mean(name, METHODS)}")
    return found


def load_grounding_method(
    folder: str | Path, *, backbone: GroundingBackbone | None = None, method: Named | None = None
) -> GroundingMethod:
    """A method as ``save_pretrained`` wrote it.

    Args:
        folder: where it was saved.
        backbone: the frozen detector to put it on; by default the one it names is loaded.
        method: its file or class, where it was saved by a method that is none of the library's.

    Raises:
        MissingFileError: the folder or one of its files is not there.
        CheckpointError: a file is damaged, it finds no boxes, or it was made for another detector, or by a method
            that must be named.
    """
    if backbone is None:
        made_for = read_json(Path(folder) / "config.json")["backbone"]
        backbone = load_grounding_backbone(made_for["name"])
        if list(backbone.inputs.image_size) != made_for["image_size"]:  # another size than the checkpoint's own
            backbone = load_grounding_backbone(made_for["name"], image_size=made_for["image_size"][0])
    loaded = load_method(folder, backbone=backbone, method=method)
    if not isinstance(loaded, GroundingMethod):
        raise CheckpointError(f"{folder} holds a {type(loaded).__name__}, which finds no boxes.")
    return loaded
