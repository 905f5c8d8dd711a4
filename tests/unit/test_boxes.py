"""Overlaps and P@k by hand: every figure here can be worked out on squared paper."""

import math

import numpy as np
import pytest
import torch

from lpi.errors import ConfigError, ShapeError
from lpi.metrics.boxes import (
    area,
    cxcywh_to_xyxy,
    generalised_iou,
    hit_ranks,
    iou,
    nms,
    precision_at,
    precision_per_task,
)
from lpi.metrics.continual import authors_average, authors_forgetting, final_average
from lpi.metrics.ranking import Ranks

UNIT = torch.tensor([[0.0, 0.0, 2.0, 2.0]])


@pytest.mark.parametrize(
    ("other", "plain", "general"),
    [
        ((0, 0, 2, 2), 1.0, 1.0),  # itself
        ((1, 0, 3, 2), 2 / 6, 2 / 6),  # half beside: nothing around is left over
        ((1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),  # a corner: 9 around, 7 covered
        ((0, 0, 1, 1), 1 / 4, 1 / 4),  # inside
        ((2, 0, 4, 2), 0.0, 0.0),  # touching
        ((3, 0, 4, 2), 0.0, -2 / 8),  # a gap of 1: 8 around, 6 covered
        ((3, 3, 4, 4), 0.0, -11 / 16),  # apart: 16 around, 5 covered
        ((1, 1, 1, 1), 0.0, 0.0),  # a point inside
    ],
)
def test_overlaps_by_hand(other, plain, general):
    second = torch.tensor([other], dtype=torch.float32)
    assert float(iou(UNIT, second)) == pytest.approx(plain, abs=1e-6)
    assert float(generalised_iou(UNIT, second)) == pytest.approx(general, abs=1e-6)


def test_edges_from_centre_and_size_by_hand():
    boxes = torch.tensor([[[10.0, 20.0, 4.0, 6.0]], [[0.5, 0.5, 1.0, 0.5]]])
    assert cxcywh_to_xyxy(boxes).tolist() == [[[8.0, 17.0, 12.0, 23.0]], [[0.0, 0.25, 1.0, 0.75]]]


def test_overlaps_equal_counted_pixels():
    """Independent of any formula: boxes painted on a grid, and pixels counted."""
    generator = np.random.default_rng(0)
    corners = np.sort(generator.integers(0, 30, (40, 2, 2)), axis=1)  # [boxes, low and high, x and y]
    corners[:, 1] += 1
    painted = np.zeros((40, 32, 32), dtype=bool)
    for grid, ((left, top), (right, bottom)) in zip(painted, corners, strict=True):
        grid[top:bottom, left:right] = True
    boxes = torch.tensor(corners.reshape(40, 4), dtype=torch.float32)
    shared = (painted[:, None] & painted[None]).sum((2, 3))
    union = (painted[:, None] | painted[None]).sum((2, 3))
    np.testing.assert_allclose(iou(boxes, boxes).numpy(), shared / union, atol=1e-6)
    around = np.array(
        [
            [
                math.prod(
                    (either.any(axis).nonzero()[0].max() - either.any(axis).nonzero()[0].min() + 1) for axis in (0, 1)
                )
                for either in (one | painted)
            ]
            for one in painted
        ]
    )
    expected = shared / union - (around - union) / around
    np.testing.assert_allclose(generalised_iou(boxes, boxes).numpy(), expected, atol=1e-6)


def test_boxes_without_area_overlap_nothing_and_give_no_nan():
    points = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    assert iou(points, points).tolist() == [[0, 0], [0, 0]]
    assert generalised_iou(points, points).tolist() == [[0, -1], [-1, 0]]
    generalised_iou(points, points).sum().backward()
    assert points.grad is not None
    assert bool(points.grad.isfinite().all())


def test_the_general_overlap_pulls_boxes_together_that_do_not_touch():
    box = torch.tensor([[5.0, 0.0, 7.0, 2.0]], requires_grad=True)
    generalised_iou(UNIT, box).sum().backward()
    assert box.grad is not None
    assert float(box.grad[0, 0]) < 0  # further left is better
    assert float(iou(UNIT, box.detach())) == 0


def test_area_has_any_leading_shape_and_no_negative_value():
    assert area(torch.tensor([[[0.0, 0, 2, 3], [4, 4, 1, 6]]])).tolist() == [[6, 0]]


def places(*values: float) -> Ranks:
    """Ranks of boxes no two of which score the same."""
    counts = [[0, 0, 0] if math.isinf(value) else [int(value) - 1, 0, 1] for value in values]
    return Ranks(torch.tensor(counts, dtype=torch.int64).reshape(-1, 3))


def test_ranks_name_the_first_box_that_hits():
    near, far, half = [0.0, 0, 2, 2], [9.0, 9, 10, 10], [0.0, 0, 2, 1]
    predicted = [
        torch.tensor([near, far]),
        torch.tensor([far, far, near]),
        torch.tensor([far]),
        torch.zeros(0, 4),
        torch.tensor([half]),  # exactly a half counts
    ]
    truth = UNIT.expand(5, 4)
    assert hit_ranks(predicted, truth).expected().tolist() == [1, 3, math.inf, math.inf, 1]
    assert hit_ranks(predicted, truth, threshold=0.6).expected().tolist() == [1, 3, math.inf, math.inf, math.inf]
    assert hit_ranks(torch.stack([predicted[0], predicted[0].flip(0)]), truth[:2]).expected().tolist() == [1, 2]


def test_boxes_of_equal_scores_count_their_share_of_a_hit() -> None:
    near, far = [0.0, 0, 2, 2], [9.0, 9, 10, 10]
    predicted = [torch.tensor([near, far, far]), torch.tensor([far, near, near]), torch.tensor([far, far])]
    scores = [torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.9, 0.5, 0.5]), torch.tensor([0.5, 0.5])]
    ranks = hit_ranks(predicted, UNIT.expand(3, 4), scores=scores)
    assert ranks.counts.tolist() == [[0, 2, 1], [1, 0, 2], [0, 0, 0]]
    assert precision_at(1, ranks) == pytest.approx(1 / 9)
    assert precision_at(2, ranks) == pytest.approx(5 / 9)


