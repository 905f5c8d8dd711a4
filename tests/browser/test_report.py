"""The report on a usual screen and on paper: its widest table needs no sideways scrolling."""

from pathlib import Path
from typing import Any

import pytest
from unit.report_fixture import make_run

from lpi.report import write_report

WIDTHS = "all => all.map(one => one.scrollWidth - one.clientWidth)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / "runs", seed=seed) for seed in (0, 1)]
    runs.append(make_run(folder / "runs", row="finetune_with_a_long_name", method="finetune", gain=0.2, loss=0.08))
    return write_report(runs, folder / "out")


def test_the_table_of_results_fits_1280_pixels_and_a_sheet_of_paper(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.locator("#results .scroll").evaluate_all(WIDTHS) == [0]
    assert page.locator("#results th").count() > 16  # with every column that there is
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1032, "height": 700})  # A4 across, without its margins, at 96 dots an inch
    assert page.evaluate("document.documentElement.scrollWidth") <= 1032
    assert not page.is_visible("nav")
    page.close()
