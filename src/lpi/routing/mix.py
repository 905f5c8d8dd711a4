"""The vectors of items that take several tasks' knowledge: weighted, added up, and scaled to length 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.errors import CheckpointError

Encode = Callable[[Tensor, int], Tensor]
"""From places among the items, int64 [some], and a route to their features under it, [some, features]."""


def mix(
    routes: Tensor,
    weights: Tensor,
    encode: Encode,
    *,
    width: int,
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features of items under their routes, [items, features], in the order of the items.

    Items are encoded in groups of one route each. Under one route an item's feature is what ``encode`` gives; under
    several it is the sum of them, times their weights, scaled to length 1. Routes without weight aren't encoded.

    Args:
        routes: int64 [items, k].
        weights: how much each counts, [items, k].
        encode: gives features under one route.
        width: of the features.
        batch: at most so many items are encoded at once; all of a route by default.
        device: where the features lie.
    """
    features = torch.zeros(len(routes), width, device=device)
    for route in torch.unique(routes).tolist():
        own, place = ((routes == route) & (weights > 0)).nonzero(as_tuple=True)
        if not len(own):  # nobody gives this route any weight
            continue
        for rows, shares in zip(
            torch.split(own, batch or len(own)), torch.split(weights[own, place], batch or len(own)), strict=True
        ):
            found = encode(rows, route).to(device).float()
            if not bool(torch.isfinite(found).all()):
                raise CheckpointError(
                    "the model gives features that are no numbers: what it learned is damaged, or training went "
                    "astray. Take it from a backup, or train again with a smaller rate."
                )
            own_width = features[:, : found.shape[1]]  # the frozen model's vectors may be the narrower ones
            own_width.index_add_(0, rows.to(device), shares[:, None].to(device) * found)
    return features if routes.shape[1] == 1 else F.normalize(features, dim=-1)
