"""Figures of runs and of results files as tables for elsewhere; what isn't finished stays apart."""

import csv
import io
import re
from pathlib import Path

import pytest
from commands import Type, refused
from unit.report_fixture import make_run

from lpi.errors import CheckpointError, DataError
from lpi.evaluation.results import Results, table
from lpi.report.export import export
from lpi.report.page import write_report
from lpi.storage import read_json

RESULTS = Path(__file__).parents[2] / "results" / "published.json"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        make_run(tmp_path / "runs", seed=seed)
    make_run(tmp_path / "runs", row="finetune", gain=0.2, loss=0.08)
    make_run(tmp_path / "runs", row="dar", stages=2)
    return tmp_path / "runs"


def test_a_results_file_has_the_table_and_every_figure() -> None:
    found, results = export([RESULTS]), Results.from_json(read_json(RESULTS, dict))
    assert (found.head, found.body) == table(results)
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(found.text("csv")))}
    assert set(rows) == set(results.rows)
    for name, row in results.rows.items():
        for figure in ("final_r1", "final_r1_std", "stored_numbers"):
            assert float(rows[name][figure]) == pytest.approx(row.figures[figure])
    best = found.body[0]
    for kind, line in (
        ("markdown", f"| {best[0]} | {best[1]} |"),
        ("latex", f"{best[0].replace('_', chr(92) + '_')} & {best[1]} &"),
        ("html", f"<tr><td>{best[0]}</td><td>{best[1]}</td>"),
    ):
        assert line in found.text(kind)  # type: ignore[arg-type]


def test_a_table_is_not_written_over_the_figures_themselves(tmp_path: Path, type_command: Type) -> None:
    file = tmp_path / "figures.json"
    file.write_bytes(RESULTS.read_bytes())
    refused(type_command("export", file, "--out", file), "holds the figures themselves, and would be lost")
    assert file.read_bytes() == RESULTS.read_bytes()
    assert type_command("export", file, "--out", tmp_path / "table.md").code == 0


def test_unfinished_runs_never_share_a_table_with_finished_ones(runs: Path) -> None:
    found = export([runs])
    assert {row[0] for row in found.body} == {"finetune", "lpi"}
    assert found.left_out == 1
    alone = export([runs], unfinished=True)
    assert [row[0] for row in alone.body] == ["dar · 2 of 3 tasks"]
    make_run(runs, row="ewc", stages=1)
    with pytest.raises(DataError, match="these runs learned 1, 2 tasks, so that nothing compares them"):
        export([runs], unfinished=True)
    with pytest.raises(DataError, match="isn't finished: take --unfinished for it"):
        export([runs / "demo" / "dar"])
    with pytest.raises(DataError, match="is finished: leave --unfinished out"):
        export([runs / "demo" / "lpi"], unfinished=True)


def test_a_seed_that_goes_on_is_no_seed_of_the_others(runs: Path) -> None:
    before = export([runs / "demo" / "lpi"]).rows["lpi"].figures
    make_run(runs, seed=2, stages=2)
    found = export([runs / "demo" / "lpi"])
    assert found.rows["lpi"].figures == before
    assert found.left_out == 1


def test_the_report_keeps_them_apart_too(runs: Path, tmp_path: Path) -> None:
    page = write_report([runs], tmp_path / "out").read_text(encoding="utf-8")
    results = page[page.index('id="results"') : page.index('id="curves"')]
    whole, _, others = results.partition("<h3>Not finished</h3>")
    assert re.findall(r'<th scope="row">([^<]*)', whole) == ["frozen model", "finetune", "lpi"]
    assert re.findall(r'<th scope="row">([^<]*)', others) == ["dar · 2 of 3 tasks"]
    assert ">lpi</strong> puts" in page  # not the one that is on its way


def test_figures_are_written_as_svg_and_pdf(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    export([runs / "demo" / "lpi"], figures=folder)
    names = {file.stem for file in folder.glob("*.svg")}
    assert {"learning-curves", "forgetting"} <= names
    assert {file.stem for file in folder.glob("*.pdf")} == names
    for file in folder.iterdir():
        content = file.read_bytes()
        assert content.startswith(b"%PDF" if file.suffix == ".pdf" else b"<?xml")
        assert b"#fe0" not in content  # colours of its own, not the page's stand-ins
    again = tmp_path / "again"
    export([runs / "demo" / "lpi"], figures=again)
    assert all(file.read_bytes() == (again / file.name).read_bytes() for file in folder.iterdir())


def test_the_command_prints_or_writes_and_says_what_it_left_out(runs: Path, tmp_path: Path, type_command: Type) -> None:
    ended = type_command("export", runs, "--format", "csv")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0].startswith("variant,final_t2i_r1,")
    assert "unfinished rows that are left out: 1" in ended.err
    ended = type_command("export", RESULTS, "--format", "latex", "--out", tmp_path / "table.tex")
    assert (ended.code, ended.out) == (0, "")
    assert (tmp_path / "table.tex").read_text(encoding="utf-8").startswith(r"\begin{tabular}{lr")


def test_what_is_no_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"rows": 1}')
    with pytest.raises(CheckpointError, match=r"x\.json: these are no results of lpi run or lpi compare"):
        export([tmp_path / "x.json"])
    with pytest.raises(DataError, match="a results file is exported alone"):
        export([RESULTS, tmp_path])
