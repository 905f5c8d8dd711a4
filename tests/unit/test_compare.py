"""Comparing and tuning methods: rows, orders, resuming, failures, the table; on two tasks of tiny painted pictures."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image, ImageDraw
from transformers import CLIPModel

from lpi import devices, trainer
from lpi.backbones import load_backbone
from lpi.cli import main as entry
from lpi.config import Experiment, StreamSettings, parse
from lpi.errors import CheckpointError, ConfigError, DataError, LpiError, MissingFileError, UnknownNameError
from lpi.evaluation.bench import Bench, open_stream
from lpi.evaluation.figures import markdown
from lpi.evaluation.recall import Evaluator
from lpi.evaluation.records import METRICS
from lpi.evaluation.results import Row, add_way, collect, table
from lpi.evaluation.run import Run
from lpi.evaluation.scheduler import (
    Outcome,
    default_jobs,
    fingerprint,
    make_cells,
    read_tuned,
    run_cells,
    run_experiment,
    task_orders,
    variants_of,
)
from lpi.evaluation.tuning import beyond, trials_of, tune
from lpi.methods import method_class
from lpi.methods.checkpoint import load_method
from lpi.storage import read_json, read_sealed, sealed, unsealed, write_json

COLOURS = {"cold": ("blue", "teal"), "warm": ("red", "gold")}
OUTSIDE = '''"""Scales the features, which changes no ranking."""

from dataclasses import dataclass

from lpi.methods.base import Method, MethodOptions


class Louder(Method):
    """As the frozen model."""

    @dataclass(frozen=True)
    class Options(MethodOptions):
        factor: float = 2.0
'''


def silent(line: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of an experiment over two tasks of 8 training, 4 validation and 4 test pictures."""
    root = tmp_path_factory.mktemp("compare")
    for task, colours in COLOURS.items():
        (root / "data" / task / "images").mkdir(parents=True)
        rows = []
        for number in range(16):
            name = f"images/{number}.png"
            image = Image.new("RGB", (32, 32), "white")
            ImageDraw.Draw(image).rectangle((number, 4, number + 12, 28), fill=colours[number % 2])
            image.save(root / "data" / task / name)
            split = ("train", "train", "val", "test")[number // 4]
            rows.append({"image": name, "captions": [f"{colours[number % 2]} {number}"], "split": split})
        (root / "data" / task / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny.tiny_clip(root / "clip")
    return {
        "name": "small",
        "backbone": str(root / "clip"),
        "stream": {"kind": "folder", "root": str(root / "data")},
        "method": {"name": "lpi", "rank": 2, "length": 4, "clusters": 2, "interaction_rank": 2},
        "training": {"epochs": 1, "batch": 4, "device": "cpu"},
        "evaluation": {"examples": 0, "diagnostics": True},
        "search": {"training.learning_rate": ["*0.3", "*1", "*3"], "training.epochs": [1, 2]},
        "rows": {
            "zero_shot": {"method": {"name": "zero_shot"}},
            "joint": {"method": {"name": "joint"}, "training.learning_rate": 1e-3},
        },
    }


@pytest.fixture
def experiment(world: dict[str, Any]) -> Experiment:
    return parse(world, "small.toml")


@pytest.fixture
def lpi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Types a command, in this process."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lpi", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            entry()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


def write_toml(world: dict[str, Any], file: Path) -> Path:
    """The world as an experiment file."""
    lines = [f"{key} = {json.dumps(world[key])}" for key in ("name", "backbone")]
    for key in ("stream", "method", "training", "evaluation", "search"):
        lines += [f"[{key}]", *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in world[key].items())]
    lines += ["[rows.zero_shot]", 'method = {name = "zero_shot"}', "[rows.joint]", 'method = {name = "joint"}']
    file.write_text("\n".join(lines))
    return file


# ---- precision -------------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_precision_it_began_with(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun where bfloat16 pays, gone on with where it doesn't; and a run of before it was noted had float32."""
    monkeypatch.setattr(trainer, "WIDE", 1)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: True)
    records, notes = {}, {}
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        run = Run(
            Bench(experiment, silent),
            experiment,
            variant="lpi",
            seed=0,
            folder=folder,
            command="",
            say=silent,
            on_step=None,
        )
        if name == "stopped":
            method = run.bench.method(experiment)
            run.precision = run._precision(method)
            run._begin(method)
            monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)
        records[name] = run.go().final
        notes[name] = read_json(folder / "run.json")["precision"]
    assert notes == {"whole": "bfloat16", "stopped": "bfloat16"}
    assert records["whole"] == records["stopped"]
    old = read_sealed(folder / "run.json")
    del old["precision"]
    write_json(folder / "run.json", old)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: True)
    assert run._precision(run.bench.method(experiment)) == "float32"


