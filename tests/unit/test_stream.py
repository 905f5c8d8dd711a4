import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpi.data.records import CaptionedImage, FilePicture
from lpi.errors import ConfigError, DataError, MissingFileError, UnknownNameError
from lpi.tasks import TaskStream, normal_caption, relevance


def record(name, *captions, task="sea", split="train"):
    return CaptionedImage(FilePicture(Path(name), name), captions or (f"the {name}",), task, split)


def plain(*tasks, train=3):
    return [
        record(f"{task}{number}", task=task, split=split)
        for task in tasks
        for number, split in enumerate(["train"] * train + ["val", "test", "test"])
    ]


@pytest.fixture
def stream():
    return TaskStream.from_records(plain("sea", "air", "land"), name="world")


def test_records_are_grouped_by_task_and_split(stream):
    assert [task.name for task in stream.tasks] == ["sea", "air", "land"]
    assert stream.summary()[1] == {"name": "air", "train": 3, "validation": 1, "test": 2, "captions": 6}
    assert stream.tasks[2].validation[0].picture.name == "land3"


def test_an_order_can_be_given_and_tasks_held_out():
    records = [*plain("sea", "air", "land"), record("x", split="held_out", task="else")]
    stream = TaskStream.from_records(records, name="world", order=["land", "sea"], held_out=["air"])
    assert [task.name for task in stream.tasks] == ["land", "sea"]
    assert [item.picture.name for item in stream.held_out] == ["x", "air0", "air1", "air2", "air3", "air4", "air5"]
    with pytest.raises(UnknownNameError, match=r"No task to hold out is called 'aer'. Did you mean 'air'"):
        TaskStream.from_records(records, name="world", held_out=["aer"])
    with pytest.raises(ConfigError, match="The order leaves out sea, air"):
        TaskStream.from_records(records, name="world", order=["land"])


@pytest.mark.parametrize(("lost", "word"), [("train", "training"), ("test", "test")])
def test_a_task_without_training_or_test_pictures_is_named(lost, word):
    records = [item for item in plain("sea", "air") if item.task == "sea" or item.split != lost]
    with pytest.raises(DataError, match=f"Task 'air' of stream 'world' has no {word} pictures"):
        TaskStream.from_records(records, name="world").tested()


def test_a_picture_can_not_be_learned_and_tested(stream):
    with pytest.raises(DataError, match="sea0: the picture is in task 'sea' and again in the held-out pictures"):
        TaskStream("world", stream.tasks, held_out=(stream.tasks[0].train[0],))


def test_an_empty_stream_or_a_second_task_of_a_name_is_refused(stream):
    with pytest.raises(ConfigError, match="Stream 'world' has no task"):
        TaskStream("world", ())
    with pytest.raises(ConfigError, match="two tasks called 'sea'"):
        TaskStream("world", (stream.tasks[0], stream.tasks[0]))
    with pytest.raises(DataError, match=r"a: .* got 'tset'"):
        TaskStream.from_records([record("a", split="tset")], name="world")


def test_tasks_can_be_reordered_or_left_out(stream):
    assert [task.name for task in stream.ordered(["land", "sea"]).tasks] == ["land", "sea"]
    with pytest.raises(UnknownNameError, match=r"No task is called 'lnad'. Did you mean 'land'"):
        stream.ordered(["lnad"])
    with pytest.raises(ConfigError, match="names task 'sea' twice"):
        stream.ordered(["sea", "air", "sea"])


def test_limits_draw_by_seed_whatever_the_order():
    stream = TaskStream.from_records(plain("sea", "air", train=50), name="world")
    limited = stream.limited(train=10, test=1, seed=0)
    assert [(len(task.train), len(task.validation), len(task.test)) for task in limited.tasks] == [(10, 1, 1)] * 2
    names = [item.picture.name for item in limited.tasks[0].train]
    assert names == sorted(names, key=lambda name: int(name[3:]))
    assert stream.ordered(["air", "sea"]).limited(train=10, seed=0).tasks[1].train == limited.tasks[0].train
    assert stream.limited(train=10, seed=1).tasks[0].train != limited.tasks[0].train
    assert stream.limited(train=1000, test=1000) == stream
    with pytest.raises(ConfigError, match="train must be at least 1; got 0"):
        stream.limited(train=0)


