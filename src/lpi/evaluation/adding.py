"""Adds rows to a results file: what it has already stays beside them, if nothing that decides it has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lpi.config import Experiment
from lpi.errors import ConfigError
from lpi.evaluation.results import Results, add_way, commits, compared
from lpi.evaluation.resume import difference
from lpi.evaluation.scheduler import of_seed
from lpi.storage import read_sealed

AND = " && "  # between the commands that made a file


def rows_before(
    file: Path,
    part: str | None,
    anew: Collection[str],
    today: Callable[[Sequence[str]], Mapping[str, Experiment]],
) -> Results | None:
    """The results in a file, of which every row that stays was made as the experiment says today.

    Args:
        file: what ``lpi compare`` wrote.
        part: see :func:`lpi.evaluation.results.write_results`.
        anew: rows that don't stay.
        today: gives the settings of rows as they are now.

    Returns:
        ``None`` where there is no file, or no such part.

    Raises:
        CheckpointError: the file holds something else, or is damaged.
        ConfigError: a row that stays was made with other settings.
        UnknownNameError: nothing is called as such a row is.
    """
    if not file.exists():
        return None
    content = read_sealed(file)
    if part is not None and part not in content:
        return None
    before = Results.from_json(content if part is None else content[part])
    settings = today(kept := [name for name in before.rows if name not in anew])
    for name in kept:
        there = before.settings[name]
        if changed := difference(there, of_seed(settings[name], there["seed"]), there["seed"]):
            raise ConfigError(
                f"row {name!r} in {file} was made with other settings ({changed}). Run it again, by naming it in "
                "--methods, or write to another file."
            )
    return before


def beside(found: Results, before: Results, against: str | None = None) -> Results:
    """New rows and those of before, in one record.

    Paired differences over runs are computed anew, from the figures of each run; a planned difference stays where both
    of its rows do, and is left out where only one of them is new: it needs both rows' single queries.

    Args:
        found: of this call.
        before: see :func:`rows_before`.
        against: the row to compare all others with; by default the best of those that the two were compared with.

    Raises:
        ConfigError: the two are of different streams or backbones.
    """
    if not found.rows:
        return replace(before, failed=found.failed)
    for what in ("problem", "stream", "backbone", "orders"):
        if getattr(found, what) != getattr(before, what):
            raise ConfigError(f"the results file is of another {what.rstrip('s')}. Write to another file.")
    kept = {name: row for name, row in before.rows.items() if name not in found.rows}
    rows, main = {**kept, **found.rows}, f"final_{found.metrics.main}"
    best = [name for name in (found.against, before.against) if name is not None and name in rows]
    against = against or max(best, key=lambda name: rows[name].figures[main])
    settings = {**before.settings, **found.settings}
    joint = [name for name in rows if settings[name]["method"].get("name") == "joint"]
    for name in joint[:1]:
        add_way(rows, found.frozen[main], rows[name].figures[main], found.metrics)
    figures = {name: {(run["order"], run["seed"]): run[main] for run in row.runs} for name, row in rows.items()}
    tuned = {**(before.tuned or {}), **(found.tuned or {})}
    made = [one for results in (before, found) for one in (results.commit or "no commit").split(", ")]
    return replace(
        found,
        rows=rows,
        against=against,
        comparisons=compared(figures, against),
        planned=[pair for pair in before.planned if {pair.row, pair.against} <= kept.keys()] + found.planned,
        seeds=sorted({*before.seeds, *found.seeds}),
        settings={name: settings[name] for name in rows},
        tuned={name: tuned[name] for name in rows if name in tuned} or None,
        command=AND.join(dict.fromkeys([*before.command.split(AND), found.command])),
        commit=commits(list(dict.fromkeys(made))),
    )
