"""The index's store at 100,000 and 1,000,000 vectors, side by side with FAISS.

    python benchmarks/search_scale.py --real CAPTIONED --model BACKBONE --results results/search_scale.json
    python benchmarks/search_scale.py --sizes 5000 --results scale.json

FAISS is no dependency of this library: pip install faiss-cpu; where it isn't installed, its engines are left out, which
is said. Every engine runs in a process of its own, so that its peak memory is its own. Vectors have length 1 and are
drawn anew in every process: ``random`` ones and ``clustered`` ones of 256 numbers. All pictures lie around one
direction, as CLIP's do. Queries come from two directions: an ``image`` query lies where pictures do, a ``text`` query
around another direction, and only its content is a picture's. The third set is ``real``: the pictures of the folder
CAPTIONED (it has a captions.jsonl) as BACKBONE sees them, each many times with noise as long as half the mean distance
from a picture to its nearest; a ``text`` query is a caption, an ``image`` query a picture with other noise.

Rates are of rows as an index has them (paths, dates, tasks beside the vector) for the store, and of bare vectors for
FAISS. Latencies are of one query at a time, for ten hits; recall@10 is the share of the true first ten that are found.
How the store's approximate index is searched is chosen as an index chooses it, on other queries than those that are
counted. FAISS's IVF looks through as many cells, and its HNSW keeps as many candidates, doubled each time, as bring
both recalls to the same 0.95 on the counted queries themselves, or the most that were tried. At a million vectors the
HNSW graph is built with efConstruction 40 and 16 links, not 100 and 32, to end in time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from search_data import with_store

from lpi.evaluation.machine import environment
from lpi.evaluation.memory import PeakMemory
from lpi.storage import write_json

Vectors = NDArray[np.float32]

WIDTH, CHUNK, CLUSTERS, FIRST = 256, 50_000, 1000, 10
CHANGED = 1000  # rows that are changed, and as many that are deleted
DISTRIBUTIONS = ("random", "clustered", "real")
ENGINES = ("lpi", "faiss_flat", "faiss_ivf", "faiss_hnsw")
SLOW = 200_000  # from here on, the graph is built with less effort
MOST = {"nprobe": 4096, "efSearch": 4096}
PICTURES = 2000  # of the real ones, spread over the folder


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--distributions", nargs="+", choices=DISTRIBUTIONS, default=DISTRIBUTIONS)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--queries", type=int, default=200, help="of each direction")
    parser.add_argument("--real", type=Path, help="folder of captioned pictures; without it, real is left out")
    parser.add_argument("--model", default="lpi-tiny", help="backbone that sees the real pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for the tables; by default a temporary one")
    parser.add_argument("--results", type=Path, default=Path("results/search_scale.json"))
    parser.add_argument("--one", nargs=4, metavar=("ENGINE", "SIZE", "DISTRIBUTION", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- vectors ---------------------------------------------------------------------------------------------------------


def unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class World:
    """Vectors that are the same in every process.

    Args:
        size: how many.
        distribution: of their content, ``random``, ``clustered`` or ``real``.
        seed: of everything.
        folder: where :func:`embed_real` left the real vectors.
    """

    def __init__(self, size: int, distribution: str, seed: int, folder: Path) -> None:
        self.size, self.distribution, self.seed = size, distribution, seed
        generator = np.random.default_rng([seed, 0])
        self.width = WIDTH
        if distribution == "real":
            real = np.load(folder / "real.npz")
            self.pictures, self.captions, self.length = real["pictures"], real["captions"], float(real["length"])
            self.width = self.pictures.shape[1]
            return
        self.images, self.texts = unit(generator.standard_normal((2, WIDTH), dtype=np.float32))
        self.centres = unit(generator.standard_normal((CLUSTERS, WIDTH), dtype=np.float32))

    def noise(self, generator: np.random.Generator, *shape: int) -> Vectors:
        """Noise of length 1 or nearly so."""
        return generator.standard_normal((*shape, self.width), dtype=np.float32) / np.float32(self.width**0.5)

    def contents(self, start: int) -> Vectors:
        """What a chunk of pictures shows."""
        count = min(CHUNK, self.size - start)
        generator = np.random.default_rng([self.seed, 1, start])
        drawn = self.noise(generator, count)
        if self.distribution == "random":
            return unit(drawn)
        return unit(self.centres[generator.integers(0, CLUSTERS, count)] + drawn)

    def noisy(self, seeds: list[int], count: int) -> Vectors:
        """So many real pictures, each with noise."""
        generator = np.random.default_rng([self.seed, *seeds])
        chosen = self.pictures[generator.integers(0, len(self.pictures), count)]
        return unit(chosen + np.float32(self.length) * self.noise(generator, count))

    def chunks(self) -> Iterator[tuple[int, Vectors]]:
        """All vectors, with the number of the first of each chunk."""
        for start in range(0, self.size, CHUNK):
            if self.distribution == "real":
                yield start, self.noisy([1, start], min(CHUNK, self.size - start))
            else:
                yield start, unit(np.float32(0.5) * self.images + self.contents(start))

    def queries(self, count: int, *, other: bool = False) -> dict[str, Vectors]:
        """So many of each direction, about what some picture of the first chunk shows; or ``other`` ones like them."""
        generator = np.random.default_rng([self.seed, 3 if other else 2])
        if self.distribution == "real":
            halves = np.array_split(np.random.default_rng(self.seed).permutation(len(self.captions)), 2)
            texts = self.captions[halves[other][:count]]
            return {"text": texts, "image": self.noisy([3 if other else 2], count)}
        contents = self.contents(0)
        about = contents[generator.integers(0, len(contents), (2, count))]
        noise = self.noise(generator, 2, count)
        image = unit(np.float32(0.5) * self.images + unit(about[0] + np.float32(0.5) * noise[0]))
        text = unit(self.texts + np.float32(0.5) * unit(about[1] + noise[1]))
        return {"text": text, "image": image}

    def truth(self, count: int) -> dict[str, NDArray[np.int64]]:
        """The true first ten of each query, [queries, 10]."""
        queries = self.queries(count)
        best = {
            name: (np.full((len(own), FIRST), -2.0, np.float32), np.zeros((len(own), FIRST), np.int64))
            for name, own in queries.items()
        }
        for start, vectors in self.chunks():
            numbers = np.arange(start, start + len(vectors))
            for name, own in queries.items():
                scores = np.concatenate([best[name][0], own @ vectors.T], axis=1)
                places = np.concatenate([best[name][1], np.broadcast_to(numbers, (len(own), len(numbers)))], axis=1)
                order = np.argpartition(-scores, FIRST - 1, axis=1)[:, :FIRST]
                best[name] = (np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1))
        return {name: places for name, (_, places) in best.items()}


def embed_real(folder: Path, model: str, place: Path) -> None:
    """Keep the vectors of real pictures and of a caption of each, under a frozen model."""
    import lpi
    from lpi.data.source import load_source

    records = list(load_source(folder))
    records = records[:: max(1, len(records) // PICTURES)][:PICTURES]
    method = lpi.method("zero_shot", lpi.backbone(model))
    blocks = [records[start : start + 64] for start in range(0, len(records), 64)]
    with torch.inference_mode():
        pictures = [method.encode_images([record.picture.open() for record in block]).numpy() for block in blocks]
        captions = [method.encode_texts([record.captions[0] for record in block]).numpy() for block in blocks]
    known, texts = unit(np.concatenate(pictures)), unit(np.concatenate(captions))
    cosines = known @ known.T
    np.fill_diagonal(cosines, -1)
    length = 0.5 * float(np.sqrt(np.maximum(2 - 2 * cosines.max(axis=1), 0)).mean())
    np.savez(place / "real.npz", pictures=known, captions=texts, length=length)


# ---- measuring -------------------------------------------------------------------------------------------------------


class Sheet:
    """What one engine did: seconds of each step, and the highest memory in it."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {"peak_mb": {"before": PeakMemory().megabytes()}}

    def step(self, name: str, act: Callable[[], Any]) -> Any:
        peak, started = PeakMemory(), time.perf_counter()
        result = act()
        self.figures[f"{name}_seconds"] = round(time.perf_counter() - started, 3)
        self.figures["peak_mb"][name] = peak.megabytes()
        return result

    def insert(self, world: World, add: Callable[[int, Vectors], object]) -> None:
        """Add all vectors; drawing them isn't counted."""
        peak, seconds = PeakMemory(), 0.0
        for start, vectors in world.chunks():
            started = time.perf_counter()
            add(start, vectors)
            seconds += time.perf_counter() - started
        self.figures["insert_seconds"] = round(seconds, 3)
        self.figures["insert_rows_per_second"] = round(world.size / max(seconds, 1e-9))
        self.figures["peak_mb"]["insert"] = peak.megabytes()

    def search(
        self, name: str, queries: dict[str, Vectors], truth: dict[str, NDArray[np.int64]], ask: Callable[[Vectors], Any]
    ) -> None:
        """Time and recall of a way to search; ``ask`` gives the numbers of a query's hits."""
        peak, taken, recall = PeakMemory(), [], {}
        for direction, own in queries.items():
            ask(own[0])
            kept = []
            for query, right in zip(own, truth[direction], strict=False):
                started = time.perf_counter()
                found = ask(query)
                taken.append(1000 * (time.perf_counter() - started))
                kept.append(len({int(number) for number in found} & set(right.tolist())) / FIRST)
            recall[direction] = round(float(np.mean(kept)), 4)
        middle, high = np.percentile(taken, [50, 95])
        self.figures[name] = {
            "milliseconds": {"median": round(float(middle), 3), "p95": round(float(high), 3)},
            "recall_at_10": recall,
            "queries": len(taken),
            "peak_mb": peak.megabytes(),
        }


