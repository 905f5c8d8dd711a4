"""What people get wrong: one clear line with file (and line) and what to do, exit code 2, nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import Ended, Type
from PIL import Image

from lpi.backbones.loading import load_backbone

Row = dict[str, Any]
TASKS = ("land", "sea")
SPLITS = ("train", "train", "train", "val", "test", "test")


class Project:
    """Two tasks of six pictures, a tiny backbone, and an experiment: everything in order until a test spoils it."""

    def __init__(self, root: Path, backbone: Path, type_command: Callable[..., Ended]) -> None:
        self.root, self.backbone, self.type = root, backbone, type_command
        self.data, self.out, self.experiment = root / "data", root / "runs", root / "mine.toml"
        for place, task in enumerate(TASKS):
            (self.images(task)).mkdir(parents=True)
            rows = []
            for number, split in enumerate(SPLITS):
                noise = Image.effect_noise((48, 40), 20 + 20 * number + 7 * place).convert("RGB")
                noise.save(self.images(task) / f"{number}.jpg", quality=90)
                rows.append({"image": f"images/{number}.jpg", "captions": [f"{task} {number}"], "split": split})
            self.write(task, rows)
        self.experiment.write_text(
            f"backbone = {str(backbone)!r}\n[stream]\nkind = 'folder'\nroot = {str(self.data)!r}\n"
            "[method]\nname = 'lpi'\nrank = 2\nlength = 4\nclusters = 2\n"
            "[training]\nepochs = 1\nbatch = 4\n[evaluation]\nexamples = 1\n"
        )

    def images(self, task: str) -> Path:
        return self.data / task / "images"

    def captions(self, task: str) -> Path:
        return self.data / task / "captions.jsonl"

    def write(self, task: str, rows: list[Row]) -> None:
        self.captions(task).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def spoil(self, task: str, number: int, change: Callable[[Row], object]) -> None:
        """Change one row of a task's captions."""
        rows = [json.loads(line) for line in self.captions(task).read_text().splitlines()]
        change(rows[number])
        self.write(task, rows)

    def run(self, *words: object, out: Path | None = None) -> Ended:
        return self.type("run", self.experiment, "--no-report", "--out", out or self.out, *words)

    def check(self, *words: object) -> Ended:
        return self.type("data", "check", self.data, *words)

    def refuses(self, ended: Ended, *said: object) -> None:
        """One line on standard error that says all of this, and no run."""
        assert ended.code == 2, ended
        assert ended.err.startswith("lpi: ")
        assert ended.err.count("\n") == 1
        for words in said:
            assert str(words) in ended.err
        assert not self.out.exists(), sorted(self.out.rglob("*"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_clip(tmp_path_factory.mktemp("backbone") / "clip")


@pytest.fixture
def project(tmp_path: Path, backbone: Path, type_command: Type) -> Project:
    return Project(tmp_path, backbone, type_command)


def test_nothing_is_wrong_before_a_test_spoils_it(project: Project) -> None:
    assert project.check("--backbone", project.backbone).out.endswith("All is well.\n")
    ended = project.run()
    assert (ended.code, ended.err) == (0, "")
    assert "note:" not in ended.out
    assert (project.out / "mine" / "lpi" / "seed-0" / "result.json").exists()


def test_a_missing_folder(project: Project) -> None:
    shutil.rmtree(project.data)
    project.refuses(project.run(), project.data, "there is no such folder", "Check the path")
    project.refuses(project.check(), project.data, "there is no such file or folder", "Check the path")


def test_a_folder_without_tasks(project: Project) -> None:
    shutil.rmtree(project.data)
    project.data.mkdir()
    project.refuses(project.run(), project.data, "no task folder in it", "Expected <task>/captions.jsonl")


def test_a_missing_picture(project: Project) -> None:
    (project.images("sea") / "2.jpg").unlink()
    project.refuses(
        project.run(), f"{project.captions('sea')}, line 3", "there is no picture 'images/2.jpg'", "Did you"
    )


def test_a_truncated_test_picture(project: Project) -> None:
    file = project.images("sea") / "4.jpg"
    file.write_bytes(file.read_bytes()[:500])
    project.refuses(project.run(), file, "the picture can't be read", "Replace or remove it")


def test_a_truncated_training_picture_and_after_it_is_replaced_the_same_command_ends(project: Project) -> None:
    file = project.images("sea") / "1.jpg"
    whole = file.read_bytes()
    file.write_bytes(whole[:500])
    ended = project.run()
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"lpi: {file}: the picture can't be read" in ended.err
    assert "Replace or remove it." in ended.err
    run = project.out / "mine" / "lpi" / "seed-0"
    assert not (run / "result.json").exists()
    assert not list(project.out.rglob(".*")), "no temporary file is left"
    for path in project.out.rglob("*.json"):
        json.loads(path.read_text())
    file.write_bytes(whole)
    assert project.run().code == 0
    resumed = (run / "result.json").read_text()
    assert project.run("--fresh").code == 0
    ignored = {"seconds": None, "peak_mb": None}
    assert json.loads(resumed) | ignored == json.loads((run / "result.json").read_text()) | ignored


def test_data_check_finds_truncated_pictures_of_all_splits(project: Project) -> None:
    for number in (0, 3, 4):
        file = project.images("sea") / f"{number}.jpg"
        file.write_bytes(file.read_bytes()[:500])
    ended = project.check()
    assert (ended.code, ended.err) == (2, "")
    wrong = [line for line in ended.out.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 3
    for number, line in zip((0, 3, 4), wrong, strict=True):
        assert str(project.images("sea") / f"{number}.jpg") in line
        assert "Replace or remove it." in line


def test_an_empty_caption(project: Project) -> None:
    project.spoil("sea", 1, lambda row: row.update(captions=["a boat", "  "]))
    said = f"{project.captions('sea')}, line 2: caption 2 is empty. Write one, or remove it."
    project.refuses(project.run(), said)
    ended = project.check()
    assert ended.code == 2
    assert f"wrong: {said}" in ended.out.splitlines()


def test_a_caption_longer_than_the_context_is_cut_behind_its_end_token_and_said_to_be(project: Project) -> None:
    long = "the dog " * 30
    project.spoil("sea", 0, lambda row: row.update(captions=[long]))
    project.spoil("sea", 4, lambda row: row.update(captions=[long + "sea"]))

    inputs = load_backbone(project.backbone).inputs
    tokens = inputs.tokenize([long]).ids[0]
    assert len(tokens) == inputs.context
    assert tokens[-1] == inputs.tokenizer.eos_token_id

    ended = project.check("--backbone", project.backbone)
    assert ended.code == 0, "it can be learned from"
    notes = [line for line in ended.out.splitlines() if "the backbone reads only the start" in line]
    assert len(notes) == 2
    assert notes[0].startswith("note: sea/images/0.jpg: ")
    assert notes[0].endswith("Shorten it.")
    assert all(len(note) < 160 for note in notes)

    ended = project.run()
    assert ended.code == 0
    noted = [line for line in ended.out.splitlines() if line.startswith("note: ")]
    assert noted == [
        "note: 2 of 10 captions are cut to the backbone's context of 24 tokens, first "
        "'the dog the dog the dog the dog the dog'. 'lpi data check --backbone ..' lists them."
    ]


def test_a_picture_on_two_lines(project: Project) -> None:
    project.spoil("sea", 3, lambda row: row.update(image="images/1.jpg"))
    said = f"{project.captions('sea')}, line 4: 'images/1.jpg' is already on line 2. Put all its captions into one row."
    project.refuses(project.run(), said)
    assert f"wrong: {said}" in project.check().out.splitlines()


def test_the_same_picture_under_two_names_is_noted_by_data_check(project: Project) -> None:
    shutil.copy(project.images("sea") / "0.jpg", project.images("sea") / "5.jpg")
    ended = project.check()
    assert ended.code == 0, "some data sets have them; a person must know"
    said = "note: the same picture in several splits (sea/test, sea/train): sea/images/0.jpg, sea/images/5.jpg"
    assert said in ended.out.splitlines()


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("image", "imge", 'no picture column ("image" or "file_name"). Did you mean "image" by "imge"?'),
        ("captions", "captoins", 'Did you mean "captions" by "captoins"?'),
        ("captions", "words", 'no caption column ("captions" or "text" or "caption"); found "image", "split", "words"'),
    ],
)
def test_a_wrong_column(right: str, wrong: str, said: str, project: Project) -> None:
    def rename(row: Row) -> None:
        row[wrong] = row.pop(right)

    project.spoil("sea", 2, rename)
    project.refuses(project.run(), f"{project.captions('sea')}, line 3: ", said)
    assert project.check().code == 2


def test_a_wrong_task_column_of_one_file(project: Project) -> None:
    before = f"kind = 'folder'\nroot = {str(project.data)!r}\n"
    after = f"kind = 'jsonl'\npath = {str(project.captions('sea'))!r}\ntask_field = 'topic'\n"
    project.experiment.write_text(project.experiment.read_text().replace(before, after))
    ended = project.run()
    project.refuses(ended, f"{project.captions('sea')}, line 1", 'no column "topic" to name the task')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.epoch=2", "mine.toml: [training] has no option 'epoch'. Did you mean 'epochs'?"),
        ("method.rnk=2", "method 'lpi' has no option 'rnk'. Did you mean 'rank'?"),
        ("stream.rot=x", "[stream] of kind 'folder' has no option 'rot'. Did you mean 'root'?"),
        ("sed=2", "mine.toml: the top level has no option 'sed'. Did you mean 'seeds'?"),
    ],
)
def test_an_unknown_option(change: str, said: str, project: Project) -> None:
    project.refuses(project.run("--set", change), said)


