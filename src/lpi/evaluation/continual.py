"""From the task matrix to averages: how well, how much forgotten, how much passed on.

The task matrix R is a list of rows; row t holds, after learning task t, the figure (a recall, 0 to 1) of every task
seen so far, so it has t + 1 entries: ``R[t][i]`` is task i after stage t. All functions are pure.

The worked examples use this run of three tasks:

>>> R = [[0.5],
...      [0.4, 0.6],
...      [0.3, 0.7, 0.8]]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lpi.errors import DataError

Matrix = Sequence[Sequence[float]]
KS = ("1", "5", "10")
DIRECTIONS = ("text_to_image", "image_to_text")


def authors_average(matrix: Matrix) -> float:
    """Each task's mean over the stages since it was learned, averaged over tasks.

    >>> R = [[0.5], [0.4, 0.6], [0.3, 0.7, 0.8]]
    >>> round(authors_average(R), 6)  # (0.4 + 0.65 + 0.8) / 3
    0.616667

    Paper: LPI's released evaluation, "average precision".
    """
    check_matrix(matrix)
    stages = len(matrix)
    return mean([mean([matrix[t][i] for t in range(i, stages)]) for i in range(stages)])


def final_average(matrix: Matrix) -> float:
    """The mean over all tasks after the last stage.

    >>> R = [[0.5], [0.4, 0.6], [0.3, 0.7, 0.8]]
    >>> round(final_average(R), 6)
    0.6
    """
    check_matrix(matrix)
    return mean(matrix[-1])


def authors_forgetting(matrix: Matrix) -> float:
    """The last figure of each earlier task, less its best before the last stage, averaged; negative: forgot.

    With a single task there is nothing to forget: 0.

    >>> R = [[0.5], [0.4, 0.6], [0.3, 0.7, 0.8]]
    >>> round(authors_forgetting(R), 6)  # ((0.3 - 0.5) + (0.7 - 0.6)) / 2
    -0.05

    Paper: LPI's released evaluation.
    """
    return mean(forgetting_per_task(matrix), empty=0.0)


def forgetting_per_task(matrix: Matrix) -> list[float]:
    """The terms of :func:`authors_forgetting`: one for each task but the last.

    >>> R = [[0.5], [0.4, 0.6], [0.3, 0.7, 0.8]]
    >>> [round(change, 6) for change in forgetting_per_task(R)]
    [-0.2, 0.1]
    """
    check_matrix(matrix)
    last = len(matrix) - 1
    return [matrix[last][i] - max(matrix[t][i] for t in range(i, last)) for i in range(last)]


def backward_transfer(matrix: Matrix) -> float:
    """The last figure of each earlier task, less its figure just after it was learned, averaged (BWT).

    With a single task: 0.

    >>> R = [[0.5], [0.4, 0.6], [0.3, 0.7, 0.8]]
    >>> round(backward_transfer(R), 6)  # ((0.3 - 0.5) + (0.7 - 0.6)) / 2
    -0.05

    Paper: Lopez-Paz and Ranzato, Gradient Episodic Memory (2017), eq. 3.
    """
    check_matrix(matrix)
    last = len(matrix) - 1
    return mean([matrix[last][i] - matrix[i][i] for i in range(last)], empty=0.0)


def forward_transfer(next_row: Sequence[float], zero_row: Sequence[float]) -> float:
    """What learning the tasks before did for a task not learned yet, averaged over tasks (FWT).

    >>> round(forward_transfer([0.45, 0.3], [0.4, 0.25]), 6)
    0.05

    Args:
        next_row: the figure of task i + 1 after stage i, for every i with a next task.
        zero_row: the same tasks' figures before any learning, against the same galleries.

    Raises:
        DataError: the rows differ in length.

    Paper: Lopez-Paz and Ranzato, Gradient Episodic Memory (2017), eq. 4; here the baseline is the frozen backbone.
    """
    if len(next_row) != len(zero_row):
        raise DataError(f"forward transfer needs rows of one length; got {len(next_row)} and {len(zero_row)}.")
    return mean([after - before for after, before in zip(next_row, zero_row, strict=True)], empty=0.0)


def retention(final: float, zero_shot: float) -> float:
    """How much of what the frozen backbone could do on never-trained data is left; 1 is all of it.

    >>> round(retention(0.27, 0.3), 6)
    0.9

    Raises:
        DataError: the frozen backbone finds nothing at all, so that there is nothing to retain.
    """
    if zero_shot <= 0:
        raise DataError(f"retention needs a zero-shot recall above 0 on the held-out data; got {zero_shot}.")
    return final / zero_shot


def routing_accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """The share of queries that were sent to their own task.

    >>> routing_accuracy([[8, 1, 1], [0, 9, 1]])  # two tasks; the last column fell back to the frozen backbone
    0.85

    Args:
        confusion: counts; rows are true tasks, columns routed tasks, then one column for the fallback.

    Raises:
        DataError: no queries, or fewer columns than rows.
    """
    if any(len(row) < len(confusion) for row in confusion):
        raise DataError(f"the routing confusion of {len(confusion)} tasks needs at least as many columns in every row.")
    total = sum(sum(row) for row in confusion)
    if total <= 0:
        raise DataError("the routing confusion counts no queries.")
    return sum(row[i] for i, row in enumerate(confusion)) / total


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


def mean(values: Sequence[float], *, empty: float | None = None) -> float:
    """The mean; ``empty`` where there is nothing to average, or a DataError if that is not given."""
    if values:
        return float(sum(values) / len(values))
    if empty is None:
        raise DataError("there is nothing to average.")
    return empty


def check_matrix(matrix: Matrix) -> None:
    """Refuse what is no task matrix: row t must have t + 1 entries."""
    if not matrix:
        raise DataError("the task matrix is empty. Give one row a stage.")
    for t, row in enumerate(matrix):
        if len(row) != t + 1:
            raise DataError(f"row {t} of the task matrix must have {t + 1} entries, one a task seen; got {len(row)}.")
