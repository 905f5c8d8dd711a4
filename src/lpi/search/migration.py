"""Moving an index to another model, within budgets, searchable meanwhile.

1. ``next`` in the folder of the index becomes an index of its own, with the new model and without pictures.
2. Pictures are embedded in it, those first that are new in the folder, and then in the order of their ids, which is
   none, until the budget is used up; the same command goes on. As soon as there are enough of them, both indexes are
   searched as one, with the new model (:mod:`lpi.search.pair`).
3. When all have a new vector, the manifest of ``next`` takes the place of the old one: one file, written atomically.

Each step is done again where it was cut short, and finds what it kept. The new half is written by the very code that
any index is written by, so in the end it is what ``lpi index`` with the new model would have made.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpi.errors import ConfigError, OutputError
from lpi.methods import Named
from lpi.search.building import create, move_root
from lpi.search.files import OnProgress, Scan
from lpi.search.identity import check_same, describe, load_model, short_hash
from lpi.search.manifest import (
    NEXT,
    STORE,
    Json,
    Manifest,
    is_address,
    only_writer,
    read_manifest,
    seen_from_above,
    successor,
    timestamp,
)
from lpi.search.pair import enough
from lpi.search.places import drop_store, remove_folder, remove_lessons
from lpi.search.writer import PUBLISH_SECONDS, Writer, change
from lpi.storage import write_json

SLICE_BATCHES = 8  # batches between two looks at the clock
UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Budget:
    """How much to embed before stopping.

    Attributes:
        pictures: so many; ``None`` for all.
        seconds: for so long; ``None`` for as long as it takes.
    """

    pictures: int | None = None
    seconds: float | None = None

    @classmethod
    def read(cls, text: str | None) -> Budget:
        """Read a budget as a person writes it.

        >>> Budget.read("500"), Budget.read("1.5h")
        (Budget(pictures=500, seconds=None), Budget(pictures=None, seconds=5400.0))

        Raises:
            ConfigError: it is neither a number of pictures nor a time.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
        if found is None or (not found[2] and "." in found[1]):
            raise ConfigError(f"budget must be a number of pictures, or a time such as 90s, 10m or 2h; got {text!r}.")
        return cls(seconds=float(found[1]) * UNITS[found[2]]) if found[2] else cls(pictures=int(found[1]))


@dataclass(frozen=True)
class Move:
    """How far an index is on its way.

    Attributes:
        pictures: how many there are.
        ready: how many of them have a new vector.
        embedded: how many of these were embedded just now.
        searched: queries are encoded by the new model now.
        finished: the index has the new model now, and nothing of the old one is searched any more.
        skipped: why files were left out, by path.
        seconds: what it took just now.
    """

    pictures: int
    ready: int
    embedded: int
    searched: bool
    finished: bool
    skipped: dict[str, str]
    seconds: float


def begin(
    folder: str | Path, model: str | Path | None, *, device: str = "auto", method_file: Named | None = None
) -> Json | None:
    """Make sure that an index is on its way; returns the ``run.json`` beside a model that it sets out for just now.

    Args:
        folder: of the index.
        model: what to move to; see :func:`lpi.search.identity.load_model`. May be left out where it is on its way.
        device: where the model computes.
        method_file: the file or class of the model's method, where it is none of the library's.

    Raises:
        ConfigError: no model, or the one that the index has already.
        CheckpointError: the index is on its way to another model.
        OutputError: another command is changing it.
    """
    folder = Path(folder)
    on_its_way = successor(folder, read_manifest(folder))
    if on_its_way is not None:
        if model is not None:
            wanted = load_model(model, method_file)[0]
            check_same(folder / NEXT, on_its_way.recorded(on_its_way.current), wanted, str(model))
        return None
    if model is None:
        raise ConfigError(f"{folder} isn't on its way to another model. Say to which one with --model.")
    method, run = load_model(model, method_file)
    about = describe(method)
    with only_writer(folder):
        manifest = read_manifest(folder)  # loading took a while
        if about.model == manifest.current.model:
            raise ConfigError(f"{folder} has the model {model} already ({about.model}). There is nothing to do.")
        if successor(folder, manifest) is not None:
            raise OutputError(f"another command set {folder} on its way just now. Go on without --model.")
        if (folder / NEXT).exists():  # it was cut short before it counted, or after it was finished
            remove_folder(folder / NEXT)
        store = _store_for(manifest, about.model)
        drop_store(folder, store)
        below = store if is_address(store) else f"../{store}"
        create(folder / NEXT, manifest.root, method, device=device, store=below, recall=manifest.recall, run=run)
    return run


def _store_for(manifest: Manifest, model: str) -> str:
    """Where the tables of the next model are: beside those of this one, and of models that it had not long ago."""
    store, used = manifest.store, {manifest.store, *(own for own, _ in manifest.outdated)}
    root = re.sub("-[0-9a-f]{16}$", "", store.rstrip("/")) if is_address(store) else STORE
    while f"{root}-{model}" in used:  # it had this very model before
        model = short_hash(model)
    return f"{root}-{model}"


