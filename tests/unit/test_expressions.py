"""Referring expressions: published files as people have them, boxes that can't be, streams, and what a check finds."""

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpi.cli import main as entry
from lpi.data.expressions import (
    ReferringExpression,
    check_expressions,
    check_source,
    load_expressions,
    load_mdetr,
    load_refs,
    read_box,
)
from lpi.data.expressions.jsonl import is_expressions_file
from lpi.data.scenes import FAMILIES, ScenePicture, sample_scene, seeded
from lpi.errors import ConfigError, DataError, LpiError, MissingFileError, UnknownNameError
from lpi.tasks.grounding import GroundingStream

REAL = Path(os.environ.get("LPI_REAL_DATA") or Path(__file__).parents[2].parent / "shared" / "real")


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of 60 x 40 pixels under the names of COCO's."""
    folder = tmp_path / "train2014"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (60, 40), (10 * number, 90, 200)).save(folder / f"COCO_train2014_{number:012d}.jpg")
    return folder


INSTANCES = {
    "images": [
        {"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg", "width": 60, "height": 40}
        for number in (1, 2, 3)
    ],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 18, "bbox": [5, 6, 20, 10]},
        {"id": 12, "image_id": 1, "category_id": 1, "bbox": [30, 2, 12.5, 30]},
        {"id": 21, "image_id": 2, "category_id": 18, "bbox": [0, 0, 60.4, 40]},  # a hair beyond the edge
        {"id": 31, "image_id": 3, "category_id": 1, "bbox": [1, 1, 2, 3]},
        {"id": 32, "image_id": 3, "category_id": 18, "bbox": [4, 4, 5, 5]},
    ],
    "categories": [
        {"id": 1, "name": "person", "supercategory": "person"},
        {"id": 18, "name": "dog", "supercategory": "animal"},
    ],
}


def ref(number, annotation, split, *sentences):
    image = annotation // 10
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": image,
        "category_id": 18,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "split": split,
        "sent_ids": [10 * number + position for position in range(len(sentences))],
        "sentences": [
            {"sent_id": 10 * number + position, "sent": text, "raw": text.title(), "tokens": text.split()}
            for position, text in enumerate(sentences)
        ],
    }


def good_refs():
    return [
        ref(1, 11, "train", "the dog", "brown dog on the left"),
        ref(2, 12, "train", "man in red"),
        ref(3, 21, "val", "dog", "dog"),
        ref(4, 31, "testA", "tiny person"),
        ref(5, 32, "testB", "dog behind", " "),
    ]


@pytest.fixture
def published(tmp_path, pictures):
    """Writes ``refs(unc).p`` and ``instances.json`` as published, and gives the three paths."""

    def write(refs=None, instances=None, protocol=2):
        folder = tmp_path / "refcoco"
        folder.mkdir(exist_ok=True)
        (folder / "refs(unc).p").write_bytes(pickle.dumps(good_refs() if refs is None else refs, protocol=protocol))
        (folder / "instances.json").write_text(json.dumps(instances or INSTANCES))
        return folder / "refs(unc).p", folder / "instances.json", pictures

    return write


# --- boxes ---


def test_both_forms_of_a_box_become_edges():
    said = {"size": (100, 80), "where": "line 1"}
    assert read_box([10, 20, 30, 40], form="xyxy", **said) == (10, 20, 30, 40)
    assert read_box([10, 20, 30, 40], form="xywh", **said) == (10, 20, 40, 60)
    assert read_box([-0.4, 0, 100.9, 80], form="xyxy", **said) == (0, 0, 100, 80)  # annotators round


