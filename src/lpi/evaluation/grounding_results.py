"""Finished runs on expressions -> the figures that are committed and shown, in per cent; see :mod:`.results`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lpi.evaluation.over_seeds import costs, over_seeds
from lpi.metrics.boxes import KS
from lpi.metrics.statistics import percent

FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    **{f"final_p{k}": lambda r, k=k: r["final"][f"p{k}"] for k in KS},  # type: ignore[misc]
    "average_p1": lambda r: r["average"]["p1"],
    "forgetting_p1": lambda r: r["forgetting"]["p1"],
    "bwt_p1": lambda r: r["bwt"]["p1"],
    "fwt_p1": lambda r: None if r["fwt"] is None else r["fwt"]["p1"],
    "oracle_p1": lambda r: None if r["oracle"] is None else r["oracle"]["p1"],
    "held_out_p1": lambda r: r["final"]["held_out_p1"],
    "retention": lambda r: r["retention"],
    "routing_accuracy": lambda r: r["routing_accuracy"],
}
WITHOUT = "no_"
"""Rows whose names begin so are the ablation: the main row without a part."""


def grounding_zero_row(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The frozen detector after the last task, in per cent."""
    row = {f"p{k}": percent(figures[f"p{k}"]) for k in KS}
    if figures["held_out_p1"] is not None:
        row["held_out_p1"] = percent(figures["held_out_p1"])
    return row


def grounding_row(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One method over its seeds, in per cent; ``*_std`` is the sample deviation over seeds."""
    per_seed = [percent(result["final"]["p1"]) for result in results]
    return over_seeds(results, FIGURES) | costs(results) | {"final_p1_per_seed": per_seed}


def ablation(record: Mapping[str, Any], rows: list[str]) -> dict[str, Any]:
    """What is left without each part: the rows ``no_..`` of a record, by the name of the part."""
    names = ("final_p1", "final_p1_std", "forgetting_p1")
    return {
        row.removeprefix(WITHOUT): {name: record[row][name] for name in names}
        for row in rows
        if row.startswith(WITHOUT)
    }


def grounding_table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table that a person reads."""
    head = ["", *(f"P@{k}" for k in KS), "task given", "forgetting", "held out", "routed"]
    body = []
    for name in record["rows"]:
        row = record[name]
        spread = f" ± {row['final_p1_std']:.1f}" if len(row.get("final_p1_per_seed", [])) > 1 else ""
        first, *others = (row.get(f"final_p{k}", row.get(f"p{k}")) for k in KS)
        oracle, forgetting, routed = (row.get(key) for key in ("oracle_p1", "forgetting_p1", "routing_accuracy"))
        held_out = row.get("held_out_p1")
        body.append(
            [
                name,
                f"{first:.1f}{spread}",
                *(f"{value:.1f}" for value in others),
                "" if oracle is None else f"{oracle:.1f}",
                "" if forgetting is None else f"{forgetting:+.1f}",
                "" if held_out is None else f"{held_out:.1f}",
                "" if routed is None else f"{routed:.0f} %",
            ]
        )
    return head, body
