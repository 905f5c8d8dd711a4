"""Exact search by a matrix in memory, and how an approximate index is to be searched, chosen by measuring it."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Type, refused
from lancedb.index import IvfSq
from PIL import Image
from search_world import World

from lpi.errors import ConfigError
from lpi.search import SearchIndex
from lpi.search import matrix as matrices
from lpi.search import table as tables
from lpi.search.encoding import Single
from lpi.search.looking import choose
from lpi.search.manifest import Look, read_manifest
from lpi.search.store import Store
from lpi.search.table import Rows
from lpi.search.writer import change

ROWS, WIDTH = 3000, 24


def rows_of(folder: Path, vectors: Single, *, approximate: bool = False) -> Rows:
    store = Store(folder, vectors.shape[1])
    version = store.start()
    for start in range(0, len(vectors), 700):  # several fragments, whose row numbers are not consecutive
        some = vectors[start : start + 700]
        columns = {name: [None] * len(some) for name in store.schema().names if name != "vector"}
        names = [f"{number:032x}" for number in range(start, start + len(some))]
        columns |= {"id": names, "task": (["even", "odd"] * len(some))[: len(some)]}
        version = store.change(version, full=store.row_table(columns, some))
    if approximate:  # by hand: settling joins cells as small as these
        table = store._connection.open_table("pictures")
        table.create_index("vector", config=IvfSq(distance_type="cosine", num_partitions=100))
        version = int(table.version)
    return store.rows(version)


@pytest.fixture(scope="module")
def vectors() -> Single:
    drawn = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    drawn[1500:1510] = drawn[7]  # ten that tie
    drawn[40] = 0
    return drawn


@pytest.fixture(scope="module")
def approximate(vectors: Single, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return rows_of(tmp_path_factory.mktemp("approximate"), vectors, approximate=True)


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    return world.copy(tmp_path)


# ---- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, "task = 'odd'", "id = '00000000000000000000000000000003'", "false"])
@pytest.mark.parametrize("queries", [1, 3, 70])
def test_a_matrix_in_memory_finds_what_the_store_finds_looking_at_every_vector(
    vectors: Single, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str | None, queries: int
) -> None:
    monkeypatch.setattr(matrices, "BLOCK", 1024)
    rows = rows_of(tmp_path, vectors)
    asked = np.random.default_rng(1).standard_normal((queries, WIDTH), dtype=np.float32)
    asked[0] = vectors[7]
    ask = {"count": 25, "where": where, "exact": True, "columns": ["id", "task"]}
    found = rows.nearest_each(asked, **ask)
    assert rows._read is not None, "the matrix answered"
    monkeypatch.setattr(rows, "matrix_bytes", 0)
    for own, right in zip(found, rows.nearest_each(asked, **ask), strict=True):
        assert [row["score"] for row in own] == pytest.approx([row["score"] for row in right], abs=3e-7)
        assert {row["id"] for row in own} == {row["id"] for row in right}
        assert all(set(row) == {"id", "task", "score"} for row in own)
    if where is None:
        assert {f"{number:032x}" for number in (7, *range(1500, 1510))} == {row["id"] for row in found[0][:11]}


def test_candidates_hold_every_row_that_rounding_may_have_moved(vectors: Single, tmp_path: Path) -> None:
    near = vectors[7] + 1e-2 * np.random.default_rng(2).standard_normal((ROWS, WIDTH), dtype=np.float32)
    rows = rows_of(tmp_path, near.astype(np.float32))
    cosines = near @ vectors[7] / np.linalg.norm(near, axis=1)
    best = {f"{number:032x}" for number in np.argsort(-cosines)[:5]}
    found = rows.nearest_each(vectors[7:8], count=5, where=None, exact=True, columns=["id"])[0]
    assert {row["id"] for row in found} == best, "half precision alone can't tell these rows apart"


def test_where_too_many_rows_are_as_near_the_store_looks(
    vectors: Single, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(tmp_path, np.repeat(vectors[7:8], 1000, axis=0))
    monkeypatch.setattr(tables, "LOOKED_AT", 500)
    assert rows._exact(vectors[:1], 5, None, ["id"]) is None
    assert len(rows.nearest_each(vectors[:1], count=5, where=None, exact=True, columns=["id"])[0]) == 5


def test_no_rows_have_no_nearest_one(vectors: Single, tmp_path: Path) -> None:
    store = Store(tmp_path, WIDTH)
    rows = store.rows(store.start())
    assert rows.nearest_each(vectors[:2], count=3, where=None, exact=True, columns=["id"]) == [[], []]


# ---- approximate -----------------------------------------------------------------------------------------------------


def recall(rows: Rows, queries: Single, look: Look) -> float:
    ask = {"count": 10, "where": None, "columns": ["id"]}
    exact, near = (rows.nearest_each(queries, exact=own, look=look, **ask) for own in (True, False))
    pairs = [({row["id"] for row in a}, {row["id"] for row in b}) for a, b in zip(exact, near, strict=True)]
    return float(np.mean([len(right & found) / 10 for right, found in pairs]))


def test_the_look_is_chosen_for_the_wanted_recall_of_words_and_of_pictures(approximate: Rows) -> None:
    drawn = np.random.default_rng(3)
    words, others = drawn.standard_normal((2, 150, WIDTH), dtype=np.float32)
    assert recall(approximate, others, Look()) < 0.98, "as everything was searched before"
    look = choose(approximate, words, 0.99)
    assert look.probes > Look().probes
    assert look.recall is not None
    assert look.recall >= 0.99
    assert look.pictures == ROWS
    assert recall(approximate, others, look) >= 0.98
    assert choose(approximate, words, 0.3).probes == Look().probes


def test_words_that_are_hard_to_find_for_are_what_counts(approximate: Rows) -> None:
    easy, hard = approximate.sample(100)[1], np.random.default_rng(4).standard_normal((100, WIDTH), dtype=np.float32)
    assert choose(approximate, hard, 0.97).probes >= choose(approximate, easy, 0.97).probes
    worst = choose(approximate, hard, 0.01).recall
    assert worst is not None
    assert worst == pytest.approx(recall(approximate, hard, Look()), abs=0.02)


def grown(world: World, numbers: range) -> None:
    for number in numbers:
        for colour in ("red", "blue", "gray"):
            for shape in ("dot", "box", "bar", "tip"):
                file = world.paint(f"more/{colour}-{shape}-{number}.png", colour, shape, number % 5)
                image = Image.open(file)
                image.putpixel((0, number), (1, 2, 3))
                image.save(file)


def update(world: World) -> Look:
    with change(world.index, device="cpu", approximate_from=64) as writer:
        writer.update()
    return read_manifest(world.index).current.look


def test_an_index_is_measured_when_it_is_built_and_when_it_has_grown(mine: World) -> None:
    assert update(mine) == Look(), "no approximate index yet"
    grown(mine, range(5))
    built = update(mine)
    assert (built.pictures, built.trained) == (84, 84)
    assert built.recall is not None
    mine.paint("one.png", "red", "dot", 1)
    assert update(mine) == built
    grown(mine, range(5, 7))
    later = update(mine)
    assert (later.pictures, later.trained) == (109, 84)
    grown(mine, range(7, 13))
    assert update(mine).trained == 181
    index = SearchIndex.open(mine.index, device="cpu")
    assert index.rows().look == read_manifest(mine.index).current.look


def test_an_index_made_before_is_searched_as_it_was_and_measured_when_it_grows(mine: World) -> None:
    grown(mine, range(5))
    update(mine)
    content = json.loads((mine.index / "index.json").read_text())
    del content["recall"], content["checksum"]
    for stage in content["stages"]:
        del stage["look"]
    (mine.index / "index.json").write_text(json.dumps(content))
    index = SearchIndex.open(mine.index, device="cpu")
    assert index.rows().look == Look(20, 3)
    assert len(index.search_text("a dot", 5)) == 5
    mine.paint("one.png", "red", "dot", 1)
    assert update(mine).pictures == 85


def test_the_wanted_recall_is_kept_with_the_index(mine: World, type_command: Type) -> None:
    grown(mine, range(5))
    update(mine)
    arguments = ["index", str(mine.photos), "--index", str(mine.index)]
    assert type_command(*arguments, "--recall", "0.8").code == 0
    assert read_manifest(mine.index).recall == 0.8
    assert type_command(*arguments).code == 0
    assert read_manifest(mine.index).recall == 0.8
    refused(type_command(*arguments, "--recall", "95"), "recall must be above 0 and at most 1; got 95.0.")
    with change(mine.index, device="cpu") as writer, pytest.raises(ConfigError, match="recall must be"):
        writer.want(0.0)
