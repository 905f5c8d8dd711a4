"""Choosing settings fairly: every variant gets the same small number of trials, measured on validation data only.

The first trial is the variant as it stands; the others are drawn from its search space (the same draw whatever the
machine), and may go on beyond it while the best is at its edge. What is chosen is the trial with the highest main
metric at the end, the earlier one of two equals. Test data are never opened:
:meth:`lpi.tasks.grouping.StreamOf.on_validation` leaves them out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from lpi.config import Experiment
from lpi.errors import ConfigError
from lpi.evaluation.bench import Say
from lpi.evaluation.machine import environment
from lpi.evaluation.records import METRICS, RunRecord, read_record
from lpi.evaluation.scheduler import Cell, backbone_identity, changed, fingerprint, run_cells

Json = Any
"""What goes into the file as it is."""


@dataclass(frozen=True)
class Trial:
    """One setting of a variant: what it changes, and the experiment that follows."""

    changes: dict[str, Json]
    settings: Experiment


def trials_of(settings: Experiment, count: int, variant: str) -> list[Trial]:
    """At most ``count`` different trials of a variant, the variant as it stands first.

    Raises:
        ConfigError: a key of the search space that isn't there, a list that is empty, or a factor of something that
            has no number.
    """
    space = settings.search
    for key, values in space.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"row {variant!r}: search space {key!r} must be a list of values; got {values!r}.")
    grid = [dict(zip(space, values, strict=True)) for values in product(*space.values())] if space else []
    grid.sort(key=lambda choice: hashlib.sha256(json.dumps(choice, sort_keys=True).encode()).digest())
    found = [Trial({}, settings)]
    for choice in grid:
        if len(found) >= count:
            break
        changes = {key: _value(settings, key, value, variant) for key, value in choice.items()}
        trial = Trial(changes, changed(settings, changes, variant))
        if all(trial.settings.model_dump() != other.settings.model_dump() for other in found):
            found.append(trial)
    return found


def read_key(settings: Experiment, key: str) -> Any:
    """The value of a dotted key; ``None`` where there is none."""
    own: Any = settings.model_dump()
    for part in key.split("."):
        own = own.get(part) if isinstance(own, Mapping) else None
    return own


def _value(settings: Experiment, key: str, value: Any, variant: str) -> Any:
    """The value itself, or for ``"*3"`` three times the variant's own."""
    if not (isinstance(value, str) and value.startswith("*")):
        return value
    own = read_key(settings, key)
    try:
        factor = float(value[1:])
        if not math.isfinite(factor):
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            f"row {variant!r}: search space {key!r} has {value!r}; a factor is written like '*3'."
        ) from error
    if isinstance(own, bool) or not isinstance(own, int | float):
        raise ConfigError(
            f"row {variant!r}: {key!r} has no number to multiply by {value[1:]}. Write the values themselves."
        )
    scaled = own * factor
    return max(1, round(scaled)) if isinstance(own, int) else float(f"{scaled:.6g}")


def tune(
    experiment: Experiment,
    variants: Mapping[str, Experiment],
    *,
    trials: int,
    seeds: Sequence[int],
    out: Path,
    further: int = 0,
    command: str = "",
    say: Say = print,
    **options: Any,
) -> Json:
    """Try each variant's settings on validation data; resumable like any run.

    A variant that learns nothing is tried once: nothing that it is given could change it.

    Args:
        experiment: names the folder and the stream.
        variants: what to tune, by name, as :func:`lpi.evaluation.scheduler.variants_of` gives it.
        trials: how many settings each variant gets.
        seeds: a trial's figure is the mean over these.
        further: so many trials more, at most, while the best value of a factor is the lowest or highest of those tried.
        out: the folder of all runs; trials lie in ``<out>/<experiment>_tune/<variant>/trial-<n>/seed-<s>``.
        command, say, options: see :func:`lpi.evaluation.scheduler.run_cells`.

    Returns:
        The record that ``lpi compare --tuned`` reads: by variant its space, every trial and its cost, and
        what is chosen.

    Raises:
        ConfigError: no trial or seed, or a search space that is written wrongly.
    """
    if trials < 1 or not seeds:
        raise ConfigError(f"tuning needs at least 1 trial and 1 seed; got {trials} and {len(seeds)}.")
    plan = {variant: trials_of(settings, trials, variant) for variant, settings in variants.items()}
    cells = {variant: _cells(variant, own, seeds, out / f"{experiment.name}_tune") for variant, own in plan.items()}
    options |= {"command": command, "say": say}
    begin = [cell for own in cells.values() for cell in own[0]]
    _require_none_failed(begin, run_cells(begin, **options).failed)
    learning = [variant for variant in cells if (_result(cells[variant][0][0]).trainable_per_task or 0) > 0]
    rest = [cell for variant in learning for trial in cells[variant][1:] for cell in trial]
    failed = {rest[index].folder: problem for index, problem in run_cells(rest, **options).failed.items()}
    for _ in range(further):
        added: list[Cell] = []
        for variant in learning:
            settings = variants[variant]
            best = _tuned(settings, _tried(plan, cells, variant), failed)["chosen"]
            changes = {**best, **beyond(settings, plan[variant], best)}
            if changes != best:
                plan[variant].append(Trial(changes, changed(settings, changes, variant)))
                cells[variant] = _cells(variant, plan[variant], seeds, out / f"{experiment.name}_tune")
                added += cells[variant][-1]
        if not added:
            break
        failed |= {added[index].folder: problem for index, problem in run_cells(added, **options).failed.items()}
    record: Json = {}
    figure = f"validation_{METRICS[experiment.stream.problem].main}"
    for variant, settings in variants.items():
        tried = _tried(plan, cells, variant)[: None if variant in learning else 1]
        found = record[variant] = _tuned(settings, tried, failed)
        say(f"{variant}: {found[figure]:.2f} on validation with {found['chosen'] or 'its own settings'}")
    return {
        "experiment": experiment.name,
        "problem": experiment.stream.problem,
        "measured": "validation",
        "trials": trials,
        "seeds": list(seeds),
        "rows": record,
        "seconds": round(sum(variant["seconds"] for variant in record.values()), 1),
        "command": command,
        **environment(),
    }


