"""Public data sets in miniature: the same files, columns and folders that their publishers distribute."""

import csv
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpi.cli import main as entry
from lpi.data.collections import COLLECTIONS, SETS, check_collection, describe, load_collection
from lpi.data.collections.tables import FramePicture
from lpi.data.records import CaptionedImage
from lpi.errors import DataError, LpiError, MissingFileError, UnknownNameError
from lpi.tasks.stream import TaskStream

DAR = ("flickr30k", "lexica", "wikiart", "kream", "flintstones", "fscoco", "rocov2")


def picture(number: int) -> bytes:
    """A small JPEG, another one for each number."""
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (number * 7 % 256, number * 31 % 256, 90)).save(file, "JPEG")
    return file.getvalue()


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number))


def karpathy(root: Path, name: str, folder: str) -> None:
    images = []
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        save(root / name / folder / f"{number}.jpg", number)
        sentences = [{"raw": f"A {name} photograph, {number}."}]
        item = {"filename": f"{number}.jpg", "split": split, "sentences": sentences}
        images.append(item if name == "flickr30k" else {**item, "filepath": folder})
    (root / name / f"dataset_{name}.json").write_text(json.dumps({"images": images, "dataset": name}))


def parquet(path: Path, column: str, count: int, first: int = 0) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra: collections")
    from pyarrow import parquet as tables

    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    columns = {
        "image": [{"bytes": picture(number), "path": f"{number}.jpg"} for number in numbers],
        column: [f"{path.parts[-3]} number {number}" for number in numbers],
    }
    tables.write_table(pyarrow.table(columns), path, row_group_size=3)


