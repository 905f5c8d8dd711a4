"""Finished runs -> one record: figures of every variant, paired comparisons, and what is needed to repeat them.

``lpi run`` and ``lpi compare`` write the same file. Figures are in the units of :mod:`lpi.evaluation.figures`;
everywhere else a recall or precision is a fraction.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lpi.errors import CheckpointError
from lpi.evaluation.figures import COMPARE, RUN, columns, csv_table, frozen_row, latex, markdown, row_of
from lpi.evaluation.machine import environment
from lpi.evaluation.records import (
    METRICS,
    Averages,
    FrozenRecord,
    Metrics,
    PerTask,
    RunRecord,
    StageRecord,
    read_record,
    read_stages,
    summarise,
)
from lpi.evaluation.scheduler import Cell, Outcome
from lpi.metrics.continual import Matrix, authors_average, authors_forgetting, final_average
from lpi.metrics.continual import mean as mean_of
from lpi.metrics.statistics import bootstrap_interval, holm, paired_difference
from lpi.storage import read_json, read_sealed, sealed, write_json, write_text

Json = Any
"""What JSON holds and nobody here looks into: settings, streams, versions."""
NOT_FIGURES = ("runs", "protocols", "worst_hit")


@dataclass(frozen=True)
class Row:
    """What is known of one variant.

    Attributes:
        figures: by the names of :mod:`lpi.evaluation.figures`, and ``way_to_joint``.
        runs: seed, order and the main metric of each run.
        protocols: by protocol and averaging, in per cent, where they were measured.
        worst_hit: by direction, the queries of the first run that lost the most places.
    """

    figures: Averages
    runs: list[Json] = field(default_factory=list)
    protocols: dict[str, dict[str, Averages]] | None = None
    worst_hit: Json = None

    def to_json(self) -> Json:
        """The figures, and beside them all else that there is."""
        others = {name: getattr(self, name) for name in NOT_FIGURES}
        return {**self.figures, **{name: value for name, value in others.items() if value}}

    @classmethod
    def from_json(cls, content: Json) -> Row:
        """What :meth:`to_json` gave."""
        figures = {name: value for name, value in content.items() if name not in NOT_FIGURES}
        return cls(figures, **{name: content[name] for name in NOT_FIGURES if name in content})


@dataclass(frozen=True)
class Comparison:
    """A variant's main metric less that of the one that all are compared with, run by run, in points."""

    difference: float
    spread: float | None
    p: float
    runs: int
    p_holm: float = 1.0


@dataclass(frozen=True)
class Planned:
    """A difference that was asked for before anything ran, in points of the main metric.

    Attributes:
        row, against: the variants; ``difference`` is of the first less the second.
        low, high: 95 % interval, see :func:`lpi.metrics.statistics.bootstrap_interval`.
        p: see :func:`lpi.metrics.statistics.sign_flip_p`.
        runs: seeds and orders that both have.
    """

    row: str
    against: str
    difference: float
    low: float
    high: float
    p: float
    runs: int


@dataclass(frozen=True)
class Results:
    """Everything that some runs of one experiment found.

    Attributes:
        problem: ``retrieval`` or ``grounding``.
        rows: by variant.
        frozen: the frozen model after the last task.
        against: the variant that all others are compared with.
        comparisons: of all variants with that one.
        planned: the pairs that the experiment names.
        failed: what went wrong with each variant that is left out, in a line.
        seeds: of the runs.
        orders: of the tasks, how many.
        command: what made it.
        stream, backbone, settings: what it is about; settings by variant.
        tuned: what ``lpi tune`` tried and chose, by variant, if the settings are from there.
        versions, machine: see :func:`lpi.evaluation.machine.environment`; of the first run.
        commit: that of the runs, or several; see :func:`commits`.
    """

    problem: str
    rows: dict[str, Row]
    frozen: Averages
    against: str | None
    comparisons: dict[str, Comparison]
    failed: dict[str, str]
    seeds: list[int]
    orders: int
    command: str
    stream: Json
    backbone: Json
    settings: dict[str, Json]
    tuned: dict[str, Json] | None
    versions: Json
    machine: Json
    commit: str | None
    planned: list[Planned] = field(default_factory=list)

    @property
    def metrics(self) -> Metrics:
        """Of the problem."""
        return METRICS[self.problem]

    def to_json(self) -> Json:
        """The content of a results file."""
        return {**asdict(self), "rows": {name: row.to_json() for name, row in self.rows.items()}}

    @classmethod
    def from_json(cls, content: Json) -> Results:
        """The results that a file holds.

        Raises:
            CheckpointError: it holds something else.
        """
        try:
            rows = {name: Row.from_json(row) for name, row in content["rows"].items()}
            rest = {name: value for name, value in content.items() if name != "rows"}
            found: Results = TypeAdapter(cls).validate_json(json.dumps({**rest, "rows": {}}))
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise CheckpointError("these are no results of lpi run or lpi compare.") from error
        found.rows.update(rows)
        return found


