"""Makes up scenes: who is in it, and where everybody stands.

A scene is a row of things on the ground, left to right without overlap, plus what is on, under, behind, in front of
or above the main object. So every relation that a caption names is true by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lpi.data.scenes.kind import Kind, extent
from lpi.data.scenes.world import (
    INDOORS,
    KINDS,
    TASKS,
    Scene,
    SceneObject,
    SceneWorld,
    companion_kinds,
    family_kinds,
    pick_colour,
    pick_kind,
    pick_place,
    pick_style,
    pick_weather,
)

_TARGETS = {"large": 0.64, "": 0.54, "small": 0.41}  # of the main object: its apparent size in the picture
_COMPANY = {"large": 0.44, "": 0.38, "small": 0.3}
_EDGE = 0.02


@dataclass
class _Draft:
    """An object before it has a place."""

    kind: Kind
    colour: str
    size: str
    state: str
    role: str
    group: int
    tone: int
    flip: bool
    tilt: float
    scale: float = 0.0
    x: float = 0.0
    base: float = 0.0

    def reach(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom from the foot's middle, in shares of the picture."""
        left, top, right, bottom = extent(self.kind, self.state, self.flip, self.tilt)
        return left * self.scale, top * self.scale, right * self.scale, bottom * self.scale

    def fit(self, target: float) -> None:
        """Scale it so that it looks ``target`` large; long things count by their length too."""
        left, top, right, bottom = extent(self.kind, self.state, self.flip, self.tilt)
        self.scale = target / max(bottom - top, (right - left) / 1.3)

    def stand(self, left: float, base: float) -> None:
        """Put its left edge and its lowest point there."""
        reach = self.reach()
        self.x, self.base = left - reach[0], base - reach[3]

    @property
    def width(self) -> float:
        reach = self.reach()
        return reach[2] - reach[0]

    @property
    def height(self) -> float:
        reach = self.reach()
        return reach[3] - reach[1]

    @property
    def flying(self) -> bool:
        return self.state in self.kind.flies


def sample_scene(
    rng: Random, world: SceneWorld = TASKS, *, family: str | None = None, style: str | None = None
) -> Scene:
    """A scene of that world.

    Args:
        rng: decides everything.
        world: what may occur.
        family: of the main object; any when None.
        style: how it is drawn; any of the world's when None.

    Raises:
        UnknownNameError: no family has that name.
    """
    names = family_kinds(family, world) if family is not None else world.kinds
    main = _draft(rng, world, KINDS[pick_kind(rng, world, names)], "main", 0)
    count = rng.choices((1, 2, 3), (0.76, 0.15, 0.09))[0]
    count = min(count, 3 if main.kind.wide < 1.2 else 2 if main.kind.wide < 1.7 else 1)
    drafts = [_again(rng, main) for _ in range(count)]
    wanted = 0 if count == 3 else 1 if count == 2 else rng.choices((1, 2), (0.68, 0.32))[0]
    company = _company(rng, world, drafts, wanted) if wanted else []
    drawn = style if style is not None else pick_style(rng, world)
    flying = any(item.flying for item in (*drafts, *company))
    place = pick_place(rng, world, main.kind.family, outdoors=flying)
    weather = pick_weather(rng, world, place, drawn)
    _arrange(rng, drafts, company, indoors=place in INDOORS)
    return Scene(
        objects=tuple(_finished(item) for item in (*drafts, *company)),
        place=place,
        weather=weather,
        style=drawn,
        seed=rng.getrandbits(32),
    )


def _draft(rng: Random, world: SceneWorld, kind: Kind, role: str, group: int, unlike: str = "") -> _Draft:
    return _Draft(
        kind=kind,
        colour=pick_colour(rng, world, kind, unlike=unlike),
        size=rng.choices(("large", "", "small"), (0.25, 0.5, 0.25))[0],
        state=rng.choice(kind.states),
        role=role,
        group=group,
        tone=rng.randrange(3),
        flip=rng.random() < 0.5 and kind.name not in ("stop sign", "phone", "keyboard"),
        tilt=rng.choice((-14.0, 0.0, 14.0)) if kind.tilts else 0.0,
    )


