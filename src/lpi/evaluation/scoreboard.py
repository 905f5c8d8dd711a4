"""The finished cells of a comparison -> one record and one table: quality, memory and time of every method.

Recall is per cent here, as in :mod:`lpi.evaluation.results`; ``*_std`` is a row's spread over its seeds and orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from lpi.evaluation.compare import Cell, Outcome
from lpi.evaluation.machine import environment
from lpi.evaluation.results import method_row
from lpi.evaluation.stability import asymmetry
from lpi.evaluation.summary import DIRECTIONS, KS, matrix_of, tabulate
from lpi.metrics.continual import (
    authors_average,
    authors_forgetting,
    final_average,
)
from lpi.metrics.continual import mean as mean_of
from lpi.metrics.statistics import deviation, holm, paired_difference
from lpi.storage import read_json

Record = dict[str, Any]


def scoreboard(
    outcome: Outcome, *, against: str | None = None, tuned: Mapping[str, Any] | None = None, command: str = ""
) -> Record:
    """Everything that a comparison found.

    Args:
        outcome: its cells; rows of which a cell failed are left out, and named under ``failed``.
        against: the row that all others are compared with; by default the one with the highest final recall@1 that
            is no upper bound.
        tuned: the ``rows`` of what ``lpi tune`` wrote, if the settings are from there.
        command: what made it.

    Returns:
        ``methods`` by name, ``comparisons`` (paired, of all rows with ``against``), and what is needed to repeat it.
    """
    failed = {outcome.cells[index].row: problem for index, problem in outcome.failed.items()}
    cells: dict[str, list[Cell]] = {}
    for cell in outcome.cells:
        if cell.row not in failed:
            cells.setdefault(cell.row, []).append(cell)
    runs = {row: [_read(cell) for cell in own] for row, own in cells.items()}
    methods = {row: _row(own) for row, own in runs.items()}
    _add_way(methods, runs)
    if methods and against not in methods:
        contenders = [row for row, own in runs.items() if not own[0]["joint"]] or list(runs)
        against = max(contenders, key=lambda row: methods[row]["final_r1"])
    first = next(iter(runs.values()))[0] if runs else None
    return {
        "methods": methods,
        "against": against,
        "comparisons": _comparisons(runs, against) if runs else {},
        "failed": failed,
        "seeds": sorted({cell.seed for cell in outcome.cells}),
        "orders": 1 + max((cell.order for cell in outcome.cells), default=0),
        "command": command,
        "stream": first["run"]["stream"] if first else None,
        "backbone": first["run"]["backbone"] if first else None,
        "settings": {row: own[0]["run"]["settings"] for row, own in runs.items()},
        "tuned": {row: found for row, found in (tuned or {}).items() if row in methods} or None,
        **(
            {key: first["run"][key] for key in ("versions", "machine", "commit")} if first else environment()
        ),  # of the run, not of this table
    }


def _read(cell: Cell) -> Record:
    """A finished run's files."""
    stages = [read_json(path) for path in sorted((cell.folder / "stages").glob("*.json"))]
    result = read_json(cell.folder / "result.json")
    tasks = len(read_json(cell.folder / "run.json")["stream"]["tasks"])
    return {
        "cell": cell,
        "run": read_json(cell.folder / "run.json"),
        "result": result,
        "stages": stages,
        "joint": len(stages) == 1 and tasks > 1,
        "tasks": tasks,
    }


#: Further figures of a run, beside those of :func:`lpi.evaluation.results.method_row`: name -> figure, digits.
FIGURES: dict[str, tuple[Callable[[Record], float | None], int]] = {
    "seconds": (lambda run: run["result"]["seconds"]["train"] + run["result"]["seconds"]["evaluate"], 1),
    "seconds_per_stage": (lambda run: run["result"]["seconds"]["train"] / run["tasks"], 2),
    "peak_mb": (lambda run: run["result"]["peak_mb"], 1),
    "stored_bytes": (lambda run: run["result"]["stored_bytes"], 0),
    "bytes_per_task": (lambda run: run["result"]["stored_bytes"] / run["tasks"], 0),
    "asymmetry_gap_r1": (lambda run: 100 * asymmetry(run["result"]["final"]), 3),
    "neighbour_overlap": (lambda run: _stability(run, "neighbour_overlap"), 3),
    "fell_out_of_10": (lambda run: _stability(run, "fell_out_of_10"), 3),
}


