"""What several commands have in common: options, numbers, and the command line as it was typed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lpi.errors import CheckpointError, OutputError

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set method.rank=8. May be repeated."),
]


def list_experiments(asked: bool) -> None:
    """Print the shipped experiments and what each is about, and end there."""
    if not asked:
        return
    from lpi.cli.progress import print_table
    from lpi.config import read_experiment, shipped

    body = [[name, read_experiment(name).about] for name in shipped()]
    print_table(["experiment", "about"], body, left=2)
    raise typer.Exit


ExperimentArgument = Annotated[
    str, typer.Argument(help="A TOML file, or the name of a shipped experiment such as 'scenes'; see --list.")
]
ListOption = Annotated[
    bool,
    typer.Option("--list", is_eager=True, callback=list_experiments, help="List the shipped experiments."),
]
MethodsOption = Annotated[
    str | None, typer.Option(help="Rows of the experiment, methods or .py files, separated by commas. Default: all.")
]
MethodFileOption = Annotated[
    Path | None,
    typer.Option(help="The Python file of the model's method, if it is one of your own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]


def command_line() -> str:
    """What the person typed, as it should be typed again."""
    return " ".join(["lpi", *(shlex.quote(word) for word in sys.argv[1:])])


MOST_NUMBERS = 10_000


def numbers(text: str) -> list[int]:
    """Numbers from ``0,1,4`` or ``0-4``.

    >>> numbers("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            here = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            here = range(0)
        if not here or len(here) > MOST_NUMBERS:
            raise typer.BadParameter(f"expected numbers like 0,1,2 or 0-4; got {text!r}")
        found += here
    return list(dict.fromkeys(found))


def names_of(text: str | None) -> list[str] | None:
    """Names from ``a,b``; ``None`` where none was given.

    >>> names_of("lpi, dar")
    ['lpi', 'dar']
    """
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def keys_of(changes: list[str] | None) -> list[str]:
    """The keys that ``--set`` gives values to.

    >>> keys_of(["training.epochs = 3"])
    ['training.epochs']
    """
    return [change.partition("=")[0].strip() for change in changes or []]


def refuse_foreign_tables(figures: Path) -> None:
    """Refuse to write tables over files of their names that no comparison wrote: its figures would lie beside them.

    Raises:
        OutputError: naming the first.
    """
    for file in (figures.with_suffix(f".{kind}") for kind in ("md", "tex", "csv")):
        if file.exists() and not figures.exists():
            raise OutputError(f"{file} is no table of a comparison, and would be lost. Give another --out.")


def make_folder(file: Path, part: str | None = None) -> None:
    """Make the folder of a file of figures that will be written.

    Args:
        file: of figures.
        part: the only part of it that will be written.

    Raises:
        OutputError: it can't be made, or something else lies where the file shall be.
    """
    from lpi.evaluation.results import holds_figures, parts_in
    from lpi.storage import read_json, reason

    if file.exists():
        try:
            content = read_json(file)
        except CheckpointError:
            content = None
        if not holds_figures(content):
            raise OutputError(
                f"{file} holds something else than figures, and would be lost. Move it away, or give another --results."
            )
        parts = parts_in(content)
        if bool(parts) != bool(part):
            has, advice = ("without parts", "Leave --part out")
            if parts:
                has, advice = f"under the names {', '.join(parts)}", "Say which to write with --part"
            raise OutputError(f"{file} holds figures {has}, which would be lost. {advice}, or give another --results.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{file} can't be written: {reason(error).replace('--out', '--results')}") from error
