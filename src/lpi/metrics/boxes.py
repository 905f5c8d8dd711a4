"""How well boxes are found: overlap of two boxes, and the share of expressions whose object is among the first few.

Boxes are left, top, right, bottom, in pixels or in shares of the picture, as long as both sides are the same. All
functions are pure: tensors go in, tensors or numbers come out. What is measured after each task is a row of a task
matrix, so :mod:`lpi.metrics.continual` averages it as it does recalls.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lpi.errors import ConfigError, ShapeError, did_you_mean
from lpi.metrics.ranking import Ranks

Overlap = Literal["iou", "giou"]
KS = (1, 5, 10)
HIT = 0.5
"""The overlap from which a box counts as found."""


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom from centre and size, [..., 4]."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """The area of each box; none where its edges are in the wrong order.

    Args:
        boxes: [..., 4].

    Returns:
        [...].
    """
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every box of one list with every box of another, 0 to 1.

    Two boxes without area have no union: 0.

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]]))  # 2 of 6; nothing
    tensor([[0.3333, 0.0000]])

    Args:
        first: [n, 4].
        second: [m, 4].

    Returns:
        [n, m].

    Raises:
        ShapeError: not lists of boxes.
    """
    shared, union = _shared_and_union(first, second)
    return _share(shared, union)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """The same, less the part of the smallest box around both that neither covers: -1 to 1, never above IoU.

    >>> generalised_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]]))  # 0 - 1 of 3
    tensor([[-0.3333]])

    Args:
        first: [n, 4].
        second: [m, 4].

    Returns:
        [n, m]; differentiable.

    Raises:
        ShapeError: not lists of boxes.

    Paper: Rezatofighi et al., Generalized Intersection over Union (CVPR 2019).
    """
    shared, union = _shared_and_union(first, second)
    corners = torch.cat(
        [
            torch.minimum(first[:, None, :2], second[None, :, :2]),
            torch.maximum(first[:, None, 2:], second[None, :, 2:]),
        ],
        dim=-1,
    )  # [n, m, 4]
    around = area(corners)
    return _share(shared, union) - _share(around - union, around)


def nms(boxes: Tensor, scores: Tensor, *, most: int, share: float = 0.7, ties: bool = False) -> Tensor:
    """The places of the best boxes, best first, without those that overlap a better one too much.

    >>> two = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]])
    >>> nms(two, torch.tensor([0.8, 0.9, 0.1]), most=5)  # the first is nearly the second
    tensor([1, 2])

    Args:
        boxes: [boxes, 4].
        scores: of each; of equal ones, the first comes first.
        most: how many at most.
        share: an IoU above it is too much; 1 leaves nothing out.
        ties: for measuring: what is kept doesn't depend on the order of equal scores. None of them leaves another one
            out, and those that score what the last one scores are kept beyond ``most``.

    Returns:
        int64 [kept].
    """
    left = scores.argsort(descending=True, stable=True)
    kept: list[int] = []
    while len(left):
        best = int(left[0])
        if len(kept) >= most and not (ties and bool(scores[best] == scores[kept[-1]])):
            break
        kept.append(best)
        left = left[1:]
        stays = iou(boxes[best][None], boxes[left])[0] <= share
        left = left[stays | (scores[left] == scores[best])] if ties else left[stays]
    return torch.tensor(kept, dtype=torch.int64)


