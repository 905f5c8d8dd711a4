"""``lpi export``: the figures of runs, or of a results file, as a table for elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lpi.errors import OutputError

KindOption = Annotated[
    Literal["csv", "latex", "markdown", "html"],
    typer.Option("--format", help="csv has every figure, the others the columns of a comparison."),
]


def export(
    places: Annotated[
        list[Path], typer.Argument(help="Run folders, folders that contain some, or one results file (JSON).")
    ],
    kind: KindOption = "markdown",
    out: Annotated[Path | None, typer.Option(help="The file to write. By default it is printed.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write the report's figures into this folder, as SVG and PDF.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Which comparison of a results file that holds several, by its name.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="The unfinished runs, which never share a table with finished ones.")
    ] = False,
) -> None:
    """Write the figures of runs, or of a results file, as a table for a paper or a spreadsheet."""
    from lpi.report.export import export as exported
    from lpi.storage import write_text

    if out is not None and out.exists() and any(place.exists() and out.samefile(place) for place in places):
        raise OutputError(f"{out} holds the figures themselves, and would be lost. Give the table another --out.")
    found = exported(places, unfinished=unfinished, figures=figures, part=part)
    if out is None:
        print(found.text(kind), end="")
    else:
        write_text(out, found.text(kind))
    if found.left_out:
        kept_out = "finished" if unfinished else "unfinished"
        print(f"note: {kept_out} rows that are left out: {found.left_out}", file=sys.stderr)
