"""Ranks and recalls against tables with the answer beside them."""

import pytest
import torch

from lpi.errors import ConfigError, DataError, ShapeError
from lpi.metrics.ranking import (
    Ranks,
    cosine_block,
    count_ranks,
    recall_at,
    recall_both_directions,
)


def ranks_of(scores, pairs, **options):
    scores = torch.tensor(scores)
    return count_ranks(lambda start, stop: scores[start:stop], len(scores), torch.tensor(pairs), **options)


@pytest.mark.parametrize(
    ("scores", "pairs", "counts", "first"),
    [
        ([[0.9, 0.1, 0.2]], [[0, 0]], [0, 0, 1], 1.0),
        ([[0.9, 0.1, 0.2]], [[0, 1]], [2, 0, 1], 0.0),
        ([[0.9, 0.9, 0.2]], [[0, 0]], [0, 1, 1], 1 / 2),  # one wrong candidate scores the same
        ([[0.9, 0.9, 0.9, 1.0]], [[0, 1]], [1, 2, 1], 0.0),
        ([[0.9, 0.9, 0.2]], [[0, 0], [0, 1]], [0, 0, 2], 1.0),  # both right: neither counts against the other
        ([[0.9, 0.5, 0.2]], [[0, 1], [0, 2]], [1, 0, 1], 0.0),  # the best right one decides
        ([[0.5, 0.5, 0.5]], [[0, 1], [0, 2]], [0, 1, 2], 2 / 3),
        ([[0.9, 0.9, 0.2]], [[0, 0], [0, 0]], [0, 1, 1], 1 / 2),  # a pair given twice is one pair
        ([[-float("inf"), 0.9]], [[0, 0]], [1, 0, 1], 0.0),
    ],
)
def test_a_rank_counts_the_wrong_candidates_before_and_beside_the_best_right_one(scores, pairs, counts, first):
    ranks = ranks_of(scores, pairs)
    assert ranks.counts.tolist() == [counts]
    assert recall_at(1, ranks) == pytest.approx(first, abs=1e-12)


def test_a_tie_at_the_cut_counts_its_share_and_no_more():
    five = ranks_of([[0.5] * 6, [0.9, *[0.5] * 5]], [[0, 0], [1, 1]])
    assert five.within(5).tolist() == pytest.approx([5 / 6, 4 / 5])
    assert five.expected().tolist() == [3.5, 4.0]
    crowd = Ranks(torch.tensor([[0, 10**9, 1], [0, 10**6, 10**6], [3, 10**5 - 1, 1]]))  # a model that says nothing
    assert crowd.within(10).tolist() == pytest.approx([1e-8, 1 - 0.5**10, 7e-5], rel=1e-4)


def test_equal_pictures_are_found_as_often_as_by_chance():
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pairs = torch.tensor([[0, 0], [1, 1], [2, 2]])
    task = torch.zeros(3, dtype=torch.int64)
    recalls = recall_both_directions(images, images, pairs, text_task=task, image_task=task, ks=(1, 2))
    assert recalls["text_to_image"] == {"1": [pytest.approx(2 / 3)], "2": [1.0]}
    assert recalls["image_to_text"] == recalls["text_to_image"]


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("width", [32, 257])
def test_equal_features_are_equal_whatever_the_last_bits_of_their_scores(count, width):
    generator = torch.Generator().manual_seed(count)
    texts, picture = torch.randn(count, width, generator=generator), torch.randn(1, width, generator=generator)
    own = torch.arange(count)[:, None].expand(-1, 2)
    ranks = count_ranks(cosine_block(texts, picture.expand(count, -1)), count, own)
    assert ranks.counts.tolist() == [[0, count - 1, 1]] * count


def test_a_rank_does_not_depend_on_the_block():
    scores = torch.randint(0, 5, (23, 17), generator=torch.Generator().manual_seed(0)).float()
    pairs = torch.stack([torch.arange(23), torch.arange(23) % 17], dim=1).flip(0)
    whole = count_ranks(lambda start, stop: scores[start:stop], 23, pairs, block=1024)
    for block in (1, 4, 22, 23):
        assert torch.equal(whole.counts, count_ranks(lambda a, b: scores[a:b], 23, pairs, block=block).counts)


def test_no_more_than_a_block_of_scores_is_asked_for():
    asked = []

    def score_block(start, stop):
        asked.append((start, stop))
        return torch.zeros(stop - start, 3)

    count_ranks(score_block, 10, torch.tensor([[i, 0] for i in range(10)]), block=4)
    assert asked == [(0, 4), (4, 8), (8, 10)]


def test_no_queries_have_no_ranks():
    assert len(count_ranks(lambda a, b: torch.zeros(b - a, 2), 0, torch.zeros(0, 2, dtype=torch.int64))) == 0


@pytest.mark.parametrize(
    ("pairs", "options", "error", "message"),
    [
        ([[0, 0], [2, 1]], {}, DataError, "query 1 has no right candidate"),
        ([[0, 0], [1, 2], [2, 1]], {}, ShapeError, r"pair \[1, 2\] points outside the gallery of 2"),
        ([[0, 0], [7, 1]], {}, ShapeError, r"pair \[7, 1\] points outside: its query is not among the 3"),
        ([0, 1], {}, ShapeError, r"pairs must be whole numbers, \[pairs, 2\]; got \[2\]"),
        ([[0.0, 1.0]], {}, ShapeError, "float32"),
        ([[0, 0], [1, 0], [2, 0]], {"block": 0}, ConfigError, "block must be at least 1; got 0"),
    ],
)
def test_what_can_not_be_ranked_is_refused_by_name(pairs, options, error, message):
    with pytest.raises(error, match=message):
        ranks_of([[0.0, 1.0]] * 3, pairs, **options)


