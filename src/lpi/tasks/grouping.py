"""What all streams share: records gathered by task and split, tasks put in order, some of many drawn by hash."""

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from lpi.data.content import content_ids
from lpi.data.records import SPLITS, Picture
from lpi.data.rows import split_name
from lpi.errors import ConfigError, DataError, MissingFileError, UnknownNameError, did_you_mean
from lpi.showing import counted, html_table


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


@dataclass(frozen=True, repr=False)
class TaskOf(Generic[R]):
    """One task: its name, and its records to learn from, to choose on and to be tested on."""

    name: str
    train: tuple[R, ...]
    validation: tuple[R, ...]
    test: tuple[R, ...]

    def splits(self) -> tuple[tuple[str, tuple[R, ...]], ...]:
        """Its records by the name of their split."""
        return (("train", self.train), ("val", self.validation), ("test", self.test))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(records)} {split}" for split, records in self.splits() if records)
        return f"{type(self).__name__} {self.name!r}: {counts or 'empty'}"

    def _repr_html_(self) -> str:
        return html_table(self.name, ("split", "items"), [(split, len(records)) for split, records in self.splits()])


K = TypeVar("K", bound=TaskOf[Any])


@dataclass(frozen=True, repr=False)
class StreamOf(Generic[K, R]):
    """Tasks in the order in which they arrive, and records that none of them may learn from.

    A kind of stream says in :attr:`items` what its records are called, in :meth:`facts` what they are known by, in
    :meth:`identity` what must not be drawn twice, and in :meth:`further` what else of a task is counted.
    """

    items: ClassVar[str]
    always_tested: ClassVar[bool] = True
    task_type: ClassVar[type[Any]]

    name: str
    tasks: tuple[K, ...]
    held_out: tuple[R, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a stream without tasks, tasks of one name, and tasks with nothing to learn from, or be tested on."""
        if not self.tasks:
            raise ConfigError(f"Stream {self.name!r} has no task. Check its source and filters.")
        names: set[str] = set()
        for task in self.tasks:
            if task.name in names:
                raise ConfigError(f"Stream {self.name!r} has two tasks called {task.name!r}. Name them apart.")
            names.add(task.name)
            self._require(task.name, "training", task.train)
            if self.always_tested:
                self._require(task.name, "test", task.test)

    def tested(self: "Kind") -> "Kind":
        """The stream itself, whose tasks all have something to be tested on.

        Raises:
            DataError: one has nothing.
        """
        for task in self.tasks:
            self._require(task.name, "test", task.test)
        return self

    def _require(self, task: str, what: str, records: Sequence[R]) -> None:
        if not records:
            raise DataError(
                f"Task {task!r} of stream {self.name!r} has no {what} {self.items}. "
                "Add some, loosen its filters, or leave the task out."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.name!r}: {counted([task.name for task in self.tasks], 'task')}"

    def _repr_html_(self) -> str:
        rows = self.summary()
        return html_table(repr(self), list(rows[0]), [list(row.values()) for row in rows])

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[K]:
        return iter(self.tasks)

    def __getitem__(self, key: str | int) -> K:
        """A task by its name or place.

        Raises:
            UnknownNameError: there is no such task.
            IndexError: there is no such place.
        """
        if not isinstance(key, str):
            return self.tasks[key]
        return in_order({task.name: task for task in self.tasks}, [key])[0]

    @staticmethod
    def facts(record: Any) -> list[Any]:
        """What a record is known by in the stream's checksum."""
        raise NotImplementedError

    @staticmethod
    def identity(record: Any) -> str:
        """What a record is known by where some of many are drawn."""
        raise NotImplementedError

    @staticmethod
    def further(task: Any) -> dict[str, int]:
        """What is counted of a task beside its records."""
        return {}

    @staticmethod
    def usual_order(records: Sequence[Any], held_out: Sequence[str]) -> list[str] | None:
        """The order of tasks where none is given; ``None`` takes them as they are met."""
        return None

    @staticmethod
    def remarks(tasks: Sequence[Any]) -> list[str]:
        """What a person should know of tasks that were made from records."""
        return []

    @classmethod
    def from_records(
        cls: "type[Kind]",
        records: Iterable[R],
        *,
        name: str,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> "Kind":
        """Group records by their task.

        Args:
            records: with split train, val, test or held_out (which belongs to no task).
            name: names the stream.
            order: task names in learning order, all of them; by default :meth:`usual_order`.
            held_out: tasks that are not learned: all their records are held out.
            notes: what a reader left out, in words, for the report.

        Raises:
            UnknownNameError: ``order`` or ``held_out`` names a task that isn't there.
            ConfigError: ``order`` leaves one out.
            DataError: see the class.
        """
        records = list(records)
        order = cls.usual_order(records, held_out) if order is None else order
        groups, outside = by_task(records, order=order, held_out=held_out)
        tasks = tuple(
            cls.task_type(task, tuple(splits["train"]), tuple(splits["val"]), tuple(splits["test"]))
            for task, splits in groups.items()
        )
        return cls(name, tasks, tuple(outside), (*notes, *cls.remarks(tasks)))

    def ordered(self: "Kind", names: Sequence[str]) -> "Kind":
        """The same tasks in another order, or only some of them: exactly those named.

        Raises:
            UnknownNameError: no task has that name.
            ConfigError: a name comes twice.
        """
        return replace(self, tasks=tuple(in_order({task.name: task for task in self.tasks}, names)))

    def on_validation(self: "Kind") -> "Kind":
        """The same tasks with their validation records to be tested on; test and held-out ones are left out.

        Raises:
            DataError: a task has no validation records.
        """
        for task in self.tasks:
            if not task.validation:
                raise DataError(
                    f"Task {task.name!r} of stream {self.name!r} has no validation {self.items} to choose settings "
                    "on. Give it some, for instance with stream.validation."
                )
        tasks = tuple(replace(task, validation=(), test=task.validation) for task in self.tasks)
        return replace(self, tasks=tasks, held_out=())

    def merged(self) -> K:
        """All tasks as one, in stream order: joint training."""
        return replace(
            self.tasks[0],
            name="all",
            train=tuple(record for task in self.tasks for record in task.train),
            validation=tuple(record for task in self.tasks for record in task.validation),
            test=tuple(record for task in self.tasks for record in task.test),
        )

    def limited(
        self: "Kind", *, train: int | None = None, validation: int | None = None, test: int | None = None, seed: int = 0
    ) -> "Kind":
        """At most so many records a task and split, drawn by the seed and the task's name.

        What is drawn for a task depends on no other task, nor on the order. Records stay in their order.

        Raises:
            ConfigError: a limit below 1.
        """
        for what, limit in (("train", train), ("validation", validation), ("test", test)):
            if limit is not None and limit < 1:
                raise ConfigError(f"limited: {what} must be at least 1; got {limit}.")
        limits = {"train": train, "val": validation, "test": test}
        tasks = []
        for task in self.tasks:
            drawn = [
                draw(records, limits[split], f"{seed}/{task.name}/{split}", self.identity)
                for split, records in task.splits()
            ]
            tasks.append(self.task_type(task.name, *drawn))
        return replace(self, tasks=tuple(tasks))

    def summary(self) -> list[dict[str, str | int]]:
        """One row a task: its name, how many records to train, validation and test, and what else is counted."""
        return [
            {
                "name": task.name,
                "train": len(task.train),
                "validation": len(task.validation),
                "test": len(task.test),
                **self.further(task),
            }
            for task in self.tasks
        ]

    def checksum(self, *, whole: bool = False) -> str:
        """16 hex digits of tasks, splits, what the records are known by, and the bytes of their files, in their order.

        What is drawn rather than read from a file is known by its recipe: its name.

        Args:
            whole: refuse where a file is gone, since nothing may be bound to data without it.

        Raises:
            MissingFileError: a file can't be read.
        """
        parts = [([task.name, split], records) for task in self.tasks for split, records in task.splits()]
        parts.append((["held_out"], self.held_out))
        contents = content_ids(
            path for _, records in parts for path in map(_file_of, records) if path is not None
        )  # all at once, in threads
        if whole and not all(contents.values()):
            gone = next(path for path, content in contents.items() if not content)
            raise MissingFileError(f"{gone} can't be read. Check its name, or connect the disk it is on.")
        digest = hashlib.sha256()
        for head, records in parts:
            rows = []
            for record in records:
                path = _file_of(record)
                rows.append([*self.facts(record), *([] if path is None else [contents[path]])])
            digest.update(json.dumps([head, rows], ensure_ascii=True).encode())
        return digest.hexdigest()[:16]


def _file_of(record: Record) -> Path | None:
    """The file that holds a record's picture, maybe beside others; ``None`` for what is drawn."""
    path = getattr(record.picture, "path", None)
    return path if isinstance(path, Path) else None


Kind = TypeVar("Kind", bound=StreamOf[Any, Any])


def option_names(*calls: Callable[..., object]) -> list[str]:
    """The options of a stream's maker and its reader that a person may set."""
    names = [name for call in calls for name in inspect.signature(call).parameters]
    return [name for name in dict.fromkeys(names) if name not in ("name", "options", "on_error", "notes")]


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