def holds_figures(content: Json) -> bool:
    """Whether a file's content is a command's figures, or such figures under names (:func:`write_results`)."""
    return isinstance(content, dict) and ("command" in content or bool(parts_in(content)))


def parts_in(content: Json) -> list[str]:
    """The names under which a results file holds several comparisons; none where it holds one."""
    whole = {"problem", "rows", "command"}
    return [name for name, part in content.items() if isinstance(part, dict) and part.keys() >= whole]


def write_results(file: Path, found: Results, part: str | None = None) -> None:
    """Write what some runs found.

    Args:
        file: is replaced.
        found: its content.
        part: write it under that name instead, beside what the file has under others.

    Raises:
        CheckpointError: the file is damaged, so that its other parts would be lost.
    """
    content = found.to_json()
    if part is not None:
        before = read_sealed(file) if file.exists() else {}
        content = {name: before[name] for name in parts_in(before)} | {part: content}
    write_json(file, sealed(content))


@dataclass(frozen=True)
class _Run:
    """A finished run's files."""

    cell: Cell
    info: Json
    result: RunRecord
    stages: list[StageRecord]
    frozen: FrozenRecord


def _read(cell: Cell) -> _Run:
    folder = cell.folder
    frozen, result = read_record(FrozenRecord, folder / "frozen.json"), read_record(RunRecord, folder / "result.json")
    return _Run(cell, read_sealed(folder / "run.json"), result, read_stages(folder), frozen)


def collect(
    outcome: Outcome, *, against: str | None = None, tuned: Mapping[str, Json] | None = None, command: str = ""
) -> Results:
    """Everything that was found.

    Args:
        outcome: the runs; variants of which one failed are left out, and named under ``failed``.
        against: the variant that all others are compared with; by default the one with the highest main metric that
            is no upper bound.
        tuned: the ``rows`` of what ``lpi tune`` wrote, if the settings are from there.
        command: what made it.
    """
    failed = {outcome.cells[index].variant: problem for index, problem in outcome.failed.items()}
    runs: dict[str, list[_Run]] = {}
    for cell in outcome.cells:
        if cell.variant not in failed:
            runs.setdefault(cell.variant, []).append(_read(cell))
    problem = outcome.cells[0].settings.stream.problem if outcome.cells else "retrieval"
    metrics = METRICS[problem]
    rows = {variant: _row(own, problem) for variant, own in runs.items()}
    _add_way(rows, runs, metrics)
    if rows and against not in rows:
        contenders = [variant for variant, own in runs.items() if not own[0].result.joint] or list(runs)
        against = max(contenders, key=lambda variant: rows[variant].figures[f"final_{metrics.main}"])
    first = next(iter(runs.values()))[0] if runs else None
    of_run: Json = first.info if first else {"stream": None, "backbone": None, **environment()}
    frozen: Averages = {}
    if first:
        frozen = frozen_row(summarise(first.frozen.stages, first.frozen.stages, metrics), problem)
    return Results(
        problem=problem,
        rows=rows,
        frozen=frozen,
        against=against,
        comparisons=_comparisons(runs, against, metrics) if runs else {},
        failed=failed,
        seeds=sorted({cell.seed for cell in outcome.cells}),
        orders=1 + max((cell.order for cell in outcome.cells), default=0),
        command=command,
        settings={variant: own[0].info["settings"] for variant, own in runs.items()},
        planned=planned_pairs(runs, outcome.cells[0].settings.planned, metrics) if runs else [],
        tuned={variant: found for variant, found in (tuned or {}).items() if variant in rows} or None,
        commit=commits([run.info["commit"] for own in runs.values() for run in own]) if runs else of_run["commit"],
        **{key: of_run[key] for key in ("stream", "backbone", "versions", "machine")},
    )


def commits(of_runs: Sequence[str | None]) -> str | None:
    """What all runs were made with: one commit, or several, the most frequent first.

    >>> commits(["a1", "b2", "b2"]), commits([None])
    ('b2, a1', None)
    """
    counted = Counter(one or "no commit" for one in of_runs)
    return None if set(counted) == {"no commit"} else ", ".join(one for one, _ in counted.most_common())


