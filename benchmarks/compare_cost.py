"""What a comparison costs in processor time, beside an earlier state of this repository.

    git worktree add ../before 51b8811
    python benchmarks/compare_cost.py --before ../before --real ARCHIVES --model BACKBONE --results compare_cost.json

Two comparisons run in both trees in turn, each in a process of its own: drawn scenes in float32, whose figures must be
the same to the last digit; and six rows of a real stream that change the upper third of both towers. ARCHIVES is a
folder with one folder of captioned pictures a task, BACKBONE a dual encoder for photographs; without them the second is
left out. Counted is the processor time of the process and all that it started; ``cpu_ratio`` is before over after.
Of a step that changes every weight of ``lpi-tiny`` two thirds are matrix products and an eighth attention (torch's
profiler, one thread), which both trees compute alike. What is measured alone, with ``--only``, takes its place in the
file beside what that holds already.

``lpi-tiny`` was trained anew on 2026-11-30: a tree from before ends with other figures on drawn scenes than one from
after it. The committed file is of two trees from before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lpi.evaluation.machine import commit_of, environment
from lpi.storage import read_json, write_json

SCENES = [
    "compare_scenes",
    "--methods",
    "lpi_best,dar,finetune,joint,ewc,zero_shot",
    "--set",
    "training.precision=float32",
]
UPPER = """
name = "upper_third"
backbone = "{model}"
[stream]
kind = "folder"
root = "{root}"
train_limit = 160
test_limit = 60
[method]
name = "finetune"
upper = 0.34
[training]
epochs = {epochs}
batch = 64
learning_rate = 5e-5
weight_decay = 0.01
[evaluation]
examples = 0
[rows.ewc]
method = {{ name = "ewc", upper = 0.34 }}
[rows.lwf]
method = {{ name = "lwf", upper = 0.34 }}
[rows.mod_x]
method = {{ name = "mod_x", upper = 0.34 }}
[rows.replay]
method = {{ name = "replay", upper = 0.34 }}
[rows.joint]
method = {{ name = "joint", upper = 0.34 }}
"""
TREES = ("before", "after")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of an earlier state")
    parser.add_argument("--real", type=Path, help="folder with a folder of captioned pictures a task")
    parser.add_argument("--model", type=Path, help="the backbone for it")
    parser.add_argument("--only", choices=("scenes", "upper_third"), help="of the two comparisons")
    parser.add_argument("--epochs", type=int, default=5, help="of a task of the real stream")
    parser.add_argument("--results", type=Path)
    return parser.parse_args()


def timed(tree: Path, what: list[str], out: Path) -> dict[str, Any]:
    """Seconds of a comparison in a tree, and what its rows end with."""
    results = out / "results.json"
    words = [sys.executable, "-m", "lpi", "compare", *what, "--seeds", "0", "--jobs", "1"]
    words += ["--out", str(out / "runs"), "--results", str(results)]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(tree.resolve() / "src")}, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = read_json(results)["rows"]
    return {
        "cpu_seconds": round(processor, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "final_r1": {name: row["final_r1"] for name, row in rows.items()},
    }


def measure(trees: dict[str, Path], what: list[str], work: Path) -> dict[str, Any]:
    """One comparison in both trees, and what the later saves."""
    found = {name: timed(tree, what, work / name) for name, tree in trees.items()}
    for name, one in found.items():
        print(name, one, file=sys.stderr, flush=True)
    before, after = (found[name] for name in TREES)
    apart = [after["final_r1"][row] - before["final_r1"][row] for row in after["final_r1"]]
    return {
        "cpu_ratio": round(before["cpu_seconds"] / after["cpu_seconds"], 3),
        "wall_ratio": round(before["wall_seconds"] / after["wall_seconds"], 3),
        "equal_figures": before["final_r1"] == after["final_r1"],
        "mean_difference_r1": round(statistics.fmean(apart), 3),
        **found,
    }


def main() -> None:
    choices = arguments()
    trees = {"before": choices.before, "after": Path(__file__).parents[1]}
    figures: dict[str, Any] = {"before_commit": commit_of(choices.before)}
    with tempfile.TemporaryDirectory(prefix="lpi-cost-") as place:
        work = Path(place)
        if choices.only != "upper_third":
            figures["scenes"] = measure(trees, SCENES, work / "scenes")
        if choices.real is not None and choices.only != "scenes":
            file = work / "upper_third.toml"
            text = UPPER.format(model=choices.model.resolve(), root=choices.real.resolve(), epochs=choices.epochs)
            file.write_text(text, encoding="utf-8")
            rows = "finetune,ewc,lwf,mod_x,replay,joint"
            figures["upper_third"] = measure(trees, [str(file), "--methods", rows], work / "upper")
    figures["command"] = " ".join(["python", "benchmarks/compare_cost.py", *map(shlex.quote, sys.argv[1:])])
    figures |= environment()
    if choices.only is not None and choices.results is not None and choices.results.exists():
        about = {name: value for name, value in figures.items() if name != choices.only}
        figures = read_json(choices.results) | {choices.only: {**figures[choices.only], **about}}
    if choices.results is not None:
        write_json(choices.results, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
