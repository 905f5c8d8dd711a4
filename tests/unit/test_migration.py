"""An index moves to another model: searched as one meanwhile, in the end what the new model would have made of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import Type
from conftest import COLOURS, SHAPES
from PIL import Image
from search_world import HARD, QUICK, World, vectors_of
from transformers import CLIPModel

import lpi
from lpi.data.content import content_id
from lpi.errors import CheckpointError, ConfigError, OutputError, UnknownNameError
from lpi.methods.checkpoint import save_method
from lpi.search import Filters, SearchIndex, migration
from lpi.search.building import move_root
from lpi.search.manifest import read_manifest, successor
from lpi.search.migration import Budget, Move, abandon, begin, migrate
from lpi.search.writer import change
from lpi.storage import read_json, write_json
from lpi.tasks.stream import TaskStream
from lpi.trainer import learn_task

PICTURES = 120


def turned(source: Path, target: Path) -> Path:
    """The same CLIP with both its projections turned by one rotation: another model that ranks exactly alike."""
    shutil.copytree(source, target)
    model = CLIPModel.from_pretrained(source)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    with torch.no_grad():
        for projection in (model.visual_projection, model.text_projection):
            projection.weight.copy_(turn @ projection.weight)
    model.save_pretrained(target)
    return target


class Moving(World):
    """A world of 120 pictures, and models to move to: ``newer`` (other towers, wider, two tasks) and ``turned``."""

    newer: Path
    turned: Path
    plain: Path

    def take(self, other: "Moving") -> "Moving":
        self.newer, self.turned, self.plain = other.newer, other.turned, other.plain
        return self

    def go(self, model: Path | str | None = None, **options: Any) -> Move:
        begin(self.index, model, device="cpu")
        return migrate(self.index, device="cpu", **options)

    def open(self) -> SearchIndex:
        return SearchIndex.open(self.index, device="cpu")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, stream: TaskStream) -> dict[str, Moving]:
    """Two indexes of the same pictures: with a model of two tasks, and with a plain backbone."""
    root = tmp_path_factory.mktemp("world")
    made = World.make(root, stream)
    world = Moving(root)
    world.captioned = made.captioned
    for number in range(5):
        for task, colours in COLOURS.items():
            for colour in colours:
                for shape in SHAPES:
                    world.paint(f"{task}/{colour}/{shape}-{number}.png", colour, shape, number)
    shutil.rmtree(root / "photos" / "copies", ignore_errors=True)
    for file in world.photos.glob("*/*/[a-z]*[a-z].png"):
        file.unlink()  # the same as those with number 3
    world.plain = root / "clip"
    world.turned = turned(root / "clip", root / "turned")
    world.newer = root / "newer"
    method = lpi.method("lpi", lpi.backbone(tiny.tiny_siglip(root / "siglip")), **HARD)
    for task in stream.tasks[:2]:
        learn_task(method, task, settings=QUICK, seed=0)
    save_method(method, world.newer)
    taught = Moving(root).take(world)
    taught.index = root / "taught"
    taught.build(taught.index, taught.model)
    plain = Moving(root).take(world)
    plain.index = root / "frozen"
    plain.build(plain.index, plain.plain)
    return {"taught": taught, "plain": plain}


def spoiled(world: Moving, root: Path) -> Moving:
    """The same world elsewhere, to be changed."""
    mine = Moving(root).take(world)
    shutil.copytree(world.photos, mine.photos)
    shutil.copytree(world.index, mine.index)
    move_root(mine.index, mine.photos)
    mine.model, mine.captioned = world.model, world.captioned
    return mine


@pytest.fixture
def mine(worlds: dict[str, Moving], tmp_path: Path) -> Moving:
    """With a model of two tasks."""
    return spoiled(worlds["taught"], tmp_path)


@pytest.fixture(scope="module")
def halfway(worlds: dict[str, Moving], tmp_path_factory: pytest.TempPathFactory) -> Moving:
    """On its way to the newer model: half of the pictures have a new vector."""
    world = spoiled(worlds["taught"], tmp_path_factory.mktemp("halfway"))
    done = world.go(world.newer, budget=Budget(pictures=PICTURES // 2))
    assert (done.embedded, done.ready, done.searched, done.finished) == (60, 60, True, False)
    return world


@pytest.fixture
def half(halfway: Moving, tmp_path: Path) -> Moving:
    """The same elsewhere, to be changed."""
    return spoiled(halfway, tmp_path)


@pytest.fixture
def bare(worlds: dict[str, Moving], tmp_path: Path) -> Moving:
    """With a plain backbone."""
    return spoiled(worlds["plain"], tmp_path)


@pytest.fixture(scope="module")
def rebuilt(worlds: dict[str, Moving], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``lpi index`` makes of the same folder with the newer model."""
    place = tmp_path_factory.mktemp("rebuilt") / "index"
    return vectors_of(worlds["taught"].build(place, worlds["taught"].newer))


