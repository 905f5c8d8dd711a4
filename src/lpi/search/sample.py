"""A sample of pictures and words, encoded by two models: what a bridge between them is learned from and measured on."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lpi.errors import DataError
from lpi.methods.base import Method
from lpi.search.bridge import Bridge, Lesson, Pairs, kept_at, learn_bridge

FIRST = 10  # hits that are compared
SHARES = (0.7, 0.15)  # learned from, and decided by; the rest is measured on
LEAST = 20  # pictures below which there is nothing to learn from
BLOCK = 2**24  # scores held at once
NEAR = 0.25  # how far below the first hits a picture still counts, in units of the spread of a query's scores
FEW_WORDS = 100  # a tokenizer that knows no more of them reads letters


def parts(count: int, seed: int) -> list[Tensor]:
    """Rows to learn from, to decide by and to measure on, int64 each."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = (round(sum(SHARES[: place + 1]) * count) for place in range(2))
    return [order[:first], order[first:second], order[second:]]


@dataclass(frozen=True)
class Sample:
    """What both models made of the same pictures and of the same words.

    Attributes:
        pictures: vectors of both models.
        texts: the same of words.
        seed: of what is learned from, decided by and measured on.

    Raises:
        DataError: too few of either.
    """

    pictures: Pairs
    texts: Pairs
    seed: int

    def __post_init__(self) -> None:
        for name, pairs in (("pictures", self.pictures), ("texts", self.texts)):
            if len(pairs) < LEAST:
                raise DataError(f"a bridge is learned from at least {LEAST} {name}; got {len(pairs)}.")

    def lessons(self) -> tuple[Lesson, Lesson]:
        """What a bridge is learned from, and what decides."""
        pictures, texts = (parts(len(own), self.seed) for own in (self.pictures, self.texts))
        lesson, deciding = (
            Lesson(self.pictures[rows], self.texts[words]) for rows, words in zip(pictures[:2], texts[:2], strict=True)
        )
        return lesson, deciding

    def learn(self, kind: str) -> Bridge:
        """A bridge of one kind; see :func:`lpi.search.bridge.learn_bridge`."""
        return learn_bridge(kind, *self.lessons(), seed=self.seed)

    def measure(self, bridge: Bridge) -> dict[str, Any]:
        """How many of the new model's first hits among the sample's pictures are found without its vectors.

        ``bridge``: by bridged queries among the old vectors; ``old_model``: by the old model's queries among them. A
        picture that is the query isn't looked for.
        """
        kept: dict[str, Any] = {"first": FIRST, "pictures": len(self.pictures), "bridge": {}, "old_model": {}}
        gallery = self.pictures
        for name, pairs in (("text", self.texts), ("image", self.pictures)):
            rows = parts(len(pairs), self.seed)[2]
            right = pairs.new[rows] @ gallery.new.T
            found = {"bridge": bridge(pairs.new[rows]) @ gallery.old.T, "old_model": pairs.old[rows] @ gallery.old.T}
            if pairs is self.pictures:
                for scores in (right, *found.values()):
                    scores[torch.arange(len(rows)), rows] = -2.0
            for key, scores in found.items():
                kept[key][name] = round(kept_at(FIRST, scores, right), 4)
        return kept


# ---- what to embed first ---------------------------------------------------------------------------------------------


def order_of_gain(queries: Tensor, old: Tensor, *, first: int = FIRST) -> Tensor:
    """The order in which pictures should get new vectors, int64 [pictures].

    A new vector gains something only where the picture is, or wrongly isn't, among a query's first hits. So each
    picture is counted for every query: 1 where it is among the first, and the less the further its score lies below
    theirs. Pictures that nobody would be shown come last. Only stored vectors are needed, and the better the queries
    are like those that people will ask, the more is gained. To count pictures for more where the bridge errs by more
    was tried, and gained nothing on top.

    Args:
        queries: bridged, [queries, features].
        old: the pictures' old vectors, [pictures, features].
        first: how many hits count as the first ones.
    """
    if not len(old) or not len(queries):
        return torch.arange(len(old))
    gain = torch.zeros(len(old), dtype=torch.float64)
    for block in torch.split(queries, max(1, BLOCK // len(old))):
        scores = block @ old.T  # [queries, pictures]
        edge = scores.topk(min(first, len(old)), dim=1).values[:, -1:]
        spread = scores.std(dim=1, keepdim=True, correction=0).clamp(min=1e-6)
        gain += ((scores - edge) / (NEAR * spread)).clamp(max=0).exp().double().sum(dim=0)
    return gain.argsort(descending=True, stable=True)


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def sampled(ids: Iterable[str], count: int, seed: int) -> list[str]:
    """So many of the ids, the same ones for the same seed, in order."""
    known = sorted(ids)
    return sorted(random.Random(seed).sample(known, min(count, len(known))))


def words_of(method: Method, names: Iterable[str], captions: Iterable[str], count: int, seed: int) -> list[str]:
    """Different texts to encode: they cost next to nothing, as no file is opened.

    A third are captions on record, a third short sequences of words from the names of files and folders, the rest
    sequences of words that the tokenizer knows; where one kind runs short, the last makes up for it.

    Args:
        method: the model, for its tokenizer.
        names: of files, with folders.
        captions: on record; may be none.
        count: how many texts.
        seed: of what is drawn.
    """
    chance = random.Random(seed)
    known = sorted(set(captions))
    texts = dict.fromkeys(chance.sample(known, min(count // 3, len(known))))
    named = sorted({word.lower() for name in names for word in re.findall(r"[^\W\d_]{3,}", name)})
    spoken = sorted(_vocabulary(method))
    if len(spoken) < FEW_WORDS:
        spoken = sorted({*spoken, *named, "picture"})
    for source, share in ((named, count // 3), (spoken, count)):
        wanted, tries = min(count, len(texts) + share), 0
        while source and len(texts) < wanted and tries < 20 * count:
            tries += 1
            texts[" ".join(chance.choices(source, k=chance.randint(1, 8)))] = None
    return list(texts)


def _vocabulary(method: Method) -> set[str]:
    """Whole words that a model's tokenizer knows as one token."""
    pieces = method.backbone.inputs.tokenizer.get_vocab()
    marked = any(piece.endswith("</w>") or piece[:1] in ("Ġ", "▁") for piece in pieces)
    words = set()
    for piece in pieces:
        if marked and not (piece.endswith("</w>") or piece[:1] in ("Ġ", "▁")):
            continue  # the beginning of a word, or its middle
        word = piece.removesuffix("</w>").lstrip("Ġ▁")
        if len(word) > 2 and word.isalpha():
            words.add(word.lower())
    return words