def size_mb(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20, 1)


# ---- the engines -----------------------------------------------------------------------------------------------------


def rows_of(store: Any, numbers: range, vectors: Vectors) -> Any:
    """Rows as an index has them."""
    count = len(numbers)
    ids = [f"{number:032x}" for number in numbers]
    columns = {
        "id": ids,
        "paths": [[f"{number % 365:03d}/{number:08d}.jpg"] for number in numbers],
        "stamps": [[f"{100_000 + number}:1700000000000000000"] for number in numbers],
        "folders": [[".", f"{number % 365:03d}"] for number in numbers],
        "date": [f"20{number % 24:02d}-05-01T12:00:00" for number in numbers],
        "width": [640] * count,
        "height": [480] * count,
        "task": [""] * count,
        "route": ["plain"] * count,
        "routes": [["plain"]] * count,
        "weights": [[1.0]] * count,
        "distances": [[]] * count,
        "margin": [None] * count,
        "confidence": [None] * count,
        "state": ids,
        "mixture": ids,
    }
    rows = store.row_table(columns, vectors)
    # these rows stand for pictures that aren't there: no checksum would hold
    return rows.set_column(
        rows.schema.get_field_index("check"), "check", store.arrow.nulls(count, store.arrow.string())
    )


def run_lpi(world: World, queries: dict[str, Vectors], truth: Any, folder: Path) -> dict[str, Any]:
    from lpi.search.looking import choose
    from lpi.search.manifest import RECALL
    from lpi.search.store import Store

    sheet = Sheet()
    store = Store(folder / "store", world.width)
    version = store.start()

    def add(start: int, vectors: Vectors) -> None:
        nonlocal version
        version = store.change(version, full=rows_of(store, range(start, start + len(vectors)), vectors))

    sheet.insert(world, add)
    version = sheet.step("build", lambda: store.settle(approximate_from=1000))
    words = world.queries(128, other=True)["text"]
    look = sheet.step("choose", lambda: choose(store.rows(version), words, RECALL))
    sheet.figures["settings"] = asdict(look)
    rows = store.rows(version, look)

    def ask(query: Vectors, **options: Any) -> list[int]:
        found = rows.nearest_each(query[None], count=FIRST, where=None, columns=["id"], **options)[0]
        return [int(row["id"], 16) for row in found]

    sheet.search("approximate", queries, truth, lambda query: ask(query, exact=False))
    sheet.search(
        "approximate_no_second_look",
        queries,
        truth,
        lambda query: ask(query, exact=False, look=replace(look, refine=0)),
    )
    ask(words[0], exact=True)  # which reads the vectors
    sheet.search("exact", queries, truth, lambda query: ask(query, exact=True))
    sheet.figures["disk_mb"] = size_mb(folder)
    _, vectors = next(world.chunks())
    changed = rows_of(store, range(CHANGED), -vectors[:CHANGED])
    version = sheet.step("upsert", lambda: store.change(version, full=changed))
    gone = [f"{number:032x}" for number in range(CHANGED, 2 * CHANGED)]
    version = sheet.step("delete", lambda: store.change(version, gone=gone))
    version = sheet.step("settle", lambda: store.settle(approximate_from=1000))
    sheet.figures["rows_left"] = len(store.rows(version))
    return sheet.figures


