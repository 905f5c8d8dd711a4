"""Moving an index to another model, searchable with it from the first minutes on.

1. ``next`` in the folder of the index becomes an index of its own, with the new model and without pictures.
2. A sample of the pictures is embedded in it, and some words are encoded by both models.
3. A bridge is learned from the sample, measured on a part of it, and saved: from then on every query is encoded by the
   new model, and the old vectors are searched over the bridge (:mod:`lpi.search.crossing`).
4. All other pictures are embedded, those first that are new in the folder, and then in the order of expected gain
   (:func:`lpi.search.sample.order_of_gain`), until the budget is used up; the same command goes on.
5. When all have a new vector, the manifest of ``next`` takes the place of the old one: one file, written atomically.

Each step is done again where it was cut short, and finds what it kept. The new half is written by the very code that
any index is written by, so in the end it is what ``lpi index`` with the new model would have made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lpi.errors import ConfigError
from lpi.methods import Named
from lpi.search.bridge import Pairs, check_kind
from lpi.search.crossing import FILE as BRIDGE
from lpi.search.crossing import Crossing, load_crossing, save_crossing
from lpi.search.files import OnProgress, Scan
from lpi.search.identity import check_same, describe, load_model
from lpi.search.manifest import NEXT, STORE, is_address, only_writer, read_manifest, seen_from_above, successor
from lpi.search.recorded import on_record
from lpi.search.sample import LEAST, Sample, order_of_gain, sampled, words_of
from lpi.search.store import Rows
from lpi.search.writer import (
    PUBLISH_SECONDS,
    Writer,
    change,
    create,
    drop_store,
    move_root,
    remove_folder,
    remove_lessons,
    timestamp,
)
from lpi.storage import write_json

SAMPLE = 1000
KIND = "procrustes"
SLICE_BATCHES = 8  # batches between two looks at the clock
UNITS = {"s": 1, "m": 60, "h": 3600}

OnBridge = Callable[[Crossing], None]


@dataclass(frozen=True)
class Budget:
    """How much to embed before stopping; the sample is embedded in any case.

    Attributes:
        pictures: so many, the sample's among them; ``None`` for all.
        seconds: for so long; ``None`` for as long as it takes.
    """

    pictures: int | None = None
    seconds: float | None = None

    @classmethod
    def read(cls, text: str | None) -> Budget:
        """A budget as a person writes it.

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
        finished: the index has the new model now.
        bridge: its kind, how it was learned, and what was measured; ``None`` where none was needed.
        skipped: why files were left out, by path.
        seconds: what it took just now.
    """

    pictures: int
    ready: int
    embedded: int
    finished: bool
    bridge: dict[str, Any] | None
    skipped: dict[str, str]
    seconds: float


def begin(
    folder: str | Path, model: str | Path | None, *, device: str = "auto", method_file: Named | None = None
) -> dict[str, Any] | None:
    """Make sure that an index is on its way; returns the ``run.json`` beside a model that it sets out for just now.

    Args:
        folder: of the index.
        model: what to move to; see :func:`lpi.search.identity.load_model`. May be left out where it is on its way.
        device: where the model computes.
        method_file: the file or class of the model's method, where it is none of the library's.

    Raises:
        ConfigError: no model, or the one that the index has already.
        CheckpointError: the index is on its way to another model.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    on_its_way = successor(folder, manifest)
    if on_its_way is not None:
        if model is not None:
            wanted = load_model(model, method_file)[0]
            check_same(folder / NEXT, on_its_way.recorded(on_its_way.current), wanted, str(model))
        return None
    if model is None:
        raise ConfigError(f"{folder} isn't on its way to another model. Say to which one with --model.")
    method, run = load_model(model, method_file)
    about = describe(method)
    if about["model"] == manifest.current.model:
        raise ConfigError(f"{folder} has the model {model} already ({about['model']}). There is nothing to do.")
    with only_writer(folder):
        if (folder / NEXT).exists():  # it was cut short before it counted, or after it was finished
            remove_folder(folder / NEXT)
        store = _store_for(manifest.store, about["model"])
        drop_store(folder, store)
        below = store if is_address(store) else f"../{store}"
        create(folder / NEXT, manifest.root, method, device=device, store=below)
    return run


