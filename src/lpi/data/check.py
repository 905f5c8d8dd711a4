"""Is this data fit to learn from? Opens every picture and lists everything that is wrong, not just the first."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.data.captions import CAPTION_FILES
from lpi.data.folder import folders_in
from lpi.data.records import OPENED_SIDE, SPLITS, CaptionedImage, FilePicture, normal_caption
from lpi.data.rows import folder_split, split_name
from lpi.data.source import load_source
from lpi.errors import ConfigError, LpiError, MissingFileError

FEWEST_FOLDED = 6
"""Fewer are listed singly."""


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        source: what was checked.
        errors: what stops a run; one line each, naming file and line.
        warnings: what a person should know before trusting a number.
        rows: one dictionary a task: task, train, val, test, held_out (pictures) and captions.
        pictures: how many pictures were opened.
    """

    source: str
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: tuple[dict[str, str | int], ...]
    pictures: int

    @property
    def ok(self) -> bool:
        """Whether a run can start: no errors; warnings are allowed."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """The report in plain values, for ``--json``."""
        return {
            "source": self.source,
            "ok": self.ok,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
            "tasks": [dict(row) for row in self.rows],
            "pictures": self.pictures,
        }


def check_stream_source(
    path: str | Path,
    *,
    most_words: int = 60,
    too_long: Callable[[Sequence[str]], list[int]] | None = None,
    most_listed: int = 20,
    workers: int = 4,
    **options: Any,
) -> Report:
    """Read a source as a stream would, going on after each problem, and open every picture.

    Args:
        path: anything that :func:`lpi.data.source.load_source` reads.
        most_words: captions with more words are reported.
        too_long: captions -> the indices of those that a backbone's text tower would truncate.
        most_listed: how many of one kind of warning are listed singly; the rest is counted. Errors are all listed.
        workers: threads that open pictures.
        options: the reader's options.

    Raises:
        MissingFileError: the source itself is not there.
        ConfigError: an unknown option.
    """
    if not Path(path).exists():
        raise MissingFileError(f"{path}: there is no such file or folder. Check the path.")
    problems: list[str] = []
    try:
        records = load_source(path, on_error=lambda error: problems.append(str(error)), **options)
    except LpiError as error:
        if isinstance(error, ConfigError):
            raise
        problems.append(str(error))
        records = []
    report = check_records(
        records,
        source=str(path),
        most_words=most_words,
        too_long=too_long,
        most_listed=most_listed,
        workers=workers,
    )
    warnings = (*_understood(Path(path), report.rows), *report.warnings)
    return Report(report.source, (*problems, *report.errors), warnings, report.rows, report.pictures)


def _understood(path: Path, rows: Sequence[dict[str, str | int]]) -> list[str]:
    """What a person should know who may have meant folders of splits as tasks: they became one task."""
    captions = any((path / name).is_file() for name in CAPTION_FILES)
    if not path.is_dir() or captions or len(rows) != 1:
        return []
    names = [folder.name for folder in folders_in(path) if folder_split(folder.name)]
    if not names:
        return []
    return [
        f"{', '.join(names)} are read as splits of one task, {rows[0]['task']!r}: "
        "a stream needs a second task before anything can be forgotten."
    ]


def check_records(
    records: Sequence[CaptionedImage],
    *,
    source: str,
    most_words: int = 60,
    too_long: Callable[[Sequence[str]], list[int]] | None = None,
    most_listed: int = 20,
    workers: int = 4,
) -> Report:
    """The same for records that are in memory; see :func:`check_stream_source`."""
    errors: list[str] = []
    warnings: list[str] = []
    digests: dict[str, list[CaptionedImage]] = defaultdict(list)
    with ThreadPoolExecutor(workers) as pool:
        for record, (digest, problem) in zip(records, pool.map(_open, records), strict=True):
            if problem:
                errors.append(problem)
            elif digest:
                digests[digest].append(record)
    warnings += short(_duplicates(digests.values()), most_listed, "duplicated pictures")
    shared = _shared_captions(records)
    if shared:
        warnings.append(
            f"{shared} captions say the same of several pictures: with equal_captions each of them counts as right."
        )
    warnings += short(_long_captions(records, most_words), most_listed, "long captions")
    if too_long is not None:
        warnings += short(_truncated(records, too_long), most_listed, "truncated captions")
    rows = _count(records)
    for row in rows:
        if not row["train"] and not row["test"] and (row["held_out"] or row["val"]):
            continue  # held-out data only: nothing is learned from it
        for split in ("train", "test"):
            if not row[split]:
                errors.append(f"{source}: task {row['task']!r} has no {split} pictures. Add some, or leave it out.")
    if records and not any(row["train"] for row in rows):
        warnings.append("no task has training pictures: this can only be held-out data.")
    return Report(source, tuple(errors), tuple(warnings), tuple(rows), len(records))


def _open(record: CaptionedImage) -> tuple[str, str]:
    """The digest of a picture's bytes (empty where it isn't a file), and what is wrong with it (empty if nothing)."""
    try:
        record.picture.open(OPENED_SIDE)
        if isinstance(record.picture, FilePicture):
            return hashlib.sha256(record.picture.path.read_bytes()).hexdigest(), ""
    except LpiError as error:
        return "", str(error)
    return "", ""


def _duplicates(groups: Iterable[list[CaptionedImage]]) -> list[str]:
    """A line for each group of byte-equal pictures; those that cross splits come first."""
    within, across = [], []
    for group in groups:
        if len(group) < 2:
            continue
        places = sorted({f"{record.task}/{record.split}" for record in group})
        names = ", ".join(record.picture.name for record in group)
        if len({record.split for record in group}) > 1:
            across.append(f"the same picture in several splits ({', '.join(places)}): {names}")
        else:
            within.append(f"the same picture {len(group)} times ({', '.join(places)}): {names}")
    return across + within


def _shared_captions(records: Sequence[CaptionedImage]) -> int:
    """How many different captions belong to more than one picture."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update({normal_caption(caption) for caption in record.captions})
    return sum(count > 1 for count in counts.values())


