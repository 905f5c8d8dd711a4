"""A small folder of drawn pictures with captions, for trying the search benchmarks without real data."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from lpi.data.scenes import load_scenes

OLD, NEW = ("food", "animal"), "vehicle"


def draw(root: Path, *, train: int = 24, test: int = 12, side: int = 96) -> tuple[Path, Path]:
    """Draw pictures of three domains; returns the folder to index and the folder of captioned domains.

    Args:
        root: is made.
        train, test: pictures a domain.
        side: of the pictures.
    """
    photos, captioned = root / "photos", root / "captioned"
    rows: dict[str, list[str]] = {}
    for number, record in enumerate(
        load_scenes(families=[*OLD, NEW], train=train, validation=0, test=test, held_out=0)
    ):
        name = f"images/{number:04d}.png"
        for file in (photos / record.task / f"{number:04d}.png", captioned / record.task / name):
            file.parent.mkdir(parents=True, exist_ok=True)
            record.picture.open(side).save(file)
        row = {"image": name, "captions": list(record.captions), "split": record.split}
        rows.setdefault(record.task, []).append(json.dumps(row))
    for task, lines in rows.items():
        (captioned / task / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return photos, captioned


def with_store(environment: dict[str, Any]) -> dict[str, Any]:
    """Versions and machine, the store's version among them."""
    return {**environment, "versions": {**environment["versions"], "lancedb": metadata.version("lancedb")}}
