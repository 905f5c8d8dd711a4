"""Learning a domain on trial: what would be gained and lost is measured before the index is searched with it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lpi.config import TrainingSettings
from lpi.data.folder import load_jsonl, load_task
from lpi.data.records import CaptionedImage, FilePicture, require_readable
from lpi.data.rows import draw_splits
from lpi.errors import ConfigError, DataError, MissingFileError
from lpi.methods import outside
from lpi.methods.base import Method
from lpi.methods.checkpoint import load_method, save_method
from lpi.methods.encoder import width_of
from lpi.search.files import OnProgress
from lpi.search.identity import short_hash
from lpi.search.manifest import Json, Stage
from lpi.search.places import remove_lessons
from lpi.search.recorded import HELD_OUT, Gallery, TestSet, on_record, put_on_record
from lpi.search.report import Change, Changes, Report, Seconds
from lpi.search.writer import Writer
from lpi.storage import read_sealed, sealed, write_json
from lpi.tasks.stream import Task, TaskStream
from lpi.trainer import OnStep, learn_task, training_for

POINT = 0.01  # R@1 that an old domain may lose before anybody is warned
AMONG, EMBEDDED = 50_000, 4_000
"""The most pictures of an index that captions look for theirs among, and that are embedded on trial; of more, some are
drawn."""


@dataclass(frozen=True)
class Lesson:
    """A domain that was learned on trial.

    Attributes:
        task: the domain.
        method: the model that knows it.
        report: what adopting it would gain and lose.
        test: the domain's pictures that nothing was learned from.
        place: where it is kept until it is adopted, or another domain is learned.
    """

    task: str
    method: Method
    report: Report
    test: TestSet
    place: Path

    @property
    def found(self) -> float:
        """How many of the domain's test captions find their picture once it is known: R@1 and R@10 added up."""
        after = self.report["recall"]["new"]["after"]
        return after["r1"] + after["r10"] if after else 0.0

    @property
    def losses(self) -> list[str]:
        """What adopting it would make worse, a line each: the new domain at all, or another by more than a point."""
        recall = self.report["recall"]
        checked = [(self.task, recall["new"], 0.0), *((name, own, POINT) for name, own in recall["old"].items())]
        if recall["held_out"]:
            checked.append(("held-out", recall["held_out"], POINT))
        return [
            f"R@1 of {name} would fall from {100 * before['r1']:.1f} to {100 * after['r1']:.1f}"
            for name, own, margin in checked
            if (before := own["before"]) and (after := own["after"]) and after["r1"] < before["r1"] - margin
        ]


def training_settings(writer: Writer, changes: Json) -> TrainingSettings:
    """How domains are learned: as the run that the index began with, but for the changes.

    Raises:
        ConfigError: an option that training doesn't have, or a wrong value.
    """
    kept = {name: value for name, value in writer.manifest.training.items() if name in TrainingSettings.model_fields}
    return training_for(type(writer.method), {**kept, **changes})


def closed_form(method: Method, settings: TrainingSettings) -> TrainingSettings | None:
    """How a domain is learned in a closed form alone; ``None`` where the method has none."""
    return (
        settings.model_copy(update={"epochs": 0, "steps": None})
        if width_of(method) > method.backbone.feature_width
        else None
    )


def ways(method: Method, settings: TrainingSettings, *, deeper: bool) -> list[TrainingSettings]:
    """How a domain is learned, in order: the closed form first where the method has one, then deeper if asked to."""
    closed = closed_form(method, settings)
    return [*([closed] if closed else []), *([settings] if deeper or not closed else [])]


def read_domain(source: str | Path, task: str) -> Task:
    """A domain to learn from a folder with a captions file (or one a split), or from the file itself.

    Raises:
        MissingFileError: there is no such folder, or no captions file in it.
        DataError: a bad row, or no pictures to learn from or to be tested on.
    """
    source = Path(source)
    if not source.exists():
        raise MissingFileError(f"{source}: there is no such folder of captioned pictures. Check the path.")
    records = load_task(source, task) if source.is_dir() else load_jsonl(source, task_field=None, task=task)
    return as_domain(task, records, source)


