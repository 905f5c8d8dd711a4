"""A model at work for an index: pictures and words to features, and where the router sends them.

Features of the index's pictures depend on the picture alone: never on what else was embedded with it, nor on when. The
last bits of a feature may depend on the size of its batch and on its place in it. Vectors that are kept for years
and compared with vectors made tomorrow must not. So every forward pass has the same size, filled up where needed, and
that size is the largest that was seen to give the same bits in every place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lpi.backbones.base import Reading, View
from lpi.config import ROUTED_WEIGHT
from lpi.errors import LpiError
from lpi.methods.base import Method
from lpi.methods.encoder import (
    MapsFrozen,
    encode_texts,
    read_captions,
    reads_once,
    route_images,
    route_texts,
    routing_features,
    width_of,
)
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Routing as Routed
from lpi.routing.base import all_under, membership
from lpi.routing.score import Probe, routed_score
from lpi.search.scoring import Answering, Probes, check_scoring

Half = NDArray[np.float16]
Single = NDArray[np.float32]

SIZES = (32, 8, 1)  # batches that are tried; a batch of one always gives the same bits
ROUTING_ROWS = 256
NEGLIGIBLE = 1e-3  # a share below this moves a vector by less than half precision does, and would cost an embedding


@dataclass(frozen=True)
class Routing:
    """The routes, tasks and distances that the router gives pictures.

    Attributes:
        routes: the routes of each, the likeliest first, int64 [pictures, k].
        tasks: the task that each picture's first route belongs to, int64 [pictures]; FALLBACK for none.
        weights: how much each counts, [pictures, k]; rows sum to 1.
        distances: to each task, [pictures, tasks]; no column where the method tells no tasks apart.
        confidence: how likely the likeliest task is, [pictures]; NaN where the method tells no tasks apart.
    """

    routes: NDArray[np.int64]
    tasks: NDArray[np.int64]
    weights: Single
    distances: Single
    confidence: Single

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Routing:
        """The routing of some of the pictures, by their rows."""
        return Routing(*(part[rows] for part in vars(self).values()))

    @property
    def margins(self) -> Single:
        """How much farther the second task is than the first, [pictures]; NaN with fewer than two tasks."""
        if self.distances.shape[1] < 2:
            return np.full(len(self.distances), np.nan, dtype=np.float32)
        nearest = np.sort(self.distances, axis=1)[:, :2]
        return nearest[:, 1] - nearest[:, 0]


class Encoder:
    """Turns pixels into features, in batches of one size.

    Args:
        method: what encodes.
        batch: pictures in every forward pass; by default :func:`steady_size`.
    """

    def __init__(self, method: Method, *, batch: int | None = None) -> None:
        self.method = method
        self.inputs = method.backbone.inputs
        self.batch = steady_size(method) if batch is None else batch

    def frozen(self, pixels: Tensor) -> Half:
        """Features of prepared pictures under the frozen model, [pictures, features].

        Args:
            pixels: [pictures, 3, height, width] uint8.

        Raises:
            LpiError: a feature is not a number.
        """
        backbone = self.method.backbone
        return self._features(pixels, lambda images: self._filled(backbone.encode_images(images)))

    def _filled(self, features: Tensor) -> Tensor:
        """The frozen model's features, L2-normalised, as wide as the method's vectors."""
        extra = width_of(self.method) - features.shape[1]
        return F.pad(F.normalize(features, dim=-1), (0, extra))

    def routing_features(self, pixels: Tensor) -> Half:
        """What the router looks at, of prepared pictures, [pictures, routing features]; see :meth:`frozen`."""
        return self._features(pixels, lambda images: look_of(self.method, images))

    def reads(self) -> bool:
        """See :func:`lpi.methods.encoder.reads_once`."""
        return reads_once(self.method)

    def read(self, pixels: Tensor) -> tuple[Half, Callable[[int], Half | None]]:
        """:meth:`routing_features`, and what gives vectors :meth:`under` a route from the same pass, if that has them.

        Args:
            pixels: at most a batch of them.
        """
        method, kept = self.method, []
        assert method.router is not None  # or nothing is looked at
        view = method.router.look("vision")

        def look(images: Tensor) -> Tensor:
            kept.append(method.backbone.reading("vision", images, view))
            return kept[-1].look

        features, (reading,) = self._features(pixels, look), kept

        @torch.no_grad()
        def under(route: int) -> Half | None:
            if route == FALLBACK:
                return self._checked(self._filled(reading.features)[: len(pixels)])
            if not isinstance(method, MapsFrozen) or not method.maps(route):
                return None
            seen = method.seen(reading.features, reading.summary)
            return self._checked(method.mapped("vision", *seen, route)[: len(pixels)])

        return features, under

    def under(self, pixels: Tensor, route: int) -> Half:
        """Features under a route, [pictures, features]; see :meth:`frozen`."""
        if route == FALLBACK:
            return self.frozen(pixels)
        return self._features(pixels, lambda images: self.method.image_features(images, route))

    @torch.no_grad()
    def _features(self, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Half:
        rows = []
        for part in torch.split(pixels, self.batch):
            filled = torch.zeros(self.batch, *part.shape[1:], dtype=torch.uint8)
            filled[: len(part)] = part
            ready = self.inputs.normalise(filled.to(self.method.backbone.device))
            rows.append(encode(ready)[: len(part)].float().cpu())
        return self._checked(torch.cat(rows) if rows else torch.empty(0, width_of(self.method)))

    @staticmethod
    def _checked(features: Tensor) -> Half:
        features = features.float().cpu()
        if not bool(features.isfinite().all()):
            raise LpiError("the model gives features that aren't numbers (NaN). Check its weights, or train again.")
        return features.numpy().astype(np.float16)

    @torch.no_grad()
    def routing(self, features: Half) -> Routing:
        """Where pictures belong, decided from their kept routing features [pictures, routing features] alone."""
        backbone, router = self.method.backbone, self.method.router
        width = backbone.view_width("vision", View() if router is None else router.look("vision"))
        parts: list[list[Tensor]] = []
        # once for no pictures: the shapes are right then, too
        for start in range(0, max(len(features), 1), ROUTING_ROWS):
            own = features[start : start + ROUTING_ROWS]
            filled = np.zeros((ROUTING_ROWS, width), dtype=np.float32)
            if len(own):
                filled[: len(own)] = unit(own.astype(np.float32))
            rows = torch.from_numpy(filled).to(backbone.device)
            found = all_under(0, rows) if router is None else router("vision", rows)
            tasks = torch.full((ROUTING_ROWS,), FALLBACK) if router is None else found.tasks
            confidence = torch.full((ROUTING_ROWS,), torch.nan)
            if found.distances.shape[1]:
                confidence = found.posteriors.amax(dim=1)
            columns = (found.routes, tasks, found.weights, found.distances, confidence)
            parts.append([part[: len(own)] for part in columns])
        whole = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
        kept, shares = without_negligible(whole[0].astype(np.int64), whole[2].astype(np.float32))
        return Routing(
            routes=kept,
            tasks=whole[1].astype(np.int64),
            weights=shares,
            distances=whole[3].astype(np.float32),
            confidence=whole[4].astype(np.float32),
        )


def look_of(method: Method, images: Tensor) -> Tensor:
    """What the method's router looks at of normalised pixels, [images, routing features]."""
    if method.router is None:
        return method.backbone.view_images(images, View())
    return routing_features(method.router, method.backbone, "vision", images)


