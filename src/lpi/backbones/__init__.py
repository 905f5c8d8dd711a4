"""Frozen encoders with a place to put prompts. They know no tasks.

``load_backbone`` gives a :class:`DualEncoder` from a folder, a hub name or a checkpoint file; ``TowerPrompts`` is what
its towers let in.
"""

from lpi.backbones.base import (
    INJECTIONS,
    DualEncoder,
    Injection,
    PatchInputs,
    TextInputs,
    Tower,
    TowerPrompts,
    TowerState,
)
from lpi.backbones.inputs import Inputs, PixelRecipe
from lpi.backbones.loading import load_backbone

__all__ = [
    "INJECTIONS",
    "DualEncoder",
    "Injection",
    "Inputs",
    "PatchInputs",
    "PixelRecipe",
    "TextInputs",
    "Tower",
    "TowerPrompts",
    "TowerState",
    "load_backbone",
]
