"""Methods that change weights against their papers' formulas, written out naively, and against stock libraries."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.methods.adapters import DeltaBackbone, LowRank, SharedLowRank, features_before, target_layers
from lpi.methods.base import Method, TaskData, TrainingBatch, begin, end
from lpi.methods.c_clip import consolidation_loss
from lpi.methods.ewc import joined
from lpi.methods.mod_x import off_diagonal_loss
from lpi.methods.moe_adapters import Experts
from lpi.methods.replay import reservoir
from lpi.methods.zscl import softened_divergence
from lpi.routing.base import Kept
from lpi.routing.merged import pair, tasks_behind
from lpi.routing.reconstruction import Reconstruction
from lpi.tasks.stream import TaskStream
from lpi.trainer import Step, learn_task

Ready = Callable[..., TrainingBatch]
Learn = Callable[..., Any]
FAMILIES = ["clip", "siglip", "dinov2-bert", "vit-roberta"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def units(rows: int, width: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=seeded(seed)), dim=-1)


def task_data(model: Method, stream: TaskStream, index: int = 0) -> TaskData:
    training = TrainingSet(stream.tasks[index], model.backbone)
    return training.data(1, training.once_more(model, TrainingSettings(batch=8)))


def begun(name: str, backbone: DualEncoder, stream: TaskStream, index: int = 0, **options: Any) -> Any:
    model = method(name, backbone, **options)
    begin(model, task_data(model, stream, index), seeded(1))
    return model


def shaken(change: LowRank, seed: int = 3) -> LowRank:
    """A change that isn't zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for factor in change.up.values():
            factor.copy_(0.2 * torch.randn(factor.shape, generator=generator))
    return change


# ---- linear --------------------------------------------------------------------------------------------------------


def test_linear_is_a_matrix_behind_the_stock_towers(clip: DualEncoder, stream: TaskStream, pictures: Tensor) -> None:
    model = method("linear", clip)
    learn_task(model, stream.tasks[0], settings=TrainingSettings(steps=2, batch=8, device="cpu", learning_rate=0.1))
    weight = model.trainable()[0].detach()
    assert not torch.equal(weight, clip.vision.projection.weight)  # type: ignore[union-attr]
    with torch.no_grad():
        pooled = clip.model.vision_model(pixel_values=clip.inputs.normalise(pictures)).pooler_output
    torch.testing.assert_close(model.encode_images(pictures), F.normalize(pooled @ weight.T, dim=-1))


# ---- lora ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers for it
def test_lora_matches_peft_on_the_stock_model(clip: DualEncoder, stream: TaskStream, pictures: Tensor) -> None:
    from peft import LoraConfig, get_peft_model

    model = method("lora", clip, rank=2, alpha=6)
    learn_task(model, stream.tasks[0], settings=TrainingSettings(steps=2, batch=8, device="cpu", learning_rate=0.05))
    stock = deepcopy(clip.model)
    wrapped = get_peft_model(stock, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    factors = {name: weight for name, weight in stock.named_parameters() if ".lora_" in name}
    learned = model.shared_state()
    assert set(factors) == set(learned)
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(learned[name])
        pixels = clip.inputs.normalise(pictures)
        texts = clip.inputs.tokenize(["red dot", "a box"])
        images = wrapped.get_image_features(pixel_values=pixels).pooler_output
        words = wrapped.get_text_features(input_ids=texts.ids, attention_mask=texts.mask).pooler_output
    assert not torch.allclose(model.encode_images(pictures), F.normalize(clip.encode_images(pixels), dim=-1))
    torch.testing.assert_close(model.encode_images(pictures), F.normalize(images, dim=-1))
    torch.testing.assert_close(model.encode_texts(["red dot", "a box"]), F.normalize(words, dim=-1))


def test_our_low_rank_changes_match_peft(clip: DualEncoder, stream: TaskStream, pictures: Tensor) -> None:
    lora: Any = method("lora", clip, rank=2, alpha=6, targets="all")
    adapted = DeltaBackbone(clip, "all")
    change = shaken(LowRank(adapted.layers, rank=2, generator=seeded()))
    with torch.no_grad():
        for (tower, number, *path), name in ((key.split("/"), key) for key in adapted.layers):
            place = f"{tower}_model.encoder.layers.{number}.{'.'.join(path)}"
            lora._factors[f"{place}.lora_A.default.weight"].copy_(change.down[name])
            lora._factors[f"{place}.lora_B.default.weight"].copy_(change.up[name])
    with torch.no_grad(), adapted.with_deltas((change, 3.0)) as model:
        mine = F.normalize(model.encode_images(clip.inputs.normalise(pictures)), dim=-1)
    torch.testing.assert_close(lora.encode_images(pictures), mine)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["query_value", "attention", "mlp", "all"])
