"""Ranks, and what is read off them: recall@k.

A query's rank says how many wrong candidates stand before its best right one, and how many beside it at the same
score. It is counted, never sorted for: the scores are asked for in blocks of queries, and no more than one block of
the score matrix is ever held. Every function is pure; features and pairs go in, numbers come out. What is right is
given as pairs (query, candidate), so five captions of one picture, or one caption that fits two pictures, need no
special case.

Nothing puts equal scores in an order, so a figure is what is expected of one drawn at random: of two pictures that no
model can tell apart, the right one is found first half of the time, and counts as half a hit. Scores are equal that
differ by rounding alone: the same picture gets other last bits in another batch, or in a matrix's last columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lpi.errors import ConfigError, DataError, ShapeError, check_choice

ScoreBlock = Callable[[int, int], Tensor]
Gallery = Literal["union", "own"]
Similarity = Literal["cosine", "dot"] | Callable[[Tensor, Tensor], Tensor]
"""``cosine``, ``dot`` for features whose lengths mean something, or what gives the scores [queries, candidates]."""
RecallPerTask = dict[str, dict[str, list[float]]]

KS = (1, 5, 10)
ROUNDING = 1e-6
"""By how much of a score, or of 1, the largest cosine, float32 sums may differ that add the same numbers."""


@dataclass(frozen=True)
class Ranks:
    """Where the best right candidate of each query stands, as far as the scores say.

    Attributes:
        counts: int64 [queries, 3]: wrong candidates that score higher than the best right one, wrong ones that score
            the same, and right ones that score the same, the best itself included; 0 of these where none is right.
    """

    counts: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: Tensor) -> "Ranks":
        return Ranks(self.counts[rows])

    def expected(self) -> Tensor:
        """The expected place of the first right candidate, the first being 1, float64 [queries]; infinite without one.

        Of w wrong and r right ones in a random order, w / (r + 1) wrong ones are expected before the first right one.

        >>> Ranks(torch.tensor([[0, 0, 1], [2, 1, 1], [5, 0, 0]])).expected().tolist()
        [1.0, 3.5, inf]
        """
        higher, wrong, right = self.counts.double().unbind(dim=1)
        return torch.where(right > 0, 1 + higher + wrong / (right + 1), torch.inf)

    def within(self, k: int) -> Tensor:
        """How likely a right candidate is among the first k, equal scores in random order, float64 [queries].

        Of the w wrong and r right ones that score the same, m = k - higher stand within k. That all m are wrong has
        the probability C(w, m) / C(w + r, m) = prod_{i < m} (w - i) / (w + r - i).

        >>> Ranks(torch.tensor([[0, 0, 1], [0, 1, 1], [0, 2, 2], [1, 0, 1]])).within(1).tolist()
        [1.0, 0.5, 0.5, 0.0]
        """
        higher, wrong, right = self.counts.unbind(dim=1)
        places = (k - higher).clamp(min=0)
        found = ((right > 0) & (places > 0)).double()
        unsure = ((found > 0) & (wrong >= places)).nonzero()[:, 0]  # with fewer wrong ones than places, one is right
        if len(unsure):
            w, r, m = wrong[unsure].double(), right[unsure].double(), places[unsure]
            missed = torch.ones_like(w)
            for i in range(int(m.max())):
                missed *= torch.where(i < m, (w - i) / (w + r - i), 1.0)
            found[unsure] = 1 - missed
        return found


def count_ranks(score_block: ScoreBlock, queries: int, pairs: Tensor, *, block: int = 1024) -> Ranks:
    """For each query, how many wrong candidates stand before its best right one, and what scores the same.

    A wrong candidate stands before the best right one where it scores higher by more than :data:`ROUNDING`. Right
    candidates never count against each other.

    >>> scores = torch.tensor([[0.9, 0.5, 0.9, 0.1]])
    >>> count_ranks(lambda start, stop: scores[start:stop], 1, torch.tensor([[0, 0]])).counts  # one equal
    tensor([[0, 1, 1]])
    >>> count_ranks(lambda start, stop: scores[start:stop], 1, torch.tensor([[0, 1], [0, 3]])).counts  # two higher
    tensor([[2, 0, 1]])

    Args:
        score_block: gives the scores of the queries ``start`` to ``stop - 1``, [stop - start, gallery].
        queries: number of queries.
        pairs: which candidates are right, (query, candidate), [pairs, 2] int64, in any order; doubles are harmless.
        block: queries whose scores are held at once.

    Returns:
        The ranks of all queries, on the CPU.

    Raises:
        DataError: a query has no right candidate, or a score is not a number; the message names the query.
        ShapeError: pairs or scores have the wrong shape, or a pair points outside.
        ConfigError: a block below 1.
    """
    if block < 1:
        raise ConfigError(f"block must be at least 1; got {block}.")
    # Doubles would be taken off twice below; sorted pairs make a block's pairs one slice.
    pairs = torch.unique(check_pairs(pairs, queries), dim=0)  # [pairs, 2], by query
    rights = torch.bincount(pairs[:, 0], minlength=queries)  # [queries]
    if queries and not bool(rights.all()):
        query = int((rights == 0).nonzero()[0])
        raise DataError(f"query {query} has no right candidate in the gallery. Leave it out, or add its pair.")
    ends = rights.cumsum(0).tolist()
    counts = [torch.zeros(0, 3, dtype=torch.int64)]
    first_pair = 0
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        scores = score_block(start, stop)
        own = pairs[first_pair : ends[stop - 1]].to(scores.device)
        first_pair = ends[stop - 1]
        check_scores(scores, start, stop, own)
        rows = own[:, 0] - start  # [pairs of the block]
        right_scores = scores[rows, own[:, 1]]
        best = torch.full_like(scores[:, 0], -torch.inf).scatter_reduce(0, rows, right_scores, "amax")  # [rows]
        slack = torch.where(best.isfinite(), ROUNDING * best.abs().clamp(min=1), 0)
        higher = (scores > (best + slack)[:, None]).sum(dim=1)  # no right candidate is above the best of them
        least = best - slack
        equal = (scores >= least[:, None]).sum(dim=1) - higher
        right = torch.zeros_like(equal).scatter_add(0, rows, (right_scores >= least[rows]).to(equal.dtype))
        counts.append(torch.stack([higher, equal - right, right], dim=1).cpu())
    return Ranks(torch.cat(counts))


def cosine_block(
    query_features: Tensor, gallery_features: Tensor, *, among: Tensor | None = None, similarity: Similarity = "cosine"
) -> ScoreBlock:
    """Scores by cosine similarity, inner product or what one gives, computed a block at a time.

    >>> score = cosine_block(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    >>> score(0, 1)
    tensor([[1., 0.]])

    Args:
        query_features: [queries, width]; need not be normalised.
        gallery_features: [gallery, width].
        among: restricts the gallery to these candidates, [restricted] int64; the scores' columns, and so the
            candidates in ``pairs``, then count within ``among``.
        similarity: how two features are compared.

    Returns:
        The function that :func:`count_ranks` takes; its scores are float32, whatever the features are.

    Raises:
        ShapeError: the two are not matrices of one width.
    """
    for name, features in (("query_features", query_features), ("gallery_features", gallery_features)):
        if features.ndim != 2:
            raise ShapeError(f"{name} must be [items, width]; got {list(features.shape)}.")
    if query_features.shape[1] != gallery_features.shape[1]:
        raise ShapeError(
            f"queries and gallery must have one width; got {query_features.shape[1]} and {gallery_features.shape[1]}. "
            "Were both encoded by the same model?"
        )
    gallery = gallery_features if among is None else gallery_features[among]

    def scaled(features: Tensor) -> Tensor:
        return features.float() if similarity == "dot" else torch.nn.functional.normalize(features.float(), dim=1)

    if not isinstance(similarity, str):
        return lambda start, stop: similarity(query_features[start:stop], gallery)
    gallery = scaled(gallery).T  # [width, gallery]

    def score_block(start: int, stop: int) -> Tensor:
        return scaled(query_features[start:stop]) @ gallery

    return score_block


def recall_at(k: int, ranks: Ranks) -> float:
    """The share of queries that find a right candidate among their first k; equal scores count their share of a hit.

    >>> recall_at(1, Ranks(torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 1], [7, 2, 1]])))
    0.375

    Raises:
        DataError: there are no queries.
    """
    if not len(ranks):
        raise DataError("there are no ranks to average. Give at least one query.")
    return float(ranks.within(k).mean())


def recall_both_directions(
    text_features: Tensor,
    image_features: Tensor,
    pairs: Tensor,
    *,
    text_task: Tensor,
    image_task: Tensor,
    tasks: int | None = None,
    gallery: Gallery = "union",
    ks: Sequence[int] = KS,
    similarity: Similarity = "cosine",
    block: int = 1024,
) -> RecallPerTask:
    """Recall@k of each task's test queries, text to image and image to text.

    Args:
        text_features: every seen task's test captions, [texts, width].
        image_features: every seen task's test images, [images, width].
        pairs: which text fits which image, (text, image), [pairs, 2] int64; may cross tasks.
        text_task: the task that each text belongs to, [texts] int64.
        image_task: the task that each image belongs to, [images] int64.
        tasks: number of tasks; by default one more than the highest in ``text_task`` and ``image_task``.
        gallery: ``union`` ranks against the candidates of all tasks; ``own`` only against the query's own task's.
        ks: how far down the list a hit may stand, each at least 1.
        similarity: see :func:`cosine_block`.
        block: see :func:`count_ranks`.

    Returns:
        Fractions, one entry a task: ``{"text_to_image": {"1": [..], ..}, "image_to_text": {"1": [..], ..}}``.

    Raises:
        DataError: a task without queries, a query without a right candidate, or a feature that is not a number.
        ShapeError: features, pairs or tasks have the wrong shape.

    Paper: LPI's protocol: after each stage, every seen task against the union gallery of all tasks seen so far.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks must be numbers of at least 1; got {list(ks)}.")
    ranks = ranks_both_directions(
        text_features,
        image_features,
        pairs,
        text_task=text_task,
        image_task=image_task,
        tasks=tasks,
        gallery=gallery,
        similarity=similarity,
        block=block,
    )
    return recalls_of(ranks, ks)


