"""The figures of a run, each said once: how it comes from the run's record, what it is called and what it means.

Tables in the terminal, in the report, in docs/results.md, the list of columns in docs/comparing.md, CSV and LaTeX are
made from these lists. A new figure is a line here and, if nothing measured it yet, a field of
:class:`lpi.evaluation.records.RunRecord`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from lpi.evaluation.records import METRICS, Averages, RunRecord
from lpi.metrics.statistics import deviation

Unit = Literal["per cent", "points", "count", "bytes", "seconds", "megabytes"]
SCALE: Mapping[Unit, float] = {"per cent": 100, "points": 100}
ROUNDED: Mapping[Unit, int] = {"per cent": 3, "points": 3, "seconds": 2, "megabytes": 1}
"""Digits behind the point that are kept in files."""
RUN, COMPARE, REPORT = "run", "compare", "report"


@dataclass(frozen=True)
class Figure:
    """A figure of a run.

    Attributes:
        name: its key in files; over several runs ``<name>_std`` is the sample deviation beside the mean.
        head: of its column.
        of: gives it from a run's record, as a fraction where it is shown in per cent; ``None`` if it wasn't measured.
        unit: what it is shown in.
        digits: shown behind the point.
        explanation: what it means, in a line.
        column: a column that it shares with its neighbours in wide tables; its own by default.
        tables: where it has a column.
    """

    name: str
    head: str
    of: Callable[[RunRecord], float | None]
    unit: Unit = "per cent"
    digits: int = 1
    explanation: str = ""
    column: str = ""
    tables: tuple[str, ...] = ()

    def value(self, run: RunRecord) -> float | None:
        """The figure of one run in its unit."""
        found = self.of(run)
        return None if found is None else SCALE.get(self.unit, 1) * found

    def over(self, runs: Sequence[RunRecord]) -> Averages:
        """Mean and deviation over runs, by name; nothing where a run lacks it."""
        values = [value for value in map(self.value, runs) if value is not None]
        if not values or len(values) < len(runs):
            return {}
        digits = ROUNDED.get(self.unit)
        found = {self.name: round(mean(values), digits)}
        if self.unit != "count":
            found[f"{self.name}_std"] = round(deviation(values), digits)
        return found

    def shown(self, row: Mapping[str, float], *, spread: bool = False) -> str:
        """As a person reads it; empty where a row lacks it.

        >>> Figure("forgetting_r1", "forgot", lambda run: None, unit="points").shown({"forgetting_r1": -0.84})
        '-0.8'
        """
        if self.name not in row:
            return ""
        sign = "+" if self.unit == "points" else ""
        text = f"{row[self.name]:{sign},.{self.digits}f}"
        deviates = spread and row.get(f"{self.name}_std") is not None
        return f"{text} ± {row[f'{self.name}_std']:.{self.digits}f}" if deviates else text


def _of(field: str, metric: str) -> Callable[[RunRecord], float | None]:
    """One metric of a field that holds all of them."""

    def figure(run: RunRecord) -> float | None:
        found: Averages | None = getattr(run, field)
        return None if found is None else found.get(metric)

    return figure


def _oracle_gap(main: str) -> Callable[[RunRecord], float | None]:
    """What knowing the task would add.

    Of cosines alone also where scores count the routing: with the task known there is nothing to agree on.
    """

    def figure(run: RunRecord) -> float | None:
        return None if run.oracle is None else run.oracle[main] - (run.cosine or run.final)[main]

    return figure


def _mean_of(field: str) -> Callable[[RunRecord], float | None]:
    """The mean over both directions."""

    def figure(run: RunRecord) -> float | None:
        found: Averages | None = getattr(run, field)
        return None if found is None else mean(found.values())

    return figure


def _train(run: RunRecord) -> float | None:
    return None if run.seconds is None else run.seconds.train


def _seconds(run: RunRecord) -> float | None:
    return None if run.seconds is None else run.seconds.train + run.seconds.evaluate


def _per_task(value: float | None, run: RunRecord) -> float | None:
    return None if value is None else value / run.tasks


def _gain(main: str) -> Callable[[RunRecord], float | None]:
    """What learning adds: the frozen model is given the same router and the same score."""

    def figure(run: RunRecord) -> float | None:
        frozen = run.frozen_with_routing or run.frozen
        return None if frozen is None else run.final[main] - frozen[main]

    return figure


def _continual(m: str, label: str, gallery: bool) -> list[Figure]:
    """What every problem has: how its main metric fares over the stages."""
    return [
        Figure(f"cosine_{m}", "cosines", _of("cosine", m), column="cosines/frozen", tables=(COMPARE,), explanation=(
            "where routing enters the score (`evaluation.scoring = \"routed\"`): "
            f"{label} of the same model by cosines alone, and of the frozen model with that routing")),
        Figure(f"frozen_with_routing_{m}", "frozen", _of("frozen_with_routing", m), column="cosines/frozen",
            tables=(COMPARE,)),
        Figure("gain_by_learning", "learned", _gain(m), "points", tables=(RUN, COMPARE, REPORT), explanation=(
            f"{label} less that of the frozen model with the same router and score")),
        Figure(f"average_{m}", "authors'", _of("average", m), tables=(COMPARE, REPORT), explanation=(
            "each task's mean over the stages since it was learned (LPI's released evaluation)")),
        Figure(f"forgetting_{m}", "forgot", _of("forgetting", m), "points", tables=(RUN, COMPARE, REPORT), explanation=(
            "the last figure less the best before, in the growing gallery" if gallery
            else "the last figure less the best before")),
        Figure(f"forgetting_fixed_{m}", "fixed", _of("forgetting_fixed", m), "points", tables=(COMPARE, REPORT),
            explanation="forgetting in one gallery of all tasks"),
        Figure(f"bwt_{m}", "BWT", _of("bwt", m), "points", tables=(COMPARE, REPORT), explanation="backward transfer"),
        Figure(f"fwt_{m}", "FWT", _of("fwt", m), "points", tables=(COMPARE, REPORT), explanation="forward transfer"),
        Figure(f"oracle_{m}", "task given", _of("oracle", m), tables=(RUN, REPORT),
            explanation="with the true task given"),
        Figure(f"held_out_{m}", "held out", _of("held_out", m), tables=(RUN,),
            explanation=f"{label} on data that no task learns from"),
        Figure("retention", "retention", lambda run: run.retention, tables=(COMPARE, REPORT), explanation=(
            f"what is left of the frozen model's {label} on held-out data, per cent")),
        Figure("retention_everything", "among all", lambda run: run.retention_everything, tables=(COMPARE, REPORT),
            explanation="retention with the test data of all tasks in the gallery, per cent"),
        Figure("routing_accuracy", "routed", lambda run: (run.routing_accuracy or {}).get("both"), digits=0,
            tables=(RUN, COMPARE, REPORT), explanation="queries sent to their own task, per cent"),
        Figure("routing_accuracy_vision", "pictures routed", lambda run: (run.routing_accuracy or {}).get("vision")),
        Figure("routing_accuracy_text", "texts routed", lambda run: (run.routing_accuracy or {}).get("text")),
        Figure(f"oracle_gap_{m}", "oracle gap", _oracle_gap(m), "points", tables=(COMPARE,), explanation=(
            f"what knowing the task would add to {label} by cosines, points")),
    ]  # fmt: skip


COSTS = [
    Figure("trainable_per_task", "numbers learned", lambda run: run.trainable_per_task, "count", 0,
        tables=(COMPARE, REPORT),
        explanation="numbers that one task may change"),
    Figure("stored_numbers", "stored", lambda run: run.stored_numbers, "count", 0, tables=(COMPARE, REPORT),
        explanation="numbers kept beside the frozen model"),
    Figure("stored_bytes", "stored bytes", lambda run: run.stored_bytes, "bytes", 0),
    Figure("bytes_per_task", "bytes a task", lambda run: _per_task(run.stored_bytes, run), "bytes", 0,
        tables=(COMPARE,), explanation="bytes kept beside the frozen model, by the number of tasks"),
    Figure("train_seconds", "s to learn", _train, "seconds", tables=(REPORT,),
        explanation="training time, seconds"),
    Figure("seconds", "s in all", _seconds, "seconds"),
    Figure("seconds_per_stage", "s a stage", lambda run: _per_task(_train(run), run), "seconds",
        tables=(COMPARE,), explanation="training time a task, seconds"),
    Figure("peak_mb", "peak MB", lambda run: run.peak_mb, "megabytes", 0, tables=(COMPARE,), explanation=(
        "highest memory of the process, libraries and decoded pictures included")),
]  # fmt: skip


def _retrieval() -> list[Figure]:
    figures: list[Figure] = []
    for short, what in (("t2i", "captions search pictures"), ("i2t", "pictures search captions")):
        for k in (1, 5, 10):
            name = f"{short}_r{k}"
            figures.append(Figure(f"final_{name}", f"{short} R@{k}", _of("final", name), column=f"{short} R@1/5/10",
                tables=(RUN, COMPARE, REPORT) if k == 1 else (RUN, COMPARE), explanation=(
                    f"after the last task, mean over tasks; {what}" if k == 1 else "")))  # fmt: skip
    for k in (1, 5, 10):
        figures.append(Figure(f"final_r{k}", f"R@{k}", _of("final", f"r{k}"),
            tables=(RUN, COMPARE, REPORT) if k == 1 else (REPORT,), explanation=(
                "the mean of both directions, ± its deviation over seeds and orders" if k == 1 else ""),
        ))  # fmt: skip
    figures += _continual("r1", "R@1", gallery=True)
    figures += [
        Figure(f"average_{name}", f"authors' {name}", _of("average", name)) for name in METRICS["retrieval"].measured
    ]
    return [
        *figures,
        *COSTS,
        Figure("asymmetry_gap_r1", "asymmetry", lambda run: run.final["i2t_r1"] - run.final["t2i_r1"], "points"),
        Figure("neighbour_overlap", "neighbours kept", _mean_of("neighbour_overlap")),
        Figure("fell_out_of_10", "fell out of 10", _mean_of("fell_out_of_10")),
    ]


def _grounding() -> list[Figure]:
    figures = [
        Figure(f"final_p{k}", f"P@{k}", _of("final", f"p{k}"), tables=(RUN, COMPARE, REPORT), explanation=(
            f"after the last task, mean over tasks: expressions whose object is among the {k} best boxes"
            if k > 1 else "after the last task, mean over tasks: expressions whose object is the best box"))
        for k in (1, 5, 10)
    ]  # fmt: skip
    return [*figures, *_continual("p1", "P@1", gallery=False), *COSTS]


FIGURES: Mapping[str, Sequence[Figure]] = {"retrieval": _retrieval(), "grounding": _grounding()}
"""All figures of each problem, in the order of their columns."""


def row_of(runs: Sequence[RunRecord], problem: str) -> Averages:
    """The figures of several runs of one variant: means, and ``*_std`` beside them."""
    return {name: value for figure in FIGURES[problem] for name, value in figure.over(runs).items()}


def frozen_row(run: RunRecord, problem: str) -> Averages:
    """What the frozen model, which learns nothing, has: final figures, and what the growing gallery alone costs it."""
    main = METRICS[problem].main
    wanted = {f"forgetting_{main}", f"held_out_{main}"}
    return {
        name: value
        for figure in FIGURES[problem]
        if figure.name in wanted or figure.name.startswith("final_")
        for name, value in figure.over([run]).items()
        if name == figure.name
    }


# ---- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table: one figure, or some that share it."""

    head: str
    figures: Sequence[Figure]

    def cell(self, row: Mapping[str, float], *, spread: bool = False) -> str:
        """What stands in a row; empty where it lacks one of the figures."""
        parts = [figure.shown(row, spread=spread and len(self.figures) == 1) for figure in self.figures]
        return "/".join(parts) if all(parts) else ""