def _again(rng: Random, first: _Draft) -> _Draft:
    """Another one of the same, turned its own way."""
    flip = first.flip if rng.random() < 0.7 else (not first.flip and first.kind.name not in ("stop sign", "keyboard"))
    return _Draft(
        first.kind, first.colour, first.size, first.state, first.role, first.group, first.tone, flip, first.tilt
    )


def _company(rng: Random, world: SceneWorld, mains: Sequence[_Draft], wanted: int) -> list[_Draft]:
    """One or two companions and how they stand to the main object: another one of its kind, or something else."""
    found: list[_Draft] = []
    main = mains[0]
    crowd = main.kind.wide * len(mains)
    for number in range(wanted):
        kind = _company_kind(rng, world, main.kind)
        if any(kind is other.kind for other in found) or (found and crowd + kind.wide > 2.6):
            continue
        crowd += kind.wide
        same = kind is main.kind
        item = _draft(rng, world, kind, "", number + 1, unlike=main.colour if same else "")
        if same and len(kind.colours) == 1:
            item.state = rng.choice([state for state in kind.states if state != main.state])
        item.role = _role(rng, mains, item, taken=[other.role for other in found])
        found.append(item)
        if item.role in ("left", "right") and crowd < 1.8 and rng.random() < 0.22 and wanted == 1:
            found.append(_again(rng, item))
    return found


def _company_kind(rng: Random, world: SceneWorld, main: Kind) -> Kind:
    """The main object's own kind, where two of it can be told apart, another of its family, or something else."""
    chance = rng.random()
    if chance < 0.28 and (len(main.colours) > 1 or len(main.states) > 1):
        return main
    if chance < 0.28 + world.kin:
        kin = [name for name in family_kinds(main.family, world) if name != main.name]
        return KINDS[pick_kind(rng, world, kin)]
    return KINDS[rng.choice([name for name in companion_kinds(world, main.family) if name != main.name])]


def _role(rng: Random, mains: Sequence[_Draft], item: _Draft, taken: Sequence[str]) -> str:
    """How a companion stands to the main object."""
    main = mains[0]
    options = [("left", 1.0), ("right", 1.0)]
    if main.flying:
        if not item.flying:
            options = [("below", 1.0)]
    elif item.flying:
        options = [("above", 4.0)]
    else:
        if main.kind.top is not None and item.kind.portable:
            options.append(("on", 3.0))
        if item.kind.top is not None and main.kind.portable:
            options.append(("beneath", 3.0))
        if len(mains) == 1 and not taken and not item.flying:  # half hidden, so nobody else may crowd them
            options += [("behind", 0.6), ("front", 0.6)]
    free = [(role, weight) for role, weight in options if role not in taken] or [("left", 1.0), ("right", 1.0)]
    if {"beneath", "on"} & set(taken):
        free = [(role, weight) for role, weight in free if role in ("left", "right")] or [("left", 1.0)]
    return rng.choices([role for role, _ in free], [weight for _, weight in free])[0]


def _arrange(rng: Random, mains: list[_Draft], company: list[_Draft], *, indoors: bool) -> None:
    """Give every draft its scale and its place."""
    ground = rng.uniform(0.86, 0.95)
    shrink = {1: 1.0, 2: 0.82, 3: 0.66}[len(mains)]
    roles = {item.role for item in company}
    for item in mains:
        stacked = bool(roles & {"beneath", "above"})
        item.fit(_TARGETS[item.size] * shrink * (0.8 if stacked else 1.0))
    for item in company:
        item.fit(_COMPANY[item.size])
        if item.role == "beneath":
            item.fit(0.5)
        elif item.role in ("on", "above"):
            item.fit(min(_COMPANY[item.size], 0.34))
    left = [item for item in company if item.role == "left"]
    right = [item for item in company if item.role == "right"]
    row = [*left, *mains, *right]
    _stand_in_row(rng, row, ground)
    if mains[0].flying:
        for item in mains:
            item.base -= ground - item.height - rng.uniform(0.06, 0.1) if "below" in roles else rng.uniform(0.3, 0.36)
        for item in (*left, *right):
            item.base -= rng.uniform(0.25, 0.45) if item.flying else 0.0
    for item in company:
        if item.role not in ("left", "right"):
            _stand_by(rng, item, mains, ground)
    for item in (*mains, *company):
        _keep_inside(item)


