"""A stream of frozen features is a stream like another, and gives the same figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Type

from lpi import feature_files
from lpi.backbones import DualEncoder, load_backbone
from lpi.config import TrainingSettings, parse
from lpi.errors import BackboneError, ConfigError, DataError, LpiError, MissingFileError, OutputError
from lpi.evaluation.bench import Bench
from lpi.evaluation.recall import Evaluator
from lpi.evaluation.scheduler import run_experiment
from lpi.feature_files import write_features
from lpi.features import TrainingSet
from lpi.methods import method, method_class
from lpi.search import SearchIndex
from lpi.storage import checksum, read_tensors, write_tensors
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task, training_for

UNTRAINED = TrainingSettings(epochs=0, device="cpu")
ROUTED: dict[str, Any] = {"router": "whitened"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, stream: TaskStream, clip: DualEncoder) -> Path:
    """The painted stream's features."""
    root = tmp_path_factory.mktemp("features") / "painted"
    write_features(stream, clip, root, batch=7)
    return root


def test_the_features_are_those_of_the_backbone(folder: Path, stream: TaskStream, clip: DualEncoder) -> None:
    backbone, again = load_backbone(folder), TaskStream.from_features(folder)
    assert [task.name for task in again.tasks] == [task.name for task in stream.tasks]
    for task, same in zip(stream.tasks, again.tasks, strict=True):
        assert [one.captions for one in same.test] == [one.captions for one in task.test]
        there, here = TrainingSet(task, clip), TrainingSet(same, backbone)
        torch.testing.assert_close(here.image_features, there.image_features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(here.text_features, there.text_features, rtol=1e-5, atol=1e-6)
    assert float(backbone.logit_scale) == float(clip.logit_scale)
    assert backbone.depths == clip.depths
    assert load_backbone(folder).identity == backbone.identity != clip.identity


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("zero_shot", {}),
        ("cca", {"maps": "sum", "dimensions": 8}),
        ("ridge", {"maps": "sum"}),
        ("centred", {}),
        ("nnn", {"neighbours": 3}),
        ("zero_shot", ROUTED),
        ("cca", {**ROUTED, "dimensions": 8}),
    ],
)
def test_a_method_over_features_finds_what_it_finds_over_the_pictures(
    name: str, options: dict[str, Any], folder: Path, stream: TaskStream, clip: DualEncoder
) -> None:
    settings = parse({"evaluation": {"examples": 0, "scoring": "routed" if options.get("router") else "plain"}}, "here")
    figures = []
    for backbone, own in ((clip, stream), (load_backbone(folder), TaskStream.from_features(folder))):
        evaluator = Evaluator(backbone, own, settings.evaluation)
        model = method(name, backbone, **options)
        for stage, task in enumerate(own.tasks):
            learn_task(model, task, settings=UNTRAINED)
            figures.append(evaluator.stage(model, stage))
    half = len(figures) // 2
    assert [one.seen for one in figures[:half]] == [one.seen for one in figures[half:]]
    assert [one.routing for one in figures[:half]] == [one.routing for one in figures[half:]]


TURNED = '''"""A map of the features of pictures, learned by steps."""
import torch
from torch import nn
from lpi.losses import item_loss
from lpi.methods.base import Method

class Turned(Method):
    def __init__(self, backbone, options=None):
        super().__init__(backbone, options)
        self.map = nn.Parameter(torch.eye(backbone.feature_width))
    def image_features(self, images, route):
        return nn.functional.normalize(super().image_features(images, route) @ self.map, dim=-1)
    def loss(self, batch):
        both = self.image_features(batch.images, 0), self.text_features(batch.texts, 0)
        return {"item": item_loss(*both, batch.positives, logit_scale=self.backbone.logit_scale.exp())}
'''


