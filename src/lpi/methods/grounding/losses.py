"""What a detector is taught for one expression a picture: which box, how it goes with the words, where its edges are.

Matching, focal loss, L1 and generalised IoU are the library's own (``transformers.loss``). For OWL-ViT and OWLv2 the
library has no loss: theirs is the same one over a single token, the whole expression.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.loss.loss_grounding_dino import GroundingDinoHungarianMatcher, GroundingDinoImageLoss

from lpi.backbones.detectors.base import Detections
from lpi.errors import ShapeError
from lpi.extras import missing, missing_extra
from lpi.metrics.boxes import HIT, cxcywh_to_xyxy, iou

COSTS = {"class_cost": 1.0, "bbox_cost": 5.0, "giou_cost": 2.0}  # of the matching; Grounding DINO's own
WEIGHTS = {"alignment": 2.0, "box": 5.0, "overlap": 2.0}  # of the losses; Grounding DINO's own
FOCAL_ALPHA = 0.25


def detection_losses(
    found: Detections, truth: Tensor, *, alignment: float = 1.0, place: float = 0.0
) -> dict[str, Tensor]:
    """The detector's own losses, each times its own weight; the expression's object is matched to one box.

    ``alignment`` is the focal loss of the boxes' logits against the tokens that say what is meant: all of them for the
    matched box, none for the others. ``box`` is the L1 distance of the matched box, ``overlap`` one minus its
    generalised IoU.

    Args:
        found: of a batch, one expression a picture.
        truth: the box of each, [batch, 4], (centre x, centre y, width, height) in 0..1.
        alignment: how much of the focal loss counts, as a share of Grounding DINO's own weight.
        place: weight of :func:`place_loss`; nothing by default, which is the published loss.

    Returns:
        ``alignment``, ``box``, ``overlap`` and, if it has a weight, ``place``, averaged over expressions, scalars.

    Raises:
        ShapeError: as many boxes as expressions are needed.
        MissingExtraError: the matching needs SciPy.

    Paper: Grounding DINO (arXiv 2303.05499), section 3.5.
    Differs: the last decoder layer alone is taught; the others and the proposals are frozen with the detector.
    """
    batch = len(found.boxes)
    if truth.shape != (batch, 4):
        raise ShapeError(f"truth must be [batch={batch}, 4]; got {list(truth.shape)}.")
    if missing("grounding"):
        raise missing_extra("learning boxes needs SciPy, which is not installed", "grounding")
    # The library offsets the labels of every expression but the first by one map's rows, whatever comes before it
    # (right for two expressions only). With all rows in every map, the sum is the expression's own row at any size.
    maps = [found.named.long()] * batch
    outputs: dict[str, Any] = {
        "logits": found.logits,
        "pred_boxes": found.boxes,
        "label_maps": maps,
        "text_mask": found.seen[:, None].expand_as(found.logits),
    }
    targets = [{"class_labels": _row(truth, row), "boxes": truth[row : row + 1]} for row in range(batch)]
    matcher = GroundingDinoHungarianMatcher(**COSTS)
    criterion: Any = GroundingDinoImageLoss(matcher, FOCAL_ALPHA, ["labels", "boxes"])  # type: ignore[no-untyped-call]
    losses = criterion(outputs, targets)
    names = {"alignment": "loss_ce", "box": "loss_bbox", "overlap": "loss_giou"}
    parts = {name: WEIGHTS[name] * losses[theirs] for name, theirs in names.items()}
    parts["alignment"] = alignment * parts["alignment"]
    if place:
        parts["place"] = place * place_loss(found, truth)
    return parts


def place_loss(found: Detections, truth: Tensor) -> Tensor:
    """Minus the logarithm of the share that right boxes have in a softmax over all boxes' scores, scalar (ours).

    Right is what covers the object with an IoU of at least a half, as the metric says, or is the nearest to that. The
    focal loss calls one box right and its neighbours, however well they lie, as wrong as any: then what was ahead of
    the others falls behind them together. Here they are right together, and compete with boxes elsewhere.

    Args:
        found: of a batch, one expression a picture.
        truth: [batch, 4], (centre x, centre y, width, height) in 0..1.
    """
    scores = found.logits.float().amax(dim=-1)
    with torch.no_grad():
        overlap = torch.vmap(_covering)(cxcywh_to_xyxy(found.boxes.float()), cxcywh_to_xyxy(truth.float()))
        right = (overlap >= HIT) | (overlap == overlap.amax(dim=1, keepdim=True))
    return (scores.logsumexp(dim=1) - scores.masked_fill(~right, -torch.inf).logsumexp(dim=1)).mean()


def _covering(boxes: Tensor, truth: Tensor) -> Tensor:
    return iou(boxes, truth[None])[:, 0]


def _row(like: Tensor, row: int) -> Tensor:
    return like.new_tensor([row]).long()
