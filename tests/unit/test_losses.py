"""Each loss against a slow plain version, and cases that can be worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.errors import ShapeError
from lpi.losses import distillation_loss, item_loss, layer_loss, task_loss, unit_rows


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=-1)


# Unit rows ------------------------------------------------------------------------------------------------------------


def test_unit_rows_have_length_one() -> None:
    rows = draw(5, 7)
    torch.testing.assert_close(unit_rows(rows), F.normalize(rows, dim=1))


def test_a_zero_row_stays_zero_and_passes_no_gradient() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    directions = unit_rows(rows)
    directions.sum().backward()
    assert directions.tolist() == [[0.0, 0.0], pytest.approx([0.6, 0.8])]
    assert rows.grad is not None
    assert rows.grad[0].tolist() == [0.0, 0.0]
    assert rows.grad.isfinite().all()


# Item level -----------------------------------------------------------------------------------------------------------


def slow_item_loss(images: Tensor, texts: Tensor, positives: Tensor, scale: float) -> float:
    def direction(scores: list[list[float]], right: list[list[bool]]) -> float:
        total = 0.0
        for row, marks in zip(scores, right, strict=True):
            everything = math.log(sum(math.exp(score) for score in row))
            own = [score - everything for score, mark in zip(row, marks, strict=True) if mark]
            total -= sum(own) / len(own)
        return total / len(scores)

    scores = [[scale * float(image @ text) for text in texts] for image in images]
    marks = positives.tolist()
    across = [list(column) for column in zip(*scores, strict=True)]
    marks_across = [list(column) for column in zip(*marks, strict=True)]
    return (direction(scores, marks) + direction(across, marks_across)) / 2


@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_item_loss_is_the_plain_version(scale: float) -> None:
    images, texts, positives = unit(4, 6), unit(4, 6, seed=1), torch.eye(4, dtype=torch.bool)
    fast = float(item_loss(images, texts, positives, logit_scale=scale))
    assert fast == pytest.approx(slow_item_loss(images, texts, positives, scale))


def test_item_loss_with_several_positives_is_the_plain_version() -> None:
    images, texts = unit(3, 6), unit(5, 6, seed=1)
    positives = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0]], dtype=torch.bool)
    fast = float(item_loss(images, texts, positives, logit_scale=torch.tensor(7.0, dtype=torch.float64)))
    assert fast == pytest.approx(slow_item_loss(images, texts, positives, 7.0))


def test_item_loss_of_two_orthogonal_pairs_is_log_one_plus_e_to_minus_the_scale() -> None:
    features = torch.eye(2)
    found = float(item_loss(features, features, torch.eye(2, dtype=torch.bool), logit_scale=3.0))
    assert found == pytest.approx(math.log(1 + math.exp(-3)))


def test_captions_of_one_picture_are_not_each_others_negatives() -> None:
    images = torch.tensor([[1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # both captions equally likely is the best there is: log 2 from the picture, 0 from each caption
    found = float(item_loss(images, texts, torch.ones(1, 2, dtype=torch.bool), logit_scale=100.0))
    assert found == pytest.approx(math.log(2) / 2)


def test_item_loss_refuses_positives_of_another_shape() -> None:
    with pytest.raises(ShapeError, match=r"\[images=2, texts=3\]; got \[3, 2\]"):
        item_loss(unit(2, 4), unit(3, 4), torch.ones(3, 2, dtype=torch.bool), logit_scale=1.0)


# Layer level ----------------------------------------------------------------------------------------------------------


def slow_layer_loss(vision: Tensor, text: Tensor, scaling: str) -> float:
    def pooled(prompts: Tensor) -> list[list[float]]:
        return [[sum(token.tolist()) / len(token) for token in layer] for layer in prompts]

    def product(first: list[float], second: list[float]) -> float:
        plain = sum(a * b for a, b in zip(first, second, strict=True))
        if scaling == "raw":
            return plain / 0.01 / 0.01
        return 100 * plain / math.sqrt(sum(a * a for a in first)) / math.sqrt(sum(b * b for b in second))

    rows, columns = pooled(vision), pooled(text)
    scores = [[product(row, column) for column in columns] for row in rows]
    total = 0.0
    for own in range(len(scores)):
        across = [row[own] for row in scores]
        for line in (scores[own], across):
            total += math.log(sum(math.exp(score - line[own]) for score in line))
    return total / len(scores) / 2


@pytest.mark.parametrize("scaling", ["normalised", "raw"])
def test_layer_loss_is_the_plain_version(scaling: str) -> None:
    vision, text = 0.3 * draw(4, 5, 8), 0.3 * draw(4, 5, 6, seed=1)
    fast = float(layer_loss(vision, text, scaling=scaling))
    assert fast == pytest.approx(slow_layer_loss(vision, text, scaling))


def test_layers_that_recognise_their_own_cost_nothing() -> None:
    prompts = torch.eye(3)[:, :, None].expand(3, 3, 4)
    assert float(layer_loss(prompts, prompts)) == pytest.approx(0, abs=1e-6)


def test_prompts_of_zero_cost_log_layers_and_pass_finite_gradients() -> None:
    vision = torch.zeros(3, 4, 8, requires_grad=True)
    loss = layer_loss(vision, torch.zeros(3, 4, 6))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert vision.grad is not None
    assert vision.grad.isfinite().all()


def test_layer_loss_refuses_towers_of_other_layers() -> None:
    with pytest.raises(ShapeError, match=r"\[3, 4\] and \[2, 4\]"):
        layer_loss(draw(3, 4, 8), draw(2, 4, 6))


# Task level -----------------------------------------------------------------------------------------------------------


def slow_task_loss(prompts: Tensor, near: Tensor, temperature: float, kind: str) -> float:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def cross_entropy(logit: float, target: bool) -> float:
        signed = logit if target else -logit
        return math.log1p(math.exp(-abs(signed))) + max(-signed, 0.0)

    rows = []
    for i, first in enumerate(prompts):
        right, wrong = [], []
        for j, second in enumerate(prompts):
            logit = float(first @ second) / float(first.norm()) / float(second.norm()) / temperature
            if kind == "authors":
                logit = sigmoid(logit)
            if i == j or bool(near[i, j]):
                right.append(cross_entropy(logit, True))
            else:
                wrong.append(cross_entropy(logit, False))
        rows.append(sum(right) / len(right) + (sum(wrong) / len(wrong) if wrong else 0.0))
    return sum(rows) / len(rows)


NEAR = {
    "none": torch.eye(4, dtype=torch.bool),
    "one pair": torch.eye(4, dtype=torch.bool) | (torch.arange(4)[:, None] + torch.arange(4) == 5),
    "one row without negatives": torch.eye(4, dtype=torch.bool)
    | (torch.arange(4) == 0)[:, None]
    | (torch.arange(4) == 0),
    "all": torch.ones(4, 4, dtype=torch.bool),
    "diagonal left out": torch.zeros(4, 4, dtype=torch.bool),
}


@pytest.mark.parametrize("kind", ["plain", "authors"])
@pytest.mark.parametrize("near", NEAR)
@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_task_loss_is_the_plain_version(kind: str, near: str, temperature: float) -> None:
    prompts = draw(4, 12)
    fast = float(task_loss(prompts, NEAR[near], temperature=temperature, kind=kind))
    assert fast == pytest.approx(slow_task_loss(prompts, NEAR[near], temperature, kind))


def test_two_orthogonal_distant_tasks_cost_log_two() -> None:
    # each row: its own cosine of 1 / 0.01 costs nothing, the other's cosine of 0 costs log 2
    assert float(task_loss(torch.eye(2), torch.eye(2, dtype=torch.bool))) == pytest.approx(math.log(2))


def test_a_single_task_costs_nothing() -> None:
    assert float(task_loss(torch.ones(1, 3), torch.ones(1, 1, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


def test_the_authors_form_saturates() -> None:
    apart = float(task_loss(torch.eye(2), NEAR["none"][:2, :2], kind="authors", temperature=0.001))
    # sigmoid(1000) = 1 and sigmoid(0) = 1/2 go through the loss's own sigmoid once more
    assert apart == pytest.approx(math.log1p(math.exp(-1)) + math.log1p(math.exp(0.5)))


def test_task_loss_moves_the_newest_task_away_from_a_distant_one() -> None:
    newest = torch.tensor([1.0, 0.2], requires_grad=True)
    loss = task_loss(torch.stack([torch.tensor([1.0, 0.0]), newest]), torch.eye(2, dtype=torch.bool))
    loss.backward()
    assert newest.grad is not None
    assert float(newest.grad[1]) < 0  # a step against the gradient turns it away


def test_task_loss_refuses_another_number_of_tasks() -> None:
    with pytest.raises(ShapeError, match=r"\[tasks=4, tasks=4\]; got \[3, 3\]"):
        task_loss(draw(4, 5), torch.eye(3, dtype=torch.bool))


# Distillation ---------------------------------------------------------------------------------------------------------


def slow_divergence(student: Tensor, teacher: Tensor) -> float:
    def rows(first: list[list[float]], second: list[list[float]]) -> float:
        total = 0.0
        for own, wanted in zip(first, second, strict=True):
            own_sum, wanted_sum = sum(map(math.exp, own)), sum(map(math.exp, wanted))
            for mine, theirs in zip(own, wanted, strict=True):
                share = math.exp(theirs) / wanted_sum
                total += share * (math.log(share) - math.log(math.exp(mine) / own_sum))
        return total / len(first)

    return (rows(student.tolist(), teacher.tolist()) + rows(student.T.tolist(), teacher.T.tolist())) / 2


def test_distillation_is_the_plain_version() -> None:
    student, teacher = draw(3, 5), draw(3, 5, seed=1)
    assert float(distillation_loss(student, teacher)) == pytest.approx(slow_divergence(student, teacher))


def test_a_student_like_its_teacher_costs_nothing() -> None:
    assert float(distillation_loss(draw(3, 5), draw(3, 5))) == pytest.approx(0, abs=1e-12)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = draw(3, 5).requires_grad_(), draw(3, 5, seed=1).requires_grad_()
    distillation_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_others_compete_in_both_directions_but_are_never_right() -> None:
    generator = torch.Generator().manual_seed(5)
    images, texts, other_images, other_texts = (
        torch.nn.functional.normalize(torch.randn(rows, 6, generator=generator)) for rows in (3, 3, 2, 4)
    )
    scale = 7.0
    slow = 0.0
    positives = torch.eye(3, dtype=torch.bool)
    positives[0, 1] = True  # what is right needn't stand in the place of its query
    sides = ((images, texts, other_texts, positives), (texts, images, other_images, positives.T))
    for queries, candidates, others, right in sides:
        for row in range(3):
            logits = [scale * float(queries[row] @ candidate) for candidate in [*candidates, *others]]
            total = math.log(sum(math.exp(value) for value in logits))
            own = [total - logits[place] for place in range(3) if right[row, place]]
            slow += sum(own) / len(own)
    found = item_loss(
        images,
        texts,
        positives,
        logit_scale=scale,
        other_images=other_images,
        other_texts=other_texts,
    )
    assert float(found) == pytest.approx(slow / 6, rel=1e-5)
    alone = item_loss(images, texts, torch.eye(3, dtype=torch.bool), logit_scale=scale)
    none = torch.empty(0, 6)
    same = item_loss(
        images, texts, torch.eye(3, dtype=torch.bool), logit_scale=scale, other_images=none, other_texts=none
    )
    assert float(same) == float(alone)