def test_what_is_measured_does_not_depend_on_the_order_of_equally_scored_boxes() -> None:
    drawn = torch.Generator().manual_seed(3)
    corners = torch.rand(30, 2, generator=drawn)
    boxes = torch.cat([corners, corners + 0.2 + 0.3 * torch.rand(30, 2, generator=drawn)], dim=1)
    scores = torch.randint(0, 6, (30,), generator=drawn) / 6
    kept = set(nms(boxes, scores, most=10, share=0.3, ties=True).tolist())
    order = torch.randperm(30, generator=drawn)
    again = {int(order[place]) for place in nms(boxes[order], scores[order], most=10, share=0.3, ties=True)}
    assert again == kept
    assert len(kept) >= 10


def test_half_of_a_box_is_a_half_in_any_unit():
    for scale in (1 / 3, 0.1, 1 / 224, 7.7):
        truth = torch.tensor([[0.0, 0.0, 3.0, 3.0]], dtype=torch.float64) * scale
        assert hit_ranks([truth * torch.tensor([1, 1, 1, 0.5])], truth).expected().tolist() == [1]
    # in single precision these overlap by 0.49999997
    whole, half = ((torch.tensor([[562, 15, right, 424]]) / 224) for right in (754, 658))
    assert hit_ranks([half], whole).expected().tolist() == [1]


def test_the_authors_overlap_is_stricter():
    # IoU 6 / 12: around both are 16, of which 4 are left over
    first, second = torch.tensor([[0.0, 0, 3, 3]]), torch.tensor([[0.0, 1, 4, 3.25]])
    assert float(iou(first, second)) == pytest.approx(0.5)
    assert hit_ranks([second], first).expected().tolist() == [1]
    assert hit_ranks([second], first, overlap="giou").expected().tolist() == [math.inf]


