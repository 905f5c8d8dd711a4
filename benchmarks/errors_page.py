"""Write docs/errors.md: the twenty commonest mistakes, and what this version says to each.

python benchmarks/errors_page.py
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from lpi.cli import main as typed

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
HEAD = """# What it says when something is wrong

A mistake is one line, on standard error, with exit code 2: what is wrong, where, and what to do. These are the twenty
commonest, each as this version says it. Written by `python benchmarks/errors_page.py`.

| what was wrong | the command | what it says |
|---|---|---|
"""


def task(name: str, rows: list[str]) -> None:
    """A task's folder with two pictures and these lines."""
    folder = Path("my_tasks", name)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (40, 30), (90 * number, 20, 60)).save(folder / "images" / f"{number}.jpg")
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def row(**changes: object) -> str:
    return json.dumps({"image": "images/1.jpg", "captions": ["a heron"], **changes})


def experiment(text: str) -> None:
    Path("my.toml").write_text(f'stream = {{ kind = "folder", root = "my_tasks" }}\n{text}\n', encoding="utf-8")


def damaged_picture() -> None:
    task("birds", [row()])
    Path("my_tasks/birds/images/1.jpg").write_bytes(b"\xff\xd8\xff\xe0 half of a picture")


def indexed() -> None:
    """An index of a folder of two pictures."""
    for number, name in enumerate(("Köln", "birds")):
        Path("photos", name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, 20, 60 * number)).save(Path("photos", name, "1.jpg"))
    say("index photos --index ix --model lpi-tiny")


MISTAKES: list[tuple[str, Callable[[], object], str]] = [
    ("an experiment that isn't there", lambda: None, "run mine.toml"),
    ("a misspelt option", lambda: experiment("[training]\nepoch = 3"), "run my.toml"),
    ("a misspelt method", lambda: experiment('[method]\nname = "lpy"'), "run my.toml"),
    ("a value that can't be", lambda: experiment("[training]\nepochs = -1"), "run my.toml"),
    ("TOML that isn't", lambda: experiment("[training\nepochs = 1"), "run my.toml"),
    ("a folder without captions", lambda: Path("my_tasks/birds/images").mkdir(parents=True), "data check my_tasks"),
    ("a picture that isn't there", lambda: task("birds", [row(image="images/3.jpg")]), "data check my_tasks"),
    ("a damaged picture", damaged_picture, "data check my_tasks"),
    ("captions that are one text", lambda: task("birds", [row(captions="a heron")]), "data check my_tasks"),
    ("a misspelt column", lambda: task("birds", ['{"image": "images/1.jpg", "caption_s": []}']), "data check my_tasks"),
    ("a line that is no JSON", lambda: task("birds", ["{'image': 'images/1.jpg'}"]), "data check my_tasks"),
    ("a split that is none", lambda: task("birds", [row(split="trian")]), "data check my_tasks"),
    ("no folder of pictures", lambda: None, "index photoz --index ix --model lpi-tiny"),
    ("a model that is none", indexed, "index photos --index other --model photos"),
    ("an index that isn't there", lambda: None, "search heron --index nowhere"),
    ("a folder that isn't in the index", indexed, "search heron --index ix --folder brids"),
    ("a domain that nobody taught", indexed, "search heron --index ix --domain birds"),
    ("dates the wrong way round", indexed, "search heron --index ix --since 2024-05-02 --until 2024-05-01"),
    ("a domain without captions", indexed, "teach birds photos/birds --index ix"),
    ("a report of no run", lambda: None, "report photos"),
]


def say(command: str) -> str:
    """What a command says, in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["lpi", *shlex.split(command)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            typed()
    finally:
        sys.argv = before
    lines = [line for line in (err.getvalue() + out.getvalue()).splitlines() if line.startswith(("lpi: ", "wrong: "))]
    return lines[0] if lines else ""


def page() -> str:
    """The page, from every mistake made in a folder of its own."""
    rows, here = [], Path.cwd()
    for what, prepare, command in MISTAKES:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            prepare()
            said = say(command).replace(os.path.realpath(place) + "/", "").replace("|", "\\|")
            os.chdir(here)
        if not said:
            raise SystemExit(f"lpi {command} has nothing against that: it is no mistake any more.")
        rows.append(f"| {what} | `lpi {command}` | {said} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