def columns(problem: str, where: str) -> list[Column]:
    """The columns of one kind of table."""
    found: dict[str, list[Figure]] = {}
    for figure in FIGURES[problem]:
        if where in figure.tables:
            head = figure.column if figure.column and where == COMPARE else figure.head
            found.setdefault(head, []).append(figure)
    return [Column(head, figures) for head, figures in found.items()]


def column_list(problem: str) -> str:
    """The columns of a comparison and what they mean, as a table in Markdown."""
    rows = [
        [column.head, "; ".join(figure.explanation for figure in column.figures if figure.explanation)]
        for column in columns(problem, COMPARE)
    ]
    return markdown(["column", "meaning"], rows, left=2)


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table in Markdown; the first columns to the left, all others to the right."""
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join("---" if i < left else "---:" for i in range(len(head))) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join(lines) + "\n"


def latex(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in LaTeX (booktabs)."""
    marks = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "~": r"$\sim$"}

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(marks.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    rule = ["l" + "r" * (len(head) - 1)]
    return "\n".join(
        [rf"\begin{{tabular}}{{{rule[0]}}}", r"\toprule", line(head), r"\midrule", *map(line, body), r"\bottomrule",
         r"\end{tabular}", ""]
    )  # fmt: skip


def csv_table(rows: Mapping[str, Averages], problem: str) -> str:
    """Every figure of every row as CSV, one row a variant, with the names that files have."""
    names = [
        name
        for figure in FIGURES[problem]
        for name in (figure.name, f"{figure.name}_std")
        if any(name in row for row in rows.values())
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", *names])
    writer.writerows([variant, *(row.get(name, "") for name in names)] for variant, row in rows.items())
    return out.getvalue()
