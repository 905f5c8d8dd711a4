"""A stream of tasks: what is learned, in which order, and on what it is tested."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lpi.data.coco import COCO_TASKS, OTHER, load_coco
from lpi.data.collections import COLLECTIONS, load_collection
from lpi.data.features import load_features
from lpi.data.folder import load_folder, load_jsonl
from lpi.data.karpathy import load_karpathy
from lpi.data.records import CaptionedImage
from lpi.data.scenes import general_scenes, load_scenes
from lpi.errors import ConfigError, DataError, did_you_mean
from lpi.tasks.grouping import StreamOf, TaskOf, option_names

_PART_KEYS = ("name", "file", "where", "train_where", "task_field", "tasks", "split", "split_shares")


@dataclass(frozen=True, repr=False)
class Task(TaskOf[CaptionedImage]):
    """One task: its name, and its pictures to learn from, to choose on and to be tested on."""


@dataclass(frozen=True, repr=False)
class TaskStream(StreamOf[Task, CaptionedImage]):
    """Tasks in the order in which they arrive, and pictures that none of them may learn from.

    Attributes:
        name: names the stream in results.
        tasks: in learning order; each has training pictures.
        held_out: never trained: what the frozen backbone could do before, and should still do after.
        notes: what a reader left out, in words, for the report.

    Raises:
        ConfigError: no task, or two of one name.
        DataError: a task without training pictures, or a picture that is in the stream twice.
    """

    items: ClassVar[str] = "pictures"
    always_tested: ClassVar[bool] = False  # to be learned alone, a task needs no test pictures; see :meth:`tested`
    task_type = Task

    def __post_init__(self) -> None:
        super().__post_init__()
        places: dict[str, str] = {}
        for task in self.tasks:
            for _, records in task.splits():
                _claim(places, records, f"task {task.name!r}")
        _claim(places, self.held_out, "the held-out pictures")

    @staticmethod
    def facts(record: CaptionedImage) -> list[Any]:
        """See :class:`StreamOf`."""
        return [record.picture.name, list(record.captions)]

    @staticmethod
    def identity(record: CaptionedImage) -> str:
        """See :class:`StreamOf`."""
        return record.picture.name

    @staticmethod
    def further(task: Task) -> dict[str, int]:
        """See :class:`StreamOf`."""
        return {"captions": sum(len(record.captions) for _, records in task.splits() for record in records)}

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        **options: Any,
    ) -> "TaskStream":
        """A folder of tasks, in name order; ``options`` as for :func:`lpi.data.folder.load_folder`."""
        records = load_folder(root, **options)
        return cls.from_records(records, name=name or Path(root).resolve().name, order=order, held_out=held_out)

    @classmethod
    def from_jsonl(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        tasks: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> "TaskStream":
        """One JSONL file, tasks in the order of ``tasks`` or else in name order.

        ``tasks`` and ``options`` are those of :func:`lpi.data.folder.load_jsonl`.
        """
        path = Path(path)
        records = load_jsonl(path, tasks=tasks, **options)
        if order is None:
            present = {record.task for record in records if record.split != "held_out"} - set(held_out)
            order = [*(tasks or sorted(present))]
            order = [task for task in order if task not in held_out]
        return cls.from_records(records, name=name or path.resolve().parent.name, order=order, held_out=held_out)

    @classmethod
    def from_coco(
        cls,
        captions_json: str | Path | Mapping[str, str | Path],
        instances_json: str | Path | Mapping[str, str | Path],
        image_root: str | Path | Mapping[str, str | Path],
        *,
        name: str = "coco",
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        **options: Any,
    ) -> "TaskStream":
        """COCO cut into super-categories, in the paper's order unless another is given.

        The three paths are one pair of files and its pictures, whose split is then drawn, or each a mapping from split
        to path: ``{"train": "captions_train2014.json", "test": "captions_val2014.json"}``.

        Raises:
            ConfigError: the mappings don't name the same splits.
            MissingFileError: a file is not there.
            DataError: see :func:`lpi.data.coco.load_coco`.
        """
        notes: list[str] = []
        records = []
        for split, captions, instances, images in _by_split(captions_json, instances_json, image_root):
            options_here = options if split is None else {**options, "split": split}
            records += load_coco(captions, instances, images, notes=notes, **options_here)
        if order is None:
            present = {record.task for record in records} - set(held_out)
            usual = [*COCO_TASKS, *sorted(present - {*COCO_TASKS, OTHER}), OTHER]
            order = [task for task in usual if task in present]
        return cls.from_records(records, name=name, order=order, held_out=held_out, notes=notes)

    @classmethod
    def from_karpathy(
        cls,
        json_or_zip: str | Path,
        image_root: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        **options: Any,
    ) -> "TaskStream":
        """A Karpathy file: one task "all", or as ``task_of`` of :func:`lpi.data.karpathy.load_karpathy` says."""
        records = load_karpathy(json_or_zip, image_root, **options)
        if order is None:
            order = sorted({record.task for record in records} - set(held_out))
        name = name or Path(json_or_zip).stem.removeprefix("dataset_")
        return cls.from_records(records, name=name, order=order, held_out=held_out)

    @classmethod
    def from_scenes(cls, *, name: str = "scenes", order: Sequence[str] | None = None, **options: Any) -> "TaskStream":
        """The embedded world; ``options`` as for :func:`lpi.data.scenes.load_scenes`."""
        return cls.from_records(load_scenes(**options), name=name, order=order)

    @classmethod
    def from_features(
        cls,
        root: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
    ) -> "TaskStream":
        """A folder of features, which is the backbone, too; see :mod:`lpi.data.features`."""
        return cls.from_records(
            load_features(root), name=name or Path(root).resolve().name, order=order, held_out=held_out
        )

    @classmethod
    def from_collection(
        cls,
        collection: str,
        root: str | Path,
        *,
        name: str | None = None,
        order: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        skip: Sequence[str] = (),
    ) -> "TaskStream":
        """Public data sets by name, such as "dar"; see :func:`lpi.data.collections.load_collection`.

        Tasks come in the collection's order unless another is given.
        """
        records = load_collection(collection, root, skip=skip)
        if order is None:
            present = {record.task for record in records} - set(held_out)
            order = [task for task in COLLECTIONS[collection].tasks or COLLECTIONS[collection].sets if task in present]
        return cls.from_records(records, name=name or collection, order=order, held_out=held_out)

    @classmethod
    def from_parts(
        cls,
        parts: Sequence[Mapping[str, Any]],
        root: str | Path,
        *,
        name: str = "parts",
        held_out: Sequence[Mapping[str, Any]] = (),
    ) -> "TaskStream":
        """Compose a stream from several JSONL files.

        A part is ``{"name": "people", "file": "emoji/captions.jsonl", "where": {"group": [..]}}``: one task. Without
        "name" its tasks come from its "task_field" (by default the column "task"), in name order, or as "tasks" lists
        them; rows of other tasks are then left out. "where", "train_where", "split" and "split_shares" are those of
        :func:`lpi.data.folder.load_jsonl`. Parts of one name become one task.

        Args:
            parts: in learning order.
            root: the folder that files and picture names are relative to.
            name: names the stream.
            held_out: parts that are never learned: all their rows, whatever their split ("where" may choose by it).

        Raises:
            ConfigError: a part is written wrongly.
            MissingFileError: a file is not there.
            DataError: a bad row, a filter that nothing matches, an empty task.
        """
        records: list[CaptionedImage] = []
        order: dict[str, None] = {}
        for position, part in enumerate(parts, start=1):
            found, names = _read_part(part, Path(root), f"part {position}")
            records += [record for record in found if record.split != "held_out"]
            order.update(dict.fromkeys(names))
        outside = []
        for position, part in enumerate(held_out, start=1):
            found, _ = _read_part({**part, "split": "held_out"}, Path(root), f"held-out part {position}")
            outside += found
        present = {record.task for record in records}
        for task in order:
            if task not in present:
                raise DataError(f"Task {task!r} of stream {name!r} has no pictures. Check its filters.")
        return cls.from_records([*records, *outside], name=name, order=list(order))


def _claim(places: dict[str, str], records: Iterable[CaptionedImage], place: str) -> None:
    """Notes where each picture is, and refuses one that is there already: training data must not be tested on."""
    for record in records:
        picture = record.picture.name
        if picture in places:
            raise DataError(f"{picture}: the picture is in {places[picture]} and again in {place}. Use it once.")
        places[picture] = place


def general_stream(count: int, *, seed: int) -> TaskStream:
    """So many scenes of the world that the embedded backbone was pre-trained on, as one task; none is ever held out."""
    return TaskStream.from_records(list(general_scenes(count, seed=seed)), name="general")


def source_options(kind: str) -> list[str]:
    """The options of ``TaskStream.from_<kind>``, its reader's among them."""
    readers: dict[str, Callable[..., object]] = {
        "folder": load_folder,
        "jsonl": load_jsonl,
        "coco": load_coco,
        "karpathy": load_karpathy,
        "scenes": load_scenes,
    }
    calls = [getattr(TaskStream, f"from_{kind}"), *([readers[kind]] if kind in readers else [])]
    return option_names(*calls)


