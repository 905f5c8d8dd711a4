"""The benchmark runs, and its floor is the one that is written down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import step
import teach_archives
import torch
from authors_step import authors_work

from lpi.devices import multiplies_bfloat16

ROOT = Path(__file__).parents[2]


def test_the_floor_is_two_operations_a_weight_and_token_plus_attention() -> None:
    tower = {"hidden_size": 2, "intermediate_size": 8, "num_hidden_layers": 3}
    weights = 3 * (4 * 4 + 2 * 2 * 8)
    attention = 3 * (2 * 2 * 5 * 5 * 2)  # layers x (two products of 2 operations x tokens x tokens x width)
    assert step.forward_work(tower, tokens=5, batch=7) == 7 * (2 * weights * 5 + attention)


def test_the_floor_of_clip_b16_is_that_of_the_measured_table() -> None:
    work = step.floor_work(step.CLIP_B16, prompt_tokens=True)
    seconds = {part: operations / 197e9 for part, operations in work.items()}
    assert seconds["train"] == pytest.approx(3.31, abs=0.02)
    assert seconds["image"] == pytest.approx(1.54, abs=0.01)
    assert seconds["text"] == pytest.approx(0.112, abs=0.001)


def test_a_quick_run_writes_every_figure(tmp_path: Path) -> None:
    results = tmp_path / "step.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "step.py"), "--quick", "--results", str(results)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(results.read_text())
    assert figures == json.loads(done.stdout)
    assert figures["peak_gflops"] > 0
    for row in ("ours", "stock", "into"):
        assert set(figures[row]) == {"train", "image", "text"}
        assert all(multiple > 0 for multiple in figures[row].values())
    assert set(figures["frozen"]["stock"]) == {"image", "text"}
    assert (figures["bfloat16"] is not None) == multiplies_bfloat16(torch.device("cpu"))
    assert figures["auto"] == figures["ours"]  # so narrow a model keeps float32
    assert figures["speedup_over_stock"].keys() == {"train", "image", "text"}
    assert figures["seconds"]["ours"]["train"]["min"] <= figures["seconds"]["ours"]["train"]["median"]
    assert "--quick" in figures["command"]
    assert figures["versions"]["torch"]
    assert figures["machine"]["processor"]


def test_a_folder_that_is_no_checkout_of_the_authors_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"is no checkout of .*: retrieval/models/slinet\.py is missing"):
        authors_work(tmp_path, step.TINY, torch.zeros(2, 3, 32, 32), torch.zeros(2, 24, dtype=torch.int64))


def test_a_quick_pipeline_embeds_and_trains_from_files(tmp_path: Path) -> None:
    results = tmp_path / "pipeline.json"
    words = ["--files", "32", "--pairs", "1", "--models", "lpi-tiny", "--results", str(results)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "pipeline.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(results.read_text())
    for part in ("embed", "train"):
        assert figures[part]["lpi-tiny"]["share_of_model_rate"] > 0
        assert 0 < figures[part]["lpi-tiny"]["reachable"] <= 1


def test_the_readme_shows_what_the_results_file_says() -> None:
    import readme_figures

    readme = (readme_figures.ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_figures.updated(readme, *readme_figures.records()) == readme


def test_what_stays_of_foreign_pictures_is_counted_by_caption() -> None:
    found = teach_archives.what_stays([1, 1, 3, 11, 11], [1, 2, 1, 10, 11])
    assert found == {
        "pictures": 5,
        "frozen": {"r1": 40, "r10": 60},
        "taught": {"r1": 40, "r10": 80},
        "kept": 50,  # of the two captions that found their picture first, one still does
    }
    assert teach_archives.what_stays([2], [1])["kept"] is None
