"""How far the rule for equal scores can move committed figures: files made before it are stamped with what is found.

    python benchmarks/ties.py --real FOLDER --results results/ties.json --stamp

Until 2026-11-29 half of the wrong candidates that score like a query's best right one stood before it, so that a tie
of two counted as a whole hit; since then a tie counts its share (:mod:`lpi.metrics.ranking`). Of each stream, the
frozen model's recall is counted by both rules, and the queries with any tie. Ties come from inputs that are equal, or
nearly so, and these are equal under every method; ``--stamp`` writes what was found to the head of the results files
whose figures are of that stream and were made before.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from lpi.config import read_experiment
from lpi.evaluation.bench import Bench
from lpi.evaluation.machine import environment
from lpi.evaluation.test_set import TestSet
from lpi.metrics.ranking import cosine_block, count_ranks
from lpi.storage import write_json

ROOT = Path(__file__).parents[1]
KS = (1, 5, 10)
DRAWN = ("scenes", "compare_scenes")
REAL = ("compare_domains", "real_domains", "real_topics")
#: of each stream, the results files of before the rule whose figures are of its pictures
FILES = {
    "scenes": (),
    "compare_scenes": ("scenes_ablation",),
    "compare_domains": ("compare_domains", "tuned_domains", "tuned_domains_adapters"),
    "real_domains": ("real_domains",),
    "real_topics": ("real_topics",),
}


def both_rules(test: TestSet, query: str, gallery: str, columns: list[int]) -> dict[str, Any]:
    """Recall of the frozen model by the rule of today and by the one before, and how many queries have a tie."""
    pairs = test.pairs[:, columns]
    scores = cosine_block(test.frozen[query], test.frozen[gallery])
    ranks = count_ranks(scores, len(test.frozen[query]), pairs)
    every = scores(0, len(test.frozen[query]))
    right = torch.zeros_like(every, dtype=torch.bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    best = every.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    before = (every > best).sum(dim=1) + 0.5 * ((every == best) & ~right).sum(dim=1)
    moved = {f"r{k}": round(100 * float(ranks.within(k).double().mean() - (before < k).double().mean()), 3) for k in KS}
    return {"queries": len(every), "with_a_tie": int((ranks.counts[:, 1] > 0).sum()), "moved_points": moved}


def look(name: str, data: list[str]) -> dict[str, Any]:
    """Both rules on one stream, in both directions."""
    file = ROOT / "experiments" / f"{name}.toml"
    experiment = read_experiment(file if file.is_file() else name, data)
    bench = Bench(experiment, lambda line: print(line, file=sys.stderr))
    test = TestSet([task.test for task in bench.stream.tasks], bench.backbone, settings=experiment.evaluation)
    return {
        "text_to_image": both_rules(test, "text", "vision", [0, 1]),
        "image_to_text": both_rules(test, "vision", "text", [1, 0]),
    }


def stamp(found: dict[str, dict[str, Any]]) -> None:
    """Write to the head of results files that were made before the rule what it can move."""
    for name, by_direction in found.items():
        queries = sum(one["queries"] for one in by_direction.values())
        ties = sum(one["with_a_tie"] for one in by_direction.values())
        moved = max(abs(points) for one in by_direction.values() for points in one["moved_points"].values())
        most = max(one["with_a_tie"] / one["queries"] for one in by_direction.values())
        note = (
            f"Made before equal scores counted their share (2026-11-29). {ties} of {queries} queries of this stream "
            f"have a tie, so by equal inputs no figure moves by more than {100 * most:.2f} points; the frozen model's "
            f"move by at most {moved:.2f} (results/ties.json)."
        )
        for file in FILES[name]:
            path = ROOT / "results" / f"{file}.json"
            record = json.loads(path.read_text(encoding="utf-8"))
            record.pop("ties", None)
            write_json(path, {"ties": note, **record})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with the real streams and backbones/dino-minilm")
    parser.add_argument("--stamp", action="store_true", help="write the outcome to the files it is about")
    parser.add_argument("--results", type=Path, default=Path("results/ties.json"))
    options = parser.parse_args()
    found = {name: look(name, []) for name in DRAWN}
    if options.real is not None:
        data = [f"stream.root={options.real}", f"backbone={options.real / 'backbones' / 'dino-minilm'}"]
        found |= {name: look(name, data) for name in REAL}
    command = shlex.join(["python", "benchmarks/ties.py", *sys.argv[1:]])
    write_json(options.results, {"streams": found, "command": command, **environment()})
    if options.stamp:
        stamp(found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