@pytest.mark.parametrize(
    ("values", "form", "words"),
    [
        ([30, 20, 10, 40], "xyxy", r"left must be before its right.*\[30, 20, 10, 40\].*boxes='xywh'"),
        ([10, 40, 30, 20], "xyxy", r"top above its bottom.*\[10, 40, 30, 20\]"),
        ([50, 20, -5, 10], "xywh", r"width and height must be above 0.*\[50, 20, -5, 10\]"),
        ([10, 20, 10, 40], "xyxy", r"\[10, 20, 10, 40\] \(xyxy\) has no area"),
        ([10, 20, 0, 10], "xywh", r"\[10, 20, 0, 10\] \(xywh\) has no area"),
        ([100.5, 20, 101, 40], "xyxy", "has no area inside the picture"),
        ([60, 20, 70, 40], "xywh", r"\[60, 20, 70, 40\] \(xywh\) lies outside.*100 x 80 pixels.*boxes='xyxy'"),
        ([-3, 20, 70, 40], "xyxy", r"outside the picture of 100 x 80 pixels.*boxes='xywh'"),
        ([10, 20, 30], "xyxy", r"four numbers; got \[10, 20, 30\]"),
        ("10 20 30 40", "xyxy", "four numbers; got '10 20 30 40'"),
        (None, "xyxy", "got None"),
        ([10, 20, "30", 40], "xyxy", "got '30'"),
        ([10, 20, float("nan"), 40], "xyxy", "got nan"),
        ([10, 20, float("inf"), 40], "xywh", "got inf"),
        ([10, 20, True, 40], "xyxy", "got True"),
    ],
)
def test_a_box_that_cannot_be_is_refused_and_named(values, form, words):
    with pytest.raises(DataError, match=f"data.jsonl, line 7: .*{words}"):
        read_box(values, form=form, size=(100, 80), where="data.jsonl, line 7")


def test_an_unknown_form_of_boxes_is_refused():
    with pytest.raises(ConfigError, match="got 'xyhw'"):
        read_box([1, 2, 3, 4], form="xyhw", size=(9, 9), where="line 1")


# --- RefCOCO as published ---


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refs_are_read_sentence_by_sentence_with_tasks_by_supercategory(published, protocol):
    notes = []
    refs, instances, images = published(protocol=protocol)
    records = load_refs(refs, instances, images, notes=notes)
    assert [(one.expression, one.task, one.split, one.box) for one in records] == [
        ("the dog", "animal", "train", (5, 6, 25, 16)),
        ("brown dog on the left", "animal", "train", (5, 6, 25, 16)),
        ("man in red", "person", "train", (30, 2, 42.5, 32)),
        ("dog", "animal", "val", (0, 0, 60, 40)),
        ("dog", "animal", "val", (0, 0, 60, 40)),
        ("tiny person", "person", "test", (1, 1, 3, 4)),
        ("dog behind", "animal", "test", (4, 4, 9, 9)),
    ]
    assert records[1].name == f"{refs}, ref 1, sentence 11"
    assert records[1].fields == {"category": "dog", "ann_id": "11"}
    assert records[1].size == records[1].picture.open().size == (60, 40)
    assert notes == ["refs(unc).p: 1 expressions without words left out"]


@pytest.mark.parametrize(
    ("test_on", "splits"),
    [
        ("test", {"train": 3, "val": 2, "test": 2}),
        ("val", {"train": 3, "test": 2}),
        ("testA", {"train": 3, "val": 2, "test": 1}),
    ],
)
def test_which_published_split_is_tested_on_can_be_chosen(published, test_on, splits):
    assert Counter(one.split for one in load_refs(*published(), test_on=test_on)) == splits
    with pytest.raises(ConfigError, match="'testa'"):
        load_refs(*published(), test_on="testa")


# as Python 2 wrote them: text as bytes, protocol 0 (the second is not UTF-8)
PYTHON_2 = (
    b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'ann_id'\np4\nI11\nsS'sentences'\np5\n"
    b"(lp6\n(dp7\nS'sent'\np8\nS'%s'\np9\nsasa."
)


def test_python_2_text_is_read_as_utf_8_and_what_is_not_is_refused_by_name(published):
    paths = published()
    paths[0].write_bytes(PYTHON_2 % b"caf\\xc3\\xa9 door")
    assert [one.expression for one in load_refs(*paths)] == ["café door"]
    paths[0].write_bytes(PYTHON_2 % b"caf\\xe9 door")
    with pytest.raises(DataError, match=r"ref 0, sentence 0: .*half a character"):
        load_refs(*paths)


