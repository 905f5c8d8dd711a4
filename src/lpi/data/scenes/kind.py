"""What a kind of object is: its names, its colours and states, how it is drawn and where it can stand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lpi.data.scenes.drawing import Colour, Pen, Tracer, placing

COLOURS: dict[str, Colour] = {
    "red": (220, 50, 47),
    "orange": (243, 134, 36),
    "yellow": (247, 208, 60),
    "green": (70, 166, 72),
    "turquoise": (56, 194, 190),
    "blue": (48, 108, 208),
    "purple": (134, 74, 184),
    "pink": (246, 140, 184),
    "brown": (136, 86, 50),
    "black": (52, 52, 60),
    "grey": (150, 154, 162),
    "white": (244, 244, 240),
}
ALL = tuple(COLOURS)
BRIGHT = tuple(name for name in ALL if name not in ("grey", "brown"))
COATS = ("brown", "black", "white", "grey", "orange")


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        name: its key, also the task family's word in records.
        family: one of the twelve.
        draw: draws it with a pen, in a box of height 1 and width ``wide``.
        wide: see ``draw``.
        names: (singular, plural), the common name first, rarer ones after it.
        colours: the named colours that it comes in; a single one is never mentioned.
        states: what it can be like; "" is nothing worth a word.
        flies: the states in which it is up in the air.
        top: the y on which something may stand, None if nothing can.
        portable: whether it may stand on something.
        tilts: whether it may lean.
    """

    name: str
    family: str
    draw: Callable[[Pen], None]
    wide: float
    names: tuple[tuple[str, str], ...]
    colours: tuple[str, ...] = ALL
    states: tuple[str, ...] = ("",)
    flies: tuple[str, ...] = ()
    top: float | None = None
    portable: bool = False
    tilts: bool = False


def named(words: str) -> tuple[tuple[str, str], ...]:
    """Singulars and plurals from ``"bus|coach"``; an irregular plural stands after a slash.

    >>> named("child/children|kid")
    (('child', 'children'), ('kid', 'kids'))
    """
    pairs = []
    for word in words.split("|"):
        singular, _, plural = word.partition("/")
        ending = "es" if singular.endswith(("ch", "sh", "s", "x")) else "s"
        pairs.append((singular, plural or singular + ending))
    return tuple(pairs)


@lru_cache(maxsize=4096)
def extent(kind: Kind, state: str, flip: bool, tilt: float) -> tuple[float, float, float, float]:
    """How far a drawing reaches from the middle of its foot: (left, top, right, bottom), in its own unit."""
    tracer = Tracer(matrix=placing(0.0, 0.0, 1.0, kind.wide, flip=flip, tilt=tilt), state=state)
    kind.draw(tracer)
    return tracer.left, tracer.top, tracer.right, tracer.bottom