def test_all_tasks_merge_into_one(stream):
    merged = stream.merged()
    assert [item.task for item in merged.train] == ["sea"] * 3 + ["air"] * 3 + ["land"] * 3
    assert (len(merged.validation), len(merged.test)) == (3, 6)


def test_the_checksum_sees_names_captions_splits_and_order(stream):
    same = TaskStream.from_records(plain("sea", "air", "land"), name="another name")
    assert stream.checksum() == same.checksum()
    assert len(stream.checksum()) == 16
    others = [
        stream.ordered(["air", "sea", "land"]),
        stream.limited(train=2),
        TaskStream("world", stream.tasks, held_out=(record("x"),)),
        TaskStream.from_records([record("sea0", "another caption"), *plain("sea", "air", "land")[1:]], name="world"),
    ]
    assert len({stream.checksum(), *(other.checksum() for other in others)}) == 5


@pytest.fixture
def root(tmp_path):
    """Two JSONL files under one folder, the second with groups and parts."""
    for name, tasks in (("photos", ("dogs", "cats")), ("icons", ("flat", "bold"))):
        (tmp_path / name).mkdir()
        rows = []
        for number in range(24):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
            rows.append(
                {
                    "image": f"{number}.png",
                    "captions": [f"{name} {number}"],
                    "task": tasks[number % 2],
                    "split": ("train", "train", "val", "test")[number // 2 % 4],
                    "group": f"g{number // 8}",
                    "part": "free" if number % 16 < 8 else "aligned",
                }
            )
        (tmp_path / name / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_stream_is_composed_of_parts(root):
    stream = TaskStream.from_parts(
        [
            {"name": "photographs", "file": "photos/captions.jsonl", "train_where": {"part": "free"}},
            {"file": "icons/captions.jsonl", "task_field": "group", "tasks": ["g1", "g0"]},
        ],
        root,
        name="mixed",
        held_out=[{"name": "rest", "file": "icons/captions.jsonl", "where": {"group": "g2", "split": ["val", "test"]}}],
    )
    assert [(task.name, len(task.train), len(task.test)) for task in stream.tasks] == [
        ("photographs", 8, 6),
        ("g1", 4, 2),
        ("g0", 4, 2),
    ]
    assert stream.tasks[1].train[0].picture.name == "icons/8.png"
    assert [item.picture.name for item in stream.held_out] == [f"icons/{number}.png" for number in range(20, 24)]


def test_a_part_without_tasks_takes_them_from_its_column_in_name_order(root):
    stream = TaskStream.from_parts([{"file": "photos/captions.jsonl"}], root)
    assert [task.name for task in stream.tasks] == ["cats", "dogs"]
    assert TaskStream.from_jsonl(root / "photos" / "captions.jsonl").tasks[0].name == "cats"
    assert TaskStream.from_jsonl(root / "photos" / "captions.jsonl").name == "photos"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"fiel": "x"}, "part 1: unknown key 'fiel'. Did you mean 'file'"),
        ({}, 'part 1: expected a JSONL file under "file"; got None'),
        ({"file": "photos/captions.jsonl", "name": "a", "tasks": ["b"]}, "One part is one task, or many"),
        ({"file": "photos/captions.jsonl", "tasks": "dogs"}, "\"tasks\" must be a list of names; got 'dogs'"),
    ],
)
def test_a_part_written_wrongly_is_refused(root, part, message):
    with pytest.raises(ConfigError, match=message):
        TaskStream.from_parts([part], root)


def test_a_part_whose_filter_or_task_matches_nothing_is_refused(root):
    with pytest.raises(DataError, match=r"no row has 'dgos' under 'task'. Did you mean 'dogs'"):
        TaskStream.from_parts([{"file": "photos/captions.jsonl", "tasks": ["dgos"]}], root)
    where = {"group": "g0", "part": "aligned"}
    with pytest.raises(DataError, match="Task 'few' of stream 'parts' has no pictures"):
        TaskStream.from_parts([{"name": "few", "file": "photos/captions.jsonl", "where": where}], root)


