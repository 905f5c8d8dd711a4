"""What must hold of boxes wherever they are; the oracle is a slow plain version that knows no tensors."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpi.metrics.boxes import generalised_iou, hit_ranks, iou, precision_at


def overlap(first, second):
    """The slow plain version: shared, covered together and around, from single edges."""
    shared = 1.0
    around = 1.0
    for low, high in ((0, 2), (1, 3)):
        shared *= max(0.0, min(first[high], second[high]) - max(first[low], second[low]))
        around *= max(first[high], second[high]) - min(first[low], second[low])
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(sizes) - shared
    plain = shared / union if union > 0 else 0.0
    return plain, plain - ((around - union) / around if around > 0 else 0.0)


@st.composite
def boxes(draw, least=1, most=6):
    """Boxes on a coarse grid, so that edges touch and boxes are equal, nested or without area often."""
    edge = st.integers(0, 8)
    corners = draw(st.lists(st.tuples(edge, edge, edge, edge), min_size=least, max_size=most))
    return torch.tensor(
        [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], dtype=torch.float64
    ).reshape(-1, 4)


@settings(deadline=None, max_examples=200)
@given(boxes(), boxes())
def test_overlaps_equal_the_slow_plain_version(first, second):
    plain, general = iou(first, second), generalised_iou(first, second)
    assert plain.shape == general.shape == (len(first), len(second))
    for i, one in enumerate(first.tolist()):
        for j, other in enumerate(second.tolist()):
            assert (float(plain[i, j]), float(general[i, j])) == pytest.approx(overlap(one, other), abs=1e-12)


@settings(deadline=None)
@given(boxes(), boxes())
def test_both_overlaps_are_symmetric_and_bounded_and_the_general_one_is_never_larger(first, second):
    plain, general = iou(first, second), generalised_iou(first, second)
    torch.testing.assert_close(plain, iou(second, first).T)
    torch.testing.assert_close(general, generalised_iou(second, first).T)
    assert bool(((plain >= 0) & (plain <= 1) & (general > -1 - 1e-9) & (general <= plain + 1e-12)).all())


@settings(deadline=None)
@given(boxes(), st.floats(0.1, 50), st.floats(-20, 20))
def test_moving_and_enlarging_everything_changes_nothing(some, factor, shift):
    moved = some * factor + shift
    torch.testing.assert_close(iou(moved, moved), iou(some, some), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(generalised_iou(moved, moved), generalised_iou(some, some), atol=1e-6, rtol=1e-6)


@settings(deadline=None)
@given(boxes())
def test_a_box_with_area_is_all_of_itself(some):
    with_area = some[((some[:, 2:] - some[:, :2]) > 0).all(-1)]
    torch.testing.assert_close(iou(with_area, with_area).diagonal(), torch.ones(len(with_area), dtype=torch.float64))


@settings(deadline=None, max_examples=100)
@given(st.lists(boxes(least=0, most=12), min_size=1, max_size=5), st.data())
def test_ranks_are_the_first_place_that_hits(predicted, data):
    truth = torch.cat([data.draw(boxes(most=1)) for _ in predicted])
    for kind, which in (("iou", 0), ("giou", 1)):
        expected = [
            next((place for place, box in enumerate(found.tolist(), 1) if overlap(box, right)[which] >= 0.5), math.inf)
            for found, right in zip(predicted, truth.tolist(), strict=True)
        ]
        assert hit_ranks(predicted, truth, overlap=kind).expected().tolist() == expected


@settings(deadline=None)
@given(st.lists(boxes(least=0, most=12), min_size=1, max_size=5), st.data())
def test_precision_grows_with_k_and_is_never_larger_by_the_general_overlap(predicted, data):
    truth = torch.cat([data.draw(boxes(most=1)) for _ in predicted])
    by_iou = hit_ranks(predicted, truth)
    figures = [precision_at(k, by_iou) for k in range(1, 13)]
    assert figures == sorted(figures)
    by_giou = hit_ranks(predicted, truth, overlap="giou")
    assert all(precision_at(k, by_giou) <= figures[k - 1] for k in range(1, 13))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_equal_scores_count_the_mean_over_every_order_of_them(some):
    """P@k by brute force: boxes that hit or don't, sorted in every order in which equal scores may stand."""
    right, wrong = torch.tensor([0.0, 0, 10, 10]), torch.tensor([50.0, 50, 60, 60])
    predicted = torch.stack([right if hits else wrong for _, hits in some])
    scores = torch.tensor([float(score) for score, _ in some])
    ranks = hit_ranks([predicted], right[None], scores=[scores])
    orders = list(permutations(range(len(some))))
    for k in range(1, len(some) + 1):
        found = 0
        for order in orders:
            first = sorted(order, key=lambda place: -some[place][0])[:k]  # stable: equal scores stay in this order
            found += any(some[place][1] for place in first)
        assert precision_at(k, ranks) == pytest.approx(found / len(orders), abs=1e-6)
