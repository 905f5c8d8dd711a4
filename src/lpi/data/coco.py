"""COCO captions cut into tasks: a picture's task is the super-category that covers most of it.

Paper: LPI (ACM MM 2024) learns COCO 2014 as 12 tasks, one per super-category; which picture belongs to which isn't
public. Ours is a rule over the official instance annotations, so that anybody can repeat it.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lpi.data.records import CaptionedImage, FilePicture
from lpi.data.rows import (
    SHARES,
    OnError,
    PictureFolder,
    clean_captions,
    draw_splits,
    raise_error,
    split_name,
)
from lpi.errors import ConfigError, DataError, did_you_mean
from lpi.reading import Row, read_object, require_folder, shown, wanted

COCO_TASKS = (
    "appliance",
    "sports",
    "outdoor",
    "electronic",
    "accessory",
    "indoor",
    "kitchen",
    "furniture",
    "vehicle",
    "food",
    "animal",
    "person",
)
"""The super-categories in the order in which the paper's authors learn them."""

OTHER = "other"
"""The task of pictures without instances, where they are kept."""

Rule = Literal["largest_area", "most_instances"]
WithoutInstances = Literal["drop", "other"]


def load_coco(
    captions_json: str | Path,
    instances_json: str | Path,
    image_root: str | Path,
    *,
    rule: Rule = "largest_area",
    without_instances: WithoutInstances = "drop",
    split: str | None = None,
    split_shares: Sequence[float] = SHARES,
    notes: list[str] | None = None,
    on_error: OnError = raise_error,
) -> list[CaptionedImage]:
    """The pictures of a pair of official COCO files, in the order of the captions file.

    Args:
        captions_json: ``captions_*.json``.
        instances_json: ``instances_*.json`` of the same pictures.
        image_root: the folder that ``file_name`` is relative to.
        rule: see :func:`supercategories`.
        without_instances: leave pictures without any (but crowds) out, or make them the task "other".
        split: the split of all these pictures; by default drawn by the hash of the name within a task.
        split_shares: train, val and test of that drawing.
        notes: gets one line about what was left out, with its count.
        on_error: takes each bad picture's error; by default the first is raised.

    Raises:
        MissingFileError: a file or the folder is not there.
        DataError: not COCO's format, a picture without captions or without its file.
        ConfigError: an option that isn't known.
    """
    if without_instances not in get_args(WithoutInstances):
        hint = did_you_mean(str(without_instances), get_args(WithoutInstances))
        raise ConfigError(f"No without_instances is called {without_instances!r}. {hint}")
    captions_json, image_root = Path(captions_json), Path(image_root)
    forced = None if split is None else split_name(split, "split")
    tasks = supercategories(instances_json, rule=rule)
    source = read_object(captions_json, "COCO captions")
    captions = _captions(captions_json, source, on_error)
    require_folder(image_root)
    pictures = PictureFolder(image_root)
    found: list[tuple[FilePicture, tuple[str, ...], str, str]] = []
    left_out = 0
    for image in coco_items(captions_json, source, "images", id="id", file_name="text"):
        number, name = image["id"], image["file_name"]
        task = tasks.get(number, OTHER)
        if task == OTHER:
            left_out += 1
            if without_instances == "drop":
                continue
        where = f"{captions_json}: picture {shown(number)}"
        try:
            if number not in captions:
                raise DataError(f"{where} ({shown(name)}) has no caption. Add one, or remove it.")
            found.append((pictures.picture(where, name), tuple(captions[number]), task, str(number)))
        except DataError as error:
            on_error(error)
    if notes is not None and left_out:
        fate = "left out" if without_instances == "drop" else f"made the task {OTHER!r}"
        notes.append(f"{captions_json.name}: {left_out} pictures without instances {fate}")
    drawn = draw_splits({picture.name: task for picture, _, task, _ in found}, split_shares) if forced is None else {}
    return [
        CaptionedImage(picture, texts, task, forced or drawn[picture.name], {"image_id": number})
        for picture, texts, task, number in found
    ]


def supercategories(instances_json: str | Path, *, rule: Rule = "largest_area") -> dict[int, str]:
    """The super-category of every picture that has instances, by picture id. Crowd regions don't count.

    Args:
        instances_json: ``instances_*.json``.
        rule: "largest_area", the one whose instances cover the largest area together; "most_instances", the one with
            the most instances, area deciding between equals. What is still equal goes to the earlier task.

    Raises:
        DataError: not COCO's format.
        ConfigError: an unknown rule.
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"No rule is called {rule!r}. {did_you_mean(str(rule), get_args(Rule))}")
    path = Path(instances_json)
    source = read_object(path, "COCO instances")
    categories = {
        item["id"]: task_of(item, f"{path}: category {shown(item['id'])}")
        for item in coco_items(path, source, "categories", id="id")
    }
    area: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    count: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for item in coco_items(path, source, "annotations", image_id="id", category_id="id", area="number"):
        if item.get("iscrowd"):
            continue
        if item["category_id"] not in categories:
            number, unknown = shown(item.get("id")), shown(item["category_id"])
            raise DataError(f"{path}: annotation {number} has an unknown category_id {unknown}. Is the file complete?")
        task = categories[item["category_id"]]
        area[item["image_id"]][task] += float(item["area"])
        count[item["image_id"]][task] += 1
    place = {name: position for position, name in enumerate(COCO_TASKS)}

    def standing(number: int, task: str) -> tuple[float, float, int, str]:
        covered, instances = -area[number][task], -float(count[number][task])
        first, second = (covered, instances) if rule == "largest_area" else (instances, covered)
        return first, second, place.get(task, len(place)), task

    return {number: min(tasks, key=lambda task: standing(number, task)) for number, tasks in area.items()}


def _captions(path: Path, source: Row, on_error: OnError) -> dict[int, list[str]]:
    """Captions by picture id, in the file's order."""
    captions: dict[int, list[str]] = defaultdict(list)
    known = {image["id"] for image in coco_items(path, source, "images", id="id")}
    for item in coco_items(path, source, "annotations", image_id="id", caption="any"):
        where = f"{path}: annotation {shown(item.get('id'))}"
        if item["image_id"] not in known:
            on_error(DataError(f"{where}: no picture has the id {shown(item['image_id'])}. Is the file complete?"))
            continue
        try:
            captions[item["image_id"]] += clean_captions([item["caption"]], where)
        except DataError as error:
            on_error(error)
    return captions


def task_of(category: Row, where: str) -> str:
    """The task of a category: its super-category, or itself where annotators gave it none.

    Raises:
        DataError: it has neither.
    """
    for key in ("supercategory", "name"):
        name = category.get(key)
        if isinstance(name, str) and name.strip():
            return name
    raise DataError(f'{where} has no text under "supercategory" or "name". Name it.')


def coco_items(path: Path, source: Row, part: str, /, **keys: str) -> list[Row]:
    """The objects of one of the file's lists, each with the keys that are needed, of their kinds (see ``wanted``)."""
    items = source.get(part)
    if not isinstance(items, list):
        raise DataError(f'{path}: expected a list under "{part}", as COCO\'s files have it. Is this the right file?')
    return [wanted(item, f'{path}: "{part}" item {position}', keys) for position, item in enumerate(items)]
