"""The pre-training of the embedded backbone lets captions begin anywhere, and joins them; what came of it holds."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import backbone as positions_benchmark
import pytest
import torch
import torch.nn.functional as F

import lpi
from lpi.backbones.base import DualEncoder
from lpi.config import TrainingSettings
from lpi.data.scenes import general_scenes
from lpi.methods.base import TrainingBatch
from lpi.pretrain.positions import BEFORE, AnyPosition, lengthened, moved
from lpi.pretrain.scenes import TinyShape, pretrain
from lpi.trainer import Step

WORDS = ["a small red car in front of the house", "two dogs"]


@pytest.fixture
def clip() -> DualEncoder:
    return lpi.backbone("lpi-tiny")


def test_captions_that_are_moved_read_other_rows_of_the_table(clip: DualEncoder) -> None:
    texts = clip.inputs.tokenize(WORDS)
    state, plain = moved(clip.text, texts, torch.tensor([5, 0])), clip.text.begin(texts)
    embedded = clip.text.module.embeddings.token_embedding(texts.ids)
    table = clip.text.module.embeddings.position_embedding.weight
    real = int(texts.mask[0].sum())
    torch.testing.assert_close(state.states[0, 1:real], embedded[0, 1:real] + table[6 : real + 5])
    torch.testing.assert_close(state.states[:, 0], plain.states[:, 0])  # the start token stays where it is
    torch.testing.assert_close(state.states[1], plain.states[1])
    torch.testing.assert_close(moved(clip.text, texts, 0).states, plain.states)


def test_a_moved_caption_is_what_a_shifted_table_gives(clip: DualEncoder) -> None:
    texts = clip.inputs.tokenize(WORDS)
    with torch.no_grad():
        expected = clip.encode_texts(moved(clip.text, texts, 16))
        positions_benchmark.shift_positions(clip.text.module, 16)
        torch.testing.assert_close(clip.encode_texts(texts), expected)


def test_longer_captions_are_two_of_the_pictures_own() -> None:
    records = list(general_scenes(4, seed=3))
    for before, after in zip(records, lengthened(records, seed=0), strict=True):
        own, longer = after.captions[: len(before.captions)], after.captions[len(before.captions) :]
        assert own == before.captions
        assert len(longer) == len(own)
        for caption, more in zip(own, longer, strict=True):
            assert caption in more
            assert more.endswith(before.captions)
            assert more.startswith((caption, *BEFORE))
    assert list(lengthened(records, seed=0)) == list(lengthened(records, seed=0))
    assert list(lengthened(records, seed=0)) != list(lengthened(records, seed=1))


def test_a_batch_begins_where_its_rows_say_and_the_same_batch_there_again(clip: DualEncoder) -> None:
    learner = AnyPosition(clip)
    records = list(islice(general_scenes(3, seed=0), 3))
    pictures = clip.inputs.images([record.picture.open() for record in records])
    texts = clip.inputs.tokenize([record.captions[0] for record in records])
    batch = TrainingBatch(
        images=pictures,
        texts=texts,
        positives=torch.eye(3, dtype=torch.bool),
        owner=torch.arange(3),
        frozen=lambda: (torch.empty(0), torch.empty(0)),
        caption_rows=torch.tensor([4, 0, 9]),
    )
    with torch.no_grad():
        images, read = learner.both(batch)
        again = learner.both(batch)[1]
        other = learner.both(replace(batch, caption_rows=torch.tensor([4, 0, 8])))[1]
        plain = F.normalize(clip.encode_texts(texts), dim=-1)
    assert images.shape == read.shape
    assert torch.equal(read, again)
    assert not torch.allclose(read, other)
    assert not torch.allclose(read, plain)


def test_a_few_steps_of_the_whole_pretraining_learn_and_can_be_loaded(tmp_path: Path) -> None:
    noted: list[Step] = []
    shape = TinyShape(image_size=24, vision_layers=2, text_layers=1, vision_width=32, text_width=32, features=16)
    settings = TrainingSettings(batch=16, learning_rate=5e-3, device="cpu")
    pretrain(
        tmp_path,
        pictures=48,
        epochs=4,
        shape=shape,
        settings=settings,
        on_step=noted.append,
        say=lambda line: None,
    )
    assert sum(step.loss for step in noted[9:12]) < 0.95 * sum(step.loss for step in noted[:3])
    loaded = lpi.backbone(str(tmp_path))
    assert loaded.text.context == shape.context == 77
    assert loaded.encode_texts(loaded.inputs.tokenize(WORDS)).shape == (2, 16)
    assert "lpi pretrain scenes" in (tmp_path / "training.txt").read_text()


def test_moving_the_captions_leaves_what_the_embedded_backbone_makes_of_them() -> None:
    """Its card says so; the recall that follows from it is in results/backbone.json."""
    found = positions_benchmark.moved_recall(
        "lpi-tiny", 'stream.families=["animal", "vehicle"]', "stream.train=2", "stream.validation=0", moves=(0, 4, 16)
    )
    assert found["longest_caption"] + 16 <= found["context"]
    assert found["cosine"]["0"] == pytest.approx(1, abs=1e-5)
    assert min(found["cosine"].values()) > 0.998
    assert max(abs(found["r1"]["0"] - value) for value in found["r1"].values()) < 2.5
