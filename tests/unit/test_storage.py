"""A reader sees the old content or the new one, and never half of either."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lpi.errors import CheckpointError, MissingFileError, OutputError
from lpi.storage import (
    read_json,
    read_tensors,
    sealed,
    unsealed,
    write_atomically,
    write_json,
    write_tensors,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_json_comes_back_as_it_was_in_folders_that_are_made(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.json"
    write_json(file, {"name": "été", "values": [1, 2.5, None]})
    assert read_json(file) == {"name": "été", "values": [1, 2.5, None]}
    assert file.read_text(encoding="utf-8").endswith("}\n")
    assert "été" in file.read_text(encoding="utf-8")
    assert names(file.parent) == ["b.json"]


def test_tensors_come_back_bit_identical_with_their_types(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "c": torch.randn(2, 2).T,
        "d": torch.zeros(0, 7, dtype=torch.bfloat16),
        "e": torch.tensor(3.0, requires_grad=True),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    found = read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), ValueError("no"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, failure: BaseException) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise failure

    with pytest.raises((OutputError, ValueError, KeyboardInterrupt)):
        write_atomically(file, write)
    assert names(tmp_path) == ["a.txt"]
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EACCES, "the folder is read-only. Choose another with --out"),
        (errno.EROFS, "the folder is read-only. Choose another with --out"),
        (errno.EIO, "Choose another folder with --out"),
    ],
)
def test_what_went_wrong_is_said_with_the_file_and_what_to_do(tmp_path: Path, number: int, message: str) -> None:
    def write(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=f"a.json can't be written: .*{message}"):
        write_atomically(tmp_path / "a.json", write)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="read-only"):
        write_json(tmp_path / "a.json", {})
    tmp_path.chmod(0o700)


def test_a_folder_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a.json can't be written"):
        write_json(tmp_path / "file" / "a.json", {})


@pytest.mark.parametrize("read", [read_json, read_tensors])
def test_a_missing_file_is_named(tmp_path: Path, read: object) -> None:
    with pytest.raises(MissingFileError, match=r"gone.bin is not there"):
        read(tmp_path / "gone.bin")


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, 2]})[:-3])
    with pytest.raises(CheckpointError, match=r"a.json is damaged"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_tensors_are_named(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "t.safetensors"
    write_tensors(file, {"a": torch.randn(30)})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"t.safetensors is damaged"):
        read_tensors(file)


def test_a_flipped_bit_in_tensors_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    write_tensors(file, {"a": torch.randn(30), "b": torch.arange(4), "c": torch.tensor(True)})
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        file.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_tensors(file)


def test_tensors_of_earlier_versions_without_a_checksum_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "t.safetensors")
    assert torch.equal(read_tensors(tmp_path / "t.safetensors")["a"], torch.ones(3))


def test_a_full_disk_while_tensors_are_written_is_one_line(tmp_path: Path) -> None:
    """What safetensors raises then is no OSError; a limit on the size of files stands for the disk."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from lpi.storage import write_tensors\n"
        "from lpi.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: write_tensors(Path(sys.argv[1]), {'a': torch.randn(10_000)})\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t")], capture_output=True, text=True, check=False
    )
    assert "t can't be written: File too large" in done.stdout, done.stderr
    assert names(tmp_path) == []


def test_a_name_that_is_not_utf8_cannot_be_written_and_is_shown(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a name in it isn't UTF-8 .*v.udcf6gel"):
        write_json(tmp_path / "a.json", {"root": "v\udcf6gel"})
    assert names(tmp_path) == []


def test_a_checksum_is_of_what_lasts_and_knows_a_changed_digit(tmp_path: Path) -> None:
    first, second = (sealed({"recall": [0.5], "seconds": {"train": took}}) for took in (1.0, 2.0))
    assert first["checksum"] == second["checksum"]
    assert unsealed(tmp_path, first) == {"recall": [0.5], "seconds": {"train": 1.0}}
    assert unsealed(tmp_path, {"recall": [0.6]}) == {"recall": [0.6]}  # of an earlier version
    with pytest.raises(CheckpointError, match="is damaged"):
        unsealed(tmp_path, {**first, "recall": [0.6]})


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_is_what_the_person_set(umask: int, mode: int, tmp_path: Path) -> None:
    lines = ("import os, sys, pathlib", f"os.umask({umask})", "from lpi.storage import write_text")
    script = "\n".join([*lines, "write_text(pathlib.Path(sys.argv[1]), 'x')"])
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=True)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode
