"""'lpi doctor FOLDER': no spoilt byte of a run, a comparison, a lesson or a saved model stays unnoticed."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Type, refused, without_durations
from search_world import QUICK, World

from lpi.config import read_experiment
from lpi.damage import examine
from lpi.evaluation.results import collect, write_tables
from lpi.evaluation.scheduler import make_cells, run_cells, variants_of
from lpi.search.teaching import learn, read_domain
from lpi.search.writer import change
from lpi.storage import read_json, read_sealed, sealed, write_json

EXPERIMENT = """
name = "small"
backbone = {clip}
stream = {{ kind = "folder", root = {root} }}
method = {{ name = "lpi", rank = 2, length = 4, clusters = 2, interaction_rank = 2 }}
training = {{ steps = 2, batch = 4, device = "cpu" }}
evaluation = {{ examples = 1, diagnostics = true }}
[rows.joint]
method = {{ name = "joint" }}
"""


@pytest.fixture(scope="module")
def compared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two rows."""
    place = tmp_path_factory.mktemp("compared")
    clip, root = (json.dumps(str(path)) for path in (world.root / "clip", world.captioned))
    (place / "small.toml").write_text(EXPERIMENT.format(clip=clip, root=root))
    settings = read_experiment(str(place / "small.toml"))
    variants = variants_of(settings, settings.variant_names())
    outcome = run_cells(make_cells(settings, variants, seeds=[0], orders=1, out=place), say=lambda line: None)
    found = collect(outcome)
    write_json(place / "small" / "compare.json", sealed(found.to_json()))
    write_tables(found, place / "small")
    return place / "small"


@pytest.fixture
def mine(compared: Path, tmp_path: Path) -> Path:
    shutil.copytree(compared, tmp_path / "small")
    return tmp_path / "small"


