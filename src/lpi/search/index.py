"""The index as one searches it: a snapshot of what counts, for any stage, safe beside a command that changes it."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lpi.backbones.given import PictureLike, given_texts
from lpi.data.content import content_id
from lpi.data.records import FilePicture
from lpi.errors import ConfigError, DataError, MissingFileError, UnknownNameError, did_you_mean
from lpi.methods import Named, outside
from lpi.methods.base import Method
from lpi.methods.encoder import route_images, route_texts
from lpi.prompts.task_keys import FALLBACK
from lpi.search.best import SHOWN, TIES, Found, best_rows_each
from lpi.search.building import build
from lpi.search.crossing import is_crossing
from lpi.search.encoding import Encoder
from lpi.search.files import OnProgress
from lpi.search.filters import Filters, quoted
from lpi.search.hits import Hit, Query, hit_of
from lpi.search.identity import RouteKeys
from lpi.search.manifest import Manifest, Stage, read_manifest
from lpi.search.scoring import (
    EVERY,
    TASKS,
    Answering,
    Probes,
    Routes,
    belonging_of,
    check_scoring,
    image_probes,
    routes_by_key,
    tasks_of,
    text_probes,
)
from lpi.search.store import Rows, Store
from lpi.search.successor import Successor, open_successor
from lpi.search.writer import load_stage
from lpi.trainer import pick_device


@dataclass(frozen=True)
class _View:
    """One stage, opened."""

    stage: Stage
    method: Method
    rows: Rows
    routes: Routes

    def belonging(self, rows: Found) -> torch.Tensor:
        """How much rows with their ``task`` and ``distances`` belong to each task, [rows, tasks]."""
        places = {name: place for place, name in enumerate(self.method.tasks)} | {"": FALLBACK}
        return belonging_of(self.method, [row["distances"] for row in rows], [places[row["task"]] for row in rows])


class SearchIndex:
    """An index, opened for searching. Any number of threads may search; changes are picked up by :meth:`refresh`.

    Args:
        folder: of the index.
        device: where the model computes: ``auto``, ``cpu``, ``cuda``, ...
        method_file: the file or class of the index's method, where it is none of the library's.

    Raises:
        MissingFileError: there is no index.
        CheckpointError: the index or its model is damaged, or the backbone is no longer the one it was made with.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto", method_file: Named | None = None) -> None:
        self.folder, self.method_file = Path(folder), method_file
        self.manifest: Manifest = read_manifest(self.folder)
        self._device = pick_device(device)
        self._store = Store(self.manifest.store_in(self.folder), self.manifest.width)
        self._next: Successor | None = None  # a refresh may change it at any time: looked up once in each call
        self._lock, self._refreshing = threading.RLock(), threading.Lock()
        self._methods: dict[str, Method] = {}
        self._views: dict[tuple[int, int], _View] = {}
        self._view(None)
        self._follow(device)

    @classmethod
    def open(cls, folder: str | Path, *, device: str = "auto", method_file: Named | None = None) -> SearchIndex:
        """The index in a folder; see the class."""
        return cls(folder, device=device, method_file=method_file)

    @classmethod
    def build(
        cls,
        model: Method | str | Path,
        folder: str | Path,
        *,
        index: str | Path | None = None,
        device: str = "auto",
        on_progress: OnProgress | None = None,
        method_file: Named | None = None,
    ) -> SearchIndex:
        """The index of a folder of pictures, made or brought up to date; see :func:`lpi.search.building.build`."""
        named = outside(type(model)) if isinstance(model, Method) else method_file
        made = build(model, folder, index, device=device, on_progress=on_progress, method_file=named)
        return cls(made, device=device, method_file=named)

    def refresh(self) -> bool:
        """Take over what was changed meanwhile; returns whether anything was. Searches go on until it is there."""
        with self._refreshing:
            before, found = self.manifest, read_manifest(self.folder)
            if found != before:
                self._take_over(found)
            return self._follow(str(self._device)) or found != before

    def _take_over(self, manifest: Manifest) -> None:
        """Open the current stage of another manifest, and only then search it: nobody waits meanwhile."""
        same = manifest.store == self.manifest.store  # or else another model's index took its place
        store = self._store if same else Store(manifest.store_in(self.folder), manifest.width)
        methods = dict(self._methods) if same else {}
        stage = manifest.current
        view = self._open(stage, manifest, store, methods)
        with self._lock:
            kept = {(stage.number, stage.version) for stage in manifest.stages} if same else set()
            views = {key: own for key, own in self._views.items() if key in kept}
            self.manifest, self._store, self._methods = manifest, store, methods
            self._views = {**views, (stage.number, stage.version): view}

    def _follow(self, device: str) -> bool:
        """Open, refresh or close the half that has another model already; returns whether anything changed."""
        before = self._next
        try:
            if is_crossing(self.folder, self.manifest):
                if before is not None:
                    return before.refresh()
                self._next = open_successor(self, device)
                return True
        except MissingFileError:  # it arrived, or was given up, in between: the next refresh will see that
            pass
        self._next = None
        return before is not None

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

    def rows(self, stage: int | None = None) -> Rows:
        """The rows of a stage; by default the current one's."""
        return self._view(stage).rows

    def _view(self, number: int | None) -> _View:
        with self._lock:
            stages = self.manifest.stages
            if number is not None and not 0 <= number < len(stages):
                raise ConfigError(f"stage must be between 0 and {len(stages) - 1}; got {number}. See: lpi stages")
            stage = stages[-1 if number is None else number]
            key = (stage.number, stage.version)
            if key not in self._views:
                self._views[key] = self._open(stage, self.manifest, self._store, self._methods)
            return self._views[key]

    def _open(self, stage: Stage, manifest: Manifest, store: Store, methods: dict[str, Method]) -> _View:
        """A stage with its rows and its model, which is loaded and put to the others if it isn't among them yet."""
        if stage.model not in methods:
            shared = next(iter(methods.values())).backbone if methods else None
            loaded = load_stage(self.folder, manifest, stage, shared, method_file=self.method_file)
            methods[stage.model] = loaded.to(self._device)
        rows, method = store.rows(stage.version), methods[stage.model]
        return _View(stage, method, rows, routes_by_key(method, rows.columns("route")["route"]))

    def side(self, stage: int | None = None) -> int:
        """How many pixels of a picture's shorter side a stage's model looks at; no more need be decoded."""
        if stage is None and (following := self._next) is not None:
            return following.index.side()
        return min(self.method(stage).backbone.inputs.image_size)

    # ---- queries -----------------------------------------------------------------------------------------------------

    def encode_texts(
        self, texts: str | Sequence[str], *, stage: int | None = None, scoring: str = "plain"
    ) -> list[Query]:
        """Words as queries, all in one forward pass.

        Args:
            texts: what to look for; a single text is a list of one.
            stage: whose model; by default the current one's.
            scoring: see :mod:`lpi.search.scoring`.

        Raises:
            ConfigError: an empty text or none at all, an unknown stage or scoring.
        """
        check_scoring(scoring)
        texts = given_texts(texts)[0]
        if any(not text.strip() for text in texts):
            raise ConfigError("a search needs words; got an empty text.")
        if not texts:
            return []
        if stage is None and (following := self._next) is not None:
            return self._as_current(following.index.encode_texts(texts, scoring=scoring))
        view, words = self._view(stage), [text.strip() for text in texts]
        mixture = route_texts(view.method, words)  # once: it decides the vectors, and is told besides
        probes = text_probes(view.method, words, view.routes, scoring, mixture)
        return _queries(view, probes, tasks_of(view.method, mixture))

    def encode_images(
        self, images: PictureLike | Sequence[PictureLike], *, stage: int | None = None, scoring: str = "plain"
    ) -> list[Query]:
        """Pictures as queries; see :meth:`encode_texts`.

        Args:
            images: as :meth:`lpi.methods.base.Method.encode_images` takes them; a single one is a list of one.
            stage: whose model; by default the current one's.
            scoring: see :mod:`lpi.search.scoring`.

        Raises:
            ConfigError: these are no pictures, an unknown stage or scoring.
            DataError, MissingFileError: a file can't be read as a picture.
        """
        check_scoring(scoring)
        if stage is None and (following := self._next) is not None:
            return self._as_current(following.index.encode_images(images, scoring=scoring))
        view = self._view(stage)
        pixels = view.method.backbone.inputs.pixels(images)
        if not len(pixels):
            return []
        mixture = route_images(view.method, pixels)
        probes = image_probes(view.method, pixels, view.routes, scoring, mixture)
        return _queries(view, probes, tasks_of(view.method, mixture))

    def _as_current(self, queries: list[Query]) -> list[Query]:
        return [replace(query, stage=self.manifest.current.number) for query in queries]

    # ---- searching, and serving --------------------------------------------------------------------------------------

    def search(self, words: str, *, count: int = 10) -> list[Hit]:
        """The pictures that words describe best; :meth:`search_text` has more to choose."""
        return self.search_text(words, count)

    def serve(self, *, port: int = 8000, **options: Any) -> None:
        """Search in a browser, until Ctrl-C; see :func:`lpi.serve.server.serve`."""
        from lpi.serve.server import serve  # the server stands above the index; this is only its doorbell

        serve(self, port=port, **options)

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
        query: PictureLike,
        k: int = 10,
        filters: Filters | None = None,
        *,
        stage: int | None = None,
        scoring: str = "plain",
        exact: bool = False,
    ) -> list[Hit]:
        """The pictures that are most like a picture, which need not be one of the index; see :meth:`search_text`.

        Args:
            query: opened by PIL, a path, or uint8 pixels; see :meth:`lpi.methods.base.Method.encode_images`.
            k, filters, stage, scoring, exact: as in :meth:`search_text`.
        """
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
            if stage is None and (following := self._next) is not None:
                probe = {EVERY: torch.from_numpy(following.vector(key))}
                best = following.find(self, probe, k, filters or Filters(), exact, without=key)
                return [hit_of(row) for row in best]
            raise UnknownNameError(f"no picture has the id {key!r}. Take one from a search.")
        probe = {EVERY: torch.from_numpy(view.rows.vectors([key])[0])}
        return self._find(view, [probe], k, filters, exact, without=key)[0]

    def find(self, query: Query, k: int = 10, filters: Filters | None = None, *, exact: bool = False) -> list[Hit]:
        """The pictures nearest to an encoded query, best first; equal scores in the order of ids.

        Raises:
            ConfigError: the index no longer has the model that encoded the query.
        """
        if (following := self._next) is not None and query.model == following.model:
            _check_count(k)
            best = following.find(self, query.probes, k, filters or Filters(), exact)
            return [hit_of(row) for row in best]
        return self._find(self._view_of(query), [query.probes], k, filters, exact)[0]

    def find_each(
        self, queries: Sequence[Query], k: int = 10, filters: Filters | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """:meth:`find` for several queries: those that are alike are looked for in the store at once."""
        found: list[list[Hit]] = [[] for _ in queries]
        groups: dict[tuple[Any, ...], list[int]] = {}
        following = self._next
        for place, query in enumerate(queries):
            if following is not None and query.model == following.model:
                found[place] = self.find(query, k, filters, exact=exact)
            else:
                groups.setdefault((query.stage, query.model, *query.probes), []).append(place)
        for places in groups.values():
            view = self._view_of(queries[places[0]])
            each = self._find(view, [queries[place].probes for place in places], k, filters, exact)
            for place, hits in zip(places, each, strict=True):
                found[place] = hits
        return found

    def _view_of(self, query: Query) -> _View:
        """The stage that a query was encoded for; what has its number now may have another model."""
        stages = self.manifest.stages
        same = [stage.number for stage in stages if stage.model == query.model]
        if not same:
            raise ConfigError("the index has no longer the model that encoded this query. Encode it again.")
        return self._view(query.stage if query.stage in same else same[-1])

    def _find(
        self,
        view: _View,
        probes: Sequence[dict[str, torch.Tensor]],
        k: int,
        filters: Filters | None,
        exact: bool,
        without: str | None = None,
    ) -> list[list[Hit]]:
        _check_count(k)
        filters = filters or Filters()
        names = [task["name"] for task in view.stage.tasks]
        if filters.task and filters.task not in names:
            raise UnknownNameError(f"No task is called {filters.task!r}. {did_you_mean(filters.task, names)}")
        each = best_rows_each(view.rows, probes, k + TIES, filters, exact, without, view.belonging)
        return [[hit_of(row) for row in rows[:k]] for rows in each]

    def rank_captions(
        self, image: PictureLike, captions: Sequence[str], *, scoring: str = "plain"
    ) -> list[tuple[str, float]]:
        """Given captions with their scores for a picture, the best first.

        Raises:
            ConfigError: no caption, or an empty one.
        """
        captions = given_texts(captions)[0]
        if not captions:
            raise ConfigError("there are no captions to rank. Give some.")
        if any(not caption.strip() for caption in captions):
            raise ConfigError("a caption is empty. Write one, or remove it.")
        view = self._view(None)
        pixels = view.method.backbone.inputs.pixels([image])
        picture = image_probes(view.method, pixels, {}, "plain").vectors[EVERY]
        encoder = Encoder(view.method, batch=1)
        routing = encoder.routing(encoder.looks(pixels))
        key = RouteKeys(view.method)[int(routing.routes[0, 0])]
        texts = text_probes(view.method, captions, routes_by_key(view.method, [key]), scoring)
        counts = TASKS in texts.vectors
        belonging = belonging_of(view.method, routing.distances, routing.tasks) if counts else None
        scores = texts.scores(picture, [key], belonging)[:, 0].tolist()
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
            if (following := self._next) is not None:  # a picture that came while the index is on its way
                return following.index.picture(key)
            raise UnknownNameError(f"no picture has the id {key!r}. Take one from a search.")
        return hit_of({name: values[0] for name, values in found.items()} | {"score": 1.0})

    def path(self, key: str) -> Path:
        """The file of a picture, which is still the very one that was indexed.

        Raises:
            UnknownNameError: there is no such picture.
            MissingFileError: its file is gone, or another one lies in its place.
        """
        hit = self.picture(key)
        for name in (hit.path, *hit.copies):
            file: Path = self.root / name
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


def _check_count(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1; got {k}.")


def _queries(view: _View, probes: Probes, routes: list[Answering]) -> list[Query]:
    stage = view.stage
    return [Query(stage.number, probes[row], stage.model, routes[row]) for row in range(len(probes))]
