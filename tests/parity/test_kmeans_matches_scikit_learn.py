"""One run of our k-means comes close to the best of scikit-learn's restarts."""

import pytest
import torch
import torch.nn.functional as F

from lpi.prompts.task_keys import k_means

cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is not installed")


def inertia(points: torch.Tensor, centroids: torch.Tensor) -> float:
    return float(torch.cdist(points.double(), centroids.double()).square().amin(dim=1).sum())


@pytest.mark.parametrize("kind", ["blobs", "cloud", "sphere"])
@pytest.mark.parametrize("clusters", [2, 5])
def test_the_inertia_is_close_to_the_best(kind: str, clusters: int) -> None:
    generator = torch.Generator().manual_seed(clusters)
    points = torch.randn(300, 16, generator=generator)
    if kind == "blobs":
        points = 0.2 * points + torch.randn(clusters, 16, generator=generator).repeat(300 // clusters, 1)
    elif kind == "sphere":
        points = F.normalize(points + 2, dim=1)
    best = cluster.KMeans(clusters, n_init=20, random_state=0).fit(points.numpy()).inertia_
    ours = [inertia(points, k_means(points, clusters, generator=torch.Generator().manual_seed(s))) for s in range(10)]
    assert min(ours) <= 1.005 * best
    assert sorted(ours)[5] <= 1.05 * best
