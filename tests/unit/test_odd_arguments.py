"""Whatever is given to the library's public calls is right, or one line."""

from pathlib import Path
from typing import Any

import pytest
from unit.report_fixture import make_run

import lpi
from lpi.backbones import DualEncoder
from lpi.cli.options import refuse_foreign_tables
from lpi.errors import ConfigError, LpiError, OutputError
from lpi.report import write_report


@pytest.mark.parametrize("name", [None, 5, b"lpi", [], int, object(), ""])
def test_a_method_is_a_name_or_a_class(name: Any, clip: DualEncoder) -> None:
    with pytest.raises(LpiError):
        lpi.method(name, clip)


@pytest.mark.parametrize("backbone", [None, 5, int])
def test_a_method_stands_on_a_backbone(backbone: Any) -> None:
    with pytest.raises(ConfigError, match=r"stands on a backbone; got .*Make one with lpi.backbone"):
        lpi.method("lpi", backbone)


@pytest.mark.parametrize("options", [{"preset": 5}, {"preset": []}, {"rank": "four"}, {"rank": None}, {"rank": [4]}])
def test_options_of_odd_types_are_refused(options: Any, clip: DualEncoder) -> None:
    with pytest.raises(LpiError):
        lpi.method("lpi", clip, **options)


@pytest.mark.parametrize("source", [None, 5, b"lpi-tiny", [], "", " ", {}, object(), "a\0b"])
def test_a_backbone_is_a_folder_or_a_name(source: Any) -> None:
    with pytest.raises(LpiError):
        lpi.backbone(source)


@pytest.mark.parametrize("size", ["large", 1.5, True, -8, 0, [224]])
def test_a_size_of_pictures_is_a_whole_number(size: Any) -> None:
    with pytest.raises(LpiError):
        lpi.backbone("lpi-tiny", image_size=size)


def test_a_page_that_is_no_report_is_kept(tmp_path: Path) -> None:
    report_runs = make_run(tmp_path / "runs")
    page = tmp_path / "report.html"
    page.write_text("<title>mine</title>")
    with pytest.raises(OutputError, match=r"report\.html is no report and would be lost"):
        write_report([report_runs], tmp_path)
    assert page.read_text() == "<title>mine</title>"
    page.unlink()
    write_report([report_runs], tmp_path)
    write_report([report_runs], tmp_path)  # over its own


@pytest.mark.parametrize("kind", ["md", "tex", "csv"])
def test_tables_that_no_comparison_wrote_are_kept(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"compare.{kind}").write_text("mine")
    with pytest.raises(OutputError, match="no table of a comparison"):
        refuse_foreign_tables(tmp_path / "compare.json")
    (tmp_path / "compare.json").write_text("{}")
    refuse_foreign_tables(tmp_path / "compare.json")
