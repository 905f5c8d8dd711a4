import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lpi.data.records import CaptionedImage, normal_caption
from lpi.data.rows import draw_splits
from lpi.tasks import relevance
from lpi.tasks.batches import PictureStore, batches

CAPTIONS = st.sampled_from(["a boat", "A boat!", "a tree", "the sea", "sun", "a  tree"])


class Blank:
    def __init__(self, number):
        self.name = str(number)

    def open(self, side=None):
        return Image.new("RGB", (4, 4))


@st.composite
def sources(draw):
    rows = draw(st.lists(st.lists(CAPTIONS, min_size=1, max_size=4), max_size=12))
    return [CaptionedImage(Blank(number), tuple(captions)) for number, captions in enumerate(rows)]


@settings(max_examples=40, deadline=None)
@given(
    records=sources(),
    size=st.integers(1, 14),
    captions=st.integers(0, 5),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 99),
    equal=st.booleans(),
)
def test_an_epoch_shows_every_picture_once_and_only_its_own_captions(records, size, captions, seed, epoch, equal):
    store = PictureStore([record.picture for record in records], np.asarray, side=4, workers=1)
    seen = []
    for batch in batches(
        records, store, size=size, captions_per_image=captions, equal_captions=equal, seed=seed, epoch=epoch
    ):
        indices = batch.indices.tolist()
        seen += indices
        chosen = [records[index] for index in indices]
        counts = torch.bincount(batch.owner, minlength=len(indices)).tolist()
        assert counts == [min(captions or 9, len(record.captions)) for record in chosen]
        for position, (text, owner) in enumerate(zip(batch.texts, batch.owner.tolist(), strict=True)):
            assert text in chosen[owner].captions
            right = {
                image
                for image, record in enumerate(chosen)
                if image == owner
                or (equal and normal_caption(text) in {normal_caption(caption) for caption in record.captions})
            }
            assert set(batch.positives[:, position].nonzero().flatten().tolist()) == right
    assert sorted(seen) == list(range(len(records)))
    store.close()


@settings(max_examples=40, deadline=None)
@given(records=sources(), seed=st.integers(0, 9))
def test_the_batch_size_changes_neither_order_nor_captions(records, seed):
    store = PictureStore([record.picture for record in records], np.asarray, side=4, workers=1)
    shown = [
        [text for batch in batches(records, store, size=size, seed=seed, epoch=0) for text in batch.texts]
        for size in (1, 3, 20)
    ]
    assert shown[0] == shown[1] == shown[2]
    store.close()


@given(records=sources(), equal=st.booleans())
def test_every_caption_is_right_for_its_own_picture_and_relevance_is_symmetric(records, equal):
    texts, owner, pairs = relevance(records, equal_captions=equal)
    found = {tuple(pair) for pair in pairs.tolist()}
    assert len(found) == len(pairs)
    assert set(enumerate(owner.tolist())) <= found
    right = {(normal_caption(texts[text]), image) for text, image in found}
    for text, image in right if equal else ():
        assert text in {normal_caption(caption) for caption in records[image].captions}


@given(st.text())
def test_normalising_a_caption_twice_changes_nothing(text):
    once = normal_caption(text)
    assert normal_caption(once) == once


@given(st.dictionaries(st.text(), st.sampled_from("ab")), st.randoms())
def test_drawn_splits_do_not_depend_on_the_order_of_names(names, random):
    shuffled = list(names.items())
    random.shuffle(shuffled)
    splits = draw_splits(names)
    assert draw_splits(dict(shuffled)) == splits
    for task in "ab":
        mine = [splits[name] for name in names if names[name] == task]
        assert len(mine) < 2 or {"train", "test"} <= set(mine)
