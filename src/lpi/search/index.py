"""The index as one searches it: a snapshot of what counts, for any stage, safe beside a command that changes it."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lpi.data.records import FilePicture
from lpi.errors import ConfigError, DataError, MissingFileError, UnknownNameError, did_you_mean
from lpi.methods.base import Method
from lpi.search.encoding import Encoder
from lpi.search.files import content_id
from lpi.search.filters import Filters, quoted
from lpi.search.identity import RouteKeys
from lpi.search.manifest import Manifest, Stage, read_manifest
from lpi.search.scoring import EVERY, Probes, Routes, check_scoring, image_probes, routes_by_key, text_probes
from lpi.search.store import Rows, Store
from lpi.search.writer import load_stage
from lpi.trainer import pick_device

SHOWN = ("id", "paths", "task", "confidence", "margin", "date", "width", "height")
TIES = 16  # asked for beyond the wanted hits, so that equal scores are cut in the order of their ids


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        id: of its content.
        path: its first file, relative to the indexed folder.
        copies: further files with the same content.
        score: cosine with the query, at most 1.
        task: where the router sent it; empty for nowhere.
        confidence: how likely that task is, between 0 and 1; ``None`` where no task was learned.
        margin: how much farther the next task is; ``None`` with fewer than two.
        date: when it was taken or last written to, ``YYYY-MM-DDTHH:MM:SS``.
        width, height: in pixels.
    """

    id: str
    path: str
    copies: tuple[str, ...]
    score: float
    task: str
    confidence: float | None
    margin: float | None
    date: str
    width: int
    height: int


@dataclass(frozen=True)
class Query:
    """An encoded query: may be kept, and searched with other filters.

    Attributes:
        stage: the stage whose model encoded it.
        probes: what pictures are compared with.
    """

    stage: int
    probes: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _View:
    """One stage, opened."""

    stage: Stage
    method: Method
    rows: Rows
    routes: Routes


