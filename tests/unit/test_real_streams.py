"""Real pictures and captions, where they are at hand: the two real streams, COCO's own files, Karpathy's own file."""

import os
from collections import Counter
from pathlib import Path

import pytest

from lpi.data import check_stream_source, load_coco, load_jsonl, load_karpathy
from lpi.tasks import TaskStream

REAL = Path(os.environ.get("LPI_REAL_DATA") or Path(__file__).parents[2].parent / "shared" / "real")

pytestmark = pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder of real data: name it in LPI_REAL_DATA, or put it at ../shared/real"
)

FREE = {"part": "free"}
TOPICS = ["dogs", "people", "children", "water", "wheels", "ballsports", "snow", "climbing_hiking"]
EMOJI = {
    "people": ["smileys & emotion", "people & body"],
    "nature": ["animals & nature", "food & drink"],
    "objects": ["objects", "symbols"],
    "places": ["travel & places", "activities"],
}


def counts(stream):
    return [(row["name"], row["train"], row["validation"], row["test"]) for row in stream.summary()]


def test_real_topics_has_eight_tasks_and_holds_the_others_out():
    photographs = "flickr8k/captions.jsonl"
    stream = TaskStream.from_parts(
        [{"file": photographs, "train_where": FREE, "tasks": TOPICS}],
        REAL,
        name="real_topics",
        held_out=[{"name": "other", "file": photographs, "where": {"task": "other"}}],
    )
    assert counts(stream.limited(train=600, seed=0)) == [
        ("dogs", 600, 236, 230),
        ("people", 549, 190, 182),
        ("children", 532, 183, 206),
        ("water", 377, 137, 131),
        ("wheels", 293, 108, 86),
        ("ballsports", 166, 56, 62),
        ("snow", 155, 46, 48),
        ("climbing_hiking", 147, 36, 49),
    ]
    assert len(stream.tasks[0].train) == 746
    assert len(stream.held_out) == 85
    assert stream.limited(train=600, seed=0).checksum() == stream.limited(train=600, seed=0).checksum()


def test_real_domains_has_photographs_drawings_and_emoji():
    parts = [
        {"name": "photographs", "file": "flickr8k/captions.jsonl", "train_where": FREE},
        {"name": "stamps", "file": "stamps/captions.jsonl"},
        {"name": "clipart", "file": "clipart/captions.jsonl", "train_where": FREE},
    ]
    parts += [
        {"name": name, "file": "emoji/captions.jsonl", "where": {"group": groups}, "train_where": FREE}
        for name, groups in EMOJI.items()
    ]
    held_out = [{"name": "coco_mini", "file": "coco_mini/captions.jsonl"}]
    stream = TaskStream.from_parts(parts, REAL, name="real_domains", held_out=held_out)
    assert counts(stream.limited(train=600, seed=0)) == [
        ("photographs", 600, 1000, 1000),
        ("stamps", 518, 94, 145),
        ("clipart", 600, 384, 714),
        ("people", 600, 193, 543),
        ("nature", 600, 96, 195),
        ("objects", 600, 187, 384),
        ("places", 600, 68, 268),
    ]
    assert [len(task.train) for task in stream.tasks] == [3000, 518, 1176, 959, 655, 976, 680]
    assert len(stream.held_out) == 239


def test_a_merged_task_says_the_same_as_a_filter():
    tasks = {name: {"field": "group", "values": groups} for name, groups in EMOJI.items()}
    stream = TaskStream.from_jsonl(REAL / "emoji" / "captions.jsonl", tasks=tasks, train_where=FREE)
    assert [(row[0], row[3]) for row in counts(stream)] == [
        ("people", 543),
        ("nature", 195),
        ("objects", 384),
        ("places", 268),
    ]


@pytest.mark.parametrize(
    ("half", "tasks"),
    [
        ("val2017", {"person": 22, "furniture": 11, "animal": 10, "vehicle": 10, "appliance": 8, "electronic": 7}),
        ("train2017", {"person": 19, "furniture": 16, "vehicle": 13, "animal": 11, "appliance": 6, "electronic": 4}),
    ],
)
def test_cocos_own_files_are_cut_into_supercategories(half, tasks):
    original = REAL / "coco_mini" / "original"
    paths = original / f"mini_captions_{half}.json", original / f"mini_instances_{half}.json"
    records = load_coco(*paths, REAL / "coco_mini" / "images" / half)
    assert len(records) == {"val2017": 79, "train2017": 80}[half]
    found = Counter(record.task for record in records)
    assert {task: found[task] for task in tasks} == tasks
    assert min(len(record.captions) for record in records) == 5


def test_the_complete_official_captions_keep_what_has_instances():
    folder, notes = REAL / "coco_mini", []
    captions = folder / "original" / "captions_val2017.json"
    records = load_coco(captions, folder / "instances_merged.json", folder / "images" / "val2017", notes=notes)
    assert len(records) == 79
    assert notes == ["captions_val2017.json: 4921 pictures without instances left out"]
    theirs = {record.fields["image_id"]: record.task for record in load_jsonl(folder / "captions.jsonl")}
    # the one that differs is covered mostly by a crowd of books, which our rule leaves out
    assert [record.fields["image_id"] for record in records if theirs[record.fields["image_id"]] != record.task] == [
        "553664"
    ]


def test_karpathys_own_zip_is_read():
    records = load_karpathy(REAL / "flickr8k" / "original" / "dataset_flickr8k.zip", REAL / "flickr8k" / "images")
    assert Counter(record.split for record in records) == {"train": 6000, "val": 1000, "test": 1000}
    assert sum(len(record.captions) for record in records) == 40_000


def test_a_check_opens_every_real_picture():
    report = check_stream_source(REAL / "stamps")
    assert report.ok
    assert report.pictures == 757
    assert sum(int(row["test"]) for row in report.rows) == 145
    held_out = check_stream_source(REAL / "coco_mini", split="held_out")
    assert (held_out.ok, held_out.pictures) == (True, 239)
