"""Words to begin with: those that an index answers well."""

from __future__ import annotations

from lpi.errors import LpiError
from lpi.search.fit import WELL
from lpi.search.index import SearchIndex
from lpi.search.recorded import on_record

SUGGESTED = 6
LONGEST = 60  # letters
FROM_EACH = 12  # captions of a domain's test set that are tried
TRIED = (
    *("a dog", "a cat", "birds", "horses in a field", "a fish", "insects", "a flower", "a tree", "mountains"),
    *("the sea", "a river", "snow", "a sunset", "a street at night", "a building", "a bridge", "an aerial view"),
    *("a child playing", "people at a table", "a crowd", "a portrait", "a person on a bicycle", "a man with a hat"),
    *("a car", "a boat on the water", "a train", "an aeroplane", "food on a plate", "fruit", "a cake", "a cup"),
    *("a chair", "a lamp", "a room with a window", "clothes", "shoes", "a toy", "a musical instrument", "a tool"),
    *("a drawing", "a map", "a flag", "a logo", "text on a page", "an X-ray picture", "a ball game"),
    *("something red", "a blue sky", "a cat on a farm", "a red car at night"),
)


def suggestions(index: SearchIndex) -> list[str]:
    """Words whose best picture fits well, a different picture each, the best first; none where that isn't known.

    Tried are everyday words, and captions of the test sets on record.
    """
    tried = [*TRIED]
    try:
        for own in on_record(index.folder).values():
            captions = [record.captions[0] for record in own.records if len(record.captions[0]) <= LONGEST]
            tried += sorted(captions, key=len)[:FROM_EACH]
    except LpiError:  # a damaged test set is 'lpi teach's business
        pass
    tried = list(dict.fromkeys(tried))
    if not len(index) or not index.measure():
        return []
    best: dict[str, tuple[float, str]] = {}
    for words, hits in zip(tried, index.find_each(index.encode_texts(tried), 1), strict=True):
        if hits and (fit := hits[0].fit or 0.0) >= WELL:
            best[hits[0].id] = max(best.get(hits[0].id, (0.0, "")), (fit, words))
    return [words for _, words in sorted(best.values(), reverse=True)[:SUGGESTED]]
