"""Maps between the vectors of two models, and how scores over them are read."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lpi.errors import CheckpointError, DataError, MissingFileError, ShapeError, UnknownNameError
from lpi.search.best import in_order, merged
from lpi.search.bridge import KINDS, Bridge, Lesson, Pairs, disagreement, kept_at, learn_bridge
from lpi.search.crossing import Crossing, Scale, load_crossing, save_crossing, scale_like
from lpi.search.sample import Sample, order_of_gain, parts, sampled
from lpi.storage import read_json, write_json


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Vectors of length 1."""
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def rotation(width: int, seed: int = 9) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]


def lessons(pictures: Pairs, words: Pairs | None = None) -> tuple[Lesson, Lesson]:
    """Three quarters to learn from, the rest to decide by."""
    words = pictures[torch.arange(0)] if words is None else words
    parts = []
    for own in (pictures, words):
        rows, cut = torch.arange(len(own)), 3 * len(own) // 4
        parts.append((own[rows[:cut]], own[rows[cut:]]))
    return Lesson(parts[0][0], parts[1][0]), Lesson(parts[0][1], parts[1][1])


def kept(bridge: Bridge, queries: Tensor, pictures: Pairs) -> float:
    return kept_at(10, bridge(queries) @ pictures.old.T, queries @ pictures.new.T)


# ---- the three kinds -------------------------------------------------------------------------------------------------


def test_procrustes_is_scipys() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is an extra: grounding")
    lesson, held_out = lessons(Pairs(drawn(50, 12), drawn(50, 12, seed=1)))
    ours = learn_bridge("procrustes", lesson, held_out).tensors()["rotation"]
    theirs, _ = linalg.orthogonal_procrustes(lesson.pictures.new.double().numpy(), lesson.pictures.old.double().numpy())
    assert torch.allclose(ours, torch.from_numpy(theirs).float(), atol=1e-5)


