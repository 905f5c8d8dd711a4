"""``lpi run`` and ``lpi evaluate``: learn a stream of tasks and measure every stage; measure a saved model again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lpi.cli.options import (
    ExperimentArgument,
    JsonOption,
    ListOption,
    MethodFileOption,
    SetOption,
    command_line,
    keys_of,
    make_folder,
    names_of,
    numbers,
)
from lpi.errors import CheckpointError, ConfigError, MissingExtraError, MissingFileError

if TYPE_CHECKING:
    from lpi.cli.boards import Board, Kind


def run(
    experiment: ExperimentArgument,
    changes: SetOption = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows of the experiment to run: names separated by commas, or 'all'.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, e.g. 0-4 or 0,1,2. By default the experiment's.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    results: Annotated[Path | None, typer.Option(help="Also write the figures of all rows to this JSON file.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even if a run is there already.")] = False,
    report: Annotated[bool, typer.Option(help="Write an HTML report at the end.")] = True,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard scalars.")] = False,
    log: Annotated[
        Literal["tensorboard", "wandb", "mlflow"] | None,
        typer.Option(help="Also write losses there, step by step. Weights & Biases and MLflow must be installed."),
    ] = None,
    as_json: JsonOption = False,
    listed: ListOption = False,
) -> None:
    """Learn a stream of tasks and measure every stage. Started again after a stop, it goes on where it was.

    Several processes share each batch: torchrun --nproc-per-node 2 -m lpi run EXPERIMENT
    """
    from lpi.cli.progress import Console, print_table
    from lpi.config import read_experiment
    from lpi.evaluation.results import RUN, collect, table
    from lpi.evaluation.scheduler import make_cells, run_cells, variants_of
    from lpi.processes import own_copy, together
    from lpi.storage import sealed, write_json

    if tensorboard and log not in (None, "tensorboard"):
        raise ConfigError(f"losses are written to one place: --tensorboard doesn't go with --log {log}. Leave one out.")
    settings = read_experiment(experiment, changes or [])
    if results is not None:
        make_folder(results)  # now, not when the figures are there
    names = None if rows == "all" else names_of(rows) or [settings.main_variant]
    variants = variants_of(settings, names, given=keys_of(changes))
    wanted = settings.seeds if seeds is None else numbers(seeds)
    with together() as number, own_copy(out / settings.name, number, empty=fresh) as place:
        cells = make_cells(settings, variants, seeds=wanted, orders=1, out=place.parent)
        if number:  # it writes to a copy that nobody looks at, and says nothing
            run_cells(cells, keep_going=False, say=lambda line: None)
            return
        board = board_of("tensorboard" if tensorboard else log, out / settings.name)
        with Console(quiet=as_json, board=board) as console:
            outcome = run_cells(
                cells,
                fresh=fresh,
                keep_going=False,
                command=command_line(),
                say=console.say,
                on_step=console.step,
                on_run=console.begin,
            )
    found = collect(outcome, command=command_line())
    if results is not None:
        write_json(results, sealed(found.to_json()))
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print_table(*table(found, RUN))
    if report:
        write_page([cell.folder for cell in cells], out / settings.name, as_json)


def board_of(kind: Kind | None, out: Path) -> Callable[[str, int], Board] | None:
    """What opens the boards of runs, which lie in a folder of their own; checked before anything is learned."""
    from lpi.cli.boards import board, check_board

    if kind is None:
        return None
    check_board(kind, out / kind)
    return partial(board, kind, out / kind)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A saved model: the 'model' folder of a run.")],
    experiment: Annotated[str, typer.Argument(help="The experiment whose stream and evaluation to use.")],
    changes: SetOption = None,
    method_file: MethodFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a saved model on a stream again, for example with another gallery or scoring."""
    from lpi.cli.progress import print_table
    from lpi.config import read_experiment
    from lpi.evaluation.figures import RUN, columns
    from lpi.evaluation.run import evaluate_saved
    from lpi.storage import read_json

    about = model / "config.json"
    if not about.is_file():
        raise MissingFileError(f"{model}: there is no saved model (no config.json). Name the 'model' folder of a run.")
    if "method" not in read_json(about, dict):
        raise CheckpointError(f"{about}: no saved method, but something else. Name the 'model' folder of a run.")
    settings = read_experiment(experiment, changes or [])
    names, record = evaluate_saved(model, settings, method_file)
    if as_json:
        print(json.dumps({**asdict(record), "tasks": names}, indent=1))
        return
    heads = {
        column.figures[0].name.removeprefix("final_"): column.head for column in columns(settings.stream.problem, RUN)
    }
    shown = [name for name in record.seen if name in heads]
    body = [[task, *(f"{100 * record.seen[name][index]:.1f}" for name in shown)] for index, task in enumerate(names)]
    print_table(["task", *(heads[name] for name in shown)], body)


def write_page(folders: list[Path], out: Path, quiet: bool, needed: bool = False) -> None:
    """Write the report; where it isn't ``needed``, a missing extra is only told of."""
    from lpi.report import write_report

    try:
        page = write_report(folders, out)
    except MissingExtraError as error:
        if needed:
            raise
        print(f"No report: {error}", file=sys.stderr)
        return
    if not quiet:
        print(f"Report: {page}")