def oracle_gap(row: Record) -> float | None:
    """What knowing the task would add to a row's final recall@1, in points.

    Of cosines alone also where scores count the routing: with the task known there is nothing to agree on.
    """
    if row.get("oracle_r1") is None:
        return None
    by_cosines = row["cosine_r1"] if row.get("cosine_r1") is not None else row["final_r1"]
    return round(float(row["oracle_r1"]) - float(by_cosines), 3)


def _stability(run: Record, name: str) -> float | None:
    found = (run["result"].get("stability") or {}).get(name)
    return None if found is None else 100 * mean(found[direction] for direction in DIRECTIONS)


def _row(runs: Sequence[Record]) -> Record:
    row = method_row([run["result"] for run in runs])
    del row["train_seconds"]  # said again below, with what evaluating took
    row["average"] = {
        d: {f"r{k}": _per_cent([run["result"]["average"][d][k] for run in runs]) for k in KS} for d in DIRECTIONS
    }
    for name, (figure, digits) in FIGURES.items():
        values = [value for value in map(figure, runs) if value is not None]
        if len(values) == len(runs):
            row[name] = round(mean(values), digits) if digits else round(mean(values))
            row[f"{name}_std"] = round(deviation(values), digits)
    gap = oracle_gap(row)
    if gap is not None:
        row["oracle_gap_r1"] = gap
    row["runs"] = [
        {"seed": run["cell"].seed, "order": run["cell"].order, "final_r1": _per_cent([run["result"]["final"]["r1"]])}
        for run in runs
    ]
    if all("protocols" in stage for run in runs for stage in run["stages"]):
        row["protocols"] = _protocols(runs)
        row["worst_hit"] = read_json(runs[0]["cell"].folder / "stability" / "worst_hit.json")
    return row


def _protocols(runs: Sequence[Record]) -> Record:
    """Each protocol's final figures in both directions, and the authors' averages where every stage was measured."""
    found: Record = {}
    for name in runs[0]["stages"][-1]["protocols"]:
        whole = not runs[0]["joint"] and all(name in stage["protocols"] for run in runs for stage in run["stages"])
        matrices = [
            [{"recall": stage["protocols"][name]} for stage in (run["stages"] if whole else run["stages"][-1:])]
            for run in runs
        ]

        def over(
            figure: Callable[[list[list[float]]], float], matrices: list[list[Record]] = matrices
        ) -> dict[str, Any]:
            return tabulate(lambda k, d: _per_cent([figure(matrix_of(stages, k, d)) for stages in matrices]))

        found[name] = {"final": over(final_average if whole else lambda matrix: mean_of(matrix[-1]))}
        if whole:
            found[name] |= {"average": over(authors_average), "forgetting": over(authors_forgetting)}
    return found


def _add_way(methods: dict[str, Record], runs: Mapping[str, Sequence[Record]]) -> None:
    """How much of the way from the frozen backbone to joint training each row has come, in per cent.

    Where joint training found less than the frozen backbone does, there is no such way.
    """
    joint = next((row for row, own in runs.items() if own[0]["joint"]), None)
    if joint is None:
        return
    start = 100 * mean(run["result"]["zero_shot"]["r1"] for run in runs[joint])
    for row in methods.values():
        if methods[joint]["final_r1"] > start:
            row["way_to_joint"] = round(100 * (row["final_r1"] - start) / (methods[joint]["final_r1"] - start), 1)


