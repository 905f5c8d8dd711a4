"""The embedded world: pictures drawn by our own code, with captions, expressions and boxes, from a seed.

Twelve families of objects mirror COCO's supercategories. A scene (``sampling``) is a main object with company in a
place, light and style; it is drawn by ``render`` and described by ``grammar`` and ``expressions``. ``GENERAL`` is the
world that the embedded backbone was pre-trained on, ``TASKS`` the whole one (``world``).
"""

from lpi.data.scenes.expressions import Meaning, box_of, meanings, referrals
from lpi.data.scenes.grammar import captions
from lpi.data.scenes.render import render
from lpi.data.scenes.sampling import sample_scene
from lpi.data.scenes.sheet import contact_sheet
from lpi.data.scenes.supply import CARD, ScenePicture, general_scenes, load_scenes
from lpi.data.scenes.world import (
    BROAD,
    DIFFICULTIES,
    FAMILIES,
    GENERAL,
    KINDS,
    PLACES,
    STYLES,
    TASKS,
    Scene,
    SceneObject,
    SceneWorld,
    family_kinds,
    seeded,
    task_world,
)

__all__ = [
    "BROAD",
    "CARD",
    "DIFFICULTIES",
    "FAMILIES",
    "GENERAL",
    "KINDS",
    "PLACES",
    "STYLES",
    "TASKS",
    "Meaning",
    "Scene",
    "SceneObject",
    "ScenePicture",
    "SceneWorld",
    "box_of",
    "captions",
    "contact_sheet",
    "family_kinds",
    "general_scenes",
    "load_scenes",
    "meanings",
    "referrals",
    "render",
    "sample_scene",
    "seeded",
    "task_world",
]