def _stand_in_row(rng: Random, row: list[_Draft], ground: float) -> None:
    gap = 0.035
    room = 1.0 - 2 * _EDGE - gap * (len(row) - 1)
    total = sum(item.width for item in row)
    if total > room:  # company gives way first, but not without end
        company = [item for item in row if item.role != "main"]
        crowd = sum(item.width for item in company)
        if crowd > 0.0:
            factor = max(0.75, 1.0 - (total - room) / crowd)
            for item in company:
                item.scale *= factor
            total -= crowd * (1.0 - factor)
        for item in row:
            item.scale *= min(1.0, room / total)
        total = min(total, room)
    slack = room - total
    shares = [rng.random() + 0.15 for _ in range(len(row) + 1)]
    cursor = _EDGE
    for place, item in enumerate(row):
        cursor += slack * shares[place] / sum(shares)
        item.stand(cursor, ground + rng.uniform(-0.03, 0.03))
        cursor += item.width + gap


def _stand_by(rng: Random, item: _Draft, mains: Sequence[_Draft], ground: float) -> None:
    """Stand on, under, behind, before or above the main objects."""
    main = mains[rng.randrange(len(mains))]
    reach = main.reach()
    left, top, right = main.x + reach[0], main.base + reach[1], main.x + reach[2]
    middle = (left + right) / 2
    if item.role == "on" and main.kind.top is not None:
        surface = main.base - main.scale * (1.0 - main.kind.top)
        room = max(0.0, (right - left - item.width) / 2)
        item.scale *= min(1.0, 0.94 * surface / item.height)
        item.stand(middle - item.width / 2 + rng.uniform(-room, room) * 0.7, surface + 0.012)
    elif item.role == "beneath" and item.kind.top is not None:
        item.role = "under"
        reach = item.reach()
        item.stand(middle - item.width / 2, ground)
        surface = item.base - item.scale * (1.0 - item.kind.top)
        for other in mains:
            other.base += surface + 0.012 - (other.base + other.reach()[3])
    elif item.role == "below":
        item.stand(min(max(middle - item.width / 2 + rng.uniform(-0.08, 0.08), _EDGE), 0.98 - item.width), ground)
    elif item.role == "above":
        free = max(0.12, top - 0.05)
        if item.height > free:
            item.scale *= free / item.height
        item.stand(middle - item.width / 2 + rng.uniform(-0.12, 0.12), max(top - 0.03, item.height + 0.02))
    else:
        _stand_at_corner(item, main, ground)


def _stand_at_corner(item: _Draft, main: _Draft, ground: float) -> None:
    """Behind or in front of the main object, a good half of it beside; the main object makes room."""
    behind = item.role == "behind"
    item.fit(0.46 if behind else 0.3)
    reach = main.reach()
    left, right = main.x + reach[0], main.x + reach[2]
    beside = item.width * (0.62 if behind else 0.7)  # how much of it sticks out
    side = -1.0 if left > 1.0 - right else 1.0
    lack = beside - ((left if side < 0 else 1.0 - right) - _EDGE)
    move = min(max(0.0, lack), max(0.0, (1.0 - right if side < 0 else left) - _EDGE))
    main.x -= side * move
    edge = right - move if side > 0 else left + move
    item.stand(
        edge + beside - item.width if side > 0 else edge - beside,
        ground - 0.13 if behind else min(0.985, ground + 0.06),
    )


def _keep_inside(item: _Draft) -> None:
    left, top, right, bottom = item.reach()
    item.x += max(0.0, 0.005 - (item.x + left)) - max(0.0, item.x + right - 0.995)
    item.base += max(0.0, 0.01 - (item.base + top)) - max(0.0, item.base + bottom - 0.99)


def _finished(item: _Draft) -> SceneObject:
    apparent = max(item.height, item.width / 1.3)  # what a viewer would call large or small, after all shifting
    item.size = "large" if apparent >= 0.56 else "small" if apparent <= 0.3 else ""
    return SceneObject(
        kind=item.kind.name,
        colour=item.colour,
        size=item.size,
        state=item.state,
        role=item.role,
        group=item.group,
        x=round(item.x, 4),
        base=round(item.base, 4),
        scale=round(item.scale, 4),
        flip=item.flip,
        tilt=item.tilt,
        tone=item.tone,
    )
