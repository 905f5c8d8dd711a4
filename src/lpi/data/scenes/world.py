"""What a scene is and how one is made up: kinds, places, styles, and which of them a world knows.

Two worlds matter. ``GENERAL`` is what the embedded backbone is pre-trained on; it leaves out a part of the kinds,
styles, places, colours and words. ``TASKS`` is everything; its ``novelty`` says how much of a task is made of what
``GENERAL`` left out, so it is the difficulty of the stream.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from lpi.data.scenes import kinds_home, kinds_living, kinds_outside, kinds_things
from lpi.data.scenes.kind import ALL, Kind
from lpi.errors import ConfigError, UnknownNameError, did_you_mean

_BY_FAMILY: dict[str, tuple[Kind, ...]] = {
    "appliance": kinds_home.APPLIANCE,
    "sports": kinds_things.SPORTS,
    "outdoor": kinds_outside.OUTDOOR,
    "electronic": kinds_things.ELECTRONIC,
    "accessory": kinds_things.ACCESSORY,
    "indoor": kinds_home.INDOOR,
    "kitchen": kinds_home.KITCHEN,
    "furniture": kinds_home.FURNITURE,
    "vehicle": kinds_outside.VEHICLE,
    "food": kinds_things.FOOD,
    "animal": kinds_living.ANIMAL,
    "person": kinds_living.PERSON,
}
FAMILIES: tuple[str, ...] = tuple(_BY_FAMILY)
KINDS: dict[str, Kind] = {kind.name: kind for kinds in _BY_FAMILY.values() for kind in kinds}

STYLES = ("plain", "photo", "comic", "watercolour", "sketch", "chalk", "night")
INDOORS = ("kitchen", "room")
PLACES = (*INDOORS, "street", "park", "beach", "forest", "snow", "mountains", "farm", "desert", "city")
WEATHERS = ("clear", "sunset", "rain", "snowfall")

# where a family is at home; a quarter of the scenes are set anywhere
_HOMES: dict[str, tuple[str, ...]] = {
    "appliance": ("kitchen", "kitchen", "room", "street"),
    "sports": ("park", "beach", "snow", "street", "mountains"),
    "outdoor": ("street", "park", "city", "forest"),
    "electronic": ("room", "room", "kitchen", "city", "desert"),
    "accessory": ("city", "room", "beach", "street"),
    "indoor": ("room", "kitchen", "farm"),
    "kitchen": ("kitchen", "kitchen", "park", "room"),
    "furniture": ("room", "room", "beach", "desert"),
    "vehicle": ("street", "city", "mountains", "desert", "beach"),
    "food": ("kitchen", "park", "beach", "farm"),
    "animal": ("farm", "forest", "park", "desert", "snow"),
    "person": ("street", "park", "snow", "mountains", "city", "farm"),
}
# what a task's main object is seen with: few kinds, so that a task's captions differ in more than names
_COMPANIONS: dict[str, tuple[str, ...]] = {
    "appliance": ("cup", "cat", "plant", "cook", "bowl", "apple"),
    "sports": ("child", "dog", "backpack", "bench", "hat", "bottle"),
    "outdoor": ("car", "dog", "bird", "child", "bicycle", "umbrella"),
    "electronic": ("table", "cup", "chair", "book", "cat", "plant"),
    "accessory": ("chair", "child", "dog", "bench", "phone", "bottle"),
    "indoor": ("table", "cat", "couch", "cup", "lamp post", "book"),
    "kitchen": ("table", "apple", "cake", "banana", "cook", "vase"),
    "furniture": ("cat", "book", "ball", "tv", "child", "clock"),
    "vehicle": ("dog", "traffic light", "lamp post", "child", "suitcase", "bird"),
    "food": ("table", "bowl", "bottle", "bird", "child", "glass"),
    "animal": ("ball", "bowl", "bench", "hat", "bird", "apple"),
    "person": ("bicycle", "dog", "suitcase", "umbrella", "ball", "hydrant"),
}

_NEW_KINDS = frozenset(
    {
        "microwave",
        "sink",
        "washer",
        "racket",
        "surfboard",
        "bat",
        "hydrant",
        "meter",
        "keyboard",
        "camera",
        "radio",
        "suitcase",
        "tie",
        "clock",
        "scissors",
        "candle",
        "fork",
        "teapot",
        "bed",
        "bookcase",
        "plant",
        "boat",
        "train",
        "donut",
        "carrot",
        "giraffe",
        "sheep",
        "elephant",
        "king",
        "astronaut",
    }
)
_NEW_STYLES = frozenset({"sketch", "chalk", "night"})
_NEW_PLACES = frozenset({"farm", "desert", "city"})
_NEW_COLOURS = frozenset({"pink", "turquoise"})
_NEW_WEATHERS = frozenset({"snowfall"})


@dataclass(frozen=True)
class SceneWorld:
    """Which kinds, colours, places, styles, weathers and words may occur.

    Attributes:
        name: for messages and run files.
        kinds: names of the kinds, of all families.
        colours: named colours; a kind takes those of its own that are here.
        places: backgrounds.
        styles: ways of drawing.
        weathers: kinds of light and weather, outdoors only.
        rare_words: the chance, 0 to 1, that a caption takes a rarer word where there is one.
        novelty: the share, 0 to 1, of the pictures whose main object is of a kind that ``GENERAL`` lacks; places
            and styles that it lacks come half as often, rare words as often.
        companions: whether the main object's company is drawn from its family's short list or from all kinds.
        kin: the chance, 0 to 0.72, that a companion is of another kind of the main object's own family.
    """

    name: str
    kinds: tuple[str, ...] = tuple(KINDS)
    colours: tuple[str, ...] = ALL
    places: tuple[str, ...] = PLACES
    styles: tuple[str, ...] = STYLES
    weathers: tuple[str, ...] = WEATHERS
    rare_words: float = 0.0
    novelty: float = 0.0
    companions: bool = True
    kin: float = 0.17

    def __post_init__(self) -> None:
        """Refuse shares outside 0 to 1."""
        for option in ("rare_words", "novelty"):
            if not 0.0 <= getattr(self, option) <= 1.0:
                raise ConfigError(f"{option} must be between 0 and 1; got {getattr(self, option)}.")


def _without(names: Sequence[str], left_out: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


GENERAL = SceneWorld(
    "general",
    kinds=_without(tuple(KINDS), _NEW_KINDS),
    colours=_without(ALL, _NEW_COLOURS),
    places=_without(PLACES, _NEW_PLACES),
    styles=_without(STYLES, _NEW_STYLES),
    weathers=_without(WEATHERS, _NEW_WEATHERS),
    companions=False,
)
_NEVER_SHOWN = frozenset(
    {"washer", "bat", "meter", "radio", "tie", "candle", "teapot", "bookcase", "train", "carrot", "sheep", "king"}
)
BROAD = SceneWorld(
    "broad",
    kinds=_without(tuple(KINDS), _NEVER_SHOWN),
    styles=_without(STYLES, frozenset({"chalk"})),
    rare_words=0.2,
    novelty=0.2,
    companions=False,
)
"""What the embedded backbone sees a little of at the end of its pre-training: most of what ``GENERAL`` leaves out, now
and then; twelve kinds and one style it never sees."""
DIFFICULTIES: dict[str, float] = {"easy": 0.25, "standard": 0.55, "hard": 0.85}
TASKS = SceneWorld("tasks", novelty=DIFFICULTIES["standard"], rare_words=DIFFICULTIES["standard"], kin=0.57)


def task_world(difficulty: str | float = "standard") -> SceneWorld:
    """The full world at a named difficulty, or at a novelty between 0 and 1.

    Raises:
        UnknownNameError: no difficulty has that name.
        ConfigError: a number outside 0 to 1.
    """
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise UnknownNameError(f"No difficulty is called {difficulty!r}. {did_you_mean(difficulty, DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    return replace(TASKS, novelty=float(difficulty), rare_words=float(difficulty))


def family_kinds(family: str, world: SceneWorld = TASKS) -> tuple[str, ...]:
    """The names of a family's kinds that occur in a world.

    Raises:
        UnknownNameError: no family has that name.
    """
    if family not in _BY_FAMILY:
        raise UnknownNameError(f"No family is called {family!r}. {did_you_mean(family, FAMILIES)}")
    return tuple(kind.name for kind in _BY_FAMILY[family] if kind.name in world.kinds)


def check_request(families: Sequence[str], counts: Mapping[str, int], items: str) -> None:
    """Refuse families that aren't there and numbers of ``items`` below 0.

    Raises:
        UnknownNameError: no family has that name.
        ConfigError: a negative number.
    """
    for family in families:
        if family not in FAMILIES:
            raise UnknownNameError(f"No family is called {family!r}. {did_you_mean(family, FAMILIES)}")
    for name, number in counts.items():
        if number < 0:
            raise ConfigError(f"{name} must be 0 or more {items}; got {number}.")


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene: what it is and where it stands.

    ``x`` and ``base`` (middle of the foot) and ``scale`` (the unit of its drawing) are shares of the picture's side.
    ``role`` says how it stands to the main object: main, left, right, behind, front, on (top of it), under
    (it stands on it), above, below (it flies over it).
    Objects of one ``group`` are the same in everything but their position ("three red balls").
    """

    kind: str
    colour: str
    size: str
    state: str
    role: str
    group: int
    x: float
    base: float
    scale: float
    flip: bool = False
    tilt: float = 0.0
    tone: int = 0

    @property
    def family(self) -> str:
        """The family of its kind."""
        return KINDS[self.kind].family


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides a picture. The main object comes first; ``seed`` draws what has no name."""

    objects: tuple[SceneObject, ...]
    place: str
    weather: str
    style: str
    seed: int

    @property
    def main(self) -> SceneObject:
        """The object that the scene is about."""
        return self.objects[0]

    @property
    def groups(self) -> tuple[tuple[SceneObject, ...], ...]:
        """The objects by group, the main one first."""
        numbers = dict.fromkeys(item.group for item in self.objects)
        return tuple(tuple(item for item in self.objects if item.group == number) for number in numbers)


def seeded(*parts: object) -> Random:
    """A generator of its own for a place in the world, the same on every machine.

    >>> seeded("general", 0, 17).random() == seeded("general", 0, 17).random()
    True
    """
    text = "/".join(str(part) for part in parts)
    return Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def _pick(rng: Random, known: Sequence[str], general: Sequence[str], share: float) -> str:
    """One of ``known``; with chance ``share`` one that ``general`` lacks, if there is any."""
    new = [name for name in known if name not in general]
    old = [name for name in known if name in general]
    if not new or not old:
        return rng.choice(list(known))
    return rng.choice(new if rng.random() < share else old)


def pick_kind(rng: Random, world: SceneWorld, names: Sequence[str]) -> str:
    """One of these kinds, new to the pre-trained backbone as often as the world's novelty says."""
    return _pick(rng, names, GENERAL.kinds, world.novelty)


