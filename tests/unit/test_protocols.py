"""Other papers' protocols and the stability diagnostics, on three painted tasks, against naive loops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lpi
from lpi.backbones import DualEncoder
from lpi.config import EvaluationSettings, TrainingSettings
from lpi.evaluation.protocols import first_captions, protocols
from lpi.evaluation.recall import Evaluator
from lpi.evaluation.stability import Stability, nearest, neighbour_overlap
from lpi.methods.base import FALLBACK, Method
from lpi.routing.score import Matched
from lpi.storage import read_json, read_tensors
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task

TOWERS = ("vision", "text")


@pytest.fixture(scope="module")
def evaluator(clip: DualEncoder, stream: TaskStream) -> Evaluator:
    return Evaluator(clip, stream, EvaluationSettings())


@pytest.fixture(scope="module")
def learner(clip: DualEncoder, stream: TaskStream, learn: Any, small: dict[str, Any]) -> Method:
    return learn(lpi.method("lpi", clip, **small), stream.tasks, learning_rate=0.5)


def test_the_default_protocol_and_the_oracle_are_those_of_the_stage(evaluator: Evaluator, learner: Method) -> None:
    record = evaluator.stage(learner, 2)
    found = protocols(evaluator, learner, 2)
    assert found["pooled_routed"] == record.seen
    assert found["pooled_oracle"] == record.oracle
    assert len(found) == 10


def test_a_gallery_of_ones_own_task_is_never_harder(clip: DualEncoder, stream: TaskStream, learner: Method) -> None:
    # with equal captions as matches it could be: another task's picture may be right too
    evaluator = Evaluator(clip, stream, EvaluationSettings(equal_captions=False))
    evaluator.stage(learner, 2)
    found = protocols(evaluator, learner, 2)
    for routing in ("routed", "oracle", "image", "text", "pair"):
        for metric, pooled in found[f"pooled_{routing}"].items():
            own = found[f"per_task_{routing}"][metric]
            assert all(a >= b for a, b in zip(own, pooled, strict=True))


def test_before_the_last_stage_nothing_is_routed_by_pairs(evaluator: Evaluator, learner: Method) -> None:
    evaluator.stage(learner.stage(1), 1)
    assert set(protocols(evaluator, learner.stage(1), 1)) == {
        f"{gallery}_{routing}" for gallery in ("pooled", "per_task") for routing in ("routed", "oracle")
    }


def test_a_method_without_tasks_has_galleries_only(evaluator: Evaluator, clip: DualEncoder) -> None:
    method = lpi.method("zero_shot", clip)
    evaluator.stage(method, 2)
    assert set(protocols(evaluator, method, 2)) == {"pooled_routed", "per_task_routed"}


def naive_recall(evaluator: Evaluator, learner: Method, routes: dict[str, list[int]]) -> list[float]:
    """Text to image R@1 of each task, one query at a time; of equal scores, up to rounding, one is drawn."""
    test = evaluator.test
    images = torch.cat([test.encode(learner, "vision", torch.tensor([i]), r) for i, r in enumerate(routes["vision"])])
    texts = torch.cat([test.encode(learner, "text", torch.tensor([i]), r) for i, r in enumerate(routes["text"])])
    right = torch.zeros(len(texts), len(images), dtype=torch.bool)
    right[test.pairs[:, 0], test.pairs[:, 1]] = True
    own = [test.task["text"] == task for task in range(len(evaluator.stream.tasks))]
    return [naive_r1(texts[rows] @ images.T, right[rows]) for rows in own]


def naive_r1(scores: torch.Tensor, right: torch.Tensor) -> float:
    """R@1 of a matrix of scores, one query at a time; of equal scores, up to rounding, one is drawn."""
    hits = []
    for own, fits in zip(scores, right, strict=True):
        first = own >= own.max() - 1e-6
        hits.append(float((first & fits).sum() / first.sum()))
    return sum(hits) / len(hits)


def test_held_out_queries_are_also_searched_among_everything(
    clip: DualEncoder, stream: TaskStream, learn: Any, small: dict[str, Any]
) -> None:
    whole = TaskStream("with strangers", stream.tasks[:2], held_out=stream.tasks[2].test)
    learner = learn(lpi.method("lpi", clip, **small), whole.tasks, learning_rate=0.5)
    evaluator = Evaluator(clip, whole, EvaluationSettings(scoring="routed"))
    record, tested = evaluator.stage(learner, 1), evaluator.final(learner).features
    strangers = evaluator._encoded(learner, evaluator.held_out, evaluator._held_out_cache, 1).features
    pairs = evaluator.held_out.pairs
    for metric, ours, theirs, columns in (("t2i_r1", "text", "vision", (0, 1)), ("i2t_r1", "vision", "text", (1, 0))):
        gallery = torch.cat([strangers[theirs], tested[theirs]])
        right = torch.zeros(len(strangers[ours]), len(gallery), dtype=torch.bool)
        right[pairs[:, columns[0]], pairs[:, columns[1]]] = True
        assert record.everything[metric] == pytest.approx(naive_r1(strangers[ours] @ gallery.T, right), abs=1e-6)
        own = right[:, : len(strangers[theirs])]
        assert record.held_out[metric] == pytest.approx(naive_r1(strangers[ours] @ strangers[theirs].T, own), abs=1e-6)
        assert record.everything[metric] <= record.held_out[metric]
    assert evaluator.stage(learner.stage(0), 0).everything is not None  # fixed_gallery has all test data at every stage
    assert evaluator.frozen().stages[-1].everything is not None


def test_items_of_a_task_have_its_figure_as_their_mean(evaluator: Evaluator, learner: Method) -> None:
    record = evaluator.stage(learner, 2)
    assert [len(task) for task in record.items] == [len(task.test) for task in evaluator.stream.tasks]
    for task, items in enumerate(record.items):
        expected = (record.seen["t2i_r1"][task] + record.seen["i2t_r1"][task]) / 2
        assert sum(items) / len(items) == pytest.approx(expected)
    assert evaluator.stage(learner.stage(1), 1).items is None


@pytest.mark.parametrize("routing", ["image", "text", "pair"])
def test_routing_by_the_partner_is_what_a_loop_over_pairs_gives(
    routing: str, evaluator: Evaluator, learner: Method
) -> None:
    evaluator.stage(learner, 2)
    test = evaluator.test
    distance = {tower: learner.router(tower, test.frozen[tower]).distances for tower in TOWERS}
    captions_of = [[t for t, o in enumerate(test.owner.tolist()) if o == p] for p in range(test.count("vision"))]
    routes: dict[str, list[int]] = {"vision": [], "text": []}
    for picture, own in enumerate(captions_of):
        together = {
            "image": distance["vision"][picture],
            "text": distance["text"][own[0]],
            "pair": distance["vision"][picture] + distance["text"][own].mean(dim=0),
        }
        routes["vision"].append(int(together[routing].argmin()))
    for text, picture in enumerate(test.owner.tolist()):
        together = {
            "image": distance["vision"][picture],
            "text": distance["text"][text],
            "pair": distance["vision"][picture] + distance["text"][text],
        }
        routes["text"].append(int(together[routing].argmin()))
    found = protocols(evaluator, learner, 2)[f"pooled_{routing}"]["t2i_r1"]
    assert found == pytest.approx(naive_recall(evaluator, learner, routes), abs=1e-6)


def test_first_captions() -> None:
    assert first_captions(torch.tensor([0, 0, 1, 2, 2]), 3).tolist() == [0, 2, 3]


def test_a_model_that_stands_still_keeps_all_neighbours(
    evaluator: Evaluator, clip: DualEncoder, tmp_path: Path
) -> None:
    method = lpi.method("zero_shot", clip)
    stability = Stability(evaluator, tmp_path / "run" / "stability")
    notes = [stability.note(method, stage) for stage in range(3)]
    assert notes[0] is None
    assert notes[1:] == [{"text_to_image": 1.0, "image_to_text": 1.0}] * 2
    assert stability.of_run(method) == {"text_to_image": 0.0, "image_to_text": 0.0}
    assert (tmp_path / "run" / "stability" / "worst_hit.json").read_text().count('"query"') == 0


def test_a_model_that_drifts_loses_neighbours_and_names_the_worst_hit(
    evaluator: Evaluator, clip: DualEncoder, stream: TaskStream, learn: Callable[..., Method], tmp_path: Path
) -> None:
    method = lpi.method("finetune", clip)
    stability = Stability(evaluator, tmp_path / "run" / "stability")
    ranks, note = [], None
    for stage, task in enumerate(stream.tasks):
        learn(method, [task], learning_rate=0.05)
        evaluator.stage(method, stage)
        note = stability.note(method, stage)
        ranks.append(first_ranks(evaluator, method, stage))
    assert note is not None
    assert note["text_to_image"] < 1
    stability.of_run(method)
    now = [first_ranks(evaluator, method, stage) for stage in range(3)]
    fallen = max(b - a for old, new in zip(ranks, now, strict=True) for a, b in zip(old, new, strict=True))
    worst = read_json(tmp_path / "run" / "stability" / "worst_hit.json")["text_to_image"]
    assert fallen > 0
    assert worst[0]["after"] - worst[0]["before"] == pytest.approx(fallen)
    assert [one["after"] - one["before"] for one in worst] == sorted(
        (one["after"] - one["before"] for one in worst), reverse=True
    )


def first_ranks(evaluator: Evaluator, method: Method, task: int) -> list[float]:
    """Text-to-image ranks of a task's captions among the pictures up to that task, one at a time."""
    test = evaluator.test
    images = method.encode_images(test.store.pixels(test.upto("vision", task + 1).tolist()))
    found = []
    for text in (test.task["text"] == task).nonzero()[:, 0].tolist():
        scores = images @ method.encode_texts([test.texts[text]])[0]
        right = [p for t, p in test.pairs.tolist() if t == text and p < len(images)]
        wrong = [p for p in range(len(images)) if p not in right]
        best = scores[right].max()
        found.append(float((scores[wrong] > best).sum()))
    return found


