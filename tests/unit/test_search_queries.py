"""What a query is told about itself, several queries looked for at once, and an index made in one call."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from search_world import World

import lpi
from lpi.backbones import DualEncoder
from lpi.errors import CheckpointError, ConfigError, MissingFileError
from lpi.methods.encoder import route_texts, routing_features
from lpi.search import Filters, SearchIndex
from lpi.search.best import SHOWN
from lpi.search.encoding import answering, text_probes
from lpi.search.store import Store
from lpi.tasks.stream import TaskStream

WORDS = ["a red dot", "a very long query about a teal bar", "gold", "blue tip"]


# ---- which tasks answered --------------------------------------------------------------------------------------------


def test_a_query_names_the_tasks_that_answer_it_and_how_much_each_counts(index: SearchIndex, world: World) -> None:
    method = index.method()
    routing = route_texts(method, WORDS)
    routes, weights = routing.routes, routing.weights
    named = [query.routes for query in index.encode_texts(WORDS)]
    assert named == [
        ((method.tasks[route], weight),) for route, weight in zip(routes[:, 0], weights[:, 0], strict=True)
    ]
    pictures = [world.photos / "warm" / "red" / "dot.png", world.photos / "cold" / "blue" / "bar.png"]
    for query in index.encode_images(pictures, scoring="routed"):
        assert {task for task, _ in query.routes} <= {"warm", "cold"}
        assert sum(weight for _, weight in query.routes) == pytest.approx(1.0)


def test_a_mixture_is_told_largest_share_first_and_a_query_far_from_all_has_no_task(
    index: SearchIndex, clip: DualEncoder, learn: Callable[..., lpi.Method], stream: TaskStream
) -> None:
    soft = learn(lpi.method("lpi", clip, rank=2, length=4, clusters=2, soft_tasks=3), stream.tasks)
    named = answering(soft, route_texts(soft, ["red dot", "gray box"]))
    for routes in named:
        shares = [share for _, share in routes]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert max(len(routes) for routes in named) > 1 or all(routes == (("", 1.0),) for routes in named)
    for kept in soft.router.kept:
        kept["radius_text"].zero_()
    assert answering(soft, route_texts(soft, ["red dot"])) == ((("", 1.0),),)


def test_before_any_task_the_frozen_model_answers_and_without_routing_nobody_is_named(clip: DualEncoder) -> None:
    untaught, plain = lpi.method("lpi", clip), lpi.method("zero_shot", clip)
    assert answering(untaught, route_texts(untaught, WORDS[:2])) == ((("", 1.0),),) * 2
    assert answering(plain, route_texts(plain, WORDS[:2])) == ((),) * 2


def test_what_routed_a_query_also_tells_how_much_it_belongs_to_each_task(
    index: SearchIndex, clip: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = index.method()
    looks = routing_features(method.router, method.backbone, "text", WORDS)
    expected = 0.1 * method.router("text", looks).membership
    looked: list[str] = []
    monkeypatch.setattr(method.router, "wording", lambda text: looked.append(text) or text)
    found = text_probes(method, WORDS, "routed").membership
    assert looked == WORDS, "the router looks once"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    unrouted = route_texts(lpi.method("zero_shot", clip), WORDS)
    assert unrouted.membership.shape == (len(WORDS), 0)  # nothing is told apart


# ---- several at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["plain", "routed"])
@pytest.mark.parametrize("filters", [None, Filters(folder="warm"), Filters(until="2001-01-01")])
def test_queries_looked_for_together_find_what_each_finds_alone(
    index: SearchIndex, scoring: str, filters: Filters | None
) -> None:
    queries = index.encode_texts(WORDS, scoring=scoring)
    assert index.find_each(queries, 5, filters) == [index.find(query, 5, filters) for query in queries]


def test_queries_of_different_kinds_may_be_looked_for_together(index: SearchIndex, world: World) -> None:
    queries = [*index.encode_texts(WORDS[:2]), *index.encode_texts(WORDS[2:], scoring="routed")]
    queries += index.encode_images([world.photos / "warm" / "red" / "dot.png"])
    assert index.find_each(queries, 3) == [index.find(query, 3) for query in queries]
    assert index.find_each([], 3) == []
    with pytest.raises(ConfigError, match="k must be at least 1; got 0"):
        index.find_each(queries, 0)


def test_an_approximate_index_gives_several_vectors_what_it_gives_each(tmp_path: Path) -> None:
    count, width = 600, 8
    points = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    store = Store(tmp_path, width)
    version = store.start()
    names = [f"{number:032x}" for number in range(count)]
    columns = {name: [None] * count for name in store.schema().names if name != "vector"}
    columns |= {"id": names, "paths": [[name] for name in names], "task": ["even", "odd"] * (count // 2)}
    store.change(version, full=store.row_table(columns, points))
    rows = store.rows(store.settle(approximate_from=256))
    for where in (None, "task = 'odd'"):
        ask = {"count": 7, "where": where, "exact": False, "columns": SHOWN}
        each = rows.nearest_each(points[:5], **ask)
        assert each == [rows.nearest_each(point[None], **ask)[0] for point in points[:5]]
        assert [len(found) for found in each] == [7] * 5


# ---- an index in one call --------------------------------------------------------------------------------------------


def test_an_index_is_made_in_one_call_and_then_follows_its_folder(world: World, tmp_path: Path) -> None:
    mine = World(tmp_path)
    shutil.copytree(world.photos, mine.photos)
    learner = lpi.load_method(world.model)
    index = lpi.SearchIndex.build(learner, mine.photos, device="cpu")
    assert (index.folder, len(index)) == (mine.photos / ".lpi-index", 24)
    assert [hit.path for hit in index.search("a red dot", count=3)] == [
        hit.path for hit in world.build_once().search_text("a red dot", 3)
    ]
    mine.paint("new.png", "gold", "tip", 1)
    again = lpi.SearchIndex.build(world.model, mine.photos, device="cpu")
    assert (len(again), len(again.stages())) == (25, 1)
    moved = mine.photos.rename(tmp_path / "elsewhere")
    assert lpi.SearchIndex.build(learner, moved, device="cpu").root == moved


def test_one_call_refuses_what_the_command_refuses(world: World, tmp_path: Path) -> None:
    world.build_once()
    with pytest.raises(MissingFileError, match="away: there is no such folder"):
        SearchIndex.build(world.model, tmp_path / "away")
    with pytest.raises(ConfigError, match="the index is of"):
        SearchIndex.build(world.model, world.captioned, index=world.index)
    with pytest.raises(CheckpointError, match="made with another model than"):
        SearchIndex.build("lpi-tiny", world.photos, index=world.index)
