"""Choosing settings fairly: every row gets the same small number of trials, measured on validation pictures only.

The first trial is the row as it stands; the others are drawn from the row's search space (the same draw whatever the
machine). What is chosen is the trial with the highest final recall@1, the earlier one of two equals. Test pictures are
never opened: :meth:`lpi.tasks.stream.TaskStream.on_validation` leaves them out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from lpi.config import Experiment
from lpi.errors import ConfigError
from lpi.evaluation.compare import Cell, changed, run_cells
from lpi.evaluation.harness import Say
from lpi.evaluation.machine import environment
from lpi.storage import read_json
from lpi.trainer import Step


@dataclass(frozen=True)
class Trial:
    """One setting of a row: what it changes, and the experiment that follows."""

    changes: dict[str, Any]
    settings: Experiment


def trials_of(settings: Experiment, count: int, row: str) -> list[Trial]:
    """At most ``count`` different trials of a row, the row as it stands first.

    Raises:
        ConfigError: a key of the search space that isn't there, a list that is empty, or a factor of something that
            has no number.
    """
    space = settings.search
    for key, values in space.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"row {row!r}: search space {key!r} must be a list of values; got {values!r}.")
    grid = [dict(zip(space, values, strict=True)) for values in product(*space.values())] if space else []
    grid.sort(key=lambda choice: hashlib.sha256(json.dumps(choice, sort_keys=True).encode()).digest())
    found = [Trial({}, settings)]
    for choice in grid:
        if len(found) >= count:
            break
        changes = {key: _value(settings, key, value, row) for key, value in choice.items()}
        trial = Trial(changes, changed(settings, changes, row))
        if all(trial.settings.model_dump() != other.settings.model_dump() for other in found):
            found.append(trial)
    return found


def _value(settings: Experiment, key: str, value: Any, row: str) -> Any:
    """The value itself, or for ``"*3"`` three times the row's own."""
    if not (isinstance(value, str) and value.startswith("*")):
        return value
    own: Any = settings.model_dump()
    for part in key.split("."):
        own = own.get(part) if isinstance(own, Mapping) else None
    try:
        factor = float(value[1:])
    except ValueError as error:
        raise ConfigError(f"row {row!r}: search space {key!r} has {value!r}; a factor is written like '*3'.") from error
    if isinstance(own, bool) or not isinstance(own, int | float):
        raise ConfigError(
            f"row {row!r}: {key!r} has no number to multiply by {value[1:]}. Write the values themselves."
        )
    scaled = own * factor
    return max(1, round(scaled)) if isinstance(own, int) else float(f"{scaled:.6g}")


def tune(
    experiment: Experiment,
    rows: Mapping[str, Experiment],
    *,
    trials: int,
    seeds: Sequence[int],
    out: Path,
    jobs: int = 1,
    fresh: bool = False,
    command: str = "",
    say: Say = print,
    on_step: Callable[[Step], None] | None = None,
) -> dict[str, Any]:
    """Try each row's settings on validation data; resumable like any run.

    A row that learns nothing is tried once: nothing that it is given could change it.

    Args:
        experiment: names the folder and the stream.
        rows: what to tune, by name, as :func:`lpi.evaluation.compare.rows_of` gives it.
        trials: how many settings each row gets.
        seeds: a trial's figure is the mean over these.
        out: the folder of all runs; trials lie in ``<out>/<experiment>_tune/<row>/trial-<n>/seed-<s>``.
        jobs, fresh, command, say, on_step: see :func:`lpi.evaluation.compare.run_cells`.

    Returns:
        The record that ``lpi compare --tuned`` reads: by row the space, every trial and its cost, and what is chosen.

    Raises:
        ConfigError: no trial or seed, or a search space that is written wrongly.
    """
    if trials < 1 or not seeds:
        raise ConfigError(f"tuning needs at least 1 trial and 1 seed; got {trials} and {len(seeds)}.")
    plan = {row: trials_of(settings, trials, row) for row, settings in rows.items()}
    cells = {row: _cells(row, own, seeds, out / f"{experiment.name}_tune") for row, own in plan.items()}
    options: dict[str, Any] = {"jobs": jobs, "fresh": fresh, "command": command, "say": say, "on_step": on_step}
    begin = [cell for own in cells.values() for cell in own[0]]
    _require_none_failed(begin, run_cells(begin, **options).failed)
    learning = [row for row in cells if _result(cells[row][0][0])["trainable_per_task"] > 0]
    rest = [cell for row in learning for trial in cells[row][1:] for cell in trial]
    failed = {rest[index].folder: problem for index, problem in run_cells(rest, **options).failed.items()}
    record: dict[str, Any] = {}
    for row in rows:
        tried = len(plan[row]) if row in learning else 1
        record[row] = _row(rows[row], list(zip(plan[row], cells[row], strict=True))[:tried], failed)
        found = record[row]
        say(f"{row}: {found['validation_r1']:.2f} on validation with {found['chosen'] or 'its own settings'}")
    return {
        "experiment": experiment.name,
        "measured": "validation",
        "trials": trials,
        "seeds": list(seeds),
        "rows": record,
        "seconds": round(sum(row["seconds"] for row in record.values()), 1),
        "command": command,
        **environment(),
    }


def _cells(row: str, trials: Sequence[Trial], seeds: Sequence[int], root: Path) -> list[list[Cell]]:
    """The runs of each trial of a row."""
    return [
        [_cell(row, trial, seed, root / row / f"trial-{number:02d}" / f"seed-{seed}") for seed in seeds]
        for number, trial in enumerate(trials)
    ]


def _cell(row: str, trial: Trial, seed: int, folder: Path) -> Cell:
    settings = trial.settings
    stream = settings.stream.model_copy(update={"measured": "validation"})
    evaluation = settings.evaluation.model_copy(
        update={"diagnostics": False, "transfer": False, "oracle": False, "examples": 0}
    )
    return Cell(row, seed, 0, settings.model_copy(update={"stream": stream, "evaluation": evaluation}), folder)


def _require_none_failed(cells: Sequence[Cell], failed: Mapping[int, str]) -> None:
    for index, problem in failed.items():
        raise ConfigError(f"row {cells[index].row!r} fails with its own settings: {problem}")


def _result(cell: Cell) -> dict[str, Any]:
    result: dict[str, Any] = read_json(cell.folder / "result.json")
    return result


def _row(
    settings: Experiment, tried: Sequence[tuple[Trial, Sequence[Cell]]], failed: Mapping[Path, str]
) -> dict[str, Any]:
    """A row's trials and the best of them. A trial that failed (a loss without end, say) has no figure."""
    notes: list[dict[str, Any]] = []
    for trial, cells in tried:
        problem = next((failed[cell.folder] for cell in cells if cell.folder in failed), None)
        note: dict[str, Any] = {"changes": trial.changes, "validation_r1": None, "seconds": 0.0}
        if problem is None:
            results = [_result(cell) for cell in cells]
            note["validation_r1"] = round(100 * mean(result["final"]["r1"] for result in results), 3)
            note["seconds"] = round(sum(sum(result["seconds"].values()) for result in results), 1)
        else:
            note["failed"] = problem
        notes.append(note)
    best = max((note for note in notes if note["validation_r1"] is not None), key=lambda note: note["validation_r1"])
    return {
        "chosen": best["changes"],
        "validation_r1": best["validation_r1"],
        "validation_r1_untuned": notes[0]["validation_r1"],
        "space": settings.search,
        "trials": notes,
        "seconds": round(sum(note["seconds"] for note in notes), 1),
    }
