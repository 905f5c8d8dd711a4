"""Where an index's pictures belong under one model: decided once a picture, from its kept routing features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lpi.search.encoding import Encoder, Half, Routing
from lpi.search.identity import ROUTING, RouteKeys


class Features(Protocol):
    """Where features are kept; see :class:`lpi.search.store.Store`."""

    def known(self, key: str) -> set[str]:
        """Ids of the pictures whose features under a key are kept."""

    def features(self, key: str, ids: Sequence[str]) -> Half:
        """Features of pictures, [ids, features]."""

    def keep(self, key: str, ids: Sequence[str], features: Half, **columns: Sequence[object]) -> None:
        """Add features of pictures, [ids, features], those that are there already left as they are."""


class Routes:
    """The routing of pictures under one model, remembered.

    Args:
        encoder: the model.
        store: where the routing features are.

    Attributes:
        keys: what stands for the origin of features under each route.
    """

    def __init__(self, encoder: Encoder, store: Features) -> None:
        self.encoder, self.store = encoder, store
        self.keys = RouteKeys(encoder.method)
        self._rows: dict[str, int] = {}
        self._decided: list[Routing] = []
        self._count = 0

    def decide(self, ids: Sequence[str], features: Half) -> Routing:
        """Route pictures by their routing features, [ids, routing features]."""
        routing = self.encoder.routing(features)
        self._rows.update(zip(ids, range(self._count, self._count + len(ids)), strict=True))
        self._decided.append(routing)
        self._count += len(ids)
        return routing

    def of(self, ids: Sequence[str]) -> Routing:
        """Where pictures belong whose routing features are known."""
        new = [key for key in ids if key not in self._rows]
        if new or not self._decided:
            self.decide(new, self.store.features(ROUTING, new))
        if len(self._decided) > 1:
            parts = zip(*(vars(own).values() for own in self._decided), strict=True)
            self._decided = [Routing(*map(np.concatenate, parts))]
        return self._decided[0].take(np.array([self._rows[key] for key in ids], dtype=np.int64))
