"""Finished runs -> the figures that are committed and shown: one row a method or variant, mean and spread over seeds.

Here, and in the report, recall becomes per cent; everywhere else it is a fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from lpi.config import GROUNDING_KINDS
from lpi.evaluation.grounding_results import ablation, grounding_row, grounding_table, grounding_zero_row
from lpi.evaluation.over_seeds import costs, over_seeds
from lpi.evaluation.summary import matrix_of
from lpi.metrics.continual import authors_forgetting
from lpi.metrics.statistics import percent
from lpi.storage import read_json

Folders = Mapping[str, Mapping[int, Path]]


def collect(folders: Folders, *, command: str) -> dict[str, Any]:
    """All rows of an experiment in one record.

    Args:
        folders: the run folder of each row and seed, all finished.
        command: what made them.

    Returns:
        ``zero_shot`` and every row by name, with figures in per cent, and what is needed to repeat them.
    """
    runs = {row: {seed: _run(folder) for seed, folder in seeds.items()} for row, seeds in folders.items()}
    first = next(iter(next(iter(runs.values())).values()))
    boxes = first["run"]["settings"]["stream"]["kind"] in GROUNDING_KINDS
    row_of = grounding_row if boxes else method_row
    record: dict[str, Any] = {}
    if boxes:
        record["zero_shot"] = grounding_zero_row(first["result"]["zero_shot"])
    else:
        record["zero_shot"] = zero_shot_row(first["result"]["zero_shot"])
        # what the growing gallery alone costs: the frozen model learns nothing, and "forgets" this much all the same
        record["zero_shot"]["forgetting_r1"] = percent(authors_forgetting(matrix_of(first["zero_shot"]["stages"])))
    for row, by_seed in runs.items():
        # one key may be there: the frozen backbone's own, where it is a row besides
        record[row] = record.get(row, {}) | row_of([run["result"] for run in by_seed.values()])
    main = next(iter(runs))
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    return {
        **record,
        "rows": list(record),
        **({"ablation": ablation(record, list(runs))} if boxes else {}),
        "trainable_per_task": record[main]["trainable_per_task"],
        "seeds": seeds,
        "command": command,
        "stream": first["run"]["stream"],
        "backbone": first["run"]["backbone"],
        "settings": {row: next(iter(by_seed.values()))["run"]["settings"] for row, by_seed in runs.items()},
        "versions": first["run"]["versions"],
        "machine": first["run"]["machine"],
        "commit": first["run"]["commit"],
    }


def _run(folder: Path) -> dict[str, Any]:
    return {name: read_json(folder / f"{name}.json") for name in ("run", "result", "zero_shot")}


def zero_shot_row(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The frozen backbone after the last task, in per cent."""
    row: dict[str, Any] = {f"r{k}": percent(figures[f"r{k}"]) for k in (1, 5, 10)}
    row |= _directions(figures)
    if figures.get("held_out_r1") is not None:
        row["held_out_r1"] = percent(figures["held_out_r1"])
    return row


FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "final_r1": lambda r: r["final"]["r1"],
    "final_r5": lambda r: r["final"]["r5"],
    "final_r10": lambda r: r["final"]["r10"],
    "average_r1": lambda r: r["average"]["r1"],
    "forgetting_r1": lambda r: r["forgetting"]["r1"],
    "forgetting_fixed_gallery_r1": lambda r: (r.get("forgetting_fixed_gallery") or {}).get("r1"),
    "bwt_r1": lambda r: r["bwt"]["r1"],
    "fwt_r1": lambda r: None if r["fwt"] is None else r["fwt"]["r1"],
    "oracle_r1": lambda r: None if r["oracle"] is None else r["oracle"]["r1"],
    "cosine_r1": lambda r: (r.get("cosine") or {}).get("r1"),
    "frozen_with_routing_r1": lambda r: (r.get("frozen_with_routing") or {}).get("r1"),
    "held_out_r1": lambda r: r["final"].get("held_out_r1"),
    "retention": lambda r: r["retention"],
}


def method_row(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One method over its seeds, in per cent; ``*_std`` is the sample deviation over seeds."""
    row = over_seeds(results, FIGURES)
    row |= _directions(results[0]["final"]) if len(results) == 1 else _directions(_mean_final(results))
    if all(result["routing_accuracy"] for result in results):
        for tower in ("vision", "text", "both"):
            name = "routing_accuracy" if tower == "both" else f"routing_accuracy_{tower}"
            row[name] = percent(mean(result["routing_accuracy"][tower] for result in results))
    row |= costs(results)
    row["final_r1_per_seed"] = [percent(result["final"]["r1"]) for result in results]
    return row


def _mean_final(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        direction: {k: mean(result["final"][direction][k] for result in results) for k in ("1", "5", "10")}
        for direction in ("text_to_image", "image_to_text")
    }


def _directions(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        direction: {f"r{k}": percent(figures[direction][k]) for k in ("1", "5", "10")}
        for direction in ("text_to_image", "image_to_text")
    }


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table that a person reads."""
    if "p1" in record["zero_shot"]:
        return grounding_table(record)
    head = [
        "",
        "text to image R@1",
        "R@5",
        "R@10",
        "image to text R@1",
        "R@5",
        "R@10",
        "mean R@1",
        "forgetting",
        "routed",
    ]
    body = []
    for name in record["rows"]:
        row = record[name]
        cells = [f"{row[d][f'r{k}']:.1f}" for d in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
        spread = f" ± {row['final_r1_std']:.1f}" if len(row.get("final_r1_per_seed", [])) > 1 else ""
        forgetting = row.get("forgetting_r1")
        routing = row.get("routing_accuracy")
        body.append(
            [
                name,
                *cells,
                f"{row.get('final_r1', row.get('r1')):.1f}{spread}",
                "" if forgetting is None else f"{forgetting:+.1f}",
                "" if routing is None else f"{routing:.0f} %",
            ]
        )
    return head, body
