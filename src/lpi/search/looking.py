"""How an approximate index has to be searched to find what exact search finds, by measuring it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lpi.methods.base import Method
from lpi.search.encoding import Single, text_probes
from lpi.search.manifest import Look
from lpi.search.recorded import on_record
from lpi.search.table import Rows

SAMPLE, HITS = 128, 10
MOST_REFINED = 96  # times the hits; by then the bytes that the index keeps cost nothing


def sampled_words(folder: Path, method: Method) -> Single | None:
    """Words to measure an index in a folder with, as queries [queries, features]: captions on record, or its tasks."""
    captions = [c for own in on_record(folder).values() for record in own.records for c in record.captions]
    words = captions[:: max(1, len(captions) // SAMPLE)][:SAMPLE] or list(method.tasks)
    return text_probes(method, words, "plain").vectors.numpy() if words else None


def choose(rows: Rows, texts: Single | None, wanted: float) -> Look:
    """The cheapest look found whose recall, for words and for pictures, is as wanted; else the best there is.

    Probes or second looks are doubled in turn, whichever helps more, until the recall in the mean over the sample, less
    its standard error, is as wanted.

    Args:
        rows: with an approximate index; some of their own pictures are queries.
        texts: words as queries, [queries, features].
        wanted: the share of the ten best by exact search.
    """
    ids, pictures = rows.sample(SAMPLE)
    directions = [(pictures, ids)] + ([] if texts is None else [(texts, [""] * len(texts))])
    right = [_found(rows, queries, None) for queries, _ in directions]

    def recall(look: Look) -> tuple[float, float]:
        """What is sure to be found, and what was."""
        sure, mean = 1.0, 1.0
        for (queries, own), exact in zip(directions, right, strict=True):
            near = _found(rows, queries, look)
            shares = np.array([_share(*three) for three in zip(exact, near, own, strict=True)])
            sure = min(sure, shares.mean() - shares.std() / math.sqrt(len(shares)))
            mean = min(mean, shares.mean())
        return float(sure), float(mean)

    look, most = Look(), math.isqrt(len(rows)) + 1
    reached = recall(look)
    while reached[0] < wanted:
        further = [
            replace(look, probes=2 * look.probes) if look.probes < most else None,
            replace(look, refine=2 * look.refine) if look.refine < MOST_REFINED else None,
        ]
        tried = [(recall(own), own) for own in further if own is not None]
        if not tried:
            break
        reached, look = max(tried, key=lambda one: one[0])
    return replace(look, recall=round(reached[1], 4), pictures=len(rows))


def _found(rows: Rows, queries: Single, look: Look | None) -> list[list[str]]:
    """The ids of each query's best pictures, one more than counts: a picture finds itself."""
    each = rows.nearest_each(queries, count=HITS + 1, where=None, exact=look is None, columns=["id"], look=look)
    return [[row["id"] for row in own] for own in each]


def _share(exact: list[str], near: list[str], own: str) -> float:
    """The share of the best by exact search that was found, the query itself left out."""
    right = [key for key in exact if key != own][:HITS]
    return len(set(right) & set(near)) / max(1, len(right))
