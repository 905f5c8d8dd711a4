"""A folder that somebody else sent: whatever it names, none of its code runs and nothing outside it is touched."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from search_world import QUICK, World

from lpi.backbones import DualEncoder, load_backbone
from lpi.backbones.script_archive import is_script, read_script
from lpi.config import parse
from lpi.errors import BackboneError, CheckpointError, ConfigError, OutputError
from lpi.evaluation.resume import at_work, start_over
from lpi.evaluation.scheduler import changed
from lpi.methods import method
from lpi.methods.checkpoint import load_method, save_method
from lpi.search import SearchIndex
from lpi.search.manifest import check_place, read_manifest
from lpi.search.writer import change
from lpi.storage import read_sealed


@pytest.fixture
def mine(world: World, tmp_path: Path) -> World:
    world.build_once()
    return world.copy(tmp_path)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file of Python that leaves a mark when it runs."""
    file = tmp_path / "trap.py"
    file.write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').write('x')\n")
    return file


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def names(trap: Path) -> list[Any]:
    """What might be taken for the name of a method."""
    return [
        str(trap),
        "this",
        "trap",
        "lpi.cli.main",
        "lpi.methods.base",
        "base",
        "",
        None,
        5,
        ["lpi"],
        {"name": "lpi"},
    ]


def test_a_saved_model_names_no_code(
    trap: Path, clip: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    save_method(method("finetune", clip), tmp_path / "model")
    for name in names(trap):
        change_json(tmp_path / "model" / "config.json", method=name)
        with pytest.raises(CheckpointError, match="was saved by a method of its own"):
            load_method(tmp_path / "model", backbone=clip)
    assert not (tmp_path / "RAN").exists()
    assert not {"this", "trap"} & set(sys.modules)


def test_an_index_names_no_code(trap: Path, mine: World, tmp_path: Path) -> None:
    config = next((mine.index / "models").iterdir()) / "config.json"
    change_json(config, method=str(trap))
    with pytest.raises(CheckpointError, match="was saved by a method of its own"):
        SearchIndex.open(mine.index, device="cpu")
    with pytest.raises(CheckpointError, match="was saved by a method of its own"), change(mine.index, device="cpu"):
        pass
    assert not (tmp_path / "RAN").exists()


def test_tuned_settings_name_no_code(trap: Path) -> None:
    for key in ("method.name", "method", "method.name.x"):
        with pytest.raises(ConfigError, match="tuned settings of row 'lpi' name a method"):
            changed(parse({}, "e.toml"), {key: str(trap)}, "lpi")


def test_a_backbone_that_brings_code_is_refused(trap: Path, tmp_path: Path) -> None:
    folder = tiny.tiny_clip(tmp_path / "clip")
    shutil.copy(trap, folder / "trap.py")
    change_json(folder / "config.json", auto_map={"AutoModel": "trap.Trap"})
    change_json(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["trap.Trap", None]}, tokenizer_class="Trap"
    )
    load_backbone(folder)  # its code isn't needed
    change_json(folder / "config.json", vision_config={"attn_implementation": "somebody/kernels"})
    with pytest.raises(BackboneError, match="asks for the code 'somebody/kernels'"):
        load_backbone(folder)
    assert not (tmp_path / "RAN").exists()