@pytest.mark.parametrize(("new", "old"), [(12, 8), (8, 12)])
def test_procrustes_between_widths_loses_as_little_as_scipys_on_padded_spaces(new: int, old: int) -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is an extra: grounding")
    lesson, held_out = lessons(Pairs(drawn(50, new), drawn(50, old, seed=1)))
    pictures = lesson.pictures
    bridge = learn_bridge("procrustes", lesson, held_out)
    padded = [functional.pad(own, (0, max(new, old) - own.shape[1])).double() for own in (pictures.new, pictures.old)]
    best, _ = linalg.orthogonal_procrustes(padded[0].numpy(), padded[1].numpy())
    assert float((bridge.map(pictures.new).double() * pictures.old).sum()) == pytest.approx(
        float((padded[0] @ torch.from_numpy(best) * padded[1]).sum()), rel=1e-5
    )
    turned = bridge.tensors()["rotation"]
    product = turned @ turned.T if new < old else turned.T @ turned
    assert torch.allclose(product, torch.eye(min(new, old)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_over_a_bridge_between_rotated_spaces_every_score_is_kept(kind: str) -> None:
    pictures = drawn(300, 16)
    lesson, held_out = lessons(Pairs(pictures, pictures @ rotation(16)))
    bridge = learn_bridge(kind, lesson, held_out)
    unseen = drawn(20, 16, seed=5)
    assert torch.allclose(bridge(unseen) @ held_out.pictures.old.T, unseen @ held_out.pictures.new.T, atol=0.02)
    assert torch.allclose(bridge(unseen).norm(dim=1), torch.ones(20), atol=1e-5)


def test_where_the_new_model_stretches_some_directions_the_correction_follows_and_a_rotation_cannot() -> None:
    old = drawn(400, 16)
    stretch = torch.ones(16)
    stretch[:3] = 3.0
    pictures = Pairs(old @ rotation(16) * stretch, old)
    lesson, held_out = lessons(pictures)
    unseen = drawn(50, 16, seed=5)  # like words: nothing like any picture
    shares = {kind: kept(learn_bridge(kind, lesson, held_out), unseen, pictures) for kind in KINDS}
    assert shares["affine"] > shares["procrustes"] + 0.1
    assert shares["mlp"] > shares["procrustes"] + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_words_keep_what_the_new_model_learned_about_them(kind: str) -> None:
    """The old model put words anywhere; no bridge that brings words to where it put them could find anything."""
    pictures = Pairs(drawn(300, 16), drawn(300, 16) @ rotation(16))
    misleading = Pairs(drawn(300, 16, seed=7), drawn(300, 16, seed=8))
    assert kept(learn_bridge(kind, *lessons(pictures, misleading)), drawn(40, 16, seed=6), pictures) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_words_on_which_both_models_agree_stand_in_for_pictures(kind: str) -> None:
    pictures = Pairs(drawn(12, 16), drawn(12, 16) @ rotation(16))  # fewer than the space has directions
    agreeing = Pairs(drawn(300, 16, seed=7), drawn(300, 16, seed=7) @ rotation(16))
    gallery = Pairs(drawn(200, 16, seed=9), drawn(200, 16, seed=9) @ rotation(16))
    unseen = drawn(40, 16, seed=6)
    with_words, without = (learn_bridge(kind, *own) for own in (lessons(pictures, agreeing), lessons(pictures)))
    assert kept(with_words, unseen, gallery) > 0.9
    assert kept(with_words, unseen, gallery) > kept(without, unseen, gallery) + 0.2


def test_the_network_gains_where_the_map_is_bent() -> None:
    generator = torch.Generator().manual_seed(0)
    subjects = drawn(6, 16, seed=2)
    about = torch.randint(0, 6, (500,), generator=generator)
    new = functional.normalize(subjects[about] + 0.5 * torch.randn(500, 16, generator=generator), dim=-1)
    turns = torch.stack([rotation(16, seed=own) for own in range(6)])  # each subject was turned by itself
    old = torch.einsum("pi,pij->pj", new, turns[about])
    lesson, held_out = lessons(Pairs(new, old))
    affine, mlp = (learn_bridge(kind, lesson, held_out) for kind in ("affine", "mlp"))
    apart = [float(disagreement(bridge, held_out.queries, held_out.pictures)) for bridge in (mlp, affine)]
    assert apart[0] < 0.9 * apart[1]
    assert kept(mlp, held_out.queries, held_out.pictures) >= kept(affine, held_out.queries, held_out.pictures)


def test_the_network_is_never_worse_than_the_affine_map_on_what_decides() -> None:
    lesson, held_out = lessons(Pairs(drawn(60, 16), drawn(60, 12, seed=1)))  # nothing to learn
    learned = [learn_bridge(kind, lesson, held_out) for kind in ("affine", "mlp")]
    affine, mlp = (float(disagreement(bridge, held_out.queries, held_out.pictures)) for bridge in learned)
    assert mlp <= affine + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_random_numbers(kind: str) -> None:
    lesson, held_out = lessons(Pairs(drawn(80, 12), drawn(80, 8, seed=1)))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = learn_bridge(kind, lesson, held_out, seed=4).tensors()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    second = learn_bridge(kind, lesson, held_out, seed=4).tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(tensor.requires_grad for tensor in first.values())


def test_what_makes_no_sense_is_refused_by_name() -> None:
    pairs = Pairs(drawn(10, 4), drawn(10, 6))
    lesson = Lesson(pairs, pairs)
    with pytest.raises(UnknownNameError, match=r"No bridge is called 'procrust'\. Did you mean 'procrustes'"):
        learn_bridge("procrust", lesson, lesson)
    with pytest.raises(DataError, match=r"at least 2 held-out pictures; got 1"):
        learn_bridge("affine", lesson, Lesson(pairs[torch.tensor([0])], pairs))
    with pytest.raises(DataError, match=r"the pictures have values that aren't numbers"):
        learn_bridge("affine", Lesson(pairs, Pairs(pairs.new * torch.nan, pairs.old)), lesson)
    with pytest.raises(ShapeError, match=r"got \[10, 4\] and \[9, 4\]"):
        Pairs(drawn(10, 4), drawn(9, 4))
    with pytest.raises(ShapeError, match=r"maps \[queries, 4\]; got \[3, 5\]"):
        learn_bridge("procrustes", lesson, lesson)(drawn(3, 5))


# ---- saved -----------------------------------------------------------------------------------------------------------


def crossing(kind: str = "affine") -> Crossing:
    pictures = Pairs(drawn(60, 12), drawn(60, 8, seed=1))
    bridge = learn_bridge(kind, *lessons(pictures))
    return Crossing(bridge, pictures, "a" * 16, "b" * 16, {"kind": kind, "sample": 60, "seed": 0}, {"first": 10})


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_bridge_carries_as_before(kind: str, tmp_path: Path) -> None:
    saved = crossing(kind)
    save_crossing(tmp_path, saved)
    loaded = load_crossing(tmp_path, old="a" * 16, new="b" * 16)
    for query in drawn(5, 12, seed=3):
        (here, scale), (there, other) = saved.carry(query), loaded.carry(query)
        assert torch.equal(here, there)
        assert scale == other
    assert (loaded.sample, loaded.kept) == (saved.sample, saved.kept)


def test_a_bridge_of_other_models_is_refused_by_name(tmp_path: Path) -> None:
    save_crossing(tmp_path, crossing())
    with pytest.raises(CheckpointError, match=r"from model b{16} to model a{16}, but the old one is c{16}"):
        load_crossing(tmp_path, old="c" * 16, new="b" * 16)
    with pytest.raises(CheckpointError, match=r"but the new one is c{16}"):
        load_crossing(tmp_path, old="a" * 16, new="c" * 16)


def test_a_damaged_bridge_is_refused(tmp_path: Path) -> None:
    save_crossing(tmp_path, crossing())
    about = read_json(tmp_path / "bridge.json")
    file = next(tmp_path.glob("bridge-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"doesn't hold what bridge\.json says"):
        load_crossing(tmp_path, old="a" * 16, new="b" * 16)
    file.unlink()
    with pytest.raises(MissingFileError):
        load_crossing(tmp_path, old="a" * 16, new="b" * 16)
    write_json(tmp_path / "bridge.json", {**about, "kind": "spline"})
    with pytest.raises(CheckpointError, match=r"isn't of format 1"):
        load_crossing(tmp_path, old="a" * 16, new="b" * 16)


def test_a_new_bridge_replaces_the_old_one_and_its_file(tmp_path: Path) -> None:
    save_crossing(tmp_path, crossing("affine"))
    save_crossing(tmp_path, crossing("procrustes"))
    assert load_crossing(tmp_path, old="a" * 16, new="b" * 16).bridge.kind == "procrustes"
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_how_many_of_the_first_are_kept_is_counted_by_hand() -> None:
    wanted = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    found = torch.tensor([[9.0, 0.0, 8.0, 7.0], [1.0, 2.0, 3.0, 4.0]])
    assert kept_at(2, found, wanted) == pytest.approx((0.5 + 1.0) / 2)
    assert kept_at(9, found, wanted) == 1.0


def test_scores_are_brought_to_the_others_mean_and_spread() -> None:
    found = torch.rand(200, generator=torch.Generator().manual_seed(0))
    scale = scale_like(found, 1.5 * found - 0.2)
    assert (scale.slope, scale.offset) == (pytest.approx(1.5, abs=1e-4), pytest.approx(-0.2, abs=1e-4))
    assert scale_like(found, -found).slope > 0
    assert scale_like(torch.zeros(3), torch.ones(3))(0.0) == pytest.approx(1.0)


def rows(ids: str, scores: Tensor) -> list[dict[str, Any]]:
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


# ---- what comes first ------------------------------------------------------------------------------------------------


def world_of_clusters(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and pictures under the new model, and the old model's pictures: people ask about a few subjects only."""
    generator = torch.Generator().manual_seed(seed)
    subjects = functional.normalize(torch.randn(20, 24, generator=generator), dim=-1)
    about = torch.randint(0, 20, (400,), generator=generator)
    spread = 0.15 * torch.randn(400, 24, generator=generator)
    new = functional.normalize(subjects[about] + spread, dim=-1)
    old = functional.normalize(new + 0.12 * torch.randn(400, 24, generator=generator), dim=-1)
    asked = subjects[torch.randint(0, 4, (120,), generator=generator)]
    return functional.normalize(asked + 0.1 * torch.randn(120, 24, generator=generator), dim=-1), new, old


def kept_with(done: Tensor, queries: Tensor, new: Tensor, old: Tensor) -> float:
    """What is kept of the new model's first ten when these pictures have their new vectors."""
    mixed = old.clone()
    mixed[done] = new[done]
    return kept_at(10, queries @ mixed.T, queries @ new.T)


def test_the_order_of_gain_beats_a_random_one_at_the_same_budget() -> None:
    for seed in range(3):
        queries, new, old = world_of_clusters(seed)
        sample, asked = queries[:60], queries[60:]  # the order is decided by other queries than it is measured with
        order = order_of_gain(sample, old)
        assert sorted(order.tolist()) == list(range(400))
        start, end = (kept_with(torch.arange(n), asked, new, old) for n in (0, 400))
        assert end == 1.0
        for budget in (40, 80):
            ours = kept_with(order[:budget], asked, new, old)
            chance = torch.Generator().manual_seed(seed)
            others = [kept_with(torch.randperm(400, generator=chance)[:budget], asked, new, old) for _ in range(5)]
            assert ours - start > 2 * (sum(others) / 5 - start), (seed, budget, start, ours, others)


def test_the_order_of_gain_of_nothing_is_nothing() -> None:
    assert order_of_gain(drawn(3, 4), torch.empty(0, 4)).tolist() == []
    assert order_of_gain(torch.empty(0, 4), drawn(3, 4)).tolist() == [0, 1, 2]


# ---- the sample ------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_for_the_same_seed_whatever_the_order() -> None:
    ids = [f"{number:03d}" for number in range(100)]
    assert sampled(ids, 10, 1) == sampled(reversed(ids), 10, 1) != sampled(ids, 10, 2)
    assert sampled(ids, 1000, 1) == ids


def test_what_is_learned_from_is_not_measured_on() -> None:
    pictures = Pairs(drawn(100, 8), drawn(100, 6, seed=1))
    found = [set(part.tolist()) for part in parts(100, seed=0)]
    assert [len(part) for part in found] == [70, 15, 15]
    assert set.union(*found) == set(range(100))
    lesson, deciding = Sample(pictures, Pairs(drawn(40, 8), drawn(40, 6, seed=1)), seed=0).lessons()
    assert (len(lesson.pictures), len(lesson.queries), len(deciding.pictures)) == (70, 98, 15)
    with pytest.raises(DataError, match="at least 20 texts; got 4"):
        Sample(pictures, Pairs(drawn(4, 8), drawn(4, 6)), seed=0)


def test_a_perfect_bridge_keeps_everything_and_an_old_model_of_chance_nothing_much() -> None:
    pictures, texts = drawn(200, 16), drawn(200, 16, seed=2)
    turn = rotation(16)
    sample = Sample(Pairs(pictures, pictures @ turn), Pairs(texts, texts @ turn), seed=0)
    kept = sample.measure(sample.learn("procrustes"))
    assert kept["bridge"] == {"text": 1.0, "image": 1.0}
    shuffled = Sample(Pairs(pictures, drawn(200, 16, seed=7)), Pairs(texts, drawn(200, 16, seed=8)), seed=0)
    kept = shuffled.measure(shuffled.learn("procrustes"))
    assert kept["old_model"]["text"] < 0.3
    assert kept["bridge"]["image"] < 0.3
