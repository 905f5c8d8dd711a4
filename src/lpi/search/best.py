"""The best rows of a table for each of several queries, by cosine or by routed scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lpi.errors import ConfigError
from lpi.routing.base import most_agreement
from lpi.search.filters import Filters, quoted
from lpi.search.scoring import Probe
from lpi.search.table import Row, Rows

SHOWN = ("id", "paths", "task", "confidence", "margin", "date", "width", "height")
WIDER = 4  # times as many rows are looked at where a row further down may still be among the best
TIES = 16  # asked for beyond the wanted rows, so that equal scores are cut in the order of their ids

Membership = Callable[[Sequence[Row]], torch.Tensor]  # how much rows belong to each task, [rows, tasks]


def check_count(k: int) -> None:
    """Refuse to look for no picture.

    Raises:
        ConfigError: ``k`` is less than 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1; got {k}.")


def best_rows_each(
    rows: Rows,
    probes: Sequence[Probe],
    count: int,
    filters: Filters,
    exact: bool,
    without: str | None = None,
    membership: Membership | None = None,
) -> list[list[Row]]:
    """The rows nearest to each query, best first, in one look at the table; equal scores in the order of ids.

    Args:
        rows: where to look.
        probes: the queries, all for the same scoring.
        count: how many for each.
        filters: which rows may be found.
        exact: look at every vector, also where there is an approximate index.
        without: an id to leave out.
        membership: of rows with their ``task`` and ``distances``; asked for ``routed`` scores only.
    """
    allowed = [filters.sql(), None if without is None else f"id != {quoted(without)}"]
    where = " AND ".join(part for part in allowed if part) or None
    if probes[0].membership is not None:
        assert membership is not None
        return _routed(rows, probes, count, where, exact, membership)
    vectors = np.stack([probe.vector.numpy() for probe in probes])
    each = rows.nearest_each(vectors, count=count, where=where, exact=exact, columns=SHOWN)
    return [in_order(best) for best in each]


def _routed(
    rows: Rows, probes: Sequence[Probe], count: int, where: str | None, exact: bool, membership: Membership
) -> list[list[Row]]:
    """The best rows of several queries by cosine plus agreement on the tasks.

    The store finds by cosine alone. What it hasn't given yet has a smaller cosine than its last row, and an agreement
    within :func:`lpi.routing.base.most_agreement`; so more is asked for until nothing further can be among the best.
    """
    found: list[list[Row]] = [[] for _ in probes]
    waiting, asked = list(range(len(probes))), WIDER * count
    while waiting:
        vectors = np.stack([probes[place].vector.numpy() for place in waiting])
        each = rows.nearest_each(vectors, count=asked, where=where, exact=exact, columns=(*SHOWN, "distances"))
        unsure = []
        for place, near in zip(waiting, each, strict=True):
            tasks = probes[place].membership
            assert tasks is not None
            agreement = (membership(near) @ tasks).tolist() if near else []
            scored: list[Row] = [
                {**row, "score": row["score"] + more} for row, more in zip(near, agreement, strict=True)
            ]
            found[place] = in_order(scored)[:count]
            if len(near) == asked and near[-1]["score"] + most_agreement(tasks) >= found[place][-1]["score"]:
                unsure.append(place)
        waiting, asked = unsure, WIDER * asked
    return found


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows with the best first, equal scores in the order of ids."""
    return sorted(rows, key=lambda row: (-row["score"], row["id"]))
