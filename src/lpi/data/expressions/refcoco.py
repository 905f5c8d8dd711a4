"""RefCOCO, RefCOCO+ and RefCOCOg from their published files: the original ones, or MDETR's conversion.

An expression's task is the super-category of the object it means (:data:`lpi.data.coco.COCO_TASKS`), as in the paper.
The splits RefCOCO calls testA (people) and testB (everything else) are both test.

Paper: LPI (ACM MM 2024), second retrieval task.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.data.coco import coco_items, task_of
from lpi.data.expressions.pickled import read_plain_pickle
from lpi.data.expressions.record import Box, ReferringExpression, read_box, read_expression, read_size
from lpi.data.records import FilePicture
from lpi.data.rows import OnError, PictureFolder, raise_error
from lpi.errors import ConfigError, DataError, LpiError, did_you_mean
from lpi.reading import Row, read_object, require_folder, shown, wanted

PUBLISHED_SPLITS = {"train": "train", "val": "val", "test": "test", "testA": "test", "testB": "test"}
"""What each published split is here, where nothing else is asked for."""

PUBLISHED = "Is this one of the published files?"
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
    objects = _Objects(Path(instances_json), read_object(Path(instances_json), "COCO instances"))
    require_folder(Path(image_root))
    pictures = PictureFolder(Path(image_root))
    records, silent = [], 0
    for position, ref in enumerate(loaded):
        number = ref.get("ref_id", position) if isinstance(ref, dict) else position
        where = f"{path}, ref {shown(number)}"
        try:
            wanted(ref, where, {"split": "text", "ann_id": "id", "sentences": "list"}, PUBLISHED)
            split = _published_split(ref["split"], where)
            if split not in chosen:
                continue
            about = objects.about(ref["ann_id"], where)
            picture = pictures.picture(where, about.file_name)
            sentences = list(_sentences(ref, where))
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
    source = read_object(path, "MDETR's converted expressions")
    objects = _Objects(path, source)
    require_folder(Path(image_root))
    pictures = PictureFolder(Path(image_root))
    of_image = objects.by_image()
    records, silent = [], 0
    for image in coco_items(path, source, "images", id="id", caption="any"):
        where = f"{path}, image {shown(image['id'])}"
        if isinstance(image["caption"], str) and not image["caption"].strip():
            silent += 1
            continue
        try:
            found = of_image.get(image["id"], [])
            if len(found) != 1:
                raise DataError(f"{where}: an expression must mean one box; it has {len(found)}. Leave it out.")
            about = objects.about(found[0], where)
            picture = pictures.picture(where, about.file_name)
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
        self._images = self._by_id(source, "images", file_name="text", width="any", height="any")
        self._categories = self._by_id(source, "categories", name="text")
        self._annotations = self._by_id(source, "annotations", image_id="id", category_id="id", bbox="any")

    def by_image(self) -> dict[Any, list[Any]]:
        """The annotation ids of every picture."""
        found: dict[Any, list[Any]] = {}
        for number, item in self._annotations.items():
            found.setdefault(item["image_id"], []).append(number)
        return found

    def _by_id(self, source: Row, part: str, **keys: str) -> dict[Any, Row]:
        return {item["id"]: item for item in coco_items(self.path, source, part, id="id", **keys)}

    def about(self, number: Any, where: str) -> _About:
        annotation = self._look_up(self._annotations, number, "annotation", where)
        image = self._look_up(self._images, annotation["image_id"], "picture", where)
        category = self._look_up(self._categories, annotation["category_id"], "category", where)
        place = f"{where}, annotation {number}"
        size = read_size(image["width"], image["height"], place)
        box = read_box(annotation["bbox"], form="xywh", size=size, where=place)
        return _About(image["file_name"], size, box, task_of(category, place), category["name"], str(number))

    def _look_up(self, table: Mapping[Any, Row], key: Any, what: str, where: str) -> Row:
        if key not in table:
            raise DataError(f"{where}: {self.path} has no {what} {shown(key)}. Use the two files of one release.")
        return table[key]


def _sentences(ref: Row, where: str) -> Iterator[tuple[str, object]]:
    """Each sentence with its name."""
    for position, sentence in enumerate(ref["sentences"]):
        number = sentence.get("sent_id", position) if isinstance(sentence, dict) else position
        place = f"{where}, sentence {shown(number)}"
        yield place, wanted(sentence, place, {"sent": "any"}, PUBLISHED)["sent"]


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
        hint = did_you_mean(shown(split), PUBLISHED_SPLITS)
        raise DataError(f"{where}: no published split is called {shown(split)}. {hint}")
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
