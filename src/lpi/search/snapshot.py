"""One stage of an index, opened for searching: its model and its rows, of which nothing changes any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from lpi.backbones.given import PictureLike, given_texts
from lpi.errors import ConfigError, UnknownNameError
from lpi.methods.base import Method
from lpi.prompts.task_keys import FALLBACK
from lpi.search.best import SHOWN, TIES, best_rows_each, check_count
from lpi.search.encoding import caption_scores, image_probes, task_membership, text_probes
from lpi.search.filters import Filters
from lpi.search.fit import LEAST_PICTURES, NEAR, Fitting
from lpi.search.hits import Hit, Query, hit_of
from lpi.search.manifest import Stage
from lpi.search.scoring import Probe, Probes, check_scoring
from lpi.search.table import Row, Rows


class Searched(Protocol):
    """What can be searched: a :class:`Snapshot`, or two of them as one (:class:`lpi.search.pair.Pair`)."""

    @property
    def side(self) -> int:
        """How many pixels of a picture's shorter side the model looks at."""

    def encode_texts(self, texts: str | Sequence[str], scoring: str) -> list[Query]:
        """Words as queries."""

    def encode_images(self, images: PictureLike | Sequence[PictureLike], scoring: str) -> list[Query]:
        """Pictures as queries."""

    def find(
        self,
        probes: Sequence[Probe],
        k: int,
        filters: Filters | None = None,
        *,
        exact: bool = False,
        least: float | None = None,
    ) -> list[list[Hit]]:
        """The pictures nearest to each of several queries, best first."""

    def measure(self) -> bool:
        """Measure how well pictures fit, so that hits say it; returns whether that can be said."""

    def similar(self, key: str, k: int, filters: Filters | None = None, *, exact: bool = False) -> list[Hit]:
        """The pictures most like one of them."""

    def picture(self, key: str) -> Hit:
        """What is known of a picture."""

    def rank_captions(self, image: PictureLike, captions: Sequence[str], scoring: str) -> list[tuple[str, float]]:
        """Captions with their scores for a picture, the best first."""


def check_least(least: float, known: bool) -> None:
    """Refuse to leave out what fits less well than nobody can tell.

    Raises:
        ConfigError: ``least`` isn't between 0 and 1, or it isn't known how well pictures fit.
    """
    if not 0 <= least <= 1:
        raise ConfigError(f"least must be between 0 and 1; got {least}.")
    if not known:
        raise ConfigError(
            f"least: how well a picture fits can't be said of an index of fewer than {LEAST_PICTURES} pictures, of a "
            "model with a small vocabulary such as lpi-tiny, or while an index moves to another model. Leave it out."
        )