def vector_of(row: tuple[Any, ...]) -> torch.Tensor:
    """The vector of one of the rows that :func:`vectors_of` gives."""
    return torch.frombuffer(bytearray(row[-1]), dtype=torch.float32)


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_in_the_end_it_is_what_the_new_model_would_have_made_of_the_folder(
    half: Moving, rebuilt: dict[str, Any]
) -> None:
    mine = half
    steps = [mine.go(budget=Budget(pictures=20)), mine.go()]
    assert [(step.embedded, step.ready, step.finished) for step in steps] == [(20, 80, False), (40, PICTURES, True)]
    index = mine.open()
    assert vectors_of(index) == rebuilt
    assert index.manifest.width == 32
    assert (index.tasks, len(index.stages()), len(index)) == (["warm", "cold"], 1, PICTURES)
    assert not (mine.index / "next").exists()
    assert len(index.search_text("a dot", PICTURES)) == PICTURES
    assert mine.update().embedded == 0


def test_the_old_vectors_go_a_day_later_or_when_asked_for(half: Moving) -> None:
    mine = half
    mine.go()
    store = read_manifest(mine.index).store
    with change(mine.index, device="cpu"):
        assert (mine.index / "store").exists(), "somebody may be reading them"
    yesterday = (datetime.now(tz=timezone.utc) - timedelta(days=1)).isoformat()
    replace(read_manifest(mine.index), outdated=(("store", yesterday),)).write(mine.index)
    with change(mine.index, device="cpu"):
        assert not (mine.index / "store").exists()
    assert read_manifest(mine.index).outdated == ()
    replace(read_manifest(mine.index), outdated=((store, yesterday),)).write(mine.index)  # as an earlier version might
    with change(mine.index, device="cpu"):
        assert (mine.index / store).exists(), "it counts"
    mine.go(mine.model)
    with change(mine.index, device="cpu") as writer:
        writer.tidy()
    names = sorted(path.name for path in mine.index.glob("store*"))
    assert len(names) == 1
    assert names[0] != store
    assert len(list((mine.index / "models").iterdir())) == 1
    assert len(mine.open().search_text("a dot", 200)) == PICTURES


def test_a_model_that_it_had_before_takes_no_tables_away(mine: Moving) -> None:
    mine.go(mine.newer)
    with change(mine.index, device="cpu") as writer:
        writer.forget("cold")
    index = mine.open()
    assert mine.go(mine.newer).finished, "back to the model as it came"
    assert len(index.search_text("a dot", 200)) == PICTURES, "it reads the tables that counted"
    mine.go(mine.model)
    mine.go(mine.newer)
    manifest = read_manifest(mine.index)
    stores = [store for store, _ in manifest.outdated]
    assert manifest.store not in stores
    assert len(set(stores)) == len(stores) == 4
    yesterday = (datetime.now(tz=timezone.utc) - timedelta(days=1)).isoformat()
    replace(manifest, outdated=tuple((store, yesterday) for store in stores)).write(mine.index)
    with change(mine.index, device="cpu"):
        assert [path.name for path in mine.index.glob("store*")] == [manifest.store]
    assert len(mine.open().search_text("a dot", 200)) == PICTURES


def test_what_is_left_out_stays_out_and_domains_are_learned_as_the_new_run_learned(mine: Moving) -> None:
    run = mine.root / "run"
    shutil.copytree(mine.newer, run / "model")
    settings = {"name": "x", "stream": {"kind": "scenes"}, "training": {"epochs": 7}}
    write_json(run / "run.json", {"experiment": "x", "row": "lpi", "settings": settings})
    with change(mine.index, device="cpu") as writer:
        writer.leave_out(["*dot*"])
    pictures = mine.update().pictures
    mine.go(run)
    assert (read_manifest(mine.index).exclude, read_manifest(mine.index).training) == (("*dot*",), {"epochs": 7})
    assert mine.update().pictures == pictures < PICTURES


