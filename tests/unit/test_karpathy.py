import json
import zipfile

import pytest
from PIL import Image

from lpi.data.karpathy import load_karpathy
from lpi.errors import ConfigError, DataError, MissingFileError
from lpi.tasks import TaskStream


def item(name, split, *raws, **others):
    sentences = [{"raw": raw, "tokens": raw.split(), "sentid": 0, "imgid": 0} for raw in raws or ("A dog .",)]
    return {"filename": name, "split": split, "sentences": sentences, "imgid": 7, "sentids": [], **others}


@pytest.fixture
def flickr(tmp_path):
    images = tmp_path / "val2014"
    images.mkdir()
    for name in "abcd":
        Image.new("RGB", (8, 8)).save(images / f"{name}.jpg")

    def write(*items):
        path = tmp_path / "dataset_coco.json"
        path.write_text(json.dumps({"images": list(items), "dataset": "coco"}))
        return path

    return write


ITEMS = (
    item("a.jpg", "train", "A dog .", "Two dogs ."),
    item("b.jpg", "restval"),
    item("c.jpg", "val"),
    item("d.jpg", "test", filepath="val2014"),
)


def test_all_pictures_are_one_task_and_restval_is_trained_on(flickr, tmp_path):
    records = load_karpathy(flickr(*ITEMS), tmp_path / "val2014")
    assert [record.split for record in records] == ["train", "train", "val", "test"]
    assert {record.task for record in records} == {"all"}
    assert records[0].captions == ("A dog .", "Two dogs .")
    assert records[0].fields == {"imgid": "7"}


def test_restval_can_be_left_out(flickr, tmp_path):
    records = load_karpathy(flickr(*ITEMS), tmp_path / "val2014", restval="drop")
    assert [record.picture.name for record in records] == ["a.jpg", "c.jpg", "d.jpg"]
    with pytest.raises(ConfigError, match=r"No restval is called 'dorp'. Did you mean 'drop'"):
        load_karpathy(flickr(*ITEMS), tmp_path, restval="dorp")


def test_pictures_lie_in_their_filepath(flickr, tmp_path):
    (record,) = load_karpathy(flickr(item("a.jpg", "train", filepath="val2014")), tmp_path)
    assert record.picture.name == "val2014/a.jpg"
    assert record.picture.path.is_file()


def test_a_zip_is_read_as_it_is(flickr, tmp_path):
    path = tmp_path / "dataset.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(flickr(*ITEMS), "dataset_coco.json")
    assert len(load_karpathy(path, tmp_path / "val2014")) == 4
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.json", "{}")
    with pytest.raises(DataError, match=r"expected exactly one JSON file in the zip; found dataset_coco\.json, second"):
        load_karpathy(path, tmp_path / "val2014")


def test_tasks_come_from_a_mapping_a_function_or_a_file(flickr, tmp_path):
    path, images = flickr(*ITEMS), tmp_path / "val2014"
    mapping = {"a.jpg": "dogs", "b.jpg": "cats", "c.jpg": "dogs", "d.jpg": "dogs"}
    table = tmp_path / "tasks.jsonl"
    table.write_text("\n".join(json.dumps({"image": f"images/{name}", "task": mapping[name]}) for name in mapping))
    for task_of in (mapping, lambda picture: mapping[picture["filename"]], table):
        tasks = [record.task for record in load_karpathy(path, images, task_of=task_of)]
        assert tasks == ["dogs", "cats", "dogs", "dogs"]
    stream = TaskStream.from_karpathy(path, images, task_of=mapping, held_out=["cats"])
    assert [(task.name, len(task.train)) for task in stream.tasks] == [("dogs", 1)]
    assert len(stream.held_out) == 1
    assert stream.name == "coco"
    del mapping["c.jpg"]
    with pytest.raises(DataError, match=r"picture 2 \(c\.jpg\): task_of names no task for it"):
        load_karpathy(path, images, task_of=mapping)
    table.write_text('{"image": "a.jpg"}')
    with pytest.raises(DataError, match=r'tasks\.jsonl, line 1: expected text under "image" and "task"'):
        load_karpathy(path, images, task_of=table)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (item("a.jpg", "train", " "), r"picture 1 \(a\.jpg\): caption 1 is empty"),
        (item("x.jpg", "train"), "picture 1: there is no picture 'x.jpg'"),
        (item("d.jpg", "train"), r"picture 1: d\.jpg is already picture 0"),
        (item("a.jpg", "trian"), r"got 'trian'\. Did you mean 'train'"),
        ({"filename": "a.jpg", "split": "train"}, "picture 1 lacks sentences"),
        ({"split": "train"}, "picture 1 lacks filename"),
        ({}, "picture 1 lacks split"),
    ],
)
def test_a_bad_picture_is_refused_by_its_place(flickr, tmp_path, bad, message):
    with pytest.raises(DataError, match=rf"dataset_coco\.json: {message}|{message}"):
        load_karpathy(flickr(item("d.jpg", "test"), bad), tmp_path / "val2014")


def test_other_files_are_refused(flickr, tmp_path):
    path = flickr()
    path.write_text('{"annotations": []}')
    with pytest.raises(DataError, match='expected a list under "images"'):
        load_karpathy(path, tmp_path)
    with pytest.raises(MissingFileError, match=r"gone\.json: there is no such file"):
        load_karpathy(tmp_path / "gone.json", tmp_path)
