"""What the index keeps on disk, in LanceDB: features, which never change, and the rows that are searched.

- ``plain`` and ``route-<key>``: features of pictures by the hash of their content, [features] in half precision. A
  feature under a key is true for ever, so these tables are only added to, at any time and in any order.
- ``pictures``: one row a picture, with where it lies, where it was routed and the vector that is searched. Each change
  is a new version; which one counts is for the manifest to say, so a change that was cut short doesn't count.

The client is LanceDB's own: the folder may as well be an object store.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpi.errors import CheckpointError
from lpi.extras import missing_extra
from lpi.search.encoding import Half, Single
from lpi.search.filters import quoted
from lpi.search.identity import FROZEN, ROUTING
from lpi.search.manifest import Look
from lpi.search.table import IN_FILTER, Rows, check_of, reaching, reading, writing

Table = Any  # LanceDB's, which has no types

PICTURES = "pictures"
APPROXIMATE_FROM = 20_000  # rows; below, a look at every vector takes milliseconds
GROWN = 2


def _lance() -> tuple[Any, Any]:
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
        import pyarrow
    except ImportError as error:
        raise missing_extra("LanceDB is not installed", "search") from error
    return lancedb, pyarrow


def table_name(key: str) -> str:
    """The table of the features under a route's key."""
    return key if key in (FROZEN, ROUTING) else f"route-{key}"