# ---- queries ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def text_probes(method: Method, texts: Sequence[str], scoring: str, reading: Reading | None = None) -> Probes:
    """Texts as queries.

    Args:
        method: what encodes them.
        texts: at least one.
        scoring: ``plain`` or ``routed``.
        reading: what :func:`lpi.methods.encoder.read_captions` gave for them, if they were read.
    """
    check_scoring(scoring)
    reading = read_captions(method, texts) if reading is None else reading
    routing = route_texts(method, texts, reading)  # once: it decides the vectors, and is told besides
    return _probes(method, encode_texts(method, texts, routing=routing, reading=reading), routing, scoring)


@torch.no_grad()
def image_probes(method: Method, pixels: Tensor, scoring: str) -> Probes:
    """Pictures as queries; see :func:`text_probes`.

    Args:
        method: what encodes them.
        pixels: prepared, [pictures, 3, height, width] uint8.
        scoring: ``plain`` or ``routed``.
    """
    check_scoring(scoring)
    routing = route_images(method, pixels)
    return replace(_probes(method, method.encode_images(pixels, routing=routing), routing, scoring), kind="image")


@torch.no_grad()
def caption_scores(method: Method, pixels: Tensor, captions: Sequence[str], scoring: str) -> Tensor:
    """Scores of captions for one picture, [captions].

    Args:
        method: what encodes both.
        pixels: prepared, [1, 3, height, width] uint8.
        captions: at least one.
        scoring: ``plain`` or ``routed``.
    """
    routing, texts = route_images(method, pixels), text_probes(method, captions, scoring)
    picture = method.encode_images(pixels, routing=routing).float().cpu()
    asked = Probe(texts.vectors, texts.membership)  # weighted already
    return routed_score(asked, Probe(picture, routing.membership), 1.0)[:, 0]


