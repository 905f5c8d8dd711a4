"""Closed forms against slow, plain versions, and what a method makes of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lpi
from lpi.backbones.base import DualEncoder, TowerState, View
from lpi.backbones.tower import pooled_states
from lpi.closed_form import Affine, Correlations, Moments, cca, ridge
from lpi.config import EvaluationSettings, TrainingSettings
from lpi.errors import LpiError, ShapeError
from lpi.evaluation.recall import Evaluator
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.methods.base import stored_parameters
from lpi.methods.closing import Beside, Head, drawn, states_of
from lpi.methods.encoder import read_captions, route_texts
from lpi.methods.pairs import TEMPERATURES, Pairs, chosen, likelihood, pairs_of
from lpi.routing.base import all_under
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task

SHRUNK = 0.5


def pairs(count: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States of pictures and captions that have two directions in common, and weights."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 2, generator=generator)
    x = common @ torch.randn(2, 6, generator=generator) + 0.3 * torch.randn(count, 6, generator=generator)
    y = common @ torch.randn(2, 5, generator=generator) + 0.3 * torch.randn(count, 5, generator=generator)
    return x + 3, y - 1, torch.rand(count, generator=generator) + 0.5


def test_sums_of_tasks_add_up() -> None:
    x, y, weights = pairs()
    whole = Moments.of(x, y, weights)
    parts = Moments.of(x[:15], y[:15], weights[:15]) + Moments.of(x[15:], y[15:], weights[15:])
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(parts, name), value)
    with pytest.raises(ShapeError, match="both sides"):
        Moments.of(x, y[:3], weights)


def test_cca_solves_the_generalised_eigenproblem() -> None:
    x, y, weights = (part.double() for part in pairs())
    share = weights / weights.sum()
    x0, y0 = x - (share[:, None] * x).sum(0), y - (share[:, None] * y).sum(0)
    xx, yy = (x0 * share[:, None]).T @ x0, (y0 * share[:, None]).T @ y0
    xy = (x0 * share[:, None]).T @ y0
    xx += SHRUNK * xx.trace() / len(xx) * torch.eye(len(xx))
    yy += SHRUNK * yy.trace() / len(yy) * torch.eye(len(yy))
    # directions a of the pictures with Cxy Cyy^-1 Cyx a = s^2 Cxx a, one by one
    values, vectors = torch.linalg.eig(torch.linalg.solve(xx, xy @ torch.linalg.solve(yy, xy.T)))
    order = values.real.argsort(descending=True)
    maps = cca(Moments.of(x, y, weights), 3, shrinkage=SHRUNK)
    for place in range(2):
        s2, a = values.real[order[place]], vectors.real[:, order[place]]
        a = a / (a @ xx @ a).sqrt() * s2  # of variance 1 under the shrunk covariance, times the correlation squared
        found = maps["vision"][1][:, place].double()
        torch.testing.assert_close(found * (found @ a).sign(), a, rtol=1e-4, atol=1e-5)
        b = torch.linalg.solve(yy, xy.T @ found) / s2.sqrt()
        torch.testing.assert_close(maps["text"][1][:, place].double(), b, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(maps["vision"][0].double(), x.mul(share[:, None]).sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [7, 40])
def test_few_pairs_of_wide_states_give_the_maps_that_their_sums_give(count: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(count, 20, generator=generator), torch.randn(count, 15, generator=generator)
    rows = torch.randint(
        count, (2, 2 * count), generator=generator
    )  # pictures and captions of several pairs, and of none
    weights = torch.rand(2 * count, generator=generator) + 0.5
    slow = cca(Moments.of(x[rows[0]], y[rows[1]], weights), 5, shrinkage=SHRUNK)
    fast = Correlations.of_pairs(x, y, (rows[0], rows[1]), weights).maps(5, SHRUNK)

    def scores(maps: dict[str, Affine]) -> Tensor:  # a direction's sign means nothing
        images, texts = ((own - maps[t][0]) @ maps[t][1] for t, own in (("vision", x), ("text", y)))
        return texts @ images.T

    torch.testing.assert_close(scores(fast), scores(slow), rtol=1e-4, atol=1e-5)


def test_pairs_in_which_nothing_varies_have_no_directions() -> None:
    rows = torch.zeros(1, dtype=torch.int64)
    maps = Correlations.of_pairs(torch.ones(1, 6), torch.ones(1, 5), (rows, rows), torch.ones(1)).maps(3, SHRUNK)
    assert maps["vision"][1].tolist() == torch.zeros(6, 3).tolist()
    assert maps["text"][0].tolist() == [1.0] * 5


def test_cuts_are_fitted_to_as_further_looks_at_the_same_pictures() -> None:
    x, y, _ = pairs(20)
    pictures, captions = torch.tensor([*range(20), 3, 3]), torch.tensor([*range(20), 5, 6])
    cuts = torch.stack([x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    states = {"vision": x, "text": y}
    found = Pairs(states, states, pictures, captions, cuts)
    weights = torch.ones(22, dtype=torch.float64)
    weights[[3, 20, 21]] = 1 / 3
    kept = pictures % 2 == 1
    for among, rows in ((None, torch.arange(22)), (torch.arange(20) % 2 == 1, kept.nonzero()[:, 0])):
        seen = torch.cat([look[pictures[rows]] for look in (x, *cuts)])
        slow = Correlations.of(Moments.of(seen, y[captions[rows]].repeat(3, 1), weights[rows].repeat(3)))
        for tower, (mean, weight) in found.correlations(among).maps(4, SHRUNK).items():
            expected = slow.maps(4, SHRUNK)[tower]
            torch.testing.assert_close(mean, expected[0])
            torch.testing.assert_close((weight.T @ weight), (expected[1].T @ expected[1]), rtol=1e-4, atol=1e-6)
    assert float(found.moments().weight) == pytest.approx(20)


@pytest.mark.parametrize("name", ["lpi", "cca", "ridge"])
def test_cuts_of_pictures_are_the_same_each_time(name: str, clip: DualEncoder, stream: TaskStream) -> None:
    options: dict[str, Any] = {"lpi": {"dimensions": 4, "clusters": 1}, "cca": {"dimensions": 4}}.get(name, {})
    vectors = []
    for cuts in (0, 2, 2):
        model = method(name, clip, cuts=cuts, **options)
        learn_task(model, stream.tasks[0], settings=TrainingSettings(epochs=0, device="cpu"))
        vectors.append(model.encode_texts("a red dot", task=stream.tasks[0].name))
    assert torch.equal(vectors[1], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    training = TrainingSet(stream.tasks[0], clip)
    first, second, again = (training.cut_reading(number).summary for number in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-3)
    torch.testing.assert_close(first, TrainingSet(stream.tasks[0], clip, batch=3).cut_reading(0).summary)


def test_directions_beyond_the_widths_are_zero() -> None:
    maps = cca(Moments.of(*pairs()), 8, shrinkage=SHRUNK)
    assert maps["vision"][1].shape == (6, 8)
    assert not maps["vision"][1][:, 5:].any()


def test_ridge_is_least_squares_with_more_rows() -> None:
    x, y, weights = (part.double() for part in pairs())
    root = weights.sqrt()[:, None]
    strength = 0.1
    extra = (strength * ((root * x).T @ (root * x)).diagonal().mean()).sqrt() * torch.eye(6, dtype=torch.float64)
    rows, targets = torch.cat([root * x, extra]), torch.cat([root * y, torch.zeros(6, 5, dtype=torch.float64)])
    plain = torch.linalg.lstsq(rows, targets).solution
    torch.testing.assert_close(ridge(Moments.of(x, y, weights), strength=strength)["vision"].double(), plain)


def test_the_likelihood_sets_what_is_right_against_itself_and_all_that_is_wrong() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.4, 0.7]])
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2]])  # the first caption fits two pictures, which don't compete

    def plain(temperature: float) -> float:
        rows = scores.tolist()
        total = 0.0
        for caption, picture in pairs.tolist():
            right = math.exp(temperature * rows[caption][picture])
            others = [rows[caption][other] for other in range(3) if [caption, other] not in pairs.tolist()]
            total += math.log(right / (right + sum(math.exp(temperature * one) for one in others)))
            others = [rows[other][picture] for other in range(2) if [other, picture] not in pairs.tolist()]
            total += math.log(right / (right + sum(math.exp(temperature * one) for one in others)))
        return total / 6

    assert likelihood(scores, pairs) == pytest.approx(max(plain(each) for each in TEMPERATURES), abs=1e-6)
    assert likelihood(torch.eye(2), torch.tensor([[0, 0], [1, 1]])) > -1e-6
    assert likelihood(torch.ones(1, 1), torch.tensor([[0, 0]])) == 0  # nothing else is there


@pytest.mark.parametrize("informative", [True, False])
def test_the_share_follows_from_pairs_that_the_map_has_not_seen(informative: bool) -> None:
    x, y, _ = pairs(80)
    generator = torch.Generator().manual_seed(1)
    if not informative:
        y = y[torch.randperm(80, generator=generator)]
    own = torch.nn.functional.normalize(torch.randn(80, 12, generator=generator), dim=1)
    features = {"vision": own, "text": own if not informative else own.roll(1, 0)}
    rows = torch.arange(80)
    found = chosen(Pairs(features, {"vision": x, "text": y}, rows, rows), 3)
    assert (found.share >= 0.5) == informative


def test_cuts_count_only_where_they_help_pairs_that_the_map_has_not_seen() -> None:
    x, y, _ = pairs(40)
    noise = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1))
    own = torch.nn.functional.normalize(noise[0], dim=1)
    rows = torch.arange(40)
    blurred = Pairs({"vision": own, "text": own.roll(1, 0)}, {"vision": x + 2 * noise[0], "text": y}, rows, rows)
    for cuts, helps in ((x[None].expand(3, -1, -1), True), (20 * noise, False)):
        assert (chosen(replace(blurred, cuts=cuts), 3).pairs.cuts is not None) == helps


def test_a_summary_is_of_the_end_and_of_the_middle(clip: DualEncoder, stream: TaskStream) -> None:
    images = clip.inputs.images([record.picture.open() for record in stream.tasks[0].train[:3]])
    texts = clip.inputs.tokenize([record.captions[0] for record in stream.tasks[0].train[:3]])
    for tower, inputs, real in (("vision", images, None), ("text", texts, texts.mask)):
        features, summary = clip.with_summary(tower, inputs)
        encoder, middle = getattr(clip, tower), clip.middle(tower)
        assert summary.shape == (3, clip.summary_width(tower))
        state = encoder.advance(encoder.begin(inputs), 0, middle)
        torch.testing.assert_close(summary[:, -2 * encoder.width :], pooled_states(state.states, real))
        end = encoder.advance(state, middle, encoder.depth)
        torch.testing.assert_close(summary[:, : -2 * encoder.width], encoder.summary(end))
        torch.testing.assert_close(features, encoder(inputs))
        kept = clip.with_summary(tower, replace(state, mask=None))
        torch.testing.assert_close(kept[1], summary)
        with pytest.raises(ShapeError, match="don't exist"):
            clip.with_summary(tower, end)


@pytest.mark.parametrize("view", [View(), View(0), View(2, features=False), View(3)])
def test_one_pass_reads_what_passes_of_their_own_read(view: View, clip: DualEncoder, stream: TaskStream) -> None:
    images = clip.inputs.images([record.picture.open() for record in stream.tasks[0].train[:3]])
    texts = clip.inputs.tokenize([record.captions[0] for record in stream.tasks[0].train[:3]])
    for tower, inputs, look in (
        ("vision", images, clip.view_images(images, view)),
        ("text", texts, clip.view_texts(texts, view)),
    ):
        found = clip.reading(tower, inputs, view)
        torch.testing.assert_close(found.look, look)
        for part, alone in zip((found.features, found.summary), clip.with_summary(tower, inputs), strict=True):
            torch.testing.assert_close(part, alone)


def passes(clip: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the items that begin a pass through each tower."""
    counts = dict.fromkeys(("vision", "text"), 0)

    def counting(tower: str) -> Callable[..., TowerState]:
        begin = getattr(clip, tower).begin

        def begun(*inputs: Any) -> TowerState:
            state: TowerState = begin(*inputs)
            counts[tower] += len(state.states)
            return state

        return begun

    for tower in counts:
        monkeypatch.setattr(getattr(clip, tower), "begin", counting(tower))
    return counts


