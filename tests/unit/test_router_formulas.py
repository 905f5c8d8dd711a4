"""Each router's arithmetic, by hand: what it keeps, how far a query is, which task it chooses; and its defaults."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from lpi.backbones import DualEncoder
from lpi.errors import ConfigError
from lpi.prompts.task_keys import FALLBACK, TaskKeys, own_distances
from lpi.routing import merged
from lpi.routing.base import Kept, Router, membership
from lpi.routing.learned import LearnedKeys
from lpi.routing.merged import MergedPrototypes, pair, tasks_behind
from lpi.routing.nearest import NearestKeys
from lpi.routing.reconstruction import Reconstruction, rebuilding_error
from lpi.routing.whitened import TEMPERATURES, UNKNOWN, WhitenedKeys

EVERY = {"depth_vision": 2 / 3, "depth_text": 0.0, "words": "plain"}
NEAREST = {**EVERY, "clusters": 5, "quantile": 0.97}
#: what the committed figures were made with, wherever a row doesn't say otherwise
DEFAULTS: dict[type[Router], dict[str, Any]] = {
    NearestKeys: {
        **NEAREST, "view": "features", "metric": "cosine", "out_of_domain": "nearest", "soft_tasks": 1,
        "posterior_temperature": 0.1,
    },
    WhitenedKeys: {
        **NEAREST, "view": "states", "metric": "whitened", "out_of_domain": "fallback", "soft_tasks": 3,
        "posterior_temperature": 0.0, "covariance_rank": 64, "clusters": 1, "reach": "average",
    },
    LearnedKeys: {
        **EVERY, "view": "features", "match_weight": 1.0, "key_start": "random", "posterior_temperature": 0.1,
    },
    MergedPrototypes: {
        **EVERY, "view": "features", "prototypes": 1, "margin": 0.05, "posterior_temperature": 0.1,
    },
    Reconstruction: {**EVERY, "view": "features", "hidden": 16, "out_of_domain": "fallback", "quantile": 0.99},
}  # fmt: skip


@pytest.fixture
def chance() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def made(kind: type[Router], clip: DualEncoder, **options: Any) -> Any:
    return kind(clip, kind.Options(**options))


def features_of(points: Tensor) -> Any:
    return lambda tower, view: points


@pytest.mark.parametrize("kind", DEFAULTS)
def test_the_defaults_are_those_of_the_figures(kind: type[Router]) -> None:
    assert asdict(kind.Options()) == DEFAULTS[kind]


# ---- every router ----------------------------------------------------------------------------------------------------


def test_what_belongs_to_no_task_belongs_to_all_alike() -> None:
    posteriors = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    found = membership(posteriors, torch.tensor([0, FALLBACK]))
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.1], [0.5**0.5, 0.5**0.5]]))
    assert membership(torch.empty(1, 0), torch.tensor([FALLBACK])).shape == (1, 0)


@pytest.mark.parametrize(
    ("view", "depth", "features"), [("features", None, True), ("states", 3, False), ("both", 3, True)]
)
def test_what_a_router_looks_at(view: str, depth: int | None, features: bool, clip: DualEncoder) -> None:
    router = made(NearestKeys, clip, view=view)
    router.depths = {"vision": 4, "text": 5}
    assert (router.look("vision").depth, router.look("vision").features) == (depth, features)
    assert router.look("text").depth == (None if view == "features" else 0)


def test_captions_are_routed_behind_placeholders_only_where_asked(clip: DualEncoder) -> None:
    plain, behind = (made(NearestKeys, clip, words=words) for words in ("plain", "placeholders"))
    plain.placeholders = behind.placeholders = 2
    assert (plain.wording("a dot"), behind.wording("a dot")) == ("a dot", "X X a dot")


def test_a_new_task_leaves_what_was_kept_of_the_others_alone(clip: DualEncoder, chance: torch.Generator) -> None:
    router = made(LearnedKeys, clip)
    for _ in range(2):
        router.begin_task(features_of(torch.eye(router.width)), chance)
    assert [[p.requires_grad for p in kept.parameters()] for kept in router.kept] == [[False] * 2, [True] * 2]
    assert len(router.newest()) == 2
    router.end_task(features_of(torch.eye(router.width)), chance)
    assert not any(p.requires_grad for p in router.parameters())
    assert made(LearnedKeys, clip).newest() == []


# ---- merged prototypes -----------------------------------------------------------------------------------------------


def test_two_merged_tasks_are_one_route_and_come_apart_again() -> None:
    assert pair(torch.tensor([3, 0]), torch.tensor([2, 0])).tolist() == [4002, 1000]
    assert [tasks_behind(route) for route in (3, 4002, 1000, 999, FALLBACK)] == [(3,), (3, 2), (0, 0), (999,), ()]


def test_the_two_nearest_are_merged_where_they_are_near_each_other(clip: DualEncoder) -> None:
    router = made(MergedPrototypes, clip)
    distances = torch.tensor([[0.10, 0.14, 0.5], [0.10, 0.16, 0.5], [0.5, 0.3, 0.26]])
    routes, weights = router.choose("vision", distances, distances, distances)
    assert routes.tolist() == [[0, 1], [0, 1], [2, 1]]
    assert weights.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]
    router.merges = True
    routes, weights = router.choose("vision", distances, distances, distances)
    assert (routes.tolist(), weights.tolist()) == ([[1001], [0], [3001]], [[1.0]] * 3)
    assert router.tasks_of(torch.tensor([1001, 0, 3001, 999, 1000])).tolist() == [0, 0, 2, 999, 0]
    routes, weights = router.choose("vision", distances, distances[:, :1], distances[:, :1])
    assert (routes.tolist(), weights.tolist()) == ([[0]] * 3, [[1.0]] * 3)


def test_more_tasks_than_routes_can_name_are_refused(
    clip: DualEncoder, chance: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "PAIR", 2)
    router = made(MergedPrototypes, clip)
    for _ in range(2):
        router.begin_task(features_of(torch.eye(4)), chance)
    with pytest.raises(ConfigError, match="at most 2 tasks"):
        router.begin_task(features_of(torch.eye(4)), chance)


def test_a_prototype_is_the_mean_feature_and_posteriors_are_sharpened(
    clip: DualEncoder, chance: torch.Generator
) -> None:
    router = made(MergedPrototypes, clip)
    for points in (torch.eye(4)[:2], torch.eye(4)[2:]):
        router.begin_task(features_of(points), chance)
        router.end_task(features_of(points), chance)
    distances = router.distances("vision", torch.eye(4)[:1])
    torch.testing.assert_close(distances, torch.tensor([[1 - 0.5**0.5, 1.0]]))
    assert router.posteriors("vision", distances)[0, 0] > 0.99


# ---- auto-encoders ---------------------------------------------------------------------------------------------------


def test_an_error_is_what_the_directions_cannot_rebuild() -> None:
    points = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    mean, directions = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[0.0, 1.0, 0.0]])
    assert rebuilding_error(points, mean, directions).tolist() == [3.0, 0.0]


def test_an_auto_encoder_has_no_more_directions_than_its_task_has_pictures(
    clip: DualEncoder, chance: torch.Generator
) -> None:
    router, points = made(Reconstruction, clip), torch.eye(8)[:3]
    router.begin_task(features_of(points), chance)
    router.end_task(features_of(points), chance)
    kept = router.task_state(0)
    assert kept["directions_vision"].shape == (3, 8)
    torch.testing.assert_close(kept["mean_vision"], points.mean(0))
    assert float(kept["radius_vision"]) > 0.9  # none is rebuilt by the others
    assert router.distances("vision", 5 * points).max() < 1e-6  # only directions count
    assert float(router.distances("vision", torch.eye(8)[7:])) > 0.9


def test_an_auto_encoder_keeps_the_directions_in_which_its_points_differ_most(
    clip: DualEncoder, chance: torch.Generator
) -> None:
    # around a mean that is far from nothing, or else the first direction would be that of the mean
    points = torch.nn.functional.normalize(torch.randn(40, 8, generator=chance) + 4 * torch.eye(8)[0], dim=1)
    router = made(Reconstruction, clip, hidden=2, quantile=0.5)
    router.begin_task(features_of(points), chance)
    router.end_task(features_of(points), chance)
    centred = (points - points.mean(0)).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:]
    errors = (centred - centred @ directions @ directions.T).norm(dim=1).float()
    torch.testing.assert_close(router.distances("vision", 3 * points)[:, 0], errors, rtol=1e-4, atol=1e-5)


def test_what_no_task_rebuilds_as_well_as_in_training_falls_back(clip: DualEncoder) -> None:
    router = made(Reconstruction, clip)
    router.kept = torch.nn.ModuleList(
        Kept({f"{part}_vision": value for part, value in (("radius", torch.tensor(radius)),)}) for radius in (0.5, 0.1)
    )
    distances = torch.tensor([[0.5, 0.6], [0.6, 0.7], [0.4, 0.2], [0.4, 0.1]])
    routes, weights = router.choose("vision", distances, distances, distances)
    assert (routes.tolist(), weights.tolist()) == ([[0], [FALLBACK], [FALLBACK], [1]], [[1.0]] * 4)
    unit = (0.25 + 0.01) / 2
    expected = (-torch.tensor([[0.25, 0.36]]) / unit).softmax(1)
    torch.testing.assert_close(router.posteriors("vision", distances[:1]), expected)
    nearest = made(Reconstruction, clip, out_of_domain="nearest")
    nearest.kept = router.kept
    assert nearest.choose("vision", distances, distances, distances)[0].tolist() == [[0], [0], [1], [1]]


# ---- learned keys ----------------------------------------------------------------------------------------------------


def test_a_key_begins_at_the_mean_or_at_random_and_is_pulled(clip: DualEncoder, chance: torch.Generator) -> None:
    points = torch.nn.functional.normalize(torch.rand(6, clip.feature_width, generator=chance), dim=1)
    router = made(LearnedKeys, clip, key_start="mean", match_weight=3.0)
    router.begin_task(features_of(points), chance)
    assert len(router.kept) == 1
    key = router.kept[0]["key_vision"]
    torch.testing.assert_close(key, torch.nn.functional.normalize(points.mean(0), dim=0))
    distances = router.distances("vision", 4 * points)
    torch.testing.assert_close(distances[:, 0], 1 - points @ key)
    pulled = router.losses(points[:2], points[2:])
    torch.testing.assert_close(pulled["match"], 3 * (distances[:2].mean() + distances[2:].mean()))
    assert pulled["match"].requires_grad
    drawn = made(LearnedKeys, clip)
    drawn.begin_task(features_of(points), chance)
    assert drawn.kept[0]["key_text"].norm().item() == pytest.approx(1)
    assert not torch.equal(drawn.kept[0]["key_text"], drawn.kept[0]["key_vision"])
    torch.testing.assert_close(
        router.posteriors("vision", torch.tensor([[0.1, 0.3]])), torch.tensor([[-1.0, -3.0]]).softmax(1)
    )
    with pytest.raises(ConfigError, match="view must be 'features'; got 'states'"):
        LearnedKeys.Options(view="states").check()


def test_what_comes_back_of_learned_keys_learns_no_more(clip: DualEncoder, chance: torch.Generator) -> None:
    router = made(LearnedKeys, clip)
    router.begin_task(features_of(torch.eye(clip.feature_width)), chance)
    again = made(LearnedKeys, clip)
    again.restore([router.task_state(0)])
    assert torch.equal(again.kept[0]["key_text"], router.kept[0]["key_text"])
    assert [p.requires_grad for p in again.parameters()] == [False, False]


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_likeliest_tasks_share_a_query_and_what_falls_back_has_one_alone(clip: DualEncoder) -> None:
    router = made(NearestKeys, clip, soft_tasks=2, clusters=1, out_of_domain="fallback", quantile=1.0)
    near = torch.tensor([[1.0, 0, 0, 0], [0.99, 0.1, 0, 0]])
    chance = torch.Generator().manual_seed(0)
    for turned in (near, near.flip(1), near.roll(1, 1)):
        points = torch.nn.functional.normalize(turned, dim=1)
        router.begin_task(features_of(points), chance)
        router.end_task(features_of(points), chance)
    found = router("vision", torch.eye(4)[[0, 2]])
    assert found.routes[0].tolist()[0] == 0
    assert found.weights.shape == (2, 2)
    first = found.posteriors[0].topk(2).values
    torch.testing.assert_close(found.weights[0], first / first.sum())
    posteriors = torch.tensor([[0.2, 0.5, 0.3]])
    routes, weights = router.choose("vision", found.features[:1], found.distances[:1], posteriors)
    assert routes.tolist() == [[1, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.3]]) / 0.8)
    assert found.routes[1].tolist() == [FALLBACK, FALLBACK]
    assert found.weights[1].tolist() == [1.0, 0.0]
    alone = made(NearestKeys, clip, soft_tasks=1)
    alone.kept = router.kept
    assert alone("vision", torch.eye(4)[:1]).weights.tolist() == [[1.0]]


def test_a_whitening_is_made_anew_only_for_other_tasks(clip: DualEncoder, chance: torch.Generator) -> None:
    router = made(WhitenedKeys, clip, clusters=1, covariance_rank=2, view="features")
    points = [torch.nn.functional.normalize(torch.rand(12, 6, generator=chance), dim=1) for _ in range(3)]

    def taught(number: int) -> Tensor:
        router.begin_task(features_of(points[number]), chance)
        router.end_task(features_of(points[number]), chance)
        return router._whitening("vision", router.keys("vision"))

    first = taught(0)
    assert router._whitening("vision", router.keys("vision")) is first
    second = taught(1)
    assert second is not first
    assert router._whitening("text", router.keys("text")) is not second
    router.forget(0)
    assert router._whitening("vision", router.keys("vision")) is not second
    kept = router._whitening("vision", router.keys("vision"))
    router.kept[0].spread_vision = router.kept[0].spread_vision.clone()
    assert router._whitening("vision", router.keys("vision")) is not kept


def test_a_single_picture_makes_a_task_of_a_whitened_router(clip: DualEncoder, chance: torch.Generator) -> None:
    router = made(WhitenedKeys, clip, clusters=1, covariance_rank=2, view="features")
    points = torch.nn.functional.normalize(torch.rand(1, 6, generator=chance), dim=1)
    router.begin_task(features_of(points), chance)
    router.end_task(features_of(points), chance)
    assert torch.isfinite(router.task_state(0)["radius_vision"])


def test_a_distance_in_units_of_a_tasks_own_spread_is_mahalanobis(chance: torch.Generator) -> None:
    points = torch.nn.functional.normalize(torch.randn(40, 6, generator=chance), dim=1)
    keys = TaskKeys.fit(points, clusters=2, directions=3, metric="whitened", quantile=1.0, generator=chance)
    covariance = keys.spread.double().T @ keys.spread.double() + keys.rest.double() * torch.eye(6)
    covariance += 0.05 * covariance.diagonal().mean() * torch.eye(6)
    queries = torch.randn(7, 6, generator=chance)
    units = torch.nn.functional.normalize(queries, dim=1).double()
    away = units[:, None] - keys.centroids.double()
    slow = torch.einsum("qci,ij,qcj->qc", away, torch.linalg.inv(covariance), away).amin(dim=1).sqrt()
    torch.testing.assert_close(own_distances(queries, keys).double(), slow, rtol=1e-4, atol=1e-4)


def test_what_a_task_reaches_by_its_own_spread_stays_as_tasks_arrive(
    clip: DualEncoder, chance: torch.Generator
) -> None:
    def drawn(centre: int, count: int, wide: float) -> Tensor:
        points = 0.1 * torch.randn(count, 6, generator=chance)
        points[:, 5] *= wide
        points[:, centre] += 2
        return torch.nn.functional.normalize(points, dim=1)

    own, average = (
        made(WhitenedKeys, clip, covariance_rank=2, view="features", reach=reach, quantile=0.99)
        for reach in ("own", "average")
    )
    narrow, wide, odd = drawn(0, 200, 1.0), drawn(1, 200, 8.0), drawn(0, 200, 5.0)
    states = torch.get_rng_state()
    for router in (own, average):
        for points in (narrow, wide):
            router.begin_task(features_of(points), torch.Generator().manual_seed(0))
            router.end_task(features_of(points), torch.Generator().manual_seed(0))
    assert torch.equal(states, torch.get_rng_state())
    radius = own.task_state(0)["radius_vision"]
    share = (own_distances(narrow, own.keys("vision")[0]) > radius).float().mean()
    assert share < 0.02  # so few of the task's own are far, at a quantile of 0.99
    fresh = own("vision", drawn(0, 500, 1.0))
    assert (fresh.tasks == FALLBACK).float().mean() < 0.05
    # what lies oddly for the narrow task lies well within what tasks spread on average
    lost_own, lost_average = ((router("vision", odd).tasks == FALLBACK).float().mean() for router in (own, average))
    assert lost_own > lost_average + 0.2
    assert torch.equal(own.distances("vision", odd), average.distances("vision", odd))
    first = own.stage(0)
    lost, still = first("vision", odd).tasks == FALLBACK, own("vision", odd).tasks == FALLBACK
    assert (lost == still)[own("vision", odd).distances.argmin(dim=1) == 0].all()
    near = made(WhitenedKeys, clip, covariance_rank=2, view="features", reach="own", out_of_domain="nearest")
    near.kept = own.kept
    assert (near("vision", odd).tasks != FALLBACK).all()


def test_the_temperature_is_the_one_under_which_unseen_items_are_likeliest_to_belong_where_they_do(
    clip: DualEncoder, chance: torch.Generator
) -> None:
    def drawn(centre: int, count: int, apart: float) -> Tensor:
        points = torch.randn(count, 6, generator=chance)
        points[:, centre] += apart
        return torch.nn.functional.normalize(points, dim=1)

    chosen = {}
    for apart in (0.7, 20.0):
        router = made(WhitenedKeys, clip, clusters=1, covariance_rank=2, view="features")
        for centre in range(2):
            points = drawn(centre, 64, apart)
            router.begin_task(features_of(points), chance)
            router.end_task(features_of(points), chance)
            if centre == 0:
                assert router.calibrated("vision") == UNKNOWN  # one task can't be confused
                assert not router.task_state(0)["likely_vision"].any()
        fresh = [drawn(centre, 500, apart) for centre in range(2)]
        distances = router.distances("vision", torch.cat(fresh))
        true = torch.arange(2).repeat_interleave(500)
        likely = {
            each: float((-distances.square() / (20 * each)).log_softmax(dim=1).gather(1, true[:, None]).mean())
            for each in TEMPERATURES
        }
        chosen[apart] = router.calibrated("vision")
        best = sorted(likely, key=lambda each: -likely[each])[:2]
        assert chosen[apart] in best or likely[chosen[apart]] == pytest.approx(likely[best[0]], abs=0.02)
        expected = (-distances.square() / (20 * chosen[apart])).softmax(dim=1)
        torch.testing.assert_close(router.posteriors("vision", distances), expected)
        own = made(WhitenedKeys, clip, clusters=1, covariance_rank=2, view="features", posterior_temperature=0.4)
        own.kept = router.kept
        torch.testing.assert_close(own.posteriors("vision", distances), (-distances.square() / 8).softmax(dim=1))
    assert chosen[0.7] > chosen[20.0]
