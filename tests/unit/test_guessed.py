"""The library as people guess it: a call and what comes of it, a line each; none is silently wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lpi
from lpi.backbones import DualEncoder
from lpi.errors import ConfigError, DataError, LpiError, MissingFileError, UnknownNameError
from lpi.methods.base import Method
from lpi.tasks.stream import Task, TaskStream

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
PAIRS = [(Image.fromarray(NOISE), "noise"), (Image.new("RGB", (20, 20), "red"), ["a red square", "red"])]
QUICK: dict[str, Any] = {"steps": 2, "batch": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def learned(clip: DualEncoder, learn: Callable[..., Method], stream: TaskStream, small: dict[str, Any]) -> Method:
    return learn(lpi.method("lpi", clip, **small), stream.tasks[:2])


@pytest.fixture
def fresh(clip: DualEncoder, small: dict[str, Any]) -> Method:
    made: Method = lpi.method("lpi", clip, **small)
    return made


# ---- encoding --------------------------------------------------------------------------------------------------------


def test_vectors_come_in_batches_of_any_size_and_as_arrays(learned: Method, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [f"a red dot {number}" for number in range(5)]
    expected = learned.encode_texts(texts)
    for size in (1, 2, 64):
        torch.testing.assert_close(learned.encode_texts(texts, batch_size=size, progress=size == 2), expected)
        images = learned.encode_images([NOISE] * 3, batch_size=size, progress=True)
        torch.testing.assert_close(images, learned.encode_images(NOISE).expand(3, -1))
    found = learned.encode_texts(texts, as_numpy=True, device="cpu")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected.numpy())
    assert learned.encode_images(NOISE, as_numpy=True).shape == (learned.backbone.feature_width,)
    assert capfd.readouterr().out == ""  # a bar is never among results


@pytest.mark.parametrize(
    ("how", "said"), [({"batch_size": 0}, "batch_size must be at least 1"), ({"device": "moon"}, "must be auto, cpu")]
)
def test_an_impossible_way_of_encoding_is_one_line(how: dict[str, Any], said: str, learned: Method) -> None:
    for call in (lambda: learned.encode_texts("a dot", **how), lambda: learned.encode_images(NOISE, **how)):
        with pytest.raises(ConfigError, match=said):
            call()


# ---- making and loading ----------------------------------------------------------------------------------------------


def test_a_method_takes_the_name_of_its_backbone() -> None:
    for backbone in ("lpi-tiny", lpi.backbone("lpi-tiny", device="cpu")):
        assert repr(lpi.method("lpi", backbone)) == "LPI on lpi-tiny: no task"
    assert lpi.method("lpi", "lpi-tiny", device="cpu").backbone.device.type == "cpu"
    assert lpi.method("lpi", "lpi-tiny-grounding").problem == "grounding"


def test_what_is_saved_is_loaded_by_its_path(learned: Method, clip: DualEncoder, tmp_path: Path) -> None:
    learned.save_pretrained(tmp_path)
    for path in (tmp_path, str(tmp_path)):
        assert lpi.load(path, backbone=clip).tasks == ["warm", "cold"]
    assert lpi.load is lpi.load_method


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lpi.method(3, "lpi-tiny"), "a method is its name or its class; got"),
        (lambda: lpi.method(dict, "lpi-tiny"), "got the class dict"),
        (lambda: lpi.method("lpi", 3), "a method stands on a backbone; got"),
        (lambda: lpi.method("lpi", None), "got None"),
        (lambda: lpi.method("lpi", "lpi-tiny", device="moon"), "must be auto, cpu"),
        (lambda: lpi.backbone("lpi-tiny", device="moon"), "must be auto, cpu"),
        (lambda: lpi.backbone(None), "a backbone is a folder, a file or a name on the hub; got None"),
        (lambda: lpi.load(3), "a saved method is loaded by its folder or hub name; got int"),
        (lambda: lpi.load("nowhere"), "nowhere: there is no such folder"),
        (lambda: lpi.SearchIndex.open(3), "an index is opened by its folder; got int"),
    ],
)
def test_a_wrong_kind_is_one_line(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(LpiError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)


# ---- learning --------------------------------------------------------------------------------------------------------


def test_pairs_are_learned_without_a_stream(fresh: Method, tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "noise.png")
    fresh.learn(PAIRS, **QUICK)
    fresh.learn([(tmp_path / "noise.png", "noise"), (str(tmp_path / "noise.png"), "more")], name="files", **QUICK)
    fresh.learn(iter([[NOISE, "noise"], (torch.tensor(NOISE).permute(2, 0, 1), "more")]), progress=True, **QUICK)
    assert fresh.tasks == ["task-1", "files", "task-3"]
    assert fresh.encode_texts("noise", task="files").isfinite().all()


def test_the_same_pairs_and_task_teach_the_same(clip: DualEncoder, small: dict[str, Any], stream: TaskStream) -> None:
    vectors = []
    for given in (stream["warm"], [(record.picture.open(), record.captions) for record in stream["warm"].train]):
        learner = lpi.method("lpi", clip, **small)
        learner.learn(given, name="reds", **QUICK)
        assert learner.tasks == ["reds"]
        vectors.append(learner.encode_texts("a red dot"))
    torch.testing.assert_close(*vectors)


@pytest.mark.parametrize(
    ("given", "said", "kind"),
    [
        (3, "a task of a stream is learned; got int", ConfigError),
        ("birds", "got str", ConfigError),
        ([NOISE], "got ndarray at place 0", ConfigError),
        ([(NOISE, "noise", 1)], "got tuple at place 0", ConfigError),
        ([(NOISE, " ")], "needs a caption; the one at place 0", ConfigError),
        ([(NOISE, [])], "needs a caption", ConfigError),
        ([(NOISE, 3)], "texts must be", ConfigError),
        ([(None, "noise")], "images must be", ConfigError),
        ([("gone.png", "noise")], "there is no such picture", MissingFileError),
        ([], "has no training pictures", DataError),
    ],
)
def test_what_cannot_be_learned_is_one_line_and_changes_nothing(
    given: Any, said: str, kind: type[LpiError], fresh: Method
) -> None:
    with pytest.raises(kind, match=said) as refused:
        fresh.learn(given, **QUICK)
    assert "\n" not in str(refused.value)
    assert fresh.tasks == []


def test_a_task_without_a_test_part_is_learned(stream: TaskStream, fresh: Method) -> None:
    only = TaskStream("only", tuple(Task(task.name, task.train, (), ()) for task in stream))
    fresh.learn(only["cold"], **QUICK)
    assert fresh.tasks == ["cold"]
    with pytest.raises(DataError, match="Task 'warm' of stream 'only' has no test pictures"):
        only.tested()


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_the_public_names_are_listed() -> None:
    assert {"TaskStream", "SearchIndex", "backbone", "method", "load", "__version__"} <= set(dir(lpi))
    for name in lpi.__all__:
        assert getattr(lpi, name) is not None


def test_a_stream_is_gone_through_like_a_list_and_asked_like_a_dict(stream: TaskStream) -> None:
    assert len(stream) == 3
    assert [task.name for task in stream] == ["warm", "cold", "dull"]
    assert stream["cold"] is stream[1] is stream.tasks[1]
    assert stream[-1].name == "dull"
    with pytest.raises(UnknownNameError, match=r"No task is called 'old'\. Did you mean 'cold'"):
        stream["old"]


def test_everything_shows_itself_in_a_line_and_in_a_notebook(stream: TaskStream, learned: Method, index: Any) -> None:
    assert repr(stream) == "TaskStream 'painted': 3 tasks (warm, cold, dull)"
    assert repr(stream["warm"]) == "Task 'warm': 16 train, 8 test"
    assert repr(learned).endswith(": 2 tasks (warm, cold)")
    assert repr(index) == "SearchIndex of photos: 24 pictures, 2 domains (warm, cold)"
    for shown in (stream, stream["warm"], learned, index):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 120
        assert shown._repr_html_().startswith("<table><caption>")


# ---- the model card --------------------------------------------------------------------------------------------------


def test_the_card_says_what_is_known_and_nothing_else(learned: Method, tmp_path: Path) -> None:
    learned.save_pretrained(tmp_path, model_card_kwargs={"figures": {"R@1": 0.41}, "licence": "apache-2.0"})
    card = (tmp_path / "README.md").read_text()
    for known in ("library_name: lpi", "license: apache-2.0", "1. warm", "2. cold", "| R@1 | 0.41 |", "lpi.load("):
        assert known in card
    assert learned.backbone.identity in card
    for false in ("pushed", "github.com", str(tmp_path)):
        assert false not in card
    learned.save_pretrained(tmp_path)
    assert "None were given." in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    learned.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
