"""Collections of public sets: which sets, in which order, and whether all their files are there."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lpi.data.check import Report, check_records
from lpi.data.coco import COCO_TASKS
from lpi.data.collections.sets import SETS, PublicSet
from lpi.data.records import CaptionedImage
from lpi.data.rows import OnError, draw_splits, raise_error
from lpi.errors import LpiError, MissingFileError, UnknownNameError, did_you_mean

VALIDATION_SHARE = 0.05
"""Of the training pictures, where a publisher has a test split but none to choose settings on."""


@dataclass(frozen=True)
class Collection:
    """Sets in a paper's order.

    Attributes:
        about: a sentence for a person.
        sets: their names; each is a task, unless ``tasks`` says otherwise.
        tasks: the order of the tasks, where a set is cut into several.
    """

    about: str
    sets: tuple[str, ...]
    tasks: tuple[str, ...] = ()


COLLECTIONS: dict[str, Collection] = {
    "coco_tasks": Collection(
        "COCO captions of 2014 in twelve tasks, one a super-category, in the order of LPI's authors.",
        ("coco_tasks",),
        COCO_TASKS,
    ),
    "coco_tasks_2017": Collection("The same with the division of 2017.", ("coco_tasks_2017",), COCO_TASKS),
    "dar": Collection(
        "Seven visual domains. Paper: DAR (arXiv 2605.31229).",
        ("flickr30k", "lexica", "wikiart", "kream", "flintstones", "fscoco", "rocov2"),
    ),
    "c_clip": Collection(
        "Eight image-caption sets. Paper: C-CLIP (ICLR 2025).",
        ("flickr30k", "coco", "pets", "lexica", "simpsons", "wikiart", "kream", "fscoco"),
    ),
    **{
        name: Collection(found.card.groups, (name,))
        for name, found in SETS.items()
        if not name.startswith("coco_tasks")
    },
}


def collection(name: str) -> Collection:
    """A collection, or a single set as one.

    Raises:
        UnknownNameError: neither has that name.
    """
    if name not in COLLECTIONS:
        raise UnknownNameError(f"No collection of data is called {name!r}. {did_you_mean(name, COLLECTIONS)}")
    return COLLECTIONS[name]


def load_collection(
    name: str, root: str | Path, *, on_error: OnError = raise_error, skip: Sequence[str] = ()
) -> list[CaptionedImage]:
    """The records of a collection's sets, set by set; pictures are named ``<set>/..``.

    A set without a test split is divided by the hash of its pictures' names (80, 10 and 10 per cent); one without
    validation pictures gives 5 per cent of its training pictures.

    Args:
        name: of the collection or set.
        root: holds one folder a set, named like the set, as its publisher's archives unpack.
        on_error: takes each bad row's error; by default the first is raised.
        skip: sets to leave out.

    Raises:
        UnknownNameError: no such collection, or no such set in it.
        MissingFileError: a file is not there; the message says where it comes from.
        DataError: a bad row, or a file of another format.
    """
    found = collection(name)
    for left_out in skip:
        if left_out not in found.sets:
            raise UnknownNameError(f"{name} has no set {left_out!r} to skip. {did_you_mean(left_out, found.sets)}")
    records = []
    for member in found.sets:
        if member in skip:
            continue
        lacking = missing(SETS[member], Path(root) / member)
        if lacking:
            raise MissingFileError(lacking[0])
        records += _settled(member, SETS[member].read(Path(root) / member, on_error))
    return records


def missing(found: PublicSet, folder: Path) -> list[str]:
    """What a set's folder lacks, a line for each file, or each that isn't the publisher's."""
    card = found.card
    if not folder.is_dir():
        return [f"{folder}: there is no such folder. {card.name} comes from {card.source}."]
    lines = []
    for pattern, checksum in card.files.items():
        files = [
            path for path in sorted(folder.glob(pattern.rstrip("/"))) if path.is_dir() or not pattern.endswith("/")
        ]
        if not files:
            lines.append(f"{folder / pattern}: is not there. {card.name} comes from {card.source}.")
        for path in files:
            if checksum and f"sha256:{_digest(path)}" != checksum:
                lines.append(f"{path}: its checksum isn't that of the publisher's file. Is it complete?")
    return lines


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _settled(member: str, records: list[CaptionedImage]) -> list[CaptionedImage]:
    """Names that no other set can have, and a split for every picture."""
    records = [_renamed(record, f"{member}/{record.picture.name}") for record in records]
    splits = {record.split for record in records}
    if splits == {"train"}:
        drawn = draw_splits({record.picture.name: record.task for record in records})
    elif "val" not in splits:
        learned = {record.picture.name: record.task for record in records if record.split == "train"}
        drawn = draw_splits(learned, (1 - VALIDATION_SHARE, VALIDATION_SHARE, 0.0))
    else:
        return records
    return [replace(record, split=drawn.get(record.picture.name, record.split)) for record in records]


def _renamed(record: CaptionedImage, name: str) -> CaptionedImage:
    return replace(record, picture=replace(record.picture, name=name))  # type: ignore[type-var]


def check_collection(name: str, root: str | Path, *, most_listed: int = 20, workers: int = 4) -> Report:
    """What is missing of a collection, and what is wrong with what is there.

    Errors are missing files and broken rows and pictures; that a set has another number of pictures than its
    publisher's is a warning.

    Raises:
        UnknownNameError: no such collection.
    """
    found = collection(name)
    errors: list[str] = []
    warnings: list[str] = []
    records: list[CaptionedImage] = []

    def note(error: LpiError) -> None:
        errors.append(str(error))

    for member in found.sets:
        lacking = missing(SETS[member], Path(root) / member)
        errors += lacking
        if lacking:
            continue
        try:
            here = SETS[member].read(Path(root) / member, note)
        except LpiError as error:
            note(error)
            continue
        warnings += _other_counts(member, here)
        records += _settled(member, here)
    report = check_records(records, source=name, most_listed=most_listed, workers=workers)
    return Report(name, (*errors, *report.errors), (*warnings, *report.warnings), report.rows, report.pictures)


def _other_counts(member: str, records: Sequence[CaptionedImage]) -> list[str]:
    found = Counter(record.split for record in records)
    found["all"] = len(records)
    return [
        f"{member}: {found[split]:,} pictures ({split}); a complete copy has {count:,}."
        for split, count in SETS[member].counts.items()
        if found[split] != count
    ]


def describe(name: str) -> list[str]:
    """The cards of a collection's sets, in words: where they come from, the terms, the files."""
    lines = []
    for member in collection(name).sets:
        card = SETS[member].card
        lines.append(f"{member}: {card.groups}. From {card.source}. Licence: {card.licence}.")
        lines.append(f"  {member}/: {', '.join(card.files)}")
    return lines
