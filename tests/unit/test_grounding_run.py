"""A run over expressions: learns in turn, measures every stage, goes on after a stop, and ends in figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import outcome
from tiny_grounding import tiny_dino, tiny_owl
from torch import Tensor

from lpi.backbones.detectors import Detections, GroundingBackbone, PictureInputs, load_grounding_backbone
from lpi.config import EvaluationSettings, Experiment, parse, read_experiment
from lpi.data.expressions.record import ReferringExpression
from lpi.errors import ConfigError, DataError
from lpi.evaluation.grounding import open_expressions
from lpi.evaluation.precision import GroundingEvaluator
from lpi.evaluation.records import Routing
from lpi.evaluation.results import RUN, Results, collect, table
from lpi.evaluation.run import evaluate_saved
from lpi.evaluation.scheduler import make_cells, run_cells, run_experiment, variants_of
from lpi.evaluation.tuning import tune
from lpi.methods import method as make_method
from lpi.methods.base import FALLBACK, Jointly
from lpi.methods.encoder import tokens
from lpi.methods.grounding.base import GroundingMethod
from lpi.methods.options import RoutedOptions
from lpi.metrics.boxes import KS
from lpi.report import write_report
from lpi.routing.nearest import NearestKeys
from lpi.tasks.grounding import GroundingStream
from lpi.trainer import Step

STREAM = {
    "kind": "scene_expressions",
    "families": ["food", "animal", "vehicle"],
    "train": 8,
    "validation": 2,
    "test": 6,
    "held_out": 4,
}
METHOD = {"name": "lpi", "rank": 2, "length": 4, "interaction_rank": 2, "clusters": 2, "route_by": "both"}


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_owl(tmp_path_factory.mktemp("owl"))


def experiment(owl: Path, **changes: Any) -> Experiment:
    content = {
        "name": "boxes",
        "backbone": str(owl),
        "stream": STREAM,
        "method": METHOD,
        "training": {"epochs": 2, "batch": 4, "checkpoint_seconds": 0, "device": "cpu"},
        "evaluation": {"examples": 2, "batch": 8},
        "rows": {
            "finetune": {"method": {"name": "finetune"}, "training.learning_rate": 1e-4},
            "joint": {"method": {"name": "joint"}, "training.learning_rate": 1e-4},
            "no_interaction": {"method.interaction": False},
        },
        **changes,
    }
    return parse(content, "boxes.toml")


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def runs(owl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, Path]]:
    out = tmp_path_factory.mktemp("runs")
    chosen = experiment(owl)
    return run_experiment(chosen, names=chosen.variant_names(), out=out, say=quiet, command="lpi run boxes")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_every_stage_measures_every_task_seen(runs: dict[str, dict[int, Path]]) -> None:
    folder = runs["lpi"][0]
    stages = [read(folder, str(path)) for path in sorted((folder / "stages").glob("*.json"))]
    assert [stage["task"] for stage in stages] == ["food", "animal", "vehicle"]
    for number, stage in enumerate(stages):
        assert {k: len(values) for k, values in stage["seen"].items()} == {f"p{k}": number + 1 for k in KS}
        assert {k: len(values) for k, values in stage["oracle"].items()} == {f"p{k}": number + 1 for k in KS}
        assert sum(map(sum, stage["routing"]["both"]["confusion"])) == 6 * (number + 1)
        assert stage["held_out"].keys() == {"p1", "p5", "p10"}
        assert (stage["next"] is None) == (number == 2)
        assert stage["parameters"]["trainable"] > 0
    frozen = read(folder, "frozen.json")
    assert [len(stage["seen"]["p1"]) for stage in frozen["stages"]] == [1, 2, 3]


def test_figures_come_in_the_form_that_is_committed(runs: dict[str, dict[int, Path]], owl: Path) -> None:
    chosen, out = experiment(owl), runs["lpi"][0].parents[2]
    cells = make_cells(chosen, variants_of(chosen), seeds=[0], orders=1, out=out)
    results = collect(run_cells(cells, say=quiet), command="lpi run boxes")  # all of them are finished
    record = results.to_json()
    assert list(record["rows"]) == ["lpi", "finetune", "joint", "no_interaction"]
    assert record["frozen"].keys() == {"final_p1", "final_p5", "final_p10", "held_out_p1", "forgetting_p1"}
    assert {"final_p1", "final_p1_std", "forgetting_p1", "routing_accuracy", "oracle_p1"} <= record["rows"][
        "lpi"
    ].keys()
    assert "routing_accuracy" not in record["rows"]["finetune"]
    assert record["comparisons"].keys() == record["rows"].keys() - {record["against"]}
    assert Results.from_json(json.loads(json.dumps(record))) == results
    head, body = table(results, RUN)
    assert head[1:4] == ["P@1", "P@5", "P@10"]
    assert [row[0] for row in body] == ["frozen model", *record["rows"]]
    assert len({len(row) for row in [head, *body]}) == 1


def test_examples_are_drawn_before_and_after(runs: dict[str, dict[int, Path]]) -> None:
    folder = runs["lpi"][0]
    examples = read(folder, "examples.json")
    assert len(examples) == 2
    for example in examples:
        assert example["task"] in STREAM["families"]
        for moment in ("before", "after"):
            assert (folder / example[moment]["picture"]).read_bytes().startswith(b"\x89PNG")
            assert example[moment]["right"] == (example[moment]["iou"] >= 0.5)
            left, top, right, bottom = example[moment]["boxes"][0]
            assert 0 <= left <= right <= 224
            assert 0 <= top <= bottom <= 224


def test_the_report_shows_figures_and_boxes(runs: dict[str, dict[int, Path]], tmp_path: Path) -> None:
    page = write_report([folder for by_seed in runs.values() for folder in by_seed.values()], tmp_path).read_text()
    result = read(runs["lpi"][0], "result.json")
    assert f"{100 * result['final']['p1']:.1f}" in page
    example = read(runs["lpi"][0], "examples.json")[0]
    assert example["expression"] in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert "no_interaction" in page


class Stopped(Exception):  # noqa: N818
    """Stands for a power cut."""


@pytest.mark.parametrize("row", ["lpi", "finetune"])
def test_a_run_that_was_stopped_ends_the_same(
    row: str, runs: dict[str, dict[int, Path]], owl: Path, tmp_path: Path
) -> None:
    left = [3, 6]  # steps until it is stopped; a task has four

    def stop(step: Step) -> None:
        if left:
            left[0] -= 1
            if left[0] == 0:
                left.pop(0)
                raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            run_experiment(experiment(owl), names=[row], out=tmp_path, say=quiet, on_step=stop)
    folders = run_experiment(experiment(owl), names=[row], out=tmp_path, say=quiet)
    assert outcome(folders[row][0], kept=(".safetensors", ".png")) == outcome(
        runs[row][0], kept=(".safetensors", ".png")
    )
    told: list[str] = []
    run_experiment(experiment(owl), names=[row], out=tmp_path, say=told.append)
    assert told[0] == "1 runs, 1 of them finished already"


def test_a_saved_model_is_measured_again(runs: dict[str, dict[int, Path]], owl: Path) -> None:
    folder = runs["lpi"][0]
    names, record = evaluate_saved(folder / "model", experiment(owl))
    last = read(folder, "stages/02-vehicle.json")
    assert names == ["food", "animal", "vehicle"]
    assert record.seen == last["seen"]
    assert record.routing is not None
    assert record.routing["both"].confusion == last["routing"]["both"]["confusion"]


# ---- comparing and tuning --------------------------------------------------------------------------------------------


def test_methods_on_expressions_are_compared_over_task_orders(owl: Path, tmp_path: Path) -> None:
    chosen = experiment(owl, training={"steps": 1, "batch": 4, "device": "cpu"})
    variants = variants_of(chosen, ["lpi", "finetune", "zero_shot"])
    assert variants["zero_shot"].method == {"name": "zero_shot"}  # a method as a row, though the file has none
    outcome = run_cells(make_cells(chosen, variants, seeds=[0, 1], orders=2, out=tmp_path), say=quiet)
    results = collect(outcome, against="zero_shot")
    assert [(run["seed"], run["order"]) for run in results.rows["lpi"].runs] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert results.rows["zero_shot"].figures["final_p1_std"] == 0
    assert results.comparisons["lpi"].runs == 4
    head, body = table(results)
    assert head[-1] == "vs zero_shot"
    assert {row[0] for row in body} == {"lpi", "finetune", "zero_shot"}
    page = write_report([cell.folder for cell in outcome.cells], tmp_path / "page").read_text()
    assert "lpi · order 2" in page


def test_settings_for_expressions_are_tuned_on_validation_expressions(owl: Path, tmp_path: Path) -> None:
    chosen = experiment(
        owl,
        training={"steps": 1, "batch": 4, "device": "cpu"},
        search={"training.learning_rate": ["*1", "*3"]},
    )
    record = tune(chosen, variants_of(chosen, ["lpi", "zero_shot"]), trials=2, seeds=[0], out=tmp_path, say=quiet)
    assert {name: len(row["trials"]) for name, row in record["rows"].items()} == {"lpi": 2, "zero_shot": 1}
    found = record["rows"]["lpi"]
    assert found["validation_p1"] == max(trial["validation_p1"] for trial in found["trials"])
    run = read(tmp_path / "boxes_tune" / "lpi" / "trial-00" / "seed-0", "run.json")
    assert [task["test"] for task in run["stream"]["tasks"]] == [2, 2, 2]


# ---- the figures themselves ------------------------------------------------------------------------------------------


class Oracle(GroundingMethod):
    """Knows the answers: the second box under route 0, the first under route 1, none under others."""

    stable = True

    def __init__(self, backbone: GroundingBackbone, truth: dict[str, Tensor]) -> None:
        super().__init__(backbone, RoutedOptions(router="nearest", routing=NearestKeys.Options()))
        self.truth, self.asked = truth, 0
        self.sent = torch.tensor([0])

    def read(self, method: Any, texts: Any) -> Any:
        self.texts = list(texts)
        return tokens(method, texts)

    def routes(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.sent[: len(features["vision"])]

    def detect(self, pictures: PictureInputs, texts: Any, route: int) -> Detections:
        self.asked += len(texts)
        wrong = torch.tensor([0.01, 0.01, 0.01, 0.01])
        right = [self.truth[text] if route < 2 else wrong for text in self.texts]
        boxes = torch.stack([torch.stack([wrong, box] if route == 0 else [box, wrong]) for box in right])
        whole = torch.ones(len(texts), 1, dtype=torch.bool)
        logits = torch.tensor([[[2.0], [1.0]]]).expand(len(texts), -1, -1)
        return Detections(boxes, logits, whole, whole)


def records(stream: GroundingStream) -> list[ReferringExpression]:
    return [record for task in stream.tasks for record in task.test]


def test_precision_follows_the_route_and_is_asked_for_once(owl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_grounding_backbone(owl)
    stream = GroundingStream.from_scenes(families=["food", "animal"], train=2, validation=0, test=5, held_out=0)
    tests = records(stream)
    words = [f"{record.expression} {number}" for number, record in enumerate(tests)]
    named = [
        ReferringExpression(r.picture, text, r.box, r.size, r.task, r.split)
        for r, text in zip(tests, words, strict=True)
    ]
    stream = GroundingStream.from_records(
        [*named, *(record for task in stream.tasks for record in task.train)], name="x", order=["food", "animal"]
    )
    corners = [torch.tensor(record.box) / 224 for record in named]
    truth = {
        text: torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]) for text, box in zip(words, corners, strict=True)
    }
    method = Oracle(backbone, truth)
    monkeypatch.setattr("lpi.evaluation.precision.tokens", method.read)
    evaluator = GroundingEvaluator(backbone, stream, EvaluationSettings(batch=4, transfer=False))
    method.sent = torch.tensor([0, 0, 1, 1, 1, 0, 1, 1, FALLBACK, 1])
    record = evaluator.stage(method, 1)
    frozen = evaluator.test.ranks(None, torch.tensor([8]), torch.tensor([FALLBACK])).expected()
    assert record.seen["p1"] == [3 / 5, (3 + float(frozen[0] <= 1)) / 5]
    assert record.seen["p5"] == [1.0, (4 + float(frozen[0] <= 5)) / 5]
    assert record.oracle == {"p1": [0.0, 1.0], "p5": [1.0, 1.0], "p10": [1.0, 1.0]}
    assert record.routing == {"both": Routing(0.5, [[2, 3, 0], [1, 3, 1]])}
    asked = method.asked
    evaluator.stage(method, 1)
    assert method.asked == asked  # nothing is looked for twice


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": {**STREAM, "familys": ["food"]}}, "has no option 'familys'. Did you mean 'families'"),
        ({"stream": {"kind": "expressions"}}, "missing 1 required positional argument: 'path'"),
        ({"stream": {"kind": "mdetr", "files": "x", "image_rot": "y"}}, "Did you mean 'image_root'"),
    ],
)
def test_a_source_says_what_it_lacks_or_does_not_know(changes: dict[str, Any], message: str, owl: Path) -> None:
    chosen = experiment(owl, **changes)
    with pytest.raises(ConfigError, match=message):
        open_expressions(chosen.stream, "boxes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"gallery": "own"}}, r"\[evaluation\] has no option 'gallery' for a stream of kind 'scene_exp"),
        ({"training": {"augment": "flip"}}, r"\[training\] has no option 'augment'"),
        ({"evaluation": {"overlap": "iou"}, "stream": {"kind": "scenes"}}, r"no option 'overlap' .* kind 'scenes'"),
    ],
)
def test_settings_that_nothing_would_obey_are_refused(changes: dict[str, Any], message: str, owl: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(owl, **changes)


def test_a_task_without_validation_expressions_has_none_to_choose_on() -> None:
    stream = GroundingStream.from_scenes(families=["food"], train=2, validation=0, test=2, held_out=0)
    with pytest.raises(DataError, match="has no validation expressions"):
        stream.on_validation()


def test_every_row_of_the_shipped_experiment_can_be_built(owl: Path) -> None:
    shipped = read_experiment("grounding_scenes")
    backbone = load_grounding_backbone(owl)
    built = {}
    for name in shipped.variant_names():
        options = dict(shipped.variant(name).method)
        small = {} if "name" in shipped.rows.get(name, {}).get("method", {}) else {"length": 4}
        built[name] = make_method(options.pop("name"), backbone, **options, **small)
    assert built["lpi"].options.route_by == "both"
    assert built["s_prompts"].options.prompts.decomposition == "free"
    assert isinstance(built["joint"], Jointly)
    assert {name[3:] for name in built if name.startswith("no_")} == {
        "interaction",
        "layer_loss",
        "place_loss",
        "task_loss",
    }


def test_the_towers_that_advance_together_run_too(tmp_path: Path) -> None:
    stream = {**STREAM, "families": ["food", "animal"], "train": 2, "test": 2, "held_out": 0}
    chosen = experiment(tiny_dino(tmp_path / "dino", mm=True), stream=stream, training={"steps": 1, "batch": 2})
    folders = run_experiment(chosen, out=tmp_path / "runs", say=quiet)
    assert read(folders["lpi"][0], "result.json")["final"].keys() == {"p1", "p5", "p10"}
