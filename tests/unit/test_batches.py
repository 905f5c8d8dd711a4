import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from lpi.data.records import CaptionedImage, FilePicture
from lpi.errors import ConfigError, DataError, ShapeError
from lpi.tasks.batches import AHEAD, Augment, PictureStore, ahead, batch_count, batches, cores


class Drawn:
    """A picture whose colour is its number; counts how often it is opened."""

    def __init__(self, number, size=(20, 16)):
        self.number, self.size, self.opened = number, size, 0

    @property
    def name(self):
        return f"drawn-{self.number}"

    def open(self, side=None):
        self.opened += 1
        across = np.linspace(0, 250, self.size[0], dtype=np.uint8)
        pixels = np.broadcast_to(across[None, :, None], (self.size[1], self.size[0], 3)).copy()
        pixels[..., 0] = self.number
        return Image.fromarray(pixels)


def prepare(image):
    return np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC))


def make(count=10, captions=3, **options):
    records = [
        CaptionedImage(Drawn(number), tuple(f"picture {number} caption {turn}" for turn in range(captions)))
        for number in range(count)
    ]
    return records, PictureStore([record.picture for record in records], prepare, side=8, **options)


def equal(first, second):
    return (
        torch.equal(first.pixels, second.pixels)
        and first.texts == second.texts
        and torch.equal(first.owner, second.owner)
        and torch.equal(first.positives, second.positives)
        and torch.equal(first.indices, second.indices)
    )


def test_a_batch_holds_pixels_texts_and_what_belongs_to_what():
    records, store = make()
    found = list(batches(records, store, size=4, captions_per_image=2, seed=0, epoch=0))
    assert [len(batch.indices) for batch in found] == [4, 4, 2]
    assert batch_count(10, size=4) == 3
    first = found[0]
    assert first.pixels.shape == (4, 3, 8, 8)
    assert first.pixels.dtype == torch.uint8
    assert first.pixels[:, 0, 0, 0].tolist() == first.indices.tolist()
    assert first.owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for text, owner in zip(first.texts, first.owner, strict=True):
        assert text.startswith(f"picture {first.indices[owner]} ")
    assert torch.equal(first.positives, first.owner == torch.arange(4)[:, None])


def test_the_same_seed_and_epoch_give_the_same_batches_and_others_do_not():
    records, store = make()
    options = {"size": 4, "augment": Augment("crop_flip")}
    one = list(batches(records, store, seed=1, epoch=2, **options))
    _, fresh = make(workers=4, memory_bytes=0)
    again = list(batches(records, fresh, seed=1, epoch=2, **options))
    assert all(equal(first, second) for first, second in zip(one, again, strict=True))
    for seed, epoch in ((1, 3), (2, 2)):
        other = list(batches(records, store, seed=seed, epoch=epoch, **options))
        assert [batch.indices.tolist() for batch in other] != [batch.indices.tolist() for batch in one]


def test_a_stopped_epoch_goes_on_with_the_very_same_batches():
    records, store = make()
    whole = list(batches(records, store, size=3, augment=Augment("crop"), seed=0, epoch=0))
    rest = list(batches(records, store, size=3, augment=Augment("crop"), seed=0, epoch=0, start=2))
    assert all(equal(first, second) for first, second in zip(whole[2:], rest, strict=True))


def test_augmentation_does_not_change_which_captions_are_drawn():
    records, store = make()
    plain = list(batches(records, store, size=5, seed=0, epoch=0))
    varied = list(batches(records, store, size=5, seed=0, epoch=0, augment=Augment("crop_flip")))
    assert [batch.texts for batch in plain] == [batch.texts for batch in varied]


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (3, 3), (9, 3), (0, 3)])
def test_so_many_distinct_captions_a_picture(asked, given):
    records, store = make(count=4)
    (batch,) = batches(records, store, size=4, captions_per_image=asked, seed=0, epoch=0)
    assert len(set(batch.texts)) == len(batch.texts) == 4 * given


def test_equal_captions_of_another_picture_are_right_even_when_not_drawn():
    records = [
        CaptionedImage(Drawn(0), ("A boat.",)),
        CaptionedImage(Drawn(1), ("a  boat", "the sea")),
        CaptionedImage(Drawn(2), ("a tree",)),
    ]
    store = PictureStore([record.picture for record in records], prepare, side=8)
    for epoch in range(8):
        (batch,) = batches(records, store, size=3, seed=0, epoch=epoch)
        place = {index: position for position, index in enumerate(batch.indices.tolist())}
        positives = batch.positives[[place[0], place[1], place[2]]][:, [place[0], place[1], place[2]]]
        drawn = batch.texts[place[1]] == "a  boat"
        assert positives.tolist() == [[True, drawn, False], [True, True, False], [False, False, True]]
        (batch,) = batches(records, store, size=3, seed=0, epoch=epoch, equal_captions=False)
        assert torch.equal(batch.positives, torch.eye(3, dtype=torch.bool))


def test_an_epoch_has_a_last_small_batch_and_of_nothing_none():
    records, store = make()
    assert [len(batch.indices) for batch in batches(records, store, size=4, seed=0, epoch=0)] == [4, 4, 2]
    assert batch_count(10, size=4) == 3
    assert list(batches([], PictureStore([], prepare, side=8), size=4, seed=0, epoch=0)) == []


def test_pictures_are_kept_up_to_the_limit():
    records, store = make(count=4, memory_bytes=2 * 8 * 8 * 3)
    for _ in range(3):
        store.pixels([0, 1, 2, 3])
    assert sorted(record.picture.opened for record in records) == [1, 1, 3, 3]


