"""Do methods end where they end in float32, if they learn and embed in bfloat16?

    python benchmarks/precision.py --results results/precision.json
    python benchmarks/precision.py --experiment my.toml --set stream.root=FOLDER --results results/precision.json

Each row and seed of an experiment runs twice, in float32 and in bfloat16, in turn; what is compared is the mean over
tasks and directions of the recall@1 after the last one. Frozen features, which route, are float32 in both. The file
keeps what it holds of other experiments.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from lpi.cli.options import numbers
from lpi.config import read_experiment
from lpi.evaluation.machine import environment
from lpi.evaluation.records import RunRecord, read_record
from lpi.evaluation.scheduler import make_cells, run_cells, variants_of
from lpi.storage import read_json, write_json

PRECISIONS = ("float32", "bfloat16")
ROWS = "lpi_best,lpi_steps,dar,finetune"


def final_recall(folder: Path) -> float:
    """Recall@1 after the last task, mean of both directions, in per cent."""
    final = read_record(RunRecord, folder / "result.json").final
    return 100 * statistics.fmean(final[name] for name in ("t2i_r1", "i2t_r1"))


def measure(choices: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The recalls of every row and seed, by precision, in the order of the seeds."""
    recalls: dict[str, dict[str, list[float]]] = {}
    for seed in numbers(choices.seeds):
        for row in choices.rows.split(","):
            for precision in PRECISIONS:
                changes = [*choices.changes, f"training.precision={precision}"]
                experiment = read_experiment(choices.experiment, changes)
                given = ["training.precision"]
                cells = make_cells(
                    experiment,
                    variants_of(experiment, [row], given=given),
                    seeds=[seed],
                    orders=1,
                    out=out / precision,
                )
                run_cells(cells, keep_going=False, say=lambda line: print(line, file=sys.stderr, flush=True))
                of_row = recalls.setdefault(row, {name: [] for name in PRECISIONS})
                of_row[precision].append(round(final_recall(cells[0].folder), 3))
    return {row: {**found, "bfloat16_less_float32": difference(found)} for row, found in recalls.items()}


def difference(found: dict[str, list[float]]) -> float:
    """How much more recall bfloat16 ends with, mean over seeds, in points."""
    return round(statistics.fmean(found["bfloat16"]) - statistics.fmean(found["float32"]), 3)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="compare_scenes", help="a shipped one, or a TOML file")
    parser.add_argument("--rows", default=ROWS, help="rows of the experiment, or methods, with commas between")
    parser.add_argument("--seeds", default="0-1")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="as of `lpi run`")
    parser.add_argument("--results", type=Path, help="a JSON file; what it holds of other experiments stays")
    choices = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lpi-precision-") as work:
        rows = measure(choices, Path(work))
    name = read_experiment(choices.experiment, choices.changes).name
    mean = statistics.fmean(row["bfloat16_less_float32"] for row in rows.values())
    command = " ".join(["python", "benchmarks/precision.py", *map(shlex.quote, sys.argv[1:])])
    figures = {name: {"rows": rows, "bfloat16_less_float32": round(mean, 3), "command": command, **environment()}}
    if choices.results is not None:
        before = read_json(choices.results) if choices.results.exists() else {}
        write_json(choices.results, {**before, **figures})
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
