"""A method of one's own: one file outside the package, named by its path or as a module wherever a method is named."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import Type, refused
from PIL import Image
from search_world import World

import lpi
from lpi.backbones import DualEncoder
from lpi.config import parse
from lpi.errors import CheckpointError, ConfigError, MissingFileError, UnknownNameError
from lpi.evaluation.scheduler import run_experiment
from lpi.methods import method, method_class, method_source
from lpi.methods.base import Learner, Method
from lpi.methods.checkpoint import load_method
from lpi.search import SearchIndex
from lpi.search.writer import change
from lpi.storage import read_json
from lpi.tasks.stream import TaskStream

#: what CONTRIBUTING.md shows a person
GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
MINE = GUIDE.partition("```python\n")[2].partition("```\n")[0]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "my_shift.py"
    file.write_text(MINE)
    return file


def test_it_takes_fewer_than_forty_lines() -> None:
    assert len(MINE.splitlines()) < 40


def test_a_file_is_a_method_by_its_path(
    mine: Path, clip: DualEncoder, stream: TaskStream, learn: Callable[..., Method], captions: list[str]
) -> None:
    model = learn(method(str(mine), clip, step=0.5), stream.tasks[:1])
    assert type(model).__name__ == "Shift"
    assert type(model) is method_class(str(mine))  # executed once
    assert model.options.step == 0.5
    model.save_pretrained(mine.parent / "model")
    loaded = type(model).from_pretrained(mine.parent / "model", backbone=clip)
    assert loaded.encode_texts(captions).equal(model.encode_texts(captions))
    assert not loaded.encode_texts(captions).equal(method(str(mine), clip).encode_texts(captions))


def test_a_module_is_a_method_by_its_name(mine: Path, clip: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    package = mine.parent / "my_lab"
    package.mkdir()
    mine.rename(package / "shifting.py")
    monkeypatch.syspath_prepend(mine.parent)
    for name in ("my_lab.shifting", "my_lab"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    model = method("my_lab.shifting", clip)
    assert method_source(type(model)) == "my_lab.shifting"
    assert method_source(method_class("lpi")) == "lpi"


def test_an_experiment_runs_it_and_names_its_row_after_the_file(mine: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "name": "own",
        "method": {"name": str(mine), "step": 2.0},
        "rows": {"shorter": {"method.step": 0.1}, "zero_shot": {"method.name": "zero_shot"}},
        "stream": {"families": ["food", "animal"], "train": 8, "validation": 0, "test": 4, "held_out": 0},
        "training": {"steps": 1, "batch": 4, "device": "cpu"},
        "evaluation": {"examples": 0},
    }
    experiment = parse(content, "own.toml")
    assert experiment.variant_names() == ["my_shift", "shorter", "zero_shot"]
    folders = run_experiment(experiment, names=["my_shift", "shorter"], out=tmp_path / "runs", say=lambda line: None)
    assert folders["my_shift"][0] == tmp_path / "runs" / "own" / "my_shift" / "seed-0"
    for name, step in (("my_shift", 2.0), ("shorter", 0.1)):
        folder = folders[name][0]
        assert read_json(folder / "run.json")["method"]["options"] == {"preset": None, "step": step}
        assert read_json(folder / "result.json")["trainable_per_task"] > 0
        assert read_json(folder / "model" / "config.json")["method"] == "my_shift.py"  # and leads nowhere


def test_a_saved_one_is_loaded_only_by_whoever_names_it(mine: Path, clip: DualEncoder, tmp_path: Path) -> None:
    model, folder = method(str(mine), clip, step=0.5), tmp_path / "model"
    model.save_pretrained(folder)
    for load in (load_method, Method.from_pretrained, Learner.from_pretrained):
        with pytest.raises(
            CheckpointError, match=r"a method of its own, 'my_shift\.py'; name its file: .*--method-file"
        ):
            load(folder, backbone=clip)
    for named in (mine, str(mine), type(model)):
        assert type(load_method(folder, backbone=clip, method=named)) is type(model)
    assert type(type(model).from_pretrained(folder, backbone=clip)) is type(model)
    method("finetune", clip).save_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"holds a FineTune, not a Shift: .* Leave the method out"):
        load_method(tmp_path / "ours", backbone=clip, method=mine)


def test_an_index_of_one_is_opened_and_changed_only_by_whoever_names_it(mine: Path, world: World) -> None:
    backbone = lpi.backbone(tiny.tiny_clip(mine.parent / "clip"))
    place = mine.parent / "index"
    made = SearchIndex.build(method(str(mine), backbone), world.photos / "warm", index=place, device="cpu")
    assert len(made) == len(SearchIndex.open(place, device="cpu", method_file=mine)) == 8
    with pytest.raises(CheckpointError, match=r"a method of its own, 'my_shift\.py'; name its file"):
        SearchIndex.open(place, device="cpu")
    with pytest.raises(CheckpointError, match="name its file"), change(place, device="cpu"):
        pass
    with change(place, device="cpu", method_file=mine) as writer:
        assert type(writer.copy()) is type(writer.method)


def test_commands_that_load_one_take_its_file(
    mine: Path, clip: DualEncoder, type_command: Type, tmp_path: Path
) -> None:
    method(str(mine), clip).save_pretrained(tmp_path / "model")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    ask = ("caption", tmp_path / "a.png", "--caption", "a dog", "--index", tmp_path / "index")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "b.png")
    make = ("index", tmp_path / "photos", "--index", tmp_path / "index", "--model", tmp_path / "model")
    refused(type_command(*make), "'my_shift.py'; name its file")
    assert type_command(*make, "--method-file", mine).code == 0
    refused(type_command(*ask), "'my_shift.py'; name its file")
    assert type_command(*ask, "--method-file", mine).code == 0


def test_what_is_wrong_with_it_is_said(mine: Path, clip: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method 'my_shift' has no option 'stepp'\. Did you mean 'step'\?"):
        method(str(mine), clip, stepp=1)
    with pytest.raises(MissingFileError, match=r"your_shift\.py: there is no such file"):
        method(str(tmp_path / "your_shift.py"), clip)
    for text, message in (
        ("x = 1", r"must define exactly one subclass of lpi\.methods\.base\.Learner; found none"),
        (MINE + "\n\nclass Other(Shift):\n    pass\n", "exactly one .*; found Other, Shift"),
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("def f(:", "SyntaxError"),
    ):
        file = tmp_path / f"wrong_{len(text)}.py"
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            method(str(file), clip)


def test_a_name_that_is_nothing_is_refused_with_the_nearest_method(clip: DualEncoder) -> None:
    with pytest.raises(UnknownNameError, match=r"No method is called 'finetun'. Did you mean 'finetune'\?"):
        method("finetun", clip)
    with pytest.raises(UnknownNameError, match=r"No method is called 'no\.such\.place'"):
        method("no.such.place", clip)
    with pytest.raises(ConfigError, match=r"json must define exactly one subclass .* found none"):
        method("json", clip)
