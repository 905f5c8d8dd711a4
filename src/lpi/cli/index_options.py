"""Options that the commands around an index of pictures have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IndexOption = Annotated[
    Path, typer.Option("--index", envvar="LPI_INDEX", help="Folder of the index; or set LPI_INDEX.", metavar="DIR")
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda.")]
ScoringOption = Annotated[
    str, typer.Option(help="How queries and pictures are compared: plain or routed. See docs/search.md.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that read and decode; by default one for each processor.")
]