def recalls_of(ranks: Mapping[str, Sequence[Ranks]], ks: Sequence[int] = KS) -> RecallPerTask:
    """Recall@k from what :func:`ranks_both_directions` gave."""
    return {way: {str(k): [recall_at(k, own) for own in by_task] for k in ks} for way, by_task in ranks.items()}


def ranks_both_directions(
    text_features: Tensor,
    image_features: Tensor,
    pairs: Tensor,
    *,
    text_task: Tensor,
    image_task: Tensor,
    tasks: int | None = None,
    gallery: Gallery = "union",
    similarity: Similarity = "cosine",
    block: int = 1024,
) -> dict[str, list[Ranks]]:
    """The ranks of each task's test queries, text to image and image to text, in the order of the queries.

    Arguments and errors are those of :func:`recall_both_directions`.
    """
    check_choice("gallery", gallery, Gallery)
    text_task = check_tasks("text", text_task, text_features)
    image_task = check_tasks("image", image_task, image_features)
    if not len(text_task) or not len(image_task):
        raise DataError(f"recall needs texts and images; got {len(text_task)} texts and {len(image_task)} images.")
    if tasks is None:
        tasks = int(max(text_task.max(), image_task.max())) + 1
    pairs = check_pairs(pairs, len(text_features), len(image_features))
    found: dict[str, list[Ranks]] = {}
    for direction, ours, theirs, our_task, their_task, columns, noun in (
        ("text_to_image", text_features, image_features, text_task, image_task, [0, 1], "text"),
        ("image_to_text", image_features, text_features, image_task, text_task, [1, 0], "image"),
    ):
        by_task = []
        for task in range(tasks):
            mine = (our_task == task).nonzero()[:, 0]  # [queries of the task]
            if not len(mine):
                raise DataError(f"task {task} has no {noun} queries. Give every seen task test pairs.")
            among = None if gallery == "union" else (their_task == task).nonzero()[:, 0]
            local = local_pairs(pairs[:, columns], mine, among, len(ours), len(theirs))
            check_partners(local, mine, noun, task)
            score_block = cosine_block(ours[mine], theirs, among=among, similarity=similarity)
            by_task.append(count_ranks(score_block, len(mine), local, block=block))
        found[direction] = by_task
    return found