def abandon(folder: str | Path) -> None:
    """Give a move up: the index stays with the model that it has.

    Raises:
        ConfigError: it isn't on its way to another one.
    """
    folder = Path(folder)
    with only_writer(folder):
        new = successor(folder, read_manifest(folder))
        if new is None:
            raise ConfigError(f"{folder} isn't on its way to another model. There is nothing to give up.")
        remove_folder(folder / NEXT)
        drop_store(folder, seen_from_above(new.store))


def migrate(
    folder: str | Path,
    *,
    budget: Budget | None = None,
    workers: int | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Move:
    """Go on with a move that :func:`begin` began, as far as the budget goes.

    Args:
        folder: of the index.
        budget: how much to embed now.
        workers, device, options: see :func:`lpi.search.writer.change`.
        on_progress: told what is going on, how many are done and how many there are.

    Raises:
        ConfigError: the index isn't on its way to another model.
        OutputError: another command is changing the index.
    """
    started = time.monotonic()
    folder = Path(folder)
    with change(folder, workers=workers, device=device, on_its_way=True, **options) as old:
        if successor(folder, old.manifest) is None:
            raise ConfigError(f"{folder} isn't on its way to another model. Say to which one with --model.")
        move_root(folder / NEXT, old.manifest.root)
        with change(folder / NEXT, workers=workers, device=device, **options) as new:
            mover = _Mover(old, new, budget or Budget(), started, on_progress)
            finished = mover.embed()
            if finished:
                mover.finish()
            ready, known = new.contents(), old.contents()
            return Move(
                pictures=len(mover.found.contents) - len(mover.problems),
                ready=len(ready),
                embedded=mover.embedded,
                searched=finished or enough(len(set(ready) & set(known)), len(known)),
                finished=finished,
                skipped=mover.skipped(),
                seconds=round(time.monotonic() - started, 3),
            )


class _Mover:
    """One run of the command: the old half, the new one, and what the folder holds now."""

    def __init__(
        self, old: Writer, new: Writer, budget: Budget, started: float, on_progress: OnProgress | None
    ) -> None:
        self.old, self.new, self.budget, self.started, self.on_progress = old, new, budget, started, on_progress
        self.found: Scan = old.look({**new.contents(), **old.contents()}, on_progress=on_progress)
        old.publish(self.found.contents)  # what moved and what is gone; what is new gets a new vector only
        self.embedder = new.embedder(new.method)
        self.embedded = 0
        self.problems: dict[str, str] = {}

    def embed(self) -> bool:
        """Embed what has no new vector yet, as far as the budget goes; returns whether nothing is left."""
        known = set(self.old.contents())
        jobs = self.embedder.jobs(self.new.files(self.found.contents))
        jobs.sort(
            key=lambda job: job.id if job.id in known else ""
        )  # what is new in the folder can't be found at all yet
        size, done, published = SLICE_BATCHES * self.new.manifest.batch, 0, time.monotonic()
        while done < len(jobs) and (allowed := min(size, self._left())) > 0:
            part = jobs[done : done + allowed]
            outcome = self.embedder.run(part, on_progress=self._shifted(done, len(jobs)))
            self.embedded += outcome.embedded
            self.problems |= outcome.problems
            done += len(part)
            if time.monotonic() - published > PUBLISH_SECONDS:
                self.new.publish(self.found.contents)
                published = time.monotonic()
        self.new.publish(self.found.contents)
        return done == len(jobs)

    def _left(self) -> int:
        """How many pictures may still be embedded, as far as that is known now."""
        budget = self.budget
        if budget.seconds is not None and time.monotonic() - self.started >= budget.seconds:
            return 0
        return max(0, (2**31 if budget.pictures is None else budget.pictures) - self.embedded)

    def _shifted(self, done: int, total: int) -> OnProgress | None:
        tell = self.on_progress
        return None if tell is None else lambda what, now, _: tell(what, done + now, total)

    def skipped(self) -> dict[str, str]:
        """Why files were left out, by path."""
        skipped = self.found.unread | self.found.skipped  # whole folders are said first
        for key, problem in self.problems.items():
            skipped |= dict.fromkeys(self.found.contents[key].paths, problem)
        return skipped

    def finish(self) -> None:
        """Let the new half take the place of the old one. What is cut short after the manifest is only tidying."""
        old, new = self.old, self.new
        old.keep_model(new.method)
        write_json(old.folder / "skipped.json", dict(sorted(self.skipped().items())))
        outdated = (*old.manifest.outdated, (old.manifest.store, timestamp()))
        store, exclude = seen_from_above(new.manifest.store), old.manifest.exclude
        replace(new.manifest, store=store, outdated=outdated, exclude=exclude).write(old.folder)
        remove_folder(old.folder / NEXT)
        remove_lessons(old.folder)
