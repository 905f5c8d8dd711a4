"""RefCOCO, RefCOCO+ and RefCOCOg from their published files: the original ones, or MDETR's conversion.

An expression's task is the super-category of the object it means (:data:`lpi.data.coco.COCO_TASKS`), as in the paper.
The splits RefCOCO calls testA (people) and testB (everything else) are both test.

Paper: LPI (ACM MM 2024), second retrieval task.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.data.coco import coco_items
from lpi.data.expressions.pickled import read_plain_pickle
from lpi.data.expressions.record import Box, ReferringExpression, read_box, read_expression, read_size
from lpi.data.records import FilePicture
from lpi.data.rows import OnError, PictureFolder, Row, raise_error, read_json, require_folder
from lpi.errors import ConfigError, DataError, LpiError, did_you_mean

PUBLISHED_SPLITS = {"train": "train", "val": "val", "test": "test", "testA": "test", "testB": "test"}
"""What each published split is here, where nothing else is asked for."""

_MDETR_NAME = re.compile(r"_(train|val|testA|testB|test)$")


def load_refs(
    refs: str | Path,
    instances_json: str | Path,
    image_root: str | Path,
    *,
    test_on: str = "test",
    notes: list[str] | None = None,
    on_error: OnError = raise_error,
) -> list[ReferringExpression]:
    """The expressions of ``refs(unc).p``, ``refs(umd).p`` or ``refs(google).p``, each sentence a record.

    Args:
        refs: the pickle; read without running anything of it.
        instances_json: ``instances.json``, which lies beside it.
        image_root: COCO's ``train2014`` pictures.
        test_on: which published split is tested on: "test" (testA and testB together, where there are two), "testA",
            "testB", or "val", as the paper's authors do; then there is no validation. Other tests are left out.
        notes: gets a line about what was left out, with its count.
        on_error: takes each bad expression's error and it is left out; by default the first is raised.

    Raises:
        MissingFileError: a file or the folder is not there.
        DataError: not these files, or a bad record; the message names it.
        ConfigError: an unknown ``test_on``.
    """
    chosen = _splits(test_on)
    path = Path(refs)
    loaded = read_plain_pickle(path)
    if not isinstance(loaded, list):
        raise DataError(f"{path}: expected a list of refs; got a {type(loaded).__name__}. Is this the right file?")
    objects = _Objects(Path(instances_json), read_json(Path(instances_json), "COCO instances"))
    require_folder(Path(image_root))
    pictures = PictureFolder(Path(image_root))
    records, silent = [], 0
    for position, ref in enumerate(loaded):
        where = f"{path}, ref {ref.get('ref_id', position) if isinstance(ref, dict) else position}"
        try:
            split = _published_split(_wanted(ref, "split", where), where)
            if split not in chosen:
                continue
            about = objects.about(_wanted(ref, "ann_id", where), where)
            picture = _picture(pictures, about.file_name, where)
            sentences = _sentences(ref, where)
        except LpiError as error:
            on_error(error)
            continue
        for name, sentence in sentences:
            if isinstance(sentence, str) and not sentence.strip():
                silent += 1  # the published files have a few; nothing can be said about them
                continue
            try:
                expression = read_expression(sentence, name, "sent")
            except DataError as error:
                on_error(error)
                continue
            records.append(about.record(picture, expression, split=chosen[split], name=name))
    _note_silent(notes, path, silent)
    return _some(records, path, test_on)


def load_mdetr(
    path: str | Path,
    image_root: str | Path,
    *,
    split: str | None = None,
    test_on: str = "test",
    notes: list[str] | None = None,
    on_error: OnError = raise_error,
) -> list[ReferringExpression]:
    """The expressions of one of MDETR's converted files: ``finetune_refcoco_train.json``, ``.._val.json``, ...

    Args:
        path: the file: an "image" an expression, with its "caption", and an annotation with its box.
        image_root: COCO's ``train2014`` pictures.
        split: its published split (train, val, test, testA, testB), where the file's name doesn't end in it.
        test_on: see :func:`load_refs`; a file of a split that is left out gives no records.
        notes: see :func:`load_refs`.
        on_error: see :func:`load_refs`.

    Raises:
        MissingFileError: the file or the folder is not there.
        DataError: not such a file, or a bad record; the message names it.
        ConfigError: the split can't be told, or an unknown ``test_on``.
    """
    chosen = _splits(test_on)
    path = Path(path)
    published = _split_of(path) if split is None else _published_split(split, "split")
    if published not in chosen:
        return []
    source = read_json(path, "MDETR's converted expressions")
    objects = _Objects(path, source)
    require_folder(Path(image_root))
    pictures = PictureFolder(Path(image_root))
    of_image = objects.by_image()
    records, silent = [], 0
    for image in coco_items(path, source, "images", ("id", "caption")):
        where = f"{path}, image {image['id']}"
        if isinstance(image["caption"], str) and not image["caption"].strip():
            silent += 1
            continue
        try:
            found = of_image.get(image["id"], [])
            if len(found) != 1:
                raise DataError(f"{where}: an expression must mean one box; it has {len(found)}. Leave it out.")
            about = objects.about(found[0], where)
            picture = _picture(pictures, about.file_name, where)
            expression = read_expression(image["caption"], where, "caption")
        except LpiError as error:
            on_error(error)
            continue
        records.append(about.record(picture, expression, split=chosen[published], name=where))
    _note_silent(notes, path, silent)
    return _some(records, path, test_on)


def is_mdetr_file(path: Path) -> bool:
    """Whether a JSON file begins as MDETR's do: pictures that carry the id of an original beside a caption."""
    with path.open("rb") as file:
        start = file.read(65_536)
    return b'"tokens_negative"' in start and b'"original_id"' in start


