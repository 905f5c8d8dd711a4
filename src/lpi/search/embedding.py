"""From files to features in the store: decoded ahead by threads, a route's pictures gathered until a batch is full."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lpi.methods.base import chunks
from lpi.search.encoding import Half, Routing
from lpi.search.files import CheckedPicture, OnProgress
from lpi.search.identity import ROUTING
from lpi.search.routes import Routes
from lpi.tasks.batches import PictureStore, Pixels

KEEP_SECONDS = 5.0  # features wait so long in memory: what a crash costs at most


@dataclass(frozen=True)
class Job:
    """A picture to embed.

    Attributes:
        id: of its content.
        files: where it lies; any one will do.
        routes: what to embed it under; ``None`` where even its routing feature is missing, which then decides.
    """

    id: str
    files: tuple[Path, ...]
    routes: tuple[int, ...] | None


@dataclass
class Outcome:
    """How many pictures were embedded, and why others were not.

    Attributes:
        embedded: how many pictures were.
        problems: why others couldn't be opened, by id.
    """

    embedded: int = 0
    problems: dict[str, str] = field(default_factory=dict)


class Embedder:
    """Embeds pictures under one model.

    Args:
        routes: the model, where features go, and where pictures belong.
        workers: threads that decode; by default one for each processor.
        keep_seconds: the longest that features stay in memory only.
    """

    def __init__(self, routes: Routes, *, workers: int | None = None, keep_seconds: float = KEEP_SECONDS) -> None:
        self.routes, self.workers, self.keep_seconds = routes, workers, keep_seconds
        self.encoder, self.store, self.keys = routes.encoder, routes.store, routes.keys
        self._known: dict[str, set[str]] = {}
        self._waiting: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
        self._features: dict[str, list[tuple[list[str], Half]]] = defaultdict(list)
        self._about: dict[str, list[object]] = defaultdict(list)
        self._reads = self.encoder.reads()
        self._kept = time.monotonic()

    def known(self, key: str) -> set[str]:
        """Ids of pictures whose features under a key are kept."""
        if key not in self._known:
            self._known[key] = self.store.known(key)
        return self._known[key]

    def jobs(self, files: dict[str, tuple[Path, ...]]) -> list[Job]:
        """What has to be embedded before all these pictures (files by id) can be searched.

        Decided from the kept routing features: no file is opened.
        """
        known = self.known(ROUTING)
        seen = [key for key in files if key in known]
        jobs = [Job(key, paths, None) for key, paths in files.items() if key not in known]
        for key, routes in zip(seen, self.missing(seen, self.routes.of(seen)), strict=True):
            if routes:
                jobs.append(Job(key, files[key], routes))
        return sorted(jobs, key=lambda job: str(job.files[0]))

    def missing(self, ids: Sequence[str], routing: Routing) -> list[tuple[int, ...]]:
        """The routes that each picture's mixture asks for and whose features aren't kept."""
        wanted: list[tuple[int, ...]] = []
        for key, routes, weights in zip(ids, routing.routes.tolist(), routing.weights.tolist(), strict=True):
            asked = {route for route, weight in zip(routes, weights, strict=True) if weight > 0}
            wanted.append(tuple(sorted(route for route in asked if key not in self.known(self.keys[route]))))
        return wanted

    def run(
        self, jobs: Sequence[Job], *, on_progress: OnProgress | None = None, on_kept: Callable[[], None] | None = None
    ) -> Outcome:
        """Open pictures, embed them under their routes, and keep the features.

        Args:
            jobs: which.
            on_progress: told what is going on, how many are done and how many there are.
            on_kept: called whenever what was done so far is in the store.
        """
        inputs, size = self.encoder.inputs, self.encoder.batch
        pictures = [CheckedPicture(job.id, job.files, inputs.prepare) for job in jobs]
        height, width = inputs.image_size

        def passed_on(image: Image.Image) -> Pixels:
            return np.asarray(image) if image.size == (width, height) else inputs.prepare(image)

        decoder = PictureStore(pictures, passed_on, side=min(inputs.image_size), memory_bytes=0, workers=self.workers)
        outcome = Outcome()
        batches = list(chunks(range(len(jobs)), size))
        coming = decoder.in_turn(batches)
        try:
            for batch in batches:
                pixels = next(coming)
                self._take([jobs[i] for i in batch], [pictures[i] for i in batch], pixels, outcome)
                if time.monotonic() - self._kept > self.keep_seconds:
                    self._keep_all()
                    if on_kept is not None:
                        on_kept()
                if on_progress is not None:
                    on_progress("embedding pictures", batch[-1] + 1, len(jobs))
            self._keep_all()
        finally:
            coming.close()
            decoder.close()
        return outcome

    def _take(self, jobs: list[Job], pictures: list[CheckedPicture], pixels: Tensor, outcome: Outcome) -> None:
        good = []
        for row, (job, picture) in enumerate(zip(jobs, pictures, strict=True)):
            if picture.problem is None:
                good.append(row)
            else:
                outcome.problems[job.id] = picture.problem
        outcome.embedded += len(good)
        fresh = [row for row in good if jobs[row].routes is None]
        wanted = {row: jobs[row].routes or () for row in good}
        if fresh:
            ids = [jobs[row].id for row in fresh]
            under: Callable[[int], Half | None] | None = None
            if self._reads:
                features, under = self.encoder.read(pixels[fresh])
            else:
                features = self.encoder.routing_features(pixels[fresh])
            self._add(ROUTING, ids, features)
            for name in ("width", "height", "taken"):
                self._about[name] += [getattr(pictures[row].about, name) for row in fresh]
            routing = self.routes.decide(ids, features)
            if under is not None:
                self._add_mapped(ids, self.missing(ids, routing), under)
            wanted |= dict(zip(fresh, self.missing(ids, routing), strict=True))
        for row in good:
            for route in wanted[row]:
                self._waiting[route].append((jobs[row].id, pixels[row].clone()))
        for route, waiting in self._waiting.items():
            if len(waiting) >= self.encoder.batch:
                self._encode(route, waiting[: self.encoder.batch])
                del waiting[: self.encoder.batch]

    def _add_mapped(self, ids: list[str], asked: list[tuple[int, ...]], under: Callable[[int], Half | None]) -> None:
        """Keep what the pictures' first pass gives of the routes that each of them asks for."""
        for route in sorted({route for routes in asked for route in routes}):
            found = under(route)
            if found is not None:
                rows = [row for row, routes in enumerate(asked) if route in routes]
                self._add(self.keys[route], [ids[row] for row in rows], found[rows])

    def _encode(self, route: int, waiting: list[tuple[str, Tensor]]) -> None:
        features = self.encoder.under(torch.stack([pixels for _, pixels in waiting]), route)
        self._add(self.keys[route], [key for key, _ in waiting], features)

    def _add(self, key: str, ids: Collection[str], features: Half) -> None:
        self._features[key].append((list(ids), features))
        self.known(key).update(ids)

    def _keep_all(self) -> None:
        for route, waiting in self._waiting.items():
            for start in range(0, len(waiting), self.encoder.batch):
                self._encode(route, waiting[start : start + self.encoder.batch])
        self._waiting.clear()
        for key, parts in self._features.items():
            ids = [own for part, _ in parts for own in part]
            about = {name: list(values) for name, values in self._about.items()} if key == ROUTING else {}
            self.store.keep(key, ids, np.concatenate([features for _, features in parts]), **about)
        self._features.clear()
        self._about.clear()
        self._kept = time.monotonic()
