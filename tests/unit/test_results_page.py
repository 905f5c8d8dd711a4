"""The results page is what its script makes of the committed files, and says of every bar whether it is reached."""

import json
import re
from pathlib import Path
from typing import Any

import asked
import benchmark_tables
import pytest
import results_page
from tiny import tiny_clip

import lpi
from lpi.config import read_experiment, shipped
from lpi.evaluation.records import METRICS
from lpi.evaluation.results import Comparison, Results, Row, parts_in
from lpi.methods import method_class, method_names


def row(final: float, **others: Any) -> Row:
    figures = {f"final_{name}": final for name in METRICS["retrieval"].names}
    figures |= {
        "final_r1_std": 0.5,
        "average_r1": final,
        "forgetting_r1": -0.4,
        "bwt_r1": -0.4,
        "trainable_per_task": 10,
        "stored_numbers": 1000,
        "bytes_per_task": 400,
        "seconds_per_stage": 1.0,
        "peak_mb": 500.0,
        **others,
    }
    return Row(figures, runs=[{"seed": seed, "order": 0, "final_r1": final} for seed in (0, 1)])


def comparison(best: float) -> Results:
    found = Comparison(difference=-1.0, spread=0.5, p=0.1, p_holm=0.3, runs=3)
    return Results(
        problem="retrieval",
        rows={
            "lpi_best": row(best, way_to_joint=90.0, retention=99.5, stored_numbers=90),
            "dar": row(47.0),
            "replay": row(60.0),
            "joint": row(61.0),
        },
        frozen={},
        against="lpi_best",
        comparisons=dict.fromkeys(("dar", "replay", "joint"), found),
        failed={"zscl": "no pictures"},
        seeds=[0, 1],
        orders=2,
        command="lpi compare x",
        stream={"name": "x", "tasks": [{"train": 5, "test": 7}]},
        backbone={"name": "tiny"},
        settings={},
        tuned={"dar": {"trials": [1, 2, 3]}},
        versions={"torch": "2"},
        machine={"processor": "one", "threads": 2},
        commit=None,
    )


def test_the_page_is_what_its_script_makes_of_the_committed_files() -> None:
    assert results_page.PAGE.read_text(encoding="utf-8") == results_page.current(), "run benchmarks/results_page.py"


def test_the_list_of_columns_in_the_docs_is_made_from_the_figures() -> None:
    text = results_page.COMPARING.read_text(encoding="utf-8")
    assert results_page.with_columns(text) == text, "run benchmarks/results_page.py"


def test_every_benchmark_has_tables_of_its_own_and_no_raw_keys() -> None:
    for file in (results_page.ROOT / "results").glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        if "frozen" in record or parts_in(record):
            continue
        shown = benchmark_tables.tables(file.name, record)
        lines = [line for line in shown.splitlines() if line.startswith("|")]
        assert lines, file
        if "trials" not in record:  # rows of experiments have names of their own
            assert not any("_" in re.sub("`[^`]*`", "", line) for line in lines), file  # but for commands
    assert "| some figure | 3 |" in benchmark_tables.tables("new.json", {"some_figure": 3, "seed": 0})


def test_every_results_file_and_every_published_figure_is_on_the_page() -> None:
    page = results_page.current()
    for file in (results_page.ROOT / "results").glob("*.json"):
        assert f"### {file.name}" in page
    published = json.loads((results_page.ROOT / "docs" / "published.json").read_text(encoding="utf-8"))
    for table in published["tables"]:
        assert table["mark"] in published["marks"]
        assert table.get("why") or table.get("reproduced")
        assert all(len(line) == len(table["columns"]) for line in table["rows"])
        assert all("| " + " | ".join(line) + " |" in page for line in table["rows"])


def test_bars_are_counted_from_the_figures() -> None:
    page = results_page.bars(comparison(best=48.0))
    assert "| ahead of `dar`, the best rehearsal-free rival, by more than 0.5 | 1.0 | yes |" in page
    assert "| at most 10 % of `dar`'s stored numbers | 9.0 | yes |" in page
    assert "**no**" not in page
    assert "| 0.4 | **no** |" in results_page.bars(comparison(best=47.4))


@pytest.mark.parametrize(
    ("best", "closed", "found"), [(3.0, 2.0, "1.5"), (-11.4, -5.0, "0"), (-1.0, 2.0, "0"), (1.0, -2.0, "inf")]
)
def test_a_gain_below_nothing_is_none(best: float, closed: float, found: str) -> None:
    record = {"rows": {"lpi_best": {"gain_by_learning": best}, "closed": {"gain_by_learning": closed}}}
    bar = next(one for one in asked.of_scenes("with_sources") if "gain by learning" in one.asked)
    assert bar.row({"with_sources": record})[2:4] == [found, "yes" if float(found) >= 1.15 else "**no**"]


def test_a_comparison_says_over_what_and_what_failed() -> None:
    published = {"marks": {}, "tables": [{"title": "T", "source": "S", "mark": "P", "columns": ["a"], "rows": [["1"]]}]}
    published["tables"][0] |= {"file": "x.json", "why": "no"}
    page = results_page.page({"x.json": comparison(best=48.0).to_json()}, published)
    assert "1 tasks of `x` (5 training and 7 test pictures), backbone `tiny`, seeds 0, 1, 2 task orders." in page
    assert "3 trials a row" in page
    assert "Row `zscl` failed: no pictures" in page
    assert "| dar | 47.0/47.0/47.0 |" in page
    assert "Ours: [x.json](#xjson) above." in page
    assert "Not reproduced yet" not in page


def test_the_shipped_comparison_has_a_row_for_every_method_of_the_library() -> None:
    experiment = read_experiment("compare_scenes")
    names = {experiment.variant(name).method["name"] for name in experiment.variant_names()}
    for name in experiment.variant_names():
        method = experiment.variant(name).method
        assert method.get("preset") in (None, *method_class(method["name"]).Options.presets())
    assert set(method_names()) <= names


@pytest.mark.parametrize("source", ["compare_scenes", results_page.ROOT / "experiments" / "compare_domains.toml"])
def test_the_row_lpi_of_a_comparison_is_lpi_as_published(source: str | Path, tmp_path: Path) -> None:
    clip = lpi.backbone(str(tiny_clip(tmp_path)))
    options = {key: value for key, value in read_experiment(source).variant("lpi").method.items() if key != "name"}
    assert lpi.method("lpi", clip, **options).options == lpi.method("lpi", clip, preset="paper").options


def test_shipped_and_committed_experiments_are_read() -> None:
    files = [*shipped().values(), *(results_page.ROOT / "experiments").glob("*.toml")]
    for file in files:
        experiment = read_experiment(file)
        assert [experiment.variant(name).name for name in experiment.variant_names()]


def test_the_page_opens_with_what_is_asked_and_whether_it_is_reached() -> None:
    text = results_page.opening({"house.json": {"code_lines": 17_001, "method_members": 25}, "other.json": {}})
    assert f"1 of {len(asked.BARS)} bars are reached." in text
    assert "| code lines | at most 17,000 | 17,001 | **no** | [house.json](#housejson) |" in text
    assert "| members of Method | at most 25 | 25 | yes | [house.json](#housejson) |" in text
    assert "| import circles | at most 0 | – | **not measured** | house.json |" in text  # the file doesn't say