class _Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_and_nothing_is_run(published, tmp_path):
    paths = published([_Harm(tmp_path / "harmed")])
    with pytest.raises(DataError, match=r"refs\(unc\).p: not a pickle of plain lists.*mkdir"):
        load_refs(*paths)
    assert not (tmp_path / "harmed").exists()
    for harmless in ([np.float64(1)], [{1, 2}.__class__]):  # anything with a name to look up
        with pytest.raises(DataError, match="not a pickle of plain lists"):
            load_refs(*published(harmless))


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_pickle_is_one_clear_error(published, cut):
    paths = published()
    paths[0].write_bytes(paths[0].read_bytes()[:cut])
    with pytest.raises(DataError, match="not a pickle of plain lists and dictionaries"):
        load_refs(*paths)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda refs, file: refs[1].update(ann_id=99), "ref 2: .*instances.json has no annotation 99"),
        (lambda refs, file: refs[1].update(ann_id=[1]), r'ref 2: "ann_id" must be a number or a name; got \[1\]'),
        (lambda refs, file: refs[1].update(split="trian"), "ref 2: .*'trian'.*Did you mean 'train'"),
        (lambda refs, file: refs[1].pop("sentences"), "ref 2 lacks sentences"),
        (lambda refs, file: refs[1].update(sentences=5), 'ref 2: "sentences" must be a list; got 5'),
        (lambda refs, file: refs[1]["sentences"][0].update(sent=7), 'ref 2, sentence 20: "sent" must be .*got 7'),
        (lambda refs, file: refs.__setitem__(1, "man"), "ref 1: expected an object; got 'man'"),
        (lambda refs, file: file["annotations"][1].update(bbox=[70, 2, 5, 5]), "ref 2, annotation 12: .*outside"),
        (lambda refs, file: file["annotations"][1].update(bbox=[30, 2, 5, 0]), "ref 2, annotation 12: .*no area"),
        (lambda refs, file: file["annotations"][1].update(image_id=8), "ref 2: .*no picture 8"),
        (lambda refs, file: file["annotations"][1].update(category_id=90), "ref 2: .*no category 90"),
        (lambda refs, file: file["images"][0].update(width="60"), "ref 1, annotation 11: .*'60' x 40"),
        (
            lambda refs, file: file["images"][0].update(file_name="COCO_1.jpg"),
            "ref 1: there is no picture 'COCO_1.jpg'",
        ),
        (lambda refs, file: file["categories"][0].pop("name"), '"categories" item 0 lacks name'),
        (
            lambda refs, file: file["images"][0].update(id=[1]),
            r'"images" item 0: "id" must be a number or a name; got \[1\]',
        ),
    ],
)
def test_a_bad_ref_is_refused_by_its_number(published, change, words):
    refs, instances = good_refs(), json.loads(json.dumps(INSTANCES))
    change(refs, instances)
    with pytest.raises(DataError, match=words):
        load_refs(*published(refs, instances))


def test_all_bad_refs_are_listed_and_the_good_ones_read(published):
    refs = good_refs()
    refs[0]["ann_id"] = 99
    refs[1]["sentences"][0]["sent"] = None
    found: list[LpiError] = []
    records = load_refs(*published(refs), on_error=found.append)
    assert len(found) == 2
    assert [one.expression for one in records] == ["dog", "dog", "tiny person", "dog behind"]


# --- MDETR's conversion ---