def pick_place(rng: Random, world: SceneWorld, family: str, *, outdoors: bool) -> str:
    """Where a scene of that family is set; something that flies needs the open."""
    homes = _HOMES[family] if rng.random() < 0.75 else world.places
    fitting = [name for name in homes if name in world.places and not (outdoors and name in INDOORS)]
    if not fitting:
        fitting = [name for name in world.places if not (outdoors and name in INDOORS)]
    return _pick(rng, fitting, GENERAL.places, 0.3 + 0.3 * world.novelty)


def pick_style(rng: Random, world: SceneWorld) -> str:
    """How the picture is drawn."""
    return _pick(rng, world.styles, GENERAL.styles, 0.6 * world.novelty)


def pick_weather(rng: Random, world: SceneWorld, place: str, style: str) -> str:
    """Light and weather: clear in six of ten, always indoors and where a style has no sky of its own."""
    if place in INDOORS or style in ("sketch", "chalk") or rng.random() < 0.6:
        return "clear"
    fitting = [name for name in world.weathers if name != "clear" and not (style == "night" and name == "sunset")]
    return rng.choice([name for name in fitting if not (name == "snowfall" and place == "desert")] or ["clear"])


def pick_colour(rng: Random, world: SceneWorld, kind: Kind, *, unlike: str = "") -> str:
    """One of a kind's colours in that world, another one than ``unlike`` where there is a choice."""
    colours = [name for name in kind.colours if name in world.colours] or list(kind.colours)
    return rng.choice([name for name in colours if name != unlike] or colours)


def companion_kinds(world: SceneWorld, family: str) -> tuple[str, ...]:
    """The kinds that may stand beside a main object of that family."""
    names = _COMPANIONS[family] if world.companions else world.kinds
    return tuple(name for name in names if name in world.kinds)
