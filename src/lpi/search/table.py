"""The rows of an index at one version, for reading; and what the store raises turned into one line."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lpi.errors import CheckpointError, LpiError, OutputError
from lpi.search.encoding import Single
from lpi.search.filters import quoted
from lpi.search.identity import short_hash
from lpi.search.manifest import Look
from lpi.search.matrix import FITS, Matrix

WHOLE_BELOW = 20_000
"""Rows that are looked at whole when an index is opened; of more, ``lpi index --check`` says whether they are."""
STATED = (
    *("id", "paths", "stamps", "folders", "date", "width", "height", "task", "route", "routes", "weights", "distances"),
    *("margin", "confidence", "mixture"),
)
"""The columns that a row's ``state`` stands for, in its order; its ``check`` stands for its vector."""
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
    vector: list[float]


class Rows:
    """The pictures' rows at one version.

    Args:
        table: of the store, checked out at that version.
        width: of the vectors.
        look: how the approximate index is searched.
    """

    matrix_bytes = FITS  # more are looked through on disk

    def __init__(self, table: Any, width: int, place: Path | str = "", look: Look = Look()) -> None:  # noqa: B008 - it never changes
        self._table, self._width, self._place, self.look = table, width, place, look
        self._read: Matrix | None = None
        self._reading = threading.Lock()

    def __len__(self) -> int:
        with reading(self._place):
            return int(self._table.count_rows())

    def damaged(self) -> list[str]:
        """The ids of rows that aren't what was written, as their checksums say; those of earlier versions have none."""
        with reading(self._place):
            if "check" not in self._table.schema.names:
                return []
            names = [*STATED, "state", "check", "vector"]
            found = self._table.search().select(names).to_arrow()
            rows = found.drop_columns(["vector"]).to_pylist()
            vectors = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = np.asarray(vectors, dtype=np.float32).reshape(-1, self._width)
        return [
            row["id"]
            for row, vector in zip(rows, vectors, strict=True)
            if row["check"] is not None
            and (row["check"], row["state"]) != (check_of(row["id"], vector), state_of([row[name] for name in STATED]))
        ]

    def count(self, where: str | None) -> int:
        """How many rows meet a condition in SQL."""
        return len(self) if where is None else int(self._table.count_rows(where))

    def columns(self, *names: str, where: str | None = None) -> dict[str, list[Any]]:
        """Values of all rows by the name of their column, in one order of rows."""
        with reading(self._place):
            query = self._table.search().select(list(names))
            found = (query if where is None else query.where(where)).to_arrow()
        return {name: found[name].to_pylist() for name in names}

    def readable(self) -> None:
        """Read a row.

        Raises:
            CheckpointError: the tables are damaged or gone.
        """
        with reading(self._place):
            self._table.search().select(["id"]).limit(1).to_list()

    def any(self, where: str) -> bool:
        """Whether a row meets a condition in SQL."""
        with reading(self._place):
            return bool(self._table.count_rows(where))

    def folders(self) -> list[str]:
        """Every folder that holds pictures, relative to the indexed one, which is ``.``."""
        return sorted({folder for own in self.columns("folders")["folders"] for folder in own})

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that have a row."""
        return set(ids) & set(self._some(ids, ["id"])["id"].to_pylist())

    def _some(self, ids: Sequence[str], names: list[str]) -> Any:
        """Columns of the rows of some ids, or of all where these are many."""
        with reading(self._place):
            query = self._table.search().select(names)
            if len(ids) <= IN_FILTER:
                query = query.where(f"id IN ({', '.join(map(quoted, ids))})" if ids else "false")
            return query.to_arrow()

    def of(self, key: str, *names: str) -> Row | None:
        """Some columns of one picture's row; ``None`` where there is no such picture."""
        with reading(self._place):
            found: list[Row] = self._table.search().select(list(names)).where(f"id = {quoted(key)}").to_list()
        return found[0] if found else None

    def vectors(self, ids: Sequence[str]) -> Single:
        """The searched vectors of pictures, [ids, features]."""
        found = self._some(ids, ["id", "vector"])
        place = {own: row for row, own in enumerate(found["id"].to_pylist())}
        values = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values, dtype=np.float32).reshape(-1, self._width)[[place[own] for own in ids]]

    def sample(self, count: int) -> tuple[list[str], Single]:
        """Ids and searched vectors [pictures, features] of so many pictures, or all, spread over the rows."""
        rows = len(self)
        offsets = np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(int)).tolist() if rows else []
        with reading(self._place):
            ids = self._table.take_offsets(offsets).select(["id"]).to_arrow()["id"].to_pylist()
        return ids, self.vectors(ids)

    def is_approximate(self) -> bool:
        """Whether there is an approximate index of the rows."""
        with reading(self._place):
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
            with reading(self._place):
                found = self._exact(vectors, count, where, columns)
            if found is not None:
                return found
        asked = vectors[0] if len(vectors) == 1 else vectors
        look = look or self.look
        with reading(self._place):
            query = self._table.search(asked, vector_column_name="vector").distance_type("cosine")
            query = query.bypass_vector_index() if exact else query.nprobes(look.probes)
            if look.refine and not exact:
                query = query.refine_factor(look.refine)
            if where is not None:
                query = query.where(where, prefilter=True)
            rows = query.limit(count).select([*columns, "_distance"]).to_list()
        each: list[list[Row]] = [[] for _ in vectors]
        for row in rows:
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


def state_of(values: Sequence[object]) -> str:
    """What stands for all of a row but its vector: the values of :data:`STATED`."""
    return short_hash(*values)


def check_of(key: str, vector: NDArray[Any]) -> str:
    """What stands for a picture's vector or feature, bit by bit."""
    return hashlib.sha256(key.encode() + np.ascontiguousarray(vector).tobytes()).hexdigest()[:16]


@contextlib.contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Turns whatever the store raises over tables that are damaged or gone into one line.

    Raises:
        CheckpointError: it did.
    """
    try:
        yield
    except (LpiError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # also what its Rust panics with, which is no Exception
        raise CheckpointError(
            f"{place}: its tables are damaged or gone ({_first_line(error)}). Take them from a backup, or index into "
            "a new folder."
        ) from error


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


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _needed(place: Path | str) -> str:
    if "://" in str(place):
        return "Check its address, and that the credentials in the environment may write there."
    return "The folder must be on a local disk with room, whose file system has hard links (not FAT or exFAT)."
