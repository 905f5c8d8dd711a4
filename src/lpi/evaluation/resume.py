"""Is a run folder finished, and is it the run that is asked for? Settings and data must be those that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lpi.config import NOT_OBEYED, Experiment
from lpi.data.content import content_id
from lpi.errors import CheckpointError, ConfigError, OutputError
from lpi.evaluation.records import FORMAT
from lpi.methods import method_class
from lpi.methods.options import options_of
from lpi.storage import locked, read_json, read_sealed, sealed, unsealed, write_json

Json = Any

LOCK = ".lock"
#: what a run writes into its folder, of this version and of earlier ones
WRITTEN = {
    *("run.json", "frozen.json", "zero_shot.json", "result.json", "tasks.json", "examples.json", "timing.json"),
    *("stages", "model", "examples", "stability", "log.jsonl", "progress.pt", "error.txt", "files.json"),
}
FILES = "files.json"
#: whose readers compare a checksum that stands in the file itself, and what nobody reads but a person
CHECKED = {"run.json", "frozen.json", "result.json", FILES, "error.txt"}


ELSEWHERE = {"rows", "seeds", "about", "search", "planned"}
"""Settings of an experiment that decide nothing about one of its runs."""


OF_ROUTES = ("scoring", "routed_weight", "unrouted_score")
"""What of the evaluation says how routes are scored."""


def finished(
    folder: Path, settings: Experiment, seed: int, checksum: Callable[[], str], identity: Callable[[], str | None]
) -> bool:
    """Whether a run is complete.

    Args:
        folder: the run's.
        settings: what it should have been run with.
        seed: likewise.
        checksum: gives that of the stream as it is now; asked only where there is a run.
        identity: likewise, that of the backbone; ``None`` of one that can't have changed.

    Raises:
        ConfigError: the folder holds a run with other settings, over other data, or with another backbone of that name.
    """
    if not (folder / "run.json").exists():
        check_own(folder)
        return False
    before = read_json(folder / "run.json", dict)
    if before.get("format") != FORMAT or not isinstance(before.get("stream"), dict):
        raise ConfigError(
            f"{folder} holds a run of another version of lpi, whose records are written otherwise. Choose another "
            "--out, or start over with --fresh."
        )
    before = unsealed(folder / "run.json", before)
    there = before.get("settings")
    if isinstance(there, dict):  # runs of before this was left out of what decides
        there.pop("planned", None)
    if changed := difference(there, settings, seed):
        raise ConfigError(
            f"{folder} holds a run with other settings ({changed}). Choose another --out or --set name=..., "
            "or start over with --fresh."
        )
    if (there := before["stream"].get("checksum")) != checksum():
        raise ConfigError(
            f"{folder} holds a run over other data (checksum {there} there, {checksum()} now). "
            "Put the pictures and captions back as they were, choose another --out, or start over with --fresh."
        )
    backbone, now = before.get("backbone"), identity()
    if now is not None and isinstance(backbone, dict) and (there := backbone.get("identity")) != now:
        raise ConfigError(
            f"{folder} holds a run with another backbone of that name (identity {there} there, {now} now). Put the "
            "model back as it was, choose another --out, or start over with --fresh."
        )
    return (folder / "result.json").exists()


def check_own(folder: Path) -> None:
    """Refuse to make a run in a folder, or to delete one, that holds something else.

    Raises:
        OutputError: it does, or is no folder at all.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise OutputError(f"{folder} is a link or a file, and no folder of a run. Choose another --out, or remove it.")
    names = sorted(path.name for path in folder.iterdir())
    if "run.json" in names:
        try:
            about = read_json(folder / "run.json")
            if isinstance(about, dict) and about.keys() >= {"experiment", "row", "settings"}:
                return
        except CheckpointError:  # damaged: finished() says so, if the rest is a run's
            pass
        others = foreign(names)
    else:  # what a run leaves that was stopped, or failed, before it began
        others = [name for name in names if name not in ("error.txt", LOCK) and not name.startswith(".run.json.")]
    if others:
        raise OutputError(
            f"{folder} is no folder of a run and holds other things, first {others[0]!r}. Choose another --out, or "
            "another name."
        )


