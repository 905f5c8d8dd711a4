"""The best rows for a query: of one table, or of two that are searched as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lpi.search.filters import Filters, quoted
from lpi.search.scoring import EVERY, TASKS
from lpi.search.store import Rows

SHOWN = ("id", "paths", "task", "confidence", "margin", "date", "width", "height")
WIDER = 4  # times as many rows are looked at where a row further down may still be among the best
TIES = 16  # asked for beyond the wanted rows, so that equal scores are cut in the order of their ids

Found = list[dict[str, Any]]
Belonging = Callable[[Found], torch.Tensor]  # how much rows belong to each task, [rows, tasks]


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
    belonging: Belonging | None = None,
) -> list[Found]:
    """:func:`best_rows` of several queries, in one look at the table for each key.

    Args:
        rows: where to look.
        probes: of each query, all with the same keys.
        count: how many.
        filters: which rows may be found.
        exact: look at every vector, also where there is an approximate index.
        without: an id to leave out.
        belonging: of rows with their ``task`` and ``distances``; asked for ``routed`` scores only.
    """
    allowed = [filters.sql(), None if without is None else f"id != {quoted(without)}"]
    if TASKS in probes[0]:
        assert belonging is not None
        where = " AND ".join(part for part in allowed if part) or None
        return _routed(rows, probes, count, where, exact, belonging)
    found: list[Found] = [[] for _ in probes]
    for route in probes[0]:
        own = None if route == EVERY else f"route = {quoted(route)}"
        where = " AND ".join(part for part in (*allowed, own) if part) or None
        vectors = np.stack([vectors[route].numpy() for vectors in probes])
        each = rows.nearest_each(vectors, count=count, where=where, exact=exact, columns=SHOWN)
        for best, more in zip(found, each, strict=True):
            best += more
    return [in_order(best) for best in found]


def _routed(
    rows: Rows,
    probes: Sequence[dict[str, torch.Tensor]],
    count: int,
    where: str | None,
    exact: bool,
    belonging: Belonging,
) -> list[Found]:
    """The best rows of several queries by cosine plus agreement on the tasks.

    The store finds by cosine alone. What it hasn't given yet has a smaller cosine than its last row, and no agreement
    is above the query's largest belonging; so more is asked for until nothing further can be among the best.
    """
    found: list[Found] = [[] for _ in probes]
    waiting, asked = list(range(len(probes))), WIDER * count
    while waiting:
        vectors = np.stack([probes[place][EVERY].numpy() for place in waiting])
        each = rows.nearest_each(vectors, count=asked, where=where, exact=exact, columns=(*SHOWN, "distances"))
        unsure = []
        for place, near in zip(waiting, each, strict=True):
            tasks = probes[place][TASKS]
            agreement = (belonging(near) @ tasks).tolist() if near else []
            scored = [{**row, "score": row["score"] + more} for row, more in zip(near, agreement, strict=True)]
            found[place] = in_order(scored)[:count]
            if len(near) == asked and near[-1]["score"] + float(tasks.max()) >= found[place][-1]["score"]:
                unsure.append(place)
        waiting, asked = unsure, WIDER * asked
    return found


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
