"""Grounding tasks of the embedded world: pictures with several things of one kind, one of which is meant.

What an expression names is never alone of its kind in the picture, so finding "a cup" is not enough: the words that
tell it apart have to be understood ("the left cup", "the bigger one", "the red cup on the right side of the oven").
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random

from lpi.data.expressions.record import ReferringExpression
from lpi.data.scenes.expressions import Meaning, meanings
from lpi.data.scenes.sampling import sample_scene
from lpi.data.scenes.sources import SOURCES, Source
from lpi.data.scenes.supply import DEFAULT_SIDE, ScenePicture
from lpi.data.scenes.world import FAMILIES, GENERAL, Scene, SceneObject, SceneWorld, check_request, seeded, task_world
from lpi.errors import ConfigError

WAYS = {"attribute": 3.0, "size": 3.0, "place": 1.0, "relation": 12.0}
"""How an expression tells its object from the others ("the red cup", "the bigger", "the left", "left of the oven"), and
how often a way is taken where there are several: left and right can nearly always be said, the others seldom."""

_PASSED_OVER = 0.6
"""The share of scenes left out where nothing but left and right tells things apart: rows of equal things."""


def load_scene_expressions(
    *,
    families: Sequence[str] = FAMILIES,
    train: int = 256,
    validation: int = 32,
    test: int = 64,
    seed: int = 0,
    difficulty: str | float = "standard",
    per_picture: int = 2,
    held_out: int = 128,
    sources: bool = True,
) -> list[ReferringExpression]:
    """The expressions of a stream, task by task, then the held-out ones.

    Args:
        families: of the objects that are meant, in the order of the tasks.
        train: expressions a task and split, like ``validation`` and ``test``.
        validation: see ``train``.
        test: see ``train``.
        seed: another seed, another world of pictures.
        difficulty: easy, standard, hard, or the novelty itself (0 to 1), as for :func:`lpi.data.scenes.load_scenes`.
        per_picture: objects of a picture that are asked for at most, each once: the same picture with another answer.
        held_out: expressions of the general world (task "general", split "held_out") that no pre-training ever sees.
        sources: each family comes from a collection of its own, which mounts its pictures and words its expressions in
            its own way (:mod:`lpi.data.scenes.sources`).

    Raises:
        UnknownNameError: an unknown family or difficulty.
        ConfigError: a count is out of range.
    """
    counts = {"train": train, "val": validation, "test": test, "held_out": held_out}
    check_request(families, counts, "expressions")
    if per_picture < 1:
        raise ConfigError(f"per_picture must be at least 1; got {per_picture}.")
    world = task_world(difficulty)
    records: list[ReferringExpression] = []
    for family in families:
        for split in ("train", "val", "test"):
            found = _supply(world, seed, family, split, per_picture, SOURCES[family] if sources else None)
            records += [next(found) for _ in range(counts[split])]
    found = _supply(GENERAL, seed, None, "held_out", per_picture)
    return records + [next(found) for _ in range(held_out)]


def general_expressions(
    count: int, *, seed: int, first: int = 0, world: SceneWorld = GENERAL
) -> Iterator[tuple[ReferringExpression, ...]]:
    """All that can be said of scenes ``first`` to ``first + count - 1`` of a world's endless supply, scene by scene.

    For pre-training: also things that are alone of their kind ("the cup"). A scene depends on the world, ``seed`` and
    its number only, and none is ever a held-out one.

    Args:
        count: scenes; some have no expression.
        seed: see above.
        first: the number of the first scene.
        world: what may occur.
    """
    for number in range(first, first + count):
        scene = sample_scene(seeded("expressions", world.name, seed, number), world)
        picture = ScenePicture(scene, f"expressions/{world.name}/{seed}-{number:07d}")
        yield tuple(
            _record(picture, one, world.name, "train", one.referral.phrase)
            for one in meanings(scene, DEFAULT_SIDE, world)
        )


def _supply(
    world: SceneWorld, seed: int, family: str | None, split: str, per_picture: int, source: Source | None = None
) -> Iterator[ReferringExpression]:
    """A task's expressions without end; of any family where there is none given."""
    task = family or world.name
    number = 0
    while True:
        rng = seeded("expressions", seed, task, split, number)
        scene = sample_scene(rng, world, family=family)
        picture = ScenePicture(scene, f"expressions/{task}/{split}/{seed}-{number:05d}", source)
        for one in _asked(rng, scene, world, family, per_picture):
            phrase = one.referral.phrase if source is None else source.word(one.referral.phrase, rng)
            yield _record(picture, one, task, split, phrase)
        number += 1


def _asked(rng: Random, scene: Scene, world: SceneWorld, family: str | None, most: int) -> list[Meaning]:
    """At most so many objects of the scene, none of them alone of its kind, and how each is meant."""
    told: dict[SceneObject, dict[str, list[Meaning]]] = defaultdict(lambda: defaultdict(list))
    for one in meanings(scene, DEFAULT_SIDE, world):
        if family in (None, one.item.family) and sum(other.kind == one.item.kind for other in scene.objects) > 1:
            told[one.item][one.way].append(one)
    if all(ways.keys() == {"place"} for ways in told.values()) and rng.random() < _PASSED_OVER:
        return []
    objects = list(told)
    rng.shuffle(objects)
    chosen = []
    for item in objects[:most]:
        ways = list(told[item])
        (way,) = rng.choices(ways, [WAYS[way] for way in ways])
        chosen.append(rng.choice(told[item][way]))
    return chosen


def _record(picture: ScenePicture, one: Meaning, task: str, split: str, phrase: str) -> ReferringExpression:
    fields = {"way": one.way, "kind": one.item.kind, "style": picture.scene.style}
    size = (DEFAULT_SIDE, DEFAULT_SIDE)
    name = f"{picture.name}, {phrase!r}"
    return ReferringExpression(picture, phrase, one.referral.box, size, task, split, name, fields)