def _store_for(store: str, model: str) -> str:
    """Where the tables of the next model are: beside those of this one."""
    return f"{re.sub('-[0-9a-f]{16}$', '', store.rstrip('/')) if is_address(store) else STORE}-{model}"


def abandon(folder: str | Path) -> None:
    """Give up: the index stays with the model that it has.

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
    bridge: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    workers: int = 2,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    on_bridge: OnBridge | None = None,
    **options: Any,
) -> Move:
    """Go on with a move that :func:`begin` began, as far as the budget goes.

    Args:
        folder: of the index.
        bridge: the kind; by default the one that was chosen before, or else :data:`KIND`.
        sample: how many pictures the bridge is learned from and measured on; by default as before, or :data:`SAMPLE`.
        seed: of the sample and the bridge.
        budget: how much to embed now.
        workers, device, options: see :func:`lpi.search.writer.change`.
        on_progress: told what is going on, how many are done and how many there are.
        on_bridge: told about the bridge, as soon as searches use it.

    Raises:
        UnknownNameError: no bridge has that name.
        OutputError: another command is changing the index.
    """
    started = time.monotonic()
    folder, budget = Path(folder), budget or Budget()
    if bridge is not None:
        check_kind(bridge)
    with change(folder, workers=workers, device=device, on_its_way=True, **options) as old:
        if successor(folder, old.manifest) is None:
            raise ConfigError(f"{folder} isn't on its way to another model. Say to which one with --model.")
        move_root(folder / NEXT, old.manifest.root)
        with change(folder / NEXT, workers=workers, device=device, **options) as new:
            mover = _Mover(old, new, budget, started, on_progress)
            crossing = mover.cross(bridge, sample, seed)
            if crossing is not None and on_bridge is not None:
                on_bridge(crossing)
            finished = mover.embed_rest(crossing)
            if finished:
                mover.finish()
            return Move(
                pictures=len(mover.found.contents) - len(mover.problems),
                ready=len(mover.ready()),
                embedded=mover.embedded,
                finished=finished,
                bridge=None if crossing is None else {**crossing.sample, **crossing.kept},
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

    def ready(self) -> set[str]:
        """Pictures that have a new vector."""
        return set(self.new.contents())

    # ---- the bridge --------------------------------------------------------------------------------------------------

    def cross(self, kind: str | None, count: int | None, seed: int) -> Crossing | None:
        """Have the bridge: the one that was learned before, or else, or if it was another, learn it now."""
        models = {"old": self.old.manifest.current.model, "new": self.new.manifest.current.model}
        before = load_crossing(self.new.folder, **models) if (self.new.folder / BRIDGE).exists() else None
        asked: dict[str, Any] = before.sample if before else {"kind": KIND, "sample": SAMPLE, "seed": seed}
        asked = {**asked, **({"kind": kind} if kind else {}), **({"sample": count} if count else {})}
        if before is not None and asked == before.sample:
            return before
        sample = self._sample(asked["sample"], asked["seed"])
        if sample is None:
            return None
        learned = sample.learn(asked["kind"])
        crossing = Crossing(learned, sample.pictures, sample=asked, kept=sample.measure(learned), **models)
        save_crossing(self.new.folder, crossing)
        return crossing

    def _sample(self, count: int, seed: int) -> Sample | None:
        """Both models' vectors of some pictures and words; ``None`` where there are too few pictures for a bridge."""
        ids = self._chosen(count, seed)
        if len(ids) < LEAST:
            return None
        self._embed(ids, whole=True)
        ready = self.ready()
        ids = [key for key in ids if key in ready]
        if len(ids) < LEAST:
            return None
        texts = self._words(count, seed)
        pictures = Pairs(*(torch.from_numpy(_rows(half).vectors(ids)) for half in (self.new, self.old)))
        words = Pairs(*(half.method.encode_texts(texts).float().cpu() for half in (self.new, self.old)))
        return Sample(pictures, words, seed)

    def _chosen(self, count: int, seed: int) -> list[str]:
        """The pictures of the sample: at most half, as a bridge to the last picture would be there too late."""
        known = set(self.old.contents()) & set(self.found.contents)
        return sampled(known, min(count, len(known) // 2), seed)

    def _words(self, count: int, seed: int) -> list[str]:
        names = [path for content in self.found.contents.values() for path in content.paths]
        return words_of(self.new.method, names, self._captions(), count, seed)

    def _captions(self) -> set[str]:
        sets = on_record(self.old.folder).values()
        return {caption for own in sets for record in own.records for caption in record.captions}

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def embed_rest(self, crossing: Crossing | None) -> bool:
        """Embed what has no new vector yet, in the order of expected gain; returns whether nothing is left."""
        ready = self.ready()
        waiting = [key for key in self.found.contents if key not in ready]
        return self._embed(self._in_order(waiting, crossing))

    def _in_order(self, waiting: list[str], crossing: Crossing | None) -> list[str]:
        """What is new in the folder, as it can't be found at all, and then what gains most."""
        known = set(self.old.contents())
        fresh = [key for key in waiting if key not in known]
        rest = sorted(key for key in waiting if key in known)
        if crossing is None:
            return [*fresh, *rest]
        queries = crossing.anchors.new  # pictures that may be asked for, and what people wrote, where it is on record
        captions = sampled(self._captions(), crossing.sample["sample"], crossing.sample["seed"])
        if captions:
            queries = torch.cat([queries, self.new.method.encode_texts(captions).float().cpu()])
        vectors = torch.from_numpy(_rows(self.old).vectors(rest))
        with torch.no_grad():
            order = order_of_gain(crossing.bridge(queries), vectors)
        return [*fresh, *(rest[place] for place in order.tolist())]

    def _embed(self, ids: list[str], *, whole: bool = False) -> bool:
        """Embed pictures in this order, the whole of them or as far as the budget goes; returns whether all were."""
        chosen = {key: self.found.contents[key] for key in ids}
        jobs = {job.id: job for job in self.embedder.jobs(self.new.files(chosen))}
        ordered = [jobs[key] for key in ids if key in jobs]
        size, done, published = SLICE_BATCHES * self.new.manifest.batch, 0, time.monotonic()
        while done < len(ordered):
            allowed = size if whole else min(size, self._left())
            if allowed <= 0:
                break
            part = ordered[done : done + allowed]
            outcome = self.embedder.run(part, on_progress=self._shifted(done, len(ordered)))
            self.embedded += outcome.embedded
            self.problems |= outcome.problems
            done += len(part)
            if time.monotonic() - published > PUBLISH_SECONDS:
                self.new.publish(self.found.contents)
                published = time.monotonic()
        self.new.publish(self.found.contents)
        return done == len(ordered)

    def _left(self) -> int:
        """How many pictures may still be embedded, as far as that is known now."""
        budget = self.budget
        if budget.seconds is not None and time.monotonic() - self.started >= budget.seconds:
            return 0
        return max(0, (2**31 if budget.pictures is None else budget.pictures) - self.embedded)

    def _shifted(self, done: int, total: int) -> OnProgress | None:
        tell = self.on_progress
        return None if tell is None else lambda what, now, _: tell(what, done + now, total)

    # ---- the end -----------------------------------------------------------------------------------------------------

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
        manifest = replace(new.manifest, store=seen_from_above(new.manifest.store), outdated=outdated)
        manifest.write(old.folder)
        remove_folder(old.folder / NEXT)
        remove_lessons(old.folder)


def _rows(half: Writer) -> Rows:
    return half.store.rows(half.manifest.current.version)