def hit_ranks(
    predicted: Sequence[Tensor],
    truth: Tensor,
    *,
    scores: Sequence[Tensor] | None = None,
    overlap: Overlap = "iou",
    threshold: float = HIT,
) -> Ranks:
    """For each expression, the place of the first predicted box that hits, and which boxes score the same.

    Args:
        predicted: an expression's boxes, best first, [boxes, 4]; as many as there are, also none. A tensor
            [expressions, boxes, 4] will do as well.
        truth: the box of what each expression means, [expressions, 4].
        scores: of an expression's boxes, [boxes]; by default no two are equal.
        overlap: ``iou``, or ``giou``: the generalised one, as the authors' code has it.
        threshold: how large the overlap has to be.

    Returns:
        The ranks of all expressions; a candidate is a box, and right if it hits.

    Raises:
        ShapeError: the two differ in number, or an expression's boxes are no list of boxes; it is named by its place.
        ConfigError: an unknown overlap.

    Differs: the released code always asks for a generalised IoU of 0.5, which is never larger, so stricter.
    """
    if overlap not in get_args(Overlap):
        raise ConfigError(f"No overlap is called {overlap!r}. {did_you_mean(str(overlap), get_args(Overlap))}")
    measure = iou if overlap == "iou" else generalised_iou
    if truth.dim() != 2 or truth.shape[-1] != 4 or len(predicted) != len(truth):
        raise ShapeError(
            f"truth must be [expressions={len(predicted)}, 4], a box for each list of predicted ones; "
            f"got {list(truth.shape)}."
        )
    check_boxes(truth, "the true boxes")
    counts = torch.zeros(len(truth), 3, dtype=torch.int64)
    for place, (boxes, right) in enumerate(zip(predicted, truth, strict=True)):
        if not boxes.numel():
            continue
        check_boxes(boxes, f"the boxes predicted for expression {place}")
        # In double precision: half of a box must count as half.
        hits = measure(boxes.double().cpu(), right[None].double().cpu())[:, 0] >= threshold
        if not bool(hits.any()):
            continue
        own = -torch.arange(len(boxes)) if scores is None else scores[place].cpu()
        best = own[hits].max()
        equal = own == best
        counts[place] = torch.stack([(own > best).sum(), (equal & ~hits).sum(), (equal & hits).sum()])
    return Ranks(counts)


def precision_at(k: int, ranks: Ranks) -> float:
    """P@k: the share of expressions with a hit among their first k boxes; equal scores count their share of a hit.

    >>> precision_at(5, Ranks(torch.tensor([[0, 0, 1], [5, 0, 1], [4, 1, 1], [0, 0, 0]])))
    0.375

    Raises:
        ConfigError: k is below 1.
        ShapeError: there are no ranks.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1; got {k}.")
    if not len(ranks):
        raise ShapeError(f"ranks must be [expressions] and not empty; got {[len(ranks)]}.")
    return float(ranks.within(k).mean())


def precision_per_task(
    ranks: Ranks, task: Sequence[int], *, tasks: int, ks: Sequence[int] = KS
) -> dict[str, list[float]]:
    """P@k of every task, as a stage's record has it: ``{"1": [a figure a task], "5": .., "10": ..}``.

    Args:
        ranks: see :func:`hit_ranks`.
        task: the task of each expression.
        tasks: how many there are; each needs an expression.
        ks: which k.

    Raises:
        ShapeError: another number of tasks than of ranks, or a task without expressions.
        ConfigError: a k below 1.
    """
    if len(task) != len(ranks):
        raise ShapeError(f"every rank needs its task; got {len(ranks)} ranks and {len(task)} tasks.")
    owner = torch.as_tensor(list(task), dtype=torch.int64)
    if len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < tasks:
        raise ShapeError(f"tasks must be 0 to {tasks - 1}; got {int(owner.min())} to {int(owner.max())}.")
    lacking = [index for index in range(tasks) if not bool((owner == index).any())]
    if lacking:
        raise ShapeError(f"task {lacking[0]} has no expression to be measured on. Leave it out.")
    return {str(k): [precision_at(k, ranks[owner == index]) for index in range(tasks)] for k in ks}


def check_boxes(boxes: Tensor, what: str) -> None:
    """Refuse what are no boxes, before they turn into a figure that means nothing.

    Raises:
        ShapeError: not [boxes, 4], a number that isn't finite, or edges in the wrong order; the first bad box is shown.
    """
    if boxes.dim() != 2 or boxes.shape[-1] != 4:
        raise ShapeError(f"{what} must be [boxes, 4]; got {list(boxes.shape)}.")
    good = boxes.isfinite().all(-1) & (boxes[:, :2] <= boxes[:, 2:]).all(-1)
    if not bool(good.all()):
        place = int((~good).nonzero()[0, 0])
        raise ShapeError(
            f"{what} must be left, top, right, bottom in rising order; box {place} is {boxes[place].tolist()}. "
            "Convert them first."
        )


def _shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The areas that each pair shares, and that it covers together, [n, m]."""
    for boxes in (first, second):
        if boxes.dim() != 2 or boxes.shape[-1] != 4:
            raise ShapeError(f"boxes must be [boxes, 4]; got {list(boxes.shape)}.")
    corners = torch.cat(
        [
            torch.maximum(first[:, None, :2], second[None, :, :2]),
            torch.minimum(first[:, None, 2:], second[None, :, 2:]),
        ],
        dim=-1,
    )  # [n, m, 4]
    shared = area(corners)
    return shared, area(first)[:, None] + area(second)[None] - shared


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part of a whole; 0 where there is no whole, without a division by zero that would spoil the gradient."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)
