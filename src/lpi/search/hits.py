"""What is asked of an index, and what is found in it."""

from __future__ import annotations

from dataclasses import dataclass

from lpi.search.scoring import Answering, Probe
from lpi.search.table import Row


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        id: of its content.
        path: its first file, relative to the indexed folder.
        copies: further files with the same content.
        score: cosine with the query, at most 1; with ``routed`` scores the agreement on the tasks comes on top.
        task: where the router sent it; empty for nowhere.
        confidence: how likely that task is, between 0 and 1; ``None`` where no task was learned.
        margin: how much farther the next task is; ``None`` with fewer than two.
        date: when it was taken or last written to, ``YYYY-MM-DDTHH:MM:SS``.
        width, height: in pixels.
        fit: how well it fits the query, between 0 and 1, where a half is where nonsense ends (:mod:`lpi.search.fit`);
            ``None`` where that isn't known, as while an index moves to another model.
    """

    id: str
    path: str
    copies: tuple[str, ...]
    score: float
    task: str
    confidence: float | None
    margin: float | None
    date: str
    width: int
    height: int
    fit: float | None = None


@dataclass(frozen=True)
class Query:
    """An encoded query: may be kept, and searched with other filters.

    Attributes:
        stage: the stage that it searches.
        probe: what pictures are compared with.
        model: what stands for the model that encoded it.
        routes: the tasks that it was routed to and how much each counts, the most first; an empty name is the frozen
            model. Nothing where the model tells no tasks apart.
        cut: the model takes only the start of the words: the rest counts for nothing.
    """

    stage: int
    probe: Probe
    model: str
    routes: Answering = ()
    cut: bool = False


def hit_of(row: Row) -> Hit:
    """The hit of a picture's row in the store, with its ``score``."""
    path, *copies = row["paths"]
    return Hit(
        id=row["id"],
        path=path,
        copies=tuple(copies),
        score=row["score"],
        task=row["task"],
        confidence=row["confidence"],
        margin=row["margin"],
        date=row["date"],
        width=row["width"],
        height=row["height"],
    )
