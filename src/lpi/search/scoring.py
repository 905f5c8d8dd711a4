"""How the scores of vectors that were made under different prompts are compared. Here, and nowhere else.

A picture's vector was made under its own task's prompts (or a mixture), a query's under those of the task that the
router takes the query to belong to. The two need not be the same, and pictures of different tasks compete for one
query. Two answers:

- ``plain``: the query is encoded once, under its own mixture, and every picture's score is the cosine of the two
  vectors. This trusts that prompts bend the common space but don't tear it: the backbone that both went through is the
  same, and ``start: neutral`` begins where it is. What a picture is compared with doesn't depend on its task, so one
  search over one index does it.
- ``routed``: as ``plain``, plus :data:`lpi.config.ROUTED_WEIGHT` times how far the query and the picture belong to the
  same tasks. A picture's part of that follows from its kept distances to the tasks, so nothing more is stored, and a
  stage that changes them writes no vector. Where nothing was learned yet it is the same as ``plain``.

The first is the default. Both are what ``lpi run`` measures with ``evaluation.scoring = "plain"`` and ``"routed"``.
``lpi teach --scoring`` measures each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from lpi.errors import ConfigError, did_you_mean

Scoring = Literal["plain", "routed"]
Answering = tuple[tuple[str, float], ...]  # names of tasks and how much each counts, the most first


def check_scoring(scoring: str) -> None:
    """Refuse an unknown way of scoring.

    Raises:
        ConfigError: naming those there are.
    """
    if scoring not in get_args(Scoring):
        hint = did_you_mean(scoring, get_args(Scoring))
        raise ConfigError(f"scoring must be plain or routed; got {scoring!r}. {hint}")


@dataclass(frozen=True)
class Probe:
    """What pictures are compared with to answer one query.

    Attributes:
        vector: whose cosines with the pictures' vectors are the scores, [features].
        membership: how much the query belongs to each task, times the weight of that, [tasks]; with ``routed`` only.
        kind: what it was made of.
    """

    vector: Tensor
    membership: Tensor | None = None
    kind: Literal["text", "image"] = "text"


@dataclass(frozen=True)
class Probes:
    """What pictures are compared with to answer several queries.

    Attributes:
        vectors: see :class:`Probe`, [queries, features].
        membership: see :class:`Probe`, [queries, tasks].
        routes: the tasks that each query was routed to and how much each counts; an empty name is the frozen model.
            Nothing where the model tells no tasks apart.
        kind: what they were made of.
    """

    vectors: Tensor
    membership: Tensor | None = None
    routes: tuple[Answering, ...] = ()
    kind: Literal["text", "image"] = "text"

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, row: int) -> Probe:
        return Probe(self.vectors[row], None if self.membership is None else self.membership[row], self.kind)
