"""The rows of an index at one version, for reading; and what the store raises turned into one line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from lpi.errors import OutputError
from lpi.search.encoding import Single
from lpi.search.filters import quoted
from lpi.search.manifest import Look
from lpi.search.matrix import FITS, Matrix

IN_FILTER = 500  # more ids than these are cheaper found by reading the whole column
LOOKED_AT = 4096  # rows a query that may be as near as the wanted ones; more are cheaper looked through on disk
TINY = 1e-12  # a vector of no length has no direction, and scores 0


class Row(TypedDict, total=False):
    """A picture as the index holds it: those of its columns that were asked for, and its score where one was."""

    id: str
    paths: list[str]
    folders: list[str]
    date: str
    width: int
    height: int
    task: str
    distances: list[float]
    margin: float | None
    confidence: float | None
    score: float


class Rows:
    """The pictures' rows at one version.

    Args:
        table: of the store, checked out at that version.
        width: of the vectors.
        look: how the approximate index is searched.
    """

    matrix_bytes = FITS  # more are looked through on disk

    def __init__(self, table: Any, width: int, look: Look = Look()) -> None:  # noqa: B008 - it never changes
        self._table, self._width, self.look = table, width, look
        self._read: Matrix | None = None
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def columns(self, *names: str, where: str | None = None) -> dict[str, list[Any]]:
        """Values of all rows by the name of their column, in one order of rows."""
        query = self._table.search().select(list(names))
        found = (query if where is None else query.where(where)).to_arrow()
        return {name: found[name].to_pylist() for name in names}

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that have a row."""
        query = self._table.search().select(["id"])
        if len(ids) <= IN_FILTER:
            query = query.where(f"id IN ({', '.join(map(quoted, ids))})" if ids else "false")
        return set(ids) & set(query.to_arrow()["id"].to_pylist())

    def of(self, key: str, *names: str) -> Row | None:
        """Some columns of one picture's row; ``None`` where there is no such picture."""
        found: list[Row] = self._table.search().select(list(names)).where(f"id = {quoted(key)}").to_list()
        return found[0] if found else None

    def vectors(self, ids: Sequence[str]) -> Single:
        """The searched vectors of pictures, [ids, features]."""
        query = self._table.search().select(["id", "vector"])
        if len(ids) <= IN_FILTER:
            query = query.where(f"id IN ({', '.join(map(quoted, ids))})" if ids else "false")
        found = query.to_arrow()
        place = {own: row for row, own in enumerate(found["id"].to_pylist())}
        values = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values, dtype=np.float32).reshape(-1, self._width)[[place[own] for own in ids]]

    def sample(self, count: int) -> tuple[list[str], Single]:
        """Ids and searched vectors [pictures, features] of so many pictures, or all, spread over the rows."""
        rows = len(self)
        offsets = np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(int)).tolist() if rows else []
        ids = self._table.take_offsets(offsets).select(["id"]).to_arrow()["id"].to_pylist()
        return ids, self.vectors(ids)

    def is_approximate(self) -> bool:
        """Whether there is an approximate index of the rows."""
        return bool(self._table.list_indices())

    def nearest_each(
        self,
        vectors: Single,
        *,
        count: int,
        where: str | None,
        exact: bool,
        columns: Sequence[str],
        look: Look | None = None,
    ) -> list[list[Row]]:
        """The rows nearest to each vector by cosine, best first, with their ``score``; found in one look.

        Args:
            vectors: what to look for, [vectors, features]; at least one.
            count: how many for each.
            where: a condition in SQL, applied before.
            exact: look at every vector, also where there is an approximate index.
            columns: which columns to give.
            look: how the approximate index is searched; by default as the rows' own stage says.
        """
        if exact and 2 * len(self) * self._width <= self.matrix_bytes:
            found = self._exact(vectors, count, where, columns)
            if found is not None:
                return found
        asked = vectors[0] if len(vectors) == 1 else vectors
        query = self._table.search(asked, vector_column_name="vector").distance_type("cosine")
        look = look or self.look
        query = query.bypass_vector_index() if exact else query.nprobes(look.probes)
        if look.refine and not exact:
            query = query.refine_factor(look.refine)
        if where is not None:
            query = query.where(where, prefilter=True)
        each: list[list[Row]] = [[] for _ in vectors]
        for row in query.limit(count).select([*columns, "_distance"]).to_list():
            own = each[row.pop("query_index", 0)]
            own.append({**row, "score": 1.0 - row.pop("_distance")})
        return each

    def _exact(self, vectors: Single, count: int, where: str | None, columns: Sequence[str]) -> list[list[Row]] | None:
        """The nearest rows by a matrix in memory; ``None`` where too many are as near for a look at each."""
        allowed = None
        if where is not None:
            query = self._table.search().where(where).select(["width"]).with_row_id(True)
            allowed = query.to_arrow()["_rowid"].to_numpy().astype(np.int64)
        near = self._matrix().candidates(vectors, count, allowed)
        numbers = np.unique(np.concatenate(near))
        if len(numbers) > LOOKED_AT * len(vectors):
            return None
        if not len(numbers):
            return [[] for _ in vectors]
        taken = self._table.take_row_ids(numbers.tolist()).select([*columns, "vector"]).with_row_id().to_arrow()
        values = taken["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        kept = np.asarray(values, dtype=np.float32).reshape(-1, self._width)
        place = {number: row for row, number in enumerate(taken["_rowid"].to_pylist())}
        lengths, shown = np.linalg.norm(kept, axis=1), taken.select(list(columns)).to_pylist()
        found: list[list[Row]] = [[] for _ in vectors]
        for vector, own, best in zip(vectors, near, found, strict=True):
            places = np.array([place[number] for number in own.tolist()], dtype=np.int64)
            cosines = kept[places] @ vector / np.maximum(lengths[places] * np.linalg.norm(vector), TINY)
            scores = 1.0 - (1.0 - cosines).astype(np.float64)  # as coarse as the store's, which keeps distances
            for one in np.argsort(-scores, kind="stable")[:count].tolist():
                row: Row = shown[places[one]]
                best.append({**row, "score": float(scores[one])})
        return found

    def _matrix(self) -> Matrix:
        """All vectors in memory, read when they are first asked for."""
        with self._reading:
            if self._read is None:
                self._read = Matrix.read(self._table, self._width)
            return self._read


@contextlib.contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Turns what the store raises when the disk doesn't obey into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{place} can't be written: {_first_line(error)}. {_needed(place)}") from error


@contextlib.contextmanager
def reaching(place: Path | str) -> Iterator[None]:
    """Turns what the store raises when there is no way to it into one line."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:  # by what the client of the object store runs into
        raise OutputError(f"{place} can't be reached: {_first_line(error)}. {_needed(place)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _needed(place: Path | str) -> str:
    if "://" in str(place):
        return "Check its address, and that the credentials in the environment may write there."
    return "The folder must be on a local disk with room, whose file system has hard links (not FAT or exFAT)."