def test_a_method_of_ten_lines_learns_over_features(
    folder: Path, stream: TaskStream, clip: DualEncoder, tmp_path: Path
) -> None:
    (tmp_path / "turned.py").write_text(TURNED)
    maps = []
    for backbone, own in ((clip, stream), (load_backbone(folder), TaskStream.from_features(folder))):
        model = method(tmp_path / "turned.py", backbone)
        learn_task(model, own.tasks[0], settings=TrainingSettings(steps=3, batch=8, device="cpu"))
        maps.append(model.map.detach())
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(maps[0], torch.eye(len(maps[0])), atol=1e-3)


def test_an_experiment_runs_over_a_folder_of_features(folder: Path) -> None:
    content = {
        "backbone": str(folder),
        "stream": {"kind": "features", "root": str(folder), "order": ["dull", "warm"]},
        "method": {"name": "ridge", "maps": "sum"},
    }
    bench = Bench(parse(content, "here"), lambda line: None)
    assert [task.name for task in bench.stream.tasks] == ["dull", "warm"]
    assert len(bench.training(0)) == 16


def test_features_are_read_by_the_backbone_of_their_folder_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "same")
    stream = {"kind": "features", "root": str(folder)}
    for backbone in ({}, {"backbone": str(tmp_path / "same")}):
        with pytest.raises(ConfigError, match="holds features, which another backbone can't read"):
            Bench(parse({"stream": stream, **backbone}, "here"), lambda line: None)


def test_a_run_over_features_that_were_replaced_is_refused(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "features")
    stream, quick = {"kind": "features", "root": str(root)}, {"diagnostics": False, "examples": 0}
    experiment = parse(
        {"backbone": str(root), "stream": stream, "method": {"name": "zero_shot"}, "evaluation": quick}, "x"
    )
    run_experiment(experiment, out=tmp_path, say=lambda line: None)
    run_experiment(experiment, out=tmp_path, say=lambda line: None)  # nothing changed
    tensors = read_tensors(root / "features.safetensors")
    other = {**tensors, "vision": tensors["vision"].flip(0)}
    write_tensors(root / "features.safetensors", other)
    noted = json.loads((root / "features.json").read_text())
    (root / "features.json").write_text(json.dumps({**noted, "tensors": checksum(other)}))
    with pytest.raises(ConfigError, match=r"a run over other data .* start over with --fresh"):
        run_experiment(experiment, out=tmp_path, say=lambda line: None)