def _row(runs: Sequence[_Run], problem: str) -> Row:
    main = METRICS[problem].main
    worst = runs[0].cell.folder / "stability" / "worst_hit.json"
    return Row(
        row_of([run.result for run in runs], problem),
        runs=[
            {
                "seed": run.cell.seed,
                "order": run.cell.order,
                f"final_{main}": round(100 * run.result.final[main], 3),
            }
            for run in runs
        ],
        protocols=_protocols(runs, METRICS[problem]),
        worst_hit=read_json(worst) if worst.exists() else None,
    )


def _protocols(runs: Sequence[_Run], metrics: Metrics) -> dict[str, dict[str, Averages]] | None:
    """Each protocol's final figures, and the authors' averages where every stage was measured; in per cent."""
    if not all(stage.protocols for run in runs for stage in run.stages):
        return None
    found: dict[str, dict[str, Averages]] = {}
    for name in runs[0].stages[-1].protocols or ():
        stages = [[(stage.protocols or {}).get(name) for stage in run.stages] for run in runs]
        whole = not runs[0].result.joint and all(all(own) for own in stages)
        measured = [[one for one in (own if whole else own[-1:]) if one is not None] for own in stages]
        found[name] = {"final": _over(measured, metrics, final_average if whole else lambda m: mean_of(m[-1]))}
        if whole:
            found[name]["average"] = _over(measured, metrics, authors_average)
            found[name]["forgetting"] = _over(measured, metrics, authors_forgetting)
    return found


def _over(runs: Sequence[Sequence[PerTask]], metrics: Metrics, figure: Callable[[Matrix], float]) -> Averages:
    """A figure of every run's task matrix, mean over runs, in per cent."""
    return {
        name: round(100 * mean(figure([metrics.per_task(stage, name) for stage in stages]) for stages in runs), 3)
        for name in metrics.names
    }


def _add_way(rows: dict[str, Row], runs: Mapping[str, Sequence[_Run]], metrics: Metrics) -> None:
    """How much of the way from the frozen model to joint training each variant has come, in per cent.

    Where joint training found less than the frozen model does, there is no such way.
    """
    joint = next((variant for variant, own in runs.items() if own[0].result.joint), None)
    if joint is not None:
        start = 100 * mean(run.result.frozen[metrics.main] for run in runs[joint] if run.result.frozen)
        add_way(rows, start, rows[joint].figures[f"final_{metrics.main}"], metrics)


def add_way(rows: Mapping[str, Row], start: float, end: float, metrics: Metrics) -> None:
    """Put the share of the way from ``start`` to ``end``, in per cent, among the figures of every row."""
    for row in rows.values():
        if end > start:
            come = row.figures[f"final_{metrics.main}"] - start
            row.figures["way_to_joint"] = round(100 * come / (end - start), 1)


def _comparisons(runs: Mapping[str, Sequence[_Run]], against: str | None, metrics: Metrics) -> dict[str, Comparison]:
    """Each variant's main metric less that of ``against``, over the seeds and orders that both have."""
    assert against is not None
    return compared(
        {
            variant: {(run.cell.order, run.cell.seed): 100 * run.result.final[metrics.main] for run in own}
            for variant, own in runs.items()
        },
        against,
    )


def compared(figures: Mapping[str, Mapping[tuple[int, int], float]], against: str) -> dict[str, Comparison]:
    """Paired differences from one variant, over the orders and seeds that both have; in points.

    Args:
        figures: by variant, then by order and seed.
        against: the variant that all others are compared with.
    """
    reference, found = figures[against], {}
    for variant, mine in figures.items():
        keys = sorted(reference.keys() & mine.keys())
        if variant == against or not keys:
            continue
        pair = paired_difference([mine[key] for key in keys], [reference[key] for key in keys])
        spread = None if pair.spread is None else round(pair.spread, 3)
        found[variant] = Comparison(round(pair.mean, 3), spread, round(pair.p, 5), len(keys))
    adjusted = holm([one.p for one in found.values()])
    return {
        variant: Comparison(**{**asdict(one), "p_holm": round(p, 5)})
        for (variant, one), p in zip(found.items(), adjusted, strict=True)
    }


