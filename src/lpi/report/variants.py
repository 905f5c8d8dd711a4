"""Runs -> variants: the same variant over several seeds, with its means and spreads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.errors import DataError
from lpi.evaluation.records import Metrics, RunRecord, matrix_of
from lpi.metrics.continual import forgetting_per_task
from lpi.report.reading import RunFolder, read_run, spread
from lpi.report.words import Spread


@dataclass(frozen=True)
class Variant:
    """All runs of one row of a comparison: one label, one order of tasks, one run a seed."""

    label: str
    runs: tuple[RunFolder, ...]

    @property
    def first(self) -> RunFolder:
        """The run that stands for all where no mean can be taken: examples, settings, tasks' names."""
        return self.runs[0]

    @property
    def metrics(self) -> Metrics:
        """What was measured."""
        return self.first.metrics

    @property
    def stages(self) -> int:
        """How many stages every run has reached."""
        return min(len(run.stages) for run in self.runs)

    def over(self, figure: Callable[[RunRecord], float | None]) -> Spread | None:
        """Mean and spread over seeds of one figure."""
        return spread(figure(run.result) for run in self.runs)

    def figure(self, field: str, metric: str = "") -> Spread | None:
        """Mean and spread over seeds of one metric in a field of the record, by default the main metric."""
        name = metric or self.metrics.main
        return self.over(lambda run: (getattr(run, field) or {}).get(name))

    def matrix(self, metric: str = "") -> list[list[float]]:
        """The task matrix, mean over seeds: one row a stage, one entry a task seen; by default of the main metric."""
        return mean_rows([matrix_of(run.stages[: self.stages], self.metrics, metric) for run in self.runs])

    def curve(self, metric: str = "") -> list[Spread]:
        """After each stage the mean over tasks seen, with its spread over seeds."""
        return self.curve_of([matrix_of(run.stages[: self.stages], self.metrics, metric) for run in self.runs])

    def frozen_matrix(self, metric: str = "") -> list[list[float]]:
        """The frozen model's task matrix in the same stages; empty when no run has it."""
        found = [run.frozen_stages[: self.stages] for run in self.runs if run.frozen_stages]
        return mean_rows([matrix_of(stages, self.metrics, metric) for stages in found]) if found else []

    def frozen_curve(self, metric: str = "") -> list[float]:
        """After each stage the frozen model's mean over the tasks seen; empty when no run has it."""
        return [sum(row) / len(row) for row in self.frozen_matrix(metric)]

    def forgetting(self) -> list[Spread]:
        """What each task but the last lost since its best stage, with spread; none unless there are two full stages."""
        if not is_triangle(self.matrix()) or self.stages < 2:
            return []
        lost = [forgetting_per_task(matrix_of(run.stages[: self.stages], self.metrics)) for run in self.runs]
        return [figure for values in zip(*lost, strict=True) if (figure := spread(values))]

    def routing(self, tower: str) -> list[list[float]] | None:
        """The last stage's routing counts, summed over seeds, or ``None``."""
        last = [run.stages[self.stages - 1].routing or {} for run in self.runs]
        tables = [routing[tower].confusion for routing in last if tower in routing]
        shapes = {(len(table), len(table[0])) for table in tables if table}
        if len(shapes) != 1:
            return None
        return [[float(sum(cell)) for cell in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]

    @staticmethod
    def curve_of(matrices: Sequence[Sequence[Sequence[float]]]) -> list[Spread]:
        """Row means of several matrices, averaged over the matrices."""
        means = [[sum(row) / len(row) for row in matrix] for matrix in matrices]
        return [figure for values in zip(*means, strict=True) if (figure := spread(values))]


def read_variants(folders: Sequence[Path]) -> list[Variant]:
    """Read run folders and put the seeds of a variant together, variants in the order in which they come.

    Variants of several experiments are told apart by the experiment's name, several orders of tasks by a number.

    Raises:
        DataError: no folder, the same variant and seed twice, or runs over different tasks.
        CheckpointError, MissingFileError: a folder is not a readable run.
    """
    if not folders:
        raise DataError("a report needs at least one run folder; got none.")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        if run.problem != runs[0].problem:
            raise DataError(
                f"one report shows runs of one stream, but {runs[0].path} is about {runs[0].problem} and {run.path} "
                f"about {run.problem}. Write two reports."
            )
        if sorted(run.tasks) != sorted(runs[0].tasks):
            raise DataError(
                f"one report shows runs of one stream, but {runs[0].path} has the tasks {', '.join(runs[0].tasks)} and "
                f"{run.path} has {', '.join(run.tasks)}. Write two reports."
            )
    several = len({run.experiment for run in runs}) > 1
    orders: list[tuple[str, ...]] = []
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        if run.tasks not in orders:
            orders.append(run.tasks)
        label = f"{run.experiment} · {run.variant}" if several else run.variant
        if orders.index(run.tasks):
            label += f" · order {orders.index(run.tasks) + 1}"
        if not run.finished:  # its figures are no seed's of the others
            label += f" · {run.done} of {len(run.tasks)} tasks"
        for other in groups.setdefault(label, []):
            if other.seed == run.seed:
                raise DataError(
                    f"{other.path} and {run.path} are both {label!r} with seed {run.seed}. Give one of them."
                )
        groups[label].append(run)
    return [Variant(label, tuple(sorted(runs, key=lambda run: run.seed))) for label, runs in groups.items()]


def leading(variants: Sequence[Variant]) -> Variant:
    """The variant that the page tells in detail: LPI's first, else the first that learned in turn, else the first.

    One that is finished, where there is one.
    """
    whole = [variant for variant in variants if variant.first.finished] or variants
    for variant in whole:
        if variant.first.method == "lpi":
            return variant
    return next((one for one in whole if one.first.learned and is_triangle(one.matrix())), whole[0])


def is_triangle(matrix: Sequence[Sequence[float]]) -> bool:
    """Whether row t has t + 1 entries: joint training knows one stage only, with all tasks in it."""
    return all(len(row) == t + 1 for t, row in enumerate(matrix))


def mean_rows(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The mean of several matrices of one shape, entry by entry."""
    return [[sum(cell) / len(cell) for cell in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def follow(record: Any, path: Sequence[str], *, number: bool = True) -> Any:
    """The value at the end of a path of keys, or ``None`` where the path or, if asked for, the number ends early."""
    for key in path:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    if number and (isinstance(record, bool) or not isinstance(record, (int, float))):
        return None
    return record