class SearchIndex:
    """An index, opened for searching. Any number of threads may search; changes are picked up by :meth:`refresh`.

    Args:
        folder: of the index.
        device: where the model computes: ``auto``, ``cpu``, ``cuda``, ...

    Raises:
        MissingFileError: there is no index.
        CheckpointError: the index or its model is damaged, or the backbone is no longer the one it was made with.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto") -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._device = pick_device(device)
        self._store = Store(self.folder / "store", self.manifest.width)
        self._lock = threading.RLock()
        self._methods: dict[str, Method] = {}
        self._views: dict[tuple[int, int], _View] = {}
        self._view(None)

    @classmethod
    def open(cls, folder: str | Path, *, device: str = "auto") -> SearchIndex:
        """The index in a folder; see the class."""
        return cls(folder, device=device)

    def refresh(self) -> bool:
        """Take over what was changed meanwhile; returns whether anything was."""
        with self._lock:
            before, self.manifest = self.manifest, read_manifest(self.folder)
            kept = {(stage.number, stage.version) for stage in self.manifest.stages}
            self._views = {key: view for key, view in self._views.items() if key in kept}
            return before != self.manifest

    def __len__(self) -> int:
        return self.manifest.current.pictures

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return Path(self.manifest.root)

    @property
    def tasks(self) -> list[str]:
        """The domains that the current model knows."""
        return [task["name"] for task in self.manifest.current.tasks]

    def stages(self) -> tuple[Stage, ...]:
        """All stages, in the order of time; the last one is the current one."""
        return self.manifest.stages

    def folders(self) -> list[str]:
        """Every folder that holds pictures, relative to the indexed one, which is ``.``."""
        return sorted({folder for own in self._view(None).rows.columns("folders")["folders"] for folder in own})

    def method(self, stage: int | None = None) -> Method:
        """The model of a stage; by default the current one's."""
        return self._view(stage).method

    def _view(self, number: int | None) -> _View:
        with self._lock:
            stages = self.manifest.stages
            if number is not None and not 0 <= number < len(stages):
                raise ConfigError(f"stage must be between 0 and {len(stages) - 1}; got {number}. See: lpi stages")
            stage = stages[-1 if number is None else number]
            key = (stage.number, stage.version)
            if key not in self._views:
                rows = self._store.rows(stage.version)
                method = self._method(stage)
                routes = routes_by_key(method, rows.columns("route")["route"])
                self._views[key] = _View(stage, method, rows, routes)
            return self._views[key]

    def _method(self, stage: Stage) -> Method:
        if stage.model not in self._methods:
            shared = next(iter(self._methods.values())).backbone if self._methods else None
            self._methods[stage.model] = load_stage(self.folder, self.manifest, stage, shared).to(self._device)
        return self._methods[stage.model]

    # ---- queries -----------------------------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str], *, stage: int | None = None, scoring: str = "plain") -> list[Query]:
        """Words as queries, all in one forward pass.

        Args:
            texts: what to look for.
            stage: whose model; by default the current one's.
            scoring: see :mod:`lpi.search.scoring`.

        Raises:
            ConfigError: an empty text, an unknown stage or scoring.
        """
        check_scoring(scoring)
        if any(not text.strip() for text in texts):
            raise ConfigError("a search needs words; got an empty text.")
        if not texts:
            return []
        view = self._view(stage)
        return _queries(view, text_probes(view.method, [text.strip() for text in texts], view.routes, scoring))

    def encode_images(
        self, images: Sequence[Image.Image | Path | str], *, stage: int | None = None, scoring: str = "plain"
    ) -> list[Query]:
        """Pictures as queries; see :meth:`encode_texts`.

        Raises:
            DataError, MissingFileError: a file can't be read as a picture.
        """
        check_scoring(scoring)
        if not images:
            return []
        view = self._view(stage)
        return _queries(view, image_probes(view.method, _pixels(view.method, images), view.routes, scoring))

    # ---- searching ---------------------------------------------------------------------------------------------------

    def search_text(
        self,
        query: str,
        k: int = 10,
        filters: Filters | None = None,
        *,
        stage: int | None = None,
        scoring: str = "plain",
        exact: bool = False,
    ) -> list[Hit]:
        """The pictures that words describe best.

        Args:
            query: the words.
            k: how many.
            filters: which pictures may be found.
            stage: search as of this stage; by default the current one.
            scoring: see :mod:`lpi.search.scoring`.
            exact: look at every vector, also where there is an approximate index.

        Raises:
            ConfigError: something about the request makes no sense; the message says what.
            UnknownNameError: the filter names a task that isn't there.
        """
        return self.find(self.encode_texts([query], stage=stage, scoring=scoring)[0], k, filters, exact=exact)

    def search_image(
        self,
        query: Image.Image | Path | str,
        k: int = 10,
        filters: Filters | None = None,
        *,
        stage: int | None = None,
        scoring: str = "plain",
        exact: bool = False,
    ) -> list[Hit]:
        """The pictures that are most like a picture, which need not be one of the index; see :meth:`search_text`."""
        return self.find(self.encode_images([query], stage=stage, scoring=scoring)[0], k, filters, exact=exact)

    def similar(
        self, key: str, k: int = 10, filters: Filters | None = None, *, stage: int | None = None, exact: bool = False
    ) -> list[Hit]:
        """The pictures most like one of the index, itself left out. Compares the stored vectors: no file is opened.

        Raises:
            UnknownNameError: the stage has no such picture.
        """
        view = self._view(stage)
        if not view.rows.columns("id", where=f"id = {quoted(key)}")["id"]:
            raise UnknownNameError(f"no picture has the id {key!r}. Take one from a search.")
        probe = {EVERY: torch.from_numpy(view.rows.vectors([key])[0])}
        return self._find(view, probe, k, filters, exact, without=key)

    def find(self, query: Query, k: int = 10, filters: Filters | None = None, *, exact: bool = False) -> list[Hit]:
        """The pictures nearest to an encoded query, best first; equal scores in the order of ids."""
        return self._find(self._view(query.stage), query.probes, k, filters, exact)

    def _find(
        self,
        view: _View,
        probes: dict[str, torch.Tensor],
        k: int,
        filters: Filters | None,
        exact: bool,
        without: str | None = None,
    ) -> list[Hit]:
        if k < 1:
            raise ConfigError(f"k must be at least 1; got {k}.")
        filters = filters or Filters()
        names = [task["name"] for task in view.stage.tasks]
        if filters.task and filters.task not in names:
            raise UnknownNameError(f"No task is called {filters.task!r}. {did_you_mean(filters.task, names)}")
        allowed = [filters.sql(), None if without is None else f"id != {quoted(without)}"]
        found: list[dict[str, Any]] = []
        for route, vector in probes.items():
            own = None if route == EVERY else f"route = {quoted(route)}"
            where = " AND ".join(part for part in (*allowed, own) if part) or None
            found += view.rows.nearest(vector.numpy(), count=k + TIES, where=where, exact=exact, columns=SHOWN)
        found.sort(key=lambda row: (-row["score"], row["id"]))
        return [_hit(row) for row in found[:k]]

    def rank_captions(
        self, image: Image.Image | Path | str, captions: Sequence[str], *, scoring: str = "plain"
    ) -> list[tuple[str, float]]:
        """Given captions with their scores for a picture, the best first.

        Raises:
            ConfigError: no caption, or an empty one.
        """
        if not captions:
            raise ConfigError("there are no captions to rank. Give some.")
        if any(not caption.strip() for caption in captions):
            raise ConfigError("a caption is empty. Write one, or remove it.")
        view = self._view(None)
        pixels = _pixels(view.method, [image])
        picture = image_probes(view.method, pixels, {}, "plain").vectors[EVERY]
        encoder = Encoder(view.method, batch=1)
        route = int(encoder.routing(encoder.looks(pixels)).routes[0, 0])
        key = RouteKeys(view.method)[route]
        texts = text_probes(view.method, captions, routes_by_key(view.method, [key]), scoring)
        scores = texts.scores(picture, [key])[:, 0].tolist()
        order = sorted(range(len(captions)), key=lambda place: (-scores[place], place))
        return [(captions[place], scores[place]) for place in order]

    # ---- pictures, by id only ----------------------------------------------------------------------------------------

    def picture(self, key: str) -> Hit:
        """What is known of a picture of the current stage; its score is 1.

        Raises:
            UnknownNameError: there is no such picture.
        """
        found = self._view(None).rows.columns(*SHOWN, where=f"id = {quoted(key)}")
        if not found["id"]:
            raise UnknownNameError(f"no picture has the id {key!r}. Take one from a search.")
        return _hit({name: values[0] for name, values in found.items()} | {"score": 1.0})

    def path(self, key: str) -> Path:
        """The file of a picture, which is still the very one that was indexed.

        Raises:
            UnknownNameError: there is no such picture.
            MissingFileError: its file is gone, or another one lies in its place.
        """
        hit = self.picture(key)
        for name in (hit.path, *hit.copies):
            file = self.root / name
            if file.is_file() and content_id(file) == key:
                return file
        raise MissingFileError(f"{self.root / hit.path}: the picture is no longer there, or changed. Index again.")

    def thumbnail(self, key: str, side: int = 256) -> bytes:
        """A JPEG of a picture whose longer side has at most so many pixels; see :meth:`path`.

        Raises:
            DataError: the picture can't be opened any more.
        """
        if not 16 <= side <= 2048:
            raise ConfigError(f"side must be between 16 and 2048 pixels; got {side}.")
        file = self.path(key)
        image = FilePicture(file, str(file)).open(side)
        image.thumbnail((side, side))
        written = io.BytesIO()
        try:
            image.save(written, "JPEG", quality=85)
        except OSError as error:
            raise DataError(f"{file}: no thumbnail can be made ({error}).") from error
        return written.getvalue()


def _pixels(method: Method, images: Sequence[Image.Image | Path | str]) -> torch.Tensor:
    """Pictures as the backbone sees them, [pictures, 3, height, width] uint8."""
    inputs = method.backbone.inputs
    side = min(inputs.image_size)
    opened = [i if isinstance(i, Image.Image) else FilePicture(Path(i), str(i)).open(side) for i in images]
    return torch.stack([torch.tensor(inputs.prepare(image)).permute(2, 0, 1) for image in opened])


def _queries(view: _View, probes: Probes) -> list[Query]:
    return [Query(view.stage.number, probes[row]) for row in range(len(probes))]


def _hit(row: dict[str, Any]) -> Hit:
    return Hit(
        id=row["id"],
        path=row["paths"][0],
        copies=tuple(row["paths"][1:]),
        score=row["score"],
        task=row["task"],
        confidence=row["confidence"],
        margin=row["margin"],
        date=row["date"],
        width=row["width"],
        height=row["height"],
    )
