"""The figures of several runs of one row as one."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from lpi.metrics.statistics import deviation, percent


def over_seeds(
    results: Sequence[Mapping[str, Any]], figures: Mapping[str, Callable[[Any], float | None]]
) -> dict[str, Any]:
    """Mean and sample deviation (``*_std``) of the figures that every result has, in per cent."""
    row: dict[str, Any] = {}
    for name, figure in figures.items():
        values = [value for value in map(figure, results) if value is not None]
        if len(values) == len(results):
            row[name] = percent(mean(values))
            row[f"{name}_std"] = percent(deviation(values))
    return row


def costs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a method learns and stores, and how long it trains."""
    return {
        "trainable_per_task": results[0]["trainable_per_task"],
        "stored_parameters": results[0]["stored_parameters"],
        "train_seconds": round(mean(result["seconds"]["train"] for result in results), 1),
    }