def mdetr():
    """The two training refs of the above, as MDETR's script writes them: an "image" an expression."""
    said = [("brown dog on the left", 1, 11), ("man in red", 1, 12), ("the dog", 1, 11)]
    by_id = {item["id"]: item for item in INSTANCES["annotations"]}
    return {
        "info": {},
        "licenses": [],
        "images": [
            {
                "file_name": f"COCO_train2014_{image:012d}.jpg",
                "height": 40,
                "width": 60,
                "id": number,
                "original_id": image,
                "caption": text,
                "dataset_name": "refcoco",
                "tokens_negative": [[0, len(text)]],
            }
            for number, (text, image, _) in enumerate(said)
        ],
        "annotations": [
            {
                **by_id[annotation],
                "image_id": number,
                "id": number,
                "original_id": annotation,
                "iscrowd": 0,
                "area": 200,
            }
            for number, (_, _, annotation) in enumerate(said)
        ],
        "categories": INSTANCES["categories"],
    }


@pytest.fixture
def converted(tmp_path):
    def write(name="finetune_refcoco_train.json", **changes):
        (tmp_path / name).write_text(json.dumps({**mdetr(), **changes}))
        return tmp_path / name

    return write


def test_mdetrs_file_says_the_same_as_the_published_ones(published, converted, pictures):
    theirs = {(one.expression, one.box, one.task, one.split) for one in load_refs(*published()) if one.split == "train"}
    ours = load_mdetr(converted(), pictures)
    assert {(one.expression, one.box, one.task, one.split) for one in ours} == theirs
    assert ours[1].name.endswith("finetune_refcoco_train.json, image 1")


def test_mdetrs_split_is_in_the_name_or_given(converted, pictures):
    assert {one.split for one in load_mdetr(converted("finetune_refcoco+_testB.json"), pictures)} == {"test"}
    assert load_mdetr(converted("finetune_refcoco+_testB.json"), pictures, test_on="val") == []
    assert {one.split for one in load_mdetr(converted("mine.json"), pictures, split="val", test_on="val")} == {"test"}
    with pytest.raises(ConfigError, match=r"mine\.json: its name doesn't end in"):
        load_mdetr(converted("mine.json"), pictures)


def test_an_expression_of_mdetrs_must_mean_one_box(converted, pictures):
    content = mdetr()
    content["annotations"][1]["image_id"] = 0
    path = converted(annotations=content["annotations"])
    found: list[LpiError] = []
    assert [one.expression for one in load_mdetr(path, pictures, on_error=found.append)] == ["the dog"]
    assert ["image 0: an expression must mean one box; it has 2" in str(error) for error in found] == [True, False]
    assert "image 1: an expression must mean one box; it has 0" in str(found[1])


# --- plain JSONL ---


@pytest.fixture
def plain(tmp_path, pictures):
    """Eight good lines: a function that changes some and writes them."""
    rows = [
        {
            "image": f"train2014/COCO_train2014_{1 + number % 3:012d}.jpg",
            "expression": f"thing {number}",
            "box": [number, 2, 30, 20],
            "task": "animal" if number % 2 else "zoo",
            "ann_id": number,
        }
        for number in range(8)
    ]

    def write(*, drop=(), **changes):
        for key, change in changes.items():
            rows[int(key[1:])].update(change)
        for row in rows:
            for key in drop:
                row.pop(key)
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_plain_lines_are_read_in_the_form_that_is_said(plain, tmp_path):
    path = plain(r0={"split": "train"}, **{f"r{n}": {"split": "test"} for n in range(1, 8)})
    as_edges, as_size = (load_expressions(path, boxes=form) for form in ("xyxy", "xywh"))
    assert as_edges[3].box == (3, 2, 30, 20)
    assert as_size[3].box == (3, 2, 33, 22)
    assert (as_edges[0].split, as_edges[3].split, as_edges[3].task) == ("train", "test", "animal")
    assert as_edges[3].name == f"{path}, line 4"
    assert as_edges[3].picture.name == "train2014/COCO_train2014_000000000001.jpg"
    assert as_edges[3].fields == {"task": "animal", "ann_id": "3"}
    assert {one.task for one in load_expressions(path, boxes="xyxy", task="all", split="dev")} == {"all"}
    assert {one.split for one in load_expressions(path, boxes="xyxy", split="dev")} == {"val"}


