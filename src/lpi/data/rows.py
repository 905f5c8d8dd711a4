"""What all readers share: lines of JSON with their numbers, pictures that must exist, and the drawing of splits."""

import csv
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lpi.data.records import FilePicture
from lpi.errors import ConfigError, DataError, LpiError, did_you_mean
from lpi.reading import (
    MOST_SETTINGS,
    Row,
    UnreadableError,
    decoded,
    is_text,
    parse_json,
    read_bytes,
    require_file,
    shown,
)

OnError = Callable[[LpiError], None]

CELL = 1 << 20  # letters of a cell of a table
HINTS = 10  # names that a folder is searched through for; after so many that aren't there it is another folder

SHARES = (0.8, 0.1, 0.1)
"""How a source without splits is divided into train, val and test."""

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "held_out": "held_out",
}


def raise_error(error: LpiError) -> None:
    """The default of every reader's ``on_error``: the first bad row ends the reading."""
    raise error


def read_json_lines(path: Path, on_error: OnError = raise_error) -> Iterator[tuple[int, Row]]:
    """The objects of a JSONL file, each with its line number (from 1). Empty lines are passed over.

    Raises:
        MissingFileError: there is no such file.
        DataError: a line is not UTF-8, not JSON or not an object; the message names file and line.
    """
    require_file(path)
    with path.open("rb") as file:
        for number in count(1):
            raw = file.readline(MOST_SETTINGS + 1)
            if not raw:
                return
            where = f"{path}, line {number}"
            try:
                if len(raw) > MOST_SETTINGS:
                    raise UnreadableError("not valid JSON: the line is too long")
                text = decoded(raw).strip()
                row = parse_json(text, finite=True) if text else None
            except UnreadableError as error:
                problem = f"{where}: {error}".replace("JSON: line 1, ", "JSON: ")
                json_it_is = "JSON" in str(error)
                advice = "Every line must be one JSON object." if json_it_is else "Save it as UTF-8."
                on_error(DataError(f"{problem}. {advice}"))
                if len(raw) > MOST_SETTINGS:
                    return
                continue
            if not text:
                continue
            if not isinstance(row, dict):
                kind = type(row).__name__
                on_error(DataError(f'{where}: expected an object such as {{"image": ..}}; got a {kind}.'))
                continue
            yield number, row


def table(lines: Iterable[str], **dialect: Any) -> "csv.DictReader[str]":
    """A reader of a table with a head, whose cells have at most :data:`CELL` letters, whatever was read before.

    Args:
        lines: of the table, with their ends.
        dialect: as for :class:`csv.DictReader`.
    """
    csv.field_size_limit(CELL)
    return csv.DictReader(lines, **dialect)


