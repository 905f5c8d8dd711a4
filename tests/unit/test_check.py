import json

import pytest
from PIL import Image

from lpi.data.check import check_records, check_stream_source, folded
from lpi.data.folder import load_jsonl
from lpi.errors import ConfigError, MissingFileError


@pytest.fixture
def source(tmp_path):
    """Two tasks, four pictures each, nothing wrong: a function that changes rows and writes them."""
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(8):
        name = f"images/{number}.jpg"
        Image.effect_noise((32, 32), 20 + 10 * number).convert("RGB").save(tmp_path / name)
        split = ("train", "train", "val", "test")[number % 4]
        rows.append(
            {"image": name, "captions": [f"picture {number}"], "task": "sea" if number < 4 else "land", "split": split}
        )

    def write(**changes):
        for key, change in changes.items():
            rows[int(key[1:])].update(change)
        path = tmp_path / "captions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_good_data_has_no_errors_and_is_counted(source):
    report = check_stream_source(source())
    assert report.ok
    assert (report.errors, report.warnings, report.pictures) == ((), (), 8)
    assert report.rows == (
        {"task": "sea", "train": 2, "val": 1, "test": 1, "held_out": 0, "captions": 4},
        {"task": "land", "train": 2, "val": 1, "test": 1, "held_out": 0, "captions": 4},
    )
    assert json.loads(json.dumps(report.as_json()))["tasks"][1]["task"] == "land"


def test_all_problems_are_listed_not_just_the_first(source, tmp_path):
    path = source(r1={"captions": [""]}, r2={"captions": "a boat"}, r5={"image": "images/55.jpg"})
    broken = tmp_path / "images" / "6.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "images" / "4.jpg").write_text("not a picture")
    errors = check_stream_source(path).errors
    assert len(errors) == 5
    for number, text in enumerate(("line 2: caption 1", "line 3: expected a list", "line 6: there is no picture")):
        assert text in errors[number]
    assert "4.jpg: the picture can't be read" in errors[3]
    assert "6.jpg: the picture can't be read" in errors[4]


def test_byte_equal_pictures_are_found_within_and_across_splits(source, tmp_path):
    images = tmp_path / "images"
    (images / "1.jpg").write_bytes((images / "0.jpg").read_bytes())
    (images / "7.jpg").write_bytes((images / "4.jpg").read_bytes())
    report = check_stream_source(source())
    assert report.ok
    assert report.warnings == (
        "the same picture in several splits (land/test, land/train): images/4.jpg, images/7.jpg",
        "the same picture 2 times (sea/train): images/0.jpg, images/1.jpg",
    )


def test_equal_captions_of_different_pictures_are_counted(source):
    path = source(r0={"captions": ["A boat.", "a boat"]}, r5={"captions": ["a boat", "a tree"]})
    assert check_stream_source(path).warnings[0].startswith("1 captions say the same of several pictures")


def test_long_captions_are_reported_by_words_and_by_the_tokenizer(source):
    path = source(r3={"captions": ["a " * 30]})
    warnings = check_stream_source(path, most_words=29, too_long=lambda texts: [4]).warnings
    assert warnings == (
        "images/3.jpg: a caption of 30 words (more than 29)",
        "images/4.jpg: the backbone reads only the start of 'picture 4'. Shorten it.",
    )


def test_many_warnings_of_one_kind_are_cut_and_counted(source):
    warnings = check_stream_source(source(), most_words=1, most_listed=3).warnings
    assert len(warnings) == 4
    assert warnings[3] == ".. and 5 more long captions"


def test_a_task_without_test_or_training_pictures_is_an_error(source):
    path = source(r3={"split": "val"}, r4={"split": "val"}, r5={"split": "val"})
    assert [error.partition(": ")[2] for error in check_stream_source(path).errors] == [
        "task 'sea' has no test pictures. Add some, or leave it out.",
        "task 'land' has no train pictures. Add some, or leave it out.",
    ]


def test_held_out_data_needs_no_training_pictures(source):
    report = check_stream_source(source(), split="held_out")
    assert report.ok
    assert report.warnings == ("no task has training pictures: this can only be held-out data.",)


def test_drawn_pictures_are_checked_too(source):
    records = load_jsonl(source())
    assert check_records(records, source="mine").ok


def test_an_empty_source_is_one_error(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text("")
    assert len(check_stream_source(path).errors) == 1


def test_a_wrong_path_or_option_is_refused_at_once(source, tmp_path):
    with pytest.raises(MissingFileError, match="gone: there is no such file or folder"):
        check_stream_source(tmp_path / "gone")
    with pytest.raises(ConfigError, match="Did you mean 'task_field'"):
        check_stream_source(source(), task_feild="x")


def test_folders_of_splits_are_told_as_one_task(tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        (tmp_path / "boats" / split).mkdir(parents=True)
        Image.effect_noise((32, 32), 20 + 10 * number).save(tmp_path / "boats" / split / "a.png")
        line = json.dumps({"file_name": "a.png", "text": f"boat {number}"})
        (tmp_path / "boats" / split / "metadata.jsonl").write_text(line)
    report = check_stream_source(tmp_path / "boats")
    assert report.rows == ({"task": "boats", "train": 1, "val": 1, "test": 1, "held_out": 0, "captions": 3},)
    (note,) = report.warnings
    assert note.startswith("test, train, validation are read as splits of one task, 'boats'")


def test_equal_errors_are_folded_where_a_person_reads_them_and_counted_whole(source, type_command):
    path = source(**{f"r{number}": {"captions": []} for number in range(7)})
    ended = type_command("data", "check", path)
    assert ended.code == 2
    wrong = [line for line in ended.out.splitlines() if line.startswith("wrong: ")]
    assert wrong[0].startswith(f"wrong: 7 times (--json lists them), first: {path}, line 1:")
    assert len([line for line in wrong if "empty list" in line]) == 1
    assert len(json.loads(type_command("data", "check", path, "--json").out)["errors"]) >= 7
    assert ended.out.rstrip().endswith("things to put right.")


def test_few_errors_and_errors_of_different_kinds_are_listed_singly():
    lines = [f"a.jpg, line {number}: broken" for number in range(5)] + ["b.jpg: broken"]
    assert folded(lines) == lines
    assert folded([*lines, "a.jpg, line 99: broken"]) == [f"6 times (--json lists them), first: {lines[0]}", lines[5]]