def _comparisons(runs: Mapping[str, Sequence[Record]], against: str | None) -> Record:
    """Each row's final recall@1 less that of ``against``, run by run over the same seeds and orders, in points."""
    assert against is not None
    reference = {(run["cell"].order, run["cell"].seed): run["result"]["final"]["r1"] for run in runs[against]}
    found: Record = {}
    for row, own in runs.items():
        if row == against:
            continue
        figures = {(run["cell"].order, run["cell"].seed): run["result"]["final"]["r1"] for run in own}
        keys = sorted(reference)
        pair = paired_difference([100 * figures[key] for key in keys], [100 * reference[key] for key in keys])
        found[row] = {
            "difference": round(pair.mean, 3),
            "spread": None if pair.spread is None else round(pair.spread, 3),
            "larger_than_spread": pair.larger_than_spread,
            "p": round(pair.p, 5),
            "runs": len(keys),
        }
    for comparison, adjusted in zip(found.values(), holm([one["p"] for one in found.values()]), strict=True):
        comparison["p_holm"] = round(adjusted, 5)
    return found


def _per_cent(fractions: Sequence[float]) -> float:
    return round(100 * mean(fractions), 3)


#: Columns of the table: head -> cell of a row.
COLUMNS: dict[str, Callable[[Record], str]] = {
    "t2i R@1/5/10": lambda row: "/".join(f"{row['text_to_image'][f'r{k}']:.1f}" for k in KS),
    "i2t R@1/5/10": lambda row: "/".join(f"{row['image_to_text'][f'r{k}']:.1f}" for k in KS),
    "R@1": lambda row: f"{row['final_r1']:.1f} ± {row['final_r1_std']:.1f}",
    "cosines/frozen": lambda row: _beside(row),
    "authors'": lambda row: f"{row['average_r1']:.1f}",
    "forgot": lambda row: f"{row['forgetting_r1']:+.1f}",
    "fixed": lambda row: _shown(row, "forgetting_fixed_gallery_r1", "+.1f"),
    "BWT": lambda row: f"{row['bwt_r1']:+.1f}",
    "FWT": lambda row: _shown(row, "fwt_r1", "+.1f"),
    "retention": lambda row: _shown(row, "retention", ".1f"),
    "routed": lambda row: _shown(row, "routing_accuracy", ".0f"),
    "oracle gap": lambda row: "" if (gap := oracle_gap(row)) is None else f"{gap:+.1f}",
    "learned": lambda row: f"{row['trainable_per_task']:,}",
    "stored": lambda row: f"{row['stored_parameters']:,}",
    "bytes a task": lambda row: f"{row['bytes_per_task']:,}",
    "s a stage": lambda row: f"{row['seconds_per_stage']:.1f}",
    "peak MB": lambda row: f"{row['peak_mb']:.0f}",
}


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table that a person reads, best first; recall and retention in per cent."""
    methods = record["methods"]
    against = record["against"]
    head = ["", *COLUMNS, f"vs {against}"]
    body = []
    for name in sorted(methods, key=lambda name: -methods[name]["final_r1"]):
        found = record["comparisons"].get(name)
        versus = "" if found is None else f"{found['difference']:+.1f}{_verdict(found)}"
        body.append([name, *(cell(methods[name]) for cell in COLUMNS.values()), versus])
    return head, body


def _verdict(found: Mapping[str, Any]) -> str:
    """``*``: larger than the spread of the paired differences; ``~``: not."""
    return "" if found["spread"] is None else " *" if found["larger_than_spread"] else " ~"


def _beside(row: Record) -> str:
    """Of a row whose score counts the routing: R@1 by cosines alone, and the frozen model's with the same routing."""
    cosines, frozen = (_shown(row, f"{name}_r1", ".1f") for name in ("cosine", "frozen_with_routing"))
    return f"{cosines}/{frozen}" if cosines and frozen else ""


def _shown(row: Mapping[str, Any], name: str, form: str) -> str:
    return "" if row.get(name) is None else format(row[name], form)


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first column to the left."""
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join(lines) + "\n"
