"""``lpi migrate``: move an index to another model, and go on searching meanwhile."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpi.cli.index_options import DeviceOption, IndexOption, WorkersOption
from lpi.cli.indexing import show_skipped
from lpi.cli.options import MethodFileOption
from lpi.errors import ConfigError

if TYPE_CHECKING:
    from lpi.search.migration import Move


def migrate(
    place: IndexOption,
    model: Annotated[
        str | None,
        typer.Option(help="Model to move to: a folder, a name on the hub, or a run. Needed the first time."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Stop after so many pictures, or after a time: 5000, 90s, 10m, 2h.", show_default="all"),
    ] = None,
    abandon: Annotated[bool, typer.Option("--abandon", help="Stay with the model that the index has.")] = False,
    method_file: MethodFileOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Move an index to another model, searchable meanwhile; stopped, the same command goes on where it was."""
    from lpi.counting import Counter
    from lpi.search import migration
    from lpi.search.recorded import record_run

    if abandon:
        if any(option is not None for option in (model, budget)):
            raise ConfigError("--abandon goes with --index alone. Leave the other options out.")
        migration.abandon(place)
        print(f"{place} stays with the model that it has.")
        return
    limit = migration.Budget.read(budget)
    run = migration.begin(place, model, device=device, method_file=method_file)
    note = record_run(place, run) if run is not None else None
    if note:
        print(f"note: {note}", file=sys.stderr)
    with Counter() as counter:
        done = migration.migrate(
            place,
            budget=limit,
            workers=workers,
            device=device,
            on_progress=counter.count,
            method_file=method_file,
        )
    if as_json:
        print(json.dumps(asdict(done), indent=1, ensure_ascii=False))
        return
    _show(done, place)


def _show(done: Move, place: Path) -> None:
    print(
        f"{done.ready} of {done.pictures} pictures have a new vector; {done.embedded} embedded in {done.seconds:.1f} s"
    )
    show_skipped(done.skipped, place)
    if done.finished:
        print("The index has the new model now. What the old one left goes in a day, or with: lpi index --tidy")
    else:
        with_it = "with the new model now" if done.searched else "with the old model until more are embedded"
        print(f"Searches go on {with_it}. The same command goes on from here.")
