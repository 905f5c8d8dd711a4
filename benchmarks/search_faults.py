"""Kill indexing, teaching and forgetting at random moments; open the index, start the command again, compare.

    python benchmarks/search_faults.py --small
    python benchmarks/search_faults.py --photos FOLDER --model RUN --name DOMAIN --captioned FOLDER \
        --results results/search_faults.json

Each command gets ``kill -9`` at random moments. Each time the index must open and search with whole rows, none of them
twice; and after the same command was given again, everything must be as after an undisturbed one: pictures, routing,
the bits of every vector, and the stages. Only durations and times of day may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search_data import NEW, OLD, draw, with_store

from lpi.errors import MissingFileError
from lpi.evaluation.machine import environment
from lpi.search import SearchIndex
from lpi.storage import write_json

OPERATIONS = ("index", "teach", "forget")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder to index")
    parser.add_argument("--model", default="lpi-tiny", help="run, saved model or backbone")
    parser.add_argument("--name", default=NEW, help="what to call the domain")
    parser.add_argument("--captioned", type=Path, help="the domain's captioned pictures")
    parser.add_argument("--small", action="store_true", help="drawn pictures instead")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/search_faults.json"))
    return parser.parse_args()


class Trial:
    """The three commands, and what an index must be before and after each."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.photos, self.captioned = options.photos, options.captioned
        if options.small:
            self.photos, domains = draw(work / "drawn")
            self.captioned = domains / options.name
        self.states = {name: work / f"before-{name}" for name in OPERATIONS}
        self.expected: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.run("index", self.states["teach"])
        if options.small:
            for task in OLD:
                self.teach(self.states["teach"], task, domains / task)
        shutil.copytree(self.states["teach"], self.states["forget"])
        self.run("teach", self.states["forget"])
        for name in OPERATIONS:
            place = self.copy(name, "whole")
            started = time.monotonic()
            self.run(name, place)
            self.seconds[name] = time.monotonic() - started
            self.expected[name] = fingerprint(place)

    def copy(self, name: str, label: str) -> Path:
        """The index as it is before a command, elsewhere."""
        place = self.work / f"{label}-{name}"
        shutil.rmtree(place, ignore_errors=True)
        if self.states[name].exists():
            shutil.copytree(self.states[name], place)
        return place

    def command(self, name: str, place: Path) -> list[str]:
        o = self.options
        words = {
            "index": ["index", str(self.photos), "--model", str(o.model)],
            "teach": [
                "teach",
                o.name,
                str(self.captioned),
                "--even-if-worse",
                "--set",
                f"steps={o.steps}",
                "--set",
                "batch=8",
            ],
            "forget": ["forget", o.name],
        }[name]
        return [sys.executable, "-m", "lpi", *words, "--index", str(place)]

    def teach(self, place: Path, task: str, source: Path) -> None:
        words = self.command("teach", place)
        words[4:6] = [task, str(source)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def run(self, name: str, place: Path) -> None:
        subprocess.run(self.command(name, place), check=True, stdout=subprocess.DEVNULL)

    def done(self, name: str, place: Path) -> bool:
        """Whether a command counted already when it was killed; only then there is nothing to do again."""
        knows = self.options.name in SearchIndex.open(place).tasks
        return {"index": False, "teach": knows, "forget": not knows}[name]

    def kill(self, name: str, moment: float) -> dict[str, Any]:
        """Kill a command at a moment, look at what is left, give the command again."""
        killed = False
        for _ in range(6):  # on a busy machine the undisturbed command may have been the slow one
            place = self.copy(name, "killed")
            process = subprocess.Popen(self.command(name, place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=moment)
                moment *= 0.7
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed = True
                break
        found = look(place, begun=self.states[name].exists())
        counted = found["opens"] and found["pictures"] is not None and self.done(name, place)
        if not counted:
            self.run(name, place)
        return {
            "operation": name,
            "after_seconds": round(moment, 2),
            "killed": killed,
            **found,
            "had_counted_already": counted,
            "same_final_state": fingerprint(place) == self.expected[name],
        }


def rows_of(place: Path) -> list[list[Any]]:
    """Every row with the digest of its vector, in the order of ids."""
    view = SearchIndex.open(place).rows()
    columns = view.columns("id", "paths", "task", "routes", "weights", "distances")
    vectors = view.vectors(columns["id"])
    digests = [hashlib.sha256(vector.tobytes()).hexdigest() for vector in vectors]
    return sorted([*map(list, zip(*columns.values(), digests, strict=True))], key=lambda row: row[0])


def look(place: Path, *, begun: bool) -> dict[str, Any]:
    """What a reader meets right after the kill: it must open, answer, and hold no picture twice."""
    try:
        index = SearchIndex.open(place)
    except MissingFileError:
        return {"opens": not begun, "pictures": None, "twice": 0}
    ids = [row[0] for row in rows_of(place)]
    answers = len(index.search_text("a picture", max(1, len(ids)))) == len(ids)
    return {"opens": answers, "pictures": len(ids), "twice": len(ids) - len(set(ids))}


def fingerprint(place: Path) -> str:
    """What must not differ, in one digest."""
    stages = [
        [s.number, s.kind, s.task, s.model, [asdict(task) for task in s.tasks], s.pictures]
        for s in SearchIndex.open(place).stages()
    ]
    return hashlib.sha256(json.dumps([rows_of(place), stages]).encode()).hexdigest()


def main() -> None:
    options = arguments()
    chance = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="lpi-faults-"))
    try:
        trial = Trial(options, work)
        kills = []
        for number in range(options.kills):
            name = OPERATIONS[number % len(OPERATIONS)]
            kills.append(trial.kill(name, chance.uniform(0.1, 0.98) * trial.seconds[name]))
            print(kills[-1], flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    write_json(
        options.results,
        {
            "all_same": all(kill["same_final_state"] for kill in kills),
            "nothing_lost": all(kill["opens"] for kill in kills),
            "nothing_twice": all(kill["twice"] == 0 for kill in kills),
            "killed": sum(kill["killed"] for kill in kills),
            "kills": kills,
            "seconds_undisturbed": {name: round(seconds, 1) for name, seconds in trial.seconds.items()},
            "seed": options.seed,
            "command": "python benchmarks/search_faults.py " + " ".join(sys.argv[1:]),
            **with_store(environment()),
        },
    )


if __name__ == "__main__":
    main()