@pytest.mark.parametrize("name", ["lpi", "cca", "ridge"])
def test_one_pass_learns_a_closed_form_and_one_serves_all_routes(
    name: str, clip: DualEncoder, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {} if name == "ridge" else {"dimensions": 4}
    if name != "lpi":
        options |= {"router": "whitened"}
    else:
        options |= {"beside": "both", "view": "both", "routing_text": 0.67}
    model = method(name, clip, clusters=1, **options)
    counts = passes(clip, monkeypatch)
    for task in stream.tasks[:2]:
        learn_task(model, task, settings=TrainingSettings(epochs=0, device="cpu"))
    learned = [record for task in stream.tasks[:2] for record in task.train]
    captions = sum(len({caption for record in task.train for caption in record.captions}) for task in stream.tasks[:2])
    assert counts == {"vision": len(learned), "text": captions}

    pictures = [record.picture.open() for record in stream.tasks[0].test]
    words = [record.captions[0] for record in stream.tasks[0].test]
    routes = torch.tensor([[0, 1]]).expand(len(words), -1)
    routing = replace(all_under(0, torch.empty(len(words), 0)), routes=routes, weights=torch.full(routes.shape, 0.5))
    apart = [model.encode_texts(words, task=task.name) for task in stream.tasks[:2]]
    counts |= dict.fromkeys(counts, 0)
    mixed = model.encode_texts(words, routing=routing)
    model.encode_images(pictures, routing=routing)
    assert counts == {"vision": len(pictures), "text": len(words)}
    torch.testing.assert_close(mixed, torch.nn.functional.normalize(apart[0] + apart[1], dim=1))
    through = model.text_features(clip.inputs.tokenize(words), 1)
    torch.testing.assert_close(through, apart[1])

    own = model.encode_texts(words, routing=route_texts(model, words))  # routed by a pass of its own
    counts |= dict.fromkeys(counts, 0)
    torch.testing.assert_close(model.encode_texts(words), own)
    assert counts["text"] == len(words)
    model.router.options = replace(model.router.options, words="placeholders")
    assert read_captions(model, words) is None  # the router reads other words than the model

    evaluator = Evaluator(clip, stream, EvaluationSettings())
    counts |= dict.fromkeys(counts, 0)
    rows = torch.arange(len(evaluator.test.texts))
    under = [evaluator.under(model, "text", rows, torch.full((len(rows),), route)) for route in (0, 1)]
    assert counts["text"] == len(rows)
    again = model.encode_texts(evaluator.test.texts, task=stream.tasks[1].name)
    torch.testing.assert_close(under[1], again)


def test_a_drawn_map_keeps_angles_and_is_the_same_everywhere(clip: DualEncoder, stream: TaskStream) -> None:
    weights = drawn(300, 200)
    torch.testing.assert_close(weights.T @ weights, torch.eye(200))
    drawn.cache_clear()
    torch.testing.assert_close(drawn(300, 200), weights, rtol=0, atol=0)
    vectors = torch.nn.functional.normalize(torch.randn(20, 300, generator=torch.Generator().manual_seed(0)), dim=1)
    seen = vectors @ weights
    assert (seen @ seen.T * 300 / 200 - vectors @ vectors.T).abs().max() < 0.25
    images = clip.inputs.images([record.picture.open() for record in stream.tasks[0].train[:3]])
    width = clip.summary_width("vision")
    assert states_of(clip, "vision", images, projection=8)[1].shape == (3, 8)
    assert states_of(clip, "vision", images, projection=width + 1)[1].shape == (3, width)
    model = method("cca", clip, dimensions=4, projection=8)
    learn_task(model, stream.tasks[0], settings=TrainingSettings(epochs=0, device="cpu"))
    assert model.experts[-1].map_vision.shape == (8, 4)


def test_steps_that_help_no_pair_that_was_kept_out_are_let_go(clip: DualEncoder, stream: TaskStream) -> None:
    x, y, _ = pairs(60)
    rows, held = torch.arange(60), torch.arange(60) % 6 == 5
    own = torch.nn.functional.normalize(torch.randn(60, 12, generator=torch.Generator().manual_seed(1)), dim=1)
    good = Pairs({"vision": own, "text": own.roll(1, 0)}, {"vision": x, "text": y}, rows, rows)
    # learned by heart: right for all but those that were kept out
    wrong = y.clone()
    wrong[held] = y[held].roll(1, 0)
    spoilt = replace(good, states={"vision": x, "text": wrong})
    for frozen, changed, kept in ((good, spoilt, False), (good, good, False)):
        head = Head(clip, 3, 6)
        head.map_text, head.mean_text = torch.zeros(5, 3), torch.zeros(5)
        head.fit_better(frozen, changed, held)
        assert bool(head.changed) == kept
    head.fit_better(spoilt, good, held)
    assert bool(head.changed)


def test_what_steps_changed_has_the_weight_that_kept_out_pairs_give_it(clip: DualEncoder) -> None:
    x, y, _ = pairs(120)
    rows, held = torch.arange(120), torch.arange(120) % 6 == 5
    noise = torch.nn.functional.normalize(torch.randn(120, 12, generator=torch.Generator().manual_seed(1)), dim=1)
    features = {"vision": noise, "text": noise.roll(1, 0)}

    def side(*columns: int, own: torch.Tensor | None = None) -> Pairs:  # knows some of what both have in common
        blind = torch.zeros(5)
        blind[list(columns)] = 1
        both = features if own is None else dict.fromkeys(("vision", "text"), own)
        return Pairs(both, {"vision": x, "text": y * blind}, rows, rows)

    by_heart = y.clone()
    by_heart[held] = y[held].roll(1, 0)
    whole, half, other = side(0, 1, 2, 3, 4), side(0, 1), side(2, 3, 4)
    shuffled = y[torch.randperm(120, generator=torch.Generator().manual_seed(2))]
    for frozen, changed, features_help, map_helps in (
        (half, other, False, True),
        (
            half,
            replace(side(own=noise), states={"vision": x, "text": shuffled}),
            True,
            False,
        ),  # of states that tell nothing
        (whole, replace(whole, states={"vision": x, "text": by_heart}), False, False),
    ):
        head, second = Head(clip, 3, 6), Beside(12, 3)
        second.fit(head.fit(frozen), changed, held)
        for weight, helps in zip(second.weights.tolist(), (features_help, map_helps), strict=True):
            assert weight > 0.25 if helps else weight < 0.2
        first = head("text", features["text"], frozen.states["text"])
        found = second("text", first, lambda changed=changed: (changed.features["text"], changed.states["text"]))
        assert found.shape == (120, 12 + 3 + 12 + 3)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(120), rtol=1e-3, atol=1e-3)
        assert second.map_text.numel() == (15 if second.weights[1] else 0)  # what isn't used isn't kept


