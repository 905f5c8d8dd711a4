"""Which task a query belongs to, and how near two tasks are: by loops and by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.errors import ConfigError, DataError
from lpi.prompts.task_keys import (
    FALLBACK,
    TaskKeys,
    euclidean,
    k_means,
    near_tasks,
    pairwise_distance,
    principal_spread,
    route,
    semantic_similarity,
    task_distances,
    task_posteriors,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keys(*centroids: list[float], radius: float = 1.0, scale: float = 1.0) -> TaskKeys:
    points = torch.tensor(centroids)
    return TaskKeys(
        points, torch.tensor(radius), torch.tensor(scale), points.new_empty(0, points.shape[1]), torch.tensor(1.0)
    )


# Distances ------------------------------------------------------------------------------------------------------------


def slow_distance(first: list[float], second: list[float], metric: str) -> float:
    if metric == "l1":
        return sum(abs(a - b) for a, b in zip(first, second, strict=True))
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return 1 - product / math.sqrt(sum(a * a for a in first)) / math.sqrt(sum(b * b for b in second))


@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_distances_are_the_plain_version(metric: Any) -> None:
    features, centres = draw(40, 6), draw(3, 6, seed=1)
    slow = [[slow_distance(f, c, metric) for c in centres.tolist()] for f in features.tolist()]
    torch.testing.assert_close(pairwise_distance(features, centres, metric), torch.tensor(slow), rtol=1e-4, atol=1e-5)


def test_a_distance_does_not_depend_on_how_many_are_asked_for() -> None:
    features, centres = draw(60, 512), draw(5, 512, seed=1)
    together = euclidean(features, centres)
    alone = torch.cat([euclidean(row[None], centres) for row in features])
    assert torch.equal(together, alone)


# k-means --------------------------------------------------------------------------------------------------------------


def test_k_means_finds_clusters_that_lie_apart() -> None:
    centres = 10 * draw(4, 8)
    points = torch.cat([centre + 0.1 * draw(20, 8, seed=3) for centre in centres])
    found = k_means(points, 4, generator=seeded())
    means = points.reshape(4, 20, 8).mean(1)
    assert torch.cdist(means, found).amin(dim=1).max() < 1e-4


def test_every_centroid_is_the_mean_of_its_points() -> None:
    points = draw(100, 6)
    found = k_means(points, 5, generator=seeded())
    nearest = torch.cdist(points, found).argmin(dim=1)
    for index in range(5):
        torch.testing.assert_close(found[index], points[nearest == index].mean(0), rtol=1e-4, atol=1e-5)


def test_fewer_points_than_clusters_are_their_own_centroids() -> None:
    points = draw(3, 6)
    assert torch.equal(k_means(points, 5, generator=seeded()), points)


@pytest.mark.parametrize("count", [8, 60])
def test_equal_points_make_no_more_centroids_than_there_are_points(count: int) -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(count // 2, 1)
    found = k_means(points, 5, generator=seeded())
    assert sorted(found.tolist()) == [[0.0, 1.0], [1.0, 0.0]]


def test_the_same_seed_gives_the_same_centroids() -> None:
    points = draw(80, 6)
    assert torch.equal(k_means(points, 5, generator=seeded(2)), k_means(points, 5, generator=seeded(2)))


def test_k_means_refuses_no_points_and_no_clusters() -> None:
    with pytest.raises(DataError, match="got none"):
        k_means(torch.empty(0, 4), 2, generator=seeded())
    with pytest.raises(ConfigError, match="got 0"):
        k_means(draw(4, 4), 0, generator=seeded())


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l1"])
@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
def test_the_radius_is_the_quantile_and_the_scale_the_mean_of_the_training_distances(
    metric: Any, quantile: float
) -> None:
    features = 3 * draw(50, 6)
    found = TaskKeys.fit(features, clusters=3, metric=metric, quantile=quantile, generator=seeded())
    unit = F.normalize(features, dim=1).tolist()
    distances = sorted(min(slow_distance(f, c, metric) for c in found.centroids.tolist()) for f in unit)
    place = quantile * 49
    low = math.floor(place)
    expected = distances[low] + (place - low) * (distances[min(low + 1, 49)] - distances[low])
    assert float(found.radius) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert float(found.scale) == pytest.approx(sum(distances) / 50, rel=1e-4)


def test_keys_refuse_a_quantile_out_of_range_and_an_unknown_metric() -> None:
    with pytest.raises(ConfigError, match=r"quantile must lie in \(0, 1\]; got 1.5"):
        TaskKeys.fit(draw(4, 4), clusters=2, metric="l1", quantile=1.5, generator=seeded())
    with pytest.raises(
        ConfigError, match=r"metric must be one of cosine, l1, whitened; got 'cosinus'. Did you mean 'cosine'"
    ):
        TaskKeys.fit(draw(4, 4), clusters=2, metric="cosinus", quantile=0.9, generator=seeded())


# Routing --------------------------------------------------------------------------------------------------------------


def test_a_query_goes_to_the_task_of_its_nearest_centroid() -> None:
    both = [keys([1.0, 0.0], [0.0, 1.0]), keys([-1.0, 0.0])]
    queries = torch.tensor([[5.0, 1.0], [0.1, 2.0], [-3.0, 0.5]])
    distances = task_distances(queries, both, "cosine")
    assert distances.shape == (3, 2)
    assert route(distances, both).tolist() == [0, 0, 1]


@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_routing_is_the_plain_version(metric: Any) -> None:
    tasks = [
        TaskKeys.fit(draw(30, 6, seed=s), clusters=3, metric=metric, quantile=0.9, generator=seeded()) for s in range(4)
    ]
    queries = draw(25, 6, seed=9)
    slow = []
    for query in F.normalize(queries, dim=1).tolist():
        nearest = [min(slow_distance(query, c, metric) for c in task.centroids.tolist()) for task in tasks]
        slow.append(nearest.index(min(nearest)))
    assert route(task_distances(queries, tasks, metric), tasks).tolist() == slow


def test_a_query_beyond_the_radius_of_its_nearest_task_falls_back() -> None:
    tasks = [keys([1.0, 0.0], radius=0.1), keys([0.0, 1.0], radius=0.5)]
    distances = torch.tensor([[0.1, 0.9], [0.11, 0.9], [0.8, 0.4], [0.9, 0.6]])
    assert route(distances, tasks, fall_back=True).tolist() == [0, FALLBACK, 1, FALLBACK]
    assert route(distances, tasks).tolist() == [0, 0, 1, 1]


def test_posteriors_are_a_softmax_in_units_of_the_average_training_distance() -> None:
    tasks = [keys([1.0, 0.0], scale=0.1), keys([0.0, 1.0], scale=0.3)]
    distances = torch.tensor([[0.2, 0.4]])
    found = task_posteriors(distances, tasks, temperature=0.5)
    ratio = math.exp(-(0.4 - 0.2) / (0.5 * 0.2))  # of the second to the first
    assert found[0].tolist() == pytest.approx([1 / (1 + ratio), ratio / (1 + ratio)])


def test_posteriors_of_tasks_without_spread_are_still_numbers() -> None:
    tasks = [keys([1.0, 0.0], scale=0.0), keys([0.0, 1.0], scale=0.0)]
    assert task_posteriors(torch.tensor([[0.2, 0.4]]), tasks)[0].tolist() == pytest.approx([1.0, 0.0])


# Semantics ------------------------------------------------------------------------------------------------------------


def slow_similarity(vectors: list[list[float]], centre: bool) -> list[list[float]]:
    if centre:
        means = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
        vectors = [[x - m for x, m in zip(vector, means, strict=True)] for vector in vectors]
    return [[1 - slow_distance(first, second, "cosine") for second in vectors] for first in vectors]


@pytest.mark.parametrize("centre", [True, False])
def test_semantic_similarity_is_the_plain_version(centre: bool) -> None:
    vectors = 1 + draw(5, 7)
    found = semantic_similarity(vectors, centre=centre)
    torch.testing.assert_close(found, torch.tensor(slow_similarity(vectors.tolist(), centre)), rtol=1e-4, atol=1e-5)


def test_a_single_task_is_not_centred_away() -> None:
    assert semantic_similarity(torch.tensor([[3.0, 4.0]])).tolist() == [[pytest.approx(1.0)]]


SIMILARITY = torch.tensor([[1.0, 0.9, 0.1, 0.4], [0.9, 1.0, 0.2, 0.5], [0.1, 0.2, 1.0, 0.3], [0.4, 0.5, 0.3, 1.0]])


def pairs(near: Tensor) -> set[tuple[int, int]]:
    assert torch.equal(near, near.T)
    assert near.diagonal().all()
    return {(i, j) for i in range(len(near)) for j in range(i) if near[i, j]}


def test_pairs_above_a_threshold_are_near() -> None:
    assert pairs(near_tasks(SIMILARITY, threshold=0.4)) == {(1, 0), (3, 1)}  # 0.4 itself is not above


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.2, 1), (0.3, 2), (0.5, 3), (1.0, 6)])
def test_a_share_of_the_pairs_is_near(share: float, expected: int) -> None:
    found = pairs(near_tasks(SIMILARITY, share=share))
    assert len(found) == expected
    ranked = [(1, 0), (3, 1), (3, 0), (3, 2), (2, 1), (2, 0)]
    assert found == set(ranked[:expected])


def test_twelve_tasks_have_thirteen_near_pairs_by_default() -> None:
    vectors = draw(12, 9)
    assert len(pairs(near_tasks(semantic_similarity(vectors)))) == round(0.2 * 66) == 13


def test_a_single_task_is_near_itself() -> None:
    assert near_tasks(torch.ones(1, 1)).tolist() == [[True]]


def test_the_whitened_metric_with_one_centroid_is_linear_discriminant_analysis() -> None:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 6, generator=generator)
    centres = torch.randn(3, 6, generator=generator)
    tasks = [
        torch.nn.functional.normalize(c + 0.3 * torch.randn(200, 6, generator=generator) @ mixing) for c in centres
    ]
    keys = [TaskKeys.fit(points, clusters=1, metric="whitened", quantile=0.99, generator=generator) for points in tasks]
    queries = torch.nn.functional.normalize(torch.randn(50, 6, generator=generator))
    covariance = torch.zeros(6, 6)
    for points in tasks:
        centred = points - points.mean(0)
        covariance += centred.T @ centred / len(points) / len(tasks)
    covariance += 0.05 * covariance.diagonal().mean() * torch.eye(6)
    inverse = torch.linalg.inv(covariance)
    slow = torch.zeros(50, 3)
    for row, query in enumerate(queries):
        for column, points in enumerate(tasks):
            difference = query - points.mean(0)
            slow[row, column] = (difference @ inverse @ difference).sqrt()
    torch.testing.assert_close(task_distances(queries, keys, "whitened"), slow, atol=1e-3, rtol=1e-3)


def test_a_low_rank_spread_keeps_the_largest_variances_and_levels_the_rest() -> None:
    points = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 1, 1, 1, 1, 1, 1])
    spread, rest = principal_spread(points, directions=2)
    assert spread.shape == (2, 8)
    rebuilt = spread.T @ spread + rest * torch.eye(8)
    true = torch.cov(points.T, correction=0)
    assert torch.linalg.eigvalsh(rebuilt)[-2:].tolist() == pytest.approx(
        torch.linalg.eigvalsh(true)[-2:].tolist(), rel=1e-4
    )
    assert float(rebuilt.trace()) == pytest.approx(float(true.trace()), rel=1e-4)


def test_tasks_that_do_not_spread_are_told_apart_by_plain_distance() -> None:
    points = torch.eye(4)[:2]
    keys = [
        TaskKeys.fit(point[None], clusters=5, metric="whitened", quantile=0.99, generator=seeded()) for point in points
    ]
    assert route(task_distances(points, keys, "whitened"), keys).tolist() == [0, 1]


def test_a_whitened_distance_does_not_depend_on_how_many_are_asked_for() -> None:
    tasks = [
        TaskKeys.fit(draw(40, 64, seed=s), clusters=5, metric="whitened", quantile=0.99, generator=seeded())
        for s in range(3)
    ]
    queries = draw(60, 64, seed=9)
    together = task_distances(queries, tasks, "whitened")
    alone = torch.cat([task_distances(query[None], tasks, "whitened") for query in queries])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_pictures_that_are_all_but_equal_do_not_spread() -> None:
    """Their covariance is rounding alone, of which an eigenvalue decomposition may not converge."""
    one = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=0)
    for noise in (0.0, 1e-8, 1e-20, 1e-38):
        points = one + noise * torch.randn(12, 64, generator=torch.Generator().manual_seed(1))
        spread, rest = principal_spread(points, 4)
        assert torch.isfinite(spread).all()
        assert float(rest) < 1e-6
