"""How much the search results of a growing model move, and whom that hurts.

Recall hides most of it: a query may keep its first hit and lose everything behind it, and an average may stand still
while some queries rise and others fall. All comparisons here are over one gallery, so that its growth isn't counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lpi.evaluation.protocols import protocols
from lpi.evaluation.recall import Evaluator
from lpi.evaluation.records import Averages, StageRecord
from lpi.evaluation.test_set import Encoded
from lpi.methods.base import Method
from lpi.metrics.ranking import Ranks, Similarity, cosine_block, count_ranks, local_pairs
from lpi.storage import read_tensors, write_json, write_tensors

NEIGHBOURS = 10
WORST = 5
SIDES = {"text_to_image": ("text", "vision"), "image_to_text": ("vision", "text")}


class Stability:
    """Compares a run's stages; what a later stage needs of an earlier one lies in a folder, so that a run can resume.

    Args:
        evaluator: measures the run.
        folder: for the nearest neighbours and ranks of every stage.
    """

    def __init__(self, evaluator: Evaluator, folder: Path) -> None:
        self.evaluator, self.folder = evaluator, folder

    def _file(self, stage: int) -> Path:
        return self.folder / f"{stage:03d}.safetensors"

    def of_stage(self, record: StageRecord, method: Method) -> StageRecord:
        """A stage's record with other papers' protocols and the overlap with the stage before."""
        found = protocols(self.evaluator, method, record.stage)
        return replace(record, protocols=found, neighbour_overlap=self.note(method, record.stage))

    def note(self, method: Method, stage: int) -> Averages | None:
        """Keep this stage's neighbours and the new task's ranks; returns the overlap with the stage before, if any.

        The overlap is the share of a query's ten nearest candidates that were among its ten nearest a stage ago,
        over the queries and candidates that there were then.
        """
        seen = self.evaluator.seen(method, stage)
        features = seen.features
        kept, overlap = {}, {}
        before = read_tensors(self._file(stage - 1)) if self._file(stage - 1).exists() else {}
        for direction, (ours, theirs) in SIDES.items():
            if before:
                old = before[direction]  # [queries, k]
                queries = features[ours][: len(old)]
                now = nearest(queries, features[theirs][: self._count(theirs, stage)], seen.similarity)
                overlap[direction] = neighbour_overlap(old, now)
            kept[direction] = nearest(features[ours], features[theirs], seen.similarity)
            kept[f"ranks_{direction}"] = self._ranks(seen, direction, stage).counts
        write_tensors(self._file(stage), kept)
        return overlap or None

    def _count(self, tower: str, tasks: int) -> int:
        """Items of the first tasks; items lie in the order of their tasks."""
        return len(self.evaluator.test.upto(tower, tasks))

    def _ranks(self, seen: Encoded, direction: str, task: int) -> Ranks:
        """The ranks of a task's queries among the candidates of that task and those before it."""
        test = self.evaluator.test
        ours, theirs = SIDES[direction]
        mine = torch.arange(self._count(ours, task), self._count(ours, task + 1))
        among = torch.arange(self._count(theirs, task + 1))
        pairs = test.pairs if direction == "text_to_image" else test.pairs[:, [1, 0]]
        local = local_pairs(pairs, mine, among, test.count(ours), test.count(theirs))
        features = seen.features
        block = cosine_block(features[ours][mine], features[theirs], among=among, similarity=seen.similarity)
        return count_ranks(block, len(mine), local)

    def of_run(self, method: Method) -> Averages:
        """The share of queries that fell out of the first ten between their own stage and the last, by direction.

        Written to ``worst_hit.json`` in the folder are the queries that lost the most places between the stage at
        which their task was learned and the last one.
        """
        tasks = len(self.evaluator.stream.tasks)
        seen = self.evaluator.seen(method, tasks - 1)
        found: Averages = {}
        worst: dict[str, list[dict[str, str | float]]] = {}
        for direction, (ours, _) in SIDES.items():
            known = [task for task in range(tasks) if self._file(task).exists()]  # joint training has the last alone
            first = Ranks(torch.cat([read_tensors(self._file(task))[f"ranks_{direction}"] for task in known]))
            last = Ranks(torch.cat([self._ranks(seen, direction, task).counts for task in known]))
            start = self._count(ours, known[0])
            fell = first.within(NEIGHBOURS) - last.within(NEIGHBOURS)  # 0 where nothing moved, ties or not
            found[direction] = float(fell.clamp(min=0).mean())
            before, after = first.expected() - 1, last.expected() - 1  # wrong candidates in front
            worst[direction] = [
                {"query": self._words(ours, start + item), "before": float(before[item]), "after": float(after[item])}
                for item in (before - after).argsort(stable=True)[:WORST].tolist()
                if after[item] > before[item]
            ]
        write_json(self.folder / "worst_hit.json", worst)
        return found

    def _words(self, tower: str, item: int) -> str:
        """A query as a person recognises it: the caption, or the picture's name."""
        test = self.evaluator.test
        return test.texts[item] if tower == "text" else test.records[item].picture.name


def nearest(queries: Tensor, gallery: Tensor, similarity: Similarity = "dot", block: int = 1024) -> Tensor:
    """The ten nearest candidates of each query, int32 [queries, at most 10]."""
    count, scores = min(NEIGHBOURS, len(gallery)), cosine_block(queries, gallery, similarity=similarity)
    starts = range(0, len(queries), block)
    parts = [scores(start, start + block).topk(count, dim=1).indices.int() for start in starts]
    return torch.cat(parts)


def neighbour_overlap(before: Tensor, after: Tensor) -> float:
    """The mean share of each query's neighbours that stayed.

    >>> neighbour_overlap(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 0], [2, 4]]))
    0.75

    Args:
        before: int [queries, k].
        after: int [queries, k].
    """
    return float((before[:, :, None] == after[:, None, :]).any(dim=2).float().mean())
