"""Teach an index over several archives one after another, each in turn the newest, and measure what its owner sees.

    python benchmarks/teach_archives.py --root FOLDER --model FOLDER --results results/teach_archives.json

ROOT holds a folder of captioned pictures an archive; all their pictures are indexed together. All archives are taught
in closed form (``reembedded_share`` is of that); then each is forgotten and taught again, with --deeper also by steps.
Recall is measured **among all pictures**: a caption of the archive's test split finds a picture that has that caption,
or doesn't. With --foreign, pictures that belong to no archive are indexed among the others and never taught: what of
them is found with all archives taught, and how much of that the model as it is found.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from lpi.data.content import content_id
from lpi.evaluation.machine import environment
from lpi.search import SearchIndex
from lpi.search.building import create
from lpi.search.teaching import adopt, closed_form, learn, read_domain, training_settings
from lpi.search.writer import change
from lpi.storage import read_json, write_json
from lpi.tasks.stream import Task

Recall = dict[str, float]
Right = dict[str, set[str]]
COMPARED = 100  # captions whose whole rankings are compared with a rebuild's


def right_pictures(domains: Iterable[Task]) -> Right:
    """The pictures that have a caption, by the caption, whatever their split."""
    found: Right = {}
    for domain in domains:
        for record in (*domain.train, *domain.validation, *domain.test):
            key = content_id(record.picture.path)  # type: ignore[attr-defined]
            for caption in record.captions:
                found.setdefault(caption, set()).add(key)
    return found


def ranks(place: Path, domain: Task, right: Right) -> list[int]:
    """The rank, from 1, at which each of a domain's test captions finds a right picture among all; 11 beyond ten."""
    index = SearchIndex.open(place)
    captions = [record.captions[0] for record in domain.test]
    ranked = [
        [hit.id in right[caption] for hit in index.find(query, 10, exact=True)]
        for caption, query in zip(captions, index.encode_texts(captions, scoring="routed"), strict=True)
    ]
    return [hits.index(True) + 1 if any(hits) else 11 for hits in ranked]


def recall_of(found: Iterable[int]) -> Recall:
    """R@1 and R@10 of some ranks, in per cent."""
    places = list(found)
    return {f"r{k}": round(100 * mean(rank <= k for rank in places), 2) for k in (1, 10)}


def recall(place: Path, domain: Task, right: Right) -> Recall:
    """R@1 and R@10 of a domain's test captions among all pictures, in per cent."""
    return recall_of(ranks(place, domain, right))


def equal_to_rebuild(place: Path, work: Path, root: Path, captions: list[str]) -> bool:
    """Whether an index that is built anew with the same model ranks every picture the same."""
    index = SearchIndex.open(place)
    shutil.rmtree(work, ignore_errors=True)
    create(work, root, place / "models" / index.manifest.current.model, batch=index.manifest.batch)
    with change(work) as writer:
        writer.update()
    anew = SearchIndex.open(work)
    found = []
    for one in (index, anew):
        queries = one.encode_texts(captions, scoring="routed")
        found.append([[(hit.id, hit.score) for hit in one.find(query, len(one), exact=True)] for query in queries])
    return bool(found[0] == found[1])


@dataclass(frozen=True)
class Taught:
    """What teaching a domain took.

    Attributes:
        seconds: to the report; ``learning`` is what of them was learning, the rest measures gains and losses.
        embedded: pictures that the adoption embedded.
        pictures: in the index.
    """

    seconds: float
    learning: float
    embedded: int
    pictures: int


def taught(place: Path, domain: Task, *, steps: bool, changes: dict[str, Any]) -> Taught:
    """Teach a domain and adopt it."""
    with change(place) as writer:
        settings = training_settings(writer, changes)
        way = settings if steps else closed_form(writer.method, settings) or settings
        started = time.monotonic()
        lesson = learn(writer, domain, settings=way, scoring="routed", again=steps)
        seconds = time.monotonic() - started
        stage = adopt(writer, lesson)
    return Taught(round(seconds, 1), round(lesson.report["seconds"]["learn"], 1), stage.embedded, stage.pictures)


def gathered(archives: Path, foreign: Task | None, work: Path) -> Path:
    """A folder with the archives' pictures, and beside them those that belong to none, if there are any."""
    if foreign is None:
        return archives
    shutil.copytree(archives, work / "pictures")
    beside = work / "pictures" / "foreign"
    beside.mkdir()
    for record in foreign.test:
        shutil.copy(record.picture.path, beside)  # type: ignore[attr-defined]
    return work / "pictures"


def what_stays(before: Sequence[int], after: Sequence[int]) -> dict[str, Any]:
    """What is found of pictures that belong to no archive, before any is taught and after all are.

    ``kept`` is the share of captions that still find their picture first, of those that did so before, in per cent.
    """
    first = [new == 1 for old, new in zip(before, after, strict=True) if old == 1]
    kept = round(100 * mean(first), 1) if first else None
    return {"pictures": len(before), "frozen": recall_of(before), "taught": recall_of(after), "kept": kept}