def changed(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A sealed file with something else in it, sealed again: damage that no checksum tells."""
    content = read_sealed(place)
    change(content)
    write_json(place, sealed(content))


def test_what_is_whole_is_said_to_be(mine: Path, type_command: Type) -> None:
    found = examine(mine)
    assert (found.wrong, found.notes) == ([], [])
    assert found.looked == {"comparison": 1, "run": 2, "saved method": 2}
    ended = type_command("doctor", mine)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "Looked at 1 comparison, 2 runs, 2 saved methods: all is as it was written.\n"
    assert json.loads(type_command("doctor", mine / "lpi", "--json").out) == {
        "looked_at": {"run": 1, "saved method": 1},
        "wrong": [],
        "notes": [],
    }


def test_no_spoilt_file_of_a_comparison_stays_unnoticed(mine: Path) -> None:
    chance, tried, runs = random.Random(5), 0, sorted(path.parent for path in mine.rglob("run.json"))
    for file in sorted(path for path in mine.rglob("*") if path.is_file() and path.name not in (".lock", "README.md")):
        spoilt = bytearray(whole := file.read_bytes())
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(7)
        if file.suffix == ".json" and same_but_for_durations(bytes(spoilt), whole):
            continue
        file.write_bytes(spoilt)
        found, tried = examine(next((run for run in runs if file.is_relative_to(run)), mine)), tried + 1
        assert found.wrong, file
        assert all("\n" not in line and line.endswith(".") for line in found.wrong), found.wrong
        file.write_bytes(whole)
    assert tried > 20
    assert examine(mine).wrong == []


def same_but_for_durations(one: bytes, other: bytes) -> bool:
    try:
        return bool(without_durations(json.loads(one)) == without_durations(json.loads(other)))
    except ValueError:
        return False


def test_files_that_are_gone_are_named(mine: Path) -> None:
    run = mine / "lpi" / "seed-0"
    for name, said in (
        ("tasks.json", "tasks.json isn't what the run wrote"),
        ("model/config.json", "config.json is not there"),
        ("run.json", "its run.json is gone"),
    ):
        kept = (run / name).read_bytes()
        (run / name).unlink()
        assert any(said in line for line in examine(mine).wrong), name
        (run / name).write_bytes(kept)
    shutil.rmtree(run / "stages")
    assert any("none of the stages" in line for line in examine(run).wrong)


def test_records_that_fit_neither_each_other_nor_the_settings(mine: Path) -> None:
    run = mine / "lpi" / "seed-0"
    first, second = sorted((run / "stages").glob("*.json"))[:2]
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def names(*said: str) -> None:
        lines = "\n".join(examine(mine).wrong)
        assert all(words in lines for words in said), (said, lines)
        for path, content in kept.items():
            path.write_bytes(content)

    changed(run / "result.json", lambda own: own["final"].update(r1=0.987))
    names("result.json: its 'final' isn't what its stages come to", "row 'lpi' isn't what")
    first.write_bytes(second.read_bytes())
    names(f"{first.name} is of another stage or task")
    changed(run / "model" / "config.json", lambda own: own["options"].update(rank=3))
    names("the options in run.json and in model/config.json differ", "don't fit the options")
    changed(run / "model" / "config.json", lambda own: own["options"].update(gone=3))
    names(f"{run / 'model'}: method 'lpi' has no option 'gone'")
    changed(run / "model" / "config.json", lambda own: own.update(method="zero_shot"))
    names("run.json says 'lpi', the model is 'zero_shot'")
    changed(run / "run.json", lambda own: own["backbone"].update(identity="0" * 16))
    names("made for another backbone than run.json names")
    changed(run / "run.json", lambda own: own["stream"]["tasks"].reverse())
    names("the model knows", "the run's tasks are")


def test_a_table_that_was_changed_is_named(mine: Path) -> None:
    (mine / "compare.md").write_text((mine / "compare.md").read_text().replace("lpi", "lpj"))
    assert [line for line in examine(mine).wrong if "compare.md isn't what compare.json comes to" in line]


def test_a_run_that_was_cut_short_is_whole_and_its_progress_is_looked_at(mine: Path) -> None:
    run = mine / "lpi" / "seed-0"
    for name in ("result.json", "files.json", "tasks.json", "examples.json"):
        (run / name).unlink()
    last = sorted((run / "stages").glob("*.json"))[-1]
    last.unlink()
    assert examine(run).wrong == []
    (run / "progress.pt").write_bytes(b"half of it")
    assert ["progress.pt is damaged" in line for line in examine(run).wrong] == [True]


def test_a_damaged_folder_ends_with_one_and_a_line_for_each(mine: Path, type_command: Type) -> None:
    (mine / "lpi" / "seed-0" / "log.jsonl").write_bytes(b"{}\n")
    ended = type_command("doctor", mine)
    lines = ended.out.splitlines()
    assert ended.code == 1
    assert [line.split(":")[0] for line in lines] == [
        "wrong",
        "wrong",
        "Looked at 1 comparison, 2 runs, 2 saved methods",
    ]
    assert "log.jsonl" in lines[0]
    assert lines[-1].endswith("2 damaged or not fitting.")


def test_a_model_of_ones_own_and_a_backbone_that_is_away_are_notes(mine: Path, tmp_path: Path) -> None:
    model = mine / "lpi" / "seed-0" / "model"
    changed(model / "config.json", lambda own: own.update(method="mine.py"))
    found = examine(model)
    assert found.wrong == []
    assert "was saved by a method of its own, 'mine.py'" in found.notes[0]
    changed(model / "config.json", lambda own: own.update(method="lpi", backbone={**own["backbone"], "name": "/away"}))
    found = examine(model)
    assert found.wrong == []
    assert "only its files were looked at" in found.notes[0]


def test_an_index_and_its_lessons(world: World, tmp_path: Path) -> None:
    own = world.copy(tmp_path)
    with change(own.index, device="cpu") as writer:
        lesson = learn(writer, read_domain(own.captioned / "dull", "dull"), settings=QUICK)
    assert examine(own.index).wrong == []
    assert examine(own.index).looked["lesson"] == 1
    changed(lesson.place / "learned.json", lambda content: content.update(task="another"))
    assert ["of different tasks" in line for line in examine(own.index).wrong] == [True]
    spoilt = next((lesson.place / "model" / "tasks").glob("*.safetensors"))
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    assert any(str(spoilt) in line for line in examine(own.index).wrong)
    shutil.rmtree(lesson.place)
    (own.index / "index.json").write_bytes(b"{")
    assert ["index.json is damaged" in line for line in examine(own.index).wrong] == [True]


def test_what_holds_nothing_of_ours_is_refused(tmp_path: Path, type_command: Type) -> None:
    refused(type_command("doctor", tmp_path), "no run, comparison, index, lesson or saved method is in it")
    refused(type_command("doctor", tmp_path / "away"), "there is no such folder")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    refused(type_command("doctor", tmp_path), "no run, comparison")
    assert read_json(tmp_path / "config.json")
