"""Expressions that mean exactly one object of a scene, by attribute, comparison or relation, and its box."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from lpi.data.records import Referral
from lpi.data.scenes.kind import extent
from lpi.data.scenes.words import RELATION_WORDS, STATE_WORDS, chosen
from lpi.data.scenes.world import KINDS, TASKS, Scene, SceneObject, SceneWorld, seeded

Box = tuple[float, float, float, float]
_CLEAR = 0.06  # how far apart, as a share of the picture, two things must be to be called left and right
_RATIO = 1.3  # how much larger a thing must be to be called the bigger one
_SIZES = ("bigger", "biggest", "smaller", "smallest")


def box_of(item: SceneObject) -> Box:
    """An object's box (left, top, right, bottom) in shares of the picture, cut at its edges."""
    left, top, right, bottom = extent(KINDS[item.kind], item.state, item.flip, item.tilt)
    return (
        max(0.0, item.x + left * item.scale),
        max(0.0, item.base + top * item.scale),
        min(1.0, item.x + right * item.scale),
        min(1.0, item.base + bottom * item.scale),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object with what a viewer compares."""

    item: SceneObject
    box: Box

    @property
    def middle(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def extent(self) -> float:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def referrals(scene: Scene, size: int, world: SceneWorld = TASKS, *, each: int = 2) -> tuple[Referral, ...]:
    """Up to ``each`` expressions for every object, none of which fits another object of the scene.

    Args:
        scene: the scene.
        size: side of the rendered picture in pixels, the unit of the boxes.
        world: how often rarer words are taken.
        each: expressions an object at most; the simplest that works, and one with a comparison or a relation.
    """
    rng, seen, names, relations = _setting(scene, world)
    found: list[Referral] = []
    for one in seen:
        if _hidden(one, seen):
            continue
        simple = list(_by_attribute(one, seen, names))
        relative = [*_by_comparison(one, seen, names), *_by_relation(one, seen, names, relations)]
        rng.shuffle(relative)
        phrases = dict.fromkeys((*simple[:1], *relative, *simple[1:]))
        for phrase in list(phrases)[:each]:
            found.append(Referral(phrase, _pixels(one.box, size)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Meaning:
    """One way to mean an object: by what (attribute, size, place or relation), in which words, and where it is."""

    item: SceneObject
    way: str
    referral: Referral


def meanings(scene: Scene, size: int, world: SceneWorld = TASKS) -> tuple[Meaning, ...]:
    """Every expression of :func:`referrals`, with its object and the way in which it means it.

    Args:
        scene: the scene.
        size: side of the rendered picture in pixels, the unit of the boxes.
        world: how often rarer words are taken.
    """
    _, seen, names, relations = _setting(scene, world)
    found = []
    for one in seen:
        if _hidden(one, seen):
            continue
        compared = list(_by_comparison(one, seen, names))
        by_size = [phrase for phrase in compared if phrase.split()[1] in _SIZES]
        ways = {
            "attribute": list(_by_attribute(one, seen, names)),
            "size": by_size,
            "place": [phrase for phrase in compared if phrase not in by_size],
            "relation": list(_by_relation(one, seen, names, relations)),
        }
        box = _pixels(one.box, size)
        for way, texts in ways.items():
            found += [Meaning(one.item, way, Referral(phrase, box)) for phrase in dict.fromkeys(texts)]
    return tuple(found)


def _setting(scene: Scene, world: SceneWorld) -> tuple[Random, list[_Seen], dict[str, str], dict[str, str]]:
    """What a scene's expressions share: a generator, the objects, and the words for kinds and relations."""
    rng = seeded("referrals", scene.seed)
    seen = [_Seen(item, box_of(item)) for item in scene.objects]
    names = {  # one name a kind and scene, so that two names never seem to mean two things
        kind: KINDS[kind].names[0 if rng.random() >= world.rare_words else -1][0]
        for kind in dict.fromkeys(item.kind for item in scene.objects)
    }
    relations = {role: chosen(rng, words, world.rare_words) for role, words in RELATION_WORDS.items()}
    return rng, seen, names, relations


def _pixels(box: Box, size: int) -> Box:
    left, top, right, bottom = (round(edge * size, 2) for edge in box)
    return left, top, right, bottom


def _hidden(one: _Seen, seen: list[_Seen]) -> bool:
    """Whether most of it is behind the main objects; then nobody would point at it."""
    if one.item.role != "behind":
        return False
    covered = 0.0
    for other in seen:
        if other.item.role == "main":
            across = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
            down = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
            covered += max(0.0, across) * max(0.0, down)
    return covered > 0.6 * one.extent


def _of_kind(one: _Seen, seen: list[_Seen]) -> list[_Seen]:
    return [other for other in seen if other.item.kind == one.item.kind]


def _by_attribute(one: _Seen, seen: list[_Seen], names: dict[str, str]) -> Iterator[str]:
    """By noun, colour or state: "the dog", "the red dog", "the open red umbrella"."""
    item, name = one.item, names[one.item.kind]
    same = _of_kind(one, seen)
    if len(same) == 1:
        yield f"the {name}"
    alike = [other for other in same if other.item.colour == item.colour]
    if len(KINDS[item.kind].colours) > 1 and len(alike) == 1:
        yield _coloured(item, name)
    before, after = STATE_WORDS[item.state]
    if (before or after) and sum(other.item.state == item.state for other in same) == 1:
        yield f"the {before} {name}".replace("  ", " ") if before else f"the {name} {after}"
    if len(same) > 1 and len(alike) == 1:
        everything = [other for other in seen if other.item.colour == item.colour and other is not one]
        if not everything and len(KINDS[item.kind].colours) > 1 and _all_coloured(seen):
            yield f"the {item.colour} one"


def _coloured(item: SceneObject, name: str) -> str:
    """A noun with its colour: "the red car", "the cook in red"."""
    return f"the {name} in {item.colour}" if item.family == "person" else f"the {item.colour} {name}"


def _all_coloured(seen: list[_Seen]) -> bool:
    return all(len(KINDS[other.item.kind].colours) > 1 and other.item.family != "person" for other in seen)


def _by_comparison(one: _Seen, seen: list[_Seen], names: dict[str, str]) -> Iterator[str]:
    """By place or size among its kind: "the left dog", "the bigger cup", "the ball in the middle"."""
    same = _of_kind(one, seen)
    if len(same) == 1:
        return
    name = names[one.item.kind]
    noun = name if len(same) < len(seen) else "one"
    others = [other for other in same if other is not one]
    two = len(same) == 2
    if all(one.middle < other.middle - _CLEAR for other in others):
        yield f"the {'left' if two else 'leftmost'} {noun}"
        yield f"the {name} on the {'left' if two else 'far left'}"
    if all(one.middle > other.middle + _CLEAR for other in others):
        yield f"the {'right' if two else 'rightmost'} {noun}"
        yield f"the {name} on the {'right' if two else 'far right'}"
    if len(same) == 3:
        first, second = sorted(other.middle for other in others)
        if first + _CLEAR < one.middle < second - _CLEAR:
            yield f"the {name} in the middle"
    if all(one.extent > _RATIO * other.extent for other in others):
        yield f"the {'bigger' if two else 'biggest'} {noun}"
    if all(_RATIO * one.extent < other.extent for other in others):
        yield f"the {'smaller' if two else 'smallest'} {noun}"


def _by_relation(one: _Seen, seen: list[_Seen], names: dict[str, str], relations: dict[str, str]) -> Iterator[str]:
    """By how it stands to something that is alone of its kind: "the red car left of the tree"."""
    item = one.item
    same = _of_kind(one, seen)
    coloured = len(KINDS[item.kind].colours) > 1
    alike = [other for other in same if other.item.colour == item.colour] if coloured else same
    for anchor in seen:
        if anchor.item.kind == item.kind or len(_of_kind(anchor, seen)) > 1:
            continue
        for role, stands in _STANDS.items():
            if not stands(one, anchor):
                continue
            place = f"{relations[role]} the {names[anchor.item.kind]}"
            if not any(_might(role, other, anchor) for other in same if other is not one):
                yield f"the {names[item.kind]} {place}"
            elif len(alike) < len(same) and not any(_might(role, other, anchor) for other in alike if other is not one):
                yield f"{_coloured(item, names[item.kind])} {place}"


def _stands_as(main_role: str, company_role: str) -> Callable[[_Seen, _Seen], bool]:
    def stands(one: _Seen, anchor: _Seen) -> bool:
        if anchor.item.role == "main":
            return one.item.role == company_role
        return one.item.role == "main" and anchor.item.role == main_role

    return stands


_STANDS: dict[str, Callable[[_Seen, _Seen], bool]] = {
    "left": lambda one, anchor: one.box[2] < anchor.box[0] + _CLEAR and one.middle < anchor.middle - _CLEAR,
    "right": lambda one, anchor: one.box[0] > anchor.box[2] - _CLEAR and one.middle > anchor.middle + _CLEAR,
    "behind": _stands_as("front", "behind"),
    "front": _stands_as("behind", "front"),
    "on": _stands_as("under", "on"),
    "above": _stands_as("below", "above"),
    "below": _stands_as("above", "below"),
}


def _might(role: str, other: _Seen, anchor: _Seen) -> bool:
    """Whether somebody could say the same of another object."""
    if role == "left":
        return other.middle < anchor.middle
    if role == "right":
        return other.middle > anchor.middle
    return other.box[0] < anchor.box[2] and other.box[2] > anchor.box[0]
