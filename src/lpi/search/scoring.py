"""How the scores of vectors that were made under different prompts are compared. Here, and nowhere else.

A picture's vector was made under its own task's prompts (or a mixture), a query's under those of the task that the
router takes the query to belong to. The two need not be the same, and pictures of different tasks compete for one
query. Three answers:

- ``plain``: the query is encoded once, under its own mixture, and every picture's score is the cosine of the two
  vectors. This trusts that prompts bend the common space but don't tear it: the backbone that both went through is the
  same, and ``start: neutral`` begins where it is. What a picture is compared with doesn't depend on its task, so one
  search over one index does it.
- ``matched``: the query is encoded under every route that pictures have, and each picture's score is the cosine with
  the query under that picture's own first route. Both sides were then always made with prompts that were trained
  together, at the price of one encoding and one search a route; but scores of different tasks have different scales
  where one task's training drew its pairs closer together than another's.
- ``routed``: as ``plain``, plus :data:`lpi.config.ROUTED_WEIGHT` times how far the query and the picture belong to the
  same tasks. A picture's part of that follows from its kept distances to the tasks, so nothing more is stored, and a
  stage that changes them writes no vector. Where nothing was learned yet it is the same as ``plain``.

The first is the default. The first and the last are what ``lpi run`` measures with ``evaluation.scoring = "plain"`` and
``"routed"``. ``lpi teach --scoring`` measures each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lpi.config import ROUTED_WEIGHT
from lpi.errors import ConfigError, did_you_mean
from lpi.methods.base import Method, chunks
from lpi.methods.encoder import route_images, route_texts, tokens
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Routing, membership
from lpi.search.encoding import Single
from lpi.search.identity import PLAIN, RouteKeys
from lpi.trainer import plain_text_features

Scoring = Literal["plain", "matched", "routed"]
BATCH = 64
EVERY = "*"  # the route of a vector that is compared with all pictures
TASKS = "*tasks"  # in the place of a route: how much a query belongs to each task, times the weight of that


def check_scoring(scoring: str) -> None:
    """Refuse an unknown one.

    Raises:
        ConfigError: naming those there are.
    """
    if scoring not in get_args(Scoring):
        raise ConfigError(
            f"scoring must be plain, matched or routed; got {scoring!r}. {did_you_mean(scoring, get_args(Scoring))}"
        )


@dataclass(frozen=True)
class Probes:
    """Queries as they are compared with pictures.

    Attributes:
        vectors: by the key of the route whose pictures they are for, [queries, features]; :data:`EVERY` is for all.
            Under :data:`TASKS`, with ``routed``, what is compared with how much pictures belong to tasks, [queries,
            tasks].
    """

    vectors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.vectors.values())))

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {key: vectors[row] for key, vectors in self.vectors.items()}

    def scores(self, images: Tensor, routes: Sequence[str], belonging: Tensor | None = None) -> Tensor:
        """Scores against pictures, [queries, pictures].

        Args:
            images: searched vectors, [pictures, features].
            routes: the key of each picture's first route.
            belonging: how much each belongs to each task, [pictures, tasks]; needed for ``routed`` only.
        """
        if EVERY in self.vectors:
            cosines = self.vectors[EVERY] @ images.T
            if TASKS not in self.vectors:
                return cosines
            assert belonging is not None
            return cosines + self.vectors[TASKS] @ belonging.T
        scores = torch.full((len(self), len(images)), -1.0)
        for key, vectors in self.vectors.items():
            own = [place for place, route in enumerate(routes) if route == key]
            scores[:, own] = vectors @ images[own].T
        return scores


Routes = Mapping[str, int | None]
Answering = tuple[tuple[str, float], ...]  # names of tasks and how much each counts, the most first


def tasks_of(method: Method, mixture: Routing) -> list[Answering]:
    """The tasks that each query was routed to; an empty name is the frozen model. Nothing where there is no routing.

    Args:
        method: whose.
        mixture: of the queries, as its ``route_texts` or `route_images` gives it.
    """
    if method.router is None:
        return [()] * len(mixture.routes)
    answering: list[Answering] = []
    for tasks, shares in zip(method.router.tasks_of(mixture.routes).tolist(), mixture.weights.tolist(), strict=True):
        counts: dict[str, float] = {}
        for task, share in zip(tasks, shares, strict=True):
            name = "" if task == FALLBACK else method.tasks[task]
            counts[name] = counts.get(name, 0.0) + share
        kept = [(name, share) for name, share in counts.items() if share > 0]
        answering.append(tuple(sorted(kept, key=lambda one: -one[1])))
    return answering


def belonging_of(
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


@torch.no_grad()
def text_probes(
    method: Method, texts: Sequence[str], routes: Routes, scoring: str, mixture: Routing | None = None
) -> Probes:
    """Texts as queries.

    Args:
        method: what encodes them.
        texts: at least one.
        routes: the routes that pictures have, by key, as :func:`routes_by_key` gives them.
        scoring: ``plain``, ``matched`` or ``routed``.
        mixture: where they were routed already.
    """
    check_scoring(scoring)
    mixture = route_texts(method, texts) if mixture is None else mixture
    mixed = method.encode_texts(texts, routing=mixture).float().cpu()
    if scoring == "routed" and mixture.distances.shape[1]:
        return Probes({EVERY: mixed, TASKS: ROUTED_WEIGHT * mixture.membership})
    if scoring != "matched" or not routes:
        return Probes({EVERY: mixed})

    def under(route: int) -> Tensor:
        if route == FALLBACK:
            return plain_text_features(method.backbone, texts, BATCH)
        parts = [method.text_features(tokens(method, part), route) for part in chunks(texts, BATCH)]
        return torch.cat(parts)

    return _by_route(mixed, routes, under)


@torch.no_grad()
def image_probes(
    method: Method, pixels: Tensor, routes: Routes, scoring: str, mixture: Routing | None = None
) -> Probes:
    """Pictures as queries; see :func:`text_probes`.

    Args:
        method: what encodes them.
        pixels: prepared, [pictures, 3, height, width] uint8.
        routes: the routes that pictures have, by key.
        scoring: ``plain``, ``matched`` or ``routed``.
        mixture: where they were routed already.
    """
    check_scoring(scoring)
    mixture = route_images(method, pixels) if mixture is None else mixture
    mixed = method.encode_images(pixels, routing=mixture).float().cpu()
    if scoring == "routed" and mixture.distances.shape[1]:
        return Probes({EVERY: mixed, TASKS: ROUTED_WEIGHT * mixture.membership})
    if scoring != "matched" or not routes:
        return Probes({EVERY: mixed})
    backbone = method.backbone
    ready = backbone.inputs.normalise(pixels.to(method.backbone.device))

    def under(route: int) -> Tensor:
        if route == FALLBACK:
            return functional.normalize(backbone.encode_images(ready), dim=-1)
        return method.image_features(ready, route)

    return _by_route(mixed, routes, under)


def _by_route(mixed: Tensor, routes: Routes, under: Callable[[int], Tensor]) -> Probes:
    return Probes({key: mixed if route is None else under(route).float().cpu() for key, route in routes.items()})


def routes_by_key(method: Method, keys: Sequence[str]) -> dict[str, int | None]:
    """The routes of a method that have these keys, by key; ``None`` for a route that belongs to no single task."""
    known = RouteKeys(method)
    routes = {known[route]: route for route in range(len(method.tasks) if method.router is not None else 1)} | {
        PLAIN: FALLBACK
    }
    return {key: routes.get(key) for key in sorted(set(keys))}
