"""The rotation between the vectors of two models, and how scores over it are read beside those of new vectors."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lpi.search.best import in_order
from lpi.search.pair import Bridge, Scale, enough, merged, scale_like
from lpi.search.table import Row


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Vectors of length 1."""
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(dim=0)


def rotation(width: int, seed: int = 9) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]


def test_the_rotation_is_scipys() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is an extra: grounding")
    new, old = centred(drawn(50, 12)), centred(drawn(50, 12, seed=1))
    theirs, _ = linalg.orthogonal_procrustes(new.double().numpy(), old.double().numpy())
    assert torch.allclose(Bridge.learn(new, old).rotation, torch.from_numpy(theirs).float(), atol=1e-5)


@pytest.mark.parametrize(("new", "old"), [(12, 8), (8, 12)])
def test_between_widths_it_loses_as_little_as_scipys_on_padded_spaces(new: int, old: int) -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is an extra: grounding")
    bridge = Bridge.learn(centred(drawn(50, new)), centred(drawn(50, old, seed=1)))
    padded = [functional.pad(own, (0, max(new, old) - own.shape[1])).double() for own in (bridge.new, bridge.old)]
    best, _ = linalg.orthogonal_procrustes(padded[0].numpy(), padded[1].numpy())
    assert float(((bridge.new @ bridge.rotation).double() * bridge.old).sum()) == pytest.approx(
        float((padded[0] @ torch.from_numpy(best) * padded[1]).sum()), rel=1e-5
    )
    turned = bridge.rotation
    product = turned @ turned.T if new < old else turned.T @ turned
    assert torch.allclose(product, torch.eye(min(new, old)), atol=1e-5)


def test_between_rotated_spaces_every_score_is_kept() -> None:
    pictures = drawn(300, 16)
    bridge = Bridge.learn(pictures, pictures @ rotation(16))
    shifted = Bridge.learn(pictures, pictures @ rotation(16) + drawn(16, seed=2))
    assert torch.allclose(shifted.rotation, bridge.rotation, atol=1e-5), "a shift moves all scores of a query alike"
    gallery = drawn(75, 16, seed=3)
    for unseen in drawn(20, 16, seed=5):
        over, scale = bridge.carry(unseen)
        assert torch.allclose(gallery @ rotation(16) @ over, gallery @ unseen, atol=1e-4)
        assert (scale.slope, scale.offset) == (pytest.approx(1.0, abs=1e-3), pytest.approx(0.0, abs=1e-3))
        assert float(over.norm()) == pytest.approx(1.0, abs=1e-5)


def test_scores_are_brought_to_the_others_mean_and_spread() -> None:
    found = torch.rand(200, generator=torch.Generator().manual_seed(0))
    scale = scale_like(found, 1.5 * found - 0.2)
    assert (scale.slope, scale.offset) == (pytest.approx(1.5, abs=1e-4), pytest.approx(-0.2, abs=1e-4))
    assert scale_like(found, -found).slope > 0
    assert scale_like(torch.zeros(3), torch.ones(3))(0.0) == pytest.approx(1.0)


def test_half_of_the_pictures_or_a_thousand_are_enough_to_learn_from() -> None:
    assert [enough(ready, 120) for ready in (59, 60)] == [False, True]
    assert [enough(ready, 10**6) for ready in (999, 1000)] == [False, True]
    assert not enough(19, 30)


def rows(ids: str, scores: Tensor) -> list[Row]:
    return in_order([{"id": key, "score": score} for key, score in zip(ids, scores.tolist(), strict=True)])


@pytest.mark.parametrize("k", [1, 3, 10, 30])
def test_two_tables_are_searched_as_one(k: int) -> None:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    chance = torch.Generator().manual_seed(k)
    for count, equal in itertools.product((0, 1, 13, 40, 52), (False, True)):
        scores = torch.rand(2, 52, generator=chance)
        scores = (scores * 4).round() / 4 if equal else scores
        new = letters[:count]
        everything = rows(letters, scores[1])
        expected = in_order(
            [*rows(new, scores[0][:count]), *rows(letters[count:], 0.5 * scores[1][count:].double() + 0.1)]
        )
        found = merged(
            rows(new, scores[0][:count])[:k],
            k,
            lambda wanted, everything=everything: everything[:wanted],
            Scale(0.5, 0.1),
            lambda ids, new=new: set(new) & set(ids),
        )
        assert [row["id"] for row in found] == [row["id"] for row in expected[:k]]