def test_a_saved_model_is_measured_as_its_run_was(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = write_toml({**world, "training": {**world["training"], "precision": "bfloat16"}}, tmp_path / "small.toml")
    assert lpi("run", toml, "--out", tmp_path, "--no-report")[0] == 0
    used, reset = [], Evaluator.reset

    def noted(evaluator: Evaluator, precision: Any = None) -> None:
        reset(evaluator, precision)
        used.append(evaluator.precision)

    monkeypatch.setattr(Evaluator, "reset", noted)
    model = tmp_path / "small" / "lpi" / "seed-0" / "model"
    code, out, _ = lpi("evaluate", model, toml, "--json")
    assert (code, used[-1]) == (0, "bfloat16")
    run = read_json(sorted((model.parent / "stages").glob("*.json"))[-1])
    assert json.loads(out)["seen"] == run["seen"]
    config = read_json(model / "config.json")
    write_json(model / "config.json", {"method": config["method"]})
    code, out, err = lpi("evaluate", model, toml)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "config.json isn't of a saved method" in err


# ---- rows and orders -------------------------------------------------------------------------------------------------


def test_orders_are_the_streams_own_its_reverse_and_then_drawn_ones() -> None:
    names = ["a", "b", "c", "d", "e"]
    orders = task_orders(names, 4)
    assert orders[:2] == [None, ["e", "d", "c", "b", "a"]]
    assert all(sorted(order) == names for order in orders[2:] if order)
    assert orders[2] != orders[3]
    assert orders == task_orders(names, 4)


def test_no_run_counts_twice(experiment: Experiment, tmp_path: Path) -> None:
    names = ["animal", "food", "vehicle"]
    six = [order or names for order in task_orders(names, 6)]
    assert len({tuple(order) for order in six}) == 6
    with pytest.raises(ConfigError, match="3 tasks have 6 orders; got --orders 7"):
        task_orders(names, 7)
    with pytest.raises(ConfigError, match="1 task has 1 order; got --orders 2"):
        task_orders(["a"], 2)
    variants = variants_of(experiment, ["zero_shot"])
    assert [cell.seed for cell in make_cells(experiment, variants, seeds=[0, 1, 0], orders=1, out=tmp_path)] == [0, 1]


def test_a_row_is_the_experiments_a_method_or_a_file(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "louder.py").write_text(OUTSIDE)
    rows = variants_of(experiment, ["lpi", "joint", "finetune", str(tmp_path / "louder.py")])
    assert list(rows) == ["lpi", "joint", "finetune", "louder"]
    assert rows["lpi"].method["rank"] == 2
    assert rows["finetune"].method == {"name": "finetune"}
    assert rows["finetune"].training == experiment.training.model_copy(update=method_class("finetune").Options.training)
    assert rows["louder"].method == {"name": str(tmp_path / "louder.py")}
    assert rows["louder"].training == experiment.training
    assert list(variants_of(experiment)) == ["lpi", "zero_shot", "joint"]


def test_a_method_as_a_row_trains_at_its_own_rate_and_not_at_the_main_methods(world: dict[str, Any]) -> None:
    training = {**world["training"], "learning_rate": 0.004, "weight_decay": 0.3}
    experiment = parse({**world, "training": training}, "small.toml")
    finetune = variants_of(experiment, ["finetune"])["finetune"].training
    assert (finetune.learning_rate, finetune.weight_decay, finetune.batch) == (6e-5, 0.01, 4)
    lora = variants_of(experiment, ["lora"])["lora"].training
    assert (lora.learning_rate, lora.weight_decay) == (1e-3, 0.3)  # it has no weight decay of its own
    assert (
        variants_of(experiment, ["zero_shot"])["zero_shot"].training == experiment.training
    )  # a row of the experiment
    assert variants_of(experiment, ["lpi"])["lpi"].training == experiment.training
    for given, rate in (("training.learning_rate", 0.004), ("training", 0.004), ("training.epochs", 6e-5)):
        assert variants_of(experiment, ["finetune"], given=[given])["finetune"].training.learning_rate == rate


def test_a_run_of_a_method_that_nobody_gave_a_rate_takes_the_methods_own(world: dict[str, Any], tmp_path: Path) -> None:
    alone = {key: value for key, value in world.items() if key != "rows"}
    for rate, expected in ((None, 6e-5), (1e-3, 1e-3)):
        given = {} if rate is None else {"learning_rate": rate}
        changes = {"name": f"own-{rate}", "method": {"name": "finetune"}, "training": {**world["training"], **given}}
        folders = run_experiment(parse({**alone, **changes}, "own.toml"), out=tmp_path, say=silent)
        settings = read_json(folders["finetune"][0] / "run.json")["settings"]
        assert settings["training"]["learning_rate"] == expected


def test_a_method_under_its_own_name_has_its_own_defaults_beside_a_preset(world: dict[str, Any]) -> None:
    best = parse({**world, "method": {"name": "lpi", "preset": "authors-release"}}, "best.toml")
    assert variants_of(best, ["lpi"])["lpi"].method == {"name": "lpi"}


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["finetun"], UnknownNameError, "'finetun'. Did you mean 'finetune'?"),
        (["joint", "joint"], ConfigError, "a row 'joint' already"),
        (["nowhere/joint.py"], ConfigError, "nowhere/joint.py: the comparison has a row 'joint' already"),
        (["nowhere/mine.py"], MissingFileError, "mine.py: there is no such file"),
    ],
)
def test_rows_that_are_not_there(names: list[str], kind: type[LpiError], message: str, experiment: Experiment) -> None:
    with pytest.raises(kind) as error:
        variants_of(experiment, names)
    assert message in str(error.value)


