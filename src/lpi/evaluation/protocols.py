"""The same model under other papers' protocols, so that their figures can be laid side by side with ours.

Two switches decide what is measured. *Gallery*: ``pooled`` ranks against the candidates of all tasks seen, ``per_task``
against the query's own task's only. *Routing*, for methods that tell tasks apart: ``routed`` lets every picture and
every caption find its task by itself, as a search must; ``oracle`` gives the true task; ``image``, ``text`` and
``pair`` route a caption and the picture it belongs to together, by the picture, by the caption, or by both, which
nobody can do who doesn't know yet which belong together. The third switch, final or the authors' averaging, is a
matter of which stages are averaged: see :mod:`lpi.metrics.continual`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lpi.evaluation.recall import Evaluator
from lpi.evaluation.records import PerTask
from lpi.evaluation.test_set import TOWERS, Encoded, Towers, routed
from lpi.methods.base import Method
from lpi.metrics.ranking import Gallery

GALLERIES: dict[str, Gallery] = {"pooled": "union", "per_task": "own"}
EVERY_STAGE = ("routed", "oracle")
LAST_STAGE = ("image", "text", "pair")


def protocols(evaluator: Evaluator, method: Method, stage: int) -> dict[str, PerTask]:
    """Recall of every task seen, by protocol: ``{"pooled_routed": {"t2i_r1": [..], ..}, ..}``.

    The routings that know which caption belongs to which picture are measured after the last stage only. A method
    that doesn't tell tasks apart has ``routed`` alone. Scores are plain cosines where the routing is given.

    Paper: DAR (arXiv 2605.31229) reports its main figures with a pair's routing, and one-sided routing beside them.
    """
    last = stage + 1 == len(evaluator.stream.tasks)
    routings = EVERY_STAGE + (LAST_STAGE if last else ()) if method.router is not None else EVERY_STAGE[:1]
    found = {}
    for routing in routings:
        encoded = _encoded(evaluator, method, stage, routing)
        for name, gallery in GALLERIES.items():
            found[f"{name}_{routing}"] = evaluator.recall(encoded.rows, encoded.features, gallery, encoded.similarity)
    return found


def _encoded(evaluator: Evaluator, method: Method, stage: int, routing: str) -> Encoded:
    """The test items of the tasks seen, under one routing."""
    if routing == "routed":
        return evaluator.seen(method, stage)
    test = evaluator.test
    rows = {tower: test.upto(tower, stage + 1) for tower in TOWERS}
    if routing == "oracle":
        routes = {tower: test.task[tower][rows[tower]] for tower in TOWERS}
        features = {tower: evaluator.under(method, tower, rows[tower], routes[tower]) for tower in TOWERS}
    elif routing == "pair":
        routes = _pair_routes(evaluator, method, rows)
        features = {tower: evaluator.under(method, tower, rows[tower], routes[tower]) for tower in TOWERS}
    else:
        routes, features = _one_sided(evaluator, method, rows, leader="vision" if routing == "image" else "text")
    return Encoded(rows, routes, features)


def _one_sided(evaluator: Evaluator, method: Method, rows: Towers, leader: str) -> tuple[Towers, Towers]:
    """Both towers follow the mixture that one of them was routed to.

    A picture with several captions follows its first.
    """
    test = evaluator.test
    routing = routed(method, leader, test.routing_features(method, leader)[rows[leader]])
    mixture = (routing.routes, routing.weights)
    owner = test.owner[rows["text"]]  # [texts]; tasks come first to last, so the rows seen are the first ones
    follow = owner if leader == "vision" else first_captions(owner, len(rows["vision"]))
    routes, features = {}, {}
    for tower in TOWERS:
        chosen = mixture if tower == leader else [part[follow] for part in mixture]
        routes[tower] = chosen[0][:, 0]
        features[tower] = evaluator.mixed(method, tower, rows[tower], chosen[0], chosen[1])
    return routes, features


def _pair_routes(evaluator: Evaluator, method: Method, rows: Towers) -> Towers:
    """The task nearest to picture and caption together: the mean of both distances decides.

    A picture with several captions goes by the mean of theirs.
    """
    test = evaluator.test
    distance = {
        tower: routed(method, tower, test.routing_features(method, tower)[rows[tower]]).distances for tower in TOWERS
    }
    owner = test.owner[rows["text"]]
    pictures = len(rows["vision"])
    captions = torch.zeros(pictures, distance["text"].shape[1]).index_add_(0, owner, distance["text"])
    captions /= torch.bincount(owner, minlength=pictures)[:, None]
    return {
        "vision": (distance["vision"] + captions).argmin(dim=1),
        "text": (distance["vision"][owner] + distance["text"]).argmin(dim=1),
    }


def first_captions(owner: Tensor, pictures: int) -> Tensor:
    """The first caption of each picture, int64 [pictures], from each caption's picture, int64 [texts].

    >>> first_captions(torch.tensor([0, 0, 1, 2, 2]), 3)
    tensor([0, 2, 3])
    """
    first = torch.full((pictures,), len(owner))
    return first.scatter_reduce(0, owner, torch.arange(len(owner)), "amin")