class Store:
    """The tables of one index.

    Args:
        place: the folder they lie in, or the address of an object store such as ``s3://bucket/path``.
        width: of the features.

    Raises:
        MissingExtraError: LanceDB is not installed.
        OutputError: an address that leads nowhere.
    """

    def __init__(self, place: Path | str, width: int) -> None:
        lancedb, self.arrow = _lance()
        self.place, self.width = place, width
        self._tables: dict[str, Table] = {}
        # by itself a handle would never see what another process writes
        with reaching(place):
            self._connection = lancedb.connect(str(place), read_consistency_interval=timedelta(0))

    # ---- features ----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names of all tables.

        Raises:
            OutputError: an object store that isn't there, or can't be reached.
        """
        names: list[str] = []
        token = None
        while True:
            with reaching(self.place):
                page = self._connection.list_tables(page_token=token)
            names += page.tables
            token = page.page_token
            if not token:
                return names

    def _table(self, key: str) -> Table | None:
        name = table_name(key)
        if name not in self._tables:
            if name not in self.names() or self._unborn(name):  # there is none yet; a damaged one is not the same
                return None
            with reading(self.place):
                self._tables[name] = self._connection.open_table(name)
        return self._tables[name]

    def _unborn(self, name: str) -> bool:
        """Whether a table was begun and never came to a version: a full disk leaves such a folder."""
        folder = Path(self.place) / f"{name}.lance"
        return "://" not in str(self.place) and folder.is_dir() and not any(folder.glob("_versions/*.manifest"))

    def known(self, key: str) -> set[str]:
        """Ids of the pictures whose features under a key are kept."""
        table = self._table(key)
        if table is None:
            return set()
        with reading(self.place):
            return set(table.search().select(["id"]).to_arrow()["id"].to_pylist())

    def features(self, key: str, ids: Sequence[str]) -> Half:
        """Features of pictures, [ids, features].

        Raises:
            CheckpointError: one isn't there, or isn't what was kept.
        """
        rows = self._rows(key, ids, ["id", "feature", "check"])
        found = rows["id"].to_pylist() if rows is not None else []
        place = {own: row for row, own in enumerate(found)}
        missing = next((own for own in ids if own not in place), None)
        if missing is not None:
            raise CheckpointError(
                f"{self.place}: the feature of picture {missing} is gone. Index again into a new folder."
            )
        if rows is None:
            return np.zeros((0, self.width), dtype=np.float16)
        features = self._matrix(rows["feature"], np.float16)
        checks = rows["check"].to_pylist() if "check" in rows.schema.names else [None] * len(found)
        for own, feature, check in zip(found, features, checks, strict=True):
            if check is not None and check != check_of(own, feature):
                raise CheckpointError(
                    f"{self.place}: the feature of picture {own} is damaged. Index again into a new folder."
                )
        return features[[place[own] for own in ids]]

    def damaged(self, key: str) -> list[str]:
        """The ids of pictures whose features under a key aren't what was kept."""
        rows = self._rows(key, None, ["id", "feature", "check"])
        if rows is None or "check" not in rows.schema.names:
            return []
        features = self._matrix(rows["feature"], np.float16)
        kept = zip(rows["id"].to_pylist(), features, rows["check"].to_pylist(), strict=True)
        return [own for own, feature, check in kept if check is not None and check != check_of(own, feature)]

    def abouts(self, ids: Sequence[str]) -> dict[str, tuple[int, int, str]]:
        """Width, height and date of pictures, by id."""
        rows = self._rows(ROUTING, ids, ["id", "width", "height", "taken"])
        if rows is None:
            return {}
        columns = [rows[name].to_pylist() for name in ("width", "height", "taken")]
        return dict(zip(rows["id"].to_pylist(), zip(*columns, strict=True), strict=True))

    def _rows(self, key: str, ids: Sequence[str] | None, columns: list[str]) -> Any | None:
        """Columns of the features of pictures, or of all."""
        table = self._table(key)
        if table is None:
            return None
        with reading(self.place):
            query = table.search().select([name for name in columns if name in table.schema.names])
            if ids is not None and len(ids) <= IN_FILTER:
                query = query.where(f"id IN ({', '.join(map(quoted, ids))})" if ids else "false")
            return query.to_arrow()

    def keep(self, key: str, ids: Sequence[str], features: Half, **columns: Sequence[object]) -> None:
        """Add features of pictures, [ids, features], those that are there already left as they are.

        Raises:
            OutputError: the disk is full, or the folder can't be written to.
        """
        if not ids:
            return
        checks = [check_of(own, feature) for own, feature in zip(ids, features, strict=True)]
        rows = self.arrow.table({"id": list(ids), "feature": self._lists(features), "check": checks, **columns})
        with writing(self.place):
            table = self._table(key)
            if table is None:
                self._tables[table_name(key)] = self._connection.create_table(table_name(key), rows)
            else:
                table.merge_insert("id").when_not_matched_insert_all().execute(known_columns(table, rows))

    def drop(self, key: str) -> None:
        """Take all features under a key away."""
        name = table_name(key)
        self._tables.pop(name, None)
        if name in self.names():
            self._connection.drop_table(name)

    # ---- the rows that are searched ----------------------------------------------------------------------------------

    def schema(self) -> Any:
        """The columns of a picture's row."""
        a = self.arrow
        strings, numbers = a.list_(a.string()), a.list_(a.float32())
        return a.schema(
            [
                ("id", a.string()),
                ("paths", strings),
                ("stamps", strings),
                ("folders", strings),
                ("date", a.string()),
                ("width", a.int32()),
                ("height", a.int32()),
                ("task", a.string()),
                ("route", a.string()),
                ("routes", strings),
                ("weights", numbers),
                ("distances", numbers),
                ("margin", a.float32()),
                ("confidence", a.float32()),
                ("state", a.string()),
                ("mixture", a.string()),
                ("vector", a.list_(a.float32(), self.width)),
                ("check", a.string()),
            ]
        )

    def start(self) -> int:
        """An empty table of rows in place of whatever is there; returns its version.

        Raises:
            OutputError: the folder can't be written to, or its file system is unfit.
        """
        with writing(self.place):
            if PICTURES in self.names():
                self._connection.drop_table(PICTURES)
            self._connection.create_table(PICTURES, schema=self.schema())
        return int(self._connection.open_table(PICTURES).version)

    def empty(self) -> bool:
        """Whether nothing is kept here: no feature, and no row."""
        names = self.names()
        return not names or (names == [PICTURES] and not len(Rows(self._connection.open_table(PICTURES), self.width)))

    def clear(self) -> None:
        """Drop all tables, features and rows alike."""
        self._tables.clear()
        with writing(self.place):
            for name in self.names():
                self._connection.drop_table(name)

    def rows(self, version: int, look: Look = Look()) -> Rows:  # noqa: B008 - it never changes
        """The rows as they were at a version, searched as ``look`` says.

        Raises:
            CheckpointError: it is not there.
        """
        return Rows(self._at(version), self.width, self.place, look)

    def _at(self, version: int) -> Table:
        with reading(self.place):
            table = self._connection.open_table(PICTURES)
            table.checkout(version)
        return table

    def change(
        self, version: int, *, full: Any | None = None, partial: Any | None = None, gone: Sequence[str] = ()
    ) -> int:
        """A new version of the rows; returns it.

        Args:
            version: which to change; what came later was never published, and is dropped.
            full: rows to put in place of those of the same ids, or to add.
            partial: the same without vectors, for ids that are there.
            gone: ids to take away.
        """
        with writing(self.place):
            table = self._connection.open_table(PICTURES)
            if table.version != version:
                table.checkout(version)
                table.restore()
            if full is not None and len(full):
                full = known_columns(table, full)
                table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(full)
            if partial is not None and len(partial):
                table.merge_insert("id").when_matched_update_all().execute(partial)
            for start in range(0, len(gone), IN_FILTER):
                some = ", ".join(map(quoted, gone[start : start + IN_FILTER]))
                table.delete(f"id IN ({some})")
            return int(table.version)

    def settle(self, *, approximate_from: int = APPROXIMATE_FROM, trained: int | None = None) -> int:
        """Join small files and bring the approximate index up to date; returns the newest version.

        Its cells are laid out anew where there are :data:`GROWN` times as many rows as they were ``trained`` on.

        Versions from before the oldest pinned one are cleaned away, but not those of the last day: somebody may be
        reading them. (The store refuses to clean between pinned versions.)
        """
        from lancedb.index import IvfSq

        table = self._connection.open_table(PICTURES)
        count = table.count_rows()
        with reading(self.place):
            pinned = {tag["version"] for tag in table.tags.list().values()}
            ages = [datetime.now() - v["timestamp"] for v in table.list_versions() if v["version"] in pinned]
        with writing(self.place):
            outgrown = trained is not None and count >= GROWN * trained
            if count >= approximate_from and (outgrown or not table.list_indices()):
                config = IvfSq(distance_type="cosine", num_partitions=max(1, round(math.sqrt(count))))
                table.create_index("vector", config=config)
            table.optimize(cleanup_older_than=max([*ages, timedelta(0)]) + timedelta(days=1))
        return int(table.version)

    def pin(self, name: str, version: int) -> None:
        """Keep a version from ever being cleaned away."""
        with reading(self.place):
            tags = self._connection.open_table(PICTURES).tags
            there = name in tags.list()
        with writing(self.place):
            (tags.update if there else tags.create)(name, version)

    def unpin(self, keep: set[str]) -> None:
        """Let all pinned versions go but these."""
        with reading(self.place):
            tags = self._connection.open_table(PICTURES).tags
            stale = [name for name in tags.list() if name not in keep]
        with writing(self.place):
            for name in stale:
                tags.delete(name)

    def tidy(self, keys: set[str], ids: set[str]) -> None:
        """Drop features under other keys than these and of other pictures, and old versions that nothing needs."""
        for name in self.names():
            if name != PICTURES and name not in {table_name(key) for key in keys}:
                self.drop(name.removeprefix("route-"))
        with writing(self.place):
            for key in sorted(keys):
                table = self._table(key)
                if table is None:
                    continue
                stale = sorted(self.known(key) - ids)
                for start in range(0, len(stale), IN_FILTER):
                    table.delete(f"id IN ({', '.join(map(quoted, stale[start : start + IN_FILTER]))})")
                table.optimize()

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def _lists(self, features: NDArray[Any]) -> Any:
        return self.arrow.FixedSizeListArray.from_arrays(self.arrow.array(features.ravel()), features.shape[1])

    def _matrix(self, column: Any, kind: type) -> NDArray[Any]:
        values: NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.reshape(-1, column.type.list_size).astype(kind, copy=False)

    def row_table(self, columns: Mapping[str, Sequence[Any]], vectors: Single | None) -> Any:
        """Rows as :meth:`change` takes them, from columns by name and vectors [rows, features]."""
        schema = self.schema()
        if vectors is None:
            for name in ("vector", "check"):
                schema = schema.remove(schema.get_field_index(name))
            return self.arrow.table({name: columns[name] for name in schema.names}, schema=schema)
        checks = [check_of(str(own), vector) for own, vector in zip(columns["id"], vectors, strict=True)]
        return self.arrow.table({**columns, "vector": self._lists(vectors), "check": checks}, schema=schema)


def known_columns(table: Table, rows: Any) -> Any:
    """Rows without the columns that a table of an earlier version lacks."""
    return rows.select([name for name in rows.schema.names if name in table.schema.names])
