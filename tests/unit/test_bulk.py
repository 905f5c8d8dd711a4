"""Embedding in two worker processes makes what one process makes; tables may be at an address."""

import os
from pathlib import Path

import numpy as np
import pytest
from commands import Type
from search_world import World, vectors_of

from lpi.errors import ConfigError, OutputError
from lpi.search import SearchIndex
from lpi.search.building import create
from lpi.search.bulk import Basket, BulkEmbedder, load_daft
from lpi.search.encoding import Encoder
from lpi.search.identity import ROUTING
from lpi.search.manifest import read_manifest
from lpi.search.migration import Budget, begin, migrate
from lpi.search.store import Store
from lpi.search.writer import change


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    return world.copy(tmp_path)


# ---- two processes ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Daft leaves its workers' pipes open
def test_two_processes_make_the_index_that_one_makes(world: World, tmp_path: Path) -> None:
    pytest.importorskip("daft", reason="Daft is an extra: cluster")
    photos = world.copy(tmp_path).photos
    (photos / "broken.png").write_bytes(b"not a picture")
    place = tmp_path / "bulk"
    create(place, photos, world.model, device="cpu")
    seen: list[tuple[str, int, int]] = []
    with change(place, device="cpu", processes=2) as writer:
        assert isinstance(writer.embedder(writer.method), BulkEmbedder)
        done = writer.update(on_progress=lambda *what: seen.append(what))
    assert (done.embedded, done.pictures, list(done.skipped)) == (24, 24, ["broken.png"])
    assert "can't be read" in done.skipped["broken.png"]
    assert seen[-1] == ("embedding pictures", 25, 25)
    bulk, alone = SearchIndex.open(place, device="cpu"), SearchIndex.open(world.index, device="cpu")
    assert vectors_of(bulk) == vectors_of(alone)
    for key in (ROUTING, *bulk.rows().columns("route")["route"]):
        ids = sorted(vectors_of(alone))
        held = [index._stages.store.features(key, sorted(index._stages.store.known(key))) for index in (bulk, alone)]
        assert held[0].tobytes() == held[1].tobytes(), key
        assert bulk._stages.store.abouts(ids) == alone._stages.store.abouts(ids)
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_nothing_to_embed_hires_nobody(mine: World) -> None:
    with change(mine.index, device="cpu", processes=2) as writer:
        assert writer.update().embedded == 0


def test_a_basket_gives_each_picture_away_once() -> None:
    basket = Basket()
    features = np.arange(6, dtype=np.float16).reshape(2, 3)
    basket.keep(ROUTING, ["a", "b"], features, width=[4, 5], height=[6, 7], taken=["", "2024-01-01T00:00:00"])
    basket.keep("under", ["b"], features[:1])
    assert basket.features(ROUTING, ["b", "a"]).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert basket.known(ROUTING) == set()
    kept, about = basket.taken("b")
    assert (list(kept), about) == ([ROUTING, "under"], {"width": 5, "height": 7, "taken": "2024-01-01T00:00:00"})
    assert basket.taken("b") == ({}, {})


def test_the_engine_reports_nothing_to_anybody() -> None:
    pytest.importorskip("daft", reason="Daft is an extra: cluster")
    load_daft()
    from daft.scarf_telemetry import opted_out

    assert opted_out()


# ---- tables at an address --------------------------------------------------------------------------------------------


def test_tables_at_an_address_give_the_same_answers(world: World, tmp_path: Path) -> None:
    """``file://`` goes the way that ``s3://`` goes, as far as this code is concerned."""
    mine = world.copy(tmp_path)
    address = f"file://{tmp_path / 'bucket' / 'photos'}"
    place = tmp_path / "away"
    create(place, mine.photos, world.model, device="cpu", store=address)
    with change(place, device="cpu") as writer:
        assert writer.update().pictures == 24
    index = SearchIndex.open(place, device="cpu")
    assert not (place / "store").exists()
    assert (tmp_path / "bucket" / "photos" / "pictures.lance").exists()
    assert vectors_of(index) == vectors_of(SearchIndex.open(world.index, device="cpu"))
    mine.paint("new.png", "red", "dot", 0)
    mine.index = place
    assert mine.update().added == 1
    assert index.refresh()
    assert len(index.search_text("a dot", 30)) == 25
    with pytest.raises(OutputError, match=r"photos holds an index already, or part of one"):
        create(tmp_path / "other", mine.photos, world.model, device="cpu", store=address)


def test_a_move_goes_to_an_address_beside_the_first(world: World, tmp_path: Path) -> None:
    mine = world.copy(tmp_path)
    place = tmp_path / "away"
    create(place, mine.photos, world.model, device="cpu", store=f"file://{tmp_path}/bucket")
    with change(place, device="cpu") as writer:
        writer.update()
    begin(place, world.root / "clip", device="cpu")
    assert migrate(place, device="cpu", budget=Budget()).finished
    index = SearchIndex.open(place, device="cpu")
    assert read_manifest(place).store == f"file://{tmp_path}/bucket-{index.manifest.current.model}"
    assert len(index.search_text("a dot", 30)) == 24
    with change(place, device="cpu") as writer:
        writer.tidy()
    assert list((tmp_path / "bucket").glob("*.lance")) == []
    assert len(index.search_text("a dot", 30)) == 24


def test_an_address_is_typed_once(mine: World, tmp_path: Path, type_command: Type) -> None:
    words = ("index", mine.photos, "--model", mine.model, "--device", "cpu", "--store")
    ended = type_command(*words, "away", "--index", tmp_path / "away")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "store must be an address like s3://bucket/path; got 'away'" in ended.err
    assert type_command(*words, f"file://{tmp_path}/bucket", "--index", tmp_path / "away").code == 0
    ended = type_command("index", mine.photos, "--index", tmp_path / "away", "--store", "s3://elsewhere/x")
    assert f"has its tables in file://{tmp_path}/bucket" in ended.err
    assert type_command("index", mine.photos, "--index", tmp_path / "away").code == 0


def test_the_encoder_of_a_worker_is_that_of_the_index(mine: World) -> None:
    with change(mine.index, device="cpu", processes=2) as writer:
        embedder = writer.embedder(writer.method)
        assert isinstance(embedder, BulkEmbedder)
        assert embedder.encoder.batch == writer.manifest.batch
        assert (embedder.model / "config.json").exists()
        assert embedder.threads == 1
        assert isinstance(embedder.encoder, Encoder)


def test_a_move_that_never_began_is_not_resumed(mine: World) -> None:
    with pytest.raises(ConfigError, match="isn't on its way"):
        migrate(mine.index, device="cpu")


def test_an_address_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(OutputError, match=r"gopher://nowhere/x can't be reached: .*Check its address") as refused:
        Store("gopher://nowhere/x", 16)
    assert "\n" not in str(refused.value)