def test_another_programs_file_stays_and_what_was_cut_short_is_no_folder_of_features(
    folder: Path, stream: TaskStream, clip: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features.json").write_text('{"type": "FeatureCollection"}')
    with pytest.raises(OutputError, match="speaks of no features, and would be lost"):
        write_features(stream, clip, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["features.json"]
    root = shutil.copytree(folder, tmp_path / "features")

    def stopped(*what: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_files, "write_json", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_features(stream, clip, root)
    with pytest.raises(MissingFileError):
        TaskStream.from_features(root)


CHANGING = ["finetune", "linear", "lora", "moe_adapters", "dar", "s_prompts", "coop", "lpi", "maple"]


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_the_model_is_refused(name: str, folder: Path) -> None:
    backbone, task = load_backbone(folder), TaskStream.from_features(folder).tasks[0]
    with pytest.raises(LpiError, match=r"Name a backbone|Name another backbone|linear"):
        learn_task(
            method(name, backbone), task, settings=training_for(method_class(name), {"steps": 1, "device": "cpu"})
        )


def test_what_is_not_in_the_folder_is_refused(folder: Path, stream: TaskStream) -> None:
    model = method("zero_shot", load_backbone(folder))
    with pytest.raises(ConfigError, match="no model that reads other texts, such as 'a heron'"):
        model.encode_texts(["a heron"])
    with pytest.raises(ConfigError, match="no model that sees other pictures"):
        model.encode_images([stream.tasks[0].train[0].picture.open()])
    routed = method("zero_shot", load_backbone(folder), router="whitened", routing_vision=1.0)
    with pytest.raises(ConfigError, match=r"after 4 blocks of the vision tower; .* holds those after 3"):
        learn_task(routed, TaskStream.from_features(folder).tasks[0], settings=UNTRAINED)


def test_no_index_is_made_with_features(folder: Path, stream: TaskStream, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    stream.tasks[0].train[0].picture.open().save(tmp_path / "photos" / "a.png")
    with pytest.raises(BackboneError, match="no model that sees other pictures"):
        SearchIndex.build(folder, tmp_path / "photos", device="cpu")


def test_a_folder_of_ones_own_needs_features_and_captions_alone(tmp_path: Path) -> None:
    pictures = [
        {"name": f"{split}-{number}", "captions": [f"{split} {number}"], "task": "all", "split": split}
        for split in ("train", "test")
        for number in range(4)
    ]
    (tmp_path / "features.json").write_text(json.dumps({"pictures": pictures}))
    eye = torch.eye(8)
    write_tensors(tmp_path / "features.safetensors", {"vision": eye, "text": eye.flip(0)})
    backbone, stream = load_backbone(tmp_path), TaskStream.from_features(tmp_path)
    model = method("ridge", backbone, maps="sum")
    learn_task(model, stream.tasks[0], settings=UNTRAINED)
    own = [record.captions[0] for record in stream.tasks[0].train]
    torch.testing.assert_close(model.encode_texts(own)[:, 8:], eye.flip(0)[:4] / 2**0.5)
    with pytest.raises(ConfigError, match="holds none"):
        learn_task(
            method("zero_shot", backbone, router="whitened"),
            stream.tasks[0],
            settings=UNTRAINED,
        )


def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors, noted = read_tensors(folder / "features.safetensors"), json.loads((folder / "features.json").read_text())

    def written(changed: Any, rows: Any = tensors) -> Path:
        (tmp_path / "features.json").write_text(json.dumps(changed))
        write_tensors(tmp_path / "features.safetensors", rows)
        return tmp_path

    with pytest.raises(BackboneError, match=r"features\.safetensors isn't what features\.json speaks of"):
        load_backbone(written(noted, {**tensors, "vision": tensors["vision"].flip(0)}))
    del noted["tensors"]  # as an earlier version, or a person, wrote it
    with pytest.raises(BackboneError, match=r'"vision" must have 71 rows'):
        load_backbone(written({**noted, "pictures": noted["pictures"][1:]}))
    with pytest.raises(BackboneError, match=r"rows of {.*} numbers aren't what features.json says"):
        load_backbone(written({**noted, "summary": {"vision": 10**4, "text": 1}}))
    for wrong in ({"vision": -1}, {"vision": "many"}, {"text": 10**9}, 3):
        with pytest.raises(BackboneError, match="expected a whole number for each tower; got"):
            load_backbone(written({**noted, "depth": wrong}))
    with pytest.raises(BackboneError, match="must be one number"):
        load_backbone(written(noted, {**tensors, "logit_scale": torch.ones(2)}))
    with pytest.raises(BackboneError, match="numbers aren't what"):
        load_backbone(written({"pictures": noted["pictures"]}, {**tensors, "text": tensors["text"][:, 1:]}))
    with pytest.raises(DataError, match='picture 0: "captions" must be texts'):
        load_backbone(written({**noted, "pictures": [{**noted["pictures"][0], "captions": [3]}]}))


def test_the_command_writes_them(tmp_path: Path, type_command: Type) -> None:
    experiment = tmp_path / "few.toml"
    counts = {"train": 4, "validation": 2, "test": 3, "held_out": 2}
    lines = ["[stream]", 'kind = "scenes"', 'families = ["animal", "food"]', *(f"{k} = {n}" for k, n in counts.items())]
    experiment.write_text("\n".join(lines))
    ended = type_command("features", experiment, "--out", tmp_path / "few")
    assert ended.code == 0, ended.err
    stream = TaskStream.from_features(tmp_path / "few")
    assert [(len(task.train), len(task.validation), len(task.test)) for task in stream.tasks] == [(4, 2, 3)] * 2
    assert len(stream.held_out) == 2
    assert load_backbone(tmp_path / "few").feature_width == load_backbone("lpi-tiny").feature_width
