"""Captioned test sets on record, and how well a model finds in them what it should: what a change gains and loses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from lpi.backbones.base import DualEncoder, Reading, View
from lpi.config import StreamSettings
from lpi.data.content import content_id
from lpi.data.records import CaptionedImage, FilePicture, normal_caption
from lpi.data.source import load_source
from lpi.errors import DataError, LpiError
from lpi.evaluation.retrieval import open_stream
from lpi.methods.base import Method
from lpi.methods.encoder import read_captions
from lpi.metrics.ranking import Ranks, count_ranks, local_pairs, recall_at
from lpi.reading import wanted
from lpi.routing.score import Probe, routed_score
from lpi.search.embedding import Embedder
from lpi.search.encoding import task_membership, text_probes
from lpi.search.files import OnProgress
from lpi.search.identity import short_hash
from lpi.search.manifest import BESIDE, Json
from lpi.search.report import Recall
from lpi.search.rows import RowMaker
from lpi.storage import read_json, sealed, unsealed, write_json
from lpi.tasks.relevance import relevance

HELD_OUT = "held-out"
AGAIN = "Take it from a backup, or put the test set on record again."
BLOCK = 256  # queries that are scored at once


@dataclass(frozen=True)
class TestSet:
    """Captioned pictures that nothing was learned from.

    Attributes:
        task: the domain they belong to; :data:`HELD_OUT` for what is no domain's.
        records: the pictures, all in files.
        alike: further pictures with a caption of theirs: whoever looks for it finds these as rightly.
    """

    __test__ = False  # not a test case

    task: str
    records: tuple[CaptionedImage, ...]
    alike: tuple[CaptionedImage, ...] = ()

    @classmethod
    def of(cls, task: str, records: Iterable[CaptionedImage], others: Iterable[CaptionedImage]) -> TestSet:
        """Test pictures, and those of the others that have a caption of theirs."""
        records = tuple(records)
        asked = {normal_caption(caption) for record in records for caption in record.captions}
        alike = (other for other in others if any(normal_caption(caption) in asked for caption in other.captions))
        return cls(task, records, tuple(alike))


def set_file(folder: Path, task: str) -> Path:
    """Where the index keeps a domain's test set."""
    readable = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40]
    return folder / "tests" / f"{readable}-{short_hash(task)[:8]}.json"


def put_on_record(folder: Path, tests: TestSet) -> int:
    """Keep the names and captions of a test set's pictures (not the pictures); returns how many.

    Pictures that don't lie in a file, such as drawn ones, can't be found again and are left out. Those that move with
    the index, in its folder or in the one of pictures around it, are named from there.
    """
    here = folder.resolve()
    moving = here.parent if here.name == BESIDE else here

    def name(path: Path) -> str:
        found = path.resolve()
        return os.path.relpath(found, here) if found.is_relative_to(moving) else str(found)

    rows, alike = (
        [
            {"image": name(record.picture.path), "captions": list(record.captions)}
            for record in records
            if isinstance(record.picture, FilePicture)
        ]
        for records in (tests.records, tests.alike)
    )
    if rows:
        content = {"task": tests.task, "pictures": rows, "alike": alike}
        write_json(set_file(folder, tests.task), sealed(content))
    return len(rows)


def drop_record(folder: Path, task: str) -> None:
    """Take a domain's test set off the record."""
    set_file(folder, task).unlink(missing_ok=True)


def on_record(folder: Path) -> dict[str, TestSet]:
    """The test sets that an index knows, by domain."""
    found = {}
    for file in sorted((folder / "tests").glob("*.json")):
        read = unsealed(file, read_json(file, dict), "put the test set on record again with --tests")
        content = wanted({"alike": [], **read}, str(file), {"task": "text", "pictures": "list", "alike": "list"}, AGAIN)
        task = content["task"]
        records, alike = (tuple(_recorded(content[part], file, task)) for part in ("pictures", "alike"))
        found[task] = TestSet(task, records, alike)
    return found


def _recorded(rows: Iterable[Json], file: Path, task: str) -> Iterator[CaptionedImage]:
    for row in rows:
        about = wanted(row, str(file), {"image": "text", "captions": "list"}, AGAIN)
        place = Path(os.path.normpath(file.resolve().parents[1] / about["image"]))
        yield CaptionedImage(FilePicture(place, str(place)), tuple(about["captions"]), task, "test")


class Makes(Protocol):
    """What embeds pictures and makes their rows: a :class:`lpi.search.writer.Writer`."""

    def embedder(self, method: Method) -> Embedder:
        """What embeds pictures under a model."""

    def maker(self, method: Method) -> RowMaker:
        """What makes pictures' rows under a model."""


