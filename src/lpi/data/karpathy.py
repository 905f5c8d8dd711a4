"""Karpathy's split files (dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json), plain or zipped."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from lpi.data.records import CaptionedImage, FilePicture
from lpi.data.rows import (
    OnError,
    PictureFolder,
    clean_captions,
    raise_error,
    read_json_lines,
    split_name,
)
from lpi.errors import ConfigError, DataError, did_you_mean
from lpi.reading import MOST_BYTES, Row, read_object, require_file, require_folder, shown, wanted

Restval = Literal["train", "drop"]
PUBLISHED = "Is this one of Karpathy's files?"
TaskOf = Mapping[str, str] | Callable[[Row], str]


def load_karpathy(
    json_or_zip: str | Path,
    image_root: str | Path,
    *,
    task: str = "all",
    task_of: TaskOf | str | Path | None = None,
    restval: Restval = "train",
    on_error: OnError = raise_error,
) -> list[CaptionedImage]:
    """The pictures of a Karpathy file, in its order, each with its raw sentences as captions.

    Args:
        json_or_zip: the JSON file, or a zip that holds exactly one.
        image_root: the folder that ``filepath``/``filename`` (or ``filename`` alone) is relative to.
        task: the task of all pictures.
        task_of: picture file name -> task, as a mapping, a function of the file's item, or a JSONL file of
            ``{"image": .., "task": ..}``. Every picture must have one.
        restval: what to do with COCO's split "restval": train on it, as is usual, or leave it out.
        on_error: takes each bad picture's error; by default the first is raised.

    Raises:
        MissingFileError: a file or the folder is not there.
        DataError: not Karpathy's format, an empty sentence, a missing picture, a picture named twice or without task.
        ConfigError: an unknown ``restval``.
    """
    if restval not in get_args(Restval):
        raise ConfigError(f"No restval is called {restval!r}. {did_you_mean(str(restval), get_args(Restval))}")
    path, image_root = Path(json_or_zip), Path(image_root)
    source = _read(path)
    images = source.get("images")
    if not isinstance(images, list):
        raise DataError(f'{path}: expected a list under "images", as Karpathy\'s files have it. Is it the right file?')
    if isinstance(source.get("annotations"), list):
        raise DataError(
            f"{path}: these are COCO's captions, whose tasks are in a second file. Give that one too: instances_json, "
            "or --instances INSTANCES.json."
        )
    require_folder(image_root)
    if isinstance(task_of, str | Path):
        task_of = _read_tasks(Path(task_of))
    pictures = PictureFolder(image_root)
    records: list[CaptionedImage] = []
    seen: dict[Path, int] = {}
    for position, item in enumerate(images):
        where = f"{path}: picture {position}"
        try:
            wanted(item, where, {"split": "text", "filename": "text", "sentences": "list"}, PUBLISHED)
            if item["split"] == "restval" and restval == "drop":
                continue
            record = _record(item, where, pictures, task=task, task_of=task_of)
            first = seen.setdefault(record.picture.path, position) if isinstance(record.picture, FilePicture) else 0
            if first != position:
                raise DataError(f"{where}: {record.picture.name} is already picture {first}. Remove one.")
            records.append(record)
        except DataError as error:
            on_error(error)
    return records


def _record(item: Row, where: str, pictures: PictureFolder, *, task: str, task_of: TaskOf | None) -> CaptionedImage:
    file_name = item["filename"]
    folder = item.get("filepath")
    # many keep COCO's pictures in one folder, whatever the file says
    names = [f"{folder}/{file_name}", file_name] if folder and isinstance(folder, str) else [file_name]
    picture = pictures.picture(where, *names)
    where = f"{where} ({picture.name})"
    raws = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in item["sentences"]]
    captions = clean_captions(raws, where, "sentences")
    split = "train" if item["split"] == "restval" else split_name(item["split"], where)
    if task_of is not None:
        task = task_of.get(file_name, "") if isinstance(task_of, Mapping) else task_of(item)
        if not task:
            raise DataError(f"{where}: task_of names no task for it. Add it, or leave the picture out of the file.")
    fields = {key: str(item[key]) for key in ("imgid", "cocoid") if isinstance(item.get(key), int | str)}
    return CaptionedImage(picture, captions, task, split, fields)


def _read(path: Path) -> Row:
    """The JSON object of the file, or of the one JSON file in the zip."""
    require_file(path)
    if not zipfile.is_zipfile(path):
        return read_object(path, "Karpathy's images")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX/")]
            if len(names) != 1:
                found = ", ".join(names) or "none"
                raise DataError(f"{path}: expected exactly one JSON file in the zip; found {found}. Unpack it.")
            if archive.getinfo(names[0]).file_size > MOST_BYTES:
                raise DataError(f"{path}: {shown(names[0])} has more than {MOST_BYTES:,} bytes. Is it the right file?")
            with archive.open(names[0]) as file:
                data = file.read(MOST_BYTES)  # whatever size the archive says
    except DataError:
        raise
    except Exception as error:  # a password, another compression, and whatever a damaged archive raises
        raise DataError(f"{path}: the zip can't be read ({error}). Is it complete?") from error
    return read_object(path, "Karpathy's images", data)


def _read_tasks(path: Path) -> dict[str, str]:
    """A JSONL file of ``image`` and ``task`` as a mapping from file name (without folders) to task."""
    tasks = {}
    for number, row in read_json_lines(path):
        if not isinstance(row.get("image"), str) or not isinstance(row.get("task"), str):
            raise DataError(f'{path}, line {number}: expected text under "image" and "task".')
        tasks[row["image"].rsplit("/", 1)[-1]] = row["task"]
    return tasks
