"""What the prompt-based rivals share: the neutral start, what they refuse, and what is kept, taken away and resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones import DualEncoder, TowerState
from lpi.config import TrainingSettings
from lpi.errors import ConfigError
from lpi.methods import method
from lpi.methods.base import Method, TrainingBatch
from lpi.methods.prompted import first_words
from lpi.tasks.stream import TaskStream
from lpi.trainer import Step, learn_task

Learn = Callable[..., Method]
Ready = Callable[..., TrainingBatch]
SMALL: dict[str, dict[str, Any]] = {
    "coda_prompt": {"components": 3, "length": 4},
    "coop": {"length": 3},
    "dualprompt": {"general_length": 2, "expert_length": 4},
    "l2p": {"pool": 4, "chosen": 2, "length": 2},
    "maple": {},
    "s_prompts": {"vision_length": 3, "text_length": 3, "clusters": 2},
    "vpt": {"length": 3},
}


def frozen(backbone: DualEncoder, pictures: Tensor, captions: list[str]) -> list[Tensor]:
    with torch.no_grad():
        images = backbone.encode_images(backbone.inputs.normalise(pictures))
        texts = backbone.encode_texts(backbone.inputs.tokenize(captions))
    return [F.normalize(images, dim=-1), F.normalize(texts, dim=-1)]


def encoded(model: Method, pictures: Tensor, captions: list[str]) -> list[Tensor]:
    return [model.encode_images(pictures), model.encode_texts(captions)]


def near(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(first, second, strict=True))


# Where a method starts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["clip", "dinov2-bert"])
@pytest.mark.parametrize("name", SMALL)
def test_a_neutral_start_is_the_frozen_model_and_learns_from_there(
    name: str,
    family: str,
    families: Callable[[str], DualEncoder],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    backbone = families(family)
    plain = frozen(backbone, pictures, captions)
    still = learn(method(name, backbone, start="neutral", **SMALL[name]), stream.tasks[:1], learning_rate=1e-9)
    assert near(encoded(still, pictures, captions), plain)
    moved = learn(method(name, backbone, start="neutral", **SMALL[name]), stream.tasks[:1], learning_rate=0.1)
    assert not near(encoded(moved, pictures, captions), plain, 1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_the_paper_s_start_is_not_the_frozen_model_and_no_task_at_all_is(
    name: str, clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor
) -> None:
    model = method(name, clip, **SMALL[name])
    plain = frozen(clip, pictures, ["red dot"])
    assert near(encoded(model, pictures, ["red dot"]), plain)
    learn(model, stream.tasks[:1], learning_rate=1e-9)
    assert not near(encoded(model, pictures, ["red dot"]), plain, 1e-2)


def test_dualprompt_s_key_can_start_at_the_mean_feature(clip: DualEncoder, learn: Learn, stream: TaskStream) -> None:
    options = SMALL["dualprompt"] | {"key_start": "mean", "match_weight": 0.0}
    model = learn(method("dualprompt", clip, **options), stream.tasks, learning_rate=1e-9)
    for index, task in enumerate(stream.tasks):
        pictures = torch.stack([torch.tensor(clip.inputs.prepare(r.picture.open())) for r in task.train])
        mean = frozen(clip, pictures.permute(0, 3, 1, 2), ["a"])[0].mean(dim=0)
        key = model.router.kept[index]["key_vision"]
        torch.testing.assert_close(key, F.normalize(mean, dim=0), atol=1e-5, rtol=0)


def test_words_longer_than_the_prompt_are_cut_and_shorter_ones_leave_the_rest(clip: DualEncoder) -> None:
    words = clip.text.words(clip.inputs.tokenize(["the dog"]).ids)[0, 1:3]
    for length in (1, 2, 4):
        states = torch.full((length, 24), 7.0)
        first_words(clip, "the dog", states)
        assert torch.equal(states[:2], words[:length])
        assert (states[2:] == 7).all()


# Learning ----------------------------------------------------------------------------------------------------------


def test_a_caption_of_two_pictures_is_right_for_one_alone_if_asked_for(
    clip: DualEncoder, learn: Learn, ready: Ready, stream: TaskStream
) -> None:
    losses = []
    for several in (True, False):
        model = learn(method("vpt", clip, length=2, multi_positive=several), stream.tasks[:1])
        batch = ready(model, stream.tasks[0])
        positives = torch.eye(8, dtype=torch.bool)
        own = replace(batch, owner=torch.arange(8), positives=positives | positives.roll(1, 1))
        with torch.no_grad():
            losses += [float(model.loss(one)["item"]) for one in (own, replace(own, positives=positives))]
    assert losses[0] != pytest.approx(losses[1])
    assert losses[2] == pytest.approx(losses[3])


def test_coop_reads_pictures_from_their_last_states(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor
) -> None:
    model = learn(method("coop", clip, **SMALL["coop"]), stream.tasks[:1])
    pixels = clip.inputs.normalise(pictures)
    states = clip.vision.advance(clip.vision.begin(pixels), 0, model.frozen_blocks("vision"))
    assert isinstance(states, TowerState)
    torch.testing.assert_close(model.image_features(states, 0), model.image_features(pixels, 0))


@pytest.mark.parametrize("name", SMALL)
def test_a_run_that_is_stopped_inside_the_second_task_ends_with_the_same_bytes(
    name: str, clip: DualEncoder, learn: Learn, stream: TaskStream, tmp_path: Path
) -> None:
    settings = TrainingSettings(steps=4, batch=8, device="cpu", learning_rate=0.02, checkpoint_seconds=0.0)
    straight = learn(method(name, clip, **SMALL[name]), stream.tasks[:1])
    straight.save_pretrained(tmp_path / "first")
    learn_task(straight, stream.tasks[1], settings=settings)

    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    kept = tmp_path / "half.pt"
    with pytest.raises(KeyboardInterrupt):
        learn_task(
            type(straight).from_pretrained(tmp_path / "first", backbone=clip),
            stream.tasks[1],
            settings=settings,
            checkpoint=kept,
            on_step=stop,
        )
    resumed = type(straight).from_pretrained(tmp_path / "first", backbone=clip)
    learn_task(resumed, stream.tasks[1], settings=settings, checkpoint=kept)
    first, second = straight.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


# What s_prompts keeps ----------------------------------------------------------------------------------------------


def test_an_earlier_stage_of_s_prompts_knows_only_its_own_tasks(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = method("s_prompts", clip, **SMALL["s_prompts"])
    before = []
    for task in stream.tasks:
        learn(model, [task])
        before.append(encoded(model, pictures, captions))
    for k, expected in enumerate(before):
        earlier = model.stage(k)
        assert earlier.tasks == [task.name for task in stream.tasks[: k + 1]]
        found = encoded(earlier, pictures, captions)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(ConfigError, match="stage must be between 0 and 2; got 3"):
        model.stage(3)


@pytest.mark.parametrize("name", ["dualprompt", "s_prompts"])
def test_the_likeliest_task_is_the_one_a_query_is_sent_to(
    name: str, clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = learn(method(name, clip, **SMALL[name]), stream.tasks)
    for tower, plain in zip(("vision", "text"), frozen(clip, pictures, captions), strict=True):
        likely = model.router.posteriors(tower, model.router(tower, plain).distances)
        torch.testing.assert_close(likely.sum(dim=1), torch.ones(24))
        assert torch.equal(likely.argmax(dim=1), model.router(tower, plain).routes[:, 0])
        assert not likely.requires_grad


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("coop", {"length": 0}, "length must be at least 1; got 0"),
        ("vpt", {"length": 0}, "length must be at least 1; got 0"),
        ("vpt", {"depth": 5}, "depth must be between 1 and 4, the blocks that can be prompted; got 5"),
        ("maple", {"length": 0}, "length must be at least 1; got 0"),
        ("maple", {"depth": 4}, "depth must be between 1 and 3, the blocks that can be prompted; got 4"),
        ("l2p", {"pool": 3}, "chosen must be at most pool=3; got 5"),
        ("l2p", {"length": 0}, "length must be at least 1; got 0"),
        ("l2p", {"match_weight": -0.5}, "match_weight must be at least 0; got -0.5"),
        ("dualprompt", {"form": "prefixes"}, "form must be one of prefix, prompt; got 'prefixes'"),
        ("dualprompt", {"key_start": "zero"}, "key_start must be one of random, mean; got 'zero'"),
        ("dualprompt", {"general_length": 5}, "general_length must be even, half keys and half values; got 5"),
        ("dualprompt", {"expert_length": 0}, "expert_length must be at least 1; got 0"),
        ("dualprompt", {"general_depth": 3}, "at most 3, the blocks of the shallower tower; got 3 and 0"),
        ("dualprompt", {"expert_depth": 4}, "at most 3, the blocks of the shallower tower; got -1 and 4"),
        ("dualprompt", {"match_weight": -1.0}, "match_weight must be at least 0; got -1"),
        ("dualprompt", {"posterior_temperature": 0.0}, "posterior_temperature must be above 0; got 0"),
        ("coda_prompt", {"length": 3}, "length must be even, half keys and half values; got 3"),
        ("coda_prompt", {"components": 0}, "components must be at least 1; got 0"),
        ("coda_prompt", {"depth": 0}, "depth must be between 1 and 3, the blocks that can be prompted; got 0"),
        ("coda_prompt", {"orthogonality_weight": -0.1}, "orthogonality_weight must be at least 0; got -0.1"),
        ("s_prompts", {"clusters": 0}, "clusters must be at least 1; got 0"),
        ("s_prompts", {"metric": "l3"}, "metric must be one of cosine, l1, whitened; got 'l3'"),
        ("s_prompts", {"posterior_temperature": -1.0}, "posterior_temperature must be above 0; got -1"),
        ("s_prompts", {"start": "warm"}, "start must be one of paper, neutral; got 'warm'"),
    ],
)
def test_wrong_options_are_refused_when_a_method_is_made(
    name: str, options: dict[str, Any], message: str, clip: DualEncoder
) -> None:
    with pytest.raises(ConfigError, match=message):
        method(name, clip, **options)


def test_dualprompt_can_do_without_general_prompts(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor
) -> None:
    model = method("dualprompt", clip, general_depth=0, expert_length=2)
    learn(model, stream.tasks[:1])
    kept = model.encode_images(pictures, task="warm")
    learn(model, stream.tasks[1:])
    assert model.shared_state() == {}
    assert torch.equal(model.encode_images(pictures, task="warm"), kept)  # nothing that later tasks could move


def test_coda_prompt_without_its_loss_has_the_item_loss_alone(
    clip: DualEncoder, learn: Learn, ready: Ready, stream: TaskStream
) -> None:
    model = method("coda_prompt", clip, orthogonality_weight=0.0, **SMALL["coda_prompt"])
    learn(model, stream.tasks[:1])
    assert set(model.loss(ready(model, stream.tasks[0]))) == {"item"}