def run_flat(world: World, queries: dict[str, Vectors], truth: Any, folder: Path) -> dict[str, Any]:
    import faiss

    sheet = Sheet()
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(world.width))
    sheet.insert(world, lambda start, vectors: index.add_with_ids(vectors, np.arange(start, start + len(vectors))))
    sheet.search("exact", queries, truth, lambda query: index.search(query[None], FIRST)[1][0])
    sheet.step("write", lambda: faiss.write_index(index, str(folder / "flat.faiss")))
    sheet.figures["disk_mb"] = size_mb(folder)
    _, vectors = next(world.chunks())

    def upsert() -> None:
        numbers = np.arange(CHANGED)
        index.remove_ids(numbers)
        index.add_with_ids(-vectors[:CHANGED], numbers)

    sheet.step("upsert", upsert)
    sheet.step("delete", lambda: index.remove_ids(np.arange(CHANGED, 2 * CHANGED)))
    sheet.figures["rows_left"] = index.ntotal
    return sheet.figures


def tuned(
    sheet: Sheet, queries: dict[str, Vectors], truth: Any, index: Any, owner: Any, setting: str, start: int
) -> None:
    """Time and recall of an index of FAISS at the first setting, doubled each time, that finds what is wanted."""
    value = start
    while True:
        setattr(owner, setting, value)
        sheet.search("approximate", queries, truth, lambda query: index.search(query[None], FIRST)[1][0])
        if min(sheet.figures["approximate"]["recall_at_10"].values()) >= 0.95 or value >= MOST[setting]:
            break
        value *= 2
    sheet.figures["settings"][setting] = value


