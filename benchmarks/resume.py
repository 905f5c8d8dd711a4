"""Kill a run at random moments, start it again each time, and compare what it ends with byte for byte.

    python benchmarks/resume.py --results results/resume.json

One run goes through undisturbed. Others get ``kill -9`` at a random moment (anywhere between start-up and the last
stage), are started again with the same command, and must end with the same prompts and the same metrics. Only
durations may differ.
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
from pathlib import Path
from typing import Any

from lpi.evaluation.machine import environment
from lpi.storage import write_json

SETTINGS = [
    "stream.train=64",
    "stream.validation=0",
    "stream.test=16",
    "stream.held_out=16",
    "training.epochs=4",
    "training.checkpoint_seconds=0",
    "evaluation.examples=2",
]
CHANGING = ("seconds", "pairs_per_second", "peak_mb")


def command(out: Path, tasks: int) -> list[str]:
    families = ["appliance", "sports", "outdoor", "electronic", "accessory", "indoor"][:tasks]
    changes = [*SETTINGS, f"stream.families={json.dumps(families)}"]
    sets = [part for change in changes for part in ("--set", change)]
    return [sys.executable, "-m", "lpi", "run", "scenes", *sets, "--out", str(out), "--no-report"]


def fingerprint(out: Path) -> dict[str, str]:
    """The digest of every file that must not differ, durations taken out of the JSON ones."""
    digests = {}
    for file in sorted(out.rglob("*")):
        if not file.is_file() or file.name in ("run.json", "files.json", "log.jsonl"):
            continue
        content = file.read_bytes()
        if file.suffix == ".json":
            content = json.dumps(without_durations(json.loads(content)), sort_keys=True).encode()
        digests[str(file.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return digests


def without_durations(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: without_durations(value) for key, value in content.items() if key not in CHANGING}
    return [without_durations(value) for value in content] if isinstance(content, list) else content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/resume.json"))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="lpi-resume-"))
    try:
        started = time.monotonic()
        subprocess.run(command(work / "whole", options.tasks), check=True, stdout=subprocess.DEVNULL)
        duration = time.monotonic() - started
        expected = fingerprint(work / "whole")
        kills = []
        for number in range(options.kills):
            out = work / f"killed-{number}"
            moment = chance.uniform(0.15, 0.95) * duration
            process = subprocess.Popen(command(out, options.tasks), stdout=subprocess.DEVNULL)
            try:
                process.wait(timeout=moment)
                killed = False
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed = True
            found = len(list(out.rglob("stages/*.json")))
            checkpoint = any(out.rglob("progress.pt"))
            subprocess.run(command(out, options.tasks), check=True, stdout=subprocess.DEVNULL)
            same = fingerprint(out) == expected
            kills.append(
                {
                    "after_seconds": round(moment, 2),
                    "killed": killed,
                    "stages_done": found,
                    "checkpoint_inside_task": checkpoint,
                    "same_bytes": same,
                }
            )
            print(kills[-1], flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    write_json(
        options.results,
        {
            "all_same": all(kill["same_bytes"] and kill["killed"] for kill in kills),
            "kills": kills,
            "files_compared": len(expected),
            "seconds_undisturbed": round(duration, 1),
            "seed": options.seed,
            "command": "python benchmarks/resume.py " + " ".join(sys.argv[1:]),
            **environment(),
        },
    )


if __name__ == "__main__":
    main()
