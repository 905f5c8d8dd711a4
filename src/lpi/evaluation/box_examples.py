"""Example expressions for the report: what the frozen detector found, and what is found after the last task."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from lpi.data.expressions.drawing import DrawnBox, draw_boxes
from lpi.evaluation.examples import Json, half_and_half
from lpi.evaluation.precision import Best, GroundingEvaluator, TestExpressions
from lpi.methods.base import FALLBACK
from lpi.methods.grounding.base import GroundingMethod
from lpi.metrics.boxes import iou
from lpi.storage import write_atomically, write_json

SHOWN = 3
"""How many boxes are drawn: the best one, and two more."""


def write_box_examples(evaluator: GroundingEvaluator, method: GroundingMethod, folder: Path, count: int) -> None:
    """Write ``examples.json`` and the pictures it names, two an expression: before and after.

    Half of the expressions, where there are so many, are ones that the frozen detector got wrong and the method gets
    right; the others are drawn evenly, so that the page does not show successes only.
    """
    if count == 0:
        return
    test = evaluator.test
    rows = test.upto(test.tasks)
    routes = test.routes(method, rows)
    before = test.ranks(None, rows, torch.full_like(rows, FALLBACK))
    after = test.ranks(method, rows, routes)
    shown = []
    for number, row in enumerate(_pick(before.within(1) == 1, after.within(1) == 1, count)):
        route = int(routes[row])
        used = method.tasks[route] if method.router is not None and route != FALLBACK else None
        record = test.records[row]
        example: Json = {
            "expression": record.expression,
            "task": evaluator.stream.tasks[int(test.task[row])].name,
            "used": used,
        }
        place = torch.tensor([row])
        for moment, (best,) in (
            ("before", test.best(None, place, FALLBACK)),
            ("after", test.best(method, place, route)),
        ):
            name = f"examples/{number:02d}-{_readable(record.expression)}-{moment}.png"
            example[moment] = {"picture": name, **_draw(test, row, best, folder / name)}
        shown.append(example)
    write_json(folder / "examples.json", shown)


def _pick(before: Tensor, after: Tensor, count: int) -> list[int]:
    return half_and_half((~before & after).nonzero()[:, 0].tolist(), range(len(before)), count)


def _draw(test: TestExpressions, row: int, best: Best, path: Path) -> Json:
    """Draws one answer and says how good it is: boxes are left, top, right, bottom in pixels of the picture's size."""
    record = test.records[row]
    image = record.picture.open(None)
    width, height = record.size
    edge = max(record.size)
    frame = torch.tensor([edge, edge] if test.backbone.inputs.square else [width, height], dtype=torch.float32).repeat(
        2
    )
    boxes = best.boxes[:SHOWN] * frame
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    share = float(iou(best.boxes[:1], test.truth(torch.tensor([row])))[0, 0])
    scale = torch.tensor([image.width / width, image.height / height]).repeat(2)
    drawn = [DrawnBox(_box(torch.tensor(record.box) * scale), "meant", "true")]
    for place, (box, score) in enumerate(zip(boxes, best.scores, strict=False)):
        drawn.insert(place, DrawnBox(_box(box * scale), f"{score:.2f}", "other" if place else "predicted"))
    picture = draw_boxes(image, drawn, caption=record.expression)
    write_atomically(path, lambda file: picture.save(file, "PNG"))
    return {
        "boxes": [[round(edge, 2) for edge in box.tolist()] for box in boxes],
        "scores": [round(float(score), 4) for score in best.scores[:SHOWN]],
        "iou": round(share, 4),
        "right": share >= 0.5,
    }


def _box(box: Tensor) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom


def _readable(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "expression"
