"""``lpi ground``: where in a picture is what an expression means?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpi.cli.options import JsonOption, MethodFileOption
from lpi.config import LEAST_SCORE
from lpi.errors import CheckpointError, MissingFileError, OutputError

if TYPE_CHECKING:
    from PIL import Image

    from lpi.methods.grounding.base import Found, GroundingMethod


def ground(
    image: Annotated[Path, typer.Argument(help="The picture.")],
    expressions: Annotated[list[str], typer.Argument(help="What to look for: 'the small red car left of the tree'.")],
    model: Annotated[
        str, typer.Option(help="A run's folder, a saved model, or a detector: its folder or its name on the hub.")
    ] = "lpi-tiny-grounding",
    task: Annotated[
        str | None, typer.Option(help="Use what was learned for this task. By default each expression finds its own.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many boxes for each expression.")] = 3,
    suppress: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Leave out boxes whose IoU with a better one is above this.")
    ] = 0.7,
    least: Annotated[float, typer.Option(min=0.0, max=1.0, help="Leave out boxes that score less.")] = LEAST_SCORE,
    out: Annotated[Path | None, typer.Option(help="Also write the picture with the boxes drawn on it.")] = None,
    method_file: MethodFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the boxes of what each expression means, best first: left, top, right, bottom in pixels, and a score."""
    from lpi.data.records import FilePicture

    picture = FilePicture(image, str(image)).open()
    learner = learned(model, method_file)
    if out is not None:
        check_drawing(out, image)
    for place in learner.backbone.inputs.too_long(expressions, reserved=learner.reserved_tokens()):
        start = expressions[place][:40]
        print(f"note: the model reads only the start of {start!r} .., the rest counts for nothing", file=sys.stderr)
    if learner.backbone.drawn_only:
        print(f"note: {learner.backbone.name} knows drawn scenes only; for photographs name --model", file=sys.stderr)
    answers = learner.locate(picture, expressions, task=task, count=count, suppress=suppress, least=least)
    if out is not None:
        draw(picture, expressions, answers, out)
    if as_json:
        found = [as_record(expression, boxes) for expression, boxes in zip(expressions, answers, strict=True)]
        print(json.dumps({"image": str(image), "size": list(picture.size), "found": found}, indent=1))
        return
    for expression, boxes in zip(expressions, answers, strict=True):
        if not boxes:
            print(f"{expression}: nothing found; no box scores {least:g} or more")
            continue
        used = boxes[0].task
        print(f"{expression} ({f'prompts of task {used}' if used else 'the frozen detector'})")
        for one in boxes:
            print(f"  {one.score:.3f}  " + " ".join(f"{edge:7.1f}" for edge in one.box))
    if out is not None:
        print(f"Drawn on {out}")


def check_drawing(out: Path, image: Path) -> None:
    """Refuse to draw over the picture itself, or into a file that is named like something else; make the folder.

    Raises:
        OutputError: naming what is wrong.
    """
    from lpi.storage import reason

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OutputError(f"{out}: the drawing is a PNG or a JPEG. Name it so, e.g. --out found.png.")
    if out.exists() and out.samefile(image):
        raise OutputError(f"{out} is the picture itself, and would be lost. Give the drawing another name.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {reason(error)}") from error


def learned(model: str, method_file: Path | None = None) -> GroundingMethod:
    """A run's model, a saved model (``method_file`` names a method of one's own), or a detector as it is.

    Raises:
        MissingFileError: the run has no model yet.
        LpiError: as the loaders say.
    """
    from lpi.backbones.detectors.loading import load_grounding_backbone
    from lpi.methods import method as build_method
    from lpi.methods.checkpoint import load_method
    from lpi.storage import read_json

    folder = Path(model)
    if (folder / "run.json").is_file():
        folder /= "model"
        if not (folder / "config.json").is_file():
            raise MissingFileError(f"{model}: this run has learned no task yet. Let it finish its first.")
    about = folder / "config.json"
    if about.is_file() and "method" in read_json(about, dict):
        found = load_method(folder, method=method_file)
        if found.problem != "grounding":
            raise CheckpointError(f"{folder} holds a {type(found).__name__}, which finds no boxes.")
    else:
        found = build_method("zero_shot", load_grounding_backbone(model))
    learner: GroundingMethod = found
    return learner


def as_record(expression: str, boxes: list[Found]) -> dict[str, Any]:
    """One expression's answer as JSON."""
    return {
        "expression": expression,
        "task": boxes[0].task if boxes else None,
        "boxes": [{"box": [round(edge, 2) for edge in one.box], "score": round(one.score, 4)} for one in boxes],
    }


def draw(picture: Image.Image, expressions: list[str], answers: list[list[Found]], out: Path) -> None:
    """Write the picture with the best box of each expression; with a single one, also its other boxes."""
    from lpi.data.expressions.drawing import DrawnBox, draw_boxes
    from lpi.storage import write_atomically

    if len(expressions) == 1:
        kinds = ["predicted", *["other"] * len(answers[0])]
        drawn = [
            DrawnBox(one.box, f"{one.score:.2f}", kind)  # type: ignore[arg-type]
            for one, kind in zip(answers[0], kinds, strict=False)
        ]
    else:
        drawn = [DrawnBox(boxes[0].box, words) for words, boxes in zip(expressions, answers, strict=True) if boxes]
    ready = draw_boxes(picture, drawn, caption="; ".join(expressions))
    kind = "JPEG" if out.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    write_atomically(out, lambda file: ready.save(file, kind))
