"""Flipped bits and missing files in an index: never other hits without a word, and 'lpi index --check' names them."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Type
from search_world import World

from lpi.errors import CheckpointError, LpiError
from lpi.search.checking import damage
from lpi.search.index import SearchIndex
from lpi.search.recorded import TestSet, put_on_record
from lpi.search.store import Store
from lpi.search.teaching import read_domain
from lpi.storage import read_sealed, sealed, write_json


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    world.build_once()
    return world.copy(tmp_path)


def answers(place: Path) -> list[tuple[str, float]] | str:
    try:
        return [(hit.path, hit.score) for hit in SearchIndex.open(place, device="cpu").search_text("a red dot", 12)]
    except LpiError as error:
        return type(error).__name__


def store_of(world: World) -> Store:
    return Store(world.index / "store", read_sealed(world.index / "index.json")["width"])


def test_a_whole_index_has_no_damage(mine: World) -> None:
    assert damage(mine.index) == []


@pytest.mark.parametrize("kind", ["data", "_versions"])
def test_flipped_bits_in_the_rows_never_give_other_hits(mine: World, kind: str) -> None:
    expected, chance = answers(mine.index), random.Random(3)
    for file in sorted((mine.index / "store/pictures.lance" / kind).iterdir()):
        whole = file.read_bytes()
        for _ in range(6):
            spoilt = bytearray(whole)
            for _ in range(3):
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
            file.write_bytes(spoilt)
            assert answers(mine.index) in (expected, "CheckpointError")
        file.write_bytes(whole)
    assert answers(mine.index) == expected


def test_tables_that_are_gone_are_one_line(mine: World) -> None:
    shutil.rmtree(mine.index / "store")
    with pytest.raises(CheckpointError, match="tables are damaged or gone"):
        SearchIndex.open(mine.index, device="cpu")


def test_a_table_that_a_full_disk_left_without_a_version_is_begun_anew(mine: World) -> None:
    store, folder = store_of(mine), next((mine.index / "store").glob("route-*.lance"))
    key = folder.stem.removeprefix("route-")
    assert store.known(key)
    for file in list((folder / "_versions").iterdir()):
        file.rename(f"{file}#1")
    store = store_of(mine)
    assert store.known(key) == set()
    store.keep(key, ["one"], np.ones((1, store.width), dtype=np.float16))
    assert store.known(key) == {"one"}


def test_damaged_pins_of_versions_are_one_line(mine: World) -> None:
    store = store_of(mine)
    for file in (mine.index / "store" / "pictures.lance" / "_refs" / "tags").iterdir():
        file.write_bytes(b"{\xff")
    for act in (lambda: store.pin("other", 1), lambda: store.unpin(set()), store.settle):
        with pytest.raises(CheckpointError, match="tables are damaged or gone"):
            act()


def test_a_damaged_feature_is_named_by_the_check(mine: World) -> None:
    file = next((mine.index / "store").glob("route-*.lance/data/*"))
    whole, found = file.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 25):
        spoilt = bytearray(whole)
        spoilt[place] ^= 4
        file.write_bytes(spoilt)
        found += any("features under" in line for line in damage(mine.index))
    assert found > 5


def test_a_damaged_model_is_named_by_the_check(mine: World) -> None:
    file = next((mine.index / "models").rglob("*.safetensors"))
    spoilt = bytearray(file.read_bytes())
    spoilt[-5] ^= 1
    file.write_bytes(spoilt)
    assert [line for line in damage(mine.index) if "is damaged (its content isn't what was written)" in line]


def test_an_index_whose_tables_are_gone_is_looked_at_to_the_end(mine: World) -> None:
    shutil.rmtree(mine.index / "store")
    lines = damage(mine.index)
    assert lines[0].startswith("stage 0: ")
    assert all("tables are damaged or gone" in line for line in lines)


def test_rows_that_are_too_few_are_counted(mine: World) -> None:
    content = read_sealed(mine.index / "index.json")
    content["stages"][0]["pictures"] += 1
    write_json(mine.index / "index.json", sealed(content))
    assert damage(mine.index) == [f"{mine.index}: stage 0 has 24 rows, and should have 25"]


def test_a_changed_test_set_and_a_changed_manifest_are_named(mine: World) -> None:
    put_on_record(mine.index, TestSet("warm", read_domain(mine.captioned / "warm", "warm").test))
    assert damage(mine.index) == []
    file = next((mine.index / "tests").glob("*.json"))
    file.write_text(file.read_text().replace("dot", "box", 1))
    (line,) = damage(mine.index)
    assert f"{file} is damaged" in line
    assert "put the test set on record again" in line
    manifest = mine.index / "index.json"
    manifest.write_text(manifest.read_text().replace('"batch": ', '"batch": 1', 1))
    with pytest.raises(CheckpointError, match=r"index\.json is damaged .*Take it from a backup, or index again\."):
        damage(mine.index)


def test_the_command_says_what_is_damaged_and_what_to_do(mine: World, type_command: Type) -> None:
    whole = type_command("index", mine.photos, "--index", mine.index, "--check")
    assert whole == (0, "All is as it was written.\n", "")
    shutil.rmtree(mine.index / "store")
    ended = type_command("index", mine.photos, "--index", mine.index, "--check")
    assert ended.code == 2
    assert ended.out.startswith("wrong: stage 0: ")
    assert ended.out.splitlines()[-1] == (
        "Take the index from a backup, or make it anew from the pictures: "
        f"lpi index {mine.photos} --index NEW_FOLDER --model MODEL"
    )
