"""What a result is recorded with."""

import subprocess
from pathlib import Path

from lpi.evaluation.machine import commit_of


def test_a_result_file_does_not_make_the_code_another_one_and_code_does(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)
        return done.stdout.decode().strip()

    assert commit_of(tmp_path) is None
    for place in ("src/code.py", "results/figures.json", "docs/results.md"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all of it")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "results/figures.json").write_text("2")
    (tmp_path / "docs/results.md").write_text("2")
    (tmp_path / "notes.txt").write_text("of no commit")
    assert commit_of(tmp_path) == commit
    (tmp_path / "src/code.py").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"
