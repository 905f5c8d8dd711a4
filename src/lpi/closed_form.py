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


NOTHING = 1e-10  # of the largest variance: what varies less is rounding


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
    return Correlations.of(moments).maps(dimensions, shrinkage)


@dataclass(frozen=True)
class Spectrum:
    """A covariance by the directions in which anything varies.

    Attributes:
        mean: [width].
        variances: [rank].
        directions: orthonormal columns, [width, rank].
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    @classmethod
    def of_covariance(cls, mean: Tensor, covariance: Tensor) -> Spectrum:
        """From the covariance itself, [width, width]."""
        return cls(mean, *_varying(covariance))

    @classmethod
    def of_items(cls, items: Tensor, weights: Tensor) -> Spectrum:
        """From weighted items, [items, width] and [items], in double precision.

        Fewer items than numbers vary in few directions: the products of the items tell them in a fraction of the time.
        """
        share = (weights / weights.sum())[:, None]
        mean = (share * items).sum(0)
        centred = share.sqrt() * (items - mean)
        if len(items) >= items.shape[1]:
            return cls.of_covariance(mean, centred.T @ centred)
        variances, places = _varying(centred @ centred.T)
        return cls(mean, variances, centred.T @ places * variances.rsqrt())

    def whitening(self, shrinkage: float) -> Tensor:
        """What scales each direction to variance 1, [rank]; with so many mean variances added to each."""
        return (self.variances + shrinkage * (self.variances.sum() / len(self.mean)).clamp_min(1e-12)).rsqrt()


def _varying(square: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix that are more than rounding, [rank], and their vectors, [width, rank]."""
    values, vectors = torch.linalg.eigh(square)
    kept = values > NOTHING * values[-1].clamp_min(0)
    return values[kept], vectors[:, kept]


class Correlations:
    """The covariances of pairs, decomposed once for any shrinkage; see :func:`cca`.

    Args:
        vision: of the pictures.
        text: of the captions.
        between: the covariance of the two, in the directions of both, [vision rank, text rank].
    """

    def __init__(self, vision: Spectrum, text: Spectrum, between: Tensor) -> None:
        self.vision, self.text, self.between = vision, text, between

    @classmethod
    def of(cls, moments: Moments) -> Correlations:
        """From sums over pairs."""
        xx, yy, xy = moments.covariances()
        vision = Spectrum.of_covariance(moments.x / moments.weight, xx)
        text = Spectrum.of_covariance(moments.y / moments.weight, yy)
        return cls(vision, text, vision.directions.T @ xy @ text.directions)

    @classmethod
    def of_pairs(cls, x: Tensor, y: Tensor, rows: tuple[Tensor, Tensor], weights: Tensor) -> Correlations:
        """From the pairs themselves, which is faster for fewer of them than the states have numbers.

        Args:
            x: states of pictures, each once, [pictures, vision width].
            y: of captions, [captions, text width].
            rows: the picture and the caption of each pair, int64 [pairs].
            weights: above 0, [pairs].
        """
        weights = weights.double()
        spectra, inside = [], []
        for items, own in zip((x, y), rows, strict=True):
            used, place = torch.unique(own, return_inverse=True)
            different = items[used].double()
            each = torch.zeros(len(used), dtype=torch.float64).index_add_(0, place, weights)
            spectra.append(Spectrum.of_items(different, each))
            inside.append(((different - spectra[-1].mean) @ spectra[-1].directions)[place])
        return cls(spectra[0], spectra[1], (weights / weights.sum() * inside[0].T) @ inside[1])

    def maps(self, dimensions: int, shrinkage: float) -> dict[str, Affine]:
        """See :func:`cca`."""
        left, right = self.vision.whitening(shrinkage), self.text.whitening(shrinkage)
        whitened = left[:, None] * self.between * right
        # of the smaller square, which takes a third of the time of the decomposition itself
        tall = whitened.shape[0] > whitened.shape[1]
        squares, vectors = torch.linalg.eigh(whitened.T @ whitened if tall else whitened @ whitened.T)
        squares, vectors = squares.clamp_min(0).flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
        # the other side's vectors times S; what is no correlation stays nothing
        other = (whitened @ vectors if tall else whitened.T @ vectors) * squares.sqrt()
        own = vectors * squares
        u, v = (other, own) if tall else (own, other)
        found = {}
        for tower, spectrum, full in (
            ("vision", self.vision, left[:, None] * u),
            ("text", self.text, right[:, None] * v),
        ):
            kept = torch.zeros(len(spectrum.mean), dimensions)
            kept[:, : full.shape[1]] = (spectrum.directions @ full).float()
            found[tower] = (spectrum.mean.float(), kept)
        return found


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
