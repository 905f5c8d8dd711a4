"""The figures of runs, or of a results file, as a table for elsewhere: CSV, LaTeX, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lpi.errors import CheckpointError, DataError, UnknownNameError
from lpi.evaluation.figures import csv_table, latex, markdown, row_of
from lpi.evaluation.results import Results, Row, parts_in, table, tabulate
from lpi.report.page import compose, write_whole
from lpi.report.reading import find_runs
from lpi.report.variants import Variant, read_variants
from lpi.showing import html_table
from lpi.storage import read_json

Kind = Literal["csv", "latex", "markdown", "html"]


@dataclass(frozen=True)
class Exported:
    """Rows that may stand in one table, and how many may not.

    Attributes:
        title: what they are of.
        problem: what their figures are of.
        rows: by variant.
        head, body: of the table that a person reads.
        left_out: rows of runs that aren't finished; the finished ones, where the others were asked for.
    """

    title: str
    problem: str
    rows: Mapping[str, Row]
    head: list[str]
    body: list[list[str]]
    left_out: int = 0

    def text(self, kind: Kind) -> str:
        """The table; as CSV with every figure under the name that files have."""
        if kind == "csv":
            return csv_table({name: row.figures for name, row in self.rows.items()}, self.problem)
        if kind == "html":
            return html_table(self.title, self.head, self.body) + "\n"
        return (latex if kind == "latex" else markdown)(self.head, self.body)


def of_results(file: Path, part: str | None = None) -> Exported:
    """The rows of a results file of ``lpi run`` or ``lpi compare``, which holds finished runs only.

    Raises:
        CheckpointError: it is no such file.
        UnknownNameError: it has parts, and not this one.
    """
    content = read_json(file, dict)
    parts = parts_in(content)
    if parts or part is not None:
        if part not in parts:
            has = f"has the parts {', '.join(parts)}: choose one with --part" if parts else "has no parts"
            raise UnknownNameError(f"{file} {has}.")
        content = content[part]
    try:
        found = Results.from_json(content)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error
    return Exported(file.stem, found.problem, found.rows, *table(found))


def of_runs(variants: Sequence[Variant], *, unfinished: bool = False) -> Exported:
    """The rows of runs: those that learned all their tasks, or those that didn't yet. Never both in one table.

    Raises:
        DataError: there is none of that kind, or the unfinished ones learned different numbers of tasks.
    """
    chosen = [one for one in variants if one.first.finished != unfinished]
    if not chosen:
        other = "is finished: leave --unfinished out" if unfinished else "isn't finished: take --unfinished for it"
        raise DataError(f"every run here {other}.")
    done = {one.first.done for one in chosen}
    if len(done) > 1:
        raise DataError(f"these runs learned {', '.join(map(str, sorted(done)))} tasks, so that nothing compares them.")
    problem = chosen[0].first.problem
    rows = {one.label: Row(row_of([run.result for run in one.runs], problem), list(one.runs)) for one in chosen}
    names = list(dict.fromkeys(run.experiment for one in chosen for run in one.runs))
    return Exported(", ".join(names), problem, rows, *tabulate(problem, rows), len(variants) - len(chosen))


def export(
    places: Sequence[Path], *, unfinished: bool = False, figures: Path | None = None, part: str | None = None
) -> Exported:
    """What is to be exported of run folders (or folders that contain some), or of one results file.

    Args:
        places: the folders, or the file.
        unfinished: the runs that aren't finished, instead of those that are.
        part: of a results file that holds several comparisons.
        figures: a folder to write every figure of the report to, as SVG and as PDF.

    Raises:
        DataError: these don't go into one table.
        CheckpointError, MissingFileError: one can't be read.
        MissingExtraError: figures are wanted, and matplotlib isn't installed.
    """
    if any(place.is_file() for place in places):
        if len(places) > 1 or figures is not None or unfinished:
            raise DataError("a results file is exported alone: it has finished rows only, and nothing to draw from.")
        return of_results(places[0], part)
    variants = read_variants([run for place in places for run in find_runs(place)])
    found = of_runs(variants, unfinished=unfinished)
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        for plot in compose([one for one in variants if one.label in found.rows])[1]:
            for kind in ("svg", "pdf"):
                write_whole(figures / f"{plot.name}.{kind}", plot.file(kind))
    return found