@dataclass(frozen=True)
class _About:
    """What the annotations say of one object."""

    file_name: str
    size: tuple[int, int]
    box: Box
    task: str
    category: str
    number: str

    def record(self, picture: FilePicture, expression: str, *, split: str, name: str) -> ReferringExpression:
        fields = {"category": self.category, "ann_id": self.number}
        return ReferringExpression(picture, expression, self.box, self.size, self.task, split, name, fields)


class _Objects:
    """Boxes, categories and pictures of a COCO file, by annotation id. A file's boxes are left, top, width, height."""

    def __init__(self, path: Path, source: Row) -> None:
        self.path = path
        self._images = self._by_id(source, "images", "file_name", "width", "height")
        self._categories = self._by_id(source, "categories", "name", "supercategory")
        self._annotations = self._by_id(source, "annotations", "image_id", "category_id", "bbox")

    def by_image(self) -> dict[Any, list[Any]]:
        """The annotation ids of every picture."""
        found: dict[Any, list[Any]] = {}
        for number, item in self._annotations.items():
            if isinstance(item["image_id"], str | int):  # any other is nobody's picture
                found.setdefault(item["image_id"], []).append(number)
        return found

    def _by_id(self, source: Row, name: str, *keys: str) -> dict[Any, dict[str, Any]]:
        items = coco_items(self.path, source, name, ("id", *keys))
        for position, item in enumerate(items):
            if not isinstance(item["id"], str | int):
                raise DataError(f'{self.path}: "{name}" item {position} must have a number as id; got {item["id"]!r}.')
        return {item["id"]: item for item in items}

    def about(self, number: Any, where: str) -> _About:
        annotation = self._look_up(self._annotations, number, "annotation", where)
        image = self._look_up(self._images, annotation["image_id"], "picture", where)
        category = self._look_up(self._categories, annotation["category_id"], "category", where)
        place = f"{where}, annotation {number}"
        size = read_size(image["width"], image["height"], place)
        box = read_box(annotation["bbox"], form="xywh", size=size, where=place)
        return _About(
            str(image["file_name"]), size, box, str(category["supercategory"]), str(category["name"]), str(number)
        )

    def _look_up(self, table: Mapping[Any, Any], key: Any, what: str, where: str) -> dict[str, Any]:
        if not isinstance(key, str | int) or key not in table:
            raise DataError(f"{where}: {self.path} has no {what} {key!r}. Use the two files of one release.")
        found: dict[str, Any] = table[key]
        return found


def _wanted(ref: Any, key: str, where: str) -> Any:
    if not isinstance(ref, dict) or key not in ref:
        raise DataError(f"{where}: has no {key!r}. Is this one of the published files?")
    return ref[key]


def _sentences(ref: Any, where: str) -> Iterator[tuple[str, object]]:
    """Each sentence with its name."""
    sentences = _wanted(ref, "sentences", where)
    if not isinstance(sentences, Sequence) or isinstance(sentences, str):
        raise DataError(f"{where}: 'sentences' must be a list; got {sentences!r}. Is this one of the published files?")
    named = []
    for position, sentence in enumerate(sentences):
        place = f"{where}, sentence {sentence.get('sent_id', position) if isinstance(sentence, dict) else position}"
        named.append((place, _wanted(sentence, "sent", place)))
    return iter(named)


def _picture(pictures: PictureFolder, name: str, where: str) -> FilePicture:
    path = pictures.find(name)
    if path is None:
        raise DataError(f"{where}: there is no picture {name!r} in {pictures.root}. {pictures.nearest(name)}")
    return FilePicture(path, name)


def _splits(test_on: str) -> dict[str, str]:
    """Which published splits are read, and as what."""
    if test_on == "test":
        return PUBLISHED_SPLITS
    if test_on not in ("testA", "testB", "val"):
        hint = did_you_mean(str(test_on), ("test", "testA", "testB", "val"))
        raise ConfigError(f"No test_on is called {test_on!r}. {hint}")
    return {"train": "train", "val": "val", test_on: "test"}


def _published_split(split: object, where: str) -> str:
    if not isinstance(split, str) or split not in PUBLISHED_SPLITS:
        hint = did_you_mean(str(split), PUBLISHED_SPLITS)
        raise DataError(f"{where}: no published split is called {split!r}. {hint}")
    return split


def _split_of(path: Path) -> str:
    match = _MDETR_NAME.search(path.stem)
    if match is None:
        raise ConfigError(f"{path}: its name doesn't end in _train, _val, _test, _testA or _testB. Give split.")
    return match[1]


def _note_silent(notes: list[str] | None, path: Path, silent: int) -> None:
    if notes is not None and silent:
        notes.append(f"{path.name}: {silent} expressions without words left out")


def _some(records: list[ReferringExpression], path: Path, test_on: str) -> list[ReferringExpression]:
    if not records:
        raise DataError(f"{path}: holds no expression that can be used with test_on={test_on!r}. Check the file.")
    return records