def run_ivf(world: World, queries: dict[str, Vectors], truth: Any, folder: Path) -> dict[str, Any]:
    import faiss

    sheet = Sheet()
    cells = round(world.size**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(world.width), world.width, cells, faiss.METRIC_INNER_PRODUCT)
    sheet.figures["settings"] = {"cells": cells}
    sheet.step("build", lambda: index.train(next(world.chunks())[1]))
    sheet.insert(world, lambda start, vectors: index.add(vectors))
    tuned(sheet, queries, truth, index, index, "nprobe", 8)
    sheet.step("write", lambda: faiss.write_index(index, str(folder / "ivf.faiss")))
    sheet.figures["disk_mb"] = size_mb(folder)
    return sheet.figures


def run_hnsw(world: World, queries: dict[str, Vectors], truth: Any, folder: Path) -> dict[str, Any]:
    import faiss

    sheet = Sheet()
    links, effort = (16, 40) if world.size > SLOW else (32, 100)
    index = faiss.IndexHNSWFlat(world.width, links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = effort
    sheet.figures["settings"] = {"links": links, "efConstruction": effort}
    sheet.insert(world, lambda start, vectors: index.add(vectors))
    tuned(sheet, queries, truth, index, index.hnsw, "efSearch", 64)
    sheet.step("write", lambda: faiss.write_index(index, str(folder / "hnsw.faiss")))
    sheet.figures["disk_mb"] = size_mb(folder)
    sheet.figures["upsert_seconds"] = sheet.figures["delete_seconds"] = None  # this kind of index can't
    sheet.figures["rows_left"] = index.ntotal
    return sheet.figures


RUN = {"lpi": run_lpi, "faiss_flat": run_flat, "faiss_ivf": run_ivf, "faiss_hnsw": run_hnsw}


# ---- one process each ------------------------------------------------------------------------------------------------


def one(options: argparse.Namespace) -> None:
    """What a process of its own does: the truth, or one engine."""
    engine, size, distribution, place = options.one
    world, folder = World(int(size), distribution, options.seed, Path(place).parent), Path(place)
    if engine == "truth":
        np.savez(folder / "truth.npz", **world.truth(options.queries))
        return
    truth = dict(np.load(folder / "truth.npz"))
    own = folder / engine
    own.mkdir()
    figures = RUN[engine](world, world.queries(options.queries), truth, own)
    write_json(folder / f"{engine}.json", figures)
    shutil.rmtree(own)


def in_a_process(options: argparse.Namespace, engine: str, size: int, distribution: str, folder: Path) -> None:
    words = [sys.executable, __file__, "--seed", str(options.seed), "--queries", str(options.queries)]
    started = time.monotonic()
    subprocess.run([*words, "--one", engine, str(size), distribution, str(folder)], check=True)
    print(f"{size} {distribution} {engine}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    if options.one:
        one(options)
        return
    left_out = {}
    faiss = importlib.util.find_spec("faiss") is not None
    if not faiss:
        left_out |= dict.fromkeys(ENGINES[1:], "FAISS is not installed: pip install faiss-cpu")
    if options.real is None or not options.real.is_dir():
        left_out["real"] = f"no folder of captioned pictures at --real {options.real}"
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    engines = [engine for engine in options.engines if engine not in left_out]
    distributions = [own for own in options.distributions if own not in left_out]
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="lpi-scale-", dir=options.work))
    sizes: dict[str, Any] = {}
    try:
        if "real" in distributions:
            embed_real(options.real, options.model, work)
        for size in options.sizes:
            for distribution in distributions:
                folder = work / f"{size}-{distribution}"
                folder.mkdir()
                in_a_process(options, "truth", size, distribution, folder)
                found = sizes.setdefault(str(size), {}).setdefault(distribution, {})
                for engine in engines:
                    in_a_process(options, engine, size, distribution, folder)
                    found[engine] = json.loads((folder / f"{engine}.json").read_text(encoding="utf-8"))
                shutil.rmtree(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    about = with_store(environment())
    if faiss:
        about["versions"]["faiss-cpu"] = metadata.version("faiss-cpu")
    write_json(
        options.results,
        {
            "sizes": sizes,
            "left_out": left_out,
            "width": WIDTH,
            "changed_rows": CHANGED,
            "seed": options.seed,
            "seconds": round(time.monotonic() - started, 1),
            "command": "python benchmarks/search_scale.py " + " ".join(sys.argv[1:]),
            **about,
        },
    )
    print(f"Written to {options.results}")


if __name__ == "__main__":
    main()
