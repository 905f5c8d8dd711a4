"""What an index leaves in its folder beside what counts, and how it is taken away."""

from __future__ import annotations

import shutil
from pathlib import Path

from lpi.search.manifest import is_address, located
from lpi.search.store import Store

SERVER = "server.json"
"""Where in an index a server says at what address it is; see :mod:`lpi.cli.asking`."""


def drop_store(folder: Path, store: str) -> None:
    """Take away the tables that an index in a folder named."""
    if is_address(store):
        Store(located(folder, store), 1).clear()
    elif (folder / store).exists():
        remove_folder(folder / store)


def remove_lessons(folder: Path, keep: Path | None = None) -> None:
    """Drop what was learned on trial, all but one."""
    for lesson in (folder / "lessons").glob("*"):
        if lesson != keep:
            remove_folder(lesson)


def remove_folder(folder: Path) -> None:
    """Take a folder away. Cut short, what is left of it is not taken for the whole: it has another name by then."""
    dropped = folder.with_name(f".{folder.name.lstrip('.')}")
    if folder != dropped:
        shutil.rmtree(dropped, ignore_errors=True)
        folder.rename(dropped)
    shutil.rmtree(dropped, ignore_errors=True)