def test_flips_mirror_about_half_of_the_pictures():
    records, store = make(count=64)
    mirrored = 0
    for batch in batches(records, store, size=16, augment=Augment("flip"), seed=0, epoch=0):
        plain = store.pixels(batch.indices.tolist())
        for shown, original in zip(batch.pixels, plain, strict=True):
            assert torch.equal(shown, original) or torch.equal(shown, original.flip(-1))
            mirrored += not torch.equal(shown, original)
    assert 16 < mirrored < 48


def test_crops_show_a_part_of_the_picture_at_the_full_size():
    records, store = make(count=32)
    for batch in batches(records, store, size=32, augment=Augment("crop", scale=(0.5, 0.6)), seed=0, epoch=0):
        assert batch.pixels.shape == (32, 3, 8, 8)
        spread = batch.pixels[:, 1].amax((1, 2)).int() - batch.pixels[:, 1].amin((1, 2)).int()
        assert spread.max() < 230  # the whole picture spans 0 to 250
        assert len(set(batch.pixels[:, 1, 0, 0].tolist())) > 8


@pytest.mark.parametrize("size", [(200, 4), (4, 200), (31, 17), (1, 1)])
def test_a_crop_lies_in_the_picture_whatever_its_shape(size):
    augment = Augment("crop", scale=(0.2, 1.0))
    for seed in range(50):
        left, top, right, bottom = augment.box(*size, np.random.default_rng(seed))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert 3 / 4 - 1e-6 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-6


def test_the_full_crop_equals_a_plain_resize():
    store = PictureStore([Drawn(5, (16, 16))], prepare, side=8)
    augment = Augment("crop", scale=(1.0, 1.0), ratio=(1.0, 1.0))
    (crop,) = store.crops([0], augment, [np.random.default_rng(0)])
    assert (crop.int() - store.pixels([0])[0].int()).abs().max() < 12


def test_very_flat_pictures_survive_cropping():
    store = PictureStore([Drawn(1, (300, 2)), Drawn(2, (2, 300))], prepare, side=8)
    generators = [np.random.default_rng(number) for number in (0, 1)]
    assert store.crops([0, 1], Augment("crop_flip"), generators).shape == (2, 3, 8, 8)


def test_a_broken_picture_is_named(tmp_path):
    path = tmp_path / "boat.jpg"
    path.write_bytes(b"no picture")
    record = CaptionedImage(FilePicture(path, "boat.jpg"), ("a boat",))
    store = PictureStore([record.picture], prepare, side=8)
    with pytest.raises(DataError, match=r"boat\.jpg: the picture can't be read"):
        list(batches([record], store, size=1, seed=0, epoch=0))


def test_a_preparation_that_fails_names_the_picture():
    def fussy(image):
        if image.size != (8, 8):
            raise RuntimeError("too wide")
        return prepare(image)

    store = PictureStore([Drawn(3)], fussy, side=8)
    with pytest.raises(DataError, match=r"drawn-3: the picture can't be prepared \(too wide\)"):
        store.pixels([0])


def test_a_preparation_of_changing_size_is_refused():
    store = PictureStore([Drawn(3)], np.asarray, side=8)
    with pytest.raises(ShapeError, match=r"drawn-3: prepare must give \[8, 8, 3\] uint8; got \[16, 20, 3\] uint8"):
        store.pixels([0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "crpo"}, "No augmentation is called 'crpo'. Did you mean 'crop'"),
        ({"scale": (0.0, 1.0)}, r"augment scale must be .* got \(0.0, 1.0\)"),
        ({"ratio": (2.0, 1.0)}, r"augment ratio must be .* got \(2.0, 1.0\)"),
    ],
)
def test_an_impossible_augmentation_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**options)


def test_wrong_numbers_are_refused_before_the_first_batch():
    records, store = make(count=3)
    with pytest.raises(ConfigError, match=r"size must be at least 1, .* got 0, 1, 0, 0, 0"):
        batches(records, store, size=0, seed=0, epoch=0)
    with pytest.raises(ShapeError, match="pictures of the 2 records; it holds 3"):
        batches(records[:2], store, size=1, seed=0, epoch=0)
    with pytest.raises(ConfigError, match="side and workers must be at least 1"):
        make(workers=0)


def test_what_comes_next_is_loaded_while_one_is_worked_on_and_no_further():
    loaded, following = [], threading.Semaphore(0)

    def load(item):
        loaded.append(item)
        following.release()
        return -item

    coming = ahead(load, range(10))
    assert next(coming) == 0
    for _ in range(AHEAD + 1):
        assert following.acquire(timeout=10)
    assert loaded == list(range(AHEAD + 1))
    assert [0, *coming] == [-item for item in range(10)]


def test_an_error_of_what_comes_next_is_raised_in_its_turn():
    coming = ahead(lambda item: 1 // item, [1, 0, 1])
    assert next(coming) == 1
    with pytest.raises(ZeroDivisionError):
        next(coming)


def test_the_number_of_decoders_is_a_setting(monkeypatch):
    monkeypatch.delenv("LPI_DECODERS", raising=False)
    assert 1 <= cores() <= os.cpu_count()
    monkeypatch.setenv("LPI_DECODERS", "7")
    assert cores() == 7
    for wrong in ("0", "many", "-1"):
        monkeypatch.setenv("LPI_DECODERS", wrong)
        with pytest.raises(ConfigError, match=f"LPI_DECODERS must be a number of threads, at least 1; got '{wrong}'"):
            cores()


def test_groups_in_turn_are_the_pictures_of_each():
    _, store = make()
    found = list(store.in_turn([range(4), [9, 0]]))
    assert [group[:, 0, 0, 0].tolist() for group in found] == [[0, 1, 2, 3], [9, 0]]
