"""``lpi index``: from a folder of pictures to an index that follows it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpi.cli.index_options import DeviceOption, WorkersOption
from lpi.cli.options import MethodFileOption
from lpi.errors import ConfigError

if TYPE_CHECKING:
    from lpi.search.writer import Update

SKIPPED_SHOWN = 5
STARTING_MODEL = "lpi-tiny"


def index(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures; folders inside it are included.")],
    place: Annotated[
        Path | None,
        typer.Option(
            "--index",
            envvar="LPI_INDEX",
            help="Folder of the index; or set LPI_INDEX. Default: .lpi-index in FOLDER.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model for a new index: a folder, a name such as google/siglip2-base-patch16-224, or a run.",
            show_default=STARTING_MODEL,
        ),
    ] = None,
    tests: Annotated[
        Path | None,
        typer.Option(help="Captioned pictures (split \"test\") on which 'lpi teach' measures what other domains lose."),
    ] = None,
    moved: Annotated[bool, typer.Option("--moved", help="The indexed folder is now here.")] = False,
    emptied: Annotated[
        bool, typer.Option("--emptied", help="It is right that the folder holds no picture any more.")
    ] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, changed or not.")] = False,
    tidy: Annotated[bool, typer.Option("--tidy", help="Also delete what no stage needs any more.")] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave out files and folders like this, now and later: '*.gif', 'old/*'. May be repeated."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Change nothing; say whether everything is as it was written, or what is damaged."
        ),
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Where to keep the tables of a new index, if not in DIR: s3://BUCKET/PATH, gs://, az://."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that embed, here or on a cluster. See docs/cluster.md.")
    ] = 1,
    recall: Annotated[
        float | None,
        typer.Option(help="Share of the true ten best that a search in a large index is to find; kept with it [0.95]."),
    ] = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Make all pictures of a folder searchable, or bring an index up to date. Stopped, it goes on where it was."""
    from lpi.search.manifest import BESIDE, FILE

    inside = place is None
    place = folder / BESIDE if place is None else place
    if check:
        if any((model, tests, moved, emptied, rehash, tidy, exclude, store, processes > 1, recall is not None)):
            raise ConfigError("--check changes nothing: it goes with --index alone. Leave the other options out.")
        tell_damage(place, method_file)
        return
    if model is None and not (place / FILE).is_file():
        model = STARTING_MODEL
        print("note: lpi-tiny knows drawn pictures only; for photographs name another --model", file=sys.stderr)
    done = bring_up_to_date(
        folder,
        place,
        model,
        tests=tests,
        moved=moved or inside,  # it lies in the folder, wherever that is now
        emptied=emptied,
        rehash=rehash,
        tidy=tidy,
        exclude=exclude,
        store=store,
        processes=processes,
        recall=recall,
        workers=workers,
        device=device,
        method_file=method_file,
    )
    if as_json:
        print(json.dumps(asdict(done), indent=1, ensure_ascii=False))
        return
    print(
        f"{done.pictures} pictures: {done.added} new, {done.moved} moved, {done.gone} gone; "
        f"{done.embedded} embedded in {done.seconds:.1f} s"
    )
    show_skipped(done.skipped, place)


def bring_up_to_date(
    folder: Path,
    place: Path,
    model: str | None,
    *,
    tests: Path | None = None,
    moved: bool = False,
    emptied: bool = False,
    rehash: bool = False,
    tidy: bool = False,
    exclude: list[str] | None = None,
    store: str | None = None,
    processes: int = 1,
    recall: float | None = None,
    workers: int | None = None,
    device: str = "auto",
    method_file: Path | None = None,
) -> Update:
    """Index a folder, or follow what changed in it, and show how far it is; see :func:`index`."""
    from lpi.counting import Counter
    from lpi.search.building import prepare
    from lpi.search.recorded import record_run, record_source
    from lpi.search.writer import change

    run = prepare(folder, place, model, moved=moved, store=store, device=device, method_file=method_file)
    note = record_run(place, run) if run is not None else None
    if note:
        print(f"note: {note}", file=sys.stderr)
    if tests is not None:
        record_source(place, tests)
    changing = change(place, workers=workers, processes=processes, device=device, method_file=method_file)
    with Counter() as counter, changing as writer:
        if exclude is not None:
            writer.leave_out(exclude)
        if recall is not None:
            writer.want(recall)
        done = writer.update(emptied=emptied, rehash=rehash, on_progress=counter.count)
        if tidy:
            writer.tidy()
    return done


def tell_damage(place: Path, method_file: Path | None = None) -> None:
    """Say what is damaged in an index, and what to do; with any, the exit code is 2."""
    from lpi.search.checking import advice, damage

    found = damage(place, method_file=method_file)
    for line in found:
        print(f"wrong: {line}")
    if not found:
        print("All is as it was written.")
        return
    print(advice(place))
    raise typer.Exit(2)


def show_skipped(skipped: dict[str, str], place: Path) -> None:
    """Say which files were left out, and why."""
    for path, reason in list(skipped.items())[:SKIPPED_SHOWN]:
        print(f"skipped: {path}: {reason}")
    if len(skipped) > SKIPPED_SHOWN:
        print(f"skipped: {len(skipped) - SKIPPED_SHOWN} more, all with their reasons in {place / 'skipped.json'}")