def _long_captions(records: Sequence[CaptionedImage], most_words: int) -> list[str]:
    lines = []
    for record in records:
        for caption in record.captions:
            words = len(caption.split())
            if words > most_words:
                lines.append(f"{record.picture.name}: a caption of {words} words (more than {most_words})")
    return lines


def _truncated(records: Sequence[CaptionedImage], too_long: Callable[[Sequence[str]], list[int]]) -> list[str]:
    names = [record.picture.name for record in records for _ in record.captions]
    captions = [caption for record in records for caption in record.captions]
    return [
        f"{names[index]}: the backbone reads only the start of {_start(captions[index])!r}. Shorten it."
        for index in too_long(captions)
    ]


def _start(caption: str, most: int = 60) -> str:
    """A caption, or its first letters where it would fill the screen."""
    return caption if len(caption) <= most else f"{caption[:most].rstrip()} .."


def _count(records: Sequence[CaptionedImage]) -> list[dict[str, str | int]]:
    """Pictures per task and split, in the order in which tasks are met."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        count = counts.setdefault(record.task, Counter())
        count[split_name(record.split, record.picture.name)] += 1
        count["captions"] += len(record.captions)
    return [
        {"task": task, **{split: count[split] for split in SPLITS}, "captions": count["captions"]}
        for task, count in counts.items()
    ]


def folded(lines: Sequence[str]) -> list[str]:
    """Lines that differ in numbers alone (of a line, a picture, a row) as one, with how often it was met.

    >>> folded([*(f"a, line {line}: no image." for line in range(1, 601)), "b is empty."])
    ['600 times (--json lists them), first: a, line 1: no image.', 'b is empty.']
    """
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(re.sub(r"\d+", "#", line), []).append(line)
    return [
        line
        for group in groups.values()
        for line in (
            group if len(group) < FEWEST_FOLDED else [f"{len(group)} times (--json lists them), first: {group[0]}"]
        )
    ]


def short(lines: list[str], most: int, what: str) -> list[str]:
    """At most so many lines, the rest counted."""
    return lines if len(lines) <= most else [*lines[:most], f".. and {len(lines) - most} more {what}"]