def test_neighbours_and_their_overlap() -> None:
    gallery = torch.eye(12)
    assert nearest(gallery[:1], gallery).shape == (1, 10)
    assert nearest(gallery[:2], gallery[:3])[:, 0].tolist() == [0, 1]
    assert neighbour_overlap(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 0], [2, 4]])) == 0.75


def test_a_score_with_routing_is_held_against_cosines_and_against_the_frozen_model_with_it(
    clip: DualEncoder, stream: TaskStream, learner: Method, small: dict[str, Any]
) -> None:
    plain, routed = (
        Evaluator(clip, stream, EvaluationSettings(scoring=scoring, routed_weight=0.5))
        for scoring in ("plain", "routed")
    )
    records = plain.stage(learner, 2), routed.stage(learner, 2)
    assert records[0].cosine is records[0].frozen is None
    assert records[1].cosine == records[0].seen
    untaught = lpi.method("lpi", clip, **{**small, "start": "neutral", "injection": "into"})
    for task in stream.tasks:
        learn_task(untaught, task, settings=TrainingSettings(epochs=0, device="cpu"))
    routed.reset()
    record = routed.stage(untaught, 2)
    assert record.frozen == record.seen  # a neutral start is the frozen model

    test = routed.test
    scores = {}
    for tower in TOWERS:
        looks = test.routing_features(learner, tower)
        distances = learner.router(tower, looks).distances
        scores[tower] = learner.router.posteriors(tower, distances)
        lost = learner.router(tower, looks).tasks == FALLBACK
        scores[tower][lost] = 3**-0.5  # of no task: agrees with all of them alike
    slow = test.frozen["text"] @ test.frozen["vision"].T + 0.5 * scores["text"] @ scores["vision"].T
    right = torch.zeros_like(slow, dtype=torch.bool)
    right[test.pairs[:, 0], test.pairs[:, 1]] = True
    best = slow.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    ranks = (((slow > best) & ~right).sum(1) + 0.5 * ((slow == best) & ~right).sum(1)).float()
    for task in range(3):
        own = ranks[test.task["text"] == task]
        assert records[1].frozen["t2i_r1"][task] == pytest.approx(float((own < 1).float().mean()))