def test_precision_by_hand():
    ranks = places(1, 6, 2, math.inf, 11)
    assert [precision_at(k, ranks) for k in (1, 2, 5, 6, 10, 11)] == [0.2, 0.4, 0.4, 0.6, 0.6, 0.8]


def test_stages_make_a_task_matrix_that_the_averages_take():
    first = precision_per_task(places(1, 3), [0, 0], tasks=1)
    second = precision_per_task(places(4, 1, 1, math.inf, 2), [0, 1, 1, 1, 0], tasks=2)
    assert first == {"1": [0.5], "5": [1.0], "10": [1.0]}
    assert second == {"1": [0.0, 2 / 3], "5": [1.0, 2 / 3], "10": [1.0, 2 / 3]}
    matrix = [stage["1"] for stage in (first, second)]
    assert matrix == [[0.5], [0.0, 2 / 3]]
    assert authors_forgetting(matrix) == -0.5
    assert authors_average(matrix) == pytest.approx((0.25 + 2 / 3) / 2)
    assert final_average([first["5"], second["5"]]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: iou(UNIT[0], UNIT), ShapeError, r"\[4\]"),
        (lambda: generalised_iou(UNIT, torch.zeros(2, 5)), ShapeError, r"\[2, 5\]"),
        (lambda: hit_ranks([UNIT, UNIT], UNIT), ShapeError, r"expressions=2, 4.*\[1, 4\]"),
        (
            lambda: hit_ranks([torch.tensor([[3.0, 0, 1, 1]])], UNIT),
            ShapeError,
            r"expression 0.*\[3.0, 0.0, 1.0, 1.0\]",
        ),
        (lambda: hit_ranks([torch.tensor([[math.nan, 0, 1, 1]])], UNIT), ShapeError, "nan"),
        (lambda: hit_ranks([UNIT], UNIT.flip(1)), ShapeError, "the true boxes"),
        (lambda: hit_ranks([torch.zeros(1, 3)], UNIT), ShapeError, r"\[1, 3\]"),
        (lambda: hit_ranks([UNIT], UNIT, overlap="gious"), ConfigError, "Did you mean 'giou'"),  # type: ignore[arg-type]
        (lambda: precision_at(0, places(1)), ConfigError, "got 0"),
        (lambda: precision_at(1, places()), ShapeError, r"\[0\]"),
        (lambda: precision_per_task(places(1, 1), [0], tasks=1), ShapeError, "2 ranks and 1"),
        (lambda: precision_per_task(places(1, 1), [0, 2], tasks=2), ShapeError, "got 0 to 2"),
        (lambda: precision_per_task(places(1, 1), [0, 0], tasks=2), ShapeError, "task 1 has no"),
    ],
)
def test_what_is_no_box_or_no_figure_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def naive_nms(boxes: torch.Tensor, scores: torch.Tensor, most: int, share: float) -> list[int]:
    """Every box against all that were kept before it, one pair at a time."""
    kept: list[int] = []
    for place in sorted(range(len(boxes)), key=lambda place: (-float(scores[place]), place)):
        overlaps = [float(iou(boxes[place][None], boxes[other][None])) for other in kept]
        if len(kept) < most and all(overlap <= share for overlap in overlaps):
            kept.append(place)
    return kept


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("most", [3, 40])
def test_boxes_are_kept_apart_as_by_hand(share: float, most: int) -> None:
    drawn = torch.Generator().manual_seed(7)
    corners = torch.rand(40, 2, generator=drawn)
    boxes = torch.cat([corners, corners + 0.2 + 0.3 * torch.rand(40, 2, generator=drawn)], dim=1)
    scores = torch.randint(0, 20, (40,), generator=drawn) / 20  # with equal ones among them
    kept = nms(boxes, scores, most=most, share=share).tolist()
    assert kept == naive_nms(boxes, scores, most, share)
    assert len(kept) <= most
    if share == 1.0:
        assert len(kept) == most


def test_no_boxes_are_apart() -> None:
    assert nms(torch.empty(0, 4), torch.empty(0), most=3).tolist() == []
