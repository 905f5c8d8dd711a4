"""The rows of an index at one version, for reading; and what the store raises turned into one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from lpi.errors import OutputError
from lpi.search.encoding import Single
from lpi.search.filters import quoted

IN_FILTER = 500  # more ids than these are cheaper found by reading the whole column


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
    vector: list[float]


class Rows:
    """The pictures' rows at one version.

    Args:
        table: of the store, checked out at that version.
        width: of the vectors.
    """

    def __init__(self, table: Any, width: int) -> None:
        self._table, self._width = table, width

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def count(self, where: str | None) -> int:
        """How many rows meet a condition in SQL."""
        return len(self) if where is None else int(self._table.count_rows(where))

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

    def nearest_each(
        self,
        vectors: Single,
        *,
        count: int,
        where: str | None,
        exact: bool,
        columns: Sequence[str],
        refine: int | None = 3,
    ) -> list[list[Row]]:
        """The rows nearest to each vector by cosine, best first, with their ``score``; found in one look.

        Args:
            vectors: what to look for, [vectors, features]; at least one.
            count: how many for each.
            where: a condition in SQL, applied before.
            exact: look at every vector, also where there is an approximate index.
            columns: which columns to give.
            refine: so many times the wanted rows are compared once more by their whole vectors, not by the bytes that
                the approximate index keeps of them; ``None`` for no second look.
        """
        asked = vectors[0] if len(vectors) == 1 else vectors
        query = self._table.search(asked, vector_column_name="vector").distance_type("cosine")
        query = query.bypass_vector_index() if exact else query.nprobes(20)
        if refine is not None and not exact:
            query = query.refine_factor(refine)
        if where is not None:
            query = query.where(where, prefilter=True)
        found: list[list[Row]] = [[] for _ in vectors]
        for row in query.limit(count).select([*columns, "_distance"]).to_list():
            own = found[row.pop("query_index", 0)]
            own.append({**row, "score": 1.0 - row.pop("_distance")})
        return found


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
