"""The one file that says what counts in an index. It is written last, so whatever was cut short doesn't count."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.reading import shown
from lpi.search.report import Report
from lpi.storage import locked, read_json, reason, sealed, unsealed, write_json

Json = dict[str, Any]  # what another part of the package wrote and will read, carried along

FORMAT = 1
FILE = "index.json"
STORE = "store"
RECALL = 0.95
BESIDE = ".lpi-index"  # where the index of a folder lies in it, if nobody said where; a scan passes it over
NEXT = "next"  # the folder of an index with another model that shall take this one's place
OURS = {FILE, "lock", "models", STORE, NEXT, "tests", "lessons", "skipped.json"}


@dataclass(frozen=True)
class KnownTask:
    """A task of a model, and what stands for its prompts and keys."""

    name: str
    prompts: str


@dataclass(frozen=True)
class Frozen:
    """The frozen model: its name, and what stands for its weights, configuration and preprocessing."""

    name: str
    identity: str


@dataclass(frozen=True)
class Description:
    """What an index records of its model, and compares with another.

    Attributes:
        model: what stands for a method with everything that it learned.
        backbone: the frozen model.
        preprocessing: what stands for how pictures become pixels and texts become tokens.
        tasks: in the order of learning.
    """

    model: str
    backbone: Frozen
    preprocessing: str
    tasks: tuple[KnownTask, ...]


@dataclass(frozen=True)
class Look:
    """How an approximate index is searched, and what that was measured to find.

    Attributes:
        probes: so many of its cells are looked through.
        refine: so many times the wanted rows are compared once more by their whole vectors, not by the bytes that the
            approximate index keeps of them; 0 for no second look.
        recall: of the ten best by exact search, the share found so, in the mean over sampled queries: the smaller of
            pictures' and words'; ``None`` where it wasn't measured.
        pictures: how many there were then.
        trained: how many there were when the cells were laid out.
    """

    probes: int = 20
    refine: int = 3
    recall: float | None = None
    pictures: int = 0
    trained: int = 0


@dataclass(frozen=True)
class Stage:
    """The index as it was between two changes of its model.

    Attributes:
        number: its place, from 0.
        kind: what began it: ``index``, ``teach``, ``forget`` or ``rollback``.
        task: the domain that came or went; for a rollback, empty.
        model: what stands for the model: its folder under ``models``.
        tasks: that the model knows.
        version: of the pictures' rows, the last of this stage.
        pictures: how many.
        embedded: how many pictures had to be embedded to begin this stage.
        seconds: what that took.
        when: when it began, in UTC.
        report: what was to be gained and lost, where it was measured.
        look: how its approximate index is searched, where there is one.
    """

    number: int
    kind: str
    task: str
    model: str
    tasks: tuple[KnownTask, ...]
    version: int
    pictures: int
    embedded: int
    seconds: float
    when: str
    report: Report | None = None
    look: Look = Look()

    @property
    def pin(self) -> str:
        """The name under which the store keeps its rows."""
        return f"stage-{self.number}-{self.version}"


@dataclass(frozen=True)
class Manifest:
    """What counts in an index: its folder of pictures, frozen model, tables and stages.

    Attributes:
        root: the folder of pictures.
        backbone: the frozen model.
        preprocessing: what stands for how pictures become pixels.
        width: of the features.
        batch: pictures in a forward pass, always.
        stages: the last one is the current one.
        training: how domains are learned unless something else is said.
        store: where the tables are: a folder of the index, or the address of an object store.
        outdated: where an earlier model's tables are, and since when they count no more, in UTC: somebody may be
            reading them for a while.
        exclude: patterns of files and folders that are left out.
        recall: of the ten best, the share that an approximate search shall find.
    """

    root: str
    backbone: Frozen
    preprocessing: str
    width: int
    batch: int
    stages: tuple[Stage, ...]
    training: Json = field(default_factory=dict)
    store: str = STORE
    outdated: tuple[tuple[str, str], ...] = ()
    exclude: tuple[str, ...] = ()
    recall: float = RECALL

    def store_in(self, folder: Path) -> str:
        """Where the tables of the index in a folder are, as the store's client takes it."""
        return located(folder, self.store)

    @property
    def current(self) -> Stage:
        """The last stage, which is searched unless an earlier one is asked for."""
        return self.stages[-1]

    def recorded(self, stage: Stage) -> Description:
        """What :func:`lpi.search.identity.describe` gave for a stage's model."""
        return Description(stage.model, self.backbone, self.preprocessing, stage.tasks)

    def with_stage(self, stage: Stage) -> Manifest:
        """The manifest with a further stage, or with the current one anew."""
        return replace(self, stages=(*self.stages[: stage.number], stage))

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder, and so make it count."""
        # The store doesn't wait for the disk, and the manifest must not name what a power cut would take away.
        os.sync()
        content = asdict(self)
        if not self.exclude:  # earlier versions don't know it
            del content["exclude"]
        write_json(folder / FILE, sealed({"format": FORMAT, **content}))


def is_address(store: str) -> bool:
    """Whether tables are in an object store (``s3://bucket/path``, ``gs://``, ``az://``), not in a folder."""
    return "://" in store


def located(folder: Path, store: str) -> str:
    """A store that an index in a folder names, as the store's client takes it."""
    return store if is_address(store) else str(folder / store)


def successor(folder: Path, manifest: Manifest) -> Manifest | None:
    """The manifest of the index that shall take this one's place, if it is on its way to another model.

    What a finished move leaves behind, if it is cut short while it cleans up, doesn't count: by then both name one
    store.
    """
    if not (folder / NEXT / FILE).is_file():
        return None
    found = read_manifest(folder / NEXT)
    return None if seen_from_above(found.store) == manifest.store else found


def seen_from_above(store: str) -> str:
    """A store that the index in ``next`` names, as the one around it would.

    >>> seen_from_above("../store-b")
    'store-b'
    """
    return store.removeprefix("../")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        MissingFileError: there is no index.
        CheckpointError: it was written by another version, or is damaged.
    """
    if not (folder / FILE).is_file():
        raise MissingFileError(
            f"{folder}: there is no index. Make one with: lpi index PICTURES --model RUN --index {folder}"
        )
    content = read_json(folder / FILE)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{folder / FILE} isn't of format {FORMAT}, the one this version reads. Index again.")
    content = unsealed(folder / FILE, content, "index again")
    del content["format"]
    try:
        stages = tuple(_stage(**stage) for stage in content.pop("stages"))
        backbone = Frozen(**content.pop("backbone"))
        outdated = tuple((store, since) for store, since in content.pop("outdated", ()))
        exclude = tuple(str(own) for own in content.pop("exclude", ()))
        return _checked(Manifest(**content, backbone=backbone, stages=stages, outdated=outdated, exclude=exclude))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / FILE} is damaged ({error}). Take it from a backup, or index again."
        ) from error


def _stage(*, tasks: list[dict[str, str]], look: dict[str, Any] | None = None, **others: Any) -> Stage:
    return Stage(tasks=tuple(KnownTask(**task) for task in tasks), look=Look(**look or {}), **others)


def is_model(name: object) -> bool:
    """Whether a name is the hash that stands for a model, and so the name of its folder.

    >>> is_model("0123456789abcdef"), is_model("../../holiday")
    (True, False)
    """
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{16}", name) is not None


def _checked(manifest: Manifest) -> Manifest:
    """The manifest itself, if all its places are its own: models are read from there, and what is outdated is deleted.

    And if its sizes are some that a machine can hold: so much is embedded at once.

    Raises:
        ValueError: one isn't.
    """
    if not manifest.stages:
        raise ValueError("it has no stages")
    for size, most in ((manifest.width, 2**17), (manifest.batch, 2**12)):
        if type(size) is not int or not 0 < size <= most:
            raise ValueError(f"no width or batch is {shown(size)}")
    for model in (stage.model for stage in manifest.stages):
        if not is_model(model):
            raise ValueError(f"no model is called {model!r}")
    root = _root(manifest.store)
    for store in [store for store, _ in manifest.outdated if _root(store) != root or store.startswith("../")]:
        raise ValueError(f"{store!r} is no place of its tables")
    if not is_address(manifest.store) and root != STORE:
        raise ValueError(f"{manifest.store!r} is no place of its tables")
    return manifest


def _root(store: str) -> str:
    """Where the tables of all models of an index are, but for the model's own ending."""
    return re.sub("-[0-9a-f]{16}$", "", (store if is_address(store) else seen_from_above(store)).rstrip("/"))


def check_place(folder: Path) -> None:
    """Refuse to make an index in a folder that holds something else.

    Raises:
        OutputError: it does, or can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in folder.iterdir()]
        ours = OURS if "lock" in names else set()  # which comes first: without it, they are somebody else's
        others = sorted(name for name in names if name not in ours and not name.startswith((".", f"{STORE}-")))
    except OSError as error:
        raise OutputError(f"{folder} can't be made: {reason(error).replace('--out', '--index')}") from error
    if others:
        raise OutputError(f"{folder} is no index and holds other things, first {others[0]!r}. Name a new folder.")


def timestamp() -> str:
    """The time of now, in UTC, to the second."""
    return datetime.now(tz=timezone.utc).isoformat(timespec="seconds")


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of an index, so that nobody else changes it meanwhile. A process that dies lets go.

    Raises:
        OutputError: somebody does already.
    """
    with locked(folder / "lock", f"{folder} is being changed by another command. Wait until it ends."):
        yield
