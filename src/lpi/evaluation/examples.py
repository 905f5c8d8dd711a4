"""Example queries for the report: what the frozen model found and what is found after the last task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lpi.evaluation.recall import Evaluator
from lpi.evaluation.test_set import Encoded
from lpi.methods.base import Method
from lpi.metrics.ranking import ROUNDING
from lpi.storage import write_atomically, write_json

Json = Any
"""An example as it is written."""
THUMBNAIL = 160


def write_examples(evaluator: Evaluator, method: Method, folder: Path, count: int) -> None:
    """Write ``examples.json`` and the pictures it shows.

    Half of the queries, where there are so many, are ones that the frozen model got wrong and the method gets right;
    the other half are drawn evenly, so that the page does not show successes only.
    """
    if count == 0:
        return
    after = evaluator.final(method)
    before = Encoded({}, {}, evaluator.test.frozen)
    shown = []
    for direction in ("text_to_image", "image_to_text"):
        for query in _pick(evaluator, before, after, direction, count):
            shown.append(_example(evaluator, before, after, direction, query))
    wanted = {
        index
        for example in shown
        for index in [
            example["query_picture"],
            *(hit["index"] for side in ("before", "after") for hit in example[side]),
        ]
        if index is not None
    }
    names = {index: _thumbnail(evaluator, folder, index) for index in sorted(wanted)}
    for example in shown:
        picture = example.pop("query_picture")
        if picture is not None:
            example["query"] = names[picture]
        for hit in example["before"] + example["after"]:
            index = hit.pop("index")
            hit["picture"] = None if index is None else names[index]
    write_json(folder / "examples.json", shown)


def _pick(evaluator: Evaluator, before: Encoded, after: Encoded, direction: str, count: int) -> list[int]:
    side = "text" if direction == "text_to_image" else "vision"
    total = evaluator.test.count(side)
    spread = sorted(set(torch.linspace(0, total - 1, min(total, 40 * count)).round().long().tolist()))
    won = [q for q in spread if not _right(evaluator, before, direction, q) and _right(evaluator, after, direction, q)]
    return half_and_half(won, spread, count)


def half_and_half(won: Sequence[int], every: Sequence[int], count: int) -> list[int]:
    """So many queries: half of them evenly from those that were won, where there are so many, the others from all."""
    chosen = list(won[:: max(1, len(won) // max(1, count // 2))][: count // 2])
    others = [query for query in every if query not in chosen]
    rest = count - len(chosen)
    return chosen + others[:: max(1, len(others) // max(1, rest))][:rest]


def _right(evaluator: Evaluator, encoded: Encoded, direction: str, query: int) -> bool:
    """Whether a right candidate stands first; one that a wrong one equals stands there by chance only."""
    scores = evaluator.scores(encoded, direction, query)
    best = scores >= scores.max() - ROUNDING
    return set(best.nonzero()[:, 0].tolist()) <= _answers(evaluator, direction, query)


def _answers(evaluator: Evaluator, direction: str, query: int) -> set[int]:
    pairs = evaluator.test.pairs
    ours, theirs = (0, 1) if direction == "text_to_image" else (1, 0)
    return set(pairs[pairs[:, ours] == query][:, theirs].tolist())


def _example(evaluator: Evaluator, before: Encoded, after: Encoded, direction: str, query: int) -> Json:
    test = evaluator.test
    answers = _answers(evaluator, direction, query)
    text_query = direction == "text_to_image"

    def hits(encoded: Encoded) -> list[Json]:
        return [
            {
                "index": index if text_query else None,
                "caption": test.records[index].captions[0] if text_query else test.texts[index],
                "right": index in answers,
                "score": score,
            }
            for index, score in evaluator.top(encoded, direction, query)
        ]

    task = int(test.task["text" if text_query else "vision"][query])
    return {
        "direction": direction,
        "task": evaluator.stream.tasks[task].name,
        "query": test.texts[query] if text_query else "",
        "query_picture": None if text_query else query,
        "before": hits(before),
        "after": hits(after),
    }


def _thumbnail(evaluator: Evaluator, folder: Path, index: int) -> str:
    image = evaluator.test.records[index].picture.open(THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    name = f"examples/{index:05d}.webp"
    write_atomically(folder / name, lambda file: image.save(file, format="WEBP", quality=82))
    return name
