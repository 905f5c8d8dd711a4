"""Flipped bits and missing files in an index: never other hits without a word, and 'lpi index --check' names them."""

import random
import shutil
from pathlib import Path

import pytest
from search_world import World

from lpi.errors import CheckpointError, LpiError
from lpi.search.checking import damage
from lpi.search.index import SearchIndex


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    world.build_once()
    return world.copy(tmp_path)


def answers(place: Path) -> list[tuple[str, float]] | str:
    try:
        return [(hit.path, hit.score) for hit in SearchIndex.open(place, device="cpu").search_text("a red dot", 12)]
    except LpiError as error:
        return type(error).__name__


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
