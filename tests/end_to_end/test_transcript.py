"""Every fenced command of the README and the quickstart, typed in their order by somebody who has two small folders."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lpi.data.scenes import load_scenes

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"<!-- not run: \S.* -->")


class Block(NamedTuple):
    """A fenced block that is to be run."""

    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, but for those that a comment before them gives a reason for."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(kind, text) for before, kind, text in found if not REASON.search(before)]


class Person:
    """Somebody with a home, two folders in it, and ``lpi`` on the path."""

    def __init__(self, home: Path) -> None:
        self.home, self.servers = home, list[subprocess.Popen[str]]()
        (home / "bin").mkdir(parents=True)
        lpi = home / "bin" / "lpi"
        lpi.write_text(f'#!/bin/sh\nexec {sys.executable} -m lpi "$@"\n')
        lpi.chmod(0o755)
        path = f"{home / 'bin'}:{os.environ['PATH']}"
        self.environment = {**os.environ, "HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1"}
        rows = []
        drawn = load_scenes(families=["animal"], train=24, validation=0, test=12, held_out=0)
        for number, record in enumerate(drawn):
            captioned = home / "captioned" / "birds" / f"{number:03d}.jpg"
            for file in (captioned, home / "photos" / f"{number:03d}.jpg"):
                file.parent.mkdir(parents=True, exist_ok=True)
                record.picture.open().convert("RGB").save(file)
            rows.append({"image": captioned.name, "captions": list(record.captions), "split": record.split})
        (captioned.parent / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name in ("heron.jpg", "stork.jpg"):
            drawn[0].picture.open().convert("RGB").save(home / name)

    def do(self, block: Block) -> None:
        """Run a block as it stands, in the home."""
        if block.kind == "python":
            self.run([sys.executable, "-c", block.text])
            return
        for line in filter(None, (one.partition(" #")[0].strip() for one in block.text.splitlines())):
            if line.startswith("lpi serve"):
                self.serve(line)
            else:
                self.run(["bash", "-euo", "pipefail", "-c", line])

    def run(self, command: list[str]) -> None:
        """Run a command that ends by itself, at a terminal from which yes is said to what it asks."""
        ours, theirs = pty.openpty()
        os.write(ours, b"y\n")
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, stdin=theirs, capture_output=True, text=True, check=False
        )
        os.close(theirs)
        os.close(ours)
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"

    def serve(self, line: str) -> None:
        """Begin what keeps its terminal, and wait until it says where the page is."""
        command = ["bash", "-c", f"exec {line} --port 0"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, cwd=self.home, env=self.environment, text=True, **streams)  # type: ignore[call-overload]
        self.servers.append(server)
        said: list[str] = []
        for told in server.stdout:
            said.append(told)
            if "http://127.0.0.1:" in told:
                return
        raise AssertionError(f"{line} ended: {''.join(said)}")


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    made = Person(tmp_path / "home")
    yield made
    for server in made.servers:
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_every_command_works_as_it_is_written(page: str, person: Person) -> None:
    todo = blocks(ROOT / page)
    assert len(todo) >= 2
    for block in todo:
        person.do(block)


def test_a_block_is_left_out_only_with_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: takes a day -->\n<!-- test command -->\n```sh\nsleep 86400\n```\n\n"
        "<!-- not run: -->\n```sh\ntrue\n```\n\n```\noutput\n```\n\n```python\nprint(1)\n```\n"
    )
    assert blocks(page) == [("sh", "true\n"), ("python", "print(1)\n")]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
