"""What learning a domain would gain and lose, as figures: measured on trial, recorded with the stage that it began."""

from __future__ import annotations

from typing import TypedDict


class Recall(TypedDict):
    """R@1 of a test set's queries against the pictures of all of them: both directions, and their mean ``r1``."""

    text_to_image: float
    image_to_text: float
    r1: float


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
    """What learning and measuring took, and what embedding is expected to take; ``None`` where nothing is embedded."""

    learn: float
    measure: float
    embed: float | None


class Report(TypedDict):
    """What adopting a domain would gain and lose.

    ``tests`` is how many test pictures compete for each query: those of the new domain and of every test set on record.
    ``pictures``, ``reembed`` and ``share`` are how many pictures the index has, how many of them would have to be
    embedded again, and which share that is. ``unmeasured`` are old domains without a test set on record, ``unreadable``
    counts test pictures that are gone by their domain. For ``scoring`` see :mod:`lpi.search.scoring`.
    """

    tests: int
    pictures: int
    reembed: int
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
