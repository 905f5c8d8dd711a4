"""Everything that changes an index. Each change counts at once or not at all, and goes on where it was cut short."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from lpi.backbones.base import DualEncoder
from lpi.errors import ConfigError, DataError, MissingFileError, OutputError
from lpi.methods import Named, outside
from lpi.methods.base import Method
from lpi.methods.checkpoint import load_method, save_method, unless_registered
from lpi.search.bulk import BulkEmbedder
from lpi.search.embedding import KEEP_SECONDS, Embedder
from lpi.search.encoding import Encoder, steady_size
from lpi.search.files import Content, OnProgress, Scan, scan
from lpi.search.identity import ROUTING, check_same, describe, load_model, model_hash
from lpi.search.manifest import (
    FILE,
    STORE,
    Manifest,
    Stage,
    check_place,
    is_address,
    is_model,
    located,
    only_writer,
    read_manifest,
    successor,
)
from lpi.search.rows import RowMaker, refresh
from lpi.search.store import APPROXIMATE_FROM, Store
from lpi.storage import read_json, write_json
from lpi.trainer import pick_device

PUBLISH_SECONDS = 60.0  # while many pictures are embedded, what is done can be searched
OUTDATED = timedelta(days=1)  # so long somebody may still be reading what an earlier model left


@dataclass(frozen=True)
class Update:
    """What became of an index when its folder was looked at.

    Attributes:
        pictures: how many there are now.
        embedded: how many were embedded.
        added, gone, moved: how many pictures are new, are no longer there, or lie elsewhere.
        skipped: why files were left out, by path.
        seconds: what it took.
    """

    pictures: int
    embedded: int
    added: int
    gone: int
    moved: int
    skipped: dict[str, str]
    seconds: float


def load_stage(
    folder: Path,
    manifest: Manifest,
    stage: Stage,
    backbone: DualEncoder | None = None,
    *,
    method_file: Named | None = None,
) -> Method:
    """The model of a stage, from the index's own copy.

    Args:
        folder, manifest: of the index.
        stage: which.
        backbone: the frozen model, where it is loaded already.
        method_file: the file or class of the stage's method, where it is none of the library's.

    Raises:
        CheckpointError: the copy, or the backbone that it names, is no longer what the index was made with.
    """
    place = folder / "models" / stage.model
    method: Method = load_method(place, backbone=backbone, method=unless_registered(place, method_file))
    check_same(folder, manifest.recorded(stage), method, str(place))
    return method


class Writer:
    """The one who may change an index; see :func:`change`.

    Attributes:
        folder: of the index.
        manifest: what counts.
        method: the current model.
        workers, processes, approximate_from, keep_seconds: see :func:`change`.
    """

    workers = 2
    processes = 1
    approximate_from = APPROXIMATE_FROM
    keep_seconds = KEEP_SECONDS

    def __init__(self, folder: Path, manifest: Manifest, method: Method) -> None:
        self.folder, self.manifest, self.method = folder, manifest, method
        self.store = Store(manifest.store_in(folder), manifest.width)

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return Path(self.manifest.root)

    def encoder(self, method: Method) -> Encoder:
        """A model that encodes as the whole index was encoded."""
        return Encoder(method, batch=self.manifest.batch)

    def embedder(self, method: Method) -> Embedder:
        """What embeds pictures under a model."""
        if self.processes > 1:
            self.keep_model(method)  # the workers read it there
            return BulkEmbedder(
                self.encoder(method),
                self.store,
                model=self.folder / "models" / model_hash(method),
                processes=self.processes,
                workers=self.workers,
                keep_seconds=self.keep_seconds,
            )
        return Embedder(self.encoder(method), self.store, workers=self.workers, keep_seconds=self.keep_seconds)

    def contents(self) -> dict[str, Content]:
        """The pictures as they were last found, by id."""
        rows = self.store.rows(self.manifest.current.version).columns("id", "paths", "stamps")
        return {
            key: Content(key, tuple(paths), tuple(stamps))
            for key, paths, stamps in zip(rows["id"], rows["paths"], rows["stamps"], strict=True)
        }

    def files(self, contents: dict[str, Content]) -> dict[str, tuple[Path, ...]]:
        """Where pictures lie, by id."""
        return {key: tuple(self.root / path for path in content.paths) for key, content in contents.items()}

    # ---- the folder changes ------------------------------------------------------------------------------------------

    def update(self, *, emptied: bool = False, rehash: bool = False, on_progress: OnProgress | None = None) -> Update:
        """Look at the folder: embed what is new, follow what moved, drop what is gone.

        Args:
            emptied: it is right that no picture is left.
            rehash: read every file again, also those whose size and time are as they were.
            on_progress: told what is going on, how many are done and how many there are.

        Raises:
            MissingFileError: the folder isn't there.
            DataError: it holds no picture, though it did.
        """
        started = time.monotonic()
        before = self.contents()
        found = self.look(before, emptied=emptied, rehash=rehash, on_progress=on_progress)
        embedder = self.embedder(self.method)
        published = time.monotonic()

        def now_and_then() -> None:
            nonlocal published
            if time.monotonic() - published > PUBLISH_SECONDS:
                self.publish(found.contents)
                published = time.monotonic()

        jobs = embedder.jobs(self.files(found.contents))
        outcome = embedder.run(jobs, on_progress=on_progress, on_kept=now_and_then)
        skipped = found.unread | found.skipped  # whole folders are said first
        for key, problem in outcome.problems.items():
            skipped |= dict.fromkeys(found.contents[key].paths, problem)
        write_json(self.folder / "skipped.json", dict(sorted(skipped.items())))
        self.publish(found.contents)
        after = self.contents()
        return Update(
            pictures=len(after),
            embedded=outcome.embedded,
            added=len(set(after) - set(before)),
            gone=len(set(before) - set(after)),
            moved=sum(before[key].paths != after[key].paths for key in set(before) & set(after)),
            skipped=skipped,
            seconds=time.monotonic() - started,
        )

    def look(
        self,
        before: dict[str, Content],
        *,
        emptied: bool = False,
        rehash: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Scan:
        """What the folder holds now; see :meth:`update`.

        Args:
            before: what it held: files that are as they were are not read again.
            emptied, rehash, on_progress: see :meth:`update`.
        """
        known = {p: (s, c.id) for c in before.values() for p, s in zip(c.paths, c.stamps, strict=True)}
        found = scan(
            self.root,
            leave_out=self.folder,
            known=known,
            rehash=rehash,
            workers=self.workers,
            on_progress=on_progress,
        )
        if before and not found.contents and not emptied:
            raise DataError(
                f"{self.root} holds no picture any more, and the index {len(before)}. Connect the disk it is on, or "
                "say that it is so with --emptied."
            )
        return found

    # ---- the model changes -------------------------------------------------------------------------------------------

    def to_embed(self, method: Method) -> int:
        """How many pictures would have to be opened and embedded for another model. Opens none."""
        embedder = self.embedder(method)
        return len(embedder.jobs(self.files(self.contents())))

    def adopt(
        self,
        method: Method,
        kind: str,
        task: str = "",
        *,
        report: dict[str, Any] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Stage:
        """Search with another model from now on: embed what its mixtures ask for and isn't kept, then switch.

        A picture that must be embedded and can't be opened any more is dropped, with the reason on record.

        Raises:
            MissingFileError: some must be, and the folder of pictures isn't there.

        Args:
            method: the model, on the same backbone.
            kind, task, report: see :class:`Stage`.
            on_progress: told what is going on, how many are done and how many there are.
        """
        started = time.monotonic()
        self.keep_model(method)
        contents = self.contents()
        embedder = self.embedder(method)
        jobs = embedder.jobs(self.files(contents))
        if jobs and not any(self.root.glob("*")):  # of a disk that isn't connected, every picture would be dropped
            raise MissingFileError(f"{self.root} isn't there or is empty. Connect the disk it is on.")
        outcome = embedder.run(jobs, on_progress=on_progress)
        if outcome.problems:
            file = self.folder / "skipped.json"
            skipped = read_json(file) if file.exists() else {}
            for key, problem in outcome.problems.items():
                skipped |= dict.fromkeys(contents[key].paths, problem)
            write_json(file, dict(sorted(skipped.items())))
        about = describe(method)
        self.method = method
        stage = Stage(
            number=len(self.manifest.stages),
            kind=kind,
            task=task,
            model=about["model"],
            tasks=about["tasks"],
            version=self.manifest.current.version,
            pictures=0,
            embedded=outcome.embedded,
            seconds=0.0,
            when=timestamp(),
            report=report,
        )
        self.publish(contents, stage, started)
        return self.manifest.current

    def keep_model(self, method: Method) -> None:
        """Put a copy of a model beside the pictures, under what stands for it."""
        place = self.folder / "models" / model_hash(method)
        if not (place / "config.json").exists():
            save_method(method, place)

    def forget(self, task: str, *, on_progress: OnProgress | None = None) -> Stage:
        """Take a domain away, exactly: the index is then what it would be had the domain never been learned.

        Raises:
            UnknownNameError: no domain has that name.
            LpiError: the method can't forget.
        """
        method = self.copy()
        method.forget(task)
        return self.adopt(method, "forget", task, on_progress=on_progress)

    def rollback(self, to: int | None = None, *, on_progress: OnProgress | None = None) -> Stage:
        """Go back to an earlier stage's model, with the pictures of today.

        Args:
            to: the stage's number; by default the one before the current.
            on_progress: told what is going on, how many are done and how many there are.

        Raises:
            ConfigError: there is no such stage, or it is the current one.
        """
        stages = self.manifest.stages
        number = len(stages) - 2 if to is None else to
        if len(stages) < 2 or not 0 <= number < len(stages) - 1:
            earlier = f"the earlier ones are 0 to {len(stages) - 2}" if len(stages) > 1 else "this is the first"
            raise ConfigError(
                f"stage must be an earlier one to go back to; {earlier}" + (f"; got {to}." if to is not None else ".")
            )
        method = self.load(stages[number])
        return self.adopt(method, "rollback", on_progress=on_progress)

    def copy(self) -> Method:
        """The current model once more, to be changed."""
        return self.load(self.manifest.current)

    def load(self, stage: Stage) -> Method:
        """The model of a stage, on the backbone of the current one."""
        named = outside(type(self.method))  # whoever opened the index named it
        return load_stage(self.folder, self.manifest, stage, self.method.backbone, method_file=named)

    def drop_history(self) -> None:
        """Keep the current stage only, and nothing of what earlier ones knew. There is no way back.

        What only earlier versions of the rows hold goes a day later, with the next change: somebody may be reading it.
        """
        current = replace(self.manifest.current, number=0)
        self.store.pin(current.pin, current.version)
        self.manifest = replace(self.manifest, stages=(current,))
        self.manifest.write(self.folder)
        self.tidy()

    def tidy(self) -> None:
        """Drop models and features that no stage and no picture needs any more."""
        self.drop_outdated(timedelta(0))
        self.store.unpin({stage.pin for stage in self.manifest.stages})
        routes = {ROUTING}
        for stage in self.manifest.stages:
            for keys in self.store.rows(stage.version).columns("routes")["routes"]:
                routes.update(keys)
        self.store.tidy(routes, set(self.contents()))
        models = {stage.model for stage in self.manifest.stages}
        for folder in (self.folder / "models").glob("*"):
            if folder.name not in models and is_model(folder.name.lstrip(".")):
                remove_folder(folder)
        remove_lessons(self.folder)

    def drop_outdated(self, age: timedelta = OUTDATED) -> None:
        """Drop the tables of earlier models that have counted no more for so long; nobody reads them by then."""
        now = datetime.now(tz=timezone.utc)
        outdated = self.manifest.outdated
        over = [store for store, since in outdated if now - datetime.fromisoformat(since) >= age]
        if not over:
            return
        for store in over:
            drop_store(self.folder, store)
        kept = tuple(own for own in outdated if own[0] not in over)
        self.manifest = replace(self.manifest, outdated=kept)
        self.manifest.write(self.folder)

    # ---- what counts -------------------------------------------------------------------------------------------------

    def publish(self, contents: dict[str, Content], stage: Stage | None = None, started: float | None = None) -> None:
        """Let the rows follow pictures and model, and make that count."""
        current = self.manifest.current
        maker = RowMaker(self.encoder(self.method), self.store)
        version = refresh(self.store, maker, self.store.rows(current.version), current.version, contents)
        if version == current.version and stage is None:
            return
        if version != current.version:
            version = self.store.settle(approximate_from=self.approximate_from)
        now = replace(stage or current, version=version, pictures=len(self.store.rows(version)))
        if started is not None:
            now = replace(now, seconds=round(time.monotonic() - started, 3))
        self.store.pin(now.pin, version)
        self.manifest = self.manifest.with_stage(now)
        self.manifest.write(self.folder)
        self.store.unpin({kept.pin for kept in self.manifest.stages})


def timestamp() -> str:
    """Now, in UTC."""
    return datetime.now(tz=timezone.utc).isoformat(timespec="seconds")


@contextlib.contextmanager
def change(
    folder: str | Path,
    *,
    workers: int = 2,
    processes: int = 1,
    device: str = "auto",
    approximate_from: int = APPROXIMATE_FROM,
    keep_seconds: float = KEEP_SECONDS,
    on_its_way: bool = False,
    method_file: Named | None = None,
) -> Iterator[Writer]:
    """Change an index; nobody else can meanwhile.

    Args:
        folder: of the index.
        workers: threads that read and decode.
        processes: that embed; see :mod:`lpi.search.bulk`. With one, this process does.
        device: where the model computes.
        approximate_from: rows from which on there is an approximate index.
        keep_seconds: the longest that new features stay in memory only: what a crash costs at most.
        on_its_way: it may be changed while it is on its way to another model, too.
        method_file: the file or class of the index's method, where it is none of the library's.

    Raises:
        MissingFileError: there is no index.
        CheckpointError: the index or its model is damaged, or the backbone has changed.
        OutputError: another command is changing it, or it is on its way to another model.
    """
    folder = Path(folder)
    read_manifest(folder)
    with only_writer(folder):
        manifest = read_manifest(folder)
        if successor(folder, manifest) is not None and not on_its_way:
            raise OutputError(
                f"{folder} is on its way to another model. Go on with 'lpi migrate', which also takes in what is new "
                "in the folder, or give that up with 'lpi migrate --abandon'."
            )
        method = load_stage(folder, manifest, manifest.current, method_file=method_file)
        method.to(pick_device(device))
        writer = Writer(folder, manifest, method)
        writer.workers, writer.processes = workers, processes
        writer.approximate_from, writer.keep_seconds = approximate_from, keep_seconds
        writer.drop_outdated()
        yield writer


def create(
    folder: str | Path,
    root: str | Path,
    model: str | Path | Method,
    *,
    device: str = "auto",
    batch: int | None = None,
    store: str = STORE,
    method_file: Named | None = None,
) -> dict[str, Any] | None:
    """Begin an index, without any picture yet; returns the ``run.json`` beside the model, where there is one.

    Args:
        folder: a new one, for the index.
        root: the folder of pictures.
        model: what ``--model`` names (see :func:`lpi.search.identity.load_model`), or a model that was loaded so.
        device: where the model computes.
        batch: pictures in every forward pass; by default the most for which every place gives the same bits.
        store: where the tables shall be: a folder, seen from the index, or the address of an object store.
        method_file: the file or class of the model's method, where it is none of the library's.

    Raises:
        OutputError: the folder holds something else, or can't be made; or the object store holds an index.
    """
    folder = Path(folder)
    method, run = (model, None) if isinstance(model, Method) else load_model(model, method_file)
    method.to(pick_device(device))
    check_place(folder)
    with only_writer(folder):
        if (folder / FILE).exists():
            raise OutputError(f"{folder} holds an index already. Leave --model out to go on with it.")
        about = describe(method)
        width = method.backbone.feature_width
        save_method(method, folder / "models" / about["model"])
        tables = Store(store if is_address(store) else folder / store, width)
        if is_address(store) and not tables.empty():
            raise OutputError(f"{store} holds an index already, or part of one. Name another address, or empty it.")
        version = tables.start()
        stage = Stage(0, "index", "", about["model"], about["tasks"], version, 0, 0, 0.0, timestamp())
        Manifest(
            root=str(Path(root).resolve()),
            backbone=about["backbone"],
            preprocessing=about["preprocessing"],
            width=width,
            batch=batch or steady_size(method),
            stages=(stage,),
            training=(run or {}).get("settings", {}).get("training", {}),
            store=store,
        ).write(folder)
    return run


def move_root(folder: str | Path, root: str | Path) -> None:
    """The folder of pictures lies elsewhere now, if it does."""
    folder = Path(folder)
    with only_writer(folder):
        manifest = read_manifest(folder)
        if manifest.root != str(Path(root).resolve()):
            replace(manifest, root=str(Path(root).resolve())).write(folder)


def drop_store(folder: Path, store: str) -> None:
    """Take away the tables that an index in a folder named."""
    if is_address(store):
        Store(located(folder, store), 1).clear()
    elif (folder / store).exists():
        remove_folder(folder / store)


def remove_lessons(folder: Path, keep: Path | None = None) -> None:
    """Drop what was learned on trial, all but one."""
    for lesson in (folder / "lessons").glob("*"):
        if lesson != keep:
            remove_folder(lesson)


def remove_folder(folder: Path) -> None:
    """Take a folder away. Cut short, what is left of it is not taken for the whole: it has another name by then."""
    dropped = folder.with_name(f".{folder.name.lstrip('.')}")
    if folder != dropped:
        shutil.rmtree(dropped, ignore_errors=True)
        folder.rename(dropped)
    shutil.rmtree(dropped, ignore_errors=True)
