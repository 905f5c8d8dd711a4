"""Options that the commands around an index of pictures have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def in_folder(place: Path | None) -> Path | None:
    """The index that a person means: also by the folder of pictures that it lies in."""
    from lpi.search.manifest import BESIDE, FILE

    if place is not None and not (place / FILE).is_file() and (place / BESIDE / FILE).is_file():
        return place / BESIDE
    return place


IndexOption = Annotated[
    Path,
    typer.Option(
        "--index",
        envvar="LPI_INDEX",
        help="Folder of the index, or of the pictures if the index is inside it; or set LPI_INDEX.",
        metavar="DIR",
        callback=in_folder,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda.")]
ScoringOption = Annotated[
    str, typer.Option(help="How queries and pictures are compared: plain or routed. See docs/search.md.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that read and decode; by default one for each processor.")
]
