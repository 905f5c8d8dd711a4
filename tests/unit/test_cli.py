"""The command line: help, versions, and one line for what a person got wrong."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import typer
from commands import Ended, Type
from PIL import Image

from lpi import __version__
from lpi.cli.main import app, not_lost
from lpi.cli.main import main as entry
from lpi.cli.options import numbers
from lpi.config import shipped

COMMANDS = (
    ("run",),
    ("evaluate",),
    ("report",),
    ("pretrain",),
    ("align",),
    ("doctor",),
    ("data",),
    ("data", "check"),
    ("data", "cards"),
    ("compare",),
    ("tune",),
    ("ground",),
)


@pytest.fixture
def lpi(type_command: Type) -> Type:
    return type_command


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A task of four pictures, nothing wrong with it."""
    folder = tmp_path / "pictures" / "sea"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, split in enumerate(("train", "train", "val", "test")):
        Image.effect_noise((32, 32), 20 + 10 * number).convert("RGB").save(folder / "images" / f"{number}.png")
        rows.append({"image": f"images/{number}.png", "captions": [f"boat {number}"], "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def test_help_names_every_command(lpi: Callable[..., Ended]) -> None:
    ended = lpi("--help")
    assert ended.code == 0
    assert all(f"  {words[0]} " in ended.out for words in COMMANDS)
    assert lpi().code == 2, "nothing to do is not success"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], lpi: Callable[..., Ended]) -> None:
    ended = lpi(*words, "--help")
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: lpi {' '.join(words)}")
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]
    assert all(parameter.help for parameter in command.params), "every option has a sentence"  # type: ignore[attr-defined]


def test_help_and_version_import_neither_torch_nor_transformers() -> None:
    program = (
        "import sys\n"
        "from lpi.cli import main\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'numpy', 'PIL'}\n"
        "for words in (['--help'], ['run', '--help'], ['--version']):\n"
        "    sys.argv = ['lpi', *words]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ended:\n"
        "        assert not ended.code, ended.code\n"
        "print('imported:', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"


def test_the_version_is_the_packages(lpi: Callable[..., Ended]) -> None:
    assert lpi("--version") == (0, f"lpi {__version__}\n", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("0-4", [0, 1, 2, 3, 4]), ("0-2,7", [0, 1, 2, 7]), ("3, 1", [3, 1]), ("5-5", [5]), ("1,1-2", [1, 2])],
)
def test_numbers_are_read_in_the_order_they_are_written(text: str, expected: list[int]) -> None:
    assert numbers(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1-", "3-1", "1,,2", "1.5", "-1"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected numbers like 0,1,2 or 0-4; got "):
        numbers(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "no such command 'rnu'"),
        (["run"], "missing argument 'experiment'"),
        (["run", "scenes", "--seed", "1"], "no such option: --seed"),
        (["run", "scenes", "--seeds", "3-1"], "expected numbers like 0,1,2 or 0-4; got '3-1'"),
        (
            ["run", "scens"],
            "scens: there is no such experiment file, and none of that name is shipped. Did you mean 'sce",
        ),
        (["run", "scenes", "--set", "training.epoch=3"], "[training] has no option 'epoch'. Did you mean 'epochs'?"),
        (["run", "scenes", "--set", "trainng.epochs=3"], "has no option 'trainng'. Did you mean 'training'?"),
        (["run", "scenes", "--set", "training.epochs=few"], "epochs in [training]"),
        (["run", "scenes", "--set", "training.epochs"], "--set takes key=value; got 'training.epochs'"),
        (["run", "scenes", "--rows", "finetun"], "has no row 'finetun'. Did you mean 'finetune'?"),
        (["pretrain", "moons"], "Only 'scenes' and 'grounding' can be trained on; got 'moons'"),
        (["pretrain", "--pictures", "3"], "'--pictures'"),
        (["run", "scenes", "--tensorboard", "--log", "wandb"], "--tensorboard doesn't go with --log wandb"),
        (["data", "check", "dar", "--root", ".", "--boxes", "xyxy"], "--root is of a collection"),
        (["index", ".", "--check", "--tidy"], "--check changes nothing"),
        (["report", "nowhere"], "nowhere: there is no such run folder"),
        (
            ["evaluate", "nowhere", "scenes"],
            "nowhere: there is no saved model (no config.json). Name the 'model' folder",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str],
    said: str,
    lpi: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = lpi(*words)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.startswith("lpi: ")
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method.rnk=3", "method 'lpi' has no option 'rnk'. Did you mean 'rank'?"),
        ("method.rank=four", "rank must be a whole number; got 'four'"),
        ("method.name=lpj", "No method is called 'lpj'. Did you mean 'lpi'?"),
        ("method.preset=papr", "has no preset 'papr'. Did you mean 'paper'?"),
        ("stream.trane=3", "[stream] of kind 'scenes' has no option 'trane'. Did you mean 'train'?"),
        ("stream.train_limt=3", "has no option 'train_limt'. Did you mean 'train_limit'?"),
    ],
)
def test_options_of_method_and_stream_are_refused_with_the_nearest_name(
    change: str, said: str, lpi: Callable[..., Ended], tmp_path: Path
) -> None:
    backbone = tiny.tiny_clip(tmp_path / "backbone")
    small = ["stream.train=2", "stream.validation=0", "stream.test=2", f"backbone={backbone}", change]
    out = tmp_path / "runs"
    ended = lpi("run", "scenes", "--out", out, *(word for value in small for word in ("--set", value)))
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not out.exists()