def test_a_folder_makes_a_stream_of_its_name(tmp_path):
    for task in ("sea", "air"):
        folder = tmp_path / "world" / task / "images"
        folder.mkdir(parents=True)
        rows = []
        for number in range(10):
            Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "text": f"{task} {number}"})
        (folder.parent / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = TaskStream.from_folder(tmp_path / "world", order=["sea", "air"])
    assert stream.name == "world"
    assert [(task.name, len(task.train), len(task.validation), len(task.test)) for task in stream.tasks] == [
        ("sea", 8, 1, 1),
        ("air", 8, 1, 1),
    ]


def slow_relevance(records, equal_captions):
    texts = [(caption, index) for index, item in enumerate(records) for caption in item.captions]
    pairs = []
    for number, (text, own) in enumerate(texts):
        for index, item in enumerate(records):
            equal = any(normal_caption(text) == normal_caption(caption) for caption in item.captions)
            if index == own or (equal_captions and equal):
                pairs.append((number, index))
    return pairs


@pytest.mark.parametrize("equal_captions", [True, False])
def test_relevance_equals_the_slow_plain_version(equal_captions):
    words = ["a boat", "A boat.", "a tree", "a  Tree", "sun", "!"]
    generator = np.random.default_rng(0)
    records = [record(str(number), *generator.choice(words, generator.integers(1, 4))) for number in range(30)]
    texts, owner, pairs = relevance(records, equal_captions=equal_captions)
    assert texts == [caption for item in records for caption in item.captions]
    assert Counter(owner.tolist()) == Counter({index: len(item.captions) for index, item in enumerate(records)})
    assert [tuple(pair) for pair in pairs.tolist()] == slow_relevance(records, equal_captions)
    assert pairs.dtype == np.int64


def test_reading_data_does_not_wait_for_torch():
    code = "import sys, lpi.data, lpi.tasks; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    path = str(Path(__file__).parents[2] / "src")
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False).returncode == 0


def test_the_embedded_world_is_a_stream():
    stream = TaskStream.from_scenes(families=["food", "vehicle"], train=4, validation=2, test=3, held_out=5)
    assert [(row["name"], row["train"], row["validation"], row["test"]) for row in stream.summary()] == [
        ("food", 4, 2, 3),
        ("vehicle", 4, 2, 3),
    ]
    assert len(stream.held_out) == 5
    assert stream.tasks[0].train[0].picture.open(32).mode == "RGB"


def test_the_checksum_sees_what_is_in_the_files_of_every_split(tmp_path):
    names = [f"{kind}.png" for kind in ("train", "val", "test", "held_out")]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number]) * 100)
    records = [
        CaptionedImage(FilePicture(tmp_path / name, name), ("a boat",), "sea", Path(name).stem) for name in names
    ]
    stream = TaskStream.from_records(records, name="world")
    known = {stream.checksum()}
    assert len(known) == 1
    for name in names:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"x" * 101)
        known.add(stream.checksum())
        (tmp_path / name).write_bytes(content)
        assert stream.checksum() in known
    assert len(known) == 5
    (tmp_path / "test.png").unlink()
    assert stream.checksum() not in known
    with pytest.raises(MissingFileError, match=r"test\.png can't be read"):  # a run isn't bound to data without it
        stream.checksum(whole=True)


def test_files_are_read_once_for_all_checksums_of_a_process(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("lpi.data.content.content_id", lambda path: read.append(path) or "0" * 32)
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    splits = ["train", "train", "test"] * 2
    records = [
        CaptionedImage(FilePicture(tmp_path / name, name), ("a boat",), task, split)
        for name, task, split in zip(names, ["sea"] * 3 + ["air"] * 3, splits, strict=True)
    ]
    for _ in range(2):
        TaskStream.from_records(records, name="world").checksum()
    assert sorted(read) == [tmp_path / name for name in names]
