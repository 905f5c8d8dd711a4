"""Every method for expressions learns a stream, is deterministic, saves and loads, and keeps what it promised to keep.

A new file in ``lpi/methods/grounding`` is tested by being there, as its like for retrieval are.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_grounding import IMAGES
from torch import Tensor

from lpi.backbones.detectors import GroundingBackbone
from lpi.config import TrainingSettings
from lpi.data.expressions.record import ReferringExpression
from lpi.errors import ConfigError, LpiError, UnknownNameError
from lpi.expression_data import ExpressionSet
from lpi.methods import method, method_class, method_names, recorded_options
from lpi.methods.base import Learner, relations, stored_parameters
from lpi.methods.checkpoint import load_method
from lpi.methods.grounding.base import GroundingMethod
from lpi.methods.options import options_of
from lpi.options import described
from lpi.trainer import Step, learn_task

OPTIONS: dict[str, dict[str, Any]] = {
    "l2p": {"pool": 4, "chosen": 2, "length": 2},
    "lpi": {"rank": 2, "length": 4, "interaction_rank": 2, "clusters": 1},
}
FULL = ("finetune", "joint")
WORDS = {"warm": ("the red car", "dog", "a big cat"), "cold": ("blue car", "the old hat", "small dog")}
ASKED = ["the red car", "old hat"]

pytestmark = pytest.mark.parametrize("name", method_names("grounding"))


@dataclass(frozen=True)
class Shown:
    """A picture that is there."""

    name: str
    image: Image.Image

    def open(self, side: int | None = None) -> Image.Image:
        return self.image.convert("RGB")


def records(task: str) -> list[ReferringExpression]:
    made = []
    for number, words in enumerate(WORDS[task]):
        image = IMAGES[number]
        width, height = image.size
        box = (width * 0.1, height * 0.2, width * (0.5 + 0.1 * number), height * 0.8)
        made.append(ReferringExpression(Shown(f"{task}-{number}", image), words, box, image.size))
    return made


@pytest.fixture(scope="module")
def owl(detectors: dict[str, GroundingBackbone]) -> GroundingBackbone:
    return detectors["owlvit"]


@pytest.fixture(scope="module")
def sets(owl: GroundingBackbone) -> dict[str, ExpressionSet]:
    return {task: ExpressionSet(task, records(task), owl) for task in WORDS}


def make(name: str, backbone: GroundingBackbone) -> GroundingMethod:
    made: GroundingMethod = method(name, backbone, **OPTIONS.get(name, {}))
    return made


def settings(name: str, steps: int = 3) -> TrainingSettings:
    rate = 1e-3 if name in FULL else 0.02
    return TrainingSettings(steps=steps, batch=3, device="cpu", learning_rate=rate, checkpoint_seconds=0)


def teach(model: GroundingMethod, name: str, task: ExpressionSet, *, steps: int = 3, seed: int = 0) -> list[Step]:
    noted: list[Step] = []
    learn_task(model, task, settings=settings(name, steps), seed=seed, on_step=noted.append)
    return noted


Found = list[Any]


def found(model: GroundingMethod, task: str | None = None) -> Found:
    return [[(one.box, one.score) for one in boxes] for boxes in model.locate(IMAGES[0], ASKED, task=task)]


@pytest.fixture(scope="module")
def learned(owl: GroundingBackbone, sets: dict[str, ExpressionSet]) -> Callable[[str], GroundingMethod]:
    """Gives a method after both tasks; tests leave it as it is."""
    made: dict[str, GroundingMethod] = {}

    def after_both(name: str) -> GroundingMethod:
        if name not in made:
            made[name] = make(name, owl)
            for task in sets.values():
                teach(made[name], name, task)
        return made[name]

    return after_both


def test_its_file_holds_one_class_that_says_what_it_is(name: str) -> None:
    kind = method_class(name, "grounding")
    assert issubclass(kind, GroundingMethod)
    assert kind.problem == "grounding"
    assert kind.__doc__
    assert inspect.getmodule(kind).__doc__  # type: ignore[union-attr]
    assert not hasattr(kind, "encode_images")
    for option in described(kind.Options()):
        assert len(option.meaning) > 10, option.path


def test_it_records_its_options_and_refuses_others(name: str, owl: GroundingBackbone) -> None:
    model = make(name, owl)
    recorded = recorded_options(model)
    assert json.loads(json.dumps(recorded)) == recorded
    assert options_of(type(model).Options, recorded) == model.options
    with pytest.raises(FrozenInstanceError):
        model.options.preset = "another"  # type: ignore[misc]
    with pytest.raises(ConfigError, match=f"method '{name}' has no option 'nonsense'"):
        method(name, owl, nonsense=1)
    with pytest.raises(UnknownNameError, match="nonsense"):
        method(name, owl, preset="nonsense")
    for preset in type(model).Options.presets():
        assert method(name, owl, preset=preset, **OPTIONS.get(name, {})).options.preset == preset


def test_it_learns(name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet]) -> None:
    model = make(name, owl)
    noted = teach(model, name, sets["warm"], steps=30)
    if not noted:
        assert model.trainable() == []
        return
    losses = [step.loss for step in noted]
    assert sum(losses[-5:]) / 5 < sum(losses[:2]) / 2
    assert all(set(step.parts) == set(noted[0].parts) for step in noted)


def test_it_trains_nothing_but_what_it_says(name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet]) -> None:
    before = {key: value.clone() for key, value in owl.state_dict().items()}
    model = make(name, owl)
    teach(model, name, sets["warm"], steps=1)
    still: dict[str, Tensor] = {}

    def compare(step: Step) -> None:
        state = model.state_dict(keep_vars=True)
        trained = {id(parameter) for parameter in model.trainable()}
        if step.step == 1:
            still.update((key, value.detach().clone()) for key, value in state.items() if id(value) not in trained)
        assert all(torch.equal(state[key], value) for key, value in still.items())

    learn_task(model, sets["cold"], settings=settings(name), on_step=compare)
    assert model.backbone is owl
    own = {id(parameter) for parameter in model.trainable()}
    assert not any(parameter.requires_grad or id(parameter) in own for parameter in owl.parameters())
    assert all(torch.equal(value, before[key]) for key, value in owl.state_dict().items())


class KilledError(Exception):
    """Stands for the end of a process."""


def test_a_task_that_was_stopped_goes_on_as_if_it_had_not_been(
    name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet], tmp_path: Path
) -> None:
    def kill(step: Step) -> None:
        if step.step == 2:
            raise KilledError

    answers = []
    for stopped in (False, True):
        model = make(name, owl)
        teach(model, name, sets["warm"], steps=1)
        options: dict[str, Any] = {"settings": settings(name), "seed": 4}
        if stopped:
            model.save_pretrained(tmp_path / "model")
            options["checkpoint"] = tmp_path / "progress.pt"
            if model.trainable():
                with pytest.raises(KilledError):
                    learn_task(model, sets["cold"], on_step=kill, **options)
            model = type(model).from_pretrained(tmp_path / "model", backbone=owl)
        learn_task(model, sets["cold"], **options)
        answers.append(found(model))
    assert answers[0] == answers[1]


def test_it_is_deterministic_per_seed(name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet]) -> None:
    answers = []
    for seed in (1, 1, 2):
        model = make(name, owl)
        teach(model, name, sets["warm"], steps=2, seed=seed)
        answers.append(found(model, "warm"))
    assert answers[0] == answers[1]
    if model.trainable() and name not in FULL:  # all expressions are in every batch: only what is drawn differs
        assert answers[0] != answers[2]


def test_what_is_stable_keeps_its_boxes(name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet]) -> None:
    model = make(name, owl)
    teach(model, name, sets["warm"], steps=2)
    before = found(model, "warm")
    teach(model, name, sets["cold"], steps=2)
    assert not model.stable or found(model, "warm") == before


def test_it_comes_back_from_a_folder_with_its_detector(
    name: str, learned: Callable[[str], GroundingMethod], tmp_path: Path
) -> None:
    model = learned(name)
    model.save_pretrained(tmp_path)
    loaded = load_method(tmp_path)  # the same call as for retrieval finds the detector
    assert type(loaded) is type(model)
    assert (loaded.tasks, loaded.options) == (model.tasks, model.options)
    assert stored_parameters(loaded) == stored_parameters(model)
    assert found(loaded) == found(model)
    assert relations(loaded) == relations(model)


def test_it_takes_a_task_away_or_says_that_it_can_not(
    name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet]
) -> None:
    model = make(name, owl)
    for task in sets.values():
        teach(model, name, task, steps=1)
    kept = found(model, "cold")
    if type(model).forget is Learner.forget:
        with pytest.raises(LpiError, match="so none can be taken away"):
            model.forget("warm")
        return
    model.forget("warm")
    assert model.tasks == ["cold"]
    assert found(model, "cold") == kept


def test_a_task_that_it_never_saw_or_knows_already_is_refused(
    name: str, owl: GroundingBackbone, sets: dict[str, ExpressionSet], learned: Callable[[str], GroundingMethod]
) -> None:
    with pytest.raises(UnknownNameError, match="No task is called 'nowhere'"):
        learned(name).locate(IMAGES[0], ASKED, task="nowhere")
    with pytest.raises(ConfigError, match="task 'warm' was learned already"):
        teach(learned(name), name, sets["warm"])
