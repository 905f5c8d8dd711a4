"""A run's stages -> its figures, by way of the task matrices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lpi.errors import DataError
from lpi.metrics.continual import (
    Matrix,
    authors_average,
    authors_forgetting,
    backward_transfer,
    final_average,
    forward_transfer,
    mean,
    retention,
    routing_accuracy,
)

KS = ("1", "5", "10")
DIRECTIONS = ("text_to_image", "image_to_text")


def summary(stages: Sequence[Mapping[str, Any]], zero_shot: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a run in one record: the content of ``result.json``, less seconds and parameters.

    ``r1``, ``r5`` and ``r10`` are means over both directions; forgetting's maximum is taken of that mean.
    A figure that can't be computed (no held-out data, no routing, no oracle) is ``None``. Where routing enters the
    score, ``cosine`` is the same model's recall without that, ``frozen_with_routing`` the frozen model's with it.
    Joint training is a single stage with all tasks in it: it has a final figure and nothing to forget.

    Args:
        stages: the records in ``stages/*.json``, in the order of learning; at least one.
        zero_shot: the record in ``zero_shot.json``: ``stages`` like the run's, and ``held_out``.

    Raises:
        DataError: the stages don't form a task matrix, or zero-shot has fewer of them.
    """
    if not stages:
        raise DataError("a summary needs at least one stage.")
    zero_stages: Sequence[Mapping[str, Any]] = zero_shot["stages"]
    if len(zero_stages) < len(stages):
        raise DataError(f"zero-shot has {len(zero_stages)} stages; the run has {len(stages)}. Evaluate it again.")
    last = stages[-1]
    before, after = r1(zero_shot.get("held_out")), r1(last.get("held_out"))
    seen = len(pick(last["recall"], "1", None))
    joint = len(stages) == 1 and seen > 1
    zero_last = next((zero for zero in zero_stages if len(pick(zero["recall"], "1", None)) == seen), None)
    if zero_last is None:
        raise DataError(f"zero-shot has no stage of {seen} tasks, which the run ends with. Evaluate it again.")

    def averaged(figure: Callable[[Matrix], float]) -> dict[str, Any]:
        # Joint training is one stage with all tasks in it: as a task matrix, a single task with their mean.
        def of(k: str, direction: str | None) -> float:
            matrix = matrix_of(stages, k, direction)
            return figure([[mean(matrix[0])]] if joint else matrix)

        return tabulate(of)

    fixed = not joint and all(stage.get("fixed") for stage in stages)

    def table(recall: Any) -> dict[str, Any] | None:
        return None if recall is None else tabulate(lambda k, d: mean(pick(recall, k, d)))

    return {
        "zero_shot": {**tabulate(lambda k, d: mean(pick(zero_last["recall"], k, d))), "held_out_r1": before},
        "final": {**averaged(final_average), "held_out_r1": after},
        "average": averaged(authors_average),
        "forgetting": averaged(authors_forgetting),
        "forgetting_fixed_gallery": tabulate(
            lambda k, d: authors_forgetting([pick(stage["fixed"], k, d) for stage in stages])
        )
        if fixed
        else None,
        "bwt": averaged(backward_transfer),
        "fwt": forward_table(stages, zero_stages),
        "retention": retention(after, before) if before and after is not None else None,
        "routing_accuracy": routing_table(last.get("routing")),
        "oracle": table(last.get("oracle")),
        "cosine": table(last.get("cosine")),
        "frozen_with_routing": table(last.get("frozen")),
    }


def tabulate(figure: Callable[[str, str | None], float]) -> dict[str, Any]:
    """One figure for every k: both directions, then each: ``figure(k, direction)``, ``None`` for their mean."""
    table: dict[str, Any] = {f"r{k}": figure(k, None) for k in KS}
    for direction in DIRECTIONS:
        table[direction] = {k: figure(k, direction) for k in KS}
    return table


def pick(recall: Mapping[str, Any], k: str, direction: str | None) -> list[float]:
    """One k and direction of a recall record as a row; ``None`` takes the mean of both directions."""
    if direction is not None:
        values = recall[direction][k]
        return list(values) if isinstance(values, Sequence) else [float(values)]
    rows = [pick(recall, k, direction) for direction in DIRECTIONS]
    return [(a + b) / 2 for a, b in zip(*rows, strict=True)]


def matrix_of(stages: Sequence[Mapping[str, Any]], k: str = "1", direction: str | None = None) -> list[list[float]]:
    """The task matrix of some stages for one k; of one direction, or the mean of both."""
    return [pick(stage["recall"], k, direction) for stage in stages]


def forward_table(
    stages: Sequence[Mapping[str, Any]], zero_stages: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Forward transfer for every k, over the stages that looked at the next task; ``None`` when none did."""
    looked = [
        (stage["next"], zero["next"])
        for stage, zero in zip(stages, zero_stages, strict=False)  # zero-shot may know of later stages
        if stage.get("next") and zero.get("next")
    ]
    if not looked:
        return None
    return tabulate(
        lambda k, d: forward_transfer(
            [pick(own, k, d)[0] for own, _ in looked], [pick(zero, k, d)[0] for _, zero in looked]
        )
    )


def routing_table(routing: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Routing accuracy of each tower from its confusion, and ``both``: their mean."""
    if not routing:
        return None
    accuracy = {
        tower: routing_accuracy(routing[tower]["confusion"]) for tower in ("vision", "text") if routing.get(tower)
    }
    return {**accuracy, "both": mean(list(accuracy.values()))}


def r1(recall: Mapping[str, Any] | None) -> float | None:
    """Recall@1, mean of both directions, of a record without tasks."""
    return None if not recall else pick(recall, "1", None)[0]
