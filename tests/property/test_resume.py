"""A task that is stopped anywhere, any number of times, ends with the same bytes as one that never was."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.methods.base import Method
from lpi.methods.checkpoint import load_method, save_method
from lpi.tasks.stream import TaskStream
from lpi.trainer import Step, learn_task

STEPS = 7


class Stopped(Exception):  # noqa: N818
    """Stands for a power cut."""


def train(model: Method, training: TrainingSet, chosen: TrainingSettings, checkpoint: Path, stop: int | None) -> None:
    def watch(step: Step) -> None:
        if step.step == stop:
            raise Stopped

    learn_task(model, training, settings=chosen, seed=5, checkpoint=checkpoint, on_step=watch)


def everything(model: Method) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


choices = st.fixed_dictionaries(
    {
        "batch": st.sampled_from([5, 8, 16]),
        "accumulate": st.sampled_from([1, 2, 3]),
        "optimiser": st.sampled_from(["adamw", "sgd"]),
        "augment": st.sampled_from(["none", "crop_flip"]),
        "captions_per_image": st.sampled_from([0, 1]),
        "warmup": st.sampled_from([0.0, 0.3]),
    }
)
stops = st.lists(st.integers(1, STEPS), max_size=3)
quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@quick
@given(choices=choices, stops=stops, options=st.sampled_from([{}, {"placement": "last", "depth": 1}]))
def test_a_second_task_of_lpi(
    choices: dict[str, Any],
    stops: list[int],
    options: dict[str, Any],
    clip: DualEncoder,
    small: dict[str, Any],
    stream: TaskStream,
) -> None:
    chosen = TrainingSettings(steps=STEPS, device="cpu", checkpoint_seconds=0, **choices)
    first, second = (TrainingSet(task, clip) for task in stream.tasks[:2])
    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(place) / "progress.pt"
        model = method("lpi", clip, **small, **options)
        learn_task(model, first, settings=chosen, seed=5)
        save_method(model, Path(place) / "model")
        train(model, second, chosen, Path(place) / "unused.pt", None)
        expected = everything(model)
        for stop in sorted(stops):  # each start finds at least what the one before it had reached
            try:
                train(load_method(Path(place) / "model", backbone=clip), second, chosen, checkpoint, stop)
            except Stopped:
                continue
        resumed = load_method(Path(place) / "model", backbone=clip)
        train(resumed, second, chosen, checkpoint, None)
    found = everything(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_first_task_of_full_fine_tuning(stop: int, clip: DualEncoder, stream: TaskStream, tmp_path: Path) -> None:
    chosen = TrainingSettings(steps=4, batch=8, device="cpu", checkpoint_seconds=0, learning_rate=1e-3)
    training = TrainingSet(stream.tasks[0], clip)
    whole = method("finetune", clip)
    train(whole, training, chosen, tmp_path / "unused.pt", None)
    with pytest.raises(Stopped):
        train(method("finetune", clip), training, chosen, tmp_path / "progress.pt", stop)
    resumed = method("finetune", clip)
    train(resumed, training, chosen, tmp_path / "progress.pt", None)
    expected, found = everything(whole), everything(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