def test_tuned_settings_are_put_in_by_row(experiment: Experiment, tmp_path: Path) -> None:
    rows = variants_of(experiment, None, {"lpi": {"chosen": {"training.learning_rate": 0.5, "method.rank": 3}}})
    assert rows["lpi"].training.learning_rate == 0.5
    assert rows["lpi"].method["rank"] == 3
    assert rows["joint"].training.learning_rate == 1e-3
    with pytest.raises(ConfigError, match=r"tuned settings of row 'lpi': \[training\] has no option 'learning_rat'"):
        variants_of(experiment, None, {"lpi": {"chosen": {"training.learning_rat": 0.5}}})
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"other.json: these are no tuned settings"):
        read_tuned(tmp_path / "other.json")


def test_runs_in_the_streams_own_order_lie_where_run_puts_them(experiment: Experiment, tmp_path: Path) -> None:
    cells = make_cells(experiment, variants_of(experiment, ["zero_shot"]), seeds=[0, 1], orders=2, out=tmp_path)
    assert [(cell.order, cell.seed) for cell in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert cells[1].folder == tmp_path / "small" / "zero_shot" / "seed-1"
    assert cells[2].folder == tmp_path / "small" / "order-1" / "zero_shot" / "seed-0"
    assert cells[2].settings.stream.order == ["warm", "cold"]
    folders = run_experiment(experiment, names=["zero_shot"], seeds=[1], out=tmp_path, say=silent)
    assert folders["zero_shot"][1] == cells[1].folder
    with pytest.raises(ConfigError, match="at least 1 order and 1 seed; got 0 and 1"):
        make_cells(experiment, {}, seeds=[0], orders=0, out=tmp_path)


def test_each_seed_draws_material_of_its_own_where_that_is_wanted(experiment: Experiment, tmp_path: Path) -> None:
    def streams(**changes: object) -> list[dict[str, object]]:
        stream = experiment.stream.model_copy(update={"kind": "scenes", "train_limit": 2, **changes})
        redrawn = experiment.model_copy(update={"stream": stream})
        cells = make_cells(redrawn, {"frozen": redrawn}, seeds=[3, 4], orders=1, out=tmp_path)
        return [{"limit_seed": cell.settings.stream.limit_seed, **cell.settings.stream.source()} for cell in cells]

    assert streams()[0] == streams()[1]
    three, four = streams(redrawn=True)
    assert (three["seed"], three["limit_seed"], four["seed"], four["limit_seed"]) == (3, 3, 4, 4)
    assert [one["limit_seed"] for one in streams(kind="folder", redrawn=True)] == [3, 4]
    assert "seed" not in streams(kind="folder", redrawn=True)[0]  # what isn't drawn takes none


def test_settings_are_tuned_for_material_however_it_is_drawn(experiment: Experiment) -> None:
    def stamp(**changes: object) -> str:
        stream = experiment.stream.model_copy(update={"kind": "scenes"}).model_dump()
        return fingerprint(experiment.model_copy(update={"stream": StreamSettings(**{**stream, **changes})}))

    assert stamp() == stamp(redrawn=True) == stamp(sources=False) == stamp(seed=7)
    assert stamp() != stamp(train=3)


def test_pairs_may_be_planned_when_runs_are_finished(world: dict[str, Any], tmp_path: Path) -> None:
    before = parse(world, "small.toml")
    run_experiment(before, names=["zero_shot"], out=tmp_path, say=silent)
    lines: list[str] = []
    after = parse({**world, "planned": [["zero_shot", "joint"]]}, "small.toml")
    run_experiment(after, names=["zero_shot"], out=tmp_path, say=lines.append)
    assert lines[0] == "1 runs, 1 of them finished already"


def test_jobs_are_bounded_by_the_runs() -> None:
    assert default_jobs(1, "cpu") == 1
    assert 1 <= default_jobs(1000, "cpu") <= 8


# ---- running ---------------------------------------------------------------------------------------------------------


def test_a_comparison_says_everything_about_every_method(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "louder.py").write_text(OUTSIDE)
    names = ["lpi", "zero_shot", "joint", str(tmp_path / "louder.py")]
    cells = make_cells(experiment, variants_of(experiment, names), seeds=[3], orders=2, out=tmp_path / "runs")
    outcome = run_cells(cells, say=silent, command="lpi compare small")
    results = collect(outcome, against="zero_shot", command="lpi compare small")
    record = results.to_json()
    assert set(record["rows"]) == {"lpi", "zero_shot", "joint", "louder"}
    row = record["rows"]["lpi"]
    wanted = {
        "final_r1",
        "final_r1_std",
        "forgetting_r1",
        "stored_numbers",
        "seconds",
        "peak_mb",
        "bwt_r1",
        "fwt_r1",
    }
    wanted |= {"oracle_gap_r1", "bytes_per_task", "seconds_per_stage", "neighbour_overlap", "fell_out_of_10"}
    assert wanted <= set(row)
    assert row["stored_bytes"] == pytest.approx(2 * row["bytes_per_task"], abs=1)
    assert row["peak_mb"] > 50
    assert [(run["seed"], run["order"]) for run in row["runs"]] == [(3, 0), (3, 1)]
    assert row["final_r1"] == pytest.approx(sum(run["final_r1"] for run in row["runs"]) / 2, abs=1e-3)
    assert row["protocols"]["pooled_routed"]["final"]["r1"] == pytest.approx(row["final_r1"], abs=1e-3)
    assert row["protocols"]["pooled_routed"]["average"]["r1"] == pytest.approx(row["average_r1"], abs=1e-3)
    assert "average" not in row["protocols"]["pooled_pair"]
    # the frozen model, and one that ranks as it does, differ in nothing
    louder = record["comparisons"]["louder"]
    assert (louder["difference"], louder["p"]) == (0.0, 1.0)
    assert record["rows"]["zero_shot"]["stored_bytes"] == 0
    assert record["rows"]["zero_shot"]["fwt_r1"] == 0
    assert record["comparisons"]["lpi"]["runs"] == 2
    assert (record["seeds"], record["orders"]) == ([3], 2)
    assert record["command"] == "lpi compare small"
    head, body = table(results)
    assert {line[0] for line in body} == set(record["rows"])
    assert all(len(line) == len(head) for line in body)
    assert markdown(head, body).count("\n") == 6


def test_the_oracle_gap_holds_cosines_against_cosines(world: dict[str, Any], tmp_path: Path) -> None:
    routed = parse(world | {"evaluation": {"examples": 0, "scoring": "routed", "routed_weight": 5.0}}, "small.toml")
    cells = make_cells(routed, variants_of(routed, ["lpi"]), seeds=[3], orders=1, out=tmp_path)
    row = collect(run_cells(cells, say=silent)).rows["lpi"].figures
    result = read_json(cells[0].folder / "result.json")
    assert result["final"]["r1"] != result["cosine"]["r1"]  # or the routing does nothing here
    assert row["oracle_gap_r1"] == pytest.approx(100 * (result["oracle"]["r1"] - result["cosine"]["r1"]), abs=1e-3)


def test_finished_runs_are_left_alone_and_lost_ones_run_again(experiment: Experiment, tmp_path: Path) -> None:
    cells = make_cells(experiment, variants_of(experiment, ["lpi"]), seeds=[0, 1], orders=1, out=tmp_path)
    run_cells(cells, say=silent)
    before = {cell.seed: (cell.folder / "result.json").stat().st_mtime_ns for cell in cells}
    result = read_json(cells[1].folder / "result.json")
    (cells[1].folder / "result.json").unlink()
    lines: list[str] = []
    assert not run_cells(cells, say=lines.append).failed
    assert lines[0] == "2 runs, 1 of them finished already"
    assert (cells[0].folder / "result.json").stat().st_mtime_ns == before[0]
    assert read_json(cells[1].folder / "result.json") == result


def test_a_run_over_data_that_changed_since_is_refused(
    world: dict[str, Any], tmp_path: Path, experiment: Experiment
) -> None:
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)  # nothing changed
    file = tmp_path / "small" / "zero_shot" / "seed-0" / "run.json"
    run = read_sealed(file)
    run["stream"]["checksum"] = "0123456789abcdef"
    file.write_text(json.dumps(run))
    with pytest.raises(ConfigError, match=r"other data \(checksum 0123456789abcdef there, [0-9a-f]{16} now\)"):
        run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    with pytest.raises(ConfigError, match="other data"):
        run_cells(make_cells(experiment, variants_of(experiment, ["zero_shot"]), seeds=[0], orders=1, out=tmp_path))


