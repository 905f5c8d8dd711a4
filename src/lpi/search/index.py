"""The index as one searches it: what counts, for any stage, safe beside a command that changes it."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from lpi.backbones.given import PictureLike
from lpi.data.content import content_id
from lpi.data.records import FilePicture
from lpi.devices import pick_device
from lpi.errors import ConfigError, DataError, MissingFileError, UnknownNameError
from lpi.methods import Named, outside
from lpi.methods.base import Method
from lpi.search.building import build
from lpi.search.files import OnProgress
from lpi.search.filters import Filters
from lpi.search.hits import Hit, Query
from lpi.search.manifest import NEXT, Manifest, Stage, read_manifest, successor
from lpi.search.pair import Pair, pair_of
from lpi.search.snapshot import Searched, Snapshot
from lpi.search.stages import Stages
from lpi.search.table import Rows
from lpi.showing import counted, html_table


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
        if not isinstance(folder, str | PathLike):
            raise ConfigError(f"an index is opened by its folder; got {type(folder).__name__}.")
        self.folder, self.method_file = Path(folder), method_file
        self._device = pick_device(device)
        self._refreshing = threading.Lock()
        self._stages = self._opened(self.folder, read_manifest(self.folder))
        self._next: Stages | None = None  # with another model, which the index is on its way to
        self._pair: Pair | None = None  # a refresh may change it at any time: looked up once in each call
        self._follow()

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

    # ---- what is searched --------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Take over what was changed meanwhile; returns whether anything was. Searches go on until it is there."""
        with self._refreshing:
            found, changed = read_manifest(self.folder), False
            if found != self.manifest:
                self._stages, changed = self._opened(self.folder, found, self._stages), True
            return self._follow() or changed

    def _opened(self, folder: Path, manifest: Manifest, before: Stages | None = None) -> Stages:
        return Stages(folder, manifest, device=self._device, method_file=self.method_file, before=before)

    def _follow(self) -> bool:
        """Open, or close, what has another model already; returns whether anything changed."""
        stages, before = self._stages, self._next
        try:
            manifest = successor(self.folder, self.manifest)
            if manifest is not None:
                if before is not None and before.manifest == manifest and self._pair_is_of(stages):
                    return False
                self._next = self._opened(self.folder / NEXT, manifest, before)
                self._pair = pair_of(stages.at(None), self._next.at(None))
                return True
        except MissingFileError:  # it arrived, or was given up, in between: the next refresh will see that
            pass
        self._next = self._pair = None
        return before is not None

    def _pair_is_of(self, stages: Stages) -> bool:
        return self._pair is None or self._pair.old is stages.at(None)

    @property
    def manifest(self) -> Manifest:
        """The manifest as it was when the index was opened or refreshed last."""
        return self._stages.manifest

    def at(self, stage: int | None = None) -> Snapshot:
        """The snapshot of a stage; by default of the current one.

        Raises:
            ConfigError: there is no such stage.
        """
        return self._stages.at(stage)

    def _searched(self, stage: int | None) -> Searched:
        """What answers a query as of a stage; by default of now, which is with the next model where there is one."""
        pair = self._pair if stage is None else None
        return self.at(stage) if pair is None else pair

    def __len__(self) -> int:
        return self.manifest.current.pictures

    def __repr__(self) -> str:
        return f"SearchIndex of {self.root.name}: {len(self)} pictures, {counted(self.tasks, 'domain')}"

    def _repr_html_(self) -> str:
        rows = [(one.number, f"{one.kind} {one.task}".strip(), one.pictures, one.when) for one in self.stages()]
        return html_table(repr(self), ("stage", "what", "pictures", "when"), rows)

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return Path(self.manifest.root)

    @property
    def tasks(self) -> list[str]:
        """The domains that the current model knows."""
        return self.at().tasks

    def stages(self) -> tuple[Stage, ...]:
        """All stages, in the order of time; the last one is the current one."""
        return self.manifest.stages

    def folders(self) -> list[str]:
        """Every folder that holds pictures, relative to the indexed one, which is ``.``."""
        return self.rows().folders()

    def method(self, stage: int | None = None) -> Method:
        """The model of a stage; by default the current one's."""
        return self.at(stage).method

    def rows(self, stage: int | None = None) -> Rows:
        """The rows of a stage; by default the current one's."""
        return self.at(stage).rows

    def side(self, stage: int | None = None) -> int:
        """How many pixels of a picture's shorter side a stage's model looks at; no more need be decoded."""
        return self._searched(stage).side

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
        return self._searched(stage).encode_texts(texts, scoring)

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
        return self._searched(stage).encode_images(images, scoring)

    # ---- searching, and serving --------------------------------------------------------------------------------------

    def search(self, words: str, *, count: int = 10, least: float | None = None) -> list[Hit]:
        """The pictures that words describe best; :meth:`search_text` has more to choose."""
        return self.search_text(words, count, least=least)

    def measure(self, stage: int | None = None) -> bool:
        """Measure how well pictures of a stage fit, once, so that hits say it; returns whether that can be said."""
        return self._searched(stage).measure()

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
        least: float | None = None,
    ) -> list[Hit]:
        """The pictures that words describe best.

        Args:
            query: the words.
            k: how many.
            filters: which pictures may be found.
            stage: search as of this stage; by default the current one.
            scoring: see :mod:`lpi.search.scoring`.
            exact: look at every vector, also where there is an approximate index.
            least: leave out what fits less well, between 0 and 1; a half is where nonsense ends. See :attr:`Hit.fit`.

        Raises:
            ConfigError: something about the request makes no sense; the message says what.
            UnknownNameError: the filter names a task that isn't there.
        """
        return self.find(
            self.encode_texts([query], stage=stage, scoring=scoring)[0], k, filters, exact=exact, least=least
        )

    def search_image(
        self,
        query: PictureLike,
        k: int = 10,
        filters: Filters | None = None,
        *,
        stage: int | None = None,
        scoring: str = "plain",
        exact: bool = False,
        least: float | None = None,
    ) -> list[Hit]:
        """The pictures that are most like a picture, which need not be one of the index; see :meth:`search_text`.

        Args:
            query: opened by PIL, a path, or uint8 pixels; see :meth:`lpi.methods.base.Method.encode_images`.
            k, filters, stage, scoring, exact, least: as in :meth:`search_text`.
        """
        encoded = self.encode_images([query], stage=stage, scoring=scoring)[0]
        return self.find(encoded, k, filters, exact=exact, least=least)

    def similar(
        self, key: str, k: int = 10, filters: Filters | None = None, *, stage: int | None = None, exact: bool = False
    ) -> list[Hit]:
        """The pictures most like one of the index, itself left out. Compares the stored vectors: no file is opened.

        Raises:
            UnknownNameError: the stage has no such picture.
        """
        return self._searched(stage).similar(key, k, filters, exact=exact)

    def find(
        self,
        query: Query,
        k: int = 10,
        filters: Filters | None = None,
        *,
        exact: bool = False,
        least: float | None = None,
    ) -> list[Hit]:
        """The pictures nearest to an encoded query, best first; equal scores in the order of ids.

        Raises:
            ConfigError: the index no longer has the model that encoded the query.
        """
        return self.find_each([query], k, filters, exact=exact, least=least)[0]

    def find_each(
        self,
        queries: Sequence[Query],
        k: int = 10,
        filters: Filters | None = None,
        *,
        exact: bool = False,
        least: float | None = None,
    ) -> list[list[Hit]]:
        """:meth:`find` for several queries: those that are alike are looked for in the store at once."""
        found: list[list[Hit]] = [[] for _ in queries]
        groups: dict[tuple[int, str, bool], list[int]] = {}
        for place, query in enumerate(queries):
            groups.setdefault((query.stage, query.model, query.probe.membership is None), []).append(place)
        for places in groups.values():
            probes = [queries[place].probe for place in places]
            each = self._searched_by(queries[places[0]]).find(probes, k, filters, exact=exact, least=least)
            for place, hits in zip(places, each, strict=True):
                found[place] = hits
        return found

    def _searched_by(self, query: Query) -> Searched:
        """What a query was encoded for; the stage that has its number now may have another model."""
        pair, stages = self._pair, self._stages
        if pair is not None and query.model == pair.new.stage.model:
            return pair
        same = [stage.number for stage in stages.manifest.stages if stage.model == query.model]
        if not same:
            raise ConfigError("the index has no longer the model that encoded this query. Encode it again.")
        return stages.at(query.stage if query.stage in same else same[-1])

    def rank_captions(
        self, image: PictureLike, captions: Sequence[str], *, scoring: str = "plain"
    ) -> list[tuple[str, float]]:
        """Given captions with their scores for a picture, the best first.

        Raises:
            ConfigError: no caption, or an empty one.
        """
        return self._searched(None).rank_captions(image, captions, scoring)

    def newest(
        self, k: int = 10, filters: Filters | None = None, *, skip: int = 0, stage: int | None = None
    ) -> list[Hit]:
        """The pictures with the latest dates, after ``skip`` others; their score is 1.

        Raises:
            ConfigError: ``k`` is less than 1, or there is no such stage.
            UnknownNameError: the filter names a task or folder that isn't there.
        """
        return self.at(stage).newest(k, filters or Filters(), skip=skip)

    def count(self, filters: Filters | None = None, *, stage: int | None = None) -> int:
        """How many pictures pass the filters."""
        snapshot = self.at(stage)
        try:
            return snapshot.rows.count(snapshot.filters(filters).sql())
        except UnknownNameError:  # maybe only the next model knows it, whose pictures aren't counted yet
            return 0

    # ---- pictures, by id only ----------------------------------------------------------------------------------------

    def picture(self, key: str) -> Hit:
        """What is known of a picture of the current stage; its score is 1.

        Raises:
            UnknownNameError: there is no such picture.
        """
        return self._searched(None).picture(key)

    def taken(self, key: str) -> str:
        """When a picture was taken, ``YYYY-MM-DDTHH:MM:SS`` by its camera's own note; empty where there is none."""
        for stages in (self._stages, self._next):  # what came since a move began is in the next one alone
            known = {} if stages is None else stages.store.abouts([key])
            if key in known:
                return known[key][2]
        return ""

    def path(self, key: str) -> Path:
        """The file of a picture, which is still the very one that was indexed.

        Raises:
            UnknownNameError: there is no such picture.
            MissingFileError: its file is gone, or another one lies in its place.
        """
        hit = self.picture(key)
        for name in (hit.path, *hit.copies):
            file: Path = self.root / name
            with contextlib.suppress(OSError):  # it is gone, or can't be read just now
                if content_id(file) == key:
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
