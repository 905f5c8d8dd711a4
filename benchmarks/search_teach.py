"""Teach an index a domain, and hold it against an index that is built anew.

    python benchmarks/search_teach.py --small
    python benchmarks/search_teach.py --drawn 10000 --steps 60 --results results/search_teach.json
    python benchmarks/search_teach.py --photos FOLDER --model RUN --name DOMAIN --captioned FOLDER \
        --results results/search_teach.json

Indexes a folder once, teaches it one domain that it has not seen, and measures: how many pictures were embedded again,
what was gained and lost under both ways of scoring, whether every ranking and every bit of every vector equals those of
a full rebuild with the same model, what either takes, and what approximate search loses in each direction.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from search_data import NEW, OLD, draw, with_store

from lpi.data.content import content_id
from lpi.evaluation.machine import environment
from lpi.search import SearchIndex
from lpi.search.building import create
from lpi.search.encoding import Single
from lpi.search.manifest import Look
from lpi.search.recorded import on_record, record_run, record_source
from lpi.search.teaching import adopt, learn, measure, read_domain, training_settings
from lpi.search.writer import change
from lpi.storage import write_json

DRAWN_TESTS = 100  # of a domain's drawn pictures are for measuring
QUERIES = 200  # captions whose rankings are compared in full


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder to index")
    parser.add_argument("--model", default="lpi-tiny", help="run, saved model or backbone")
    parser.add_argument("--name", default=NEW, help="what to call the domain")
    parser.add_argument("--captioned", type=Path, help="the domain's captioned pictures, among them its test split")
    parser.add_argument("--tests", type=Path, help="captioned pictures of old tasks, beside those of the run")
    parser.add_argument("--small", action="store_true", help="drawn pictures instead, in a minute or two")
    parser.add_argument("--drawn", type=int, metavar="PICTURES", help="so many drawn pictures instead")
    parser.add_argument("--steps", type=int, help="training steps; by default as the run was trained")
    parser.add_argument("--epochs", type=int, help="or passes over the domain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for the indexes, kept; by default a temporary one")
    parser.add_argument("--results", type=Path, default=Path("results/search_teach.json"))
    return parser.parse_args()


def build(place: Path, photos: Path, model: str | Path, batch: int | None = None) -> float:
    """Make a whole index; returns the seconds it took."""
    started = time.monotonic()
    create(place, photos, model, batch=batch)
    with change(place) as writer:
        writer.update()
    return time.monotonic() - started


def vectors(index: SearchIndex) -> tuple[list[str], Single]:
    rows = index.rows()
    ids = sorted(rows.columns("id")["id"])
    return ids, rows.vectors(ids)


def rankings(index: SearchIndex, queries: list[str], scoring: str) -> list[list[tuple[str, float]]]:
    encoded = index.encode_texts(queries, scoring=scoring)
    return [[(hit.id, hit.score) for hit in index.find(query, len(index), exact=True)] for query in encoded]


def mean_of(recall: dict[str, Any], when: str) -> float | None:
    found = [own[when]["r1"] for own in recall.values() if own.get(when)]
    return round(sum(found) / len(found), 4) if found else None


def approximate(index: Path, queries: list[str]) -> dict[str, Any]:
    """Recall@10 of approximate search against exact search, per direction, with and without a second look."""
    copy = index.with_name(index.name + "-approximate")
    shutil.copytree(index, copy)
    with change(copy) as writer:
        rows = writer.store.rows(writer.store.settle(approximate_from=256))
    opened = SearchIndex.open(index)
    texts = [query.probe.vector.numpy() for query in opened.encode_texts(queries)]
    ids, stored = vectors(opened)
    images = list(stored[:: max(1, len(ids) // max(1, len(queries)))])
    record: dict[str, Any] = {"pictures": len(ids), "queries": {"text": len(texts), "image": len(images)}}
    for name, refine in (("quantised", 0), ("quantised_second_look", 3)):
        record[name] = {}
        for direction, probes in (("text", texts), ("image", images)):
            kept = []
            for probe in probes:
                ask = {"count": 10, "where": None, "columns": ["id"]}
                exact = {row["id"] for row in rows.nearest_each(probe[None], exact=True, **ask)[0]}
                found = {
                    row["id"] for row in rows.nearest_each(probe[None], exact=False, look=Look(refine=refine), **ask)[0]
                }
                kept.append(len(exact & found) / max(1, len(exact)))
            record[name][direction] = round(float(np.mean(kept)), 4) if kept else None
    return record


def main() -> None:
    options = arguments()
    work = options.work or Path(tempfile.mkdtemp(prefix="lpi-teach-"))
    try:
        write_json(options.results, run(options, work))
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(options.results.read_text())


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    photos, captioned, place = options.photos, options.captioned, work / "index"
    if options.small or options.drawn:
        sizes = {}
        if options.drawn:
            each = -(-options.drawn // (1 + len(OLD)))  # rounded up
            sizes = {"train": each - DRAWN_TESTS, "test": DRAWN_TESTS}
        photos, domains = draw(work / "drawn", **sizes)
        captioned = domains / options.name
    started = time.monotonic()
    note = create(place, photos, options.model)
    if note is not None:
        print(record_run(place, note) or "the run's test sets are on record")
    if options.tests:
        record_source(place, options.tests)
    with change(place) as writer:
        update = writer.update()
    seconds_index = time.monotonic() - started
    changes = {key: value for key in ("steps", "epochs") if (value := getattr(options, key)) is not None}
    if options.small or options.drawn:
        changes = {"steps": 20, "batch": 8, **changes}
        with change(place) as writer:
            for task in OLD:
                settings = training_settings(writer, changes)
                adopt(writer, learn(writer, read_domain(domains / task, task), settings=settings, seed=options.seed))
    domain = read_domain(captioned, options.name)
    own = {content_id(record.picture.path) for record in (*domain.train, *domain.validation, *domain.test)}  # type: ignore[attr-defined]
    with change(place) as writer:
        share = len(own & set(writer.contents())) / max(1, len(writer.contents()))
        lesson = learn(writer, domain, settings=training_settings(writer, changes), seed=options.seed)
        other = measure(writer, lesson.method, lesson.test, scoring="routed")["recall"]
        stage = adopt(writer, lesson)
    teach = lesson.report["seconds"]["learn"] + lesson.report["seconds"]["measure"] + stage.seconds
    index = SearchIndex.open(place)
    seconds_rebuild = build(work / "rebuilt", photos, place / "models" / stage.model, index.manifest.batch)
    rebuilt = SearchIndex.open(work / "rebuilt")
    queries = [record.captions[0] for own_set in on_record(place).values() for record in own_set.records]
    queries = queries[:: max(1, len(queries) // QUERIES)][:QUERIES]
    ids, stored = vectors(index)
    again, anew = vectors(rebuilt)
    recall = lesson.report["recall"]
    return {
        "pictures": stage.pictures,
        "skipped": len(update.skipped),
        "new_domain_share": round(share, 4),
        "reembedded_share": round(stage.embedded / max(1, stage.pictures), 4),
        "vectors_bit_equal": ids == again and stored.tobytes() == anew.tobytes(),
        "rankings_equal_full_rebuild": all(
            rankings(index, queries, scoring) == rankings(rebuilt, queries, scoring) for scoring in ("plain", "routed")
        ),
        "queries_compared": len(queries),
        "seconds_index": round(seconds_index, 1),
        "seconds_teach": round(teach, 1),
        "seconds_teach_parts": {**lesson.report["seconds"], "embed": stage.seconds},
        "seconds_full_rebuild": round(seconds_rebuild, 1),
        "r1_new_before": mean_of({"new": recall["new"]}, "before"),
        "r1_new_after": mean_of({"new": recall["new"]}, "after"),
        "r1_old_before": mean_of(recall["old"], "before"),
        "r1_old_after": mean_of(recall["old"], "after"),
        "recall": {"plain": recall, "routed": other},
        "approximate": approximate(place, queries) if stage.pictures >= 256 else None,
        "model": options.model,
        "domain": domain.name,
        "training": {**index.manifest.training, **changes},
        "seed": options.seed,
        "command": "python benchmarks/search_teach.py " + " ".join(sys.argv[1:]),
        **with_store(environment()),
    }


if __name__ == "__main__":
    main()
