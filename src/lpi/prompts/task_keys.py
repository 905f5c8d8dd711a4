"""Which task does a query belong to, and how near are two tasks: k-means keys and semantic similarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.errors import ConfigError, DataError, check_choice

Metric = Literal["cosine", "l1", "whitened"]
DIRECTIONS = 16  # of a task's spread that are kept for the whitened distance
RIDGE = 0.05  # of the mean variance, added to each direction of a covariance
FALLBACK = -1  # the route of a query that is far from every task: the frozen backbone


def pairwise_distance(features: Tensor, centres: Tensor, metric: Metric) -> Tensor:
    """Distance of each feature to each centre, [features, centres]; cosine distance is 1 - cosine."""
    if metric == "cosine":
        return 1 - F.normalize(features, dim=-1) @ F.normalize(centres, dim=-1).T
    return torch.cdist(features, centres, p=1.0)


def euclidean(features: Tensor, centres: Tensor) -> Tensor:
    """L2 distances, [features, centres], by their definition.

    By way of a matrix product, as torch does it from 26 rows on, equal points come out a thousandth apart and a
    distance depends on how many are asked for.
    """
    return torch.cdist(features, centres, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")


def k_means(points: Tensor, clusters: int, *, generator: torch.Generator, iterations: int = 100) -> Tensor:
    """Centroids of a k-means++ start followed by Lloyd's iterations, [clusters, width].

    With fewer points than clusters every point is its own centroid. A cluster that loses all its points takes the
    point that is farthest from its centroid.

    Args:
        points: [points, width].
        clusters: how many centroids, at least 1.
        generator: decides the start.
        iterations: at most so many rounds; it stops when no point changes cluster.

    Raises:
        DataError: there is no point.
        ConfigError: ``clusters`` is below 1.
    """
    if clusters < 1:
        raise ConfigError(f"clusters must be at least 1; got {clusters}.")
    if len(points) == 0:
        raise DataError("k-means needs at least one point; got none.")
    if len(points) <= clusters:
        return points.clone()
    centroids = points[torch.randint(len(points), (1,), generator=generator)]
    for _ in range(clusters - 1):
        squared = euclidean(points, centroids).square().amin(dim=1)
        if float(squared.sum()) == 0.0:  # only copies of the chosen points are left
            return centroids
        pick = torch.multinomial(squared / squared.sum(), 1, generator=generator)
        centroids = torch.cat([centroids, points[pick]])
    assigned = torch.full((len(points),), -1)
    for _ in range(iterations):
        distance, nearest = euclidean(points, centroids).min(dim=1)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        counts = torch.bincount(assigned, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, assigned, points)
        centroids = sums / counts.clamp(min=1)[:, None]
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            farthest = int(distance.argmax())
            centroids[empty], distance[farthest] = points[farthest], 0.0
    return centroids


@dataclass(frozen=True)
class TaskKeys:
    """The keys of one task in one tower: k-means centroids of its frozen, L2-normalised training features.

    Attributes:
        centroids: [clusters, features].
        radius: the chosen quantile of the training features' distances to their nearest centroid, scalar; whitened
            distances depend on the other tasks, so for them it is what the owner of the keys put in.
        scale: the mean of those distances, scalar; the unit in which a posterior measures.
        spread: the task's principal directions, each times the square root of what its variance exceeds ``rest``
            by, [directions, features]; empty unless the metric is ``whitened``.
        rest: variance in all other directions, scalar.
    """

    centroids: Tensor
    radius: Tensor
    scale: Tensor
    spread: Tensor
    rest: Tensor

    @classmethod
    def fit(
        cls,
        features: Tensor,
        *,
        clusters: int,
        metric: Metric,
        quantile: float,
        generator: torch.Generator,
        directions: int = DIRECTIONS,
    ) -> "TaskKeys":
        """Keys of a task from its training features, [pictures or captions, features].

        For the whitened metric, ``directions`` of the task's spread are kept.

        Paper: S-Prompts (arXiv 2207.12819), section 3.4, as LPI uses it; one set a tower.
        """
        check_choice("metric", metric, Metric)
        if not 0.0 < quantile <= 1.0:
            raise ConfigError(f"quantile must lie in (0, 1]; got {quantile}.")
        points = F.normalize(features.float(), dim=-1)
        centroids = k_means(points, clusters, generator=generator)
        near = pairwise_distance(points, centroids, plain_metric(metric)).amin(dim=1)
        if metric == "whitened":
            spread, rest = principal_spread(points, directions)
            spread = spread.half()  # half the file, and far finer than a covariance from a few hundred points
        else:
            spread, rest = points.new_empty(0, points.shape[1]), points.new_zeros(())
        return cls(centroids, near.quantile(quantile), near.mean(), spread, rest)


def plain_metric(metric: Metric) -> Metric:
    """The metric of radius and scale: whitening changes as tasks arrive, so those are kept in cosine distance."""
    return "cosine" if metric == "whitened" else metric


def principal_spread(points: Tensor, directions: int = DIRECTIONS) -> tuple[Tensor, Tensor]:
    """A covariance as a few scaled principal directions [directions, features] and one variance for the rest, scalar.

    ``spread.T @ spread + rest * I`` is the covariance of the points with all but its largest variances levelled.
    """
    centred = points - points.mean(dim=0)
    covariance = centred.T @ centred / len(points)
    try:
        variances, basis = torch.linalg.eigh(covariance)  # rising
    except RuntimeError:  # points that are all but equal: what they differ in is rounding
        variances, basis = torch.linalg.eigh(torch.where(covariance.abs() < 1e-9, 0.0, covariance))
    kept = min(directions, points.shape[1])
    others = variances[: points.shape[1] - kept]
    rest = others.mean().clamp(min=0) if len(others) else variances.new_zeros(())
    scales = (variances[-kept:] - rest).clamp(min=0).sqrt()
    return scales[:, None] * basis[:, -kept:].T, rest


def own_distances(features: Tensor, key: TaskKeys, *, ridge: float = RIDGE) -> Tensor:
    """Distance of each query to the nearest centroid of one task, in units of that task's own spread, [queries].

    The Mahalanobis distance under ``spread.T @ spread + (rest + ridge * mean variance) * I``. What other tasks there
    are doesn't change it.

    Args:
        features: frozen, [queries, features].
        key: of the task.
        ridge: see :func:`whitening`.
    """
    points = F.normalize(features.float(), dim=-1)
    spread, rest, width = key.spread.float(), float(key.rest), points.shape[1]
    variances = spread.square().sum(dim=1)
    level = rest + max(ridge * (float(variances.sum()) / width + rest), 1e-6)
    along = F.normalize(spread, dim=1)
    squared = []
    for centre in key.centroids:
        away = points - centre
        inside = (away @ along.T).square()
        outside = (away.square().sum(dim=1) - inside.sum(dim=1)).clamp(min=0)
        squared.append(outside / level + (inside / (variances + level)).sum(dim=1))
    return torch.stack(squared).amin(dim=0).sqrt()


def whitening(keys: Sequence[TaskKeys], *, ridge: float = RIDGE) -> Tensor:
    """The map [features, features] under which the tasks' average spread is the same in every direction.

    What varies inside every task (style, place) says little about which task it is; dividing by it is what linear
    discriminant analysis does. The tasks count equally; ``ridge`` times the mean variance is added to each direction.
    """
    width = keys[0].centroids.shape[1]
    covariance = torch.zeros(width, width)
    for key in keys:
        covariance += key.spread.float().T @ key.spread.float() / len(keys)
    covariance.diagonal().add_(sum(float(key.rest) for key in keys) / len(keys))
    # tasks of a single picture or caption don't spread at all: then every direction counts the same
    covariance.diagonal().add_((ridge * covariance.diagonal().mean()).clamp(min=1e-6))
    white: Tensor = torch.linalg.cholesky(torch.linalg.inv(covariance))
    return white


def task_distances(
    features: Tensor, keys: Sequence[TaskKeys], metric: Metric, *, white: Tensor | None = None
) -> Tensor:
    """Distance of each query to the nearest centroid of each task, [queries, tasks].

    Args:
        features: frozen, [queries, features].
        keys: of each task.
        metric: ``cosine``, ``l1``, or ``whitened``: L2 after :func:`whitening`.
        white: what :func:`whitening` gives for these keys, where it is known already.
    """
    points = F.normalize(features.float(), dim=-1)
    if metric != "whitened":
        return torch.stack([pairwise_distance(points, key.centroids, metric).amin(dim=1) for key in keys], dim=1)
    white = whitening(keys) if white is None else white
    moved = points @ white
    return torch.stack([euclidean(moved, key.centroids @ white).amin(dim=1) for key in keys], dim=1)


def route(distances: Tensor, keys: Sequence[TaskKeys], *, fall_back: bool = False) -> Tensor:
    """The nearest task of each query, int64 [queries]; FALLBACK where it lies beyond that task's radius (if asked).

    Args:
        distances: of each query to each task, [queries, tasks].
        keys: of each task.
        fall_back: whether queries may belong to no task.
    """
    task = distances.argmin(dim=1)
    if fall_back:
        own = distances.gather(1, task[:, None])[:, 0]
        radius = torch.stack([key.radius for key in keys])
        task = torch.where(own > radius[task], torch.full_like(task, FALLBACK), task)
    return task


def task_posteriors(
    distances: Tensor, keys: Sequence[TaskKeys], *, metric: Metric = "cosine", temperature: float = 0.1
) -> Tensor:
    """How likely each task is for each query, [queries, tasks], rows sum to 1.

    A softmax of the negative distances, in units of the tasks' average training distance (one unit for all tasks:
    each its own would favour the spread-out ones). Whitened distances have a unit of their own: there it is the
    softmax of -distance^2 / 2, the posterior of equal Gaussians, with ten times the temperature.
    """
    if metric == "whitened":
        return (-distances.square() / (20 * temperature)).softmax(dim=1)
    unit = torch.stack([key.scale for key in keys]).mean().clamp(min=1e-6)
    return (-distances / (temperature * unit)).softmax(dim=1)


def semantic_similarity(vectors: Tensor, *, centre: bool = True) -> Tensor:
    """Cosine similarity of the tasks' mean features, [tasks, tasks].

    The means of a CLIP-like model all lie close together, so by default they are first centred on the mean of the
    tasks seen.
    """
    if centre and len(vectors) > 1:
        vectors = vectors - vectors.mean(dim=0, keepdim=True)
    directions = F.normalize(vectors, dim=-1)
    return directions @ directions.T


def near_tasks(similarity: Tensor, *, threshold: float | None = None, share: float = 0.2) -> Tensor:
    """Which pairs of tasks count as near, bool [tasks, tasks], the diagonal included.

    Args:
        similarity: [tasks, tasks].
        threshold: pairs above it are near (the authors: 0.4 on their similarity). ``None`` takes the quantile that
            marks ``share`` of the pairs.
        share: share of pairs to mark when no threshold is given, in [0, 1].
    """
    tasks = len(similarity)
    own = torch.eye(tasks, dtype=torch.bool)
    if tasks < 2:
        return own
    if threshold is not None:
        return (similarity > threshold) | own
    first, second = torch.triu_indices(tasks, tasks, offset=1)
    pairs = similarity[first, second]
    count = round(share * len(pairs))
    near = torch.zeros_like(own)
    chosen = pairs.argsort(descending=True, stable=True)[:count]
    near[first[chosen], second[chosen]] = True
    return near | near.T | own
