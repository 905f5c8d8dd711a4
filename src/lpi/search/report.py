"""What learning a domain would gain and lose, as figures: measured on trial, recorded with the stage that it began."""

from __future__ import annotations

from typing import TypedDict


class Recall(TypedDict):
    """How a test set's queries fare: ``captions`` of its pictures, and the pictures.

    ``r1`` and ``r10`` are the shares of captions that find a picture of theirs first, or among the first ten, of all
    pictures of the archive; ``image_to_text`` is the share of pictures that a caption of theirs fits best, of those of
    all test sets.
    """

    captions: int
    r1: float
    r10: float
    image_to_text: float


class Change(TypedDict):
    """Recall of one test set before and after; ``None`` where none of its pictures can be read."""

    before: Recall | None
    after: Recall | None


class Changes(TypedDict):
    """Recall of the new domain, of each old one, and of what belongs to none, where that is on record."""

    new: Change
    old: dict[str, Change]
    held_out: Change | None


class Seconds(TypedDict):
    """What learning and measuring took, and embedding the rest would take; ``None`` where nothing is left of it."""

    learn: float
    measure: float
    embed: float | None


class Report(TypedDict):
    """What adopting a domain would gain and lose.

    ``tests`` is how many test pictures there are: those of the new domain and of every test set on record. ``among`` is
    how many pictures each caption looks for its own in: all of the index and the test pictures beside them; fewer than
    the index has where so many were drawn. ``pictures``, ``reembed`` and ``share`` are how many pictures the index has,
    how many of them the new model needs embedded again, and which share that is; ``embedded`` of them were, to measure.
    ``unmeasured`` are old domains without a test set on record, ``unreadable`` counts test pictures that are gone by
    their domain. For ``scoring`` see :mod:`lpi.search.scoring`.
    """

    tests: int
    among: int
    pictures: int
    reembed: int
    embedded: int
    share: float
    seconds: Seconds
    recall: Changes
    unmeasured: list[str]
    unreadable: dict[str, int]
    scoring: str


def by_domain(task: str, report: Report) -> dict[str, Change]:
    """What changes for each domain whose test set was measured: the new one first, what belongs to none last."""
    recall = report["recall"]
    others = {"held-out": recall["held_out"]} if recall["held_out"] else {}
    return {f"{task} (new)": recall["new"], **recall["old"], **others}