def test_a_change_that_runs_beside_the_layers_equals_changed_weights(
    targets: Any, family: str, families: Callable[[str], DualEncoder], pictures: Tensor
) -> None:
    backbone = families(family)
    adapted = DeltaBackbone(backbone, targets)
    blocks = sum(backbone.depths.values())
    assert len(adapted.layers) == {"query_value": 2, "attention": 4, "mlp": 2, "all": 6}[targets] * blocks
    change = shaken(LowRank(adapted.layers, rank=2, generator=seeded()))
    changed = deepcopy(backbone)
    pixels, texts = backbone.inputs.normalise(pictures[:4]), backbone.inputs.tokenize(["red dot", "box"])
    with torch.no_grad():
        for name, layer in target_layers(changed, targets).items():
            layer.weight += 0.5 * change.delta(name)
        with adapted.with_deltas((change, 0.5)) as model:
            torch.testing.assert_close(model.encode_images(pixels), changed.encode_images(pixels), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.encode_texts(texts), changed.encode_texts(texts), rtol=1e-4, atol=1e-5)
        assert torch.equal(adapted.model.encode_images(pixels), backbone.encode_images(pixels))  # and leaves no trace


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_with_shared_factors_is_one_tensor_over_the_blocks(
    family: str, families: Callable[[str], DualEncoder], pictures: Tensor
) -> None:
    backbone = families(family)
    adapted = DeltaBackbone(backbone, "attention", first={"vision": 1, "text": 2})
    change = SharedLowRank(adapted.layers, rank=2, generator=seeded())
    draw = seeded(5)
    with torch.no_grad():
        for factor in change.parameters():
            factor.copy_(0.3 * torch.randn(factor.shape, generator=draw))
    changed = deepcopy(backbone)
    numbers = 0
    with torch.no_grad():
        for tower, first in (("vision", 1), ("text", 2)):
            blocks = getattr(changed, tower).layers[first:]
            for kind in {name.split("/", 2)[2] for name in adapted.layers if name.startswith(tower)}:
                down, up = change.down[f"{tower}/{kind}"], change.up[f"{tower}/{kind}"]
                scale = change.scale[f"{tower}/{kind}"]
                for row, block in enumerate(blocks):
                    weight = block.get_submodule(kind.replace("/", ".")).weight
                    for k in range(2):
                        weight += scale[row, k] * torch.outer(up[:, k], down[k])
                numbers += 2 * (len(blocks) + sum(weight.shape))
        assert sum(factor.numel() for factor in change.parameters()) == numbers
        pixels, texts = backbone.inputs.normalise(pictures[:4]), backbone.inputs.tokenize(["red dot", "box"])
        with adapted.with_deltas((change, 1.0)) as model:
            torch.testing.assert_close(model.encode_images(pixels), changed.encode_images(pixels), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.encode_texts(texts), changed.encode_texts(texts), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(changed.encode_texts(texts), backbone.encode_texts(texts), atol=1e-2)


# ---- ewc -----------------------------------------------------------------------------------------------------------


def test_ewc_keeps_as_one_what_the_paper_keeps_for_each_task() -> None:
    draw = seeded()
    pulls = [(torch.rand(5, generator=draw), torch.randn(5, generator=draw)) for _ in range(3)]
    pulls[1][0][2] = pulls[0][0][2] = pulls[2][0][2] = 0  # a weight that no task needs
    strength, centre = joined(joined(pulls[0], pulls[1]), pulls[2])
    weights = torch.randn(5, generator=draw, requires_grad=True)
    paper = sum((fisher * (weights - there).square()).sum() for fisher, there in pulls)
    (expected,) = torch.autograd.grad(paper, weights)  # type: ignore[arg-type]
    (found,) = torch.autograd.grad((strength * (weights - centre).square()).sum(), weights)
    torch.testing.assert_close(found, expected)


def test_ewc_pulls_by_the_squared_gradients(clip: DualEncoder, stream: TaskStream, learn: Learn, ready: Ready) -> None:
    model: Any = method("ewc", clip, strength=30.0)
    learn(model, stream.tasks[:1])
    there = {name: weight.detach().clone() for name, weight in model.tuned.model.named_parameters()}
    squares: dict[str, Tensor] = {}
    data = task_data(model, stream)
    pairs = 0
    for batch in data.batches(seed=0):
        model.zero_grad()
        model.item(batch, *model.both(batch)).backward()
        size = len(batch.texts)
        pairs += size
        for name, weight in model.tuned.model.named_parameters():
            if weight.grad is not None:
                squares[name] = squares.get(name, 0) + size * size * weight.grad.square()
    for name, value in model.fisher(data, seed=0).items():
        torch.testing.assert_close(value, squares.get(name, torch.zeros_like(value)) / pairs)
    with torch.no_grad():
        for weight in model.trainable():
            weight += 0.01
    expected = sum(
        15.0 * (model.importance[name] * (weight - there[name]).square()).sum()
        for name, weight in model.tuned.model.named_parameters()
        if weight.requires_grad
    )
    torch.testing.assert_close(model.loss(ready(model, stream.tasks[1]))["pull"], expected)


# ---- distillation --------------------------------------------------------------------------------------------------


def test_lwf_matches_the_softened_answers_written_out(clip: DualEncoder, stream: TaskStream, ready: Ready) -> None:
    model = begun("lwf", clip, stream, weight=0.7, temperature=3.0)
    batch = ready(model, stream.tasks[0])
    old = [features.detach() for features in model.both(batch)]  # nothing has been learned yet
    with torch.no_grad():
        for weight in model.trainable():
            weight.mul_(1.05)
    new = model.both(batch)
    scale = model.tuned.logit_scale.exp()
    total = torch.zeros(())
    for a, b in ((0, 1), (1, 0)):
        for row in range(len(old[a])):
            target = torch.softmax(scale * old[a][row] @ old[b].T / 3.0, 0)
            answer = torch.softmax(scale * new[a][row] @ new[b].T / 3.0, 0)
            total = total + (target * (target / answer).log()).sum() / len(old[a]) / 2
    torch.testing.assert_close(model.loss(batch)["distill"], 0.7 * 9.0 * total, rtol=1e-4, atol=1e-6)


def test_what_a_method_gave_before_a_task_is_kept_row_by_row(clip: DualEncoder, stream: TaskStream) -> None:
    model = method("lwf", clip)
    data = task_data(model, stream, 1)
    pictures, captions = features_before(model, data)
    torch.testing.assert_close(pictures, data.frozen.image_features, rtol=1e-4, atol=1e-5)  # still the frozen model
    torch.testing.assert_close(captions, data.frozen.text_features, rtol=1e-4, atol=1e-5)


def test_zscl_has_the_gradient_of_the_papers_cross_entropy() -> None:
    student = torch.randn(4, 5, generator=seeded(), requires_grad=True)
    teacher = torch.randn(4, 5, generator=seeded(1))
    paper = F.cross_entropy(student / 2, (teacher / 2).softmax(1)) * 4
    (expected,) = torch.autograd.grad(paper, student)
    (found,) = torch.autograd.grad(softened_divergence(student, teacher, 2.0), student)
    torch.testing.assert_close(found, expected)
    assert float(softened_divergence(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_zscl_ends_with_the_mean_of_the_weights_it_went_through(clip: DualEncoder, stream: TaskStream) -> None:
    model = method("zscl", clip, ensemble_every=1)
    visited = [[weight.detach().clone() for weight in model.trainable()]]

    def note(step: Step) -> None:
        visited.append([weight.detach().clone() for weight in model.trainable()])

    chosen = TrainingSettings(steps=4, batch=8, device="cpu", learning_rate=0.01)
    learn_task(model, stream.tasks[0], settings=chosen, on_step=note)
    assert len(visited) == 5
    for position, weight in enumerate(model.trainable()):
        torch.testing.assert_close(weight.detach(), torch.stack([seen[position] for seen in visited]).mean(0))


def test_mod_x_screens_the_rows_that_were_wrong() -> None:
    new, old = units(4) @ units(4, seed=1).T, units(4, seed=2) @ units(4, seed=3).T
    old = old + torch.diag(torch.tensor([2.0, 0.0, 2.0, 0.0])) - torch.diag(torch.tensor([0.0, 3.0, 0.0, 3.0]))
    replaced = old.clone()
    for row in range(4):
        if old[row].argmax() != row:
            replaced[row] = new[row]  # the paper: such a row is taken from the model that learns
    expected = F.kl_div(new.softmax(1).log(), replaced.softmax(1), reduction="sum")
    torch.testing.assert_close(off_diagonal_loss(new, old, torch.eye(4).bool()), expected)
    assert float(expected) > 0


# ---- replay --------------------------------------------------------------------------------------------------------


def test_the_reservoir_keeps_each_of_a_stream_equally_often() -> None:
    draw, size, length, trials = seeded(), 4, 20, 3000
    kept_at = torch.zeros(length)
    for _ in range(trials):
        kept: list[int] = []
        for item in range(length):
            place = reservoir(len(kept), size, item, draw)
            if place is not None:
                kept[place : place + 1] = [item]
        assert len(kept) == size
        kept_at[kept] += 1
    share = size / length
    spread = (share * (1 - share) / trials) ** 0.5
    assert ((kept_at / trials - share).abs() < 4.5 * spread).all()


def test_replayed_pairs_join_the_batch(clip: DualEncoder, stream: TaskStream, learn: Learn, ready: Ready) -> None:
    model: Any = method("replay", clip, size=6, replayed=3)
    learn(model, stream.tasks[:1])
    assert len(model.pixels) == len(model.captions) == 6
    own = {tuple(record.captions) for record in stream.tasks[0].train}
    assert all(any(caption in captions for captions in own) for caption in model.captions)
    begin(model, task_data(model, stream, 1), seeded())
    batch = ready(model, stream.tasks[1])
    mixed = model.mixed(batch)
    assert mixed.positives.shape == (11, 11)
    assert torch.equal(mixed.positives[:8, :8], batch.positives)
    assert bool(mixed.positives.diagonal().all())
    assert torch.equal(mixed.owner, torch.arange(11))
    stored = torch.stack(model.pixels)
    assert all((clip.inputs.denormalise(image[None]) == stored).flatten(1).all(1).any() for image in mixed.images[8:])
    model.captions = ["Blue dot"] * 6  # as if an earlier task had shown what this one shows
    equal = model.mixed(replace(batch, caption_rows=torch.full((8,), model._own.index("blue dot"))))
    assert bool(equal.positives[:, 8:].all())
    assert bool(equal.positives[8:].all())


# ---- c_clip --------------------------------------------------------------------------------------------------------


def test_consolidation_matches_the_sum_written_out() -> None:
    new, old = torch.randn(5, 6, generator=seeded()), torch.randn(5, 6, generator=seeded(1))
    total = 0.0
    for anchors, others in ((new, old), (old, new)):
        for row in range(5):
            close = [float(F.cosine_similarity(anchors[row], others[k], dim=0)) / 0.07 for k in range(5)]
            total -= close[row] - float(torch.tensor(close).logsumexp(0))
    assert float(consolidation_loss(new, old, 0.07)) == pytest.approx(total / 10, rel=1e-4)


def test_c_clip_joins_a_share_of_the_change_to_the_weights(
    clip: DualEncoder, stream: TaskStream, pictures: Tensor
) -> None:
    model = begun("c_clip", clip, stream, rank=2, alpha=4.0, merge=0.25)
    shaken(model.change)
    before = {name: layer.weight.detach().clone() for name, layer in model.adapted.layers.items()}
    with torch.no_grad(), model.adapted.with_deltas((model.change, 0.25 * 2.0)) as changed:
        expected = F.normalize(changed.encode_images(clip.inputs.normalise(pictures)), dim=-1)
    end(model, task_data(model, stream), seeded())
    for name, layer in model.adapted.layers.items():
        product = model.change.up[name] @ model.change.down[name]
        torch.testing.assert_close(layer.weight, before[name] + 0.25 * 4.0 / 2 * product)
    torch.testing.assert_close(model.encode_images(pictures), expected, rtol=1e-4, atol=1e-5)


# ---- dar -----------------------------------------------------------------------------------------------------------


def test_dar_merges_two_experts_by_the_mean_of_their_weights(
    clip: DualEncoder, stream: TaskStream, learn: Learn, pictures: Tensor
) -> None:
    model: Any = learn(method("dar", clip, rank=2, alpha=4.0), stream.tasks[:2], learning_rate=0.05)
    merged = deepcopy(clip)
    with torch.no_grad():
        for name, layer in target_layers(merged, "attention").items():
            layer.weight += 4.0 / 2 * (model.experts[0].delta(name) + model.experts[1].delta(name)) / 2
        pixels = clip.inputs.normalise(pictures)
        route = int(pair(torch.tensor(1), torch.tensor(0)))
        assert tasks_behind(route) == (1, 0)
        expected = F.normalize(merged.encode_images(pixels), dim=-1)
        torch.testing.assert_close(model.image_features(pixels, route), expected, rtol=1e-4, atol=1e-5)


def test_dar_routes_by_prototypes_and_their_margin(clip: DualEncoder, stream: TaskStream, learn: Learn) -> None:
    model: Any = learn(method("dar", clip, rank=2, margin=0.02), stream.tasks)
    prototypes = [F.normalize(TrainingSet(task, clip).image_features.mean(0), dim=0) for task in stream.tasks]
    queries = units(60, clip.feature_width, seed=5)
    routes, tasks = model.router("vision", queries).routes[:, 0], []
    for query, route in zip(queries, routes.tolist(), strict=True):
        cosines = [float(query @ prototype) for prototype in prototypes]
        first, second, _ = sorted(range(3), key=lambda task: -cosines[task])
        tasks.append(first)
        assert tasks_behind(route) == ((first, second) if cosines[first] - cosines[second] < 0.02 else (first,))
    assert 5 < int((routes >= 1000).sum()) < 55  # both happen
    assert model.router.tasks_of(routes).tolist() == tasks


def test_what_two_merged_experts_encode_never_changes_either(
    clip: DualEncoder, stream: TaskStream, learn: Learn, pictures: Tensor
) -> None:
    model: Any = learn(method("dar", clip, rank=2), stream.tasks[:2])
    pixels = clip.inputs.normalise(pictures)
    before = [model.image_features(pixels, route) for route in (1001, 2000)]
    learn(model, stream.tasks[2:])
    after = [model.image_features(pixels, route) for route in (1001, 2000)]
    assert all(torch.equal(kept, found) for kept, found in zip(before, after, strict=True))


# ---- moe_adapters --------------------------------------------------------------------------------------------------


def mixture_of(count: int = 5) -> Experts:
    block = Experts(6, count, 3, seeded())
    block.add_router(seeded(1))
    for number, expert in enumerate(block.experts):
        nn.init.normal_(expert.up.weight, generator=seeded(number))  # type: ignore[union-attr, arg-type]
    return block


def test_the_mixture_matches_its_sum_written_out() -> None:
    block, states = mixture_of(), torch.randn(4, 3, 6, generator=seeded(2))
    found = block(states, 0, 2)
    for row in range(4):
        logits = (states[row, 0] @ block.routers[0]).detach()
        best = sorted(range(5), key=lambda expert: -float(logits[expert]))[:2]
        shares = torch.softmax(logits[best], 0)
        expected = torch.zeros(3, 6)
        for share, number in zip(shares, best, strict=True):
            expert: Any = block.experts[number]
            hidden = (states[row] @ expert.down.weight.T + expert.down.bias).clamp(min=0)
            expected = expected + share * 0.1 * (hidden @ expert.up.weight.T + expert.up.bias)
        torch.testing.assert_close(found[row], expected)


def test_experts_that_a_task_used_most_are_frozen_for_the_next(clip: DualEncoder, stream: TaskStream) -> None:
    model: Any = method("moe_adapters", clip, experts=5, top=2, bottleneck=4, ood="nearest")
    chosen = TrainingSettings(steps=2, batch=8, device="cpu", learning_rate=0.05)
    learn_task(model, stream.tasks[0], settings=chosen)
    block = model.blocks["vision/0"]
    assert int(block.chosen.sum()) == 2
    before = [deepcopy(expert.state_dict()) for expert in block.experts]
    learn_task(model, stream.tasks[1], settings=chosen)
    same = [
        all(torch.equal(value, kept[name]) for name, value in expert.state_dict().items())
        for expert, kept in zip(block.experts, before, strict=True)
    ]
    assert all(unchanged for unchanged, frozen in zip(same, block.frozen.tolist(), strict=True) if frozen)
    assert not all(same)


def test_the_selector_is_the_best_linear_auto_encoder(clip: DualEncoder) -> None:
    points = torch.randn(40, 6, generator=seeded()) * torch.tensor([3.0, 2.0, 1.0, 0.3, 0.2, 0.1])
    points = F.normalize(points, dim=1)
    router = Reconstruction(clip, Reconstruction.Options(hidden=2, quantile=1.0))
    router.kept.append(Kept())
    router.fit("vision", points, seeded())
    error, radius = router.distances("vision", points)[:, 0], float(router.kept[0]["radius_vision"])
    centred = points - points.mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred)  # rising
    torch.testing.assert_close(error.square().sum(), variances[:4].sum(), rtol=1e-4, atol=1e-4)
    worst = 0.0
    order = torch.randperm(40, generator=seeded()).tolist()
    for unseen, seen in ((order[:20], order[20:]), (order[20:], order[:20])):
        own = points[seen]
        main = torch.linalg.svd(own - own.mean(0)).Vh[:2]
        for row in unseen:
            lost = points[row] - own.mean(0)
            worst = max(worst, float((lost - (lost @ main[0]) * main[0] - (lost @ main[1]) * main[1]).norm()))
    assert radius == pytest.approx(worst, rel=1e-4)
    strange = torch.zeros(1, 6)
    strange[0, 5] = 1.0  # where the points hardly spread
    assert float(router.distances("vision", strange)[0, 0]) > radius
