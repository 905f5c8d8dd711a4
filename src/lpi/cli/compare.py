"""``lpi compare``: methods x seeds x task orders on one stream, and one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpi.cli.options import (
    ExperimentArgument,
    JsonOption,
    ListOption,
    MethodsOption,
    SetOption,
    command_line,
    keys_of,
    make_folder,
    names_of,
    numbers,
    refuse_foreign_tables,
)
from lpi.cli.run import write_page
from lpi.errors import LpiError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from lpi.config import Experiment

LEGEND = (
    "learned: points above the frozen model with the same router and score. vs: ± is the spread of the paired "
    "differences. forgot (fixed: in one gallery of all tasks), BWT, FWT: points."
)


def compare(
    experiment: ExperimentArgument,
    changes: SetOption = None,
    methods: MethodsOption = None,
    method_file: Annotated[
        list[Path] | None, typer.Option(help="A Python file with a method in it: one more row. May be repeated.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, e.g. 0-2 or 0,1. By default the experiment's.")] = None,
    planned_seeds: Annotated[
        str | None, typer.Option(help="Seeds of the rows that the experiment's planned pairs name. By default --seeds.")
    ] = None,
    orders: Annotated[
        int, typer.Option(min=1, help="Orders of the tasks: the stream's own, its reverse, then drawn ones.")
    ] = 1,
    tuned: Annotated[
        list[Path] | None,
        typer.Option(help="Settings that 'lpi tune' chose. May be repeated; for a row in two files the last counts."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The row to compare all others with. By default the best one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    results: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
    part: Annotated[
        str | None, typer.Option(help="Write them there under this name, beside those of other comparisons.")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Keep the rows that the results file has and this call doesn't run.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 takes as many as suit this machine.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even if a run is there already.")] = False,
    report: Annotated[bool, typer.Option(help="Write an HTML report at the end.")] = True,
    as_json: JsonOption = False,
    listed: ListOption = False,
) -> None:
    """Run methods on one stream with the same seeds and task orders, and print one table.

    Started again after a stop, it goes on where it was. The table and all figures are also written beside the runs
    (compare.md, compare.tex, compare.csv, compare.json), and a report of all rows (report.html).
    """
    from lpi.cli.progress import Console, print_table
    from lpi.config import read_experiment
    from lpi.evaluation.adding import beside, rows_before
    from lpi.evaluation.results import collect, planned_lines, table, write_results, write_tables
    from lpi.evaluation.scheduler import default_jobs, make_cells, read_tuned, run_cells, variants_of

    if part is not None and results is None:
        raise typer.BadParameter("--part NAME needs --results FILE, whose part it is.")
    if add and results is None:
        raise typer.BadParameter("--add needs --results FILE, whose rows stay.")
    settings = read_experiment(experiment, changes or [])
    places = [file for file in (results, out / settings.name / "compare.json") if file is not None]
    for file in places:  # now, not when the figures are there
        make_folder(file, part if file is results else None)
    refuse_foreign_tables(places[-1])
    chosen = {row: found for file in tuned for row, found in read_tuned(file)["rows"].items()} if tuned else None
    names = [*(names_of(methods) or settings.variant_names()), *map(str, method_file or [])]
    variants = variants_of(settings, names, chosen, given=keys_of(changes))
    before = None
    if add and results is not None:  # refused now, not when the figures are there

        def today(rows: Sequence[str]) -> dict[str, Experiment]:
            return variants_of(settings, [*names, *rows], chosen, given=keys_of(changes))

        before = rows_before(results, part, variants, today)
    if against is not None and against not in variants:
        raise UnknownNameError(f"No row is called {against!r}. {did_you_mean(against, variants)}")
    numbered = settings.seeds if seeds is None else numbers(seeds)
    cells = make_cells(settings, variants, seeds=numbered, orders=orders, out=out)
    if planned_seeds is not None:
        of_pairs = {name: variants[name] for name in variants if name in chain(*settings.planned)}
        more = [seed for seed in numbers(planned_seeds) if seed not in numbered]
        cells += make_cells(settings, of_pairs, seeds=more, orders=orders, out=out)
    with Console(quiet=as_json) as console:
        outcome = run_cells(
            cells,
            jobs=jobs or default_jobs(len(cells), settings.training.device),
            fresh=fresh,
            command=command_line(),
            say=console.say,
            on_step=console.step,
        )
    found = collect(outcome, against=against, tuned=chosen, command=command_line())
    write_results(places[-1], found)
    if results is not None:
        write_results(results, found if before is None else beside(found, before, against), part)
    write_tables(found, out / settings.name)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print_table(*table(found), width=240)
        print("\n".join([LEGEND, *planned_lines(found)]))
    finished = [cell.folder for place, cell in enumerate(outcome.cells) if place not in outcome.failed]
    if report and finished:
        write_page(finished, out / settings.name, as_json)
    if found.failed:
        raise LpiError("; ".join(f"row {row!r} failed: {problem}" for row, problem in found.failed.items()))
