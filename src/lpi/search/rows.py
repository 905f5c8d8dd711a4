"""From kept features and a model to the rows that are searched. The same pictures and model give the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lpi.methods.base import Method
from lpi.prompts.task_keys import FALLBACK
from lpi.search.encoding import Routing, Single, mix
from lpi.search.files import Content, folders_of
from lpi.search.identity import ROUTING, short_hash
from lpi.search.routes import Routes
from lpi.search.store import Store
from lpi.search.table import STATED, state_of

Columns = dict[str, list[Any]]


class RowMaker:
    """Rows of pictures under one model.

    Args:
        routes: the model, and where pictures belong under it.
        store: where the features are.
    """

    def __init__(self, routes: Routes, store: Store) -> None:
        self.routes, self.store = routes, store
        self.method: Method = routes.encoder.method
        self.keys = routes.keys

    def complete(self, ids: Sequence[str]) -> tuple[list[str], Routing]:
        """Those of the pictures whose features are all there, in order, and where they belong."""
        known = self.store.known(ROUTING)
        seen = sorted(key for key in ids if key in known)
        routing = self.routes.of(seen)
        there = np.ones(len(seen), dtype=bool)
        for route, rows in used(routing).items():
            held = self.store.known(self.keys[route])
            there[[row for row in rows.tolist() if seen[row] not in held]] = False
        rows = np.flatnonzero(there)
        return [seen[row] for row in rows], routing.take(rows)

    def columns(self, ids: Sequence[str], routing: Routing, contents: Mapping[str, Content]) -> Columns:
        """Everything of the rows but the vectors."""
        abouts = self.store.abouts(ids)
        routes = [[self.keys[route] for route in own] for own in routing.routes.tolist()]
        tasks = [self.method.tasks[task] if task != FALLBACK else "" for task in routing.tasks.tolist()]
        weights, distances = routing.weights.tolist(), routing.distances.tolist()
        columns: Columns = {
            "id": list(ids),
            "paths": [list(contents[key].paths) for key in ids],
            "stamps": [list(contents[key].stamps) for key in ids],
            "folders": [folders_of(contents[key].paths) for key in ids],
            "date": [abouts[key][2] or contents[key].modified for key in ids],
            "width": [abouts[key][0] for key in ids],
            "height": [abouts[key][1] for key in ids],
            "task": tasks,
            "route": [own[0] for own in routes],
            "routes": routes,
            "weights": weights,
            "distances": distances,
            "margin": _optional(routing.margins),
            "confidence": _optional(routing.confidence),
        }
        columns["mixture"] = [short_hash(*pair) for pair in zip(routes, weights, strict=True)]
        columns["state"] = [state_of(row) for row in zip(*(columns[name] for name in STATED), strict=True)]
        return columns

    def vectors(self, ids: Sequence[str], routing: Routing) -> Single:
        """The searched vectors, [pictures, features]: features under the routes, weighted, added up, of length 1."""
        shape = (*routing.routes.shape, self.store.width)
        features = np.zeros(shape, dtype=np.float16)
        for route, rows in used(routing).items():
            own = self.store.features(self.keys[route], [ids[row] for row in rows.tolist()])
            asked = routing.routes[rows] == route
            features[rows] = np.where(asked[:, :, None], own[:, None, :], features[rows])
        places = range(routing.routes.shape[1])
        return mix([features[:, place] for place in places], [routing.weights[:, place] for place in places])


def used(routing: Routing) -> dict[int, Any]:
    """Which pictures need their features under each route, by route."""
    asked = routing.weights > 0
    routes = np.unique(routing.routes[asked]).tolist()
    return {route: np.flatnonzero(((routing.routes == route) & asked).any(axis=1)) for route in routes}


def _optional(values: Single) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def pick(columns: Columns, places: Sequence[int]) -> Columns:
    """Some rows of the columns."""
    return {name: [values[place] for place in places] for name, values in columns.items()}


def refresh(store: Store, maker: RowMaker, version: int, contents: Mapping[str, Content]) -> int:
    """Bring the rows in line with the pictures and the model; returns their new version.

    Only what differs is written, and vectors only where the mixture that makes them differs.

    Args:
        store: where the rows are.
        maker: the model.
        version: of the rows that count so far.
        contents: the pictures to have, by id; those whose features aren't all kept are left out.
    """
    ids, routing = maker.complete(list(contents))
    columns = maker.columns(ids, routing, contents)
    old = store.rows(version).columns("id", "state", "mixture")
    states, mixtures = (
        dict(zip(old["id"], old["state"], strict=True)),
        dict(zip(old["id"], old["mixture"], strict=True)),
    )
    differs = [place for place, key in enumerate(ids) if states.get(key) != columns["state"][place]]
    moved = [place for place in differs if mixtures.get(ids[place]) != columns["mixture"][place]]
    noted = sorted(set(differs) - set(moved))
    gone = sorted(set(states) - set(ids))
    if not differs and not gone:
        return version
    vectors = maker.vectors([ids[place] for place in moved], routing.take(moved))
    return store.change(
        version,
        full=store.row_table(pick(columns, moved), vectors),
        partial=store.row_table(pick(columns, noted), None),
        gone=gone,
    )