@dataclass(frozen=True)
class Snapshot:
    """The pictures and the model of one stage. Any number of threads may use it.

    Attributes:
        stage: which one.
        method: its model.
        rows: its pictures.
        fitting: how well they fit what is asked, once that is measured.
    """

    stage: Stage
    method: Method
    rows: Rows
    fitting: Fitting = field(default_factory=Fitting, compare=False)

    @property
    def tasks(self) -> list[str]:
        """The domains that the model knows."""
        return [task.name for task in self.stage.tasks]

    @property
    def side(self) -> int:
        """How many pixels of a picture's shorter side the model looks at; no more need be decoded."""
        return min(self.method.backbone.inputs.image_size)

    def encode_texts(self, texts: str | Sequence[str], scoring: str) -> list[Query]:
        """Words as queries; see :meth:`lpi.search.index.SearchIndex.encode_texts`."""
        check_scoring(scoring)
        words = [text.strip() for text in given_texts(texts)[0]]
        if not all(words):
            raise ConfigError("a search needs words; got an empty text.")
        if not words:
            return []
        cut = set(self.method.backbone.inputs.too_long(words, reserved=self.method.reserved_tokens()))
        queries = self._queries(text_probes(self.method, words, scoring))
        return [replace(query, cut=place in cut) for place, query in enumerate(queries)]

    def encode_images(self, images: PictureLike | Sequence[PictureLike], scoring: str) -> list[Query]:
        """Pictures as queries; see :meth:`lpi.search.index.SearchIndex.encode_images`."""
        check_scoring(scoring)
        pixels = self.method.backbone.inputs.pixels(images)
        return self._queries(image_probes(self.method, pixels, scoring)) if len(pixels) else []

    def _queries(self, probes: Probes) -> list[Query]:
        stage = self.stage
        return [Query(stage.number, probes[row], stage.model, routes) for row, routes in enumerate(probes.routes)]

    def find(
        self,
        probes: Sequence[Probe],
        k: int,
        filters: Filters | None = None,
        *,
        exact: bool = False,
        least: float | None = None,
        without: str | None = None,
    ) -> list[list[Hit]]:
        """The pictures nearest to each of several queries, best first; equal scores in the order of ids.

        Args:
            probes: the queries, all for the same scoring.
            k: how many for each.
            filters: which pictures may be found.
            exact: look at every vector, also where there is an approximate index.
            least: leave out what fits less well, between 0 and 1; see :mod:`lpi.search.fit`.
            without: the id of a picture to leave out.

        Raises:
            ConfigError: ``k`` is less than 1, or ``least`` not between 0 and 1, or nothing can be said of that.
            UnknownNameError: the filter names a task or folder that isn't there.
        """
        check_count(k)
        filters = self.filters(filters)
        if least is not None:
            check_least(least, self.measure())
        looked = k if self.fitting.known is None else max(k, NEAR)  # how well they fit is told from so many
        each = best_rows_each(self.rows, probes, looked + TIES, filters, exact, without, self.membership)
        found = [[hit_of(row) for row in rows[:looked]] for rows in each]
        return [self._fitted(probe, hits, least)[:k] for probe, hits in zip(probes, found, strict=True)]

    def filters(self, given: Filters | None) -> Filters:
        """Conditions on the pictures as the rows spell them.

        Raises:
            UnknownNameError: they name a task or a folder that isn't there.
        """
        filters = given or Filters()
        filters.check(self.tasks)
        return filters.in_folder(self.rows.any, self.rows.folders)

    def measure(self) -> bool:
        """See :class:`Searched`."""
        return self.fitting.measure(self.method, self.rows, self.stage.version) is not None

    def _fitted(self, probe: Probe, hits: list[Hit], least: float | None) -> list[Hit]:
        """Hits with how well they fit, where that was measured; those that fit less than ``least`` left out."""
        if self.fitting.known is None or not hits:
            return hits
        fits = self.fitting.known(probe, self.rows.vectors([hit.id for hit in hits]))
        return [replace(hit, fit=fit) for hit, fit in zip(hits, fits, strict=True) if least is None or fit >= least]

    def similar(self, key: str, k: int, filters: Filters | None = None, *, exact: bool = False) -> list[Hit]:
        """The pictures most like one of them, itself left out; see :meth:`lpi.search.index.SearchIndex.similar`."""
        self.picture(key)
        probe = Probe(torch.from_numpy(self.rows.vectors([key])[0]), kind="image")
        return self.find([probe], k, filters, exact=exact, without=key)[0]

    def newest(self, k: int, filters: Filters, *, skip: int = 0) -> list[Hit]:
        """The pictures with the latest dates, after ``skip`` others; equal ones in the order of ids."""
        check_count(k)
        dates = self.rows.columns("id", "date", where=self.filters(filters).sql())
        order = sorted(zip(dates["date"], dates["id"], strict=True), key=lambda own: own[1])
        order.sort(key=lambda own: own[0], reverse=True)
        return [self.picture(key) for _, key in order[skip : skip + k]]

    def picture(self, key: str) -> Hit:
        """What is known of a picture; its score is 1.

        Raises:
            UnknownNameError: there is no such picture.
        """
        row = self.rows.of(key, *SHOWN)
        if row is None:
            raise UnknownNameError(f"no picture has the id {key!r}. Take one from a search.")
        return hit_of({**row, "score": 1.0})

    def membership(self, rows: Sequence[Row]) -> torch.Tensor:
        """How much rows with their ``task`` and ``distances`` belong to each task, [rows, tasks]."""
        places = {name: place for place, name in enumerate(self.method.tasks)} | {"": FALLBACK}
        return task_membership(self.method, [row["distances"] for row in rows], [places[row["task"]] for row in rows])

    def rank_captions(self, image: PictureLike, captions: Sequence[str], scoring: str) -> list[tuple[str, float]]:
        """Captions with their scores for a picture; see :meth:`lpi.search.index.SearchIndex.rank_captions`."""
        captions = given_texts(captions)[0]
        if not captions:
            raise ConfigError("there are no captions to rank. Give some.")
        if any(not caption.strip() for caption in captions):
            raise ConfigError("a caption is empty. Write one, or remove it.")
        pixels = self.method.backbone.inputs.pixels([image])
        scores = caption_scores(self.method, pixels, captions, scoring).tolist()
        order = sorted(range(len(captions)), key=lambda place: (-scores[place], place))
        return [(captions[place], scores[place]) for place in order]
