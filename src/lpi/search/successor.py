"""The half of an index that has the new model already, while it is on its way there; see :mod:`lpi.search.crossing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lpi.errors import ConfigError, UnknownNameError, did_you_mean
from lpi.search.best import TIES, Found, best_rows, merged
from lpi.search.crossing import FILE, load_crossing
from lpi.search.encoding import Single
from lpi.search.filters import Filters, quoted
from lpi.search.manifest import NEXT
from lpi.search.scoring import EVERY

if TYPE_CHECKING:
    from torch import Tensor

    from lpi.search.index import SearchIndex


class Successor:
    """The new half, opened beside the old one.

    Args:
        index: the new half.
        old: the old model, as the index names it.

    Raises:
        CheckpointError: the bridge is damaged, or between other models.
    """

    def __init__(self, index: SearchIndex, old: str) -> None:
        self.index = index
        self.crossing = load_crossing(index.folder, old=old, new=index.manifest.current.model)
        self._written = self._mark()

    @property
    def model(self) -> str:
        """What stands for the new model."""
        return self.crossing.new

    def refresh(self) -> bool:
        """Take over what was changed meanwhile; returns whether anything was."""
        changed = self.index.refresh()
        if self._mark() != self._written:
            self._written = self._mark()
            self.crossing = load_crossing(self.index.folder, old=self.crossing.old, new=self.crossing.new)
            changed = True
        return changed

    def _mark(self) -> tuple[int, int]:
        status = (self.index.folder / FILE).stat()
        return status.st_ino, status.st_mtime_ns

    def known(self, ids: list[str]) -> set[str]:
        """Which of some pictures have a new vector."""
        if not ids:
            return set()
        where = f"id IN ({', '.join(map(quoted, ids))})"
        return set(self.index.rows().columns("id", where=where)["id"])

    def find(
        self,
        outer: SearchIndex,
        probes: dict[str, Tensor],
        k: int,
        filters: Filters,
        exact: bool,
        without: str | None = None,
    ) -> Found:
        """The best k rows of both halves; see :meth:`lpi.search.index.SearchIndex.find`.

        Raises:
            ConfigError: the query was encoded for another way of scoring than ``plain``.
            UnknownNameError: the filter names a task that neither model knows.
        """
        if set(probes) != {EVERY}:
            raise ConfigError("while the index moves to another model, scoring must be plain. See: lpi migrate")
        if filters.task and filters.task not in (known := [*outer.tasks, *self.index.tasks]):
            raise UnknownNameError(f"No task is called {filters.task!r}. {did_you_mean(filters.task, known)}")
        over, scale = self.crossing.carry(probes[EVERY])

        def half(index: SearchIndex, vectors: dict[str, Tensor]) -> Callable[[int], Found]:
            if filters.task and filters.task not in index.tasks:
                return lambda count: []
            return lambda count: best_rows(index.rows(), vectors, count, filters, exact, without)

        fresh = half(self.index, probes)(k + TIES)
        return merged(fresh, k, half(outer, {EVERY: over}), scale, self.known)

    def vector(self, key: str) -> Single:
        """The new vector of a picture, [features].

        Raises:
            UnknownNameError: it has none.
        """
        if not self.known([key]):
            raise UnknownNameError(f"no picture has the id {key!r}. Take one from a search.")
        vector: Single = self.index.rows().vectors([key])[0]
        return vector


def open_successor(outer: SearchIndex, device: str) -> Successor:
    """Open the new half of an index that is on its way."""
    index = type(outer)(outer.folder / NEXT, device=device, method_file=outer.method_file)
    return Successor(index, outer.manifest.current.model)