def test_a_run_of_another_version_is_refused_in_a_line(experiment: Experiment, tmp_path: Path) -> None:
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    file = tmp_path / "small" / "zero_shot" / "seed-0" / "run.json"
    write_json(file, {key: value for key, value in read_json(file).items() if key != "format"})
    with pytest.raises(ConfigError, match=r"seed-0 holds a run of another version of lpi.* start over with --fresh"):
        run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent, fresh=True)


def test_a_run_whose_pictures_were_replaced_under_the_same_names_is_refused(
    world: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(world["stream"]["root"], tmp_path / "data")
    stream = {"kind": "folder", "root": str(tmp_path / "data")}
    experiment = parse({**world, "stream": stream}, "small.toml")
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    Image.new("RGB", (32, 32), "gold").save(next((tmp_path / "data").rglob("15.png")))
    with pytest.raises(ConfigError, match=r"other data .* Put the pictures and captions back as they were"):
        run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    with pytest.raises(ConfigError, match="other data"):
        run_cells(make_cells(experiment, variants_of(experiment, ["zero_shot"]), seeds=[0], orders=1, out=tmp_path))


def test_a_run_whose_backbone_was_replaced_under_the_same_name_is_refused(
    world: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(world["backbone"], tmp_path / "clip")
    experiment = parse({**world, "backbone": str(tmp_path / "clip")}, "small.toml")
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)  # nothing changed
    model = CLIPModel.from_pretrained(tmp_path / "clip")
    model.visual_projection.weight.data.neg_()
    model.save_pretrained(tmp_path / "clip")
    with pytest.raises(ConfigError, match=r"another backbone of that name .* Put the model back as it was"):
        run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)


