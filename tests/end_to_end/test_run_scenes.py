"""The main job in small: the command line learns drawn tasks on the embedded backbone, is killed, and goes on."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from commands import outcome

import lpi
from lpi.cli import main
from lpi.trainer import Step

SMALL = {
    "stream.families": '["food", "animal", "vehicle"]',
    "stream.train": "24",
    "stream.validation": "0",
    "stream.test": "10",
    "stream.held_out": "8",
    "training.epochs": "2",
    "training.batch": "8",
    "training.checkpoint_seconds": "0",
    "evaluation.examples": "2",
}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", ["lpi", "run", "scenes", *sets, *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_writes_figures_report_and_a_model_that_searches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "scenes.json"
    assert run(monkeypatch, "--rows", "all", "--out", str(tmp_path / "runs"), "--results", str(results)) == 0
    assert "frozen model" in capsys.readouterr().out
    record = json.loads(results.read_text())
    assert set(record) >= {"frozen", "rows", "seeds", "command", "versions", "machine"}
    assert set(record["rows"]) == {"lpi", "finetune", "joint"}
    assert 0 < record["frozen"]["final_r1"] <= 100
    assert {"final_r1", "final_r1_std", "forgetting_r1", "routing_accuracy", "oracle_r1"} <= set(record["rows"]["lpi"])
    assert record["rows"]["joint"]["final_r1"] > 100 / 30  # chance among 30 pictures
    page = (tmp_path / "runs" / "scenes" / "report.html").read_text()
    assert "animal" in page
    assert "<svg" in page
    learner = lpi.load_method(tmp_path / "runs" / "scenes" / "lpi" / "seed-0" / "model")
    assert learner.tasks == ["food", "animal", "vehicle"]
    assert learner.encode_texts(["a red apple", "a dog"]).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("stop_at", [1, 8, 11])
def test_a_run_that_died_goes_on_and_ends_with_the_same_bytes(
    stop_at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lpi.cli import progress

    assert run(monkeypatch, "--out", str(tmp_path / "whole"), "--no-report") == 0
    steps = 0

    def die(self: object, step: Step) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise RuntimeError("the power went")

    with monkeypatch.context() as dying:
        dying.setattr(progress.Console, "step", die)
        with pytest.raises(RuntimeError, match="power"):
            run(dying, "--out", str(tmp_path / "killed"), "--no-report")
    assert run(monkeypatch, "--out", str(tmp_path / "killed"), "--no-report") == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_evaluating_a_saved_model_gives_the_figures_of_its_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--out", str(tmp_path), "--no-report") == 0
    capsys.readouterr()
    folder = tmp_path / "scenes" / "lpi" / "seed-0"
    sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", ["lpi", "evaluate", str(folder / "model"), "scenes", *sets, "--json"])
    with contextlib.suppress(SystemExit):  # typer ends a command that went well with exit code 0
        main()
    again = json.loads(capsys.readouterr().out)
    last = json.loads((folder / "stages" / "02-vehicle.json").read_text())
    for metric in ("t2i_r1", "i2t_r1"):
        assert again["seen"][metric] == pytest.approx(last["seen"][metric], abs=0.05)


def test_the_embedded_backbone_knows_general_scenes() -> None:
    from lpi.data.scenes import load_scenes

    backbone = lpi.backbone("lpi-tiny")
    learner = lpi.method("zero_shot", backbone)
    records = load_scenes(train=0, validation=0, test=0, held_out=32)
    images = learner.encode_images([record.picture.open(96) for record in records])
    texts = learner.encode_texts([record.captions[0] for record in records])
    right = (texts @ images.T).argmax(dim=1) == torch.arange(32)
    assert float(right.float().mean()) > 0.5
    assert sum(parameter.numel() for parameter in backbone.parameters()) < 4_000_000