def read_csv(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The rows of a CSV file with a head, each with its line number.

    Args:
        path: the file.
        columns: that it must have.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is no CSV file in UTF-8, or lacks a column; the message names file and line.
    """
    require_file(path)
    line = 0
    try:
        rows = table(io.StringIO(decoded(read_bytes(path)), newline=""))
        if not set(columns) <= set(rows.fieldnames or ()):
            raise DataError(f"{path}: expected the columns {', '.join(columns)}; found {shown(rows.fieldnames or [])}.")
        for row in rows:
            line = rows.line_num
            yield line, row
    except (UnreadableError, csv.Error) as error:
        raise DataError(f"{path}, after line {line}: {error}. It must be CSV as UTF-8. Is it complete?") from error


def split_name(value: object, where: str) -> str:
    """The library's word for a split: train, val, test or held_out ("validation" and "dev" mean val).

    Raises:
        DataError: it is none of them.
    """
    name = _SPLIT_NAMES.get(value.lower()) if isinstance(value, str) else None
    if name is None:
        hint = did_you_mean(shown(value), _SPLIT_NAMES)
        raise DataError(f'{where}: "split" must be train, val, test or held_out; got {shown(value)}. {hint}')
    return name


def folder_split(name: str) -> str | None:
    """The split that a folder of this name holds, or ``None`` where it's no split's name.

    A number or "set" beside the split's name doesn't count, as in COCO's ``train2014``.

    >>> folder_split("Validation"), folder_split("val2014"), folder_split("birds")
    ('val', 'val', None)
    """
    bare = re.sub(r"^\d+[ _-]*|[ _-]*(?:set)?[ _-]*\d*$", "", name.strip().lower().removeprefix("split="))
    return _SPLIT_NAMES.get(bare.replace("-", "_"))


def clean_captions(captions: object, where: str, column: str = "captions") -> tuple[str, ...]:
    """A row's captions without surrounding space.

    Raises:
        DataError: no list, an empty list, something that is not text, or an empty caption.
    """
    if isinstance(captions, str):
        fixed = json.dumps([captions.strip()[:40] or "a red boat"], ensure_ascii=False)
        raise DataError(f'{where}: expected a list of captions under "{column}"; got a string. Wrap it: {fixed}.')
    if not isinstance(captions, list):
        raise DataError(f'{where}: expected a list of captions under "{column}"; got {type(captions).__name__}.')
    if not captions:
        raise DataError(f'{where}: "{column}" is an empty list. Give at least one caption, or remove the row.')
    cleaned = []
    for position, caption in enumerate(captions, start=1):
        if not isinstance(caption, str):
            raise DataError(f"{where}: caption {position} must be text; got {shown(caption)}.")
        if not caption.strip():
            raise DataError(f"{where}: caption {position} is empty. Write one, or remove it.")
        cleaned.append(caption.strip())
    return tuple(cleaned)


class PictureFolder:
    """Which files there are under a folder. Each folder is listed once, so that 8,000 look-ups cost one listing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, frozenset[str]] = {}
        self._hints = HINTS

    def find(self, relative: str) -> Path | None:
        """The path of a picture given relative to the root, or ``None`` where there is no such file."""
        path = os.path.normpath(os.path.join(self.root, relative))
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries)
            except (OSError, ValueError):  # ValueError: a name with a zero byte
                self._names[folder] = frozenset()
        # A listing spells names as they were written; a file system that ignores case, or folds Unicode, may still
        # know the picture under the name asked for.
        return Path(path) if name in self._names[folder] or os.path.isfile(path) else None

    def picture(self, where: str, *names: object) -> FilePicture:
        """The picture of the first of some names that is there, named from the root with ``/`` between.

        Names written on Windows, with ``\\`` between, are understood.

        Args:
            where: file and line, for messages.
            names: as a file gives them, relative to the root.

        Raises:
            DataError: none is there; the message says the most similar one. Or one is no name of a file below a folder.
        """
        for name in names:
            if not isinstance(name, str) or not name.strip() or "\0" in name or not is_text(name):
                raise DataError(f"{where}: a picture needs a file name; got {shown(name)}. Correct it.")
            if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
                raise DataError(f"{where}: {shown(name)} isn't relative to {self.root}. Write it so, and put it there.")
            for written in dict.fromkeys((name, name.replace("\\", "/"))):
                if (found := self.find(written)) is not None:
                    return FilePicture(found, Path(os.path.relpath(found, self.root)).as_posix())
        raise DataError(
            f"{where}: there is no picture {shown(names[0])} in {self.root}. {self._nearest(str(names[0]))}"
        )

    def _nearest(self, relative: str) -> str:
        """The end of an error message: the most similar file name of that folder, if any."""
        written = relative.replace("\\", "/")
        folder, name = os.path.split(os.path.normpath(os.path.join(self.root, written)))
        known = self._names.get(folder, frozenset()) if self._hints else frozenset()
        self._hints -= bool(self._hints)
        hint = did_you_mean(name, known) if known else ""
        return hint if hint.startswith("Did") else "Check the name."


def check_shares(shares: Sequence[float]) -> None:
    """Refuse shares of train, val and test that don't add up to 1.

    Raises:
        ConfigError: not three fractions, or another sum.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"split_shares must be three fractions (train, val, test) that add up to 1; got {shares}.")


def draw_splits(names: Mapping[str, str], shares: Sequence[float] = SHARES) -> dict[str, str]:
    """A split for every picture of a source that has none: the same for the same names, on every machine.

    Names are put in the order of their hash and cut at the shares, task by task. Cutting the order (rather than the
    hash itself) gives small tasks their share too: with two pictures or more there is always one to test on.

    Args:
        names: picture name -> task.
        shares: fractions of train, val and test.
    """
    check_shares(shares)
    groups: dict[str, list[str]] = defaultdict(list)
    for name, task in names.items():
        groups[task].append(name)
    splits = {}
    for group in groups.values():
        group.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        count = len(group)
        test = max(round(count * shares[2]), 1 if shares[2] > 0 and count >= 2 else 0)
        val = min(round(count * shares[1]), max(count - test - 1, 0))
        for position, name in enumerate(group):
            splits[name] = "test" if position < test else "val" if position < test + val else "train"
    return splits
