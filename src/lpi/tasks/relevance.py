"""Which pictures are a right answer to which caption: its own, and those of which somebody wrote the same."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lpi.data.records import CaptionedImage, normal_caption


def relevance(
    records: Sequence[CaptionedImage], *, equal_captions: bool
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """All captions of the records in order, and every pair of caption and picture that counts as right.

    Two captions are equal when :func:`lpi.data.records.normal_caption` makes them so.

    Args:
        records: the pictures, in gallery order.
        equal_captions: whether a picture with an equal caption is as right as the caption's own picture.

    Returns:
        The texts; the index of the picture that each belongs to, [texts]; and the right pairs (text index, picture
        index), each once, in rising order, [pairs, 2].
    """
    texts = [caption for record in records for caption in record.captions]
    owner = np.repeat(np.arange(len(records)), [len(record.captions) for record in records]).astype(np.int64)
    if not equal_captions:
        return texts, owner, np.stack([np.arange(len(texts), dtype=np.int64), owner], axis=1)
    keys = [normal_caption(text) for text in texts]
    pictures: dict[str, list[int]] = defaultdict(list)  # rising, each picture once
    for key, picture in zip(keys, owner.tolist(), strict=True):
        known = pictures[key]
        if not known or known[-1] != picture:
            known.append(picture)
    pairs = [(text, picture) for text, key in enumerate(keys) for picture in pictures[key]]
    return texts, owner, np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