def _by_split(
    *paths: str | Path | Mapping[str, str | Path],
) -> list[tuple[str | None, str | Path, str | Path, str | Path]]:
    """(split, captions, instances, images) from three paths, or from three mappings of split to path."""
    mappings = [path for path in paths if isinstance(path, Mapping)]
    if not mappings:
        captions, instances, images = (path for path in paths if not isinstance(path, Mapping))
        return [(None, captions, instances, images)]
    if len(mappings) < 3 or any(mapping.keys() != mappings[0].keys() for mapping in mappings):
        found = " / ".join(str(list(path)) if isinstance(path, Mapping) else str(path) for path in paths)
        raise ConfigError(f"captions_json, instances_json and image_root must name the same splits; got {found}.")
    return [(split, *(mapping[split] for mapping in mappings)) for split in mappings[0]]  # type: ignore[misc]


def _read_part(part: Mapping[str, Any], root: Path, place: str) -> tuple[list[CaptionedImage], list[str]]:
    """The records of one part, and its task names in order."""
    for key in part:
        if key not in _PART_KEYS:
            raise ConfigError(f"{place}: unknown key {key!r}. {did_you_mean(key, _PART_KEYS)}")
    if not isinstance(part.get("file"), str | Path):
        raise ConfigError(f'{place}: expected a JSONL file under "file"; got {part.get("file")!r}.')
    keywords = {key: part[key] for key in ("where", "train_where", "split", "split_shares") if key in part}
    field, name, names = part.get("task_field", "task"), part.get("name"), part.get("tasks")
    if name is not None and ("task_field" in part or names is not None):
        raise ConfigError(f'{place}: has a "name" and also "task_field" or "tasks". One part is one task, or many.')
    if names is not None:
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ConfigError(f'{place}: "tasks" must be a list of names; got {names!r}.')
        keywords["tasks"] = {task: {"field": field, "values": task} for task in names}
    records = load_jsonl(
        root / part["file"], task=name, task_field=None if name else field, names_from=root, **keywords
    )
    if names is None:
        names = [name] if name else sorted({record.task for record in records})
    return records, list(names)