class Writes(torch.nn.Module):
    """A program that writes a file when it is loaded."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.weight = place, torch.nn.Parameter(torch.ones(2))

    def forward(self) -> int:
        return 0

    @torch.jit.export
    def __getstate__(self) -> tuple[str, torch.Tensor, bool]:
        return self.place, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]) -> None:
        torch.save(state[1], state[0])
        self.place = state[0]
        self.weight = state[1]
        self.training = state[2]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_program_that_runs_when_it_is_loaded_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "RAN"
    torch.jit.script(Writes(str(mark))).save(str(tmp_path / "clip.pt"))
    torch.jit.load(str(tmp_path / "clip.pt"))
    assert mark.exists(), "this is what a program can do"
    mark.unlink()
    with pytest.raises(BackboneError, match=r"clip\.pt"):
        load_backbone(tmp_path / "clip.pt")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_the_tensors_of_an_archive_are_those_that_torch_would_load(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
            self.inner = torch.nn.Linear(2, 2).half()

        def forward(self) -> int:
            return 0

    torch.jit.script(Plain()).save(str(tmp_path / "plain.pt"))
    expected = torch.jit.load(str(tmp_path / "plain.pt")).state_dict()
    found = read_script(tmp_path / "plain.pt")
    assert is_script(tmp_path / "plain.pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ---- nothing outside is touched --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["../victim", "../../victim", "store/../../victim", "..", ".", "models", "s3://b/victim"]
)
def test_an_index_cannot_have_a_folder_elsewhere_deleted(place: str, mine: World) -> None:
    victim = mine.index.parent / "victim"
    victim.mkdir()
    (victim / "precious.txt").write_text("x")
    content = read_sealed(mine.index / "index.json") | {"outdated": [[place, "2020-01-01T00:00:00+00:00"]]}
    (mine.index / "index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"), change(mine.index, device="cpu"):
        pass
    assert (victim / "precious.txt").exists()


def test_an_index_reads_no_model_elsewhere(mine: World) -> None:
    content = read_sealed(mine.index / "index.json")
    content["stages"][0]["model"] = "../../model"
    (mine.index / "index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="no model is called"):
        read_manifest(mine.index)
    for name, size in (("batch", 10**9), ("batch", 0), ("width", "16"), ("width", True)):
        (mine.index / "index.json").write_text(
            json.dumps({**read_sealed(mine.index / "index.json"), **content, name: size})
        )
        with pytest.raises(CheckpointError, match="no width or batch is"):
            read_manifest(mine.index)
    content["stages"] = []
    (mine.index / "index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="it has no stages"):
        read_manifest(mine.index)


def test_a_folder_whose_names_are_like_those_of_an_index_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "tests").mkdir()
    with pytest.raises(OutputError, match="is no index and holds other things, first 'models'"):
        check_place(tmp_path)
    (tmp_path / "lock").touch()  # one that was cut short
    check_place(tmp_path)


@pytest.mark.parametrize("content", [None, "[]", '{"name": "x"}'])
def test_starting_over_deletes_no_folder_that_is_not_a_runs(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "seed-0"
    folder.mkdir()
    (folder / "precious.txt").write_text("x")
    if content is not None:
        (folder / "run.json").write_text(content)
    with pytest.raises(OutputError, match="is no folder of a run and holds other things, first '"):
        start_over(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(OutputError, match="is a link or a file"):
        start_over(link)
    assert (folder / "precious.txt").exists()


def test_starting_over_deletes_a_run_and_what_one_left_that_never_began(tmp_path: Path) -> None:
    for name, content in (
        ("run.json", json.dumps({"experiment": "e", "row": "r", "settings": {}})),
        (".run.json.x7", ""),
        ("error.txt", "no"),
    ):
        (tmp_path / "seed-0").mkdir()
        (tmp_path / "seed-0" / name).write_text(content)
        start_over(tmp_path / "seed-0")
        start_over(tmp_path / "seed-0")
        assert not (tmp_path / "seed-0").exists()


# ---- what can't be read isn't gone, and what is no file isn't opened -------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder that may not be listed, for the superuser either."""
    listing = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(os.fsdecode(path)) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_listed_keeps_its_pictures(mine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        forbid(patch, mine.photos / "warm")
        with change(mine.index, device="cpu") as writer:
            for rehash in (False, True):
                done = writer.update(rehash=rehash)
                assert (done.pictures, done.gone, done.moved) == (24, 0, 0)
                assert next(iter(done.skipped)) == "warm"
                assert "can't be looked into: Permission denied" in done.skipped["warm"]
            writer.tidy()
        assert json.loads((mine.index / "skipped.json").read_text()).keys() == {"warm"}
    done = mine.update()
    assert (done.pictures, done.embedded, done.skipped) == (24, 0, {})


def test_a_root_that_cannot_be_listed_or_goes_away_stops_the_update(
    mine: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lpi.errors import DataError, MissingFileError

    with monkeypatch.context() as patch:
        forbid(patch, mine.photos)
        with pytest.raises(DataError, match="can't be looked into: Permission denied"):
            mine.update(emptied=True)

    def unmount(what: str, done: int, total: int) -> None:
        if what == "looking at files" and done == 1:
            mine.photos.rename(mine.photos.with_name("away"))
            mine.photos.mkdir()

    with pytest.raises(MissingFileError, match="went away while it was looked at"):
        mine.update(rehash=True, on_progress=unmount)


def test_a_picture_that_cannot_be_read_for_a_moment_is_not_gone(mine: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = mine.photos / "warm" / "red" / "dot.png"
    opening = Path.open

    def open_path(self: Path, *args: Any, **options: Any) -> Any:
        if self == file:
            raise PermissionError(13, "Permission denied", str(self))
        return opening(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_path)
        done = mine.update(rehash=True)
    assert (done.pictures, done.gone) == (24, 0)
    assert done.skipped == {"warm/red/dot.png": "it can't be read: Permission denied"}
    file.rename(mine.root / "dot.png")
    file.symlink_to(mine.root / "not-connected.png")
    assert (mine.update().gone, mine.update().pictures) == (0, 24)
    file.unlink()
    assert mine.update().gone == 1


def test_what_is_no_file_is_passed_over_by_name(mine: World) -> None:
    os.mkfifo(mine.photos / "pipe.jpg")
    (mine.photos / "device.png").symlink_to("/dev/zero")
    done = mine.update()
    assert done.pictures == 24
    assert set(done.skipped) == {"pipe.jpg", "device.png"}
    assert all("a pipe, a socket or a device" in reason for reason in done.skipped.values())


def test_a_pipe_in_the_place_of_a_picture_or_of_json_is_not_opened(mine: World, tmp_path: Path) -> None:
    from lpi.data.records import FilePicture
    from lpi.errors import DataError
    from lpi.storage import read_json

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="a pipe, a socket or a device"):
        FilePicture(tmp_path / "pipe", "pipe").open()
    with pytest.raises(CheckpointError, match="a pipe, a socket or a device"):
        read_json(tmp_path / "pipe")


def test_tuned_settings_name_no_router_from_elsewhere(trap: Path, tmp_path: Path) -> None:
    experiment = parse({"name": "x"}, "x.toml")
    for name in (str(trap), "this", 5):
        with pytest.raises(ConfigError, match="name a router"):
            changed(experiment, {"method.router": name}, "lpi")
    assert changed(experiment, {"method.router": "whitened"}, "lpi").method["router"] == "whitened"
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *[("options", []), ("options", {"name": "x"}), ("tasks", ["a", "a"]), ("tasks", 5), ("files", [])],
        *[("files", 5), ("files", ["/etc/passwd", "b"]), ("shared", "../x"), ("shared", True)],
    ],
)
def test_a_saved_model_of_another_shape_is_refused_by_the_part(
    part: str, value: Any, mine: World, clip: DualEncoder, tmp_path: Path
) -> None:
    shutil.copytree(mine.model, tmp_path / "spoiled")
    change_json(tmp_path / "spoiled" / "config.json", **{part: value})
    with pytest.raises(CheckpointError, match=f"its '{part}' can't be right"):
        load_method(tmp_path / "spoiled")


