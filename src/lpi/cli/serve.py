"""``lpi serve``: an index, or a folder of pictures, in a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpi.cli.index_options import DeviceOption, WorkersOption, in_folder
from lpi.cli.indexing import STARTING_MODEL, bring_up_to_date, show_skipped
from lpi.cli.options import MethodFileOption
from lpi.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from lpi.methods.grounding.base import GroundingMethod

ServedOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        envvar="LPI_INDEX",
        help="Folder of the index, or of the pictures if the index is inside it.",
        metavar="DIR",
        show_default=False,
        callback=in_folder,
    ),
]
HostOption = Annotated[
    str, typer.Option(help="Address to listen on. On any other than this, other machines get in with the token.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        envvar="LPI_TOKEN",
        help="Whoever has it may search and teach; or set LPI_TOKEN. With --host, one is made if needed.",
    ),
]
GroundOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Also find objects: a run, a saved model, a detector, or lpi-tiny-grounding."),
]
StartingModelOption = Annotated[
    str | None,
    typer.Option(
        help="Model for a new index: a folder, a name such as google/siglip2-base-patch16-224, or a run.",
        show_default=STARTING_MODEL,
    ),
]
BatchingOption = Annotated[
    bool, typer.Option("--batching/--no-batching", help="Encode queries that come at the same time together.")
]
GroundMethodFileOption = Annotated[
    Path | None, typer.Option(help="The Python file of --ground's method, if it is one of your own.")
]


def serve(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of pictures; it is indexed first. Not needed with --index.")
    ] = None,
    place: ServedOption = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    token: TokenOption = None,
    ground: GroundOption = None,
    model: StartingModelOption = None,
    batching: BatchingOption = True,
    teaching: Annotated[
        bool, typer.Option("--teaching/--no-teaching", help="Whoever may search may also teach and forget domains.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores that models may use. Default: all.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    method_file: MethodFileOption = None,
    ground_method_file: GroundMethodFileOption = None,
) -> None:
    """Search in a browser. Changes by other commands are picked up while it runs; Ctrl-C ends it."""
    from lpi.serve.listening import listen
    from lpi.serve.security import token_for

    # what may be wrong is found now, not when the pictures are indexed
    token_for(host, token)
    listen(host, port).close()
    served = _served(folder, place, model, workers=workers, device=device, method_file=method_file)
    from lpi.search.index import SearchIndex
    from lpi.serve.server import serve as begin

    grounder = _grounder(ground, ground_method_file)
    begin(
        SearchIndex.open(served, device=device, method_file=method_file),
        host=host,
        port=port,
        token=token,
        grounder=grounder,
        batching=batching,
        threads=threads,
        teaching=teaching,
        open_page=open_page,
    )
    print("Stopped.", file=sys.stderr)


def _served(
    folder: Path | None,
    place: Path | None,
    model: str | None,
    *,
    workers: int | None,
    device: str,
    method_file: Path | None,
) -> Path:
    """The index to serve; that of a folder is made, or brought up to date, first."""
    from lpi.search.manifest import BESIDE, FILE

    if folder is not None and place is None and (folder / FILE).is_file():
        folder, place = None, folder
    if folder is not None:
        place = place or folder / BESIDE
        _follow_folder(folder, place, model, workers=workers, device=device, method_file=method_file)
    elif model is not None:
        raise ConfigError("--model is for a folder that isn't indexed yet. Name the folder, or leave --model out.")
    if place is None:
        raise ConfigError("what shall be served? Name a folder of pictures, or an index with --index.")
    return place


def _follow_folder(
    folder: Path, place: Path, model: str | None, *, workers: int | None, device: str, method_file: Path | None = None
) -> None:
    """Index a folder, or what is new in it; where another command is at it, its index is served as it is."""
    from lpi.search.manifest import BESIDE, FILE

    new = not (place / FILE).exists()
    if new and folder.is_dir():
        print(f"Indexing {folder} into {place}; later starts only look at what changed.", file=sys.stderr)
    try:
        done = bring_up_to_date(
            folder,
            place,
            model or (STARTING_MODEL if new else None),
            moved=place.name == BESIDE and place.parent == folder,  # it lies in the folder, wherever that is now
            workers=workers,
            device=device,
            method_file=method_file,
        )
    except OutputError as error:
        if new:
            raise
        print(f"note: {error} Until then it is served as it is.", file=sys.stderr)
        return
    show_skipped(done.skipped, place)


def _grounder(model: str | None, method_file: Path | None) -> GroundingMethod | None:
    from lpi.cli.grounding import learned

    return None if model is None else learned(model, method_file)
