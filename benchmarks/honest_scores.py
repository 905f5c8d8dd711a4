"""How often "nothing here fits well" is said: to captions of the indexed pictures, and to words that fit none.

    python benchmarks/honest_scores.py --real FOLDER --results results/honest_scores.json

FOLDER holds flickr8k, coco_mini, stamps, clipart, archives and backbones/dino-minilm. Photographs (flickr8k's
validation pictures and coco_mini) are indexed, then the same with stamps and clip art among them. Asked are 200
captions of indexed pictures, and 200 texts that fit none: half of them salads of words from the very same captions,
half captions of X-ray pictures, exercises, furniture, aerial views and shop articles. Photographs that aren't indexed,
and pictures of those other archives, are asked too. An index uses no caption to find out where a half lies; the
three numbers of ``lpi.search.fit`` were chosen on flickr8k's test pictures, with other captions.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpi.evaluation.machine import environment
from lpi.search.fit import WELL
from lpi.search.index import SearchIndex
from lpi.storage import write_json

COUNT = 200
OTHERS = ("medpix", "exercises", "ikea", "rsicd", "flipkart")
Row = dict[str, Any]


def rows_of(folder: Path) -> list[Row]:
    """The captioned pictures of a set, with whole paths."""
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{**row, "file": folder / row["image"]} for row in rows]


def copied(rows: Sequence[Row], place: Path) -> list[Row]:
    """The rows, after their pictures were copied into a folder."""
    place.mkdir(parents=True, exist_ok=True)
    for row in rows:
        shutil.copy(row["file"], place)
    return list(rows)


def said(index: SearchIndex, queries: Sequence[Any], *, pictures: bool = False) -> list[bool]:
    """Whether the line stands, for each query."""
    encode = index.encode_images if pictures else index.encode_texts
    return [max(hit.fit or 0.0 for hit in hits) < WELL for hits in index.find_each(encode(queries), 48)]


def share(found: Sequence[bool]) -> dict[str, float]:
    """Of how many queries the line stands."""
    return {"queries": len(found), "said_nothing_fits": round(sum(found) / len(found), 3)}


def ask(index: SearchIndex, indexed: Sequence[Row], others: dict[str, list[Row]], apart: Sequence[Row]) -> Row:
    """How often the line stands, by kind of query."""
    assert index.measure()
    draw = random.Random(7)
    fits = [draw.choice(row["captions"]) for row in draw.sample(list(indexed), COUNT)]
    words = sorted({word for row in indexed for text in row["captions"] for word in text.lower().split()})
    words = [word for word in words if word.isalpha()]
    salads = [" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(COUNT // 2)]
    share_of = COUNT // 2 // len(others)
    foreign = {name: draw.sample(rows, share_of) for name, rows in others.items()}
    asked = {name: said(index, [draw.choice(row["captions"]) for row in rows]) for name, rows in foreign.items()}
    found = {"word salads": said(index, salads), **asked}
    strangers = [row["file"] for rows in foreign.values() for row in rows]
    known = [row["file"] for row in draw.sample(list(apart), COUNT // 2)]
    return {
        "pictures": len(index),
        "fits": share(said(index, fits)),
        "does_not_fit": share([one for own in found.values() for one in own]),
        "does_not_fit_by_kind": {name: share(own) for name, own in found.items()},
        "picture_queries": {
            "photographs_not_indexed": share(said(index, known, pictures=True)),
            "of_other_archives": share(said(index, strangers, pictures=True)),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder with the real pictures and the backbone")
    parser.add_argument("--results", type=Path, default=Path("results/honest_scores.json"))
    options = parser.parse_args()
    real: Path = options.real
    flickr = rows_of(real / "flickr8k")
    others = {name: rows_of(real / "archives" / name) for name in OTHERS}
    apart = [row for row in flickr if row["split"] == "test"]
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder, where = Path(place) / "pictures", Path(place) / "index"
        model = real / "backbones" / "dino-minilm"
        rows = copied([row for row in flickr if row["split"] == "val"], folder / "flickr8k")
        rows += copied(rows_of(real / "coco_mini"), folder / "coco")
        photographs = ask(SearchIndex.build(model, folder, index=where), rows, others, apart)
        for name, count in (("stamps", 300), ("clipart", 500)):
            rows += copied(draw.sample(rows_of(real / name), count), folder / name)
        everything = ask(SearchIndex.build(model, folder, index=where), rows, others, apart)
    command = shlex.join(["python", "benchmarks/honest_scores.py", *sys.argv[1:]])
    record = {**photographs, "with_stamps_and_clip_art": everything, "command": command, **environment()}
    write_json(options.results, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
