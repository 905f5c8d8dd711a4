"""Closed forms: maps that bring the pictures and captions of a task together, from sums over its pairs alone.

The sums of several tasks add up: one map for all of them needs nothing of an earlier task's items.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lpi.errors import ShapeError

Affine = tuple[Tensor, Tensor]
"""The mean that is taken off, [width], and the map that follows, [width, dimensions]."""


@dataclass(frozen=True)
class Moments:
    """Sums over weighted pairs x, y of states of a picture and a caption, in double precision.

    Attributes:
        weight: the pairs' weights, scalar.
        x: [vision width].
        y: [text width].
        xx: [vision width, vision width].
        yy: [text width, text width].
        xy: [vision width, text width].
    """

    weight: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, weights: Tensor) -> Moments:
        """The sums over pairs.

        Args:
            x: states of the pairs' pictures, [pairs, vision width].
            y: of their captions, [pairs, text width].
            weights: how much each pair counts, [pairs].

        Raises:
            ShapeError: they aren't equally many.
        """
        if not len(x) == len(y) == len(weights):
            raise ShapeError(f"A pair has both sides and a weight; got {len(x)}, {len(y)} and {len(weights)}.")
        x, y, w = x.double(), y.double(), weights.double()[:, None]
        return cls(w.sum(), (w * x).sum(0), (w * y).sum(0), (w * x).T @ x, (w * y).T @ y, (w * x).T @ y)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the pictures, of the captions, and between them."""
        x, y = self.x / self.weight, self.y / self.weight
        return (
            self.xx / self.weight - torch.outer(x, x),
            self.yy / self.weight - torch.outer(y, y),
            self.xy / self.weight - torch.outer(x, y),
        )


def cca(moments: Moments, dimensions: int, *, shrinkage: float) -> dict[str, Affine]:
    """Maps to the directions in which pictures and captions correlate most, each as long as its correlation.

    With C the covariances, each plus ``shrinkage`` times its mean variance on the diagonal, and U S V' the singular
    value decomposition of Cxx^-1/2 Cxy Cyy^-1/2, the maps are Cxx^-1/2 U S and Cyy^-1/2 V S. The factor S (ours) lets
    a direction count by how much it tells; without it the hundredth counts like the first.

    Args:
        moments: of the pairs.
        dimensions: how many directions; where the widths allow fewer, the rest are zero.
        shrinkage: relative to the mean variance; above 0.

    Returns:
        For each tower what is taken off and the map.

    Paper: regularised canonical correlation analysis (Vinod 1976, Journal of Econometrics 4).
    """
    xx, yy, xy = moments.covariances()
    left, right = _inverse_root(xx, shrinkage), _inverse_root(yy, shrinkage)
    u, s, vt = torch.linalg.svd(left @ xy @ right, full_matrices=False)
    maps = {"vision": left @ u * s, "text": right @ vt.T * s}
    means = {"vision": moments.x / moments.weight, "text": moments.y / moments.weight}
    found = {}
    for tower, full in maps.items():
        kept = torch.zeros(len(full), dimensions)
        kept[:, : full.shape[1]] = full[:, :dimensions].float()
        found[tower] = (means[tower].float(), kept)
    return found


def _inverse_root(covariance: Tensor, shrinkage: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    shrunk = values.clamp_min(0) + shrinkage * values.clamp_min(0).mean().clamp_min(1e-12)
    root: Tensor = vectors * shrunk.rsqrt() @ vectors.T
    return root


def ridge(moments: Moments, *, strength: float) -> dict[str, Tensor]:
    """Linear maps from each tower's states to the other's: W_v [vision width, text width], W_t likewise.

    W_v = (XX + s I)^-1 XY and W_t = (YY + s I)^-1 YX, with the sums over all pairs, and s ``strength`` times the mean
    of the diagonal.

    Args:
        moments: of the pairs, of any number of tasks.
        strength: relative; above 0.

    Paper: RanPAC (arXiv 2307.02251), RAIL (arXiv 2406.18868): the sums of tasks add up.
    """

    def solved(square: Tensor, cross: Tensor) -> Tensor:
        eye = torch.eye(len(square), dtype=square.dtype, device=square.device)
        found: Tensor = torch.linalg.solve(square + strength * square.diagonal().mean() * eye, cross)
        return found.float()

    return {"vision": solved(moments.xx, moments.xy), "text": solved(moments.yy, moments.xy.T)}
