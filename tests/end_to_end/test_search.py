"""From a folder of pictures to search, teaching and back again, on the command line; and what people get wrong."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Type, refused
from search_world import World, vectors_of

import lpi
from lpi.data.scenes import load_scenes
from lpi.search import SearchIndex
from lpi.search.building import create
from lpi.search.manifest import read_manifest
from lpi.search.writer import change


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    return world.copy(tmp_path)


def test_the_whole_way(world: World, tmp_path: Path, type_command: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = world.copy(tmp_path)
    place = tmp_path / "new"
    monkeypatch.setenv("LPI_INDEX", str(place))
    (mine.photos / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    ended = type_command("index", mine.photos, "--model", mine.model, "--tests", mine.captioned)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("24 pictures: 24 new, 0 moved, 0 gone; 24 embedded in ")
    assert "skipped: cut.jpg: the picture can't be read" in ended.out
    again = type_command("index", mine.photos, "--model", mine.model, "--json")
    assert json.loads(again.out)["embedded"] == 0

    ended = type_command("search", "a gray dot", "--count", 3)
    assert len(ended.out.splitlines()) == 3
    assert "% sure)" in ended.out
    assert ended.err.startswith("answered by: ")
    found = json.loads(type_command("search", "a gray dot", "--json", "--folder", "dull", "--exact").out)
    assert (found["stage"], found["query"]) == (0, "a gray dot")
    assert {route["task"] for route in found["routes"]} <= {"warm", "cold"}
    assert sum(route["weight"] for route in found["routes"]) == pytest.approx(1.0)
    hits = found["hits"]
    assert len(hits) == 8
    assert set(hits[0]) == {
        *("id", "path", "copies", "score", "task", "confidence", "margin", "date", "width", "height"),
        "fit",
    }
    picture = mine.photos / "dull" / "gray" / "dot.png"
    assert type_command("search", "--image", picture, "-k", 1).out.startswith("1.000  dull/gray/dot.png")
    ended = type_command("search", "a dot", "--until", "2001-01-01")
    assert (ended.code, ended.out, ended.err) == (0, "", "No picture fits these filters.\n")
    captions = tmp_path / "captions.txt"
    captions.write_text("a gray dot\n\nteal bar\n")
    ended = type_command("caption", picture, "--captions", captions, "--caption", "red box")
    assert len(ended.out.splitlines()) == 3

    teach = ["teach", "dull", mine.captioned / "dull", "--set", "steps=3", "--set", "batch=8"]
    before = (place / "index.json").read_bytes()
    ended = type_command(*teach, "--dry-run")
    assert "dull (new)" in ended.out
    assert "Test captions that find their picture, per cent, among 48 pictures:" in ended.out, "24 and 3 times 8 tests"
    assert "must be embedded again" in ended.out
    option = "--even-if-worse" if "warning: " in ended.err else "--yes"
    assert ended.out.endswith(f"Not adopted. The same command with {option} adopts it without learning again.\n")
    assert (place / "index.json").read_bytes() == before
    record = json.loads(type_command(*teach, "--even-if-worse", "--json").out)
    assert record["stage"]["number"] == 1
    assert record["stage"]["embedded"] == record["reembed"]
    assert set(record["recall"]["old"]) == {"warm", "cold"}
    assert len(json.loads(type_command("search", "a dot", "--json", "--stage", 0, "-k", 30).out)["hits"]) == 24
    assert type_command("forget", "dull").out.startswith("Stage 2: 24 pictures, 0 embedded")
    assert type_command("rollback").out.startswith("Stage 3: 24 pictures, 0 embedded")
    ended = type_command("stages")
    assert [row in ended.out for row in ("teach dull", "forget dull", "rollback")] == [True] * 3
    assert [stage["number"] for stage in json.loads(type_command("stages", "--json").out)] == [0, 1, 2, 3]


def test_mistakes_are_one_line_and_exit_code_2(mine: World, type_command: Type, tmp_path: Path) -> None:
    at = ("--index", mine.index)
    refused(type_command("index", tmp_path / "away", *at), "away", "there is no such folder")
    assert "drawn pictures only" in type_command("index", mine.photos, "--index", tmp_path / "n").err
    refused(type_command("index", mine.photos, "--index", mine.photos, "--model", mine.model), "holds other things")
    refused(type_command("index", mine.captioned, *at), "the index is of", mine.photos, "--moved")
    refused(type_command("index", mine.photos, *at, "--model", mine.root / "nowhere"), "no such model folder")
    refused(type_command("index", mine.photos, *at, "--model", "lpi-tiny"), "made with another model than lpi-tiny")
    refused(type_command("index", mine.photos, *at, "--tests", tmp_path / "no"), "there is no such file or folder")
    refused(type_command("search", *at), "words or --image, one of the two")
    refused(type_command("search", "a dot", "--index", tmp_path), "there is no index")
    refused(type_command("search", "a dot"), "missing option", "See 'lpi search --help'.")
    refused(type_command("search", "a dot", *at, "--task", "wram"), "Did you mean 'warm'?")
    refused(type_command("search", "a dot", *at, "--since", "May"), "got 'May'")
    refused(type_command("search", "a dot", *at, "--stage", 4), "stage must be between 0 and 0; got 4")
    refused(type_command("search", "--image", tmp_path / "no.png", *at), "no.png")
    refused(type_command("teach", "dull", tmp_path / "no", *at, "--yes"), "no such folder of captioned pictures")
    refused(type_command("teach", "warm", mine.captioned / "warm", *at, "--yes"), "task 'warm' was learned already")
    refused(type_command("teach", "x", mine.captioned / "dull", *at, "--yes", "--dry-run"), "--dry-run adopts nothing")
    refused(type_command("teach", "x", mine.captioned / "dull", *at, "--set", "epoch=2"), "Did you mean 'epochs'?")
    refused(type_command("teach", "x", mine.captioned / "dull", *at, "--set", "epochs"), "--set takes key=value")
    refused(type_command("forget", "dul", *at), "No task is called 'dul'")
    refused(type_command("rollback", *at), "this is the first")
    refused(type_command("caption", mine.photos / "warm" / "red" / "dot.png", *at), "no captions to rank")
    refused(type_command("stages", "--index", tmp_path / "no"), "there is no index")


def captioned_scenes(folder: Path) -> Path:
    """A domain that the embedded backbone knows well, as a captioned folder."""
    rows = []
    for number, record in enumerate(load_scenes(families=["food"], train=8, validation=0, test=8, held_out=0)):
        name = f"images/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        record.picture.open(64).save(folder / name)
        rows.append(json.dumps({"image": name, "captions": list(record.captions), "split": record.split}) + "\n")
    (folder / "captions.jsonl").write_text("".join(rows))
    return folder


def test_a_domain_that_gets_worse_is_not_adopted_unless_told_to(tmp_path: Path, type_command: Type) -> None:
    place, food = tmp_path / "new", captioned_scenes(tmp_path / "food")
    lpi.method("lpi", lpi.backbone("lpi-tiny")).save_pretrained(tmp_path / "steps")  # which knows no closed form
    type_command("index", food / "images", "--model", tmp_path / "steps", "--index", place)
    noise = ("--set", "steps=10", "--set", "batch=8", "--set", "learning_rate=3.0")
    teach = ("teach", "food", food, "--index", place, *noise)
    ended = type_command(*teach, "--yes")
    assert ended.code == 0
    assert re.search(r"warning: R@1 of food would fall from \S+ to \S+\n", ended.err)
    assert "with --even-if-worse adopts it" in ended.out
    assert SearchIndex.open(place, device="cpu").tasks == []
    record = json.loads(type_command(*teach, "--even-if-worse", "--json").out)
    assert len(record["losses"]) == 1
    assert SearchIndex.open(place, device="cpu").tasks == ["food"]


def test_nobody_to_ask_is_a_mistake_and_nothing_is_adopted(mine: World, type_command: Type) -> None:
    words = ("teach", "dull", mine.captioned / "dull", "--index", mine.index, "--set", "steps=1", "--json")
    ended = type_command(*words)
    refused(ended, "nobody is there to ask", "--yes")
    assert SearchIndex.open(mine.index, device="cpu").tasks == ["warm", "cold"]


def test_a_folder_that_moved_goes_on_under_its_new_path(mine: World, type_command: Type) -> None:
    mine.photos = mine.photos.rename(mine.root / "elsewhere")
    ended = type_command("index", mine.photos, "--index", mine.index, "--moved", "--json")
    assert (json.loads(ended.out)["embedded"], json.loads(ended.out)["pictures"]) == (0, 24)
    assert SearchIndex.open(mine.index, device="cpu").root == mine.photos


def test_killed_while_embedding_it_goes_on_and_ends_the_same(mine: World) -> None:
    place = mine.root / "killed"
    script = (
        "import os, signal, sys\n"
        "from lpi.search.building import create\nfrom lpi.search.writer import change\n"
        "def count(what, done, total):\n"
        "    if what == 'embedding pictures' and done >= 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "create(*sys.argv[1:], device='cpu', batch=4)\n"
        "with change(sys.argv[1], device='cpu', keep_seconds=0) as writer:\n"
        "    writer.update(on_progress=count)\n"
    )
    words = [sys.executable, "-c", script, str(place), str(mine.photos), str(mine.model)]
    source = {"PYTHONPATH": str(Path(lpi.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=source, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(SearchIndex.open(place, device="cpu")) == 0, "nothing counts yet"
    mine.index = place
    outcome = mine.update()
    assert (outcome.added, outcome.embedded) == (24, 12)
    create(mine.root / "whole", mine.photos, mine.model, device="cpu", batch=4)
    with change(mine.root / "whole", device="cpu") as writer:
        writer.update()
    killed, whole = (SearchIndex.open(folder, device="cpu") for folder in (place, mine.root / "whole"))
    assert vectors_of(killed) == vectors_of(whole)


def test_a_domain_is_taught_in_closed_form_at_once_and_deeper_afterwards(
    world: World, tmp_path: Path, type_command: Type
) -> None:
    place = tmp_path / "index"
    type_command("index", world.photos, "--index", place, "--model", world.root / "clip")
    width = read_manifest(place).width
    teach = ("teach", "dull", world.captioned / "dull", "--index", place)
    ended = type_command(*teach, "--even-if-worse")
    assert "In closed form:" in ended.out
    assert "With a change" not in ended.out
    index = SearchIndex.open(place, device="cpu")
    assert index.tasks == ["dull"]
    assert width > index.method().backbone.feature_width
    refused(type_command(*teach, "--yes"), "task 'dull' was learned already")
    lessons = ("--deeper", "--set", "steps=2", "--set", "batch=8")
    told = json.loads(type_command(*teach, *lessons, "--dry-run", "--json").out)
    assert list(told["lessons"]) == ["closed form", "deeper"]
    assert told["recall"] == told["lessons"][told["offered"]]["recall"]
    finds = {
        way: sum(own["recall"]["new"]["after"][key] for key in ("r1", "r10")) for way, own in told["lessons"].items()
    }
    assert finds[told["offered"]] == max(finds.values())
    learned = {file: file.stat().st_mtime_ns for file in (place / "lessons").rglob("learned.json")}
    assert len(learned) == 2, "both are kept, whichever is offered"
    type_command(*teach, *lessons, "--dry-run")
    assert {file: file.stat().st_mtime_ns for file in (place / "lessons").rglob("learned.json")} == learned
    deeper = type_command(*teach, "--deeper", "--set", "steps=2", "--set", "batch=8", "--even-if-worse")
    assert deeper.out.index("In closed form:") < deeper.out.index("With a change of the model:")
    assert [one.kind for one in SearchIndex.open(place, device="cpu").stages()] == ["index", "teach", "teach"]
    assert SearchIndex.open(place, device="cpu").tasks == ["dull"]
