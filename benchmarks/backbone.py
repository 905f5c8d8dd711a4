"""Is the embedded backbone at home at every text position, as models are that were trained on captions of all lengths?

    python benchmarks/backbone.py --before FOLDER --results results/backbone.json

Frozen R@1 of ``compare_scenes`` (all pictures of its four tasks in one gallery, the mean of both directions), with all
captions but the start token moved 0 to 16 positions back, as prompts move them, and nothing else: the table of
positions is read so many rows further on. Whatever would stand behind the table's end is given its last row; no caption
of these tasks comes so far in a context of 77. ``more_pictures`` has the same of four times as many test pictures:
where pictures are as alike as these, a change of a thousandth in cosine already moves the recall of 192 pictures by a
point. ``moved_cosine``: of captions that were moved with the same ones where they were, the mean. ``--before`` names a
folder with another ``lpi-tiny``, to compare with.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from lpi.config import read_experiment
from lpi.evaluation.bench import Bench
from lpi.evaluation.machine import environment
from lpi.evaluation.test_set import TestSet
from lpi.features import frozen_text_features
from lpi.metrics.ranking import cosine_block, count_ranks
from lpi.storage import write_json

MOVES = (0, 2, 4, 8, 16)


def shift_positions(module: Any, by: int) -> None:
    """Give a text tower's module a table of positions ``by`` rows further on, but for the start token's row."""
    table = module.embeddings.position_embedding.weight
    rows = (torch.arange(len(table)) + by).clamp_max(len(table) - 1)
    rows[0] = 0
    table.data = table.data[rows]


def moved_recall(backbone: str | Path, *changes: str, moves: tuple[int, ...] = MOVES) -> dict[str, Any]:
    """What moving the captions does to the frozen model.

    Args:
        backbone: a name or folder.
        changes: of ``compare_scenes``, as for ``--set``.
        moves: by how many positions.

    Returns:
        ``r1`` in per cent and ``cosine`` by the move, ``longest_caption`` in tokens, and the model's ``context``.
    """
    experiment = read_experiment("compare_scenes", [f"backbone={backbone}", *changes])
    bench = Bench(experiment, lambda line: print(line, file=sys.stderr))
    test = TestSet([task.test for task in bench.stream.tasks], bench.backbone, settings=experiment.evaluation)
    images, here, module = test.frozen["vision"], test.frozen["text"], bench.backbone.text.module
    table = module.embeddings.position_embedding.weight.data
    recalls, cosines = {}, {}
    for by in moves:
        module.embeddings.position_embedding.weight.data = table
        shift_positions(module, by)
        texts = frozen_text_features(bench.backbone, test.texts, test.batch)
        ranks = (
            count_ranks(cosine_block(texts, images), len(texts), test.pairs),
            count_ranks(cosine_block(images, texts), len(images), test.pairs[:, [1, 0]]),
        )
        recalls[str(by)] = round(100 * statistics.mean(float(rank.within(1).double().mean()) for rank in ranks), 3)
        cosines[str(by)] = round(float((texts * here).sum(dim=1).mean()), 5)
    lengths = bench.backbone.inputs.tokenize(list(test.texts)).mask.sum(dim=1)
    return {
        "r1": recalls,
        "cosine": cosines,
        "longest_caption": int(lengths.max()),
        "context": bench.backbone.text.context,
    }


def measured(backbone: str | Path) -> dict[str, Any]:
    """The stream's own test pictures, and four times as many."""
    own = moved_recall(backbone, "stream.train=2", "stream.validation=0")
    more = moved_recall(backbone, "stream.train=2", "stream.validation=0", "stream.test=192")
    return {
        "moved_r1": own["r1"],
        "more_pictures": more["r1"],
        "moved_cosine": own["cosine"],
        "longest_caption": max(own["longest_caption"], more["longest_caption"]),
        "context": own["context"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lpi-tiny", help="the backbone (default: lpi-tiny)")
    parser.add_argument("--before", type=Path, help="a folder with the backbone to compare with")
    parser.add_argument("--results", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args()
    record = measured(options.model)
    if options.before is not None:
        before = measured(options.before)
        record |= {"before": before.pop("moved_r1"), **{f"{key}_before": value for key, value in before.items()}}
    record |= {"command": shlex.join(["python", "benchmarks/backbone.py", *sys.argv[1:]]), **environment()}
    print(json.dumps(record, indent=1))
    if options.results is not None:
        write_json(options.results, record)


if __name__ == "__main__":
    main()
