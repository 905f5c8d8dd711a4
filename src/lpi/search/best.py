"""The best rows for a query: of one table, or of two that are searched as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lpi.search.filters import Filters, quoted
from lpi.search.scoring import EVERY
from lpi.search.store import Rows

SHOWN = ("id", "paths", "task", "confidence", "margin", "date", "width", "height")
TIES = 16  # asked for beyond the wanted rows, so that equal scores are cut in the order of their ids

Found = list[dict[str, Any]]


def best_rows(
    rows: Rows, probes: dict[str, torch.Tensor], count: int, filters: Filters, exact: bool, without: str | None = None
) -> Found:
    """The rows nearest to any probe, so many of each, best first; equal scores in the order of ids.

    Args:
        rows: where to look.
        probes: vectors [features] by the key of the route whose pictures they are for, or for all.
        count, filters, exact, without: see :func:`best_rows_each`.
    """
    return best_rows_each(rows, [probes], count, filters, exact, without)[0]


def best_rows_each(
    rows: Rows,
    probes: Sequence[dict[str, torch.Tensor]],
    count: int,
    filters: Filters,
    exact: bool,
    without: str | None = None,
) -> list[Found]:
    """:func:`best_rows` of several queries, in one look at the table for each key.

    Args:
        rows: where to look.
        probes: of each query, all with the same keys.
        count: how many.
        filters: which rows may be found.
        exact: look at every vector, also where there is an approximate index.
        without: an id to leave out.
    """
    allowed = [filters.sql(), None if without is None else f"id != {quoted(without)}"]
    found: list[Found] = [[] for _ in probes]
    for route in probes[0]:
        own = None if route == EVERY else f"route = {quoted(route)}"
        where = " AND ".join(part for part in (*allowed, own) if part) or None
        vectors = np.stack([vectors[route].numpy() for vectors in probes])
        each = rows.nearest_each(vectors, count=count, where=where, exact=exact, columns=SHOWN)
        for best, more in zip(found, each, strict=True):
            best += more
    return [in_order(best) for best in found]


def in_order(rows: Found) -> Found:
    """Best first, equal scores in the order of ids."""
    return sorted(rows, key=lambda row: (-row["score"], row["id"]))


def merged(
    fresh: Found,
    k: int,
    old: Callable[[int], Found],
    scale: Callable[[float], float],
    known: Callable[[list[str]], set[str]],
) -> Found:
    """The best k rows of two tables, of which the first one counts for pictures that are in both.

    How many of the second's best rows are in the first isn't known beforehand, so more of them are asked for until no
    further one can be among the best k.

    Args:
        fresh: the best k rows of the first table, or all where there are fewer.
        k: how many are wanted.
        old: gives so many of the best rows of the second table, best first.
        scale: takes the second's scores to the first's scale, rising.
        known: which of some ids the first table has.
    """
    count = k + TIES
    while True:
        rows = old(count)
        done = known([row["id"] for row in rows])
        waiting = [{**row, "score": scale(row["score"])} for row in rows if row["id"] not in done]
        both = in_order([*fresh, *waiting])[:k]
        certain = len(both) == k and bool(rows) and scale(rows[-1]["score"]) < both[-1]["score"]
        if certain or len(rows) < count:
            return both
        count *= 4
