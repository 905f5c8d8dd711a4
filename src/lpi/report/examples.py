"""Example queries with what the model found before and after learning, pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lpi.data.pictures import open_image
from lpi.errors import DataError
from lpi.report.reading import Json
from lpi.report.variants import Variant
from lpi.report.words import section, text

SIDE = 200
OPEN = 6
HITS = (
    "What stands first for a query of the test set: the frozen backbone before, the learned model after. "
    '<span class="key">✓ right</span> marks what belongs to the query.'
)
BOXES = "The broken green line is the object that is meant; the orange box is the best one found, blue ones come next."


def examples(lead: Variant) -> str:
    """The example queries of the first run that has some."""
    run = next((run for run in lead.runs if run.examples), None)
    if run is None:
        return ""
    tell = box_example if run.problem == "grounding" else example
    shown = [tell(run.path, record) for record in run.examples]
    body = "".join(shown[:OPEN])
    if len(shown) > OPEN:
        body += f"<details><summary>{len(shown) - OPEN} more</summary>{''.join(shown[OPEN:])}</details>"
    return section(
        "examples",
        "Examples, before and after",
        body,
        BOXES if run.problem == "grounding" else HITS,
    )


def box_example(folder: Path, record: Json) -> str:
    """One expression with its two pictures."""
    used = record.get("used")
    sides = {"before": "the frozen detector", "after": f"prompts of {used}" if used else "no task's prompts"}
    lists = ""
    for moment, what in sides.items():
        found = record[moment]
        mark = "✓ right" if found["right"] else "wrong"
        title = f"{moment.capitalize()} <small>{text(what)}: {mark}, IoU {found['iou']:.2f}</small>"
        alt = f"{record['expression']}, {moment}: {mark}"
        lists += f"<div><h4>{title}</h4>{picture(folder, found['picture'], alt)}</div>"
    head = f'<q>{text(record["expression"])}</q> <span class="chip">{text(record["task"])}</span>'
    return f'<article class="example to-text"><h3>{head}</h3><div class="lists">{lists}</div></article>'


def example(folder: Path, record: Json) -> str:
    """One query with its two lists."""
    to_image = record["direction"] == "text_to_image"
    task = f'<span class="chip">{text(record["task"])}</span>' if record.get("task") else ""
    if to_image:
        query = f'<p class="query"><q>{text(record["query"])}</q></p>'
    else:
        query = f'<p class="query">{picture(folder, record["query"], "the picture that is asked about")}</p>'
    lists = "".join(
        f"<div><h4>{title} <small>{place_of_right(record[name])}</small></h4>"
        f"{hits(folder, record[name], to_image)}</div>"
        for name, title in (("before", "Before"), ("after", "After"))
    )
    kind = "to-image" if to_image else "to-text"
    title = "Caption → picture" if to_image else "Picture → caption"
    return f'<article class="example {kind}"><h3>{title} {task}</h3>{query}<div class="lists">{lists}</div></article>'


def place_of_right(found: Sequence[Json]) -> str:
    """Where the first right one stands, in words."""
    place = next((number for number, hit in enumerate(found, start=1) if hit["right"]), None)
    if place is None:
        return f"no right one in the first {len(found)}"
    return "right one first" if place == 1 else f"right one at place {place}"


def hits(folder: Path, found: Sequence[Json], to_image: bool) -> str:
    """One list of hits, best first; a right one has a frame, a tick and the word, so that colour is not needed."""
    items = []
    for hit in found:
        mark = '<span class="mark">✓ right</span>' if hit["right"] else ""
        caption = text(hit.get("caption") or "")
        score = hit.get("score")
        title = f' title="score {score:.3f}"' if score is not None else ""
        if to_image:
            alt = f"{hit.get('caption') or 'a picture'}{' (right)' if hit['right'] else ''}"
            content = f"{picture(folder, hit.get('picture'), alt)}{mark}<small>{caption}</small>"
        else:
            content = f"{mark} {caption}"
        items.append(f'<li{title} class="{"right" if hit["right"] else "wrong"}">{content}</li>')
    return f"<ol>{''.join(items)}</ol>"


def picture(folder: Path, name: object, alt: str) -> str:
    """A picture of the run folder, small, inside the page; a frame with a word where there is none."""
    if not isinstance(name, str):
        return '<span class="no-picture">no picture</span>'
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{folder / 'examples.json'}: the picture {name!r} is outside the run folder. Copy it in.")
    if not path.is_file():
        return f'<span class="no-picture">not in the run folder: {text(name)}</span>'
    return f'<img src="{data_uri(path)}" alt="{text(alt)}" loading="lazy">'


def data_uri(path: Path) -> str:
    """A picture file as a small JPEG data URI: drawn anew, so that nothing but a picture gets into the page."""
    small = open_image(path, str(path), None)
    small.thumbnail((2 * SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
