"""Losses as pure functions of tensors: item, layer and task level of LPI, and distillation to the frozen model."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.errors import ShapeError

LayerScaling = Literal["normalised", "raw"]
TaskLoss = Literal["plain", "authors"]
TINY = 1e-6


def unit_rows(rows: Tensor) -> Tensor:
    """Rows scaled to length 1, [rows, width]; an (almost) zero row becomes zero and passes no gradient.

    A neutral start has prompts of exactly zero: the direction of a zero row is undefined, and dividing by a tiny
    length would blow its gradient up.
    """
    length = rows.norm(dim=-1, keepdim=True)
    safe = length > TINY
    return torch.where(safe, rows / torch.where(safe, length, torch.ones_like(length)), torch.zeros_like(rows))


def item_loss(
    image_features: Tensor,
    text_features: Tensor,
    positives: Tensor,
    *,
    logit_scale: Tensor | float,
    other_images: Tensor | None = None,
    other_texts: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE over a batch: every picture finds its captions, every caption its pictures.

    Where a row has several positives the target is uniform over them, so they are never each other's negatives'
    winner or loser: the row's loss is smallest when all of them are equally likely.

    Args:
        image_features: L2-normalised, [images, features].
        text_features: L2-normalised, [texts, features].
        positives: which pairs belong together, bool [images, texts]; at least one a row and a column.
        logit_scale: multiplies the cosines; CLIP's exp(logit_scale).
        other_images: further pictures that are right for no text, L2-normalised, [others, features].
        other_texts: further texts that are right for no picture, L2-normalised, [others, features].

    Returns:
        Cross-entropy in nats, the two directions averaged, scalar.

    Raises:
        ShapeError: ``positives`` does not fit the features.

    Paper: CLIP (arXiv 2103.00020), fig. 3; several positives as in UniCL (arXiv 2204.03610), eq. 3-5.
    """
    if positives.shape != (len(image_features), len(text_features)):
        raise ShapeError(
            f"positives must be [images={len(image_features)}, texts={len(text_features)}]; "
            f"got {list(positives.shape)}."
        )
    logits = logit_scale * image_features @ text_features.T  # [images, texts]
    targets = positives.to(logits.dtype)
    by_image = -(_log_softmax(logits, image_features, other_texts, logit_scale) * targets).sum(1) / targets.sum(1)
    by_text = -(_log_softmax(logits.T, text_features, other_images, logit_scale).T * targets).sum(0) / targets.sum(0)
    return (by_image.mean() + by_text.mean()) / 2


def _log_softmax(logits: Tensor, queries: Tensor, others: Tensor | None, scale: Tensor | float) -> Tensor:
    """Log-probabilities of the candidates, [queries, candidates], where ``others`` compete but are never right."""
    if others is None or not len(others):
        return logits.log_softmax(dim=1)
    competing = (scale * queries @ others.T).logsumexp(dim=1, keepdim=True)
    return logits - torch.logaddexp(logits.logsumexp(dim=1, keepdim=True), competing)


def layer_loss(vision: Tensor, text: Tensor, *, scaling: LayerScaling = "normalised") -> Tensor:
    """Ask each layer's prompts of one tower to recognise their own layer in the other tower.

    Args:
        vision: vision prompts, [layers, length, vision width]; pooled over their channels here.
        text: text prompts, [layers, length, text width].
        scaling: ``normalised``: cosines times 100; ``raw``: plain products of rows that are each divided by 0.01.

    Returns:
        Cross-entropy in nats, both directions averaged, scalar.

    Raises:
        ShapeError: the towers differ in layers or length.

    Paper: LPI (arXiv 2501.14369), hierarchical low-rank contrastive learning.
    """
    if vision.shape[:2] != text.shape[:2]:
        raise ShapeError(
            f"both towers need the same layers and length; got {list(vision.shape[:2])} and {list(text.shape[:2])}."
        )
    vision_rows, text_rows = vision.mean(dim=-1), text.mean(dim=-1)  # [layers, length]
    if scaling == "normalised":
        logits = 100 * unit_rows(vision_rows) @ unit_rows(text_rows).T
    else:
        logits = (vision_rows / 0.01) @ (text_rows / 0.01).T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def task_loss(prompts: Tensor, near: Tensor, *, temperature: float = 0.01, kind: TaskLoss = "plain") -> Tensor:
    """Keep prompts of near tasks alike and prompts of distant tasks apart (one tower).

    Args:
        prompts: one flattened prompt tensor a task, [tasks, numbers]; only the newest should carry gradient.
        near: whether two tasks are semantically near, bool [tasks, tasks]; the diagonal counts as near.
        temperature: divides the cosines, > 0.
        kind: ``plain`` is the numerically stable binary cross-entropy of cosine / temperature; ``authors`` applies
            a sigmoid before the loss that applies it again, and saturates.

    Returns:
        Binary cross-entropy in nats: per row the mean over positives plus the mean over negatives (if there are
        any), averaged over rows, scalar.

    Raises:
        ShapeError: ``near`` is not [tasks, tasks].

    Paper: LPI (arXiv 2501.14369), task contrastive constraint.
    """
    tasks = len(prompts)
    if near.shape != (tasks, tasks):
        raise ShapeError(f"near must be [tasks={tasks}, tasks={tasks}]; got {list(near.shape)}.")
    directions = unit_rows(prompts)
    logits = directions @ directions.T / temperature
    if kind == "authors":
        logits = logits.sigmoid()
    targets = (near | torch.eye(tasks, dtype=torch.bool, device=near.device)).to(logits.dtype)
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    positive = (terms * targets).sum(1) / targets.sum(1)
    negatives = 1 - targets
    negative = (terms * negatives).sum(1) / negatives.sum(1).clamp(min=1)
    return (positive + negative).mean()


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's retrieval distribution, both directions.

    Args:
        student: logits of the method being trained, [images, texts].
        teacher: logits of the frozen model on the same batch, [images, texts]; carries no gradient.

    Returns:
        Divergence in nats, rows and columns averaged, scalar.

    Paper: LwF (arXiv 1606.09282) in the form ZSCL (arXiv 2303.06628) gives it for CLIP.
    """
    teacher = teacher.detach()
    rows = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    columns = F.kl_div(student.T.log_softmax(1), teacher.T.log_softmax(1), reduction="batchmean", log_target=True)
    return (rows + columns) / 2