def test_splits_are_drawn_by_picture_so_that_no_picture_is_in_two(plain):
    records = load_expressions(plain(), boxes="xyxy", split_shares=(0.4, 0.3, 0.3))
    splits = {}
    for one in records:
        splits.setdefault(one.picture.name, set()).add(one.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}
    assert records == load_expressions(plain(), boxes="xyxy", split_shares=(0.4, 0.3, 0.3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box": [30, 2, 3, 20]}, "line 4: .*left must be before its right"),
        ({"box": [3, 2, 90, 20]}, "line 4: .*outside the picture of 60 x 40"),
        ({"expression": " "}, 'line 4: "expression" is empty'),
        ({"expression": ["a", "b"]}, r"line 4: .*one expression.*\['a', 'b'\]"),
        ({"image": "train2014/COCO_train2014_000000000009.jpg"}, "line 4: there is no picture .*Did you mean"),
        ({"image": 5}, "line 4: a picture needs a file name; got 5"),
        ({"task": ""}, "line 4: .*must be a name; got ''"),
        ({"split": "trian"}, "line 4: .*'trian'"),
        ({"split": "train"}, 'line 1: no "split", though other lines have one'),
        ({"width": 61, "height": 40}, "line 4: the picture should be 61 x 40 pixels and is 60 x 40"),
        ({"width": 0, "height": 40}, "line 4: .*got 0 x 40"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(plain, change, words):
    with pytest.raises(DataError, match=words):
        load_expressions(plain(r3=change), boxes="xyxy")


@pytest.mark.parametrize("column", ["image", "expression", "box", "task"])
def test_a_missing_column_is_named(plain, column):
    with pytest.raises(DataError, match=f'line 1: no column "{column}"'):
        load_expressions(plain(drop=[column]), boxes="xyxy")


def test_a_picture_lying_on_its_side_is_measured_as_it_is_opened(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "tall.jpg", exif=exif)
    (tmp_path / "one.jsonl").write_text(
        '{"image": "tall.jpg", "expression": "it", "box": [0, 0, 40, 60], "task": "a"}\n'
    )
    (record,) = load_expressions(tmp_path / "one.jsonl", boxes="xyxy")
    assert record.size == record.picture.open().size == (40, 60)


# --- streams ---


def test_a_stream_of_refs_has_the_papers_order_caps_and_a_checksum(published):
    refs = [*good_refs(), ref(6, 31, "train", "him"), ref(7, 32, "val", "it"), ref(8, 12, "testA", "he", "she", "they")]
    stream = GroundingStream.from_refs(*published(refs))
    assert (stream.name, [task.name for task in stream.tasks]) == ("refcoco", ["animal", "person"])
    assert stream.summary() == [
        {"name": "animal", "train": 2, "validation": 3, "test": 1, "pictures": 3},
        {"name": "person", "train": 2, "validation": 0, "test": 4, "pictures": 2},
    ]
    assert "1 expressions without words" in stream.notes[0]
    assert stream.notes[1] == "2 pictures are tested on and learned from, with other expressions"
    capped = stream.limited(train=1, validation=2, test=3)
    assert [(row["train"], row["validation"], row["test"]) for row in capped.summary()] == [(1, 2, 1), (1, 0, 3)]
    assert capped.checksum() == stream.limited(train=1, validation=2, test=3).checksum() != stream.checksum()
    backwards = stream.ordered(["person", "animal"])
    assert backwards.limited(test=3).tasks[0] == stream.limited(test=3).tasks[1]
    assert len(stream.merged().test) == 5


def test_a_stream_of_mdetrs_files_is_made_of_a_file_a_split(converted, pictures):
    content = mdetr()
    for image in content["images"]:
        image["caption"] += " there"
    test = converted("finetune_refcoco_val.json", images=content["images"])
    stream = GroundingStream.from_mdetr([converted(), test], pictures, name="refcoco", test_on="val")
    assert [(row["name"], row["train"], row["test"]) for row in stream.summary()] == [
        ("animal", 2, 2),
        ("person", 1, 1),
    ]
    by_split = {"train": converted("a.json"), "val": test}
    assert GroundingStream.from_mdetr(by_split, pictures, name="refcoco", test_on="val").checksum() == stream.checksum()


def test_a_stream_of_drawn_scenes_has_twelve_tasks_and_a_held_out_part():
    stream = GroundingStream.from_scenes(train=4, validation=1, test=2, held_out=3)
    assert [task.name for task in stream.tasks] == list(FAMILIES)
    assert len(stream.held_out) == 3
    assert stream.checksum() == GroundingStream.from_scenes(train=4, validation=1, test=2, held_out=3).checksum()
    assert (
        stream.checksum() != GroundingStream.from_scenes(train=4, validation=1, test=2, held_out=3, seed=1).checksum()
    )
    assert not stream.notes


def records(*rows):
    picture = ScenePicture(sample_scene(seeded("question")), "one")
    return [
        ReferringExpression(picture, text, (1, 1, 9, 9), (20, 20), task, split, f"row {number}")
        for number, (text, task, split) in enumerate(rows)
    ]


GOOD = (("a", "x", "train"), ("b", "x", "test"), ("c", "y", "train"), ("d", "y", "test"))


def test_the_same_question_must_not_be_in_two_splits_but_may_be_asked_twice_in_one():
    twice = GroundingStream.from_records(records(*GOOD, ("a", "x", "train")), name="s")
    assert len(twice.tasks[0].train) == 2
    with pytest.raises(DataError, match="row 4: 'a' is in train and again in test"):
        GroundingStream.from_records(records(*GOOD, ("a", "x", "test")), name="s")
    with pytest.raises(DataError, match="row 4: 'b' is in test and again in held_out"):
        GroundingStream.from_records(records(*GOOD, ("b", "x", "held_out")), name="s")


def test_tasks_can_be_held_out_and_ordered():
    stream = GroundingStream.from_records(records(*GOOD), name="s", order=["y", "x"])
    assert [task.name for task in stream.tasks] == ["y", "x"]
    stream = GroundingStream.from_records(records(*GOOD), name="s", held_out=["y"])
    assert ([task.name for task in stream.tasks], len(stream.held_out)) == (["x"], 2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: GroundingStream.from_records([], name="s"), ConfigError, "'s' has no task"),
        (lambda: GroundingStream.from_records(records(*GOOD[:3]), name="s"), DataError, "'y' .*no test expressions"),
        (lambda: GroundingStream.from_records(records(*GOOD), name="s", order=["x"]), ConfigError, "leaves out y"),
        (lambda: GroundingStream.from_records(records(*GOOD), name="s").ordered(["z"]), UnknownNameError, "'z'"),
        (lambda: GroundingStream.from_records(records(*GOOD), name="s").limited(test=0), ConfigError, "test .*got 0"),
        (
            lambda: GroundingStream("s", GroundingStream.from_records(records(*GOOD), name="s").tasks * 2),
            ConfigError,
            "two tasks called 'x'",
        ),
    ],
)
def test_a_stream_that_cannot_be_learned_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


# --- checking ---


def test_a_check_tells_expressions_from_captions_and_lists_all_that_is_wrong(plain, published, converted, pictures):
    path = plain(r0={"box": [9, 2, 3, 20]}, r5={"expression": ""}, r6={"box": [6, 2, 8, 20]})
    report = check_source(path, boxes="xyxy", split_shares=(0.4, 0.3, 0.3))
    assert "line 1: a box's left must be before" in report.errors[0]
    assert 'line 6: "expression" is empty' in report.errors[1]
    assert f"{path}, line 7: a box of 2.0 x 18.0 pixels" in report.warnings
    assert sum(int(row["expressions"]) for row in report.rows) == 6
    assert report.pictures == 3
    with pytest.raises(ConfigError, match="needs 'boxes'"):
        check_source(path)
    refs, _, images = published()
    report = check_source(refs, image_root=images)
    assert report.ok
    assert report.warnings[0] == "refs(unc).p: 1 expressions without words left out"
    assert report.rows[0] == {"task": "animal", "train": 2, "val": 2, "test": 1, "held_out": 0, "expressions": 5}
    assert check_source(converted(), image_root=pictures).ok  # one file is one split
    with pytest.raises(ConfigError, match="needs 'image_root'"):
        check_source(refs)
    with pytest.raises(MissingFileError, match=r"instances\.json"):
        check_source(refs, image_root=images, instances_json=images / "instances.json")


def test_the_command_line_checks_boxes_in_the_form_that_is_said(plain, published, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr("sys.argv", ["lpi", "data", "check", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            entry()
        captured = capsys.readouterr()
        return ended.value.code, captured.out + captured.err

    path = plain(r0={"box": [9, 2, 3, 20]})
    code, said = command(path)
    assert code == 2
    assert "needs 'boxes'" in said
    code, said = command(path, "--boxes", "xyxy", "--json")
    assert code == 2
    assert "line 1: a box's left must be before its right" in json.loads(said)["errors"][0]
    refs, _, images = published()
    assert command(refs, "--images", images)[0] == 0


def test_a_check_still_reads_captions(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "mine.jsonl").write_text('{"image": "1.png", "captions": ["a"], "task": "t", "split": "held_out"}\n')
    assert check_source(tmp_path / "mine.jsonl").rows[0]["captions"] == 1


def test_a_check_finds_boxes_of_another_picture_and_questions_with_two_answers(pictures):
    opened = ScenePicture(sample_scene(seeded("question")), "one")
    rows = [
        ReferringExpression(opened, "it", (1, 1, 9, 9), (224, 224), "t", "train", "row 0"),
        ReferringExpression(opened, "it", (2, 2, 9, 9), (224, 224), "t", "test", "row 1"),
    ]
    report = check_expressions(rows, source="mine", too_long=lambda texts: [1], most_words=0)
    assert report.ok
    assert report.warnings == (
        f"{opened.name}: 'it' means 2 objects",
        "row 0: an expression of 1 words (more than 0)",
        "row 1: an expression of 1 words (more than 0)",
        "row 1: the backbone reads only the start of 'it'. Shorten it.",
    )
    wrong = [ReferringExpression(opened, "it", (1, 1, 9, 9), (300, 224), "t", "train", "row 0")]
    errors = check_expressions(wrong, source="mine").errors
    assert "is 224 x 224 pixels, but its boxes are measured in 300 x 224" in errors[0]
    assert errors[1] == "mine: task 't' has no test expressions. Add some, or leave it out."


# --- real pictures ---


@pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder of real data: name it in LPI_REAL_DATA, or put it at ../shared/real"
)
def test_real_boxes_are_read_in_cocos_form_and_refused_in_the_other():
    path = REAL / "coco_mini" / "grounding_templated.jsonl"
    found = load_expressions(path, boxes="xywh")
    assert len(found) == 362
    assert found[0].box == pytest.approx((509.63, 345.38, 611.73, 417.7))
    stream = GroundingStream.from_jsonl(path, boxes="xywh")
    assert [task.name for task in stream.tasks][-3:] == ["food", "animal", "person"]
    wrong: list[LpiError] = []
    load_expressions(path, boxes="xyxy", on_error=wrong.append)
    swapped = [json.loads(line)["box"] for line in path.read_text().splitlines()]
    assert len(wrong) == sum(third <= left or fourth <= top for left, top, third, fourth in swapped) == 245


def test_a_file_of_expressions_is_known_by_its_first_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    for content, known in (
        ("", False),
        ("no JSON\n", False),
        ('{"image": "a.png", "caption": "a boat"}\n', False),
        ('{"image": "a.png", "expression": "the boat", "bbox": [1, 2, 3, 4]}\n', True),
    ):
        file.write_text(content)
        assert is_expressions_file(file) == known