def captioned_domain(task: str, captions: Mapping[Path, Sequence[str]]) -> Task:
    """A domain to learn from pictures wherever they lie, by their files; which of them are tests is drawn.

    Raises:
        DataError: too few pictures.
    """
    splits = draw_splits({str(file): task for file in captions})
    records = [
        CaptionedImage(FilePicture(file, str(file)), tuple(words), task, splits[str(file)])
        for file, words in captions.items()
    ]
    return as_domain(task, records, task)


def as_domain(task: str, records: Iterable[CaptionedImage], source: str | Path) -> Task:
    """Records as a domain to learn.

    Raises:
        DataError: too few pictures to learn from, or to be tested on.
    """
    by_split: dict[str, list[CaptionedImage]] = {"train": [], "val": [], "test": []}
    for record in records:
        by_split.get(record.split, []).append(record)
    for split, noun in (("train", "to learn from"), ("test", "to be tested on")):
        if len(by_split[split]) < (2 if split == "train" else 1):
            raise DataError(f'{source}: too few pictures {noun}. Leave "split" out of all rows, and some are drawn.')
    return Task(task, *(tuple(by_split[split]) for split in ("train", "val", "test")))


def learn(
    writer: Writer,
    task: Task,
    *,
    settings: TrainingSettings,
    seed: int = 0,
    scoring: str = "plain",
    again: bool = False,
    on_step: OnStep | None = None,
    on_progress: OnProgress | None = None,
) -> Lesson:
    """Learn a domain on trial and measure it. Cut short, the same call goes on where it was.

    What was learned of one domain in several ways is all kept until it is adopted, or another domain is learned.

    Args:
        writer: the index, which stays as it is.
        task: the domain.
        settings: how to learn.
        seed: decides everything random.
        scoring: see :mod:`lpi.search.scoring`.
        again: what was learned of the domain before, if anything, is let go.
        on_step: told about every step.
        on_progress: told what is going on otherwise.

    Raises:
        ConfigError: the domain was learned already.
    """
    if not task.name.strip() or not task.name.isprintable() or task.name == HELD_OUT:
        raise ConfigError(f"the domain needs another name; got {ascii(task.name)[:80]}.")
    if task.name in writer.method.tasks and not again:
        raise ConfigError(f"task {task.name!r} was learned already. Forget it first, or give the new one a name.")
    require_readable(record.picture for record in (*task.train, *task.validation, *task.test))
    checksum = TaskStream(task.name, (task,)).checksum()  # of names, captions and the bytes of the pictures
    options = settings.model_dump(mode="json", exclude={"checkpoint_seconds", "device"})
    domain = writer.folder / "lessons" / short_hash(writer.manifest.current.model, task.name, checksum, seed)
    place = domain / short_hash(options)
    remove_lessons(writer.folder, keep=domain)
    if (place / "model" / "config.json").exists():
        method = _load(writer, place).to(writer.method.backbone.device)
        seconds = read_sealed(place / "learned.json")["seconds"]
    else:
        method, seconds = _train(writer, task, place, settings=settings, seed=seed, on_step=on_step)
    test = TestSet.of(task.name, task.test, (*task.train, *task.validation))
    report = measure(writer, method, test, scoring=scoring, on_progress=on_progress)
    report["seconds"]["learn"] = seconds
    return Lesson(task.name, method, report, test, place)


def _load(writer: Writer, place: Path) -> Method:
    named = outside(type(writer.method))  # whoever opened the index named it
    method: Method = load_method(place / "model", backbone=writer.method.backbone, method=named)
    return method


