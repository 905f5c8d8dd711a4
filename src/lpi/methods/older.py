"""Saved methods of the first format: flat options, and routing keys among what a task learned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lpi.errors import CheckpointError
from lpi.methods.base import ROUTING

GONE: dict[str, Any] = {"initial": "fresh", "frozen_share": 0.0}
"""Options that there are no more, and the value at which nothing is lost without them."""
GONE_FROM_DETECTORS: dict[str, Any] = {
    "distill_weight": 0.0,
    "memory": 0,
    "multi_positive": True,
    "adapter_rank": 0,
    "adapter_targets": "attention",
}
PARTS = "centroids|radius|scale|spread|rest|prototypes"


def renewed(config: Mapping[str, Any], place: object) -> dict[str, Any]:
    """A ``config.json`` of the first format as this one has it.

    Raises:
        CheckpointError: it was saved with an option that there is no more.
    """
    name = str(config["method"])
    package, _, last = name.rpartition(".")
    problem = "grounding" if package == "lpi.grounding" else "retrieval"
    options = dict(config["options"])
    gone = GONE | (GONE_FROM_DETECTORS if (problem, last) == ("grounding", "lpi") else {})
    for option, value in gone.items():
        if options.pop(option, value) != value:
            raise CheckpointError(f"{place}: it was made with {option}, which this version doesn't have. Train again.")
    return {**config, "method": last if problem == "grounding" else name, "problem": problem, "options": options}


def with_closed_form(options: Mapping[str, Any], place: object) -> dict[str, Any]:
    """The options of a saved method, with what its version said of closed forms.

    One that was saved before there were any has none, whatever its preset has by now.

    Raises:
        CheckpointError: its closed form is of before it read the states of the middle: its maps have other widths.
    """
    own = options.get("closing")
    retrieval = "route_by" not in options  # what finds boxes has no closed form
    if own is None and "adapter" in options and "dimensions" not in options and retrieval:
        return {**options, "closing": {"dimensions": 0}}
    if isinstance(own, Mapping) and own.get("dimensions") and "projection" not in own:
        raise CheckpointError(
            f"{place}: its closed form is of an earlier version, which read less of a picture. Learn its tasks again; "
            "an index: lpi index FOLDER --index NEW_FOLDER, then lpi teach."
        )
    return dict(options)


def with_foreign_expressions(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a saved method for expressions, with how its version told those that belong to no task.

    That was by how the tasks spread on average, and by picture and words together.
    """
    if "route_by" not in options or "foreign_to" in options:
        return dict(options)
    found = {**options, "foreign_to": "both"}
    own = options.get("routing")
    if isinstance(own, Mapping):
        reach = {"reach": "average"} if options.get("router") == "whitened" else {}
        return {**found, "routing": {**reach, **own}}
    return {**found, "reach": "average"} if options.get("metric", "whitened") == "whitened" else found


def renewed_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the first format stored for a task as this one has it: routing keys apart from what was learned."""
    return {_renewed_name(name): tensor for name, tensor in state.items()}


def _renewed_name(name: str) -> str:
    keyed = re.fullmatch(rf"(?:expert/)?((?:{PARTS}|key)_(?:vision|text))", name)
    if keyed:
        return ROUTING + keyed[1]
    rebuilt = re.fullmatch(r"selector/(vision|text)\.(\w+)", name)
    if rebuilt:
        return f"{ROUTING}{rebuilt[2]}_{rebuilt[1]}"
    return name.replace("expert/change.", "expert/")
