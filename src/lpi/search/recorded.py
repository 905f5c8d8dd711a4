"""Captioned test sets on record, and how well a model finds in them what it should: what a change gains and loses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lpi.config import StreamSettings
from lpi.data.content import content_id
from lpi.data.records import CaptionedImage, FilePicture
from lpi.data.source import load_source
from lpi.errors import DataError, LpiError
from lpi.evaluation.retrieval import open_stream
from lpi.methods.base import Method
from lpi.metrics.ranking import count_ranks, local_pairs, recall_at
from lpi.reading import wanted
from lpi.routing.score import Probe, routed_score
from lpi.search.embedding import Embedder
from lpi.search.encoding import task_membership, text_probes
from lpi.search.identity import short_hash
from lpi.search.manifest import Json
from lpi.search.report import Recall
from lpi.search.rows import RowMaker
from lpi.storage import read_json, sealed, unsealed, write_json
from lpi.tasks.relevance import relevance

HELD_OUT = "held-out"
AGAIN = "Take it from a backup, or put the test set on record again."
BLOCK = 1024


@dataclass(frozen=True)
class TestSet:
    """Captioned pictures that nothing was learned from.

    Attributes:
        task: the domain they belong to; :data:`HELD_OUT` for what is no domain's.
        records: the pictures, all in files.
    """

    __test__ = False  # not a test case

    task: str
    records: tuple[CaptionedImage, ...]


def set_file(folder: Path, task: str) -> Path:
    """Where the index keeps a domain's test set."""
    readable = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40]
    return folder / "tests" / f"{readable}-{short_hash(task)[:8]}.json"


def put_on_record(folder: Path, task: str, records: Iterable[CaptionedImage]) -> int:
    """Keep the names and captions of a test set's pictures (not the pictures); returns how many.

    Pictures that don't lie in a file, such as drawn ones, can't be found again and are left out.
    """
    rows = [
        {"image": str(record.picture.path.resolve()), "captions": list(record.captions)}
        for record in records
        if isinstance(record.picture, FilePicture)
    ]
    if rows:
        write_json(set_file(folder, task), sealed({"task": task, "pictures": rows}))
    return len(rows)


def drop_record(folder: Path, task: str) -> None:
    """Take a domain's test set off the record."""
    set_file(folder, task).unlink(missing_ok=True)


def on_record(folder: Path) -> dict[str, TestSet]:
    """The test sets that an index knows, by domain."""
    found = {}
    for file in sorted((folder / "tests").glob("*.json")):
        read = unsealed(file, read_json(file), "put the test set on record again with --tests")
        content = wanted(read, str(file), {"task": "text", "pictures": "list"}, AGAIN)
        rows = [wanted(row, str(file), {"image": "text", "captions": "list"}, AGAIN) for row in content["pictures"]]
        records = tuple(
            CaptionedImage(
                FilePicture(Path(row["image"]), row["image"]), tuple(row["captions"]), content["task"], "test"
            )
            for row in rows
        )
        found[content["task"]] = TestSet(content["task"], records)
    return found


class Makes(Protocol):
    """What embeds pictures and makes their rows: a :class:`lpi.search.writer.Writer`."""

    def embedder(self, method: Method) -> Embedder:
        """What embeds pictures under a model."""

    def maker(self, method: Method) -> RowMaker:
        """What makes pictures' rows under a model."""


