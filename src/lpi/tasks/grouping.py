"""What all streams share: records gathered by task and split, tasks put in order, some of many drawn by hash."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from lpi.data.records import SPLITS, Picture
from lpi.data.rows import split_name
from lpi.errors import ConfigError, UnknownNameError, did_you_mean


class Record(Protocol):
    """What is learned from: a picture that belongs to a task and a split."""

    @property
    def picture(self) -> Picture:
        """What is seen."""

    @property
    def task(self) -> str:
        """The name of its task."""

    @property
    def split(self) -> str:
        """Train, val, test or held_out."""


R = TypeVar("R", bound=Record)
T = TypeVar("T")
Splits = Mapping[str, Sequence[R]]


def by_task(
    records: Iterable[R], *, order: Sequence[str] | None = None, held_out: Sequence[str] = ()
) -> tuple[dict[str, Splits[R]], list[R]]:
    """Records by task and split, and those that no task learns from.

    Args:
        records: with split train, val, test or held_out (which belongs to no task).
        order: task names in learning order, all of them; by default as they are met.
        held_out: tasks that are not learned.

    Raises:
        UnknownNameError: ``order`` or ``held_out`` names a task that isn't there.
        ConfigError: ``order`` leaves one out, or names one twice.
        DataError: a record of an unknown split.
    """
    groups: dict[str, dict[str, list[R]]] = {}
    outside: list[R] = []
    for record in records:
        split = split_name(record.split, record.picture.name)
        if split == "held_out":
            outside.append(record)
        else:
            groups.setdefault(record.task, defaultdict(list))[split].append(record)
    for task in held_out:
        if task not in groups:
            raise UnknownNameError(f"No task to hold out is called {task!r}. {did_you_mean(task, groups)}")
        outside += [record for split in SPLITS for record in groups[task][split]]
        del groups[task]
    if order is None:
        return {**groups}, outside
    lacking = [task for task in groups if task not in order]
    if lacking:
        raise ConfigError(f"The order leaves out {', '.join(lacking)}. Add them, or hold them out.")
    return dict(zip(order, in_order(groups, order), strict=True)), outside


def in_order(tasks: Mapping[str, T], names: Sequence[str]) -> list[T]:
    """The tasks of these names, in this order.

    Raises:
        UnknownNameError: no task has that name.
        ConfigError: a name comes twice.
    """
    for name in names:
        if name not in tasks:
            raise UnknownNameError(f"No task is called {name!r}. {did_you_mean(name, tasks)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ConfigError(f"The order names task {twice!r} twice. Name each once.")
    return [tasks[name] for name in names]


def draw(records: tuple[R, ...], count: int | None, key: str, name_of: Callable[[R], str]) -> tuple[R, ...]:
    """So many of the records, in their order; which ones, the key and their names decide."""
    if count is None or count >= len(records):
        return records
    # By hash rather than by a random generator: the same on every version, and a record more moves one record only.
    hashes = [hashlib.sha256(f"{key}/{name_of(record)}".encode()).digest() for record in records]
    chosen = sorted(range(len(records)), key=hashes.__getitem__)[:count]
    return tuple(records[index] for index in sorted(chosen))


def check_limits(**limits: int | None) -> None:
    """Refuse a limit that would leave a task without anything.

    Raises:
        ConfigError: a limit below 1.
    """
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"limited: {name} must be at least 1; got {limit}.")
