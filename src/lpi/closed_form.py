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
    """Maps to the directions in which pictures and captions correlate most, each as long as its correlation squared.

    With C the covariances, each plus ``shrinkage`` times its mean variance on the diagonal, and U S V' the singular
    value decomposition of Cxx^-1/2 Cxy Cyy^-1/2, the maps are Cxx^-1/2 U S^2 and Cyy^-1/2 V S^2. The factor S^2 (ours)
    lets a direction count by how much it tells; without it the hundredth counts like the first.

    Args:
        moments: of the pairs.
        dimensions: how many directions; where the widths allow fewer, the rest are zero.
        shrinkage: relative to the mean variance; above 0.

    Returns:
        For each tower what is taken off and the map.

    Paper: regularised canonical correlation analysis (Vinod 1976, Journal of Econometrics 4).
    """
    return Correlations(moments).maps(dimensions, shrinkage)


class Correlations:
    """The covariances of pairs, decomposed once for any shrinkage; see :func:`cca`.

    Args:
        moments: of the pairs.
    """

    def __init__(self, moments: Moments) -> None:
        xx, yy, self.between = moments.covariances()
        self.spectra: list[tuple[Tensor, Tensor]] = [torch.linalg.eigh(xx), torch.linalg.eigh(yy)]
        self.means = {"vision": moments.x / moments.weight, "text": moments.y / moments.weight}

    def maps(self, dimensions: int, shrinkage: float) -> dict[str, Affine]:
        """See :func:`cca`."""
        left, right = (_inverse_root(values, vectors, shrinkage) for values, vectors in self.spectra)
        whitened = left @ self.between @ right
        # of the smaller square, which takes a third of the time of the decomposition itself
        tall = whitened.shape[0] > whitened.shape[1]
        squares, vectors = torch.linalg.eigh(whitened.T @ whitened if tall else whitened @ whitened.T)
        squares, vectors = squares.clamp_min(0).flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
        # the other side's vectors times S; what is no correlation stays nothing
        other = (whitened @ vectors if tall else whitened.T @ vectors) * squares.sqrt()
        own = vectors * squares
        u, v = (other, own) if tall else (own, other)
        found = {}
        for tower, full in (("vision", left @ u), ("text", right @ v)):
            kept = torch.zeros(len(full), dimensions)
            kept[:, : full.shape[1]] = full.float()
            found[tower] = (self.means[tower].float(), kept)
        return found


def _inverse_root(values: Tensor, vectors: Tensor, shrinkage: float) -> Tensor:
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