def test_a_run_of_an_earlier_embedded_backbone_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    experiment = parse({**world, "backbone": "lpi-tiny"}, "small.toml")
    run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)
    (about,) = tmp_path.rglob("run.json")
    record = unsealed(about, read_json(about))
    record["backbone"]["identity"] = "be5ceb753a8ea2ae"  # before it was trained anew
    write_json(about, sealed(record))
    with pytest.raises(ConfigError, match=r"another backbone of that name \(identity be5ceb753a8ea2ae there"):
        run_experiment(experiment, names=["zero_shot"], out=tmp_path, say=silent)


def test_settings_that_were_tuned_for_another_backbone_are_refused(world: dict[str, Any]) -> None:
    for name in (world["backbone"], "lpi-tiny"):
        experiment = parse({**world, "backbone": name}, "small.toml")
        assert variants_of(experiment, ["lpi"], {"lpi": {"chosen": {}, "backbone": load_backbone(name).identity}})
        with pytest.raises(ConfigError, match=r"tuned for another backbone than .* \(identity be5c there, "):
            variants_of(experiment, ["lpi"], {"lpi": {"chosen": {}, "backbone": "be5c"}})


def test_tuned_settings_of_other_rows_are_refused(experiment: Experiment) -> None:
    assert variants_of(experiment, ["zero_shot", "lpi"], {"lpi": {"chosen": {"training.epochs": 2}}})
    with pytest.raises(ConfigError, match=r"of other rows \(lpi\)\. Leave --tuned away"):
        variants_of(experiment, ["zero_shot"], {"lpi": {"chosen": {"training.epochs": 2}}})


def test_a_method_that_fails_does_not_stop_the_others(experiment: Experiment, tmp_path: Path) -> None:
    broken = (
        OUTSIDE.replace("Louder", "Broken")
        + "\n    def begin_task(self, data, generator):\n        raise IndexError(7)\n"
    )
    (tmp_path / "broken.py").write_text(broken)
    names = [str(tmp_path / "broken.py"), "zero_shot"]
    cells = make_cells(experiment, variants_of(experiment, names), seeds=[0], orders=1, out=tmp_path / "runs")
    outcome = run_cells(cells, say=silent)
    assert set(outcome.failed) == {0}
    record = collect(outcome).to_json()
    assert list(record["rows"]) == ["zero_shot"]
    assert record["failed"]["broken"].startswith("IndexError: 7")
    assert "raise IndexError(7)" in (cells[0].folder / "error.txt").read_text()


def test_nothing_finished_makes_an_empty_table(experiment: Experiment, tmp_path: Path) -> None:
    cells = make_cells(experiment, variants_of(experiment, ["zero_shot"]), seeds=[0], orders=1, out=tmp_path)
    found = collect(Outcome(cells, {0: "no"}))
    assert found.rows == {}
    assert table(found)[1] == []