class Gallery:
    """The pictures and captions of some test sets, to be searched under one model after the other.

    Args:
        sets: the test sets; pictures that can't be read any more are left out.
    """

    def __init__(self, sets: Sequence[TestSet]) -> None:
        self.tasks = [own.task for own in sets]
        self.missing: dict[str, int] = {}
        records: list[CaptionedImage] = []
        ids: list[str] = []
        owners: list[int] = []
        self.files: dict[str, tuple[Path, ...]] = {}
        for place, own in enumerate(sets):
            for record in own.records:
                assert isinstance(record.picture, FilePicture)
                try:
                    ids.append(content_id(record.picture.path))
                except OSError:
                    self.missing[own.task] = self.missing.get(own.task, 0) + 1
                    continue
                records.append(record)
                owners.append(place)
                self.files[ids[-1]] = (record.picture.path,)
        self.records, self.ids = records, ids
        self.owners = torch.tensor(owners, dtype=torch.int64)

    def embed(self, writer: Makes, method: Method) -> None:
        """Make sure that the pictures' features under a model are kept."""
        embedder = writer.embedder(method)
        embedder.run(embedder.jobs(self.files))

    def recall(self, writer: Makes, method: Method, *, scoring: str) -> dict[str, Recall]:
        """R@1 of each test set's queries against the pictures of all, by domain; both directions and their mean."""
        if not self.ids:
            return {}
        self.embed(writer, method)
        maker = writer.maker(method)
        kept, routing = maker.complete(sorted(set(self.ids)))
        place = {key: row for row, key in enumerate(kept)}
        there = [row for row, key in enumerate(self.ids) if key in place]
        if not there:
            return {}
        records = [self.records[row] for row in there]
        order = [place[self.ids[row]] for row in there]
        vectors = torch.from_numpy(maker.vectors(kept, routing))[order]
        texts, owner, pairs = relevance(records, equal_captions=True)
        probes = text_probes(method, texts, scoring)
        membership = None
        if probes.membership is not None:
            membership = task_membership(method, routing.distances, routing.tasks)[order]
        blocks = [
            routed_score(
                Probe(probes.vectors[rows], None if probes.membership is None else probes.membership[rows]),
                Probe(vectors, membership),
                1.0,  # a query's membership is weighted already
            )
            for rows in torch.split(torch.arange(len(texts)), BLOCK)
        ]
        image_task = self.owners[there]
        text_task = image_task[torch.from_numpy(owner)]
        return self._by_task(torch.cat(blocks), torch.from_numpy(pairs), text_task, image_task)

    def _by_task(self, scores: Tensor, pairs: Tensor, text_task: Tensor, image_task: Tensor) -> dict[str, Recall]:
        found: dict[str, Recall] = {}
        for number, task in enumerate(self.tasks):
            if not bool((image_task == number).any()):
                continue
            own = {}
            for direction, table, task_of, columns in (
                ("text_to_image", scores, text_task, [0, 1]),
                ("image_to_text", scores.T, image_task, [1, 0]),
            ):
                mine = (task_of == number).nonzero()[:, 0]
                local = local_pairs(pairs[:, columns], mine, None, len(table), table.shape[1])
                chosen = table[mine]
                ranks = count_ranks(lambda start, stop, rows=chosen: rows[start:stop], len(mine), local)  # type: ignore[misc]
                own[direction] = recall_at(1, ranks)
            to_image, to_text = own["text_to_image"], own["image_to_text"]
            found[task] = Recall(text_to_image=to_image, image_to_text=to_text, r1=(to_image + to_text) / 2)
        return found


def record_run(folder: Path, run: Json) -> str | None:
    """Put the test sets of a run's stream on record, where its pictures are files; returns why not, if not."""
    about = run["settings"]["stream"]
    if about.get("kind") == "scenes":
        return "the run's test sets aren't on record: its pictures are drawn, not files"
    try:
        stream = open_stream(StreamSettings(**about), run["settings"]["name"])
    except LpiError as error:
        return f"the run's test sets aren't on record: {error}"
    for task in stream.tasks:
        put_on_record(folder, task.name, task.test)
    put_on_record(folder, HELD_OUT, stream.held_out)
    return None


def record_source(folder: Path, source: str | Path) -> dict[str, int]:
    """Put test sets of one's own on record; returns how many pictures, by domain.

    Args:
        folder: of the index.
        source: what :func:`lpi.data.source.load_source` reads: the pictures of split ``test``, by their task, and those
            of split ``held_out`` as what belongs to no task.

    Raises:
        DataError: a bad row, or no picture of these splits.
    """
    sets: dict[str, list[CaptionedImage]] = {}
    for record in load_source(source):
        if record.split in ("test", "held_out"):
            sets.setdefault(record.task if record.split == "test" else HELD_OUT, []).append(record)
    if not sets:
        raise DataError(f'{source}: no picture has the split "test" or "held_out". Nothing else may be measured on.')
    return {task: put_on_record(folder, task, records) for task, records in sets.items()}
