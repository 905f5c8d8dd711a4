"""A task's pairs as a model sees them, and which shrinkage and share serve pairs that a map hasn't seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.closed_form import Affine, Correlations, Moments
from lpi.devices import in_full
from lpi.methods.base import TaskData
from lpi.prompts.low_rank import TOWERS

SHRINKAGES = (0.3, 1.0, 3.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97)
FOLDS = 4  # with fewer, a map of all pairs deserves a larger share than a fold's map is given
TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)

Encode = Callable[[str, Any], tuple[Tensor, Tensor]]
"""From a tower and what it reads to features and states, [items, features] and [items, states]."""


@dataclass(frozen=True)
class Pairs:
    """A task's training pairs as a model sees them.

    Attributes:
        features: L2-normalised, of pictures and of different captions, [items, features] a tower.
        states: likewise, [items, states] a tower.
        pictures: the picture of each pair, int64 [pairs].
        captions: its caption, int64 [pairs].
        cuts: states of the same pictures, cut and mirrored at random, that maps are fitted to as well, [cuts, pictures,
            states]; none of them is ranked.
    """

    features: dict[str, Tensor]
    states: dict[str, Tensor]
    pictures: Tensor
    captions: Tensor
    cuts: Tensor | None = None

    def ways(self) -> list[Pairs]:
        """What a map may be fitted to: the pairs as they are, and with their cuts where there are any."""
        return [self] if self.cuts is None else [replace(self, cuts=None), self]

    def moments(self) -> Moments:
        """Sums over all pairs; every picture counts as one, however many captions and cuts it has."""
        seen, (pictures, captions), weights = self._fitted(torch.arange(len(self.pictures)))
        return Moments.of(seen[pictures], self.states["text"][captions], weights)

    def correlations(self, among: Tensor | None = None) -> Correlations:
        """Of the pairs whose pictures are ``among`` those given (bool [pictures]); of all by default."""
        kept = torch.arange(len(self.pictures)) if among is None else among[self.pictures].nonzero()[:, 0]
        seen, rows, weights = self._fitted(kept)
        return Correlations.of_pairs(seen, self.states["text"], rows, weights)

    def _fitted(self, kept: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """What some of the pairs, int64 [kept], give to a fit: states of pictures and cuts, rows, and weights."""
        pictures, captions, plain = self.pictures[kept], self.captions[kept], self.states["vision"]
        weights = 1 / torch.bincount(self.pictures, minlength=len(plain))[pictures].double()
        if self.cuts is None:
            return plain, (pictures, captions), weights
        times = 1 + len(self.cuts)
        rows = torch.cat([pictures + number * len(plain) for number in range(times)])
        return torch.cat([plain, *self.cuts]), (rows, captions.repeat(times)), (weights / times).repeat(times)


@torch.no_grad()
def pairs_of(data: TaskData, encode: Encode, cuts: int = 0) -> Pairs:
    """A task's training pairs under a model, each picture and caption encoded once, and each picture's cuts."""
    rows: dict[str, dict[int, tuple[Tensor, Tensor]]] = {tower: {} for tower in TOWERS}
    pairs = []
    for batch in data.batches(seed=0, captions=0):
        for tower, inputs, numbers in (
            ("vision", batch.images, batch.picture_rows),
            ("text", batch.texts, batch.caption_rows),
        ):
            found = [part.float().cpu() for part in encode(tower, inputs)]
            rows[tower].update(zip(numbers.tolist(), zip(*found, strict=True), strict=True))
        pairs.append(torch.stack([batch.picture_rows[batch.owner.cpu()], batch.caption_rows], dim=1))
    both = torch.cat(pairs)
    features, states = {}, {}
    for tower, known in rows.items():
        features[tower] = F.normalize(torch.stack([known[number][0] for number in sorted(known)]), dim=-1)
        states[tower] = torch.stack([known[number][1] for number in sorted(known)])
    further = None
    if cuts:
        assert data.read is not None  # or there are no pictures
        each = [[encode("vision", pixels)[1].float().cpu() for pixels in data.read.cuts(n)] for n in range(cuts)]
        further = torch.stack([torch.cat(parts) for parts in each])
    return Pairs(features, states, both[:, 0], both[:, 1], further)


def frozen_pairs(data: TaskData, seen: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], cuts: int = 0) -> Pairs:
    """A task's training pairs under the frozen model, from the one pass that all who look at them share.

    Args:
        data: the task.
        seen: from features, not normalised, [items, features], and summaries, [items, summary], to features and
            states, [items, states].
        cuts: how many of each picture are fitted to as well.
    """
    assert data.read is not None  # or there are no pairs
    features, states = {}, {}
    for tower in TOWERS:
        reading = data.read.reading(tower)
        found, states[tower] = (part.float().cpu() for part in seen(reading.features, reading.summary))
        features[tower] = F.normalize(found, dim=-1)
    pictures, captions = data.read.pairs().T
    read = [data.read.cut_reading(number) for number in range(cuts)]
    further = [seen(reading.features, reading.summary)[1].float().cpu() for reading in read]
    return Pairs(features, states, pictures, captions, torch.stack(further) if further else None)


@dataclass(frozen=True)
class Chosen:
    """What serves pairs best which a map hasn't seen.

    Attributes:
        pairs: what the map is fitted to, with cuts or without.
        dimensions: of the map.
        shrinkage: of the covariances.
        share: of the map's vectors in the whole.
        merit: how well they do: the sum of the folds' :func:`likelihood`.
    """

    pairs: Pairs
    dimensions: int
    shrinkage: float
    share: float
    merit: float


@dataclass(frozen=True)
class Ranked:
    """Pairs that a map hasn't seen, to be ranked.

    Attributes:
        pictures: theirs, int64 [pictures].
        captions: theirs, int64 [captions].
        places: which belong together, by their place in the two, int64 [pairs, 2], captions first.
        own: scores of the model's own features, [captions, pictures].
    """

    pictures: Tensor
    captions: Tensor
    places: Tensor
    own: Tensor

    @classmethod
    def of(cls, pairs: Pairs, among: Tensor) -> Ranked:
        """The pairs of some pictures, bool [pictures]."""
        kept = among[pairs.pictures]
        sides = [(torch.unique(rows[kept]), rows[kept]) for rows in (pairs.captions, pairs.pictures)]
        places = torch.stack([torch.searchsorted(different, rows) for different, rows in sides], dim=1)
        (captions, _), (pictures, _) = sides
        own = pairs.features["text"][captions] @ pairs.features["vision"][pictures].T
        return cls(pictures, captions, places, own)

    def scores(self, pairs: Pairs, maps: Mapping[str, Affine]) -> Tensor:
        """Cosines under maps, [captions, pictures]."""
        texts = closed(maps["text"], pairs.states["text"][self.captions])
        return texts @ closed(maps["vision"], pairs.states["vision"][self.pictures]).T


def chosen(
    pairs: Pairs, dimensions: int, shrinkages: Sequence[float] = SHRINKAGES, *, held: Tensor | None = None
) -> Chosen:
    """Whether cuts help, and the shrinkage and the share that serve pairs best which the map hasn't seen.

    Pictures are cut into folds; what is fitted to the others ranks a fold's captions for its pictures, and its pictures
    for its captions; the :func:`likelihood` of both decides. Captions that both sides share are in both: words of a
    task that return are no cheating.

    Args:
        pairs: the task's.
        dimensions: of the map.
        shrinkages: those to choose from.
        held: the one fold to be ranked, bool [pictures]; by default all pictures in their turn.
    """
    ways = pairs.ways()
    merit: dict[tuple[int, float, float], float] = {}
    for fold in folds(len(pairs.states["vision"])) if held is None else [held]:
        ranked = Ranked.of(pairs, fold)
        for way, own in enumerate(ways):
            correlations = own.correlations(~fold)
            for shrinkage in shrinkages:
                found = ranked.scores(pairs, correlations.maps(dimensions, shrinkage))
                for share in SHARES:
                    merits = likelihood((1 - share) * ranked.own + share * found, ranked.places)
                    merit[way, shrinkage, share] = merit.get((way, shrinkage, share), 0.0) + merits
    if not merit:  # too few to choose by
        return Chosen(ways[0], dimensions, shrinkages[-1], 0.5, 0.0)
    best = max(merit, key=lambda one: (merit[one], one[1:], -one[0]))
    return Chosen(ways[best[0]], dimensions, *best[1:], merit[best])


def folds(count: int) -> list[Tensor]:
    """Which of so many pictures are in each fold, bool [pictures]; none of too few."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    found = []
    for fold in order.chunk(FOLDS) if count >= 2 * FOLDS else ():
        held = torch.zeros(count, dtype=torch.bool)
        held[fold] = True
        found.append(held)
    return found


def likelihood(scores: Tensor, pairs: Tensor) -> float:
    """How likely what is right is among it and all that is wrong: the mean logarithm over both directions.

    At the temperature that serves best, so that only the order and the distances of the scores count. Of a few pairs it
    tells more than their ranks do: among ten pictures most are first under every map.

    Args:
        scores: of captions and pictures, [captions, pictures].
        pairs: which belong together, int64 [pairs, 2].
    """
    right = torch.zeros(scores.shape, dtype=torch.bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    found = []
    for temperature in TEMPERATURES:
        scaled = temperature * scores
        wrong = scaled.masked_fill(right, -torch.inf)
        of_all = [torch.logaddexp(scaled, wrong.logsumexp(dim=side, keepdim=True)) for side in (0, 1)]
        found.append(sum(float((scaled - every)[right].mean()) for every in of_all) / 2)
    return max(found)


def closed(affine: Affine, states: Tensor) -> Tensor:
    """States under a map, L2-normalised, [items, dimensions]."""
    mean, weights = affine
    with in_full(states.device):
        return F.normalize((states.float() - mean.to(states.device)) @ weights.to(states.device), dim=-1)
