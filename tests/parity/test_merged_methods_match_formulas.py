"""Methods that merge weights, and the frozen model centred, against their formulas written out naively."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.methods.base import Method
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task

SETTINGS = TrainingSettings(steps=2, batch=8, learning_rate=1e-3, device="cpu")


def learned_one_by_one(model: Any, stream: TaskStream) -> list[dict[str, Tensor]]:
    """The weights of the model that goes on learning, after each of two tasks."""
    after = []
    for task in stream.tasks[:2]:
        learn_task(model, task, settings=SETTINGS)
        after.append({name: weight.detach().clone() for name, weight in model.tuned.model.named_parameters()})
    return after


def expected(name: str, frozen: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A merged weight after two tasks."""
    if name == "wise_ft":
        return 0.7 * frozen + 0.3 * second
    if name == "ema":
        return 0.8 * (0.8 * frozen + 0.2 * first) + 0.2 * second
    changes = torch.stack([first - frozen, second - frozen])
    largest = changes.gather(0, changes.abs().argmax(0, keepdim=True))[0]
    return frozen + 0.4 * largest


@pytest.mark.parametrize(
    ("name", "options"), [("wise_ft", {"share": 0.3}), ("ema", {"decay": 0.8}), ("magmax", {"scale": 0.4})]
)
def test_merged_weights_are_what_the_formula_says(
    name: str, options: dict[str, float], clip: DualEncoder, stream: TaskStream, pictures: Tensor
) -> None:
    model = method(name, clip, **options)
    first, second = learned_one_by_one(model, stream)
    moved = 0
    for weight_name, weight in model.merged.model.named_parameters():
        frozen = dict(clip.model.named_parameters())[weight_name]
        if not torch.equal(frozen, second[weight_name]):
            moved += 1
            wanted = expected(name, frozen, first[weight_name], second[weight_name])
            torch.testing.assert_close(weight, wanted, rtol=1e-4, atol=1e-6)
    assert moved > 10
    with torch.no_grad():
        direct = F.normalize(model.merged.encode_images(clip.inputs.normalise(pictures)), dim=-1)
    torch.testing.assert_close(model.encode_images(pictures), direct)
    # what goes on learning is what plain fine-tuning would have learned: merging leaves it alone
    plain = method("finetune", clip)
    for weight_name, weight in learned_one_by_one(plain, stream)[1].items():
        torch.testing.assert_close(second[weight_name], weight)


def test_centred_features_have_no_mean_over_what_was_learned(clip: DualEncoder, stream: TaskStream) -> None:
    model: Method = method("centred", clip)
    for task in stream.tasks[:2]:
        learn_task(model, task, settings=TrainingSettings(epochs=0, device="cpu"))
    sets = [TrainingSet(task, clip) for task in stream.tasks[:2]]
    words = [caption for one in sets for caption in one.captions]
    frozen = torch.cat([one.text_features for one in sets])
    wanted = F.normalize(frozen - frozen.mean(0), dim=-1)
    torch.testing.assert_close(model.encode_texts(words), wanted, rtol=1e-4, atol=1e-5)
    pictures = [record.picture.open() for one in sets for record in one.records]
    frozen = torch.cat([one.image_features for one in sets])
    wanted = F.normalize(frozen - frozen.mean(0), dim=-1)
    torch.testing.assert_close(model.encode_images(pictures), wanted, rtol=1e-3, atol=1e-4)
