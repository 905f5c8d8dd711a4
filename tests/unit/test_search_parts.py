"""The parts of search: filters, steady features, routing, scoring, identity, and the store."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import Learn
from search_world import HARD

import lpi
from lpi.backbones import DualEncoder
from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.methods.checkpoint import save_method
from lpi.prompts.task_keys import FALLBACK
from lpi.routing import score
from lpi.search.encoding import Encoder, Routing, mix, steady_size, unit, without_negligible
from lpi.search.files import folders_of, scan
from lpi.search.filters import Filters, quoted
from lpi.search.identity import FROZEN, RouteKeys, check_same, describe, load_model
from lpi.search.manifest import read_manifest
from lpi.search.rows import used
from lpi.search.scoring import Probes
from lpi.search.store import Store
from lpi.storage import read_sealed
from lpi.tasks.stream import TaskStream


@pytest.fixture(scope="module")
def method(clip: DualEncoder, stream: TaskStream, learn: Learn) -> lpi.Method:
    return learn(lpi.method("lpi", clip, **HARD), stream.tasks)


# ---- filters ---------------------------------------------------------------------------------------------------------


def test_filters_say_the_same_in_sql() -> None:
    assert Filters().sql() is None
    assert Filters(folder="/a\\b's/").sql() == "array_has(folders, 'a/b''s')"
    assert Filters(folder="./").sql() == "array_has(folders, '.')"
    assert Filters(task="").sql() == "task = ''"
    dates = Filters(since="2024-05-01", until="2024-05-31").sql()
    assert dates == "date >= '2024-05-01T00:00:00' AND date <= '2024-05-31T23:59:59'"
    assert quoted("it's") == "'it''s'"


def test_a_picture_lies_in_every_folder_above_it() -> None:
    assert folders_of(["a/b/x.jpg", "c/y.jpg", "z.jpg"]) == [".", "a", "a/b", "c"]


def test_a_scan_of_a_folder_that_is_away_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="connect the disk"):
        scan(tmp_path / "away", leave_out=tmp_path, known={})


# ---- features --------------------------------------------------------------------------------------------------------


def test_a_feature_has_the_same_bits_whatever_it_is_embedded_with(method: lpi.Method, pictures: torch.Tensor) -> None:
    encoder = Encoder(method)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(1))
    for encode in (encoder.frozen, lambda pixels: encoder.under(pixels, 1)):
        together = encode(pictures)
        shuffled = encode(pictures[order])
        assert np.array_equal(shuffled, together[order.numpy()])
        for row in (0, 7, 23):
            assert np.array_equal(encode(pictures[row : row + 1])[0], together[row])
    assert np.array_equal(encoder.under(pictures, FALLBACK), encoder.frozen(pictures))
    assert steady_size(method) in (32, 8, 1)


def test_one_pass_gives_the_bits_of_all_passes(
    method: lpi.Method, pictures: torch.Tensor, stream: TaskStream, learn: Learn
) -> None:
    closed = learn(
        lpi.method("lpi", method.backbone, dimensions=4, clusters=1, view="both", beside="both"),
        stream.tasks[:2],
        epochs=0,
        steps=None,
    )
    nothing = [lpi.method("lpi", method.backbone, router=router) for router in ("whitened", "nearest")]
    for own in (closed, *nothing):
        encoder = Encoder(own, batch=32)
        assert encoder.reads()
        look, under = encoder.read(pictures)
        assert np.array_equal(look, encoder.routing_features(pictures))
        for route in (FALLBACK, *range(len(own.tasks))):
            found = under(route)
            assert found is not None
            assert np.array_equal(found, encoder.under(pictures, route))
    assert not Encoder(method).reads()  # what steps changed takes a pass of its own
    assert Encoder(method, batch=32).read(pictures)[1](0) is None
    assert not Encoder(lpi.method("zero_shot", method.backbone), batch=32).reads()


def test_an_index_of_a_bare_backbone_tells_foreign_pictures_by_each_domains_own_spread() -> None:
    method, _ = load_model("lpi-tiny")
    assert method.options.closing.beside == "nothing"
    assert method.options.closing.dimensions > 0
    assert method.options.closing.cuts == 2
    assert method.router is not None
    assert method.router.options.reach == "own"
    assert method.router.look("text").depth == round(2 / 3 * method.backbone.depths["text"])


def test_routing_is_the_methods_own(method: lpi.Method, pictures: torch.Tensor) -> None:
    encoder = Encoder(method, batch=8)
    plain = encoder.routing_features(pictures)
    routing = encoder.routing(plain)
    exact = torch.from_numpy(unit(plain.astype(np.float32)))
    assert (
        routing.routes[:, 0].tolist() == method.router("vision", exact).routes[:, 0].tolist() == routing.tasks.tolist()
    )
    assert routing.weights.tolist() == [[1.0]] * 24
    distances = method.router("vision", exact).distances
    assert routing.distances == pytest.approx(distances.numpy(), abs=1e-4)
    nearest = distances.sort(dim=1).values
    assert routing.margins == pytest.approx((nearest[:, 1] - nearest[:, 0]).numpy(), abs=1e-4)
    assert encoder.routing(plain[:0]).distances.shape == (0, 3)


def test_a_mixture_is_the_normalised_weighted_sum() -> None:
    features = [np.array([[3, 0], [0, 1]], np.float16), np.array([[0, 3], [9, 9]], np.float16)]
    weights = [np.array([0.5, 1], np.float32), np.array([0.5, 0], np.float32)]
    assert mix(features, weights) == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]), abs=1e-6)


def test_a_negligible_share_asks_for_no_embedding() -> None:
    routes, weights = without_negligible(
        np.array([[4, 2, 7], [5, 1, 0]]), np.array([[0.9, 0.0999, 1e-4], [1, 3e-13, 0]], np.float32)
    )
    assert routes.tolist() == [[4, 2, 4], [5, 5, 5]]
    assert weights[0] == pytest.approx([0.9 / 0.9999, 0.0999 / 0.9999, 0], abs=1e-6)
    assert weights[1].tolist() == [1, 0, 0]


def test_a_route_without_weight_needs_no_feature() -> None:
    routing = Routing(
        routes=np.array([[0, 1], [1, 0], [-1, 0]]),
        tasks=np.array([0, 1, -1]),
        weights=np.array([[0.5, 0.5], [1, 0], [1, 0]], np.float32),
        distances=np.zeros((3, 2), np.float32),
        confidence=np.ones(3, np.float32),
    )
    assert {route: rows.tolist() for route, rows in used(routing).items()} == {-1: [2], 0: [0], 1: [0, 1]}


# ---- scoring ---------------------------------------------------------------------------------------------------------


def test_plain_scores_are_cosines_and_routed_ones_add_the_agreement() -> None:
    query = torch.tensor([[0.6, 0.8]])
    images = score.Probe(torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    plain = score.routed_score(score.Probe(query), images, 1.0)
    assert plain.tolist() == [pytest.approx([0.6, 0.8])]
    routed = Probes(query, torch.tensor([[0.1, 0.0]]))
    found = score.routed_score(score.Probe(routed.vectors, routed.membership), images, 1.0)
    assert found.tolist() == [pytest.approx([0.7, 0.85])]
    assert (routed[0].vector.tolist(), routed[0].membership.tolist()) == (query[0].tolist(), [pytest.approx(0.1), 0.0])


# ---- identity --------------------------------------------------------------------------------------------------------


def test_a_tasks_key_survives_other_tasks_coming_and_going(
    clip: DualEncoder, stream: TaskStream, learn: Learn, method: lpi.Method
) -> None:
    keys = RouteKeys(method)
    assert keys[FALLBACK] == FROZEN
    assert len({keys[route] for route in range(3)}) == 3
    two = learn(lpi.method("lpi", clip, **HARD), stream.tasks[:2])
    assert [RouteKeys(two)[route] for route in (0, 1)] == [keys[0], keys[1]]
    two.forget("warm")
    assert RouteKeys(two)[0] == keys[1]
    assert describe(two).model != describe(method).model


def test_a_method_that_changes_all_its_vectors_changes_its_key_with_every_task(
    clip: DualEncoder, stream: TaskStream
) -> None:
    tuned = lpi.method("zero_shot", clip)
    before = RouteKeys(tuned)[0]
    tuned.tasks.append("warm")
    assert RouteKeys(tuned)[0] != before


def test_a_model_is_refused_by_what_differs(
    method: lpi.Method, clip: DualEncoder, stream: TaskStream, learn: Learn, tmp_path: Path
) -> None:
    recorded = describe(method)
    check_same(tmp_path, recorded, method, "mine")
    two = learn(lpi.method("lpi", clip, **HARD), stream.tasks[:2])
    with pytest.raises(CheckpointError, match="the index knows task 'dull', the model doesn't"):
        check_same(tmp_path, recorded, two, "mine")
    with pytest.raises(CheckpointError, match="the model knows task 'dull', the index doesn't"):
        check_same(tmp_path, describe(two), method, "mine")
    other = learn(lpi.method("lpi", clip, **HARD), stream.tasks, seed=1)
    with pytest.raises(CheckpointError, match=r"task 'warm' has prompts [0-9a-f]{16} in the index and"):
        check_same(tmp_path, recorded, other, "mine")
    backbone = lpi.backbone(tiny.tiny_clip(tmp_path / "clip", seed=1))
    with pytest.raises(CheckpointError, match=f"has backbone {clip.identity} .* the model {backbone.identity}"):
        check_same(tmp_path, recorded, lpi.method("lpi", backbone, **HARD), "mine")
    with pytest.raises(CheckpointError, match="prepared differently"):
        check_same(tmp_path, replace(recorded, preprocessing="x"), method, "mine")


def test_a_run_a_model_and_a_backbone_can_be_named(method: lpi.Method, tmp_path: Path) -> None:
    save_method(method, tmp_path / "run" / "model")
    about = {"experiment": "mine", "row": "lpi", "settings": {"stream": {}, "training": {"epochs": 2}}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    for name in ("run", "run/model"):
        loaded, run = load_model(tmp_path / name)
        assert (loaded.tasks, run) == (["warm", "cold", "dull"], about)
    loaded, run = load_model("lpi-tiny")
    assert (loaded.tasks, run) == ([], None)
    with pytest.raises(MissingFileError, match="no such model folder"):
        load_model(tmp_path / "nowhere")


def test_an_index_of_an_earlier_version_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    recall = {"text_to_image": 0.5, "image_to_text": 0.25, "r1": 0.375}
    report = {
        "pictures": 24,
        "reembed": 8,
        "share": 1 / 3,
        "seconds": {"learn": 1.5, "measure": 0.5, "embed": None},
        "recall": {"new": {"before": None, "after": recall}, "old": {}, "held_out": None},
        "unmeasured": ["warm"],
        "unreadable": {},
        "scoring": "matched",
    }
    stage = {
        "number": 0,
        "kind": "teach",
        "task": "dull",
        "model": "0123456789abcdef",
        "tasks": [{"name": "dull", "prompts": "f" * 16}],
        "version": 3,
        "pictures": 24,
        "embedded": 8,
        "seconds": 2.5,
        "when": "2026-01-02T03:04:05+00:00",
        "report": report,
    }
    written = {
        "format": 1,
        "root": "/photos",
        "backbone": {"name": "lpi-tiny", "identity": "e" * 16},
        "preprocessing": "d" * 16,
        "width": 128,
        "batch": 32,
        "stages": [stage],
        "training": {"steps": 20},
        "store": "store",
        "outdated": [["store-0123456789abcdef", "2026-01-02T03:04:05+00:00"]],
    }
    (tmp_path / "index.json").write_text(json.dumps(written))
    manifest = read_manifest(tmp_path)
    assert (manifest.current.tasks[0].name, manifest.backbone.name) == ("dull", "lpi-tiny")
    manifest.write(tmp_path)
    look = {"probes": 20, "refine": 3, "recall": None, "pictures": 0, "trained": 0}  # which it was searched with
    now = written | {"stages": [stage | {"look": look}], "recall": 0.95}
    assert read_sealed(tmp_path / "index.json") == now
    assert read_manifest(tmp_path) == manifest


# ---- the store -------------------------------------------------------------------------------------------------------


def half(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float16)


def test_features_are_added_once_and_read_in_the_order_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 2)
    assert store.known("a") == set()
    store.keep("a", ["x", "y"], half([1, 2], [3, 4]))
    store.keep("a", ["y", "z"], half([9, 9], [5, 6]))
    assert store.known("a") == {"x", "y", "z"}
    assert store.features("a", ["z", "x", "y"]).tolist() == [[5, 6], [1, 2], [3, 4]]
    with pytest.raises(CheckpointError, match="the feature of picture w is gone"):
        store.features("a", ["w"])
    store.drop("a")
    assert store.known("a") == set()
    assert store.features("a", []).shape == (0, 2)


def test_many_ids_are_read_like_few(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 1)
    ids = [f"{number:04d}" for number in range(1200)]
    store.keep("a", ids, np.arange(1200, dtype=np.float16)[:, None])
    assert store.features("a", ids[::-1])[:, 0].tolist() == list(range(1199, -1, -1))


def test_a_version_that_is_not_there_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 2)
    version = store.start()
    assert len(store.rows(version)) == 0
    assert store.rows(version).vectors([]).shape == (0, 2)
    assert store.rows(version).nearest_each(
        np.ones((1, 2), np.float32), count=3, where=None, exact=True, columns=["id"]
    ) == [[]]
    with pytest.raises(CheckpointError, match="tables are damaged or gone"):
        store.rows(99)
    with pytest.raises(MissingFileError, match="Make one with: lpi index"):
        read_manifest(tmp_path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises((OutputError, OSError)) as refused:
        Store(tmp_path / "taken" / "store", 2).start()
    assert "\n" not in str(refused.value).strip()