def foreign(names: Sequence[str]) -> list[str]:
    """The names among those in a run's folder that no run gives to what it writes."""
    return [name for name in names if name not in WRITTEN and not name.startswith(".")]


def start_over(folder: Path) -> None:
    """Delete the folder of a run, if there is one.

    Raises:
        OutputError: it is something else's.
    """
    check_own(folder)
    if not folder.exists():
        return
    if others := foreign(sorted(path.name for path in folder.iterdir())):
        raise OutputError(f"{folder} also holds {others[0]!r}, which no run wrote. Move it away, or leave out --fresh.")
    with at_work(folder):
        shutil.rmtree(folder)


def note_files(folder: Path) -> None:
    """Write down the checksum of every file of a run that holds none itself, for :func:`changed_files`.

    Raises:
        OutputError: the folder can't be written to.
    """
    ids = {file.relative_to(folder).as_posix(): content_id(file) for file in _unchecked(folder)}
    write_json(folder / FILES, sealed({"files": ids}))


def changed_files(folder: Path) -> Iterator[str]:
    """The files of a finished run that aren't what was written, or are gone, by their names in its folder.

    Raises:
        CheckpointError: the list itself is damaged.
    """
    noted = read_sealed(folder / FILES).get("files")
    for name, content in noted.items() if isinstance(noted, dict) else ():
        place = folder / name
        if not place.is_file() or content_id(place) != content:
            yield name


def _unchecked(folder: Path) -> list[Path]:
    places = [folder, *(folder / name for name in ("examples", "stability"))]
    return sorted(
        file
        for place in places
        if place.is_dir()
        for file in place.iterdir()
        if file.is_file() and file.suffix != ".safetensors" and file.name not in CHECKED and file.name[0] != "."
    )


def at_work(folder: Path) -> AbstractContextManager[None]:
    """Keeps other commands from writing into the folder of a run.

    Raises:
        OutputError: one does already.
    """
    return locked(folder / LOCK, f"{folder} is in use by another lpi. Wait until it ends, or choose another --out.")


def comparable(settings: Experiment, seed: int) -> Json:
    """What decides a run, in plain values: its settings and seed, without the variants that it isn't."""
    content = settings.model_dump(mode="json", exclude=ELSEWHERE)
    for table, names in NOT_OBEYED[settings.stream.problem].items():  # what such a stream doesn't obey decides nothing
        content[table] = {name: value for name, value in content[table].items() if name not in names}
    return {**json.loads(json.dumps(content)), "seed": seed}


def difference(before: Json, settings: Experiment, seed: int) -> str:
    """The first setting in which a run isn't as it would be made now, in words; empty for none.

    Without a router there is no score of routes: how it would be made decides nothing.

    Args:
        before: what :func:`comparable` gave for it.
        settings, seed: of now.
    """
    if before == (now := comparable(settings, seed)):
        return ""
    ignored = () if _routes(settings) else OF_ROUTES
    pair = [_without(content, "evaluation", ignored) for content in (before, now)]
    return "" if pair[0] == pair[1] else _first_difference(*pair)


def _routes(settings: Experiment) -> bool:
    """Whether a run's method sends queries to tasks."""
    given = {name: value for name, value in settings.method.items() if name not in ("name", "preset")}
    name, preset = settings.method.get("name", "lpi"), settings.method.get("preset")
    kind = method_class(name, settings.stream.problem).Options
    return getattr(options_of(kind, given, preset=preset, called=name), "router", None) is not None


def _without(settings: Json, table: str, names: Sequence[str]) -> Json:
    if not isinstance(settings, dict) or not isinstance(settings.get(table), dict):
        return settings
    return {**settings, table: {name: value for name, value in settings[table].items() if name not in names}}


def _first_difference(before: Any, now: Any, place: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key):
                return _first_difference(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    return f"{place}: {before!r} there, {now!r} now"