def test_starting_over_leaves_what_no_run_wrote(tmp_path: Path) -> None:
    run = tmp_path / "seed-0"
    run.mkdir()
    (run / "thesis.txt").write_text("precious")
    for text in ("precious", json.dumps({"experiment": "x", "row": "y", "settings": {}})):
        (run / "run.json").write_text(text)
        with pytest.raises(OutputError, match=r"'thesis\.txt'"):
            start_over(run)
        assert (run / "thesis.txt").read_text() == "precious"
    (run / "thesis.txt").unlink()
    start_over(run)
    assert not run.exists()


def test_a_pipe_among_captioned_pictures_is_not_waited_for(mine: World, tmp_path: Path) -> None:
    from lpi.data.content import content_id, content_ids
    from lpi.errors import DataError
    from lpi.search.teaching import learn, read_domain

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        content_id(tmp_path / "pipe.png")
    assert content_ids([tmp_path / "pipe.png"]) == {tmp_path / "pipe.png": ""}
    captioned = tmp_path / "dull"
    shutil.copytree(mine.captioned / "dull", captioned)
    file = next((captioned / "images").glob("*.png"))
    file.unlink()
    os.mkfifo(file)
    with change(mine.index, device="cpu") as writer, pytest.raises(DataError, match="a pipe, a socket or a device"):
        learn(writer, read_domain(captioned, "dull"), settings=QUICK)


def test_a_run_in_use_is_neither_changed_nor_deleted_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "seed-0"
    folder.mkdir()
    (folder / "run.json").write_text('{"experiment": "x", "row": "y", "settings": {}}')
    held = "in use by another lpi"
    with at_work(folder), pytest.raises(OutputError, match=held), at_work(folder):
        pass
    with at_work(folder), pytest.raises(OutputError, match=held):
        start_over(folder)
    start_over(folder)
    assert not folder.exists()
