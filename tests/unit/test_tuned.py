"""A copy of the backbone of which only the upper blocks learn."""

import errno
import os

import pytest
import torch

from lpi import features
from lpi.config import TrainingSettings
from lpi.errors import ConfigError
from lpi.features import FrozenStates
from lpi.methods import method
from lpi.tasks.batches import PictureStore
from lpi.trainer import learn_task

UPPER = 0.5
FAMILY = ("finetune", "joint", "ewc", "lwf", "mod_x", "replay", "zscl")


def changed(model, clip):
    own = dict(model.tuned.named_parameters())
    return {name for name, weight in clip.named_parameters() if not torch.equal(weight, own[name])}


@pytest.mark.parametrize("name", FAMILY)
def test_only_the_upper_blocks_and_what_stands_above_them_learn(name, clip, stream):
    model = method(name, clip, upper=UPPER)
    learn_task(model, stream.tasks[0], settings=TrainingSettings(steps=2, batch=8, learning_rate=1e-3, device="cpu"))
    found = changed(model, clip)
    frozen = {tower: clip.depths[tower] // 2 for tower in ("vision", "text")}
    blocks = [(tower, number) for tower in frozen for number in range(clip.depths[tower])]
    for tower, number in blocks:
        moved = any(f"{tower}_model.encoder.layers.{number}." in weight for weight in found)
        assert moved == (number >= frozen[tower]), (tower, number)
    assert not any("embedding" in weight for weight in found)
    assert any("projection" in weight for weight in found)


def test_pictures_cost_their_lower_blocks_once_and_come_out_the_same(clip, stream):
    model = method("finetune", clip, upper=UPPER)
    learn_task(model, stream.tasks[0], settings=TrainingSettings(steps=2, batch=8, learning_rate=1e-3, device="cpu"))
    inputs = clip.inputs
    pictures = [record.picture for record in stream.tasks[0].test]
    store = PictureStore(pictures, inputs.prepare, side=min(inputs.image_size))
    states = FrozenStates(clip, store, [])("vision", model, torch.arange(len(store)))
    assert states is not None
    pixels = inputs.normalise(store.pixels(range(len(store))))
    with torch.no_grad():
        torch.testing.assert_close(model.image_features(states, 0), model.image_features(pixels, 0))
        assert not torch.allclose(model.image_features(pixels, 0), clip.encode_images(pixels), atol=1e-4)


def test_everything_learns_by_default_and_a_share_out_of_range_is_refused(clip):
    assert [method("finetune", clip).frozen_blocks(tower) for tower in clip.depths] == [0, 0]
    with pytest.raises(ConfigError, match=r"upper must be between 0 and 1; got 1\.5"):
        method("finetune", clip, upper=1.5)


def test_states_of_short_captions_are_kept_beside_those_of_long_ones_without_padding(families):
    backbone = families("dinov2-bert")
    model = method("finetune", backbone, upper=UPPER)
    long = ["red dot blue box " * 20, "gray bar teal dot " * 20]  # both cut to the context: no padding among them
    captions = [*long, "a red dot", "box"]
    kept = FrozenStates(backbone, PictureStore([], backbone.inputs.prepare, side=32), captions, batch=2)
    with torch.no_grad():
        states = kept("text", model, torch.arange(len(captions)))
        assert states is not None
        found = model.text_features(states, 0)
        for row, caption in enumerate(captions):
            alone = model.text_features(backbone.inputs.tokenize([caption]), 0)[0]
            torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-5)


def test_a_caption_of_few_letters_may_have_the_most_tokens(families):
    backbone = families("dinov2-bert")
    model = method("finetune", backbone, upper=UPPER)
    captions = ["a b c d e f g h", "redbluedotbox"]
    counts = [int(backbone.inputs.tokenize([caption]).mask.sum()) for caption in captions]
    assert len(captions[0]) > len(captions[1])
    assert counts[0] < counts[1]
    kept = FrozenStates(backbone, PictureStore([], backbone.inputs.prepare, side=32), captions, batch=1)
    with torch.no_grad():
        states = kept("text", model, torch.arange(2))
        assert states is not None
        for row, caption in enumerate(captions):
            alone = model.text_features(backbone.inputs.tokenize([caption]), 0)[0]
            torch.testing.assert_close(model.text_features(states, 0)[row], alone, rtol=1e-4, atol=1e-5)


def test_states_beyond_memory_have_their_room_on_the_disk_before_they_are_written(monkeypatch):
    monkeypatch.setattr(features, "FROZEN_STATES_BYTES", 0)
    room = features._room(1 << 16, torch.float32)
    assert room is not None
    room.fill_(1)

    def full(*what):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert features._room(1 << 16, torch.float32) is None
