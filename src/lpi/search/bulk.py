"""Embedding in several processes, on this machine or on a cluster, by Daft.

Files are listed and hashed as ever, and one process alone writes the index. What is spread is the costly part: each
worker process loads the model from the index's own copy, is handed pictures by id and path, and hands back what an
:class:`~lpi.search.embedding.Embedder` makes of them. So the result is the same as that of one process, as long as the
workers compute with as many threads; with another number the last bits of a feature may differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import numpy as np
import torch

from lpi.errors import LpiError
from lpi.extras import missing_extra
from lpi.methods import method_source, outside
from lpi.methods.checkpoint import load_method
from lpi.search.embedding import Embedder, Job, Outcome
from lpi.search.encoding import Encoder, Half
from lpi.search.files import OnProgress
from lpi.search.identity import ROUTING
from lpi.search.routes import Routes

BATCHES = 4  # forward passes in what a worker is handed at once


class Noted(TypedDict, total=False):
    """What is known of a picture that was opened; nothing of one whose routing feature was kept."""

    width: int | None
    height: int | None
    taken: str | None


class Made(Noted):
    """What a worker hands back: features by the keys of their routes, or the problem that the picture has."""

    id: str
    problem: str | None
    keys: list[str]
    features: list[bytes]


ABOUT: tuple[Literal["width", "height", "taken"], ...] = ("width", "height", "taken")


class BulkEmbedder(Embedder):
    """Embeds pictures under one model in worker processes.

    Args:
        routes: the model, where features go, and where pictures belong.
        model: where the model is saved, for the workers; they must find it and the pictures under the same paths.
        processes: how many workers.
        threads: of each worker's computing; by default this process's, shared out.
        workers: threads of each worker that decode.
        keep_seconds: the longest that features stay in memory only.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        model: Path,
        processes: int,
        threads: int | None = None,
        workers: int | None = None,
        keep_seconds: float,
    ) -> None:
        super().__init__(routes, workers=workers, keep_seconds=keep_seconds)
        self.model, self.processes = model, processes
        self.threads = threads or max(1, torch.get_num_threads() // processes)

    def run(
        self, jobs: Sequence[Job], *, on_progress: OnProgress | None = None, on_kept: Callable[[], None] | None = None
    ) -> Outcome:
        """Embed pictures; see :class:`lpi.search.embedding.Embedder`.

        Raises:
            MissingExtraError: Daft is not installed.
            LpiError: a worker failed.
        """
        outcome = Outcome()
        if not jobs:
            return outcome
        for done, row in enumerate(self._rows(jobs), start=1):
            if row["problem"] is not None:
                outcome.problems[row["id"]] = row["problem"]
            else:
                outcome.embedded += 1
                self._collect(row)
            if time.monotonic() - self._kept > self.keep_seconds:
                self._keep_all()
                if on_kept is not None:
                    on_kept()
            if on_progress is not None:
                on_progress("embedding pictures", done, len(jobs))
        self._keep_all()
        return outcome

    def _collect(self, row: Made) -> None:
        for key, feature in zip(row["keys"], row["features"], strict=True):
            self._add(key, [row["id"]], np.frombuffer(feature, dtype=np.float16)[None])
            if key == ROUTING:
                for name in ABOUT:
                    self._about[name].append(row[name])

    def _rows(self, jobs: Sequence[Job]) -> Iterator[Made]:
        """Features and problems of each job's picture, as the workers hand them back, in any order."""
        daft = load_daft()
        kind = daft.DataType
        whole, text = kind.int32(), kind.string()
        names = {"id": text, "problem": text, "width": whole, "height": whole, "taken": text}
        row = kind.struct({**names, "keys": kind.list(text), "features": kind.list(kind.binary())})
        batch = BATCHES * self.encoder.batch
        hired = type("Hired", (Worker,), {"embed": daft.method.batch(return_dtype=row, batch_size=batch)(_embed)})
        workers = daft.cls(hired, use_process=True, max_concurrency=self.processes)(
            str(self.model),
            self.encoder.batch,
            self.workers,
            self.threads,
            str(self.encoder.method.backbone.device),
            None if (own := outside(type(self.encoder.method))) is None else method_source(own),
        )
        columns = {
            "id": [job.id for job in jobs],
            "files": [[str(file) for file in job.files] for job in jobs],
            "fresh": [job.routes is None for job in jobs],
            "routes": [list(job.routes or ()) for job in jobs],
        }
        frame = daft.from_pydict(columns)
        if daft.get_or_infer_runner_type() != "native":  # on a cluster a piece is one node's, and comes back as a whole
            frame = frame.into_partitions(max(self.processes, -(-len(jobs) // batch)))
        frame = frame.select(workers.embed(*(daft.col(name) for name in columns)).alias("row"))
        try:
            for found in frame.iter_rows():
                yield found["row"]
        except LpiError:
            raise
        except Exception as error:  # Daft's own kinds, around whatever a worker raised
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise LpiError(
                f"a worker process failed: {lines[-1].strip()[:300]}. Try again without --processes."
            ) from error


class Worker:
    """What one process holds: the model, and a basket for what it makes.

    Args:
        model: where it is saved.
        batch: pictures in a forward pass.
        workers: threads that decode.
        threads: that compute.
        device: where the model computes.
        method_file: of the model, where its method is none of the library's.
    """

    def __init__(
        self, model: str, batch: int, workers: int, threads: int, device: str, method_file: str | None = None
    ) -> None:
        torch.set_num_threads(threads)
        self.basket = Basket()
        encoder = Encoder(load_method(model, method=method_file).to(device), batch=batch)
        self.embedder = Embedder(Routes(encoder, self.basket), workers=workers, keep_seconds=float("inf"))

    def made(self, jobs: Sequence[Job]) -> list[Made]:
        """Features and problems of pictures, in the order of their jobs."""
        problems = self.embedder.run(jobs).problems
        rows = []
        for job in jobs:
            features, about = self.basket.taken(job.id)
            rows.append(
                Made(
                    id=job.id,
                    problem=problems.get(job.id),
                    keys=list(features),
                    features=[feature.tobytes() for feature in features.values()],
                    width=about.get("width"),
                    height=about.get("height"),
                    taken=about.get("taken"),
                )
            )
        return rows


def _embed(self: Worker, ids: Any, files: Any, fresh: Any, routes: Any) -> list[Made]:
    """The method that Daft calls in a worker, with a column of each."""
    rows = zip(ids.to_pylist(), files.to_pylist(), fresh.to_pylist(), routes.to_pylist(), strict=True)
    jobs = [Job(key, tuple(Path(file) for file in own), None if new else tuple(asked)) for key, own, new, asked in rows]
    return self.made(jobs)


class Basket:
    """Takes the place of the store in a worker: holds what was made until it is handed back."""

    def __init__(self) -> None:
        self._features: dict[str, dict[str, Half]] = {}
        self._about: dict[str, Noted] = {}

    def known(self, key: str) -> set[str]:
        """Nothing: a worker is handed only what is missing."""
        return set()

    def features(self, key: str, ids: Sequence[str]) -> Half:
        """Features of pictures, [ids, features]."""
        return np.stack([self._features[own][key] for own in ids])

    def keep(self, key: str, ids: Sequence[str], features: Half, **columns: Sequence[object]) -> None:
        """Hold features of pictures, [ids, features], and what else is known of them."""
        for row, own in enumerate(ids):
            self._features.setdefault(own, {})[key] = features[row]
            if columns:
                self._about[own] = cast(Noted, {name: values[row] for name, values in columns.items()})

    def taken(self, key: str) -> tuple[dict[str, Half], Noted]:
        """A picture's features by route and what else is known of it; they are no longer here then."""
        return self._features.pop(key, {}), self._about.pop(key, {})


def load_daft() -> Any:
    """The library, which then reports nothing to anybody.

    Raises:
        MissingExtraError: it isn't installed.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read when it is imported, and by its workers
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")  # we have our own
    try:
        import daft
    except ImportError as error:
        raise missing_extra("Daft is not installed", "cluster") from error
    return daft
