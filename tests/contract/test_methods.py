"""Every method in the folder learns a stream, is deterministic, saves and loads, and keeps what it promised to keep.

A new file in ``lpi/methods`` is tested by being there. Options that make it small enough go into ``OPTIONS``.
"""

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lpi import methods
from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.errors import ConfigError, LpiError, UnknownNameError
from lpi.features import TrainingSet
from lpi.methods import method, method_class, method_names, recorded_options
from lpi.methods.base import Jointly, Method, stored_parameters
from lpi.methods.encoder import width_of
from lpi.methods.options import path_of
from lpi.options import Described, described, value_at
from lpi.tasks.stream import Task, TaskStream
from lpi.trainer import Step, learn_task

OPTIONS: dict[str, dict[str, Any]] = {
    "c_clip": {"rank": 2},
    "dar": {"rank": 2},
    "coda_prompt": {"components": 4, "length": 4},
    "coop": {"length": 4},
    "dkr": {"weight": 1.0},  # rows that a rounding puts right or wrong are not to outweigh the rest
    "dualprompt": {"general_length": 2, "expert_length": 4},
    "keep_lora": {"rank": 2, "energy_vision": 0.3, "energy_text": 0.2, "energy_inputs": 0.5},
    "l2p": {"pool": 6, "chosen": 2, "length": 2},
    "lora": {"rank": 2},
    "lpi": {"rank": 2, "length": 4, "interaction_rank": 2, "clusters": 2},
    "moe_adapters": {"experts": 4, "bottleneck": 4, "hidden": 4},
    "replay": {"size": 8, "replayed": 4},
    "s_prompts": {"vision_length": 4, "text_length": 4, "clusters": 2},
    "vpt": {"length": 4},
    "zscl": {"ensemble_every": 1},
}
RATES = {
    "c_clip": 0.005,
    "keep_lora": 0.02,
    "dar": 0.005,
    "linear": 0.005,
    "lora": 0.005,
    "moe_adapters": 0.05,
    "coda_prompt": 0.02,
    "coop": 0.02,
    "dualprompt": 0.02,
    "l2p": 0.02,
    "lpi": 0.02,
    "maple": 0.005,
    "s_prompts": 0.02,
    "vpt": 0.02,
}
RATE = 1e-3

pytestmark = pytest.mark.parametrize("name", method_names())


def make(name: str, backbone: DualEncoder) -> Method:
    return method(name, backbone, **OPTIONS.get(name, {}))


def options_of(name: str) -> list[Described]:
    """Those that a person sets; which preset they began with is noted."""
    return [option for option in described(method_class(name).Options()) if option.path != "preset"]


def nested(path: str, value: Any) -> dict[str, Any]:
    """One option as a table of a file has it."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def tasks_for(model: Method, stream: TaskStream) -> tuple[Task, ...]:
    return (stream.merged(),) if isinstance(model, Jointly) else stream.tasks


def teach(name: str, model: Method, task: Task, *, steps: int = 3, seed: int = 0, batch: int = 8) -> list[Step]:
    noted: list[Step] = []
    learn_task(
        model, prepared(task, model.backbone), settings=settings(name, steps, batch), seed=seed, on_step=noted.append
    )
    return noted


def settings(name: str, steps: int = 3, batch: int = 8) -> TrainingSettings:
    rate = RATES.get(name, RATE)
    return TrainingSettings(steps=steps, batch=batch, device="cpu", learning_rate=rate, checkpoint_seconds=0)


def prepared(task: Task, backbone: DualEncoder) -> TrainingSet:
    """A task's training set, decoded once for all methods."""
    key = (backbone.identity, task.name, tuple(record.picture.name for record in task.train))
    if key not in TRAINING:
        TRAINING[key] = TrainingSet(task, backbone)
    return TRAINING[key]


TRAINING: dict[tuple[object, ...], TrainingSet] = {}
Outputs = list[Tensor]


def outputs(model: Method, pictures: Tensor, captions: list[str], task: str | None = None) -> Outputs:
    return [model.encode_images(pictures, task=task), model.encode_texts(captions, task=task)]