def shards(root: Path, missing_picture: bool = False) -> None:
    (root / "wikiart").mkdir(parents=True)
    for shard in range(12):
        with tarfile.open(root / "wikiart" / f"ds_{shard:06d}.tar", "w") as archive:
            for number in range(2):
                files = {"jpg": picture(shard + number), "txt": f"a painting {shard} {number}".encode()}
                if number:
                    files["json"] = json.dumps({"caption": files.pop("txt").decode()}).encode()
                if missing_picture and shard == number == 1:
                    del files["jpg"]
                for ending, content in files.items():
                    member = tarfile.TarInfo(f"{shard:04d}{number:05d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def flintstones(root: Path) -> None:
    folder = root / "flintstones"
    (folder / "video_frames_sampled").mkdir(parents=True)
    clips = [f"s_01_e_01_shot_{number:06d}" for number in range(5)]
    for number, clip in enumerate(clips):
        frames = np.stack([np.full((6, 8, 3), 10 * number + frame, np.uint8) for frame in range(5)])
        np.save(folder / "video_frames_sampled" / f"{clip}.npy", frames)
    annotations = [{"globalID": clip, "description": f"Fred does {clip[-1]}."} for clip in clips]
    (folder / "flintstones_annotations_v1-0.json").write_text(json.dumps(annotations))
    splits = {"train": clips[:3], "val": clips[3:4], "test": clips[4:]}
    (folder / "train-val-test_split.json").write_text(json.dumps(splits))


def fscoco(root: Path) -> None:
    for number in range(22):
        person, stem = 1 + number % 2, f"{number:012d}"
        save(root / "fscoco" / "raster_sketches" / str(person) / f"{stem}.jpg", number)
        text = root / "fscoco" / "text" / str(person) / f"{stem}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"A sketched scene {number}\n")
    (root / "fscoco" / "val_normal.txt").write_text(f"{0:012d}\n{5:012d}\n")


def rocov2(root: Path) -> None:
    folder = root / "rocov2"
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        for number in range(count):
            save(folder / f"{split}_images" / f"ROCOv2_2023_{split}_{number:06d}.jpg", number)
        with (folder / f"{split}_captions.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["ID", "Caption"])
            for number in range(count):
                rows.writerow([f"ROCOv2_2023_{split}_{number:06d}", f'An axial scan, "{split}"\nof patient {number}'])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the sets of DAR's form and C-CLIP's, in miniature."""
    root = tmp_path_factory.mktemp("public")
    karpathy(root, "flickr30k", "flickr30k-images")
    karpathy(root, "coco", "val2014")
    (root / "coco" / "train2014").mkdir()
    for shard in range(4):
        parquet(root / "lexica" / "data" / f"train-0000{shard}-of-00004-ab.parquet", "prompt", 7, first=7 * shard)
    parquet(root / "lexica" / "data" / "test-00000-of-00001-cd.parquet", "prompt", 4, first=50)
    for shard in range(3):
        parquet(root / "kream" / "data" / f"train-0000{shard}-of-00003-ef.parquet", "text", 5, first=5 * shard)
    parquet(root / "pets" / "data" / "train-00000-of-00001.parquet", "caption_enriched", 12)
    parquet(root / "simpsons" / "data" / "train-00000-of-00001-01.parquet", "text", 12)
    shards(root)
    flintstones(root)
    fscoco(root)
    rocov2(root)
    return root


def splits(records: list[CaptionedImage]) -> dict[str, int]:
    return dict(Counter(record.split for record in records))


def test_dars_seven_domains_are_seven_tasks_in_its_order(root: Path) -> None:
    stream = TaskStream.from_collection("dar", root)
    assert tuple(task.name for task in stream.tasks) == DAR
    assert all(task.validation for task in stream.tasks)
    sizes = {task.name: (len(task.train), len(task.validation), len(task.test)) for task in stream.tasks}
    assert sizes == {
        "flickr30k": (3, 1, 1),
        "lexica": (27, 1, 4),
        "wikiart": (20, 2, 2),
        "kream": (11, 2, 2),
        "flintstones": (3, 1, 1),
        "fscoco": (19, 1, 2),
        "rocov2": (3, 1, 2),
    }
    assert stream.checksum() == TaskStream.from_collection("dar", root).checksum()


def test_c_clips_eight_sets_are_eight_tasks(root: Path) -> None:
    stream = TaskStream.from_collection("c_clip", root, held_out=["pets"])
    assert [task.name for task in stream.tasks] == [name for name in COLLECTIONS["c_clip"].sets if name != "pets"]
    assert len(stream.held_out) == 12


@pytest.mark.parametrize("name", ["lexica", "wikiart", "flintstones", "fscoco", "rocov2", "simpsons", "flickr30k"])
def test_every_picture_opens_and_is_the_one_its_caption_is_about(name: str, root: Path) -> None:
    records = load_collection(name, root)
    for record in records:
        assert record.picture.name.startswith(f"{name}/")
        assert record.picture.open(8).mode == "RGB"
    by_caption = {record.captions[0]: record.picture.open().getpixel((2, 2)) for record in records}
    told = {
        "lexica": ("lexica number 9", 9),
        "wikiart": ("a painting 4 1", 5),
        "fscoco": ("A sketched scene 11", 11),
        "rocov2": ('An axial scan, "train"\nof patient 2', 2),
        "simpsons": ("simpsons number 10", 10),
        "flickr30k": ("A flickr30k photograph, 3.", 3),
    }
    if name == "flintstones":
        assert by_caption["Fred does 3."] == (32, 32, 32)  # the middle one of five frames
        return
    caption, number = told[name]
    with Image.open(io.BytesIO(picture(number))) as image:
        assert by_caption[caption] == image.convert("RGB").getpixel((2, 2))


def test_the_check_of_a_complete_collection_warns_of_other_counts_only(root: Path) -> None:
    found = check_collection("dar", root)
    assert found.ok
    assert "rocov2: 3 pictures (train); a complete copy has 59,958." in found.warnings
    assert "kream: 15 pictures (all); a complete copy has 14,904." in found.warnings
    assert [row["task"] for row in found.rows] == list(DAR)


def test_pictures_of_one_table_can_be_opened_by_many_threads(root: Path) -> None:
    records = load_collection("lexica", root)
    alone = {record.picture.name: record.picture.open().getpixel((2, 2)) for record in records}
    # ever another file, so that hardly anything is at hand already
    mixed = sorted(records, key=lambda record: (record.picture.group, record.picture.row, record.picture.path)) * 30
    with ThreadPoolExecutor(8) as pool:
        colours = list(pool.map(lambda record: record.picture.open().getpixel((2, 2)), mixed))
    assert colours == [alone[record.picture.name] for record in mixed]


def test_the_check_says_what_is_missing_and_where_it_comes_from(tmp_path: Path) -> None:
    shards(tmp_path, missing_picture=True)
    (tmp_path / "wikiart" / "ds_000011.tar").unlink()
    rocov2(tmp_path)
    (tmp_path / "rocov2" / "valid_images" / "ROCOv2_2023_valid_000000.jpg").unlink()
    errors = check_collection("dar", tmp_path).errors
    assert any(str(tmp_path / "kream") in line and "hahminlew/kream-product-blip-captions" in line for line in errors)
    assert any("ds_000011.tar: is not there" in line for line in errors)
    assert any("there is no valid_images/ROCOv2_2023_valid_000000.jpg" in line for line in errors)
    (tmp_path / "wikiart" / "ds_000011.tar").write_bytes(b"no tar file")
    errors = check_collection("wikiart", tmp_path).errors
    assert any("ds_000011.tar: the shard can't be read" in line for line in errors)


def test_a_file_that_is_not_the_publishers_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "coco_tasks_2017"
    for part in ("train2017", "val2017"):
        (folder / part).mkdir(parents=True)
        for kind in ("captions", "instances"):
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / "annotations" / f"{kind}_{part}.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"captions_val2017.json: its checksum isn't that of the publisher's"):
        load_collection("coco_tasks_2017", tmp_path)


def test_coco_is_cut_into_super_categories_in_the_authors_order(tmp_path: Path) -> None:
    folder = tmp_path / "coco_tasks"
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": 1, "supercategory": "person"}, {"id": 2, "supercategory": "appliance"}]
    for part, first in (("train2014", 0), ("val2014", 100)):
        numbers = range(first, first + 40)
        for number in numbers:
            save(folder / part / f"{number}.jpg", number)
        images = [{"id": number, "file_name": f"{number}.jpg"} for number in numbers]
        captions = [{"image_id": number, "caption": f"scene {number}", "id": number} for number in numbers]
        boxes = [{"image_id": number, "category_id": 1 + number % 2, "area": 9.0, "id": number} for number in numbers]
        for kind, annotations in (("captions", captions), ("instances", boxes)):
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"{kind}_{part}.json").write_text(json.dumps(content))
    stream = TaskStream.from_collection("coco_tasks", tmp_path)
    assert [(task.name, len(task.train), len(task.validation), len(task.test)) for task in stream.tasks] == [
        ("appliance", 19, 1, 20),
        ("person", 19, 1, 20),
    ]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda root: load_collection("darr", root), UnknownNameError, "'darr'. Did you mean 'dar'?"),
        (lambda root: load_collection("dar", root, skip=["lexic"]), UnknownNameError, "Did you mean 'lexica'?"),
        (
            lambda root: load_collection("dar", root / "nowhere"),
            MissingFileError,
            "nowhere/flickr30k: there is no such",
        ),
    ],
)
def test_what_is_asked_for_wrongly(
    call: Callable[[Path], object], kind: type[LpiError], message: str, root: Path
) -> None:
    with pytest.raises(kind) as error:
        call(root)
    assert message in str(error.value)


def test_files_of_another_format_are_named(root: Path, tmp_path: Path) -> None:
    parquet(tmp_path / "simpsons" / "data" / "train-00000-of-00001-01.parquet", "words", 2)
    with pytest.raises(DataError, match=r'expected the columns "image" and "text" or .*; found image, words'):
        load_collection("simpsons", tmp_path)
    (tmp_path / "pets" / "data").mkdir(parents=True)
    (tmp_path / "pets" / "data" / "a.parquet").write_bytes(b"PAR1, but not really")
    with pytest.raises(DataError, match=r"a.parquet: this is no readable parquet file"):
        load_collection("pets", tmp_path)
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(DataError, match=r"expected frames, uint8 .* got float64 \(4, 4\)"):
        FramePicture(tmp_path / "flat.npy", "flat").open()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    place = tmp_path / "simpsons" / "data" / "train-00000-of-00001-01.parquet"
    shown = []
    for first in (0, 20):
        parquet(place, "text", 4, first=first)
        record = load_collection("simpsons", tmp_path)[0]
        shown.append((record.captions, record.picture.open().tobytes()))
    assert shown[0][0] != shown[1][0]
    assert shown[0][1] != shown[1][1]


def test_every_set_has_a_card_and_a_place_in_a_collection() -> None:
    used = {name for found in COLLECTIONS.values() for name in found.sets}
    assert used == set(SETS)
    for name, found in SETS.items():
        assert found.card.name == name
        assert found.card.source
        assert found.card.licence
        assert found.card.files
    assert "Licence: CC BY 4.0." in describe("lexica")[0]


def test_the_commands_show_cards_and_what_is_missing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lpi", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            entry()
        return int(ended.value.code or 0), capsys.readouterr().out

    assert command("data", "check", "dar", "--root", root)[0] == 0
    code, out = command("data", "check", "dar", "--root", tmp_path)
    assert code == 2
    assert "7 things to put right" in out
    code, out = command("data", "cards")
    assert "dar: Seven visual domains" in out
    assert command("data", "cards", "kream")[1].startswith("kream: fashion products. From data set on the")