def test_a_score_that_is_no_number_is_refused_by_query():
    with pytest.raises(DataError, match="query 1 has a score that is not a number"):
        ranks_of([[0.0, 1.0], [float("nan"), 1.0]], [[0, 0], [1, 1]], block=1)


def test_a_block_of_the_wrong_shape_is_refused():
    with pytest.raises(ShapeError, match=r"must be \[1, gallery\]; got \[2, 3\]"):
        count_ranks(lambda a, b: torch.zeros(2, 3), 1, torch.tensor([[0, 0]]))


def test_cosine_scores_ignore_length_and_follow_the_restriction():
    queries, gallery = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0], [2.0, 0.0], [1.0, 1.0]])
    assert torch.allclose(cosine_block(queries, gallery)(0, 1), torch.tensor([[0.0, 1.0, 0.5**0.5]]))
    assert torch.allclose(
        cosine_block(queries, gallery, among=torch.tensor([2, 0]))(0, 1), torch.tensor([[0.5**0.5, 0.0]])
    )


def test_half_precision_features_are_scored_in_float32():
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert cosine_block(features, features)(0, 4).dtype == torch.float32


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [((2, 3), (2, 4), "one width; got 3 and 4"), ((3,), (2, 3), r"query_features must be \[items, width\]; got \[3\]")],
)
def test_features_that_do_not_fit_are_refused(queries, gallery, message):
    with pytest.raises(ShapeError, match=message):
        cosine_block(torch.zeros(queries), torch.zeros(gallery))


def test_recall_of_ranks_by_hand():
    ranks = Ranks(torch.tensor([[0, 0, 1], [0, 0, 1], [1, 0, 2], [4, 0, 1], [9, 0, 1]]))
    assert [recall_at(k, ranks) for k in (1, 2, 5, 9, 10)] == [0.4, 0.6, 0.8, 0.8, 1.0]
    with pytest.raises(DataError, match="no ranks"):
        recall_at(1, Ranks(torch.zeros(0, 3, dtype=torch.int64)))


# Two tasks in a plane: task 0's image and its two captions, task 1's two images with a caption each.
IMAGES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
TEXTS = torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.2, 1.0], [-1.0, 0.1]])
PAIRS = torch.tensor([[0, 0], [1, 0], [2, 1], [3, 2]])
TASKS = {"text_task": torch.tensor([0, 0, 1, 1]), "image_task": torch.tensor([0, 1, 1])}


def test_recall_of_each_task_against_the_union_gallery():
    # Caption 1 (of image 0) points at image 1, which is task 1's: a miss against the union, a hit among its own.
    recalls = recall_both_directions(TEXTS, IMAGES, PAIRS, ks=(1, 2), **TASKS)
    assert recalls["text_to_image"] == {"1": [0.5, 1.0], "2": [1.0, 1.0]}
    # Image 1's nearest caption is caption 1, which is not its own; image 2 finds its own.
    assert recalls["image_to_text"] == {"1": [1.0, 0.5], "2": [1.0, 1.0]}


def test_recall_of_each_task_against_its_own_gallery():
    recalls = recall_both_directions(TEXTS, IMAGES, PAIRS, ks=(1,), gallery="own", **TASKS)
    assert recalls == {"text_to_image": {"1": [1.0, 1.0]}, "image_to_text": {"1": [1.0, 1.0]}}


def test_a_pair_across_tasks_counts_in_the_union_and_not_in_the_own_gallery():
    pairs = torch.cat([PAIRS, torch.tensor([[1, 1]])])  # caption 1 fits image 1 too
    union = recall_both_directions(TEXTS, IMAGES, pairs, ks=(1,), **TASKS)
    assert union == {"text_to_image": {"1": [1.0, 1.0]}, "image_to_text": {"1": [1.0, 1.0]}}
    own = recall_both_directions(TEXTS, IMAGES, pairs, ks=(1,), gallery="own", **TASKS)
    assert own == union


def of_one_task(texts, images, pairs):
    tasks = {"text_task": torch.zeros(len(texts)).long(), "image_task": torch.zeros(len(images)).long(), "tasks": 1}
    return recall_both_directions(texts, images, pairs, **tasks)


def test_recall_of_one_task():
    recalls = of_one_task(TEXTS, IMAGES, PAIRS)
    assert recalls["text_to_image"] == {"1": [0.75], "5": [1.0], "10": [1.0]}
    assert recalls["image_to_text"]["1"] == [pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pairs": PAIRS[:-1]}, DataError, r"text query 3 \(task 1\) has no right candidate"),
        ({"tasks": 3}, DataError, "task 2 has no text queries"),
        ({"text_task": torch.tensor([0, 1])}, ShapeError, r"text_task must be \[texts=4\]; got \[2\]"),
        ({"gallery": "all"}, ConfigError, "gallery must be one of union, own; got 'all'"),
        ({"ks": (0, 1)}, ConfigError, r"at least 1; got \[0, 1\]"),
        ({"pairs": torch.tensor([[0, 3]])}, ShapeError, r"pair \[0, 3\] points outside: its candidate is not among"),
    ],
)
def test_recalls_that_can_not_be_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        recall_both_directions(TEXTS, IMAGES, **{"pairs": PAIRS, **TASKS, **change})


def test_an_image_without_captions_is_named():
    with pytest.raises(DataError, match=r"image query 3 \(task 0\)"):
        of_one_task(TEXTS, torch.cat([IMAGES, IMAGES[:1]]), PAIRS)


def test_empty_sides_are_refused():
    with pytest.raises(DataError, match="got 0 texts and 3 images"):
        of_one_task(TEXTS[:0], IMAGES, PAIRS[:0])
