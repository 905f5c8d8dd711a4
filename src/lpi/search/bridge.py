"""A map from one model's queries to another's vectors: new queries find old pictures before these are embedded again.

After Drift-Adapter (arXiv 2509.23471): some pictures are encoded by both models, and from the pairs a small map is
learned. Three kinds, all used in the same way:

- ``procrustes``: a rotation (or reflection), in closed form. It bends nothing, so it hardly overfits.
- ``affine``: the rotation, and a correction of low rank, in closed form.
- ``mlp``: on top of that, what a small network with one hidden layer adds.

Differs: there, a query is taken to where the old model would have put *the query*. Words then land where the old model
put these words, and rank pictures as the old model did: what the new one has learned about words is lost. Here a query
is taken to where its scores *with the old pictures* are those of the new model. For a linear map that asks for no
query at all: a map that predicts new vectors of pictures from old ones is learned, ``new = W old + t``, and as
``query . (W old)`` is ``(W^T query) . old``, queries go over its transpose (and the shift moves all scores of a query
alike). So pictures teach a bridge for words, too. Words that both models encoded only help to find the rotation where
pictures are few, and only if the held-out pictures agree. ``benchmarks/search_bridge.py`` compares the two aims.

Everything here is a function of tensors; what is encoded, and when, is for :mod:`lpi.search.migration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lpi.errors import DataError, ShapeError, UnknownNameError, did_you_mean

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # in units of the mean variance of a direction
RANKS = (8, 32, 128)
HIDDEN = 128
SHARPNESS = 2.0  # of the softmax over pictures, in units of the spread of a query's scores
EPOCHS, PATIENCE, BATCH, RATE, DECAY = 200, 15, 256, 3e-4, 0.1


@dataclass(frozen=True)
class Pairs:
    """The same pictures, or the same words, encoded by two models.

    Attributes:
        new: what the new model made of them, [items, new features].
        old: what the old model made of them, [items, old features].

    Raises:
        ShapeError: they are not matrices with one row an item.
    """

    new: Tensor
    old: Tensor

    def __post_init__(self) -> None:
        if self.new.ndim != 2 or self.old.ndim != 2 or len(self.new) != len(self.old):
            raise ShapeError(
                "pairs must be two matrices [items, features] with the same items; got "
                f"{list(self.new.shape)} and {list(self.old.shape)}."
            )

    def __len__(self) -> int:
        return len(self.new)

    def __getitem__(self, rows: Tensor) -> Pairs:
        return Pairs(self.new[rows], self.old[rows])


@dataclass(frozen=True)
class Bridge(ABC):
    """A learned map; call it with queries [queries, new features] to get vectors of length 1 [queries, old features].

    Its fields are its tensors.
    """

    kind: ClassVar[str]

    @abstractmethod
    def map(self, queries: Tensor) -> Tensor:
        """The map itself, before vectors are scaled to length 1."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int]:
        """New and old features."""

    def __call__(self, queries: Tensor) -> Tensor:
        """Map queries.

        Raises:
            ShapeError: they have another width than those it was learned from.
        """
        if queries.ndim != 2 or queries.shape[1] != self.widths[0]:
            raise ShapeError(
                f"this bridge maps [queries, {self.widths[0]}]; got {list(queries.shape)}. Encode with the new model."
            )
        return functional.normalize(self.map(queries.float()), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Procrustes(Bridge):
    """A rotation, [new features, old features]."""

    kind: ClassVar[str] = "procrustes"
    rotation: Tensor

    def map(self, queries: Tensor) -> Tensor:
        """See :class:`Bridge`."""
        return queries @ self.rotation

    @property
    def widths(self) -> tuple[int, int]:
        """See :class:`Bridge`."""
        return self.rotation.shape[0], self.rotation.shape[1]


@dataclass(frozen=True)
class Affine(Bridge):
    """A rotation and, added to it, a correction of low rank.

    Attributes:
        rotation: scaled, [new features, old features].
        down: [new features, rank].
        up: [rank, old features].
    """

    kind: ClassVar[str] = "affine"
    rotation: Tensor
    down: Tensor
    up: Tensor

    def map(self, queries: Tensor) -> Tensor:
        """See :class:`Bridge`."""
        return queries @ self.rotation + queries @ self.down @ self.up

    @property
    def widths(self) -> tuple[int, int]:
        """See :class:`Bridge`."""
        return self.rotation.shape[0], self.rotation.shape[1]


@dataclass(frozen=True)
class ResidualMlp(Bridge):
    """A matrix, and what a network with one hidden layer adds to it.

    Attributes:
        line: [new features, old features].
        inner, inner_shift: into the hidden layer, [new features, hidden] and [hidden].
        outer: out of it, [hidden, old features].
    """

    kind: ClassVar[str] = "mlp"
    line: Tensor
    inner: Tensor
    inner_shift: Tensor
    outer: Tensor

    def map(self, queries: Tensor) -> Tensor:
        """See :class:`Bridge`."""
        hidden = functional.gelu(queries @ self.inner + self.inner_shift)
        return queries @ self.line + hidden @ self.outer

    @property
    def widths(self) -> tuple[int, int]:
        """See :class:`Bridge`."""
        return self.line.shape[0], self.line.shape[1]


KINDS: dict[str, type[Bridge]] = {kind.kind: kind for kind in (Procrustes, Affine, ResidualMlp)}


@dataclass(frozen=True)
class Lesson:
    """What a bridge is learned from.

    Attributes:
        pictures: vectors of both models.
        words: the same of texts; may be none.
    """

    pictures: Pairs
    words: Pairs

    @property
    def queries(self) -> Tensor:
        """What the network practises on: pictures and words as queries of the new model, [queries, new features]."""
        return torch.cat([self.pictures.new, self.words.new])


def check_kind(kind: str) -> None:
    """Refuse an unknown one.

    Raises:
        UnknownNameError: naming those there are.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"No bridge is called {kind!r}. {did_you_mean(kind, KINDS)}")


def learn_bridge(kind: str, lesson: Lesson, held_out: Lesson, *, seed: int = 0) -> Bridge:
    """Learn a map of one kind; the same lessons and seed give the same map.

    Args:
        kind: ``procrustes``, ``affine`` or ``mlp``.
        lesson: what it is learned from.
        held_out: what decides whether words help, strength and rank of the correction, and when the network has
            learned enough.
        seed: of the network's initial values and batches.

    Raises:
        UnknownNameError: no kind has that name.
        DataError: too few pictures, or a value that isn't a number.
    """
    check_kind(kind)
    for name, own in (("pictures", lesson), ("held-out pictures", held_out)):
        if len(own.pictures) < 2:
            raise DataError(f"a bridge needs at least 2 {name}; got {len(own.pictures)}. Take a larger sample.")
        if not all(bool(part.isfinite().all()) for part in (own.queries, own.pictures.old, own.words.old)):
            raise DataError(f"the {name} have values that aren't numbers (NaN). Check the weights of both models.")
    return _LEARN[kind](lesson, held_out, seed)


def kept_at(k: int, found: Tensor, wanted: Tensor) -> float:
    """How many of each query's first k under some scores are among its first k under others, as a share.

    >>> kept_at(2, torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[9.0, 1.0, 8.0]]))
    0.5

    Args:
        k: how many count; all where there are fewer.
        found: scores that are judged, [queries, pictures].
        wanted: scores that are right, [queries, pictures].
    """
    k = min(k, found.shape[1])
    first, right = found.topk(k, dim=1).indices, wanted.topk(k, dim=1).indices
    return float((first[:, :, None] == right[:, None, :]).any(dim=2).double().mean())


def _rotation(pairs: Pairs) -> Tensor:
    """The rotation that brings new vectors nearest to old ones, by least squares: U V^T of the SVD of new^T old."""
    product = pairs.new.double().T @ pairs.old.double()  # [new features, old features]
    left, _, right = torch.linalg.svd(product, full_matrices=False)
    turn: Tensor = left @ right
    return turn


def _rotations(lesson: Lesson) -> list[Tensor]:
    """Of the pictures alone, and of pictures and words together: few pictures don't fill a space, words may help.

    Where both models mean the same by words (another input size, say) they do; where they don't, the held-out pictures
    tell.
    """
    both = Pairs(*(torch.cat(own) for own in zip(_sides(lesson.pictures), _sides(lesson.words), strict=True)))
    return [_rotation(lesson.pictures)] + ([_rotation(both)] if len(lesson.words) else [])


def _sides(pairs: Pairs) -> tuple[Tensor, Tensor]:
    return pairs.new, pairs.old


class _Prediction:
    """New vectors of pictures, predicted from old ones; how well is told by the held-out pictures.

    Attributes:
        old, new: what is learned from, centred, [pictures, features].
    """

    def __init__(self, lesson: Lesson, held_out: Lesson) -> None:
        new, old = lesson.pictures.new.double(), lesson.pictures.old.double()
        new_mean, old_mean = new.mean(dim=0), old.mean(dim=0)
        self.new, self.old = new - new_mean, old - old_mean
        self._new, self._old = held_out.pictures.new.double() - new_mean, held_out.pictures.old.double() - old_mean

    def back(self, rotation: Tensor) -> Tensor:
        """A rotation backwards and scaled, [old features, new features]."""
        turned = self.old @ rotation.T
        return rotation.T * (turned * self.new).sum() / turned.square().sum().clamp(min=1e-12)

    def error(self, *maps: Tensor) -> float:
        """Squared error on the held-out pictures, of the sum of some maps [old features, new features]."""
        return float((sum(self._old @ own for own in maps) - self._new).square().sum())


def _procrustes(lesson: Lesson, held_out: Lesson, seed: int) -> Procrustes:
    """The rotation that predicts the held-out pictures best."""
    prediction = _Prediction(lesson, held_out)
    best = min(_rotations(lesson), key=lambda rotation: prediction.error(prediction.back(rotation)))
    return Procrustes(best.float())


def _affine(lesson: Lesson, held_out: Lesson, seed: int) -> Affine:
    """Predict new vectors from old ones: a rotation backwards, and by ridge regression what it leaves over.

    Rotation, ridge and rank are those that predict the held-out pictures best; what is returned is the transpose.
    """
    prediction = _Prediction(lesson, held_out)
    covariance = prediction.old.T @ prediction.old
    unit = covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(covariance), dtype=torch.float64)
    best: tuple[float, Affine] | None = None
    for back in map(prediction.back, _rotations(lesson)):
        left_over = prediction.old.T @ (prediction.new - prediction.old @ back)
        for ridge in RIDGES:
            correction = torch.linalg.solve(covariance + ridge * unit, left_over)
            # its principal directions: of all corrections of that rank, the one that changes the prediction most
            _, directions = torch.linalg.eigh((added := prediction.old @ correction).T @ added)  # rising
            for rank in sorted({min(rank, *correction.shape) for rank in RANKS}):
                kept = directions[:, -rank:]  # [new features, rank]
                low = correction @ kept  # [old features, rank]
                error = prediction.error(back, low @ kept.T)
                if best is None or error < best[0]:
                    best = (error, Affine(*(part.float().contiguous() for part in (back.T, kept, low.T))))
    assert best is not None
    return best[1]


def disagreement(bridge: Bridge, queries: Tensor, pictures: Pairs) -> Tensor:
    """How far the order of old pictures over a bridge is from the new model's, in nats, scalar.

    Kullback-Leibler divergence of two softmaxes over the pictures, mean over queries [queries, new features]. Each
    query's scores are first brought to mean 0 and standard deviation 1: how they spread is no matter of order.
    """
    right = _standard(queries @ pictures.new.T) * SHARPNESS
    found = _standard(bridge.map(queries) @ pictures.old.T) * SHARPNESS
    apart: Tensor = functional.kl_div(found.log_softmax(dim=1), right.softmax(dim=1), reduction="batchmean")
    return apart


def _standard(scores: Tensor) -> Tensor:
    spread = scores.std(dim=1, keepdim=True, correction=0).clamp(min=1e-6)
    return (scores - scores.mean(dim=1, keepdim=True)) / spread


def _mlp(lesson: Lesson, held_out: Lesson, seed: int) -> ResidualMlp:
    """Start at the affine map and descend on :func:`disagreement` until the held-out part has gained nothing for long.

    That part has pictures of its own: with the pictures that it learned from, the network would look right on any
    query.
    """
    affine = _affine(lesson, held_out, seed)
    generator = torch.Generator().manual_seed(seed)
    width, old_width = affine.widths
    weights = [
        affine.rotation + affine.down @ affine.up,
        torch.randn(width, HIDDEN, generator=generator) * 2**0.5,  # queries have length 1: hidden values of unit scale
        torch.zeros(HIDDEN),
        torch.zeros(HIDDEN, old_width),  # adds nothing at first
    ]
    best = [weight.clone() for weight in weights]
    queries, unseen = lesson.queries, held_out.queries
    least, waited = float(disagreement(affine, unseen, held_out.pictures)), 0
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(queries), generator=generator), BATCH):
            loss = disagreement(ResidualMlp(*weights), queries[rows], lesson.pictures)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            now = float(disagreement(ResidualMlp(*weights), unseen, held_out.pictures))
        waited += 1
        if now < least - 1e-4:
            best, least, waited = [weight.detach().clone() for weight in weights], now, 0
        if waited >= PATIENCE:
            break
    return ResidualMlp(*best)


_LEARN: dict[str, Callable[[Lesson, Lesson, int], Bridge]] = {
    "procrustes": _procrustes,
    "affine": _affine,
    "mlp": _mlp,
}
