"""Are these expressions fit to learn from? What :mod:`lpi.data.check` does, for boxes: all that is wrong, at once."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lpi.data.check import Report, check_stream_source, short
from lpi.data.expressions.jsonl import is_expressions_file, load_expressions
from lpi.data.expressions.record import ReferringExpression
from lpi.data.expressions.refcoco import is_mdetr_file, load_mdetr, load_refs
from lpi.data.records import SPLITS
from lpi.data.source import call_reader
from lpi.errors import ConfigError, LpiError, MissingFileError

_SMALL_SIDE = 4.0
"""Boxes below this many pixels on a side are reported: nobody can hit them."""

_CHECKING = ("most_words", "too_long", "most_listed", "workers")


def check_source(path: str | Path, **options: Any) -> Report:
    """What is wrong with any source: captions, or expressions with boxes, told apart by what the path is.

    A ``.jsonl`` whose lines have an expression and a box, a ``.p`` of refs, and a ``.json`` of MDETR's are expressions;
    anything else goes to :func:`lpi.data.check.check_stream_source`.

    Args:
        path: the file or folder.
        options: keyword arguments of the reader, and of :func:`check_expressions`.

    Raises:
        MissingFileError: the source itself is not there.
        ConfigError: an option that the reader doesn't have or lacks.
    """
    path = Path(path)
    reader = _reader(path)
    if reader is None:
        return check_stream_source(path, **options)
    checking = {name: options.pop(name) for name in _CHECKING if name in options}
    if reader is load_refs:
        options.setdefault("instances_json", path.with_name("instances.json"))
    problems: list[str] = []
    notes: list[str] = []
    if reader is not load_expressions:
        options.setdefault("notes", notes)
    try:
        records = call_reader(reader, path, {"on_error": lambda error: problems.append(str(error)), **options})
    except LpiError as error:
        if isinstance(error, ConfigError | MissingFileError):
            raise
        problems.append(str(error))
        records = []
    # MDETR's files hold one split each: the others can't be missed.
    report = check_expressions(records, source=str(path), whole=reader is not load_mdetr, **checking)
    return Report(report.source, (*problems, *report.errors), (*notes, *report.warnings), report.rows, report.pictures)


def check_expressions(
    records: Sequence[ReferringExpression],
    *,
    source: str,
    whole: bool = True,
    most_words: int = 60,
    too_long: Callable[[Sequence[str]], list[int]] | None = None,
    most_listed: int = 20,
    workers: int = 4,
) -> Report:
    """Opens every picture once and counts expressions by task and split.

    Args:
        records: what was read.
        source: names it.
        whole: whether every task should have expressions to learn from and to be tested on.
        most_words: expressions with more words are reported.
        too_long: expressions -> the indices of those that a backbone's text tower would truncate.
        most_listed: how many of one kind of warning are listed singly; the rest is counted. Errors are all listed.
        workers: threads that open pictures.
    """
    firsts = {record.picture.name: record for record in reversed(records)}
    with ThreadPoolExecutor(workers) as pool:
        errors = [problem for problem in pool.map(_open, firsts.values()) if problem]
    warnings = short(_several_meanings(records), most_listed, "expressions of several meanings")
    small = [
        f"{record.name}: a box of {_side(record, 0):.1f} x {_side(record, 1):.1f} pixels"
        for record in records
        if min(_side(record, 0), _side(record, 1)) < _SMALL_SIDE
    ]
    warnings += short(small, most_listed, "tiny boxes")
    lengths = [(record, len(record.expression.split())) for record in records]
    long = [
        f"{record.name}: an expression of {words} words (more than {most_words})"
        for record, words in lengths
        if words > most_words
    ]
    warnings += short(long, most_listed, "long expressions")
    if too_long is not None:
        cut = [records[index] for index in too_long([record.expression for record in records])]
        lines = [
            f"{one.name}: the backbone reads only the start of {one.expression[:60]!r}. Shorten it." for one in cut
        ]
        warnings += short(lines, most_listed, "truncated expressions")
    rows = _count(records)
    for row in rows:
        errors += [
            f"{source}: task {row['task']!r} has no {split} expressions. Add some, or leave it out."
            for split in ("train", "test")
            if whole and not row[split] and not _only_held_out(row)
        ]
    return Report(source, tuple(errors), tuple(warnings), tuple(rows), len(firsts))


def _reader(path: Path) -> Callable[..., list[ReferringExpression]] | None:
    """The reader of a file of expressions; ``None`` for any other source."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return None
    if suffix in (".p", ".pkl", ".pickle"):
        return load_refs
    if suffix in (".jsonl", ".ndjson"):
        return load_expressions if is_expressions_file(path) else None
    return load_mdetr if suffix == ".json" and is_mdetr_file(path) else None


def _open(record: ReferringExpression) -> str:
    """What is wrong with a picture; empty if nothing."""
    try:
        size = record.picture.open().size
    except LpiError as error:
        return str(error)
    if size == record.size:
        return ""
    return (
        f"{record.name}: the picture {record.picture.name} is {size[0]} x {size[1]} pixels, but its boxes are measured "
        f"in {record.size[0]} x {record.size[1]}. Use the picture that was annotated."
    )


def _several_meanings(records: Sequence[ReferringExpression]) -> list[str]:
    """Expressions that mean several objects of one picture: at most one of them can be found."""
    boxes: dict[tuple[str, str], set[tuple[float, ...]]] = {}
    for record in records:
        boxes.setdefault((record.picture.name, record.expression), set()).add(record.box)
    return [
        f"{picture}: {text!r} means {len(found)} objects" for (picture, text), found in boxes.items() if len(found) > 1
    ]


def _side(record: ReferringExpression, axis: int) -> float:
    return record.box[axis + 2] - record.box[axis]


def _count(records: Sequence[ReferringExpression]) -> list[dict[str, str | int]]:
    """Expressions per task and split, in the order in which tasks are met."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        counts.setdefault(record.task, Counter())[record.split] += 1
    return [
        {"task": task, **{split: count[split] for split in SPLITS}, "expressions": sum(count.values())}
        for task, count in counts.items()
    ]


def _only_held_out(row: dict[str, str | int]) -> bool:
    return not row["train"] and not row["test"] and bool(row["held_out"] or row["val"])