def _tried(
    plan: Mapping[str, Sequence[Trial]], cells: Mapping[str, Sequence[Sequence[Cell]]], variant: str
) -> list[tuple[Trial, Sequence[Cell]]]:
    """A variant's trials with their runs."""
    return list(zip(plan[variant], cells[variant], strict=True))


def beyond(settings: Experiment, trials: Sequence[Trial], best: Mapping[str, Json]) -> dict[str, Json]:
    """The next value of each factor whose best is the lowest or highest that was tried; nothing where none is.

    The step is the ratio to the nearest value that was tried.
    """
    found: dict[str, Json] = {}
    for key, values in settings.search.items():
        if not all(isinstance(value, str) and value.startswith("*") for value in values):
            continue
        tried = sorted({float(read_key(trial.settings, key)) for trial in trials})
        mine = float(best.get(key, read_key(settings, key)))
        if len(tried) > 1 and mine in (tried[0], tried[-1]):
            near = tried[1] if mine == tried[0] else tried[-2]
            found[key] = float(f"{mine * mine / near:.6g}")
    return found


def _cells(variant: str, trials: Sequence[Trial], seeds: Sequence[int], root: Path) -> list[list[Cell]]:
    """The runs of each trial of a variant."""
    return [
        [_cell(variant, trial, seed, root / variant / f"trial-{number:02d}" / f"seed-{seed}") for seed in seeds]
        for number, trial in enumerate(trials)
    ]


def _cell(variant: str, trial: Trial, seed: int, folder: Path) -> Cell:
    settings = trial.settings
    stream = settings.stream.model_copy(update={"measured": "validation"})
    evaluation = settings.evaluation.model_copy(
        update={"diagnostics": False, "transfer": False, "oracle": False, "examples": 0}
    )
    return Cell(variant, seed, 0, settings.model_copy(update={"stream": stream, "evaluation": evaluation}), folder)


def _require_none_failed(cells: Sequence[Cell], failed: Mapping[int, str]) -> None:
    for index, problem in failed.items():
        raise ConfigError(f"row {cells[index].variant!r} fails with its own settings: {problem}")


def _result(cell: Cell) -> RunRecord:
    return read_record(RunRecord, cell.folder / "result.json")


def _tuned(settings: Experiment, tried: Sequence[tuple[Trial, Sequence[Cell]]], failed: Mapping[Path, str]) -> Json:
    """A variant's trials and the best of them. A trial that failed (a loss without end, say) has no figure."""
    main = METRICS[settings.stream.problem].main
    figure = f"validation_{main}"
    notes: list[Json] = []
    for trial, cells in tried:
        problem = next((failed[cell.folder] for cell in cells if cell.folder in failed), None)
        note: Json = {"changes": trial.changes, figure: None, "seconds": 0.0}
        if problem is None:
            results = [_result(cell) for cell in cells]
            seconds = [result.seconds.train + result.seconds.evaluate for result in results if result.seconds]
            note[figure] = round(100 * mean(result.final[main] for result in results), 3)
            note["seconds"] = round(sum(seconds), 1)
        else:
            note["failed"] = problem
        notes.append(note)
    best = max((note for note in notes if note[figure] is not None), key=lambda note: note[figure])
    return {
        "settings": fingerprint(settings),
        "backbone": backbone_identity(settings.stream.problem, settings.backbone, settings.image_size),
        "chosen": best["changes"],
        "at_edge": list(beyond(settings, [trial for trial, _ in tried], best["changes"])),
        figure: best[figure],
        f"{figure}_untuned": notes[0][figure],
        "space": settings.search,
        "trials": notes,
        "seconds": round(sum(note["seconds"] for note in notes), 1),
    }
