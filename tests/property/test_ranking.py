"""What must hold of ranks whatever the scores are; the oracle sorts the whole matrix."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpi.evaluation.ranking import count_ranks, recall_at, recall_both_directions


def ranks_by_full_sort(scores, relevant, ties):
    """The slow plain version: sort each row and look where the right candidates stand.

    "half" is the mean of sorting the right ones first and last among equals, where they stand as one.
    """
    ranks = []
    for row, right in zip(scores, relevant, strict=True):
        places = []
        for wrong_first in (False, True):
            order = sorted(range(len(row)), key=lambda j: (-row[j], right[j] == wrong_first))
            places.append(next(place for place, j in enumerate(order) if right[j]))
        ranks.append(places[1] if ties == "pessimistic" else (places[0] + places[1]) / 2)
    return np.array(ranks)


@st.composite
def tables(draw):
    """Scores with many ties, and at least one right candidate a query."""
    queries, gallery = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = generator.integers(0, draw(st.integers(1, 12)), (queries, gallery)).astype(np.float32)
    relevant = generator.random((queries, gallery)) < draw(st.floats(0, 1))
    relevant[np.arange(queries), generator.integers(0, gallery, queries)] = True
    return scores, relevant


def counted(scores, relevant, **options):
    table, pairs = torch.from_numpy(scores), torch.from_numpy(np.argwhere(relevant))
    return count_ranks(lambda start, stop: table[start:stop], len(scores), pairs, **options)


@settings(deadline=None, max_examples=200)
@given(tables(), st.sampled_from(["half", "pessimistic"]), st.integers(1, 8))
def test_counting_equals_sorting(table, ties, block):
    np.testing.assert_array_equal(counted(*table, ties=ties, block=block).numpy(), ranks_by_full_sort(*table, ties))


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
    assert torch.equal(counted(scores, relevant), counted(scores[:, order], relevant[:, order]))


@settings(deadline=None)
@given(tables())
def test_a_rising_function_of_the_scores_changes_nothing(table):
    scores, relevant = table
    assert torch.equal(counted(scores, relevant), counted(np.exp(scores) * 3 - 1, relevant))


@settings(deadline=None)
@given(tables())
def test_the_pessimistic_rank_is_never_better(table):
    assert bool((counted(*table, ties="pessimistic") >= counted(*table)).all())


@settings(deadline=None)
@given(tables(), st.data())
def test_one_more_right_candidate_never_makes_a_rank_worse(table, data):
    scores, relevant = table
    more = relevant.copy()
    more[:, data.draw(st.integers(0, scores.shape[1] - 1))] = True
    assert bool((counted(scores, more) <= counted(scores, relevant)).all())


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
