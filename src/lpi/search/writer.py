"""Everything that changes an index. Each change counts at once or not at all, and goes on where it was cut short."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from lpi.devices import pick_device
from lpi.errors import ConfigError, DataError, MissingFileError, OutputError
from lpi.methods import Named, outside
from lpi.methods.base import Method
from lpi.methods.checkpoint import save_method
from lpi.search.bulk import BulkEmbedder
from lpi.search.embedding import KEEP_SECONDS, Embedder
from lpi.search.encoding import Encoder
from lpi.search.files import Content, OnProgress, Scan, scan
from lpi.search.identity import ROUTING, describe, load_stage, model_hash
from lpi.search.looking import choose, sampled_words
from lpi.search.manifest import Look, Manifest, Stage, is_model, only_writer, read_manifest, successor, timestamp
from lpi.search.places import drop_store, remove_folder, remove_lessons
from lpi.search.report import Report
from lpi.search.routes import Routes
from lpi.search.rows import RowMaker, refresh
from lpi.search.store import APPROXIMATE_FROM, GROWN, Store
from lpi.search.table import Rows
from lpi.storage import read_json, write_json

FURTHER = 1.25  # times as many rows as when it was measured how to search them: it is measured anew
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


class Writer:
    """The one who may change an index; see :func:`change`.

    Attributes:
        folder: of the index.
        manifest: what counts.
        method: the current model.
        workers, processes, approximate_from, keep_seconds: see :func:`change`.
    """

    workers: int | None = None
    processes = 1
    approximate_from = APPROXIMATE_FROM
    keep_seconds = KEEP_SECONDS

    def __init__(self, folder: Path, manifest: Manifest, method: Method) -> None:
        self.folder, self.manifest, self.method = folder, manifest, method
        self.store = Store(manifest.store_in(folder), manifest.width)
        self._routes: dict[str, Routes] = {}

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return Path(self.manifest.root)

    def routes(self, method: Method) -> Routes:
        """Where the pictures belong under a model, which encodes as the whole index was encoded."""
        model = model_hash(method)
        if model not in self._routes:
            self._routes[model] = Routes(Encoder(method, batch=self.manifest.batch), self.store)
        return self._routes[model]

    def embedder(self, method: Method) -> Embedder:
        """What embeds pictures under a model."""
        routes = self.routes(method)
        if self.processes > 1:
            self.keep_model(method)  # the workers read it there
            return BulkEmbedder(
                routes,
                model=self.folder / "models" / model_hash(method),
                processes=self.processes,
                workers=self.workers,
                keep_seconds=self.keep_seconds,
            )
        return Embedder(routes, workers=self.workers, keep_seconds=self.keep_seconds)

    def maker(self, method: Method) -> RowMaker:
        """What makes pictures' rows under a model."""
        return RowMaker(self.routes(method), self.store)

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

    def leave_out(self, patterns: Sequence[str]) -> None:
        """Leave out files and folders that fit these patterns, from now on; see :func:`lpi.search.files.scan`."""
        self.manifest = replace(self.manifest, exclude=tuple(patterns))
        self.manifest.write(self.folder)

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
            exclude=self.manifest.exclude,
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
        report: Report | None = None,
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
        if jobs:
            self.require_folder()
        outcome = embedder.run(jobs, on_progress=on_progress)
        if outcome.problems:
            file = self.folder / "skipped.json"
            skipped = read_json(file, dict) if file.exists() else {}
            for key, problem in outcome.problems.items():
                skipped |= dict.fromkeys(contents[key].paths, problem)
            write_json(file, dict(sorted(skipped.items())))
        about = describe(method)
        self.method = method
        stage = Stage(
            number=len(self.manifest.stages),
            kind=kind,
            task=task,
            model=about.model,
            tasks=about.tasks,
            version=self.manifest.current.version,
            pictures=0,
            embedded=outcome.embedded + (report["embedded"] if report else 0),
            seconds=0.0,
            when=timestamp(),
            report=report,
        )
        self.publish(contents, stage, started)
        return self.manifest.current

    def require_folder(self) -> None:
        """Refuse to embed where the folder of pictures isn't: every one of them would be taken for gone.

        Raises:
            MissingFileError: it isn't there, or is empty.
        """
        if not any(self.root.glob("*")):
            raise MissingFileError(f"{self.root} isn't there or is empty. Connect the disk it is on.")

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
        """Load the current model once more, to be changed."""
        return self.load(self.manifest.current)

    def load(self, stage: Stage) -> Method:
        """Load the model of a stage, on the backbone of the current one."""
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
        # an earlier version might go back to tables that it had called outdated
        outdated = [own for own in self.manifest.outdated if own[0] != self.manifest.store]
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
        version = refresh(self.store, self.maker(self.method), current.version, contents)
        if version == current.version and stage is None:
            return
        look = current.look
        if version != current.version:
            version = self.store.settle(approximate_from=self.approximate_from, trained=look.trained)
        rows = self.store.rows(version)
        grown = len(rows) >= min(FURTHER * look.pictures, GROWN * look.trained)
        if rows.is_approximate() and (stage is not None or grown):
            look = self.choose_look(rows)
        now = replace(stage or current, version=version, pictures=len(rows), look=look)
        if started is not None:
            now = replace(now, seconds=round(time.monotonic() - started, 3))
        self.store.pin(now.pin, version)
        self.manifest = self.manifest.with_stage(now)
        self.manifest.write(self.folder)
        self.store.unpin({kept.pin for kept in self.manifest.stages})

    def choose_look(self, rows: Rows) -> Look:
        """How the approximate index of some rows is to be searched."""
        trained, pictures = self.manifest.current.look.trained, len(rows)
        look = choose(rows, sampled_words(self.folder, self.method), self.manifest.recall)
        return replace(look, trained=pictures if pictures >= GROWN * trained else trained)

    def want(self, recall: float) -> None:
        """Keep another wanted recall of approximate search with the index, and choose anew how it is searched.

        Raises:
            ConfigError: it isn't between 0 and 1.
        """
        if not 0 < recall <= 1:
            raise ConfigError(f"recall must be above 0 and at most 1; got {recall}.")
        if recall == self.manifest.recall:
            return
        self.manifest, current = replace(self.manifest, recall=recall), self.manifest.current
        rows = self.store.rows(current.version)
        if rows.is_approximate():
            self.manifest = self.manifest.with_stage(replace(current, look=self.choose_look(rows)))
        self.manifest.write(self.folder)


@contextlib.contextmanager
def change(
    folder: str | Path,
    *,
    workers: int | None = None,
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
