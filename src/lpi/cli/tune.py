"""``lpi tune``: the same few trials for every method, on validation data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lpi.cli.options import (
    ExperimentArgument,
    JsonOption,
    MethodsOption,
    SetOption,
    command_line,
    keys_of,
    make_folder,
    names_of,
    numbers,
)


def tune(
    experiment: ExperimentArgument,
    changes: SetOption = None,
    methods: MethodsOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings that each row may try, its own among them.")] = 4,
    further: Annotated[
        int,
        typer.Option(
            min=0, help="At most so many more trials while a row's best factor is at the edge of those tried."
        ),
    ] = 3,
    seeds: Annotated[str, typer.Option(help="Seeds over which a trial's figure is averaged.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    results: Annotated[
        Path, typer.Option(help="File for what was tried and chosen, for 'lpi compare --tuned'.")
    ] = Path("tuned.json"),
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 takes as many as suit this machine.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even if a trial is there already.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose each method's settings with the same small budget, on validation data; test data stay unseen."""
    from lpi.cli.progress import Console, print_table
    from lpi.config import read_experiment
    from lpi.evaluation.records import METRICS
    from lpi.evaluation.scheduler import default_jobs, variants_of
    from lpi.evaluation.tuning import tune as search
    from lpi.storage import write_json

    settings = read_experiment(experiment, changes or [])
    make_folder(results)
    variants = variants_of(settings, names_of(methods), given=keys_of(changes))
    with Console(quiet=as_json) as console:
        record = search(
            settings,
            variants,
            trials=trials,
            further=further,
            seeds=numbers(seeds),
            out=out,
            jobs=jobs or default_jobs(len(variants) * trials, settings.training.device),
            fresh=fresh,
            command=command_line(),
            say=console.say,
            on_step=console.step,
        )
    write_json(results, record)
    if as_json:
        print(json.dumps(record, indent=1))
        return
    figure = f"validation_{METRICS[settings.stream.problem].main}"
    head = ["", "trials", "as it stands", "chosen", "settings", "seconds"]
    body = [
        [
            name,
            str(len(row["trials"])),
            "" if row[f"{figure}_untuned"] is None else f"{row[f'{figure}_untuned']:.2f}",
            f"{row[figure]:.2f}",
            ", ".join(f"{key}={value}" for key, value in row["chosen"].items()) or "its own",
            f"{row['seconds']:.0f}",
        ]
        for name, row in record["rows"].items()
    ]
    print_table(head, body)
    print(f"Written to {results}; use it with: lpi compare {experiment} --tuned {results}")
