"""Is an index still what was written? Models, rows and features by their checksums, all of them, damage by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lpi.errors import LpiError
from lpi.methods import Named
from lpi.search.identity import load_stage
from lpi.search.manifest import Manifest, read_manifest, successor
from lpi.search.recorded import on_record
from lpi.search.store import PICTURES, Store

MOST_NAMED = 3


def damage(folder: str | Path, *, method_file: Named | None = None) -> list[str]:
    """What is damaged in an index, a line each; nothing where all is as it was written.

    Args:
        folder: of the index.
        method_file: the file or class of the index's method, where it is none of the library's.

    Raises:
        MissingFileError: there is no index.
        CheckpointError: its manifest is damaged, without which nothing can be told.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    found = list(_damage(folder, manifest, method_file))
    following = successor(folder, manifest)
    if following is not None:
        found += _damage(folder / "next", following, method_file)
    try:
        on_record(folder)
    except LpiError as error:
        found.append(str(error))
    return found


def advice(folder: Path) -> str:
    """What a person does about a damaged index."""
    return (
        "Take the index from a backup, or make it anew from the pictures: "
        f"lpi index {read_manifest(folder).root} --index NEW_FOLDER --model MODEL"
    )


def _damage(folder: Path, manifest: Manifest, method_file: Named | None) -> Iterator[str]:
    store, models = Store(manifest.store_in(folder), manifest.width), set()
    for stage in manifest.stages:
        try:
            if stage.model not in models:
                models.add(stage.model)
                load_stage(folder, manifest, stage, method_file=method_file)
        except LpiError as error:
            yield str(error)
        try:
            rows = store.rows(stage.version)
            if len(rows) != stage.pictures:
                yield f"{folder}: stage {stage.number} has {len(rows)} rows, and should have {stage.pictures}"
            yield from _named(folder, f"rows of stage {stage.number}", rows.damaged())
        except LpiError as error:
            yield f"stage {stage.number}: {error}"
    try:
        keys = [name.removeprefix("route-") for name in store.names() if name != PICTURES]
    except LpiError as error:
        yield str(error)
        return
    for key in keys:
        try:
            yield from _named(folder, f"features under {key}", store.damaged(key))
        except LpiError as error:
            yield f"features under {key}: {error}"


def _named(folder: Path, what: str, ids: list[str]) -> Iterator[str]:
    if ids:
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        yield f"{folder}: {what}: of picture {', '.join(ids[:MOST_NAMED])}{more}"
