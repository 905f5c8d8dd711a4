"""Records of the embedded world: the tasks' pictures, the held-out ones, and an endless supply for pre-training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from PIL import Image

from lpi.data.records import CaptionedImage, Card
from lpi.data.scenes.expressions import referrals
from lpi.data.scenes.grammar import captions as captions_of
from lpi.data.scenes.render import render
from lpi.data.scenes.sampling import sample_scene
from lpi.data.scenes.sources import SOURCES, Source
from lpi.data.scenes.world import FAMILIES, GENERAL, STYLES, Scene, SceneWorld, check_request, seeded, task_world
from lpi.errors import ConfigError

DEFAULT_SIDE = 224

CARD = Card(
    name="scenes",
    source="drawn by lpi.data.scenes from a seed",
    licence="Apache-2.0",
    groups="family of the main object (or style)",
)


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """A scene as a picture: drawn when it is opened."""

    scene: Scene
    name: str
    source: Source | None = None

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`; 224 by 224 pixels without ``side``."""
        image = render(self.scene, DEFAULT_SIDE if side is None else side)
        return image if self.source is None else self.source.over(image)


def load_scenes(
    *,
    families: Sequence[str] = FAMILIES,
    train: int = 256,
    validation: int = 32,
    test: int = 64,
    seed: int = 0,
    difficulty: str | float = "standard",
    captions: int = 5,
    held_out: int = 128,
    by: str = "family",
    tasks: int | None = None,
    sources: bool = True,
) -> list[CaptionedImage]:
    """The pictures of a stream, task by task, then the held-out ones.

    Args:
        families: of the main objects, in the order of the tasks.
        train: pictures a task and split, like ``validation`` and ``test``.
        validation: see ``train``.
        test: see ``train``.
        seed: another seed, another world of pictures.
        difficulty: easy, standard, hard, or the novelty itself (0 to 1).
        captions: captions a picture.
        held_out: pictures of the general world (task "general", split "held_out") that no pre-training ever sees.
        by: what makes a task: ``family`` (class-incremental), ``style`` (domain-incremental: each style a task, main
            objects of all ``families``), or both together, for long streams: ``family+style`` has all styles of a
            family one after another, ``style+family`` all families of a style.
        sources: each family comes from a collection of its own, which mounts its pictures and words its captions in
            its own way (:mod:`lpi.data.scenes.sources`); tasks ``by`` style alone have none.
        tasks: only so many of the tasks, taken evenly from first to last; by default all of them.

    Raises:
        UnknownNameError: an unknown family or difficulty.
        ConfigError: ``by`` is none of these, a count is negative, more tasks than there are, or no captions.
    """
    counts = {"train": train, "validation": validation, "test": test, "held_out": held_out}
    check_request(families, counts, "pictures")
    if captions < 1:
        raise ConfigError(f"captions must be at least 1; got {captions}.")
    world = task_world(difficulty)
    records = []
    for task, main, style in _tasks(by, families, tasks):
        for split in ("train", "validation", "test"):
            for number in range(counts[split]):
                rng = seeded("task", seed, by, task, split, number)
                scene = sample_scene(rng, world, family=main or rng.choice(list(families)), style=style)
                name = f"{task}/{split}/{seed}-{number:05d}"
                source = SOURCES[main] if sources and main else None
                records.append(_record(scene, world, name, task, split, captions, source))
    for number in range(held_out):
        scene = sample_scene(seeded("held-out", seed, number), GENERAL)
        records.append(
            _record(scene, GENERAL, f"general/held_out/{seed}-{number:05d}", "general", "held_out", captions)
        )
    return records


def _tasks(by: str, families: Sequence[str], count: int | None) -> list[tuple[str, str | None, str | None]]:
    """The tasks of a stream in their order: name, family and style of the scenes, ``None`` for any."""
    if by not in ("family", "style", "family+style", "style+family"):
        raise ConfigError(
            f"Scenes are cut into tasks by 'family', 'style', 'family+style' or 'style+family'; got {by!r}."
        )
    found: list[tuple[str, str | None, str | None]]
    if by == "family":
        found = [(family, family, None) for family in families]
    elif by == "style":
        found = [(style, None, style) for style in STYLES]
    else:
        pairs = product(families, STYLES) if by == "family+style" else ((f, s) for s, f in product(STYLES, families))
        found = [(f"{style} {family}", family, style) for family, style in pairs]
    if count is None:
        return found
    if not 1 <= count <= len(found):
        raise ConfigError(f"tasks must lie between 1 and the {len(found)} that there are by {by}; got {count}.")
    return [found[place * len(found) // count] for place in range(count)]


def general_scenes(count: int, *, seed: int, first: int = 0, world: SceneWorld = GENERAL) -> Iterator[CaptionedImage]:
    """Scenes ``first`` to ``first + count - 1`` of a world's endless supply, for pre-training.

    A scene depends on the world, ``seed`` and its number only, and none is ever a held-out one.
    """
    for number in range(first, first + count):
        scene = sample_scene(seeded(world.name, seed, number), world)
        yield _record(scene, world, f"{world.name}/train/{seed}-{number:07d}", world.name, "train", 5)


def _record(
    scene: Scene, world: SceneWorld, name: str, task: str, split: str, count: int, source: Source | None = None
) -> CaptionedImage:
    captions = captions_of(scene, world, count=count)
    if source is not None:
        rng = seeded("words", name)
        captions = tuple(source.word(caption, rng) for caption in captions)
    return CaptionedImage(
        picture=ScenePicture(scene, name, source),
        captions=captions,
        task=task,
        split=split,
        fields={
            "family": scene.main.family,
            "kind": scene.main.kind,
            "style": scene.style,
            "place": scene.place,
            "weather": scene.weather,
        },
        referrals=referrals(scene, DEFAULT_SIDE, world),
    )