def planned_pairs(
    runs: Mapping[str, Sequence[_Run]], pairs: Sequence[tuple[str, str]], metrics: Metrics
) -> list[Planned]:
    """The differences of named pairs over the seeds and orders that both have, with interval and p.

    Args:
        runs: by variant.
        pairs: of variants; those of which one didn't run are left out.
        metrics: of the problem.
    """

    def last(own: Sequence[_Run]) -> dict[tuple[int, int], StageRecord]:
        return {(run.cell.order, run.cell.seed): run.stages[-1] for run in own}

    found = []
    for row, against in pairs:
        if row not in runs or against not in runs:
            continue
        mine, theirs = last(runs[row]), last(runs[against])
        keys = sorted(mine.keys() & theirs.keys())
        if not keys:
            continue
        each = [_differences(mine[key], theirs[key], metrics) for key in keys]
        low, high = bootstrap_interval(each)
        pair = paired_difference([mean(map(mean, run)) for run in each], [0.0] * len(each))
        found.append(
            Planned(row, against, round(pair.mean, 3), round(low, 3), round(high, 3), round(pair.p, 5), len(keys))
        )
    return found


def _differences(first: StageRecord, second: StageRecord, metrics: Metrics) -> list[list[float]]:
    """Of each task's test items, in points; in runs of before items were noted, a task counts as an item."""

    def items(one: StageRecord) -> list[list[float]]:
        return (one.items if first.items and second.items else None) or [metrics.per_task(one.seen, metrics.main)]

    return [
        [100 * (a - b) for a, b in zip(*task, strict=True)] for task in zip(items(first), items(second), strict=True)
    ]


# ---- the table that a person reads -----------------------------------------------------------------------------------


def table(results: Results, where: str = COMPARE) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: of a run in its variants' order, of a comparison best first.

    The frozen model has a row of its own, unless a variant is just that.
    """
    told = any(own["method"].get("name") == "zero_shot" for own in results.settings.values())
    frozen, versus = {} if told else results.frozen, results.comparisons if where == COMPARE else {}
    return tabulate(results.problem, results.rows, where, frozen=frozen, versus=versus, against=results.against)


def tabulate(
    problem: str,
    rows: Mapping[str, Row],
    where: str = COMPARE,
    *,
    frozen: Averages | None = None,
    versus: Mapping[str, Comparison] | None = None,
    against: str | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of any variants; a column in which nobody has a figure is left out.

    Args:
        problem: what the figures are of.
        rows: by variant.
        where: which columns, see :attr:`lpi.evaluation.figures.Figure.tables`; a comparison has the best row first.
        frozen: figures of the frozen model, for a row of its own.
        versus, against: the differences to one of the rows, for a column of their own.
    """
    final, shown = f"final_{METRICS[problem].main}", columns(problem, where)
    names = sorted(rows, key=lambda name: -rows[name].figures[final]) if where == COMPARE else list(rows)
    last = [""] if versus else []
    body = [["frozen model", *(column.cell(frozen) for column in shown), *last]] if frozen else []
    for name in names:
        row = rows[name]
        cells = [
            column.cell(row.figures, spread=column.figures[0].name == final and len(row.runs) > 1) for column in shown
        ]
        body.append([name, *cells, *([_versus(versus.get(name))] if versus else [])])
    head = ["", *(column.head for column in shown), *([f"vs {against}"] if versus else [])]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in body)]  # an empty column only takes room
    return [head[i] for i in kept], [[row[i] for i in kept] for row in body]


def _versus(found: Comparison | None) -> str:
    """A difference and, of several runs, the spread of the paired differences."""
    if found is None:
        return ""
    return f"{found.difference:+.1f}" + ("" if found.spread is None else f" ± {found.spread:.1f}")


def planned_lines(results: Results) -> list[str]:
    """The planned pairs, a line each."""
    return [
        f"{one.row} less {one.against}: {one.difference:+.1f} points, 95 % from {one.low:+.1f} to {one.high:+.1f}, "
        f"p = {one.p:.3g} of {one.runs} run{'s' * (one.runs > 1)}"
        for one in results.planned
    ]


def tables(results: Results) -> dict[str, str]:
    """What stands in ``compare.md`` and ``compare.tex`` (the table) and in ``compare.csv`` (every figure of a row)."""
    head, body = table(results)
    figures = {name: row.figures for name, row in results.rows.items()}
    return {
        "compare.md": markdown(head, body),
        "compare.tex": latex(head, body),
        "compare.csv": csv_table(figures, results.problem),
    }


def write_tables(results: Results, folder: Path) -> None:
    """Write :func:`tables` to a folder."""
    for name, text in tables(results).items():
        write_text(folder / name, text)


__all__ = [
    "COMPARE",
    "RUN",
    "Comparison",
    "Results",
    "Row",
    "collect",
    "planned_lines",
    "table",
    "tables",
    "tabulate",
    "write_tables",
]