def test_good_data_is_called_good(pictures: Path, lpi: Callable[..., Ended]) -> None:
    ended = lpi("data", "check", pictures)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("All is well.\n")
    assert "sea" in ended.out
    report = json.loads(lpi("data", "check", pictures, "--json").out)
    assert report["ok"]
    assert report["tasks"] == [{"task": "sea", "train": 2, "val": 1, "test": 1, "held_out": 0, "captions": 4}]


def test_bad_data_ends_with_code_2_and_every_problem(pictures: Path, lpi: Callable[..., Ended]) -> None:
    (pictures / "sea" / "images" / "1.png").write_bytes(b"no picture")
    (pictures / "land").mkdir()
    ended = lpi("data", "check", pictures)
    assert ended.code == 2
    wrong = [line for line in ended.out.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 2
    assert f"{pictures / 'land'}: there is no captions.jsonl" in wrong[0]
    assert f"{pictures / 'sea' / 'images' / '1.png'}: the picture can't be read" in wrong[1]
    assert ended.out.endswith("2 things to put right.\n")
    as_json = lpi("data", "check", pictures, "--json")
    assert as_json.code == 2
    assert len(json.loads(as_json.out)["errors"]) == 2


@pytest.mark.parametrize("command", ["run", "compare"])
def test_the_shipped_experiments_are_listed_with_what_they_are_about(command: str, lpi: Callable[..., Ended]) -> None:
    ended = lpi(command, "--list")
    assert ended.code == 0
    for name in shipped():
        assert name in ended.out
    assert "Twelve collections of drawn pictures" in ended.out


def test_doctor_tells_what_there_is(lpi: Callable[..., Ended]) -> None:
    ended = lpi("doctor", "--json")
    assert ended.code == 0
    findings = json.loads(ended.out)
    assert {"python", "torch", "transformers", "accelerator", "disk", "backbone", "report"} <= set(findings)
    assert all(set(finding) == {"ok", "says"} for finding in findings.values())
    assert findings["torch"]["ok"]
    lines = lpi("doctor").out.splitlines()
    assert len(lines) == len(findings)


def test_ctrl_c_says_that_the_same_command_goes_on(lpi: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lpi.doctor.examine", interrupted)
    ended = lpi("doctor")
    assert ended.code == 130
    assert ended.err == "lpi: stopped. The same command goes on where it was.\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
        ImportError("_x.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, lpi: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        try:
            raise error
        except type(error) as cause:
            raise ValueError("something else failed for it") from cause

    monkeypatch.setattr("lpi.doctor.examine", refused)
    code, out, err = lpi("doctor")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("lpi: there is too little memory. Close other programs")


def test_a_fault_of_our_own_is_no_lack_of_memory(lpi: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise ValueError("shapes differ")

    monkeypatch.setattr("lpi.doctor.examine", wrong)
    monkeypatch.setattr(sys, "argv", ["lpi", "doctor"])
    with pytest.raises(ValueError, match="shapes differ"):
        entry()


def test_a_file_that_cannot_be_opened_is_named(lpi: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("lpi.doctor.examine", refused)
    assert lpi("doctor") == (2, "", "lpi: /some/file: Permission denied. Check its path and permissions.\n")


def test_figures_are_written_over_nothing_else(lpi: Callable[..., Ended], tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    for content in ("precious", '{"mine": 1}'):
        notes.write_text(content)
        for command in ("run", "compare", "tune"):
            ended = lpi(command, "scenes", "--results", notes, "--out", tmp_path / "runs")
            assert (ended.code, ended.err.count("\n")) == (2, 1)
            assert "holds something else than figures" in ended.err
        assert notes.read_text() == content


def test_more_seeds_than_anybody_runs_are_refused(lpi: Callable[..., Ended], tmp_path: Path) -> None:
    ended = lpi("compare", "scenes", "--seeds", "0-99999999999", "--out", tmp_path)
    assert (ended.code, "expected numbers like 0,1,2 or 0-4" in ended.err) == (2, True)


def test_a_stop_that_comes_in_a_finalizer_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last:
        def __init__(self, error: type[BaseException]) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    told: list[object] = []
    monkeypatch.setattr(sys, "__unraisablehook__", lambda raised: told.append(raised.exc_type))
    monkeypatch.setattr(sys, "unraisablehook", not_lost)
    Last(ValueError)
    assert told == [ValueError]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who began this may ignore it
    try:
        Last(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [ValueError]