def save(place: Path, found: dict[str, Any], foreign: dict[str, Any] | None) -> None:
    """Write what is measured by now, each archive with the commit and the command that measured it."""
    command, about = shlex.join(["python", "benchmarks/teach_archives.py", *sys.argv[1:]]), environment()
    for row in (*found.values(), *([] if foreign is None else [foreign])):
        row.setdefault("command", command)
        row.setdefault("commit", about["commit"])
    beside = {} if foreign is None else {"foreign": foreign}
    write_json(place, {"archives": dict(sorted(found.items())), **beside, "command": command, **about})


def kept(place: Path, only: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What an earlier call measured of other archives than these few, and of foreign pictures; else nothing."""
    if not only or not place.exists():
        return {}, None
    earlier = read_json(place, dict)
    said = {name: earlier[name] for name in ("command", "commit")}
    rows = {name: said | row for name, row in earlier["archives"].items() if name not in only}
    return rows, earlier.get("foreign")


def measure(options: argparse.Namespace, work: Path) -> None:
    """Measure each archive, taught last, and write what is found."""
    folders = sorted(folder for folder in options.root.iterdir() if (folder / "captions.jsonl").exists())
    domains = {folder.name: read_domain(folder, folder.name) for folder in folders}
    strangers = None
    if options.foreign is not None:
        strangers = read_domain(options.foreign, "foreign")
        strangers = replace(strangers, train=[], validation=[], test=strangers.test[: options.strangers])
    right = right_pictures([*domains.values()] if strangers is None else [*domains.values(), strangers])
    root, place = gathered(options.root, strangers, work), work / "index"
    create(place, root, options.model)
    with change(place) as writer:
        writer.update()
    frozen = {name: recall(place, domain, right) for name, domain in domains.items()}
    before_any = None if strangers is None else ranks(place, strangers, right)
    first = {name: taught(place, domain, steps=False, changes={}) for name, domain in domains.items()}
    found, foreign = kept(options.results, options.only)
    if strangers is not None and before_any is not None:
        foreign = what_stays(before_any, ranks(place, strangers, right))
        print(f"foreign: {foreign}", flush=True)
    for name, domain in domains.items():
        if options.only and name not in options.only:
            continue
        with change(place) as writer:
            writer.forget(name)
        others = [one for one in domains if one != name]
        before = {one: recall(place, domains[one], right) for one in domains}
        closed = taught(place, domain, steps=False, changes={})
        after = {one: recall(place, domains[one], right) for one in domains}
        row: dict[str, Any] = {
            "seconds_closed": closed.seconds,
            "learning_closed": closed.learning,
            "share": round(len((*domain.train, *domain.validation, *domain.test)) / closed.pictures, 4),
            "reembedded_share": round(first[name].embedded / closed.pictures, 4),
            "frozen": frozen[name],
        }
        for k in ("r1", "r10"):
            row[f"new_{k}_before"], row[f"new_{k}_closed"] = before[name][k], after[name][k]
            row[f"old_{k}_before"] = round(mean(before[one][k] for one in others), 2)
            row[f"old_{k}_after"] = round(mean(after[one][k] for one in others), 2)
        if options.deeper:
            deeper = taught(place, domain, steps=True, changes={"epochs": options.deeper})
            row |= {"seconds_deeper": deeper.seconds, "learning_deeper": deeper.learning}
            row |= {f"new_{k}_deeper": value for k, value in recall(place, domain, right).items()}
        if options.rebuild:
            captions = [record.captions[0] for one in domains.values() for record in one.test]
            chosen = captions[:: max(1, len(captions) // COMPARED)][:COMPARED]
            row["rankings_equal"] = equal_to_rebuild(place, work / "rebuilt", root, chosen)
        found[name] = row
        print(f"{name}: {row}", flush=True)
        save(options.results, found, foreign)  # now: a stop costs one archive


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with a folder an archive")
    parser.add_argument("--model", default="lpi-tiny", help="backbone")
    parser.add_argument(
        "--only", nargs="*", default=[], help="measure these archives alone; what the file has of others stays"
    )
    parser.add_argument("--deeper", type=int, default=0, metavar="EPOCHS", help="also learn by steps")
    parser.add_argument("--rebuild", action="store_true", help="also compare with an index that is built anew")
    parser.add_argument("--foreign", type=Path, help="a folder of captioned pictures that belong to no archive")
    parser.add_argument("--strangers", type=int, default=200, help="so many of their test pictures are indexed")
    parser.add_argument("--results", type=Path, default=Path("results/teach_archives.json"))
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="lpi-archives-"))
    try:
        measure(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
