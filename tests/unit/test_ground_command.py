"""``lpi ground``: boxes on the screen, as JSON and on the picture, and whose prompts found them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_grounding import pictures, tiny_owl

from lpi.backbones.detectors import load_grounding_backbone
from lpi.cli import main as entry
from lpi.config import TrainingSettings
from lpi.expression_data import ExpressionSet
from lpi.methods import method as make_method
from lpi.tasks.grounding import GroundingStream
from lpi.trainer import learn_task

Said = tuple[int, str, str]


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def command(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["lpi", "ground", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            entry()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, a saved method that learned one task, and a picture of 90 by 60 pixels."""
    root = tmp_path_factory.mktemp("ground")
    backbone = load_grounding_backbone(tiny_owl(root / "owl"))
    stream = GroundingStream.from_scenes(families=["food"], train=4, validation=0, test=1, held_out=0)
    method = make_method("lpi", backbone, rank=2, length=4, clusters=1, ood="nearest")
    settings = TrainingSettings(steps=1, batch=2, device="cpu")
    learn_task(method, ExpressionSet("food", stream.tasks[0].train, backbone), settings=settings)
    method.save_pretrained(root / "run" / "model")
    (root / "run" / "run.json").write_text("{}")
    pictures(2)[0].save(root / "picture.png")
    return root


def test_it_prints_boxes_and_whose_prompts_found_them(folder: Path, ground: Callable[..., Said]) -> None:
    code, out, _ = ground(folder / "picture.png", "the red car", "a dog", "--model", folder / "run", "--count", 2)
    assert code == 0
    assert out.count("prompts of task food") == 2
    boxes = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert len(boxes) == 4
    assert all(len(line) == 5 and 0 <= float(line[0]) <= 1 for line in boxes)


def test_it_gives_json_and_draws(folder: Path, ground: Callable[..., Said], tmp_path: Path) -> None:
    drawn = tmp_path / "new" / "found.png"
    code, out, _ = ground(folder / "picture.png", "a dog", "--model", folder / "owl", "--out", drawn, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["size"] == [90, 60]
    (found,) = record["found"]
    assert (found["expression"], found["task"]) == ("a dog", None)
    scores = [one["score"] for one in found["boxes"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= x <= 90 for one in found["boxes"] for x in one["box"][::2])
    with Image.open(drawn) as image:
        assert image.size[0] > 90  # enlarged, so that labels can be read


def test_what_scores_too_little_is_left_out_and_nothing_found_is_said(
    folder: Path, ground: Callable[..., Said], tmp_path: Path
) -> None:
    ask = (folder / "picture.png", "a dog", "--model", folder / "owl")
    *_, last = json.loads(ground(*ask, "--least", 0, "--json")[1])["found"][0]["boxes"]
    fewer = json.loads(ground(*ask, "--least", last["score"] + 2e-4, "--json")[1])["found"][0]["boxes"]
    assert all(one["score"] > last["score"] for one in fewer)
    code, out, err = ground(*ask, "--least", 1, "--out", tmp_path / "none.png")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "a dog: nothing found; no box scores 1 or more"
    assert (tmp_path / "none.png").is_file()


def test_the_detector_of_drawn_scenes_is_told_as_one(folder: Path, ground: Callable[..., Said]) -> None:
    code, _, err = ground(folder / "picture.png", "a dog", "--json")
    assert (code, err) == (0, "note: lpi-tiny-grounding knows drawn scenes only; for photographs name --model\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png", "a dog"], "missing.png: there is no such picture"),
        (["{root}/picture.png", "..", "--model", "{root}/owl"], "an expression must have words; got '..'"),
        (["{root}/picture.png", "a dog", "--model", "{root}/run", "--task", "foot"], "Did you mean 'food'"),
        (["{root}/picture.png", "a dog", "--model", "{root}/nowhere/x/y"], "there is no such model folder"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, folder: Path, ground: Callable[..., Said]) -> None:
    code, _, err = ground(*(word.replace("{root}", str(folder)) for word in words))
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_run_without_a_model_says_so(ground: Callable[..., Said], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    code, _, err = ground(folder / "picture.png", "a dog", "--model", tmp_path)
    assert code == 2
    assert "has learned no task yet" in err


def test_it_draws_over_nothing_else(folder: Path, ground: Callable[..., Said], tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("precious")
    picture = folder / "picture.png"
    for out, words in ((notes, "the drawing is a PNG or a JPEG"), (picture, "is the picture itself")):
        code, _, err = ground(picture, "a dog", "--model", folder / "owl", "--out", out)
        assert (code, words in err, err.count("\n")) == (2, True, 1)
    assert notes.read_text() == "precious"