def _train(
    writer: Writer, task: Task, place: Path, *, settings: TrainingSettings, seed: int, on_step: OnStep | None
) -> tuple[Method, float]:
    started = time.monotonic()
    place.mkdir(parents=True, exist_ok=True)
    method = writer.copy()
    if task.name in method.tasks:
        method.forget(task.name)
    learn_task(method, task, settings=settings, seed=seed, checkpoint=place / "progress.pt", on_step=on_step)
    seconds = round(time.monotonic() - started, 3)
    write_json(place / "learned.json", sealed({"task": task.name, "seconds": seconds}))
    save_method(method, place / "model")
    # as it will be loaded again: nothing that only lives in memory may decide a vector
    return _load(writer, place).to(writer.method.backbone.device), seconds


def measure(
    writer: Writer,
    method: Method,
    test: TestSet,
    *,
    scoring: str = "plain",
    on_progress: OnProgress | None = None,
) -> Report:
    """What another model would gain and lose among all pictures, where nothing had to be learned for it.

    The pictures that it needs embedded are, at most :data:`EMBEDDED`, and kept for its adoption.

    Raises:
        MissingFileError: the folder of these pictures isn't there.
    """
    started = time.monotonic()
    sets = on_record(writer.folder)
    known = [name for name in writer.method.tasks if name != test.task]
    never_taught = [name for name in sets if name not in known and name not in (test.task, HELD_OUT)]
    old = [*(name for name in known if name in sets), *never_taught]
    held_out = [HELD_OUT] if HELD_OUT in sets else []
    again = writer.to_embed(method)
    if again:
        writer.require_folder()
    gallery = Gallery([test, *(sets[name] for name in (*old, *held_out))], competing(writer, again))
    found = [
        gallery.recall(writer, model, scoring=scoring, on_progress=on_progress) for model in (writer.method, method)
    ]

    def change(name: str) -> Change:
        before, after = (own.get(name) for own in found)
        return Change(before=before, after=after)

    pictures, left = writer.manifest.current.pictures, writer.to_embed(method)
    embed = None if not left else round(left * seconds_per_picture(writer, method), 1)
    return Report(
        tests=gallery.tests,
        among=len(gallery.files),
        pictures=pictures,
        reembed=again,
        embedded=again - left,
        share=again / pictures if pictures else 0.0,
        seconds=Seconds(learn=0.0, measure=round(time.monotonic() - started, 3), embed=embed),
        recall=Changes(
            new=change(test.task),
            old={name: change(name) for name in old},
            held_out=change(HELD_OUT) if held_out else None,
        ),
        unmeasured=[name for name in known if name not in old],
        unreadable=gallery.missing,
        scoring=scoring,
    )


def competing(writer: Writer, again: int) -> dict[str, tuple[Path, ...]]:
    """The files of the index's pictures that captions look for theirs among, by id.

    Args:
        writer: the index.
        again: how many of its pictures have to be embedded to measure.
    """
    files = writer.files(writer.contents())
    share = min(1.0, AMONG / max(1, len(files)), EMBEDDED / max(1, again))
    return {key: files[key] for key in sorted(files)[: round(share * len(files))]}  # ids are hashes: drawn already


def seconds_per_picture(writer: Writer, method: Method) -> float:
    """How long a picture takes to embed under one route here, decoding left out."""
    encoder = writer.routes(method).encoder
    height, width = encoder.inputs.image_size
    pixels = torch.zeros(encoder.batch, 3, height, width, dtype=torch.uint8)
    route = len(method.tasks) - 1
    encoder.under(pixels, route)
    started = time.monotonic()
    encoder.under(pixels, route)
    return (time.monotonic() - started) / encoder.batch


def adopt(writer: Writer, lesson: Lesson, *, on_progress: OnProgress | None = None) -> Stage:
    """Search with what was learned from now on; of the pictures that the report counted, the rest are embedded."""
    put_on_record(writer.folder, lesson.test)
    stage = writer.adopt(lesson.method, "teach", lesson.task, report=lesson.report, on_progress=on_progress)
    remove_lessons(writer.folder)
    return stage