def local_pairs(pairs: Tensor, mine: Tensor, among: Tensor | None, queries: int, gallery: int) -> Tensor:
    """The pairs of some queries, renumbered within these queries and within the restricted gallery, [kept, 2]."""
    query_place = torch.full((queries,), -1)
    query_place[mine] = torch.arange(len(mine))
    candidate_place = torch.arange(gallery)
    if among is not None:
        candidate_place = torch.full((gallery,), -1)
        candidate_place[among] = torch.arange(len(among))
    local = torch.stack([query_place[pairs[:, 0]], candidate_place[pairs[:, 1]]], dim=1)
    return local[(local >= 0).all(dim=1)]


def check_partners(local: Tensor, mine: Tensor, noun: str, task: int) -> None:
    """Refuse a query without a right candidate, by the number that the caller knows it by."""
    alone = torch.bincount(local[:, 0], minlength=len(mine)) == 0
    if bool(alone.any()):
        query = int(mine[alone.nonzero()[0, 0]])
        raise DataError(
            f"{noun} query {query} (task {task}) has no right candidate in the gallery. "
            "Leave it out, or add its partner to the gallery and its pair to pairs."
        )


def check_pairs(pairs: Tensor, queries: int, gallery: int | None = None) -> Tensor:
    """Pairs on the CPU in int64, [pairs, 2], or a ShapeError."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point():
        raise ShapeError(f"pairs must be whole numbers, [pairs, 2]; got {list(pairs.shape)} {pairs.dtype}.")
    pairs = pairs.detach().cpu().to(torch.int64)
    for column, count, noun in ((0, queries, "query"), (1, gallery, "candidate")):
        outside = (pairs[:, column] < 0) | (pairs[:, column] >= (count if count is not None else 2**62))
        if bool(outside.any()):
            pair = pairs[outside][0].tolist()
            raise ShapeError(f"pair {pair} points outside: its {noun} is not among the {count}.")
    return pairs


def check_tasks(noun: str, task: Tensor, features: Tensor) -> Tensor:
    """Task numbers on the CPU, [items], or a ShapeError."""
    if task.ndim != 1 or len(task) != len(features):
        raise ShapeError(f"{noun}_task must be [{noun}s={len(features)}]; got {list(task.shape)}.")
    return task.detach().cpu().to(torch.int64)


def check_scores(scores: Tensor, start: int, stop: int, own: Tensor) -> None:
    """Refuse a block of the wrong shape, a pair outside the gallery, and scores that are not numbers."""
    if scores.ndim != 2 or scores.shape[0] != stop - start:
        raise ShapeError(f"scores of a block must be [{stop - start}, gallery]; got {list(scores.shape)}.")
    outside = own[:, 1] >= scores.shape[1]
    if bool(outside.any()):
        raise ShapeError(f"pair {own[outside][0].tolist()} points outside the gallery of {scores.shape[1]}.")
    broken = scores.isnan().any(dim=1)
    if bool(broken.any()):
        query = start + int(broken.nonzero()[0, 0])
        raise DataError(f"query {query} has a score that is not a number (NaN). Check the features for NaN.")