def test_the_command_compares_in_two_processes_and_goes_on(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    toml = write_toml(world, tmp_path / "small.toml")
    (tmp_path / "louder.py").write_text(OUTSIDE)
    words = ["compare", toml, "--methods", "zero_shot", "--method-file", tmp_path / "louder.py"]
    words += ["--out", tmp_path / "runs", "--jobs", "2", "--results", tmp_path / "small.json"]
    code, out, _ = lpi(*words)
    assert code == 0
    assert "2 runs, 0 of them finished already" in out
    record = read_json(tmp_path / "small.json")
    assert set(record["rows"]) == {"zero_shot", "louder"}
    assert record["rows"]["louder"]["final_r1"] == record["rows"]["zero_shot"]["final_r1"]
    assert record == read_json(tmp_path / "runs" / "small" / "compare.json")
    assert (tmp_path / "runs" / "small" / "compare.csv").read_text().startswith("variant,final_t2i_r1,")
    assert r"\begin{tabular}" in (tmp_path / "runs" / "small" / "compare.tex").read_text()
    assert (tmp_path / "runs" / "small" / "compare.md").read_text().startswith("|  | t2i R@1/5/10 |")
    code, out, _ = lpi(*words, "--json")
    assert code == 0
    assert json.loads(out)["rows"].keys() == record["rows"].keys()
    code, _, err = lpi(*words, "--against", "lourder")
    assert (code, err.strip()) == (2, "lpi: No row is called 'lourder'. Did you mean 'louder'?")


def test_comparisons_lie_beside_each_other_in_the_parts_of_one_file(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    toml, file, out = write_toml(world, tmp_path / "small.toml"), tmp_path / "small.json", tmp_path / "runs"
    words = ["compare", toml, "--methods", "zero_shot", "--jobs", "1", "--no-report", "--out", out, "--results", file]
    assert lpi(*words, "--part", "first")[0] == 0
    assert lpi(*words[:-2], "--results", file, "--seeds", "1", "--part", "second")[0] == 0
    assert lpi(*words, "--part", "first")[0] == 0  # again: the other part stays
    record = read_sealed(file)
    assert {name: part["seeds"] for name, part in record.items()} == {"first": [0], "second": [1]}
    code, _, err = lpi(*words)
    assert code == 2
    assert "small.json holds figures under the names first, second, which would be lost. Say which" in err
    code, printed, _ = lpi("export", file, "--part", "second")
    assert code == 0
    assert "zero_shot" in printed
    code, _, err = lpi("export", file)
    assert (code, err.strip()) == (2, f"lpi: {file} has the parts first, second: choose one with --part.")
    code, _, err = lpi("export", out / "small" / "compare.json", "--part", "first")
    assert err.strip().endswith("compare.json has no parts.")
    code, _, err = lpi(*words[:-2], "--part", "first")
    assert code == 2
    assert "--part NAME needs --results FILE" in err


def test_the_way_to_joint_training_starts_at_the_frozen_model() -> None:
    rows = {name: Row({"final_r1": value}) for name, value in {"half": 15.0, "joint": 20.0, "below": 5.0}.items()}
    add_way(rows, start=10.0, end=20.0, metrics=METRICS["retrieval"])
    assert [row.figures["way_to_joint"] for row in rows.values()] == [50.0, 100.0, -50.0]
    add_way(worse := {"joint": Row({"final_r1": 5.0})}, start=10.0, end=5.0, metrics=METRICS["retrieval"])
    assert "way_to_joint" not in worse["joint"].figures  # there is no such way


def test_rows_are_added_to_those_of_a_results_file(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    toml, file, whole = write_toml(world, tmp_path / "small.toml"), tmp_path / "small.json", tmp_path / "whole.json"
    words = ["compare", toml, "--jobs", "1", "--no-report", "--seeds", "0,1"]
    assert lpi(*words, "--methods", "zero_shot,joint,centred", "--out", tmp_path / "a", "--results", whole)[0] == 0
    assert lpi(*words, "--methods", "zero_shot,joint", "--out", tmp_path / "b", "--results", file, "--add")[0] == 0
    adding = [*words, "--methods", "centred", "--out", tmp_path / "c", "--results", file, "--add"]
    assert lpi(*adding)[0] == 0
    added, at_once = read_sealed(file), read_sealed(whole)
    timed = ("seconds", "train_seconds", "peak_mb")
    for record in (added, at_once):
        for row in record["rows"].values():
            for name in [name for name in row if name.startswith(timed)]:
                del row[name]
    assert [part.split("--methods ")[1].split()[0] for part in added["command"].split(" && ")] == [
        "zero_shot,joint",
        "centred",
    ]
    for what in ("rows", "comparisons", "settings", "against", "frozen", "stream", "seeds"):
        assert added[what] == at_once[what], what
    code, _, err = lpi(*adding, "--set", "training.batch=5")
    assert code == 2
    assert "row 'zero_shot' in" in err
    assert re.search(r"was made with other settings \(training.batch: \d+ there, 5 now\)", err)
    every = [*words, "--methods", "zero_shot,joint,centred", "--out", tmp_path / "d", "--results", file, "--add"]
    assert lpi(*every, "--set", "training.batch=5")[0] == 0  # none of them stays
    assert lpi(*every[:-5], "--out", tmp_path / "a", "--results", file, "--add")[0] == 0
    # without a router nobody asks how routes are scored
    assert lpi(*adding, "--set", "evaluation.routed_weight=0.5")[0] == 0
    assert read_sealed(file)["rows"].keys() == added["rows"].keys()  # nothing is lost
    code, _, err = lpi(*words, "--methods", "centred", "--out", tmp_path / "c", "--add")
    assert code == 2
    assert "--add needs --results FILE" in err


def test_rows_of_planned_pairs_may_have_more_seeds(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    toml = write_toml(world, tmp_path / "small.toml")
    toml.write_text('planned = [["zero_shot", "joint"]]\n' + toml.read_text())
    words = ["compare", toml, "--methods", "zero_shot,joint,centred", "--no-report", "--jobs", "1", "--json"]
    code, out, _ = lpi(*words, "--out", tmp_path / "runs", "--seeds", "0,1", "--planned-seeds", "1-3")
    assert code == 0
    record = json.loads(out)
    assert [len(record["rows"][name]["runs"]) for name in ("zero_shot", "joint", "centred")] == [4, 4, 2]
    assert record["planned"][0]["runs"] == 4


def test_a_process_that_dies_is_one_line_and_the_same_command_goes_on(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    toml, calm = write_toml(world, tmp_path / "small.toml"), tmp_path / "calm"
    dying = (
        f"import multiprocessing, os\n\nif multiprocessing.parent_process() and not os.path.exists({str(calm)!r}):\n"
    )
    (tmp_path / "louder.py").write_text(f"{dying}    os._exit(9)\n{OUTSIDE.partition(chr(10))[2]}")
    words = ["compare", toml, "--methods", "zero_shot", "--method-file", tmp_path / "louder.py", "--jobs", "2"]
    code, _, err = lpi(*words, "--out", tmp_path / "runs")
    assert code == 2
    assert err.count("\n") == 1
    assert "row 'louder' failed: a process of it died" in err
    calm.touch()
    code, out, _ = lpi(*words, "--out", tmp_path / "runs")
    assert code == 0
    assert "louder" in out


def test_the_method_in_the_docs_is_one_short_file_and_appears_in_the_table(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")
    source = page.split("```python\n")[1].split("```")[0]
    assert len(source.splitlines()) < 40
    (tmp_path / "turned.py").write_text(source)
    toml = write_toml(world | {"training": world["training"] | {"learning_rate": 0.1}}, tmp_path / "small.toml")
    words = ["--methods", "zero_shot", "--method-file", tmp_path / "turned.py", "--out", tmp_path, "--jobs", "1"]
    code, out, err = lpi("compare", toml, *words, "--results", tmp_path / "small.json")
    assert code == 0, err
    assert "turned" in out
    rows = read_json(tmp_path / "small.json")["rows"]
    assert rows["turned"]["stored_numbers"] == rows["turned"]["trainable_per_task"] > 0
    recalls = [[rows[row][f"final_{way}_r{k}"] for way in ("t2i", "i2t") for k in (1, 5, 10)] for row in rows]
    assert recalls[0] != recalls[1]  # it learned something
    saved = load_method(tmp_path / "small" / "turned" / "seed-0" / "model", method=tmp_path / "turned.py")
    assert saved.tasks == sorted(COLOURS)
    assert saved.shared_state()["up"].abs().sum() > 0


# ---- tuning ----------------------------------------------------------------------------------------------------------


def test_trials_begin_with_the_row_as_it_stands_and_never_repeat(experiment: Experiment) -> None:
    settings = experiment.variant("lpi")
    trials = trials_of(settings, 99, "lpi")
    assert trials[0].changes == {}
    assert len(trials) == 6  # 3 rates x 2 epochs; one of them is the row as it stands
    tried = {(t.settings.training.learning_rate, t.settings.training.epochs) for t in trials}
    assert tried == {(rate, epochs) for rate in (0.003, 0.01, 0.03) for epochs in (1, 2)}
    assert [t.changes for t in trials_of(settings, 3, "lpi")] == [t.changes for t in trials[:3]]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"training.learning_rate": []}, "search space 'training.learning_rate' must be a list of values; got []"),
        ({"training.optimiser": ["*2"]}, "'training.optimiser' has no number to multiply by 2"),
        ({"training.epochs": ["*two"]}, "'training.epochs' has '*two'; a factor is written like '*3'"),
        ({"training.epoch": [3]}, "has no option 'epoch'. Did you mean 'epochs'?"),
    ],
)
def test_a_search_space_that_is_written_wrongly(search: dict[str, Any], message: str, world: dict[str, Any]) -> None:
    settings = parse({**world, "search": search}, "small.toml").variant("lpi")
    with pytest.raises(ConfigError) as error:
        trials_of(settings, 4, "lpi")
    assert message in str(error.value)


def test_tuning_gives_every_row_its_trials_on_validation_pictures(experiment: Experiment, tmp_path: Path) -> None:
    rows = variants_of(experiment, ["lpi", "zero_shot", "joint"])
    record = tune(experiment, rows, trials=3, seeds=[0], out=tmp_path, say=silent, command="lpi tune small")
    counts = {row: len(found["trials"]) for row, found in record["rows"].items()}
    assert counts == {"lpi": 3, "zero_shot": 1, "joint": 3}
    for found in record["rows"].values():
        best = max(trial["validation_r1"] for trial in found["trials"])
        assert found["validation_r1"] == best
        assert found["chosen"] == next(t["changes"] for t in found["trials"] if t["validation_r1"] == best)
    run = read_json(tmp_path / "small_tune" / "lpi" / "trial-00" / "seed-0" / "run.json")
    assert run["settings"]["stream"]["measured"] == "validation"
    assert [task["test"] for task in run["stream"]["tasks"]] == [4, 4]
    tuned = variants_of(experiment, ["lpi"], record["rows"])["lpi"]
    for key, value in record["rows"]["lpi"]["chosen"].items():
        assert getattr(tuned.training, key.removeprefix("training.")) == value


def test_tuning_goes_on_while_the_best_factor_is_at_an_edge(world: dict[str, Any], tmp_path: Path) -> None:
    settings = parse({**world, "search": {"training.learning_rate": ["*0.5", "*2"]}}, "small.toml")
    rows = variants_of(settings, ["joint"])
    own = rows["joint"].training.learning_rate
    few = tune(settings, rows, trials=3, seeds=[0], out=tmp_path, say=silent)["rows"]["joint"]
    rates = [trial["changes"].get("training.learning_rate", own) for trial in few["trials"]]
    assert sorted(rates) == pytest.approx([own / 2, own, own * 2])
    at_edge = few["chosen"].get("training.learning_rate", own) != own
    assert bool(few["at_edge"]) == at_edge
    more = tune(settings, rows, trials=3, seeds=[0], further=2, out=tmp_path, say=silent)["rows"]["joint"]
    further = [trial["changes"]["training.learning_rate"] for trial in more["trials"][3:]]
    assert bool(further) == at_edge
    assert all(rate < own / 2 or rate > own * 2 for rate in further)
    assert more["trials"][:3] == few["trials"]


def test_the_next_rate_lies_one_step_beyond_the_edge(world: dict[str, Any]) -> None:
    settings = parse({**world, "search": {"training.learning_rate": ["*0.1", "*10"]}}, "small.toml").variant("lpi")
    trials = trials_of(settings, 3, "lpi")
    own = settings.training.learning_rate
    assert beyond(settings, trials, {"training.learning_rate": own * 10}) == {
        "training.learning_rate": pytest.approx(own * 100)
    }
    assert beyond(settings, trials, {"training.learning_rate": own / 10}) == {
        "training.learning_rate": pytest.approx(own / 100)
    }
    assert beyond(settings, trials, {}) == {}  # the row's own is the best, and lies between the others


def test_settings_that_were_tuned_for_another_row_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    record = tune(experiment, variants_of(experiment, ["lpi"]), trials=1, seeds=[0], out=tmp_path, say=silent)
    assert variants_of(experiment, ["lpi"], record["rows"])["lpi"] == variants_of(experiment, ["lpi"])["lpi"]
    longer = experiment.model_copy(update={"training": experiment.training.model_copy(update={"epochs": 9})})
    with pytest.raises(ConfigError, match="row 'lpi' isn't as it was when its tuned settings were chosen"):
        variants_of(longer, ["lpi"], record["rows"])
    elsewhere = experiment.model_copy(
        update={"stream": experiment.stream.model_copy(update={"root": "/another/machine"})}
    )
    assert fingerprint(elsewhere) == fingerprint(experiment)


def test_a_trial_that_blows_up_is_noted_and_not_chosen(world: dict[str, Any], tmp_path: Path) -> None:
    search = {"training.learning_rate": [1e30]}
    experiment = parse({**world, "search": search, "training": {**world["training"], "clip": 0, "epochs": 4}}, "s.toml")
    record = tune(experiment, variants_of(experiment, ["joint"]), trials=2, seeds=[0], out=tmp_path, say=silent)
    good, bad = record["rows"]["joint"]["trials"]
    assert record["rows"]["joint"]["chosen"] == good["changes"] == {}
    assert bad["validation_r1"] is None
    assert "loss is nan" in bad["failed"]


def test_the_validation_pictures_take_the_place_of_the_test_pictures(experiment: Experiment) -> None:
    stream = open_stream(experiment.stream, "small")
    chosen = stream.on_validation()
    assert [task.test for task in chosen.tasks] == [task.validation for task in stream.tasks]
    assert all(not task.validation for task in chosen.tasks)
    assert not chosen.held_out
    with pytest.raises(DataError, match="Task 'cold' of stream 'small' has no validation pictures"):
        chosen.on_validation()


def test_the_command_writes_what_compare_reads(
    lpi: Callable[..., tuple[int, str, str]], world: dict[str, Any], tmp_path: Path
) -> None:
    toml = write_toml(world, tmp_path / "small.toml")
    tuned = tmp_path / "tuned.json"
    code, out, _ = lpi(
        "tune", toml, "--methods", "lpi", "--trials", 2, "--out", tmp_path, "--results", tuned, "--jobs", 1
    )
    assert code == 0
    assert f"lpi compare {toml} --tuned {tuned}" in out.replace("\n", "")
    code, out, _ = lpi("compare", toml, "--methods", "lpi", "--tuned", tuned, "--out", tmp_path, "--jobs", 1, "--json")
    assert code == 0
    record = json.loads(out)
    found = read_json(tuned)
    assert record["tuned"]["lpi"]["trials"] == found["rows"]["lpi"]["trials"]

    found["rows"]["lpi"]["chosen"] = {"training.learning_rate": 0.123}
    write_json(tmp_path / "later.json", found)
    both = ["--tuned", tuned, "--tuned", tmp_path / "later.json"]
    code, out, _ = lpi("compare", toml, "--methods", "lpi", *both, "--out", tmp_path / "again", "--jobs", 1, "--json")
    assert code == 0
    assert json.loads(out)["settings"]["lpi"]["training"]["learning_rate"] == 0.123  # the last file counts


def test_a_bench_serves_every_row_of_its_stream(experiment: Experiment) -> None:
    bench = Bench(experiment, silent)
    assert bench.evaluator(experiment.variant("joint")) is bench.evaluator(experiment)
