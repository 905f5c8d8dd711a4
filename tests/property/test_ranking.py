"""What must hold of ranks whatever the scores are; the oracle sorts the whole matrix."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpi.metrics.ranking import count_ranks, recall_at, recall_both_directions


def chances_by_every_order(scores, relevant):
    """The slow plain version: sort each row with its candidates in every order, and look where a right one is first.

    Returns:
        How often it is among the first k, [queries, k from 1 to gallery].
    """
    gallery = scores.shape[1]
    orders = list(permutations(range(gallery)))
    found = np.zeros(scores.shape)
    for query, (row, right) in enumerate(zip(scores, relevant, strict=True)):
        for order in orders:
            ranked = sorted(order, key=lambda j, row=row: -row[j])  # stable: equal scores stay in this order
            first = next(place for place, j in enumerate(ranked) if right[j])
            found[query, first:] += 1
    return found / len(orders)


@st.composite
def tables(draw, most=9):
    """Scores with many ties, and at least one right candidate a query."""
    queries, gallery = draw(st.integers(1, 7)), draw(st.integers(1, most))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = generator.integers(0, draw(st.integers(1, 12)), (queries, gallery)).astype(np.float32)
    relevant = generator.random((queries, gallery)) < draw(st.floats(0, 1))
    relevant[np.arange(queries), generator.integers(0, gallery, queries)] = True
    return scores, relevant


def counted(scores, relevant, **options):
    table, pairs = torch.from_numpy(scores), torch.from_numpy(np.argwhere(relevant))
    return count_ranks(lambda start, stop: table[start:stop], len(scores), pairs, **options)


@settings(deadline=None, max_examples=60)
@given(tables(most=6), st.integers(1, 8))
def test_counting_is_the_mean_over_every_order_of_equal_scores(table, block):
    ranks, chances = counted(*table, block=block), chances_by_every_order(*table)
    for k in range(1, table[0].shape[1] + 1):
        assert ranks.within(k).tolist() == pytest.approx(chances[:, k - 1], abs=1e-12)
    expected = 1 + (1 - chances).sum(axis=1)  # of a place: the sum over k of how likely it is beyond k
    assert ranks.expected().tolist() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(tables())
def test_recall_grows_with_k_up_to_one(table):
    ranks = counted(*table)
    recalls = [recall_at(k, ranks) for k in range(1, table[0].shape[1] + 2)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


@settings(deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_shuffling_the_candidates_changes_nothing(table, random):
    scores, relevant = table
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    assert torch.equal(counted(scores, relevant).counts, counted(scores[:, order], relevant[:, order]).counts)


@settings(deadline=None)
@given(tables())
def test_a_rising_function_of_the_scores_changes_nothing(table):
    scores, relevant = table
    assert torch.equal(counted(scores, relevant).counts, counted(np.exp(scores) * 3 - 1, relevant).counts)


@settings(deadline=None)
@given(tables(), st.data())
def test_one_more_right_candidate_never_makes_a_rank_worse(table, data):
    scores, relevant = table
    more = relevant.copy()
    more[:, data.draw(st.integers(0, scores.shape[1] - 1))] = True
    assert bool((counted(scores, more).expected() <= counted(scores, relevant).expected()).all())


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_own_gallery_is_never_harder_than_the_union(tasks, images_a_task, seed):
    generator = torch.Generator().manual_seed(seed)
    images, texts = tasks * images_a_task, 2 * tasks * images_a_task
    pairs = torch.stack([torch.arange(texts), torch.arange(texts) // 2], dim=1)
    task = torch.arange(images) // images_a_task
    arguments = (torch.randn(texts, 3, generator=generator), torch.randn(images, 3, generator=generator), pairs)
    where = {"text_task": task.repeat_interleave(2), "image_task": task, "ks": (1, 2), "tasks": tasks}
    union = recall_both_directions(*arguments, **where)
    own = recall_both_directions(*arguments, gallery="own", **where)
    for direction, by_k in union.items():
        for k, values in by_k.items():
            assert all(a <= b for a, b in zip(values, own[direction][k], strict=True))
