"""A method of one's own: one file outside the package, named by its path or as a module wherever a method is named."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lpi.backbones import DualEncoder
from lpi.config import parse
from lpi.errors import ConfigError, MissingFileError, UnknownNameError
from lpi.evaluation.harness import run_experiment
from lpi.methods import method, method_class, method_source
from lpi.methods.base import Method
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
    assert model.options == {"step": 0.5}
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
    assert experiment.row_names() == ["my_shift", "shorter", "zero_shot"]
    folders = run_experiment(experiment, rows=["my_shift", "shorter"], out=tmp_path / "runs", say=lambda line: None)
    assert folders["my_shift"][0] == tmp_path / "runs" / "own" / "my_shift" / "seed-0"
    for name, step in (("my_shift", 2.0), ("shorter", 0.1)):
        folder = folders[name][0]
        assert read_json(folder / "run.json")["method"]["options"] == {"step": step}
        assert read_json(folder / "result.json")["trainable_per_task"] > 0
        assert read_json(folder / "model" / "config.json")["method"] == str(mine)


def test_what_is_wrong_with_it_is_said(mine: Path, clip: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method 'my_shift' has no option 'stepp'\. Did you mean 'step'\?"):
        method(str(mine), clip, stepp=1)
    with pytest.raises(MissingFileError, match=r"your_shift\.py: there is no such file"):
        method(str(tmp_path / "your_shift.py"), clip)
    for text, message in (
        ("x = 1", r"must define exactly one subclass of lpi\.methods\.base\.Method; found none"),
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