def test_a_pair_of_which_the_sides_share_no_task_can_be_left_to_the_frozen_model(
    clip: DualEncoder, stream: TaskStream, learn: Any, small: dict[str, Any]
) -> None:
    options = {**small, "ood": "fallback", "ood_quantile": 0.5, "soft_tasks": 2}
    learner = learn(lpi.method("lpi", clip, **options), stream.tasks, learning_rate=0.5)
    settings = EvaluationSettings(scoring="routed", routed_weight=0.05, unrouted_score="frozen")
    evaluator = Evaluator(clip, stream, settings)
    record = evaluator.stage(learner, 2)
    test, shares, own, agreement, vectors = evaluator.test, {}, {}, {}, {}
    for tower in TOWERS:
        routing = learner.router(tower, test.routing_features(learner, tower))
        rows = torch.arange(test.count(tower))
        shares[tower] = torch.zeros(len(rows), 3)
        for row, (routes, weights) in enumerate(zip(routing.routes.tolist(), routing.weights.tolist(), strict=True)):
            for route, weight in zip(routes, weights, strict=True):
                if route != FALLBACK:
                    shares[tower][row, route] += weight
        vectors[tower] = [evaluator.under(learner, tower, rows, torch.full_like(rows, task)) for task in range(3)]
        agreement[tower] = torch.where((routing.tasks == FALLBACK)[:, None], 3**-0.5, routing.posteriors)
        own[tower] = evaluator.mixed(learner, tower, rows, routing.routes, routing.weights)
        lost = shares[tower].sum(dim=1) == 0
        assert 0 < float(lost.float().mean()) < 1
    common = [shares["text"][:, task, None] * shares["vision"][None, :, task] for task in range(3)]
    scores = (1 - sum(common)) * (test.frozen["text"] @ test.frozen["vision"].T)  # type: ignore[operator]
    for task, each in enumerate(common):
        scores += each * (vectors["text"][task] @ vectors["vision"][task].T)
    scores += 0.05 * agreement["text"] @ agreement["vision"].T
    features = evaluator.final(learner).features
    assert torch.allclose(features["text"] @ features["vision"].T, scores, atol=1e-5)
    assert record.cosine == evaluator.recall(
        {tower: torch.arange(test.count(tower)) for tower in TOWERS}, own, gallery="union"
    )
    assert record.seen != record.cosine


