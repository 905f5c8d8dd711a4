"""What the server does, in threads: encode, search, fetch pictures, find boxes, and follow what others change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from lpi.data.pictures import open_image
from lpi.errors import ConfigError, UnknownNameError
from lpi.search.filters import Filters
from lpi.search.hits import Hit, Query
from lpi.search.index import SearchIndex
from lpi.search.manifest import FILE, NEXT, Manifest
from lpi.search.suggestions import suggestions
from lpi.serve.batching import Batcher
from lpi.serve.limits import Limits, RefusedError, read_picture
from lpi.serve.metrics import Metrics
from lpi.serve.teaching import Teacher

if TYPE_CHECKING:
    from PIL import Image

    from lpi.methods.grounding.base import Found, GroundingMethod

Result = TypeVar("Result")

REFRESH_SECONDS = 0.5
THUMBNAIL_BYTES = 64 * 1024**2
PICTURE_WORKERS = 4
BATCH = 64
BOXES = 5
ID = re.compile("[0-9a-f]{32}")
log = logging.getLogger("lpi.serve")


@dataclass(frozen=True)
class Encoding:
    """How queries are encoded; those that agree in it share a forward pass."""

    direction: Literal["text", "image"]
    stage: int | None
    scoring: str


@dataclass(frozen=True)
class Lookup:
    """Which pictures are wanted; queries that agree in it share a look into the store."""

    k: int
    filters: Filters
    exact: bool
    least: float | None = None


class Thumbnails:
    """The thumbnails that were asked for last, as many as there is room for. Any thread may ask.

    Args:
        room: bytes.
    """

    def __init__(self, room: int = THUMBNAIL_BYTES) -> None:
        self.room, self.size = room, 0
        self.generation = 0
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> bytes | None:
        """A thumbnail that was kept; ``None`` for one that wasn't."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[str, int], content: bytes, generation: int) -> None:
        """Keep a thumbnail that was made while ``generation`` counted."""
        with self._lock:
            if generation != self.generation or key in self._kept:
                return
            self._kept[key] = content
            self.size += len(content)
            while self.size > self.room:
                self.size -= len(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all thumbnails: a picture may no longer be one of the index."""
        with self._lock:
            self._kept.clear()
            self.size, self.generation = 0, self.generation + 1


@dataclass
class Overview:
    """Pictures by task, and folders, counted over all rows once for each state of the index.

    Attributes:
        manifest: the state.
        tasks: how many pictures each task has.
        folders: all that hold pictures.
    """

    manifest: Manifest
    tasks: Counter[str]
    folders: list[str]


class Service:
    """An open index at work for many at once.

    Args:
        index: what is searched.
        grounder: finds boxes; by default nothing does.
        batching: join concurrent queries; otherwise each is encoded and looked for by itself.
        threads: cores that models may use; by default as many as torch would.
        limits: of requests.
        teaching: who may ask may also teach domains and have them forgotten.
        refresh_seconds: between two looks at whether another process changed the index.
    """

    def __init__(
        self,
        index: SearchIndex,
        *,
        grounder: GroundingMethod | None = None,
        batching: bool = True,
        threads: int | None = None,
        limits: Limits | None = None,
        teaching: bool = True,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self.index, self.grounder = index, grounder
        self.limits = limits or Limits()
        self.metrics, self.thumbnails = Metrics(), Thumbnails()
        self.teacher = Teacher(index, self.limits) if teaching else None
        self._overview: Overview | None = None
        self._damage = ""
        self.name = secrets.token_hex(8)
        self.examples: list[str] = []
        self._refresh_seconds = refresh_seconds
        cores = threads or torch.get_num_threads()
        # the same number of cores either way: one batch on all of them, or a query on each
        most, workers = (BATCH, 1) if batching else (1, cores)
        batcher = partial(Batcher, on_batch=self.metrics.batch, waiting=self.limits.waiting)
        computing = partial(batcher, on_start=lambda: torch.set_num_threads(cores if batching else 1))
        self._encode: Batcher[Encoding, Any, Query] = computing("encode", self._encoded, most=most, workers=workers)
        self._find: Batcher[Lookup, Query, list[Hit]] = batcher("find", self._found, most=most, workers=workers)
        self._pictures: Batcher[None, Callable[[], Any], Any] = batcher(
            "picture", _called, most=1, workers=PICTURE_WORKERS
        )
        self._boxes: Batcher[None, tuple[Image.Image, str], list[Found]] = computing(
            "ground", self._located, most=1, workers=1, waiting=16
        )
        self._refresher = ThreadPoolExecutor(1, thread_name_prefix="lpi-refresh")
        batchers = (self._encode, self._find, self._pictures, self._boxes)
        self.metrics.watch(
            {batcher.name: lambda own=batcher: own.waiting for batcher in batchers},  # type: ignore[misc]
            lambda: len(index),
            lambda: index.manifest.current.number,
        )
        self._following: asyncio.Task[None] | None = None

    # ---- while it runs -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Encode something, so that the first person needn't wait for it; and begin to follow the index."""
        await self._encode.ask(Encoding("text", None, "plain"), "a picture")
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following the index, and end all threads."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self.teacher is not None:
            self.teacher.close()
        for batcher in (self._encode, self._find, self._pictures, self._boxes):
            batcher.close()
        self._refresher.shutdown(wait=True)

    async def _follow(self) -> None:
        """Take over what other processes change; until it is ready, searches go on with what there was."""
        loop = asyncio.get_running_loop()
        seen, complaint = await loop.run_in_executor(self._refresher, self._mark), ""
        with contextlib.suppress(Exception):  # what changed between opening and now; damage is told of when it is met
            await loop.run_in_executor(self._refresher, self.index.refresh)
        await loop.run_in_executor(self._refresher, self._measure)
        while True:
            await asyncio.sleep(self._refresh_seconds)
            mark = await loop.run_in_executor(self._refresher, self._mark)
            if mark == seen:
                continue
            try:
                await loop.run_in_executor(self._refresher, self.index.refresh)
            except Exception as error:  # whatever it was: what there was can still be searched
                self.metrics.refresh_failures.inc()
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("the index changed, and can't be read: %s", complaint)
                continue
            seen, complaint = mark, ""
            self.thumbnails.clear()
            await loop.run_in_executor(self._refresher, self._measure)
            self.metrics.refreshes.inc()

    def _measure(self) -> None:
        """Measure how well pictures fit, and find words to begin with; until then, searches don't say it."""
        try:
            self.examples = suggestions(self.index)
        except Exception as error:  # searches go on without
            log.warning("how well pictures fit can't be measured: %s", error)

    def _mark(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Inode, time and size of the manifests, of which every change of the index writes one anew."""
        marks: list[tuple[int, int, int] | None] = []
        for name in (FILE, f"{NEXT}/{FILE}"):
            try:
                status = (self.index.folder / name).stat()
                marks.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                marks.append(None)
        return tuple(marks)

    def note_damage(self, error: Exception) -> None:
        """Log that the index can't be read, once for each reason."""
        if str(error) != self._damage:
            self._damage = str(error)
            log.error("%s", error)

    async def well(self) -> None:
        """See that a row can be read.

        Raises:
            CheckpointError: it can't.
        """
        await self.apart(lambda: self.index.rows().readable())
        self._damage = ""

    # ---- searching ---------------------------------------------------------------------------------------------------

    async def search_words(self, words: str, encoding: Encoding, lookup: Lookup) -> tuple[Query, list[Hit]]:
        """The pictures that words describe best, and the query as it was encoded."""
        if not words.strip():
            raise ConfigError("a search needs words; got an empty text.")
        return await self._search(words, encoding, lookup)

    async def search_picture(self, content: bytes, encoding: Encoding, lookup: Lookup) -> tuple[Query, list[Hit]]:
        """The pictures that are most like one that somebody sent."""

        def opened() -> Image.Image:
            return read_picture(content, pixels=self.limits.pixels, side=self.index.side(encoding.stage))

        return await self._search(await self.apart(opened), encoding, lookup)

    async def _search(self, item: Any, encoding: Encoding, lookup: Lookup) -> tuple[Query, list[Hit]]:
        query = await self._encode.ask(encoding, item)
        try:
            return query, await self._find.ask(lookup, query)
        except ConfigError:  # perhaps its model went away between the two
            query = await self._encode.ask(encoding, item)
            return query, await self._find.ask(lookup, query)

    def stage(self, number: int | None) -> int | None:
        """A stage as the index is asked for it: the current one is ``None``, which also follows its moves."""
        return None if number == self.index.manifest.current.number else number

    def _encoded(self, encoding: Encoding, items: Sequence[Any]) -> list[Query]:
        encode = self.index.encode_texts if encoding.direction == "text" else self.index.encode_images
        return encode(items, stage=encoding.stage, scoring=encoding.scoring)

    def _found(self, lookup: Lookup, queries: Sequence[Query]) -> list[list[Hit]]:
        return self.index.find_each(queries, lookup.k, lookup.filters, exact=lookup.exact, least=lookup.least)

    async def similar(self, key: str, stage: int | None, lookup: Lookup) -> list[Hit]:
        """The pictures most like one of the index, itself left out."""
        check_id(key)
        return await self.apart(
            lambda: self.index.similar(key, lookup.k, lookup.filters, stage=stage, exact=lookup.exact)
        )

    # ---- pictures ----------------------------------------------------------------------------------------------------

    async def apart(self, call: Callable[[], Result]) -> Result:
        """The result of a call that runs in one of the threads for pictures."""
        result: Result = await self._pictures.ask(None, call)
        return result

    async def newest(self, stage: int | None, lookup: Lookup, skip: int) -> list[Hit]:
        """The pictures with the latest dates."""
        return await self.apart(lambda: self.index.newest(lookup.k, lookup.filters, skip=skip, stage=stage))

    async def count(self, stage: int | None, filters: Filters) -> int:
        """How many pictures pass the filters."""
        if filters == Filters() and stage is None:
            return len(self.index)
        return await self.apart(lambda: self.index.count(filters, stage=stage))

    async def picture(self, key: str) -> tuple[Hit, str]:
        """What is known of a picture, and when it was taken."""
        check_id(key)
        return await self.apart(lambda: (self.index.picture(key), self.index.taken(key)))

    async def file(self, key: str) -> Path:
        """The file of a picture."""
        check_id(key)
        return await self.apart(lambda: self.index.path(key))

    async def thumbnail(self, key: str, side: int) -> bytes:
        """A JPEG of a picture whose longer side has at most so many pixels."""
        check_id(key)
        kept = self.thumbnails.get((key, side))
        if kept is not None:
            return kept

        def made() -> bytes:
            generation = self.thumbnails.generation
            content = self.index.thumbnail(key, side)
            self.thumbnails.put((key, side), content, generation)
            return content

        return await self.apart(made)

    async def ground(self, key: str, expression: str) -> tuple[list[Found], tuple[int, int]]:
        """Where in a picture an expression is, and the picture's width and height.

        Raises:
            RefusedError: nothing here finds boxes.
            ConfigError: there are no words.
        """
        check_id(key)
        if self.grounder is None:
            raise RefusedError(501, "no model that finds boxes was given. Start with: lpi serve --ground MODEL")
        if not expression.strip():
            raise ConfigError("an expression needs words; got an empty text.")
        path = await self.file(key)
        image = await self.apart(lambda: open_image(path, str(path), None))
        return await self._boxes.ask(None, (image, expression.strip())), image.size

    def _located(self, key: None, items: Sequence[tuple[Image.Image, str]]) -> list[list[Found]]:
        assert self.grounder is not None
        return [self.grounder.locate(image, [words], count=BOXES)[0] for image, words in items]

    # ---- what there is -----------------------------------------------------------------------------------------------

    async def overview(self) -> Overview:
        """Tasks and folders of the current stage."""
        overview = self._overview
        if overview is None or overview.manifest is not self.index.manifest:
            overview = self._overview = await self.apart(self._counted)
        return overview

    def _counted(self) -> Overview:
        manifest = self.index.manifest
        tasks = self.index.rows().columns("task")["task"]
        return Overview(manifest, Counter(tasks), self.index.folders() or ["."])


def _called(key: None, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


def check_id(key: str) -> None:
    """Refuse what can't be the id of a picture.

    Raises:
        UnknownNameError: it can't.
    """
    if not ID.fullmatch(key):
        raise UnknownNameError(f"no picture has the id {key[:80]!r}. Take one from a search.")