def test_weights_are_averaged_by_how_likely_they_are() -> None:
    tried = torch.tensor([[0.3, 0.0, 0.0], [0.3, 0.5, 0.0], [3.0, 0.25, 0.25], [3.0, 0.0, 0.5]])
    likely = [0.1, 0.2, 0.3, 0.4]
    shrinkage, weights = Beside.averaged(tried, 5 + torch.tensor(likely).log())
    assert shrinkage == pytest.approx(3.0)
    expected = [0.2 * 0.5 + 0.3 * 0.25, 0.3 * 0.25 + 0.4 * 0.5]
    torch.testing.assert_close(weights, torch.tensor(expected))
    _, alone = Beside.averaged(tried, torch.tensor([0.0, -60.0, -60.0, -60.0]))
    assert alone.tolist() == [0.0, 0.0]  # too little to be worth a second pass


@pytest.mark.parametrize("beside", ["features", "both"])
def test_what_steps_changed_stands_beside_the_first_map(
    beside: str, clip: DualEncoder, stream: TaskStream, tmp_path: Path
) -> None:
    task = stream.tasks[0]
    options = {"dimensions": 4, "check_every": 2, "adapter_rank": 1, "memory": 0, "beside": beside}
    model = method("lpi", clip, depth=1, placement="last", **options)
    learn_task(model, task, settings=TrainingSettings(epochs=2, batch=8, device="cpu"))
    expert, pictures = model.experts[-1], clip.inputs.images([one.picture.open() for one in task.test])
    both = beside == "both"
    expert.beside.weights.copy_(torch.tensor([0.25, 0.5 if both else 0.0]))
    for tower in ("vision", "text") if both else ():
        width = clip.summary_width(tower)
        setattr(expert.beside, f"mean_{tower}", torch.zeros(width, dtype=torch.float16))
        setattr(expert.beside, f"map_{tower}", torch.eye(width, 4, dtype=torch.float16))
    with torch.no_grad():
        found = model.image_features(pictures, 0)
        frozen = expert.head("vision", *states_of(clip, "vision", pictures, projection=0))
        with model.adapted.with_deltas((expert.change, 1.0)) as changed:
            prompts = model.tower_prompts(0)["vision"]
            features, states = states_of(changed, "vision", pictures, prompts, projection=0)
    parts = [0.25**0.5 * frozen, 0.5 * features / features.norm(dim=1, keepdim=True)]
    if both:
        parts.append(0.5**0.5 * expert.beside.vectors("vision", states))
    else:
        parts[0] *= 3**0.5
    torch.testing.assert_close(found, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    again = lpi.load(tmp_path / "saved", backbone=clip)
    with torch.no_grad():
        torch.testing.assert_close(again.image_features(pictures, 0), found, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [16, 2])  # of two, some have kept-out pictures alone
def test_no_step_sees_the_pictures_that_are_kept_out(batch: int, clip: DualEncoder, stream: TaskStream) -> None:
    task = stream.tasks[0]
    settings = TrainingSettings(epochs=2, batch=batch, device="cpu")
    options = {"dimensions": 4, "check_every": 2, "adapter_rank": 1, "memory": 0}
    # other captions for the pictures that are kept out change nothing that steps learn
    odd = [replace(one, captions=("something else",)) if row % 2 else one for row, one in enumerate(task.train)]
    learned = []
    for records in (task.train, tuple(odd)):
        model = method("lpi", clip, **options)
        learn_task(model, replace(task, train=records), settings=settings)
        learned.append({name: value.clone() for name, value in model.experts[-1].change.named_parameters()})
    assert any(value.abs().max() > 0 for name, value in learned[0].items() if name.startswith("up"))
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value)
    whole = method("lpi", clip, **{**options, "check_every": 0})
    learn_task(whole, task, settings=settings)
    changed = dict(whole.experts[-1].change.named_parameters())
    assert any(not torch.equal(changed[name], value) for name, value in learned[0].items())


