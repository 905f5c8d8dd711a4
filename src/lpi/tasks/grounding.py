"""A stream of grounding tasks: which expressions are learned, in which order, and on which the boxes are tested."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lpi.data.coco import COCO_TASKS
from lpi.data.expressions.jsonl import load_expressions
from lpi.data.expressions.record import ReferringExpression
from lpi.data.expressions.refcoco import load_mdetr, load_refs
from lpi.data.expressions.scenes import load_scene_expressions
from lpi.errors import DataError
from lpi.tasks.grouping import StreamOf, TaskOf, option_names


@dataclass(frozen=True, repr=False)
class GroundingTask(TaskOf[ReferringExpression]):
    """One task: its name, and its expressions to learn from, to choose on and to be tested on."""


@dataclass(frozen=True, repr=False)
class GroundingStream(StreamOf[GroundingTask, ReferringExpression]):
    """Tasks in the order in which they arrive, and expressions that none of them may learn from.

    A picture may be in several tasks, and show several objects that are asked for; the same question about the same
    object must not be in two splits.

    Attributes:
        name: names the stream in results.
        tasks: in learning order; each has expressions to learn from and to be tested on.
        held_out: never trained: what the frozen detector could do before, and should still do after.
        notes: what a reader left out, in words, for the report.

    Raises:
        ConfigError: no task, or two of one name.
        DataError: a task without training or test expressions, or an expression that is in two splits.
    """

    items: ClassVar[str] = "expressions"
    task_type = GroundingTask

    def __post_init__(self) -> None:
        super().__post_init__()
        places: dict[str, str] = {}
        for task in self.tasks:
            for split, records in task.splits():
                _claim(places, records, split)
        _claim(places, self.held_out, "held_out")

    @staticmethod
    def facts(record: ReferringExpression) -> list[Any]:
        """See :class:`StreamOf`."""
        return [record.picture.name, record.expression, list(record.box)]

    @staticmethod
    def identity(record: ReferringExpression) -> str:
        """A picture, what is asked about it, and the answer, as one text."""
        return f"{record.picture.name}/{record.expression}/{record.box}"

    @staticmethod
    def further(task: GroundingTask) -> dict[str, int]:
        """See :class:`StreamOf`."""
        return {"pictures": len({record.picture.name for _, records in task.splits() for record in records})}

    @staticmethod
    def usual_order(records: Sequence[ReferringExpression], held_out: Sequence[str]) -> list[str]:
        """The paper's super-categories in the paper's order, then all others in the order of their names."""
        present = {record.task for record in records if record.split != "held_out"} - set(held_out)
        return [task for task in COCO_TASKS if task in present] + sorted(present - set(COCO_TASKS))

    @staticmethod
    def remarks(tasks: Sequence[GroundingTask]) -> list[str]:
        """A note where tests are made on pictures that are learned from, as RefCOCOg's first split has it."""
        learned = {record.picture.name for task in tasks for record in task.train}
        shared = {record.picture.name for task in tasks for record in task.test} & learned
        return [f"{len(shared)} pictures are tested on and learned from, with other expressions"] if shared else []

    @classmethod
    def from_jsonl(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        **options: Any,
    ) -> "GroundingStream":
        """One JSONL file; ``options`` as for :func:`lpi.data.expressions.load_expressions`, ``boxes`` among them."""
        records = load_expressions(path, **options)
        return cls.from_records(records, name=name or Path(path).stem, order=order, held_out=held_out)

    @classmethod
    def from_refs(
        cls,
        refs: str | Path,
        instances_json: str | Path,
        image_root: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        **options: Any,
    ) -> "GroundingStream":
        """RefCOCO, RefCOCO+ or RefCOCOg as first published; see :func:`lpi.data.expressions.load_refs`.

        The paper's setting is ``test_on="val"``, then ``.limited(train=2000, test=500)``.
        """
        notes: list[str] = []
        records = load_refs(refs, instances_json, image_root, notes=notes, **options)
        name = name or Path(refs).resolve().parent.name
        return cls.from_records(records, name=name, order=order, held_out=held_out, notes=notes)

    @classmethod
    def from_mdetr(
        cls,
        files: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
        image_root: str | Path,
        *,
        name: str,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        **options: Any,
    ) -> "GroundingStream":
        """MDETR's converted files; see :func:`lpi.data.expressions.load_mdetr`.

        Args:
            files: one file a published split, or a mapping from split to file where the names don't say it.
            image_root: COCO's ``train2014`` pictures.
            name: names the stream.
            order: see :meth:`from_records`.
            held_out: see :meth:`from_records`.
            options: ``test_on``, and whatever else the reader takes.
        """
        if isinstance(files, Mapping):
            parts: list[tuple[str | None, str | Path]] = [*files.items()]
        else:
            parts = [(None, file) for file in ([files] if isinstance(files, str | Path) else files)]
        notes: list[str] = []
        records = [
            record
            for split, file in parts
            for record in load_mdetr(file, image_root, split=split, notes=notes, **options)
        ]
        return cls.from_records(records, name=name, order=order, held_out=held_out, notes=notes)

    @classmethod
    def from_scenes(
        cls, *, name: str = "grounding_scenes", order: Sequence[str] | None = None, **options: Any
    ) -> "GroundingStream":
        """The embedded world; ``options`` as for :func:`lpi.data.expressions.scenes.load_scene_expressions`."""
        records = load_scene_expressions(**options)
        if order is None:
            order = list(dict.fromkeys(record.task for record in records if record.split != "held_out"))
        return cls.from_records(records, name=name, order=order)


MAKERS: dict[str, Callable[..., GroundingStream]] = {
    "scene_expressions": GroundingStream.from_scenes,
    "expressions": GroundingStream.from_jsonl,
    "refcoco": GroundingStream.from_refs,
    "mdetr": GroundingStream.from_mdetr,
}
"""What makes a stream of each kind that an experiment file may name."""


def grounding_options(kind: str) -> list[str]:
    """The options of a kind's maker, its reader's among them."""
    readers: dict[str, Callable[..., object]] = {
        "expressions": load_expressions,
        "refcoco": load_refs,
        "mdetr": load_mdetr,
        "scene_expressions": load_scene_expressions,
    }
    names = option_names(MAKERS[kind], readers[kind])
    # MDETR's reader takes one file and its split; a stream has several, each with its own
    return [name for name in names if kind != "mdetr" or name not in ("path", "split")]


def _claim(places: dict[str, str], records: Iterable[ReferringExpression], split: str) -> None:
    """Refuses a question that is in another split already. Within one, people may well have said the same."""
    for record in records:
        where = places.setdefault(GroundingStream.identity(record), split)
        if where != split:
            place = record.name or record.picture.name
            raise DataError(f"{place}: {record.expression!r} is in {where} and again in {split}. Use it once.")