def test_a_score_of_matched_pairs_is_measured_everywhere_alike(
    clip: DualEncoder, stream: TaskStream, learn: Any, small: dict[str, Any], tmp_path: Path
) -> None:
    options = {**small, "metric": "whitened", "ood": "fallback", "ood_quantile": 0.5, "soft_tasks": 2}
    learner = learn(lpi.method("lpi", clip, **options), stream.tasks, learning_rate=0.5)
    settings = EvaluationSettings(scoring="routed", routed_weight=0.05, unrouted_score="matched", diagnostics=True)
    evaluator = Evaluator(clip, stream, settings)
    record = evaluator.stage(learner, 2)
    found, test, packed = evaluator.final(learner), evaluator.test, {}
    score = Matched(3, found.mixed["text"].shape[1], 0.05)
    for tower in TOWERS:
        routing = learner.router(tower, test.routing_features(learner, tower))
        rows = torch.arange(test.count(tower))
        assert 0 < float((routing.tasks == FALLBACK).float().mean()) < 1
        inside = learner.router.inside(tower, routing)
        assert ((inside < 0.5) == (routing.tasks == FALLBACK)).all()
        top = routing.posteriors.topk(2, dim=1)
        shares = torch.zeros(len(rows), 3).scatter(1, top.indices, top.values)
        shares = shares / shares.sum(dim=1, keepdim=True) * inside[:, None]
        shares = torch.where(shares < 0.01, 0.0, shares)
        vectors = torch.stack(
            [evaluator.under(learner, tower, rows, torch.full_like(rows, task)) for task in range(3)], dim=1
        )
        packed[tower] = score.pack(vectors, shares, test.frozen[tower], routing.posteriors, inside)
    slow = score(packed["text"], packed["vision"])
    torch.testing.assert_close(score(found.features["text"], found.features["vision"]), slow, atol=1e-5, rtol=1e-4)
    query = 3
    assert [place for place, _ in evaluator.top(found, "text_to_image", query)] == slow[query].topk(5).indices.tolist()
    assert protocols(evaluator, learner, 2)["pooled_routed"] == record.seen
    kept = Stability(evaluator, tmp_path)
    assert kept.note(learner, 2) is None  # nothing to compare with
    near = read_tensors(tmp_path / "002.safetensors")["text_to_image"]
    assert torch.equal(near[query].long(), slow[query].topk(near.shape[1]).indices)
    assert record.frozen != record.seen
    assert record.cosine != record.seen