def test_of_a_task_with_few_pictures_none_is_kept_out(clip: DualEncoder, stream: TaskStream) -> None:
    task, learned = stream.tasks[0], []
    settings = TrainingSettings(epochs=2, batch=8, device="cpu")
    for every in (0, 3):  # five of sixteen decide nothing
        model = method("lpi", clip, dimensions=4, check_every=every, adapter_rank=1, memory=0)
        learn_task(model, task, settings=settings)
        learned.append(model.experts[-1].state_dict())
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, msg=name)


def test_a_batch_of_some_pictures_has_their_captions_alone(clip: DualEncoder, stream: TaskStream) -> None:
    model = method("finetune", clip)
    training = TrainingSet(stream.tasks[0], clip)
    settings = TrainingSettings(batch=4, captions_per_image=2)
    whole = next(iter(training.epochs(model, settings)(seed=0, epoch=0)))
    wanted = torch.tensor([True, False, True, False])
    part = whole.only(wanted)
    assert part.picture_rows.tolist() == whole.picture_rows[wanted].tolist()
    texts = wanted[whole.owner]
    assert part.caption_rows.tolist() == whole.caption_rows[texts].tolist()
    assert torch.equal(part.picture_rows[part.owner], whole.picture_rows[whole.owner[texts]])
    assert torch.equal(part.positives, whole.positives[wanted][:, texts])
    assert torch.equal(part.frozen()[0], whole.frozen()[0][wanted])
    assert torch.equal(part.frozen()[1], whole.frozen()[1][texts])
    with torch.no_grad():
        torch.testing.assert_close(model.text_features(part.texts, 0), model.text_features(whole.texts, 0)[texts])


