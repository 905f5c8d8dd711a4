"""Rivals of 2024 to 2026 against their papers' formulas, written out naively."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.methods.base import begin, end
from lpi.methods.condu import fuse
from lpi.methods.dkr import DKR, rectified
from lpi.methods.keep_lora import extended, read_directions
from lpi.methods.opcm import off_main_directions
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task

SETTINGS = TrainingSettings(steps=2, batch=8, learning_rate=1e-3, device="cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def learned_apart(model: Any, stream: TaskStream) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """The weights of the frozen model that change, and the change of each of three tasks, learned one by one."""
    frozen = {name: weight.detach().clone() for name, weight in model.backbone.model.named_parameters()}
    changes = []
    for task in stream.tasks:
        learn_task(model, task, settings=SETTINGS)
        after = dict(model.tuned.model.named_parameters())
        changes.append({n: (w - frozen[n]).detach().clone() for n, w in after.items() if w.requires_grad})
    return frozen, changes


@pytest.mark.parametrize("name", ["opcm", "condu"])
def test_each_task_begins_at_the_frozen_weights(name: str, clip: DualEncoder, stream: TaskStream) -> None:
    model = method(name, clip)
    learn_task(model, stream.tasks[0], settings=SETTINGS)
    frozen = dict(clip.model.named_parameters())
    weights = dict(model.tuned.model.named_parameters())
    assert any(not torch.equal(weight, frozen[name]) for name, weight in weights.items())
    begin(model, TrainingSet(stream.tasks[1], clip).data(), seeded())
    assert all(torch.equal(weight, frozen[name]) for name, weight in weights.items())


# ---- dkr -----------------------------------------------------------------------------------------------------------


def test_dkr_puts_the_rows_right_that_the_old_model_had_wrong() -> None:
    right = torch.eye(3).bool()
    old = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.2, 0.1], [0.3, 0.2, 0.1]])  # right, wrong, wrong
    new = torch.tensor([[0.1, 0.9, 0.0], [0.1, 0.8, 0.3], [0.4, 0.1, 0.2]], requires_grad=True)  # wrong, right, wrong
    wanted = torch.stack([old[0], new[1].detach(), torch.tensor([0.0, 0.0, 1.0])])
    assert torch.equal(rectified(new, old, right), wanted)
    total = torch.zeros(())
    for row in range(3):
        target, answer = torch.softmax(wanted[row], 0), torch.softmax(new[row], 0)
        total = total + (target * (target / answer).log()).sum()
    found = DKR.kept(None, new, old, right)  # type: ignore[arg-type]  # which needs nothing of a method
    torch.testing.assert_close(found, total)
    (gradient,) = torch.autograd.grad(found, new)
    assert not gradient[1].abs().max() > 1e-6  # where the new model is right it is left to itself
    assert min(gradient[0].abs().max(), gradient[2].abs().max()) > 0.01


# ---- opcm ----------------------------------------------------------------------------------------------------------


def projected(change: Tensor, before: Tensor, share: float) -> Tensor:
    """With complete bases, entry by entry."""
    left, sizes, right = torch.linalg.svd(before.double(), full_matrices=True)
    main = 0
    while main < len(sizes) and sizes[: main + 1].sum() <= share * sizes.sum():
        main += 1
    found = torch.zeros_like(before.double())
    for i in range(left.shape[1]):
        for j in range(right.shape[0]):
            if i != j and not (i < main and j < main):
                outer = torch.outer(left[:, i], right[j])
                found += (change.double() * outer).sum() * outer
    return found


@pytest.mark.parametrize(("shape", "share"), [((5, 3), 0.6), ((3, 6), 0.5), ((4, 4), 0.0), ((4, 4), 0.9)])
def test_opcm_projects_as_written_out(shape: tuple[int, int], share: float) -> None:
    change, before = drawn(*shape), drawn(*shape, seed=1)
    found = off_main_directions(change, before, share)
    torch.testing.assert_close(found.double(), projected(change, before, share), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, change, atol=0.1)


def test_opcm_merges_three_tasks_as_written_out(clip: DualEncoder, stream: TaskStream, pictures: Tensor) -> None:
    model = method("opcm", clip, share=0.4)
    frozen, changes = learned_apart(model, stream)

    def length(change: dict[str, Tensor]) -> float:
        return math.sqrt(sum(float(part.double().square().sum()) for part in change.values()))

    merged, scale = changes[0], 1.0
    for count, change in enumerate(changes[1:], 2):
        added = {n: projected(c, merged[n], 0.4).float() if c.dim() == 2 else c for n, c in change.items()}
        merged = {n: scale * merged[n] + part for n, part in added.items()}
        scale = length(merged) / (sum(map(length, changes[:count])) / count)
        merged = {n: part / scale for n, part in merged.items()}
    weights = dict(model.merged.model.named_parameters())
    for name, part in merged.items():
        torch.testing.assert_close(weights[name] - frozen[name], part, rtol=1e-3, atol=2e-6)
    assert float(model.scale) == pytest.approx(scale, rel=1e-3)
    with torch.no_grad():
        direct = F.normalize(model.merged.encode_images(clip.inputs.normalise(pictures)), dim=-1)
    torch.testing.assert_close(model.encode_images(pictures), direct)


# ---- condu ---------------------------------------------------------------------------------------------------------


def test_condu_fuses_as_written_out_entry_by_entry() -> None:
    tasks = [{"a": drawn(4, seed=seed), "b": drawn(2, 3, seed=10 + seed)} for seed in range(3)]
    fused, parts = fuse(tasks)
    own, taken = [0.0] * 3, [0.0] * 3
    for name in ("a", "b"):
        rows = [task[name].flatten().tolist() for task in tasks]
        for entry, values in enumerate(zip(*rows, strict=True)):
            sign = 1.0 if sum(values) > 0 else -1.0
            agree = [value * sign > 0 for value in values]
            size = max([abs(value) for value, one in zip(values, agree, strict=True) if one], default=0.0)
            assert float(fused[name].flatten()[entry]) == pytest.approx(sign * size)
            for task in range(3):
                assert bool(parts[task].mask(name).flatten()[entry]) == agree[task]
                own[task] += abs(values[task]) / len(rows[0])
                taken[task] += size * agree[task] / len(rows[0])
    for task in range(3):
        assert float(parts[task].scale) == pytest.approx(own[task] / taken[task])
        for name, change in parts[task].of(fused).items():
            torch.testing.assert_close(change, own[task] / taken[task] * parts[task].mask(name) * fused[name])


def test_condu_fuses_what_it_takes_out_of_the_fused_change_with_the_next(
    clip: DualEncoder, stream: TaskStream, pictures: Tensor
) -> None:
    model = method("condu", clip)
    frozen, changes = learned_apart(model, stream)
    fused, parts = fuse(changes[:1])
    for change in changes[1:]:
        fused, parts = fuse([*(part.of(fused) for part in parts), change])
    pixels = clip.inputs.normalise(pictures)
    for task, kept in enumerate(parts):
        plain = method("finetune", clip).tuned
        with torch.no_grad():
            for name, own in kept.of(fused).items():
                plain.model.get_parameter(name).copy_(frozen[name] + own)
            wanted = F.normalize(plain.encode_images(pixels), dim=-1)
            torch.testing.assert_close(model.image_features(pixels, task), wanted, rtol=1e-4, atol=1e-5)
    alone = frozen["visual_projection.weight"] + changes[0]["visual_projection.weight"]
    one = method("condu", clip)
    learn_task(one, stream.tasks[0], settings=SETTINGS)  # a task alone is taken out as it was put in
    torch.testing.assert_close(one.model_of(0).model.visual_projection.weight, alone, rtol=1e-4, atol=1e-6)


# ---- keep_lora -----------------------------------------------------------------------------------------------------


def test_the_basis_holds_its_share_with_as_few_directions_as_can_be() -> None:
    rows = drawn(30, 6) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    square = rows.T @ rows
    basis = extended(torch.empty(6, 0), square, 0.9)
    sizes = torch.linalg.svdvals(rows).square()
    count = next(k for k in range(7) if sizes[:k].sum() >= 0.9 * sizes.sum())
    assert basis.shape == (6, count)
    more = drawn(40, 6, seed=1)
    wider = extended(basis, more.T @ more, 0.8)
    assert torch.equal(wider[:, :count], basis)
    torch.testing.assert_close(wider.T @ wider, torch.eye(wider.shape[1]), atol=1e-5, rtol=1e-5)

    def held(columns: Tensor) -> float:
        return float((more @ columns).square().sum() / more.square().sum())

    assert held(wider) >= 0.8 - 1e-6 > held(wider[:, :-1])
    assert extended(wider, more.T @ more, 0.5) is wider
    assert extended(wider, more.T @ more, 1.0).shape == (6, 6)


def test_keep_lora_reads_only_what_its_bases_leave(clip: DualEncoder, stream: TaskStream) -> None:
    model = method("keep_lora", clip, rank=2, energy_vision=0.6, energy_text=0.3, energy_inputs=0.6)
    before = {name: layer.weight.detach().clone() for name, layer in model.adapted.layers.items()}
    learn_task(model, stream.tasks[0], settings=SETTINGS)
    first = {name: basis.clone() for name, basis in model.bases.items()}
    moved = 0
    for name, layer in model.adapted.layers.items():
        _, s, v = torch.linalg.svd(before[name])
        share = 0.6 if name.startswith("vision") else 0.3
        count = next(k for k in range(1, len(s) + 1) if s[:k].square().sum() >= share * s.square().sum())
        main = v[:count].T
        change = layer.weight.detach() - before[name]
        assert float((change @ main).abs().max()) < 1e-6
        assert torch.linalg.matrix_rank(change, atol=1e-7) <= 2
        moved += int(bool(change.abs().max() > 1e-6))
        torch.testing.assert_close(
            first[name][:, :count].abs().T @ main.abs(), main.abs().T @ main.abs(), atol=1e-3, rtol=1e-3
        )
    assert moved > 4
    middle = {name: layer.weight.detach().clone() for name, layer in model.adapted.layers.items()}
    learn_task(model, stream.tasks[1], settings=SETTINGS)
    for name, layer in model.adapted.layers.items():
        assert float(((layer.weight.detach() - middle[name]) @ first[name]).abs().max()) < 1e-6


def test_keep_lora_begins_at_the_directions_of_the_tasks_gradient(clip: DualEncoder, stream: TaskStream) -> None:
    model = method("keep_lora", clip, rank=2, energy_vision=0.5, energy_text=0.5)
    training = TrainingSet(stream.tasks[0], clip)
    data = training.data(1, training.once_more(model, TrainingSettings(batch=16)))  # one batch: all of the task
    begin(model, data, seeded(1))
    assert not any(weight.requires_grad for weight in model.adapted.model.parameters())
    plain = method("finetune", clip)
    seed = int(torch.randint(2**31, (), generator=drawn_past(model)))
    batch = next(training.once_more(plain, TrainingSettings(batch=16))(seed=seed))
    plain.loss(batch)["item"].backward()
    for name in model.adapted.layers:
        tower, number, *path = name.split("/")
        weight = getattr(plain.tuned, tower).layers[int(number)].get_submodule(".".join(path)).weight
        basis = model.bases[name]
        left = weight.grad - weight.grad @ basis @ basis.T
        wanted = torch.linalg.svd(left.double()).Vh[:2].float()
        found = model.change.down[name].detach()
        torch.testing.assert_close(found.T @ found, wanted.T @ wanted, rtol=1e-3, atol=2e-3)
    assert float(read_directions(torch.ones(3, 4), torch.eye(4), 2).abs().max()) < 1e-6
    end(model, data, seeded())


def drawn_past(model: Any) -> torch.Generator:
    """The generator of :func:`begin`, past what the change drew from it."""
    generator = seeded(1)
    model.new_change(generator)
    return generator


# ---- nnn -----------------------------------------------------------------------------------------------------------


def test_nnn_scores_are_those_of_the_formula(
    clip: DualEncoder, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = method("nnn", clip, neighbours=3, strength=0.7)
    frozen = method("zero_shot", clip)
    x, y = frozen.encode_images(pictures), frozen.encode_texts(captions)
    sets = [TrainingSet(task, clip) for task in stream.tasks[:2]]
    for task in stream.tasks[:2]:
        learn_task(model, task, settings=TrainingSettings(epochs=0, device="cpu"))
    references = [torch.cat([getattr(one, name) for one in sets]) for name in ("text_features", "image_features")]
    scores = model.encode_texts(captions) @ model.encode_images(pictures).T * (2 + 0.7**2)
    for text in range(len(y)):
        for image in range(len(x)):
            off = [
                0.7 * sum(sorted((item @ queries.T).tolist())[-3:]) / 3
                for item, queries in ((x[image], references[0]), (y[text], references[1]))
            ]
            wanted = float(y[text] @ x[image]) - sum(off)
            assert float(scores[text, image]) == pytest.approx(wanted, abs=1e-5)
    assert not torch.equal(scores.argmax(1), (y @ x.T).argmax(1))  # some answers are others
