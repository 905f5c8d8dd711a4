"""Records of the embedded world: the tasks' pictures, the held-out ones, and an endless supply for pre-training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from lpi.data.records import CaptionedImage, Card
from lpi.data.scenes.expressions import referrals
from lpi.data.scenes.grammar import captions as captions_of
from lpi.data.scenes.render import render
from lpi.data.scenes.sampling import sample_scene
from lpi.data.scenes.world import FAMILIES, GENERAL, STYLES, Scene, SceneWorld, seeded, task_world
from lpi.errors import ConfigError, UnknownNameError, did_you_mean

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

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`; 224 by 224 pixels without ``side``."""
        return render(self.scene, DEFAULT_SIDE if side is None else side)


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
        by: what makes a task: ``family``, or ``style`` (each style a task, main objects of all ``families``).

    Raises:
        UnknownNameError: an unknown family or difficulty.
        ConfigError: ``by`` is neither, a count is negative, or no captions are asked for.
    """
    for family in families:
        if family not in FAMILIES:
            raise UnknownNameError(f"No family is called {family!r}. {did_you_mean(family, FAMILIES)}")
    if by not in ("family", "style"):
        raise ConfigError(f"Scenes are cut into tasks by 'family' or 'style'; got {by!r}.")
    counts = {"train": train, "validation": validation, "test": test, "held_out": held_out}
    for name, number in counts.items():
        if number < 0:
            raise ConfigError(f"{name} must be 0 or more pictures; got {number}.")
    if captions < 1:
        raise ConfigError(f"captions must be at least 1; got {captions}.")
    world = task_world(difficulty)
    records = []
    for task in families if by == "family" else STYLES:
        for split in ("train", "validation", "test"):
            for number in range(counts[split]):
                rng = seeded("task", seed, by, task, split, number)
                scene = (
                    sample_scene(rng, world, family=task)
                    if by == "family"
                    else sample_scene(rng, world, family=rng.choice(list(families)), style=task)
                )
                records.append(_record(scene, world, f"{task}/{split}/{seed}-{number:05d}", task, split, captions))
    for number in range(held_out):
        scene = sample_scene(seeded("held-out", seed, number), GENERAL)
        records.append(
            _record(scene, GENERAL, f"general/held_out/{seed}-{number:05d}", "general", "held_out", captions)
        )
    return records


def general_scenes(count: int, *, seed: int, first: int = 0, world: SceneWorld = GENERAL) -> Iterator[CaptionedImage]:
    """Scenes ``first`` to ``first + count - 1`` of a world's endless supply, for pre-training.

    A scene depends on the world, ``seed`` and its number only, and none is ever a held-out one.
    """
    for number in range(first, first + count):
        scene = sample_scene(seeded(world.name, seed, number), world)
        yield _record(scene, world, f"{world.name}/train/{seed}-{number:07d}", world.name, "train", 5)


def _record(scene: Scene, world: SceneWorld, name: str, task: str, split: str, count: int) -> CaptionedImage:
    return CaptionedImage(
        picture=ScenePicture(scene, name),
        captions=captions_of(scene, world, count=count),
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