@pytest.mark.parametrize("name", ["cca", "lpi"])
def test_without_a_step_the_closed_form_finds_what_the_frozen_model_does_not(
    name: str, clip: DualEncoder, stream: TaskStream
) -> None:
    options = {"dimensions": 4, "clusters": 1} if name == "lpi" else {"dimensions": 4}
    model = method(name, clip, **options)
    learn_task(model, stream.tasks[0], settings=TrainingSettings(epochs=0, device="cpu"))
    training = TrainingSet(stream.tasks[0], clip)
    before = own_likelihood(clip, training, method("zero_shot", clip))
    after = own_likelihood(clip, training, model)
    assert after > before
    assert model.encode_texts("a red dot", task=stream.tasks[0].name).shape == (clip.feature_width + 4,)
    assert stored_parameters(model) > 0


def own_likelihood(clip: DualEncoder, training: TrainingSet, model: object) -> float:
    """How likely a task's own training pairs are under a method."""
    data = training.data(batches=training.once_more(model, TrainingSettings()))  # type: ignore[arg-type]
    found = pairs_of(data, lambda tower, inputs: (getattr(clip, tower)(inputs),) * 2)
    images = model.encode_images([record.picture.open() for record in training.records])  # type: ignore[attr-defined]
    texts = model.encode_texts(training.captions)  # type: ignore[attr-defined]
    return likelihood(texts @ images.T, torch.stack([found.captions, found.pictures], dim=1))


def test_a_map_for_all_tasks_is_made_of_their_sums_alone(clip: DualEncoder, stream: TaskStream) -> None:
    settings = TrainingSettings(epochs=0, device="cpu")
    one_by_one = method("cca", clip, maps="sum", dimensions=4, shrinkage=1.0)
    for task in stream.tasks:
        learn_task(one_by_one, task, settings=settings)
    at_once = method("cca", clip, maps="sum", dimensions=4, shrinkage=1.0)
    learn_task(at_once, stream.merged(), settings=settings)
    for name in ("map_vision", "map_text"):
        a, b = (getattr(model.experts[-1], name).float().abs() for model in (one_by_one, at_once))
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)
    before = {name: value.clone() for name, value in one_by_one.shared_state().items()}
    with pytest.raises(LpiError, match="CCA has one map, of the sums of all tasks, so none can be taken away"):
        one_by_one.forget(stream.tasks[0].name)
    assert len(one_by_one.experts) == len(one_by_one.tasks) == len(stream.tasks)
    assert all(torch.equal(value, before[name]) for name, value in one_by_one.shared_state().items())