class Gallery:
    """The pictures of an archive and of some test sets, to be searched under one model after the other.

    Args:
        sets: the test sets; pictures that can't be read any more are left out.
        archive: the files of the pictures that captions look for theirs among, by id; test pictures join them.
    """

    def __init__(self, sets: Sequence[TestSet], archive: Mapping[str, tuple[Path, ...]]) -> None:
        self.tasks = [own.task for own in sets]
        self._about: tuple[DualEncoder, View | None, tuple[str, ...]] | None = None  # which captions were read, and how
        self._reading: Reading | None = None
        self.missing: dict[str, int] = {}
        self.files = dict(archive)
        self.records: list[CaptionedImage] = []
        self.ids: list[str] = []
        owners: list[int] = []
        for place, own in enumerate(sets):
            for record, key in self._readable(own.records):
                if key is None:
                    self.missing[own.task] = self.missing.get(own.task, 0) + 1
                    continue
                self.files.setdefault(key, (_file(record),))
                self.records.append(record)
                self.ids.append(key)
                owners.append(place)
        self.owners = torch.tensor(owners, dtype=torch.int64)
        self.tests = len(owners)
        for own in sets:
            for record, key in self._readable(own.alike):
                if key in self.files:
                    self.records.append(record)
                    self.ids.append(str(key))

    @staticmethod
    def _readable(records: Iterable[CaptionedImage]) -> Iterator[tuple[CaptionedImage, str | None]]:
        """Pictures and their ids; ``None`` for those that are gone."""
        for record in records:
            try:
                yield record, content_id(_file(record))
            except OSError:
                yield record, None

    def embed(self, writer: Makes, method: Method, on_progress: OnProgress | None = None) -> None:
        """Make sure that the pictures' features under a model are kept."""
        embedder = writer.embedder(method)
        embedder.run(embedder.jobs(self.files), on_progress=on_progress)

    def _read(self, method: Method, texts: Sequence[str]) -> Reading | None:
        """What the frozen model sees of captions, once for all models that stand on it and look at captions alike."""
        view = None if method.router is None else method.router.look("text")
        about = (method.backbone, view, tuple(texts))
        if self._about != about:
            self._about, self._reading = about, read_captions(method, texts)
        return self._reading

    def recall(
        self, writer: Makes, method: Method, *, scoring: str, on_progress: OnProgress | None = None
    ) -> dict[str, Recall]:
        """How each test set's captions and pictures find each other under a model, by domain."""
        if not self.tests:
            return {}
        self.embed(writer, method, on_progress)
        maker = writer.maker(method)
        kept, routing = maker.complete(sorted(self.files))
        place = {key: row for row, key in enumerate(kept)}
        there = [row for row, key in enumerate(self.ids) if key in place]
        order = torch.tensor([place[self.ids[row]] for row in there], dtype=torch.int64)
        own = sum(row < self.tests for row in there)
        if not own:
            return {}
        texts, owners, pairs = relevance([self.records[row] for row in there], equal_captions=True)
        asked = int((owners < own).sum())
        owner, right = torch.from_numpy(owners[:asked]), torch.from_numpy(pairs[pairs[:, 0] < asked])
        probes = text_probes(method, texts[:asked], scoring, self._read(method, texts[:asked]))
        membership = None
        if probes.membership is not None:
            membership = task_membership(method, routing.distances, routing.tasks)
        asking = Probe(probes.vectors, probes.membership)
        pictures = Probe(torch.from_numpy(maker.vectors(kept, routing)), membership)
        image_task = self.owners[there[:own]]
        to_image = _recalls(
            lambda rows: routed_score(_rows(asking, rows), pictures, 1.0),  # a query's membership is weighted already
            torch.stack([right[:, 0], order[right[:, 1]]], dim=1),
            image_task[owner],
            (asked, len(kept)),
        )
        to_text = _recalls(
            lambda rows: routed_score(asking, _rows(pictures, order[rows]), 1.0).T,
            right[right[:, 1] < own][:, [1, 0]],
            image_task,
            (own, asked),
        )
        return {
            task: Recall(captions=len(ranks), r1=recall_at(1, ranks), r10=recall_at(10, ranks), image_to_text=back)
            for number, task in enumerate(self.tasks)
            if (ranks := to_image.get(number)) is not None
            for back in [recall_at(1, to_text[number])]
        }


def _file(record: CaptionedImage) -> Path:
    assert isinstance(record.picture, FilePicture)
    return record.picture.path


def _rows(probe: Probe, rows: Tensor) -> Probe:
    return Probe(probe.vector[rows], None if probe.membership is None else probe.membership[rows])


def _recalls(
    scored: Callable[[Tensor], Tensor], right: Tensor, task_of: Tensor, shape: tuple[int, int]
) -> dict[int, Ranks]:
    """The ranks of each task's queries.

    Args:
        scored: scores of some queries, by their rows, [rows, candidates].
        right: which candidates are right, (query, candidate), [pairs, 2].
        task_of: of each query, [queries].
        shape: how many queries and candidates there are.
    """
    found = {}
    for task in sorted(set(task_of.tolist())):
        mine = (task_of == task).nonzero()[:, 0]
        local = local_pairs(right, mine, None, *shape)

        def block(start: int, stop: int, rows: Tensor = mine) -> Tensor:
            return scored(rows[start:stop])

        found[task] = count_ranks(block, len(mine), local, block=BLOCK)
    return found


def record_run(folder: Path, run: Json) -> str | None:
    """Put the test sets of a run's stream on record, where its pictures are files; returns why not, if not."""
    about = run["settings"]["stream"]
    if about.get("kind") == "scenes":
        return "the run's test sets aren't on record: its pictures are drawn, not files"
    try:
        stream = open_stream(StreamSettings(**about), str(run["experiment"]))
    except ValidationError:
        return "the run's test sets aren't on record: its stream is none that this version reads"
    except LpiError as error:
        return f"the run's test sets aren't on record: {error}"
    for task in stream.tasks:
        put_on_record(folder, TestSet.of(task.name, task.test, (*task.train, *task.validation)))
    put_on_record(folder, TestSet(HELD_OUT, tuple(stream.held_out)))
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
    learned: dict[str, list[CaptionedImage]] = {}
    for record in load_source(source):
        if record.split in ("test", "held_out"):
            sets.setdefault(record.task if record.split == "test" else HELD_OUT, []).append(record)
        else:
            learned.setdefault(record.task, []).append(record)
    if not sets:
        raise DataError(f'{source}: no picture has the split "test" or "held_out". Nothing else may be measured on.')
    return {
        task: put_on_record(folder, TestSet.of(task, records, learned.get(task, ()))) for task, records in sets.items()
    }
