"""What it takes to begin: seconds and megabytes from a clone to the first search, teaching and comparison.

    python benchmarks/newcomer.py --results results/newcomer.json

Clones this repository's last commit, and types the README's own commands, read out of it, in a home of its own with two
small folders of drawn pictures: those of setting up (the environment is made anew, packages come from the package
index unless pip has them), of searching and teaching, and of a first comparison. Said for each step: its seconds, the
seconds since the clone began, and the megabytes that lie in clone and home by then.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lpi.data.scenes import load_scenes
from lpi.evaluation.machine import environment
from lpi.storage import write_json

ROOT = Path(__file__).parents[1]
STEPS = {
    "clone": "",
    "set_up": "python3 -m venv .venv",
    "index_and_page": "lpi serve ~/photos",
    "first_search": "lpi search ",
    "first_teach": "lpi teach ",
    "first_comparison": "lpi compare compare_scenes --methods",
}
"""How the README's line of each step begins; the page is ended as soon as it says where it is."""


def line_of(readme: str, begins: str) -> str:
    """The first line of a fence that begins so, without its comment."""
    for line in re.findall(r"^(.*)$", readme, re.MULTILINE):
        if line.startswith(begins):
            return line.partition(" #")[0].strip()
    raise SystemExit(f"README.md has no line that begins with {begins!r}.")


def draw(home: Path, pictures: int) -> None:
    """Two folders: pictures to search in, and captioned ones of a domain."""
    rows = []
    for number, record in enumerate(
        load_scenes(families=["animal"], train=pictures, validation=0, test=pictures, held_out=0)
    ):
        if record.split not in ("train", "test"):
            continue
        file = home / ("captioned/birds" if record.split == "train" else "photos") / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        record.picture.open(320).save(file)
        if record.split == "train":
            split = "test" if len(rows) % 4 == 3 else "train"
            rows.append({"image": file.name, "captions": list(record.captions), "split": split})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (home / "captioned" / "birds" / "captions.jsonl").write_text(text, encoding="utf-8")


def megabytes(*folders: Path) -> float:
    """What lies in folders; a file that has two names counts once."""
    seen = {
        (status.st_dev, status.st_ino): status.st_blocks * 512
        for folder in folders
        for place, _, files in os.walk(folder)
        for name in files
        for status in [os.lstat(os.path.join(place, name))]
    }
    return round(sum(seen.values()) / 1e6, 1)


def typed(line: str, clone: Path, home: Path) -> None:
    """Run a line as a person would: in the clone, its environment active, at a terminal where yes is answered."""
    inside = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    inside |= {"HOME": str(home), "PATH": f"{clone / '.venv' / 'bin'}:{inside['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", line]
    if line.startswith("lpi serve"):
        with subprocess.Popen([*command[:-1], f"exec {line} --port 0"], cwd=clone, env=inside, stdout=subprocess.PIPE,
                              text=True) as server:  # fmt: skip
            assert server.stdout is not None
            if not any("http://" in said for said in server.stdout):
                raise SystemExit(f"{line}: it ended")
            server.terminate()
        return
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    subprocess.run(command, cwd=clone, env=inside, stdin=theirs, check=True)
    os.close(theirs)
    os.close(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/newcomer.json"))
    parser.add_argument("--pictures", type=int, default=120, help="in each of the two folders")
    options = parser.parse_args()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    steps: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        clone, home = Path(place) / "lpi", Path(place) / "home"
        draw(home, options.pictures)
        begun = time.monotonic()
        for step, begins in STEPS.items():
            started = time.monotonic()
            line = line_of(readme, begins) if begins else f"git clone -q {shlex.quote(str(ROOT))} {clone}"
            if begins:
                typed(line, clone, home)
            else:
                subprocess.run(shlex.split(line), check=True)
            now = time.monotonic()
            steps[step] = {
                "command": line if begins else "git clone",
                "seconds": round(now - started, 1),
                "seconds_since_clone": round(now - begun, 1),
                "megabytes": megabytes(clone, home),
            }
            print(step, steps[step], file=sys.stderr, flush=True)
    command = shlex.join(["python", "benchmarks/newcomer.py", *sys.argv[1:]])
    record = {"pictures": options.pictures, "steps": steps, "command": command, **environment()}
    write_json(options.results, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
