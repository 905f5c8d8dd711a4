"""From the task matrix to averages: how well, how much forgotten, how much passed on.

The task matrix R is a list of rows; row t holds, after learning task t, the figure (a recall, 0 to 1) of every task
seen so far, so it has t + 1 entries: ``R[t][i]`` is task i after stage t. All functions are pure.

The worked examples use this run of three tasks:

>>> R = [[0.5],
...      [0.4, 0.6],
...      [0.3, 0.7, 0.8]]
"""

from collections.abc import Sequence

from lpi.errors import DataError

Matrix = Sequence[Sequence[float]]


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


def retention(final: float, frozen: float) -> float:
    """How much of what the frozen backbone could do on never-trained data is left; 1 is all of it.

    >>> round(retention(0.27, 0.3), 6)
    0.9

    Raises:
        DataError: the frozen backbone finds nothing at all, so that there is nothing to retain.
    """
    if frozen <= 0:
        raise DataError(f"retention needs a frozen model that finds something in the held-out data; got {frozen}.")
    return final / frozen


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