def test_a_flag_that_does_not_exist(project: Project) -> None:
    project.refuses(project.run("--sed", "1"), "no such option: --sed", "See 'lpi run --help'.")


def test_a_checkpoint_of_another_width(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.run().code == 0
    model = project.out / "mine" / "lpi" / "seed-0" / "model"
    before = {path: path.read_bytes() for path in project.out.rglob("*") if path.is_file()}
    monkeypatch.setitem(tiny.VISION, "hidden_size", 40)
    other = tiny.tiny_clip(project.root / "wider")
    ended = project.type("evaluate", model, project.experiment, "--set", f"backbone={other}")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    mine, theirs = (load_backbone(folder).identity for folder in (project.backbone, other))
    assert f"{model} was made for the backbone {mine}; this one is {theirs} ({other})" in ended.err
    assert "Load it with the same weights and preprocessing it was trained on, or train again." in ended.err
    assert before == {path: path.read_bytes() for path in project.out.rglob("*") if path.is_file()}


def test_a_run_goes_on_only_with_its_own_backbone(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    own = shutil.copytree(project.backbone, project.root / "own")
    assert project.run("--set", f"backbone={own}").code == 0
    run = project.out / "mine" / "lpi" / "seed-0"
    (run / "result.json").unlink()
    monkeypatch.setitem(tiny.VISION, "hidden_size", 40)
    tiny.tiny_clip(own)
    ended = project.run("--set", f"backbone={own}")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{run} holds a run with another backbone of that name (identity " in ended.err
    assert not (run / "result.json").exists()


@pytest.mark.parametrize("place", ["file", "below"])
def test_an_output_folder_that_cannot_be_written_to(place: str, project: Project) -> None:
    # A folder without write permission stops nobody who is root, as tests often are; a file in its place does.
    file = project.root / "taken"
    file.write_text("mine")
    out = file if place == "file" else file / "runs"
    project.refuses(project.run(out=out), out, "can't be made", "Choose another folder with --out.")
    project.refuses(project.run("--tensorboard", out=out), out, "can't be made", "Choose another folder with --out.")
    assert file.read_text() == "mine"


def test_a_results_file_that_cannot_be_written_is_refused_before_the_run(project: Project) -> None:
    file = project.root / "taken"
    file.write_text("mine")
    ended = project.run("--results", file / "results.json")
    project.refuses(ended, file / "results.json", "can't be written", "Choose another folder with --results.")


def test_a_report_that_cannot_be_written(project: Project) -> None:
    assert project.run().code == 0
    file = project.root / "taken"
    file.write_text("mine")
    ended = project.type("report", project.out, "--out", file / "report")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{file / 'report'}" in ended.err
    assert file.read_text() == "mine"


@pytest.mark.parametrize("what", ["experiment", "backbone"])
def test_a_model_that_is_none(what: str, project: Project) -> None:
    named = {"experiment": project.experiment, "backbone": project.backbone}[what]
    project.refuses(project.type("evaluate", named, project.experiment), named, "Name the 'model' folder of a run.")
