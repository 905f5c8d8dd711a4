import json

import pytest
from PIL import Image

from lpi.data.coco import COCO_TASKS, load_coco, supercategories
from lpi.errors import ConfigError, DataError, MissingFileError
from lpi.tasks import TaskStream

CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "vehicle", "id": 2, "name": "bicycle"},
    {"supercategory": "vehicle", "id": 3, "name": "car"},
]


def instance(number, picture, category, area, crowd=0):
    return {"id": number, "image_id": picture, "category_id": category, "area": area, "iscrowd": crowd, "bbox": []}


INSTANCES = [
    instance(1, 10, 1, 50.0),  # two vehicles together cover more than the one person
    instance(2, 10, 2, 30.0),
    instance(3, 10, 3, 30.0),
    instance(4, 11, 1, 90.0),  # more vehicles, but the person is larger
    instance(5, 11, 2, 10.0),
    instance(6, 11, 2, 10.0),
    instance(7, 12, 1, 900.0, crowd=1),  # a crowd doesn't count
    instance(8, 12, 3, 1.0),
    instance(9, 13, 1, 900.0, crowd=1),  # nothing but a crowd
    instance(10, 15, 1, 5.0),  # equal: vehicle comes earlier in the paper's order
    instance(11, 15, 3, 5.0),
]


@pytest.fixture
def coco(tmp_path):
    numbers = (10, 11, 12, 13, 14, 15)
    images = [{"id": number, "file_name": f"{number:012}.jpg", "height": 8, "width": 8} for number in numbers]
    captions = [
        {"image_id": number, "id": 100 + 2 * number + turn, "caption": f"caption {turn} of {number}.\n"}
        for turn in (0, 1)
        for number in numbers
    ]
    for image in images:
        Image.new("RGB", (8, 8)).save(tmp_path / image["file_name"])
    source = {"info": {}, "licenses": [], "images": images, "annotations": captions}
    files = tmp_path / "captions.json", tmp_path / "instances.json"
    files[0].write_text(json.dumps(source))
    files[1].write_text(json.dumps({"images": images, "annotations": INSTANCES, "categories": CATEGORIES}))
    return tmp_path


def load(coco, **options):
    return load_coco(coco / "captions.json", coco / "instances.json", coco, **options)


def rewrite(path, change):
    source = json.loads(path.read_text())
    change(source)
    path.write_text(json.dumps(source))


def test_a_picture_belongs_to_what_covers_most_of_it(coco):
    found = supercategories(coco / "instances.json")
    assert found == {10: "vehicle", 11: "person", 12: "vehicle", 15: "vehicle"}


def test_the_other_rule_counts_instances(coco):
    found = supercategories(coco / "instances.json", rule="most_instances")
    assert found == {10: "vehicle", 11: "vehicle", 12: "vehicle", 15: "vehicle"}


def test_records_carry_all_captions_of_a_picture(coco):
    first = load(coco, split="train")[0]
    assert first.picture.name == "000000000010.jpg"
    assert first.captions == ("caption 0 of 10.", "caption 1 of 10.")
    assert (first.task, first.split, first.fields) == ("vehicle", "train", {"image_id": "10"})


def test_pictures_without_instances_are_left_out_and_counted(coco):
    notes = []
    assert len(load(coco, notes=notes)) == 4
    assert notes == ["captions.json: 2 pictures without instances left out"]


def test_pictures_without_instances_can_be_a_task_of_their_own(coco):
    records = load(coco, without_instances="other", split="test")
    assert [record.fields["image_id"] for record in records if record.task == "other"] == ["13", "14"]


def test_a_stream_keeps_the_papers_order_and_the_notes(coco):
    paths = [dict.fromkeys(("train", "test"), coco / name) for name in ("captions.json", "instances.json")]
    other = coco / "other"
    other.mkdir()
    for path in coco.glob("*.jpg"):
        (other / f"x{path.name}").write_bytes(path.read_bytes())
    rewrite(coco / "captions.json", lambda source: None)
    test = json.loads((coco / "captions.json").read_text())
    for image in test["images"]:
        image["file_name"] = "x" + image["file_name"]
    (other / "captions.json").write_text(json.dumps(test))
    paths[0]["test"] = other / "captions.json"
    stream = TaskStream.from_coco(*paths, {"train": coco, "test": other})
    assert [task.name for task in stream.tasks] == ["vehicle", "person"]
    assert [task.name for task in stream.tasks] == [name for name in COCO_TASKS if name in ("vehicle", "person")]
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(3, 3), (1, 1)]
    assert stream.notes == ("captions.json: 2 pictures without instances left out",) * 2
    with pytest.raises(ConfigError, match="must name the same splits"):
        TaskStream.from_coco(paths[0], paths[1], coco)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("captions", lambda s: s.pop("images"), 'expected a list under "images"'),
        ("captions", lambda s: s["annotations"][0].update(caption=" "), "annotation 120: caption 1 is empty"),
        ("captions", lambda s: s["annotations"][0].update(image_id=99), "annotation 120: no picture has the id 99"),
        ("captions", lambda s: s["annotations"][0].pop("caption"), '"annotations" item 0 lacks caption'),
        ("captions", lambda s: s["images"][0].update(file_name="x.jpg"), "picture 10: there is no picture 'x.jpg' in"),
        (
            "captions",
            lambda s: s.update(annotations=s["annotations"][1:6]),
            r"picture 10 \('0+10.jpg'\) has no caption",
        ),
        ("instances", lambda s: s["annotations"][0].pop("area"), '"annotations" item 0 lacks area'),
        ("instances", lambda s: s["categories"].pop(), "annotation 3 has an unknown category_id 3"),
    ],
)
def test_a_damaged_file_is_refused_by_name(coco, name, change, message):
    rewrite(coco / f"{name}.json", change)
    with pytest.raises(DataError, match=rf"{name}\.json.*{message}"):
        load(coco)


def test_unknown_options_and_missing_files_are_refused(coco):
    with pytest.raises(ConfigError, match=r"No rule is called 'area'"):
        load(coco, rule="area")
    with pytest.raises(ConfigError, match=r"No without_instances is called 'dorp'. Did you mean 'drop'"):
        load(coco, without_instances="dorp")
    with pytest.raises(MissingFileError, match=r"gone\.json: there is no such file"):
        load_coco(coco / "gone.json", coco / "instances.json", coco)
    with pytest.raises(MissingFileError, match="images: there is no such folder"):
        load_coco(coco / "captions.json", coco / "instances.json", coco / "images")
    (coco / "instances.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances\.json: not valid JSON: .* Is the file complete"):
        load(coco)