def same(first: Outputs, second: Outputs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def learned(clip: DualEncoder, stream: TaskStream) -> Callable[[str], Method]:
    """Gives a method after the whole stream; tests leave it as it is."""
    made: dict[str, Method] = {}

    def after_the_stream(name: str) -> Method:
        if name not in made:
            made[name] = make(name, clip)
            for task in tasks_for(made[name], stream):
                teach(name, made[name], task)
        return made[name]

    return after_the_stream


def test_its_file_holds_one_class_that_says_what_it_is(name: str) -> None:
    found = method_class(name)
    assert issubclass(found, Method)
    assert found.__doc__
    assert inspect.getmodule(found).__doc__
    for option in options_of(name):
        assert len(option.meaning) > 10, option.path


def test_it_records_its_options(name: str, clip: DualEncoder) -> None:
    options = make(name, clip).options
    assert isinstance(options, method_class(name).Options)
    changed = {path_of(options, option, {}): value for option, value in OPTIONS.get(name, {}).items()}
    for option in options_of(name):
        assert value_at(options, option.path) == changed.get(option.path, option.default)
    with pytest.raises(FrozenInstanceError):
        options.preset = "another"
    again = methods.options.options_of(method_class(name).Options, recorded_options(make(name, clip)))
    assert again == options
    assert json.loads(json.dumps(recorded_options(make(name, clip)))) == recorded_options(make(name, clip))


def test_it_refuses_an_option_that_it_does_not_have(name: str, clip: DualEncoder) -> None:
    with pytest.raises(ConfigError, match=f"method '{name}' has no option 'nonsense'"):
        method(name, clip, nonsense=1)
    with pytest.raises(ConfigError, match=f"method '{name}' has no option 'options'"):
        method(name, clip, options=1)
    with pytest.raises(UnknownNameError, match="nonsense"):
        method(name, clip, preset="nonsense")


def test_it_refuses_values_that_its_options_can_not_have(name: str, clip: DualEncoder) -> None:
    for option in options_of(name):
        last = option.path.rpartition(".")[2]
        tables = {**OPTIONS.get(name, {})}
        if "text" not in option.kind and "Table" not in option.kind:
            with pytest.raises(ConfigError, match=last):
                method(name, clip, **{**tables, **nested(option.path, "nonsense")})
        if "number" in option.kind:
            with pytest.raises(ConfigError, match=last):
                method(name, clip, **{**tables, **nested(option.path, -7)})


def test_its_presets_are_options_that_it_has(name: str, clip: DualEncoder) -> None:
    for preset in method_class(name).Options.presets():
        assert isinstance(method(name, clip, preset=preset, **OPTIONS.get(name, {})), Method)


def test_it_encodes_units_and_gives_rows_in_their_order(
    name: str, learned: Callable[[str], Method], pictures: Tensor, captions: list[str]
) -> None:
    model = learned(name)
    images, texts = outputs(model, pictures, captions)
    assert images.shape == (len(pictures), width_of(model))
    assert texts.shape == (len(captions), width_of(model))
    for features in (images, texts):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    backwards = outputs(model, pictures.flip(0), captions[::-1])
    torch.testing.assert_close(backwards[0].flip(0), images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backwards[1].flip(0), texts, rtol=1e-4, atol=1e-5)


def test_it_learns(name: str, clip: DualEncoder, stream: TaskStream) -> None:
    """Four pairs, over and over: the loss falls, and ends below that of a model that knows nothing of them."""
    model = make(name, clip)
    few = [replace(record, captions=record.captions[:1]) for task in stream.tasks for record in task.train[::6]][:4]
    noted = teach(name, model, Task("few", tuple(few), (), tuple(few)), steps=40, batch=4)
    if not noted:
        assert model.trainable() == []
        return
    losses = [step.loss for step in noted]
    assert sum(losses[-6:]) / 6 < sum(losses[:3]) / 3
    items = [step.parts.get("item", step.loss) for step in noted]
    assert sum(items[-3:]) / 3 < 0.95 * math.log(len(few))
    assert all(set(step.parts) == set(noted[0].parts) for step in noted)


def test_it_learns_in_bfloat16_what_it_learns_in_float32(name: str, clip: DualEncoder, stream: TaskStream) -> None:
    """Two tasks, so that what the first one left behind takes part in the second one's loss."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = make(name, clip)
        noted: list[Step] = []
        chosen = settings(name).model_copy(update={"precision": precision})
        for task in tasks_for(model, stream)[:2]:
            learn_task(model, prepared(task, clip), settings=chosen, on_step=noted.append)
        losses[precision] = [step.loss for step in noted]
        assert all(parameter.dtype == torch.float32 for parameter in model.trainable())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)


def test_it_trains_nothing_but_what_it_says(name: str, clip: DualEncoder, stream: TaskStream) -> None:
    model = make(name, clip)
    first, second = (stream.merged(), stream.tasks[0]) if isinstance(model, Jointly) else stream.tasks[:2]
    teach(name, model, first, steps=1)
    still: dict[str, Tensor] = {}
    moved: list[tuple[Tensor, Tensor]] = []

    def compare(step: Step) -> None:
        state = model.state_dict(keep_vars=True)
        trained = {id(parameter) for parameter in model.trainable()}
        if step.step == 1:
            still.update((key, value.detach().clone()) for key, value in state.items() if id(value) not in trained)
            moved.extend((parameter, parameter.detach().clone()) for parameter in model.trainable())
        assert all(torch.equal(state[key], value) for key, value in still.items())

    learn_task(model, prepared(second, clip), settings=settings(name), on_step=compare)
    if moved:
        assert any(not torch.equal(parameter, before) for parameter, before in moved)


class KilledError(Exception):
    """Stands for the end of a process."""


def test_a_task_that_was_stopped_goes_on_as_if_it_had_not_been(
    name: str, clip: DualEncoder, stream: TaskStream, pictures: Tensor, captions: list[str], tmp_path: Path
) -> None:
    def kill(step: Step) -> None:
        if step.step == 2:
            raise KilledError

    found = []
    for stopped in (False, True):
        model = make(name, clip)
        first, second = (stream.tasks[0], stream.merged()) if isinstance(model, Jointly) else stream.tasks[:2]
        teach(name, model, first, steps=1)
        if stopped:
            model.save_pretrained(tmp_path / "model")
            options = {"settings": settings(name), "seed": 4, "checkpoint": tmp_path / "progress.pt"}
            if model.trainable():
                with pytest.raises(KilledError):
                    learn_task(model, prepared(second, clip), on_step=kill, **options)
            model = type(model).from_pretrained(tmp_path / "model", backbone=clip)
            learn_task(model, prepared(second, clip), **options)
        else:
            learn_task(model, prepared(second, clip), settings=settings(name), seed=4)
        found.append(outputs(model, pictures, captions))
    assert same(found[0], found[1])


def test_it_is_deterministic_per_seed(
    name: str, clip: DualEncoder, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    found = []
    for seed in (1, 1, 2):
        model = make(name, clip)
        for task in tasks_for(model, stream)[:2]:
            teach(name, model, task, steps=1, seed=seed)
        found.append(outputs(model, pictures, captions))
    assert same(found[0], found[1])
    if model.trainable():
        assert not same(found[0], found[2])


def test_it_leaves_the_backbone_as_it_is(name: str, clip: DualEncoder, stream: TaskStream) -> None:
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    model = make(name, clip)
    for task in tasks_for(model, stream):
        teach(name, model, task, steps=1)
    assert model.backbone is clip
    own = {id(parameter) for parameter in model.trainable()}
    for parameter in clip.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert id(parameter) not in own
    assert not clip.training
    assert all(torch.equal(value, before[key]) for key, value in clip.state_dict().items())


def test_what_is_stable_keeps_its_features(
    name: str, clip: DualEncoder, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = make(name, clip)
    before: dict[str, Outputs] = {}
    changed = False
    for task in tasks_for(model, stream):
        teach(name, model, task, steps=1)
        changed |= any(not same(kept, outputs(model, pictures, captions, one)) for one, kept in before.items())
        before[task.name] = outputs(model, pictures, captions, task.name)
    assert not (model.stable and changed)


def test_it_comes_back_from_a_folder(
    name: str,
    learned: Callable[[str], Method],
    clip: DualEncoder,
    pictures: Tensor,
    captions: list[str],
    tmp_path: Path,
) -> None:
    model = learned(name)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, backbone=clip)
    assert type(loaded) is type(model)
    assert (loaded.tasks, loaded.options) == (model.tasks, model.options)
    assert stored_parameters(loaded) == stored_parameters(model)
    assert same(outputs(model, pictures, captions), outputs(loaded, pictures, captions))


def test_it_counts_what_it_stores(name: str, learned: Callable[[str], Method]) -> None:
    model = learned(name)
    newest = sum(parameter.numel() for parameter in model.trainable())
    assert stored_parameters(model) >= newest
    frozen = {id(parameter) for parameter in model.backbone.parameters()}
    own = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in frozen)
    assert stored_parameters(model) >= own


def test_it_takes_a_task_away_or_says_that_it_can_not(
    name: str, clip: DualEncoder, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = make(name, clip)
    tasks = tasks_for(model, stream)
    for task in tasks:
        teach(name, model, task, steps=1)
    kept = {task.name: outputs(model, pictures, captions, task.name) for task in tasks[1:]}
    if type(model).forget is Method.forget:
        with pytest.raises(LpiError, match="so none can be taken away"):
            model.forget(tasks[0].name)
        return
    model.forget(tasks[0].name)
    assert tasks[0].name not in model.tasks
    assert all(same(features, outputs(model, pictures, captions, one)) for one, features in kept.items())


def test_a_task_that_it_never_saw_is_refused(name: str, learned: Callable[[str], Method], captions: list[str]) -> None:
    with pytest.raises(UnknownNameError, match="No task is called 'nowhere'"):
        learned(name).encode_texts(captions, task="nowhere")


def test_nothing_is_encoded_into_nothing(name: str, learned: Callable[[str], Method]) -> None:
    model = learned(name)
    width = width_of(model)
    assert model.encode_images([]).shape == model.encode_texts([]).shape == (0, width)


@pytest.mark.parametrize("family", ["siglip", "siglip2", "dinov2-bert", "vit-roberta"])
def test_it_stands_on_every_family(
    name: str,
    family: str,
    families: Callable[[str], DualEncoder],
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    model = make(name, families(family))
    for task in tasks_for(model, stream)[:2]:
        teach(name, model, task, steps=1)
    assert all(features.isfinite().all() for features in outputs(model, pictures[:6], captions[:6]))