def _probes(method: Method, vectors: Tensor, routing: Routed, scoring: str) -> Probes:
    membership = None
    if scoring == "routed" and routing.distances.shape[1]:
        membership = ROUTED_WEIGHT * routing.membership
    return Probes(vectors.float().cpu(), membership, answering(method, routing))


def answering(method: Method, routing: Routed) -> tuple[Answering, ...]:
    """The tasks that each query was routed to; an empty name is the frozen model. Nothing where there is no routing.

    Args:
        method: whose.
        routing: of the queries.
    """
    if method.router is None:
        return ((),) * len(routing.routes)
    answers: list[Answering] = []
    for tasks, shares in zip(method.router.tasks_of(routing.routes).tolist(), routing.weights.tolist(), strict=True):
        counts: dict[str, float] = {}
        for task, share in zip(tasks, shares, strict=True):
            name = "" if task == FALLBACK else method.tasks[task]
            counts[name] = counts.get(name, 0.0) + share
        kept = [(name, share) for name, share in counts.items() if share > 0]
        answers.append(tuple(sorted(kept, key=lambda one: -one[1])))
    return tuple(answers)


def task_membership(
    method: Method, distances: Sequence[Sequence[float]] | Single, tasks: Sequence[int] | NDArray[np.int64]
) -> Tensor:
    """How much pictures belong to each task, [pictures, tasks], from what an index keeps of them.

    Args:
        method: of the stage that the distances are of.
        distances: of each picture to each task.
        tasks: the task that each was sent to, FALLBACK for none.
    """
    measured = torch.as_tensor(distances, dtype=torch.float32).reshape(len(tasks), len(method.tasks))
    assert method.router is not None  # or nothing was measured
    posteriors = method.router.posteriors("vision", measured)
    return membership(posteriors, torch.as_tensor(tasks, dtype=torch.int64)).cpu()


# ---- mixtures --------------------------------------------------------------------------------------------------------


def without_negligible(routes: NDArray[np.int64], weights: Single) -> tuple[NDArray[np.int64], Single]:
    """Mixtures [pictures, k] without the shares that don't matter: those are 0, and their route is the first one."""
    counts = weights >= NEGLIGIBLE
    kept = np.where(counts, weights, 0).astype(np.float64)
    shares = (kept / kept.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.where(counts, routes, routes[:, :1]), shares


def unit(features: Single) -> Single:
    """Rows scaled to length 1, [rows, features]; the same bits for a row whatever the others are."""
    lengths = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1))
    scaled: Single = (features / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)
    return scaled


def mix(features: list[Half], weights: list[Single]) -> Single:
    """The searched vectors: features [pictures, features] times weights [pictures], added up and scaled to length 1."""
    total = sum(
        own.astype(np.float64) * share.astype(np.float64)[:, None] for own, share in zip(features, weights, strict=True)
    )
    return unit(np.asarray(total))


@torch.no_grad()
def steady_size(method: Method) -> int:
    """The largest batch in which every place gives the same bits on this machine."""
    inputs = method.backbone.inputs
    height, width = inputs.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (max(SIZES), 3, height, width), dtype=torch.uint8, generator=generator)

    def encode(images: Tensor) -> Tensor:
        ready = inputs.normalise(images.to(method.backbone.device))
        frozen = torch.cat([method.backbone.encode_images(ready), look_of(method, ready)], dim=1)
        return torch.cat([frozen, method.image_features(ready, 0)], dim=1) if method.tasks else frozen

    for size in SIZES:
        shift = max(1, size // 3)
        straight, turned = encode(pixels[:size]), encode(pixels[:size].roll(shift, dims=0))
        if size == 1 or torch.equal(straight.roll(shift, dims=0), turned):
            break
    return size