def test_who_begins_last_spoils_nothing_of_who_began_first(mine: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = migration.load_model

    def while_another_begins(*what: Any) -> Any:
        monkeypatch.setattr(migration, "load_model", loads)
        mine.go(mine.newer, budget=Budget(pictures=20))
        return loads(*what)

    monkeypatch.setattr(migration, "load_model", while_another_begins)
    with pytest.raises(OutputError, match=r"another command set .* on its way just now"):
        begin(mine.index, mine.newer, device="cpu")
    assert mine.go().embedded == PICTURES - 20


def test_a_small_index_is_searched_with_the_old_model_until_the_move_is_done(mine: Moving) -> None:
    for file in sorted(mine.photos.rglob("*.png"))[30:]:
        file.unlink()
    mine.update()
    index = mine.open()
    before = index.search_text("a dot", 30)
    done = mine.go(mine.newer, budget=Budget(pictures=19))
    assert (done.searched, done.finished, done.embedded) == (False, False, 19)
    assert index.refresh()
    assert index.search_text("a dot", 30) == mine.open().search_text("a dot", 30) == before
    done = mine.go()
    assert (done.searched, done.finished, done.embedded) == (True, True, 11)


# ---- meanwhile -------------------------------------------------------------------------------------------------------


def test_meanwhile_every_picture_is_found_once_under_its_newest_vector(
    halfway: Moving, rebuilt: dict[str, Any]
) -> None:
    index = halfway.open()
    pair = index._pair
    assert pair is not None
    ready = set(pair.new.rows.columns("id")["id"])
    query = pair.new.method.encode_texts(["a red dot"])[0]
    scores = {key: float(vector_of(own) @ query) for key, own in rebuilt.items()}
    for k in (1, 5, 24, PICTURES):
        hits = index.search_text("a red dot", k)
        assert len({hit.id for hit in hits}) == len(hits) == k
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        if hit.id in ready:
            assert hit.score == pytest.approx(scores[hit.id], abs=1e-5)
    over, scale = pair.bridge.carry(query)
    old = vectors_of(index, stage=0)
    for hit in hits:
        if hit.id not in ready:
            assert hit.score == pytest.approx(scale(float(over @ vector_of(old[hit.id]))), abs=1e-4)


def test_over_the_bridge_to_a_turned_space_rankings_are_those_of_the_new_model(bare: Moving) -> None:
    before = bare.open()
    words = ["a red dot", "teal bar", "black tip", "gold box"]
    picture = bare.photos / "cold" / "teal" / "bar-1.png"
    expected = [{hit.id for hit in before.search_text(text, 10)} for text in words]  # a turned model ranks alike
    done = bare.go(bare.turned, budget=Budget(pictures=60))
    assert (done.searched, done.finished, done.ready) == (True, False, 60)
    index = bare.open()
    for text, wanted in zip(words, expected, strict=True):
        assert len(wanted & {hit.id for hit in index.search_text(text, 10)}) >= 8
    assert index.search_image(picture, 1)[0].id == content_id(picture)
    assert sorted(text for text, _ in index.rank_captions(picture, words)) == sorted(words)
    assert bare.go(budget=Budget(seconds=0)).embedded == 0


def test_a_snapshot_follows_there_and_back_and_to_the_end(bare: Moving) -> None:
    index = bare.open()
    before = index.search_text("a red dot", 5)
    query = index.encode_texts(["a red dot"])[0]
    bare.go(bare.turned, budget=Budget(pictures=60))
    assert index.search_text("a red dot", 5) == before, "it knows of nothing yet"
    assert index.refresh()
    assert index.encode_texts(["a red dot"])[0].model != query.model
    assert index.find(query, 5) == before, "an old query still finds old vectors"
    later = index.encode_texts(["a red dot"])[0]
    bare.go()
    assert len(index.search_text("a red dot", PICTURES)) == PICTURES, "what it reads is still there"
    assert index.refresh()
    assert not index.refresh()
    expected = bare.open().search_text("a red dot", 5)
    assert index.search_text("a red dot", 5) == index.find(later, 5) == expected
    with pytest.raises(ConfigError, match="no longer the model that encoded this query"):
        index.find(query, 5)


def test_what_comes_goes_and_moves_in_the_folder_is_taken_in_meanwhile(half: Moving) -> None:
    mine = half
    (mine.photos / "warm" / "red" / "dot-0.png").unlink()
    (mine.photos / "warm" / "red" / "box-0.png").rename(mine.photos / "here.png")
    fresh = mine.photos / "fresh.png"
    shutil.copy(mine.photos / "cold" / "teal" / "bar-1.png", fresh)
    fresh.write_bytes(fresh.read_bytes() + b"\0")  # another content, the same picture
    (mine.photos / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(OutputError, match="on its way to another model"):
        mine.update()
    done = mine.go(budget=Budget(pictures=1))
    assert (done.embedded, done.pictures, done.finished) == (1, PICTURES, False)
    index = mine.open()
    found = {hit.path for hit in index.search_text("a dot", 200)}
    assert {"fresh.png", "here.png"} <= found, "what is new comes first"
    assert not {"warm/red/dot-0.png", "warm/red/box-0.png"} & found
    key = content_id(fresh)
    assert index.picture(key).path == "fresh.png"
    assert index.path(key) == fresh
    near = index.similar(key, 200)
    assert len({hit.id for hit in near}) == len(near) == PICTURES - 1
    assert key not in {hit.id for hit in near}
    done = mine.go()
    assert (done.finished, done.ready) == (True, PICTURES)
    assert list(done.skipped) == ["broken.png"]
    assert read_json(mine.index / "skipped.json") == done.skipped
    assert vectors_of(mine.open()) == vectors_of(mine.build(mine.root / "again", mine.newer))


def test_a_cameras_date_is_told_of_what_came_meanwhile(half: Moving) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:04 12:30:00"
    Image.new("RGB", (40, 40), "teal").save(half.photos / "late.jpg", exif=exif)
    half.go(budget=Budget(pictures=1))
    assert half.open().taken(content_id(half.photos / "late.jpg")) == "2019-07-04T12:30:00"


def test_filters_and_earlier_stages_work_meanwhile(worlds: dict[str, Moving], halfway: Moving) -> None:
    before = worlds["taught"].open().search_text("a dot", 7)
    index = halfway.open()
    assert index.search_text("a dot", 7, stage=0) == before
    everything = index.search_text("a dot", PICTURES)
    cold = [hit for hit in everything if hit.path.startswith("cold/")]
    assert index.search_text("a dot", PICTURES, Filters(folder="cold")) == cold
    assert len(cold) == 40
    for task in ("warm", "cold"):
        expected = {hit.id for hit in everything if hit.task == task}
        assert {hit.id for hit in index.search_text("a dot", PICTURES, Filters(task=task))} == expected
    with pytest.raises(UnknownNameError, match=r"No domain is called 'wram'\. Did you mean 'warm'"):
        index.search_text("a dot", filters=Filters(task="wram"))
    with pytest.raises(ConfigError, match="scoring must be plain"):
        index.search_text("a dot", scoring="routed")
    with pytest.raises(ConfigError, match="k must be at least 1; got 0"):
        index.search_text("a dot", 0)


# ---- cut short -------------------------------------------------------------------------------------------------------


def test_killed_while_embedding_it_goes_on_and_ends_the_same(mine: Moving, rebuilt: dict[str, Any]) -> None:
    script = (
        "import os, signal, sys\n"
        "from lpi.search.migration import begin, migrate\n"
        "seen = [0]\n"
        "def count(what, done, total):\n"
        "    seen[0] += what == 'embedding pictures'\n"
        "    if seen[0] == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "begin(*sys.argv[1:], device='cpu')\n"
        "migrate(sys.argv[1], device='cpu', keep_seconds=0, on_progress=count)\n"
    )
    words = [sys.executable, "-c", script, str(mine.index), str(mine.newer)]
    source = {**os.environ, "PYTHONPATH": str(Path(lpi.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=source, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(mine.open().search_text("a dot", 200)) == PICTURES
    move = mine.go(mine.newer)
    assert move.finished
    assert move.embedded == PICTURES - 2 * read_manifest(mine.index).batch, "what was kept is not embedded again"
    assert vectors_of(mine.open()) == rebuilt


def test_cut_short_while_it_begins_it_begins_again(mine: Moving) -> None:
    begin(mine.index, mine.newer, device="cpu")
    (mine.index / "next" / "index.json").unlink()  # written last
    assert len(mine.open().search_text("a dot", 200)) == PICTURES
    assert mine.update().embedded == 0
    assert mine.go(mine.newer).finished


def test_cut_short_while_it_cleans_up_the_new_model_counts(half: Moving, rebuilt: dict[str, Any]) -> None:
    mine = half
    shutil.copytree(mine.index / "next", mine.root / "next")
    mine.go()
    shutil.copytree(mine.root / "next", mine.index / "next")  # as if it had been killed before that was taken away
    index = mine.open()
    assert successor(mine.index, index.manifest) is None
    assert vectors_of(index) == rebuilt
    assert {hit.id for hit in index.search_text("a dot", 200)} == set(rebuilt)
    assert mine.update().embedded == 0
    with pytest.raises(ConfigError, match="isn't on its way to another model"):
        mine.go()
    begin(mine.index, mine.plain, device="cpu")
    assert read_manifest(mine.index / "next").current.pictures == 0


def test_given_up_it_is_as_it_was(worlds: dict[str, Moving], half: Moving) -> None:
    mine, before = half, vectors_of(worlds["taught"].open())
    manifest = (mine.index / "index.json").read_bytes()
    index = mine.open()
    abandon(mine.index)
    assert index.refresh()
    assert vectors_of(mine.open()) == vectors_of(index) == before
    assert (mine.index / "index.json").read_bytes() == manifest
    assert [path.name for path in mine.index.glob("store*")] == ["store"]
    assert mine.update().embedded == 0
    with pytest.raises(ConfigError, match="There is nothing to give up"):
        abandon(mine.index)


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_a_model_to_move_to_is_needed_and_must_be_another(worlds: dict[str, Moving]) -> None:
    mine = worlds["taught"]
    with pytest.raises(ConfigError, match=r"isn't on its way to another model\. Say to which one with --model"):
        mine.go()
    with pytest.raises(ConfigError, match=r"has the model .*model already"):
        mine.go(mine.model)


def test_models_that_do_not_match_are_refused_by_name(half: Moving) -> None:
    mine = half
    with pytest.raises(CheckpointError, match=r"next was made with another model than lpi-tiny"):
        mine.go("lpi-tiny")


def test_what_an_earlier_version_left_of_a_bridge_is_no_matter(half: Moving, rebuilt: dict[str, Any]) -> None:
    write_json(half.index / "next" / "bridge.json", {"format": 1, "kind": "affine", "tensors": "0" * 16})
    (half.index / "next" / f"bridge-{'0' * 16}.safetensors").write_bytes(b"")
    assert len(half.open().search_text("a dot", 200)) == PICTURES
    assert half.go().finished
    assert vectors_of(half.open()) == rebuilt


def test_a_budget_is_pictures_or_a_time() -> None:
    assert Budget.read(None) == Budget()
    assert Budget.read("500") == Budget(pictures=500)
    assert [Budget.read(text).seconds for text in ("90s", "1.5m", " 2h ")] == [90.0, 90.0, 7200.0]
    for wrong in ("1.5", "-3", "ten", "3d", ""):
        with pytest.raises(ConfigError, match="budget must be a number of pictures, or a time"):
            Budget.read(wrong)


# ---- typed -----------------------------------------------------------------------------------------------------------


def test_the_command_says_how_far_it_is_and_with_which_model_searches_go_on(bare: Moving, type_command: Type) -> None:
    mine = bare
    at = ("--index", mine.index)
    common = ("migrate", *at, "--device", "cpu")
    ended = type_command(*common, "--model", mine.turned, "--budget", 50)
    assert ended.code == 0, ended.err
    assert "50 of 120 pictures have a new vector; 50 embedded" in ended.out
    assert ended.out.endswith(
        "Searches go on with the old model until more are embedded. The same command goes on from here.\n"
    )
    assert "Searches go on with the new model now." in type_command(*common, "--budget", 10).out
    assert type_command("index", mine.photos, *at).err.startswith(f"lpi: {mine.index} is on its way to another model.")
    hits = json.loads(type_command("search", "a dot", *at, "--json", "-k", 200).out)["hits"]
    assert len(hits) == PICTURES
    assert "the other options out" in type_command(*common, "--abandon", "--budget", 3).err
    done = json.loads(type_command(*common, "--json").out)
    assert (done["finished"], done["searched"], done["ready"]) == (True, True, PICTURES)
    assert "nothing to give up" in type_command(*common, "--abandon").err
