import json

import pytest
from PIL import Image

from lpi.data.folder import load_folder, load_jsonl, load_task
from lpi.data.rows import draw_splits, folder_split
from lpi.data.source import load_source
from lpi.errors import ConfigError, DataError, MissingFileError


def draw(folder, *names):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "images" / name)


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def row(name, **others):
    return {"image": f"images/{name}", "captions": ["a boat"], "task": "sea", "split": "train", **others}


@pytest.fixture
def harbour(tmp_path):
    draw(tmp_path, "a.png", "b.png", "c.png", "ü.png")
    return tmp_path


def test_a_jsonl_file_becomes_records_in_its_order(harbour):
    path = write(
        harbour / "captions.jsonl",
        row("b.png", captions=[" a red boat ", "a boat"], part="free", weight=2, tags=["x"]),
        "",
        row("ü.png", split="validation", task="land"),
    )
    first, second = load_jsonl(path)
    assert first.picture.name == "images/b.png"
    assert first.picture.path == harbour / "images" / "b.png"
    assert first.captions == ("a red boat", "a boat")
    assert first.fields == {"task": "sea", "split": "train", "part": "free", "weight": "2"}
    assert (second.task, second.split, second.picture.name) == ("land", "val", "images/ü.png")
    assert second.fields["split"] == "val"


BAD_ROWS = {
    "empty caption": (row("c.png", captions=["a boat", ""]), "caption 2 is empty"),
    "caption of space": (row("c.png", captions=[" \t"]), "caption 1 is empty"),
    "captions as a string": (row("c.png", captions="a red boat"), r'got a string. Wrap it: \["a red boat"\]'),
    "no captions": (row("c.png", captions=[]), '"captions" is an empty list'),
    "caption that is a number": (row("c.png", captions=[7]), "caption 1 must be text; got 7"),
    "half a character": (row("c.png", captions=["a \ud83d"]), "holds half a character"),
    "zero byte in a name": (row("c.png", image="x\0/c.png"), "a picture needs a file name"),
    "misspelt column": (
        {"image": "images/c.png", "captoins": ["a"], "task": "sea", "split": "train"},
        'no caption column .*Did you mean "captions" by "captoins"',
    ),
    "no picture column": (
        {"captions": ["a"], "task": "sea", "split": "train"},
        'no picture column .*found "captions", "task", "split"',
    ),
    "picture that is a number": (row("c.png", image=3), "a picture needs a file name; got 3"),
    "missing picture": (row("bb.png"), r"there is no picture 'images/bb.png' in .* Did you mean 'b.png'\?"),
    "duplicated picture": (row("b.png"), r"'images/b.png' is already on line 1\. Put all its captions into one row"),
    "the same picture by another spelling": (row("b.png", image="images/../images/b.png"), "already on line 1"),
    "malformed JSON": ('{"image": "images/c.png", ', "not valid JSON"),
    "a list": ("[1]", "expected an object .* got a list"),
    "unknown split": (row("c.png", split="tset"), r"got 'tset'\. Did you mean 'test'\?"),
    "no split beside rows that have one": (row("c.png", split=None), 'no "split", though other rows have one'),
    "no task": ({"image": "images/c.png", "captions": ["a"], "split": "train"}, 'no column "task"'),
    "empty task": (row("c.png", task=" "), 'the task under "task" is empty'),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_refused_with_its_file_and_line(harbour, kind):
    bad, message = BAD_ROWS[kind]
    path = write(harbour / "captions.jsonl", row("b.png"), bad)
    with pytest.raises(DataError, match=rf"captions\.jsonl, line 2: .*{message}") as caught:
        load_jsonl(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_names_line_and_byte(harbour):
    path = harbour / "captions.jsonl"
    path.write_bytes(json.dumps(row("b.png")).encode() + b'\n{"image": "\xfc.png"}\n')
    with pytest.raises(DataError, match=r"line 2: not UTF-8 \(byte 0xfc at 11\)"):
        load_jsonl(path)


def test_a_byte_order_mark_is_no_mistake(harbour):
    path = harbour / "captions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row("b.png")).encode())
    assert len(load_jsonl(path)) == 1


def test_byte_equal_pictures_under_two_names_are_fine(harbour):
    (harbour / "images" / "twin.png").write_bytes((harbour / "images" / "a.png").read_bytes())
    assert len(load_jsonl(write(harbour / "captions.jsonl", row("a.png"), row("twin.png")))) == 2


def test_an_empty_file_is_refused(harbour):
    with pytest.raises(DataError, match="holds no picture"):
        load_jsonl(write(harbour / "captions.jsonl"))


def test_all_bad_rows_can_be_collected(harbour):
    path = write(harbour / "captions.jsonl", "{", row("a.png"), row("b.png", captions=[""]), row("zz.png"))
    problems = []
    records = load_jsonl(path, on_error=problems.append)
    assert [record.picture.name for record in records] == ["images/a.png"]
    assert [str(problem).partition(": ")[0].rpartition(" ")[2] for problem in problems] == ["1", "3", "4"]


def test_any_column_can_be_the_task(harbour):
    path = write(harbour / "captions.jsonl", row("a.png", style=1), row("b.png", style=2))
    assert [record.task for record in load_jsonl(path, task_field="style")] == ["1", "2"]
    with pytest.raises(DataError, match=r"line 1: no column \"styel\" to name the task. Did you mean 'style'"):
        load_jsonl(path, task_field="styel")


def test_tasks_can_be_made_of_several_values(harbour):
    path = write(
        harbour / "captions.jsonl",
        row("a.png", group="face"),
        row("b.png", group="body"),
        row("c.png", group="food"),
        row("ü.png", group="flag"),
    )
    tasks = {"people": {"field": "group", "values": ["face", "body"]}, "meals": {"field": "group", "values": "food"}}
    assert [record.task for record in load_jsonl(path, tasks=tasks)] == ["people", "people", "meals"]
    tasks["meals"]["values"] = ["food", "body"]
    with pytest.raises(DataError, match="line 2: belongs to the tasks people and meals"):
        load_jsonl(path, tasks=tasks)
    with pytest.raises(ConfigError, match='people: expected a "field" and "values"'):
        load_jsonl(path, tasks={"people": {"values": ["face"]}})


def test_filters_choose_rows_and_training_rows(harbour):
    path = write(
        harbour / "captions.jsonl",
        row("a.png", part="aligned"),
        row("b.png", part="free"),
        row("c.png", part="aligned", split="test"),
        row("ü.png", part="free", task="land"),
    )
    chosen = load_jsonl(path, where={"task": "sea"}, train_where={"part": ["free"]})
    assert [record.picture.name for record in chosen] == ["images/b.png", "images/c.png"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"part": "fre"}, "no row has 'fre' under 'part'. Did you mean 'free'"),
        ({"prt": "free"}, "no row has a column 'prt' to filter by. Did you mean 'part'"),
    ],
)
def test_a_filter_that_matches_nothing_is_refused(harbour, where, message):
    path = write(harbour / "captions.jsonl", row("a.png", part="free"))
    with pytest.raises(DataError, match=message):
        load_jsonl(path, train_where=where)


def test_a_filter_without_values_is_refused(harbour):
    path = write(harbour / "captions.jsonl", row("a.png", part="free"))
    with pytest.raises(ConfigError, match="where: expected a value or a list of values for 'part'; got None"):
        load_jsonl(path, where={"part": None})


def test_splits_are_drawn_by_name_and_filters_do_not_move_them(harbour):
    names = [f"{number}.png" for number in range(40)]
    draw(harbour, *names)
    rows = [{**row(name), "parity": int(name[:-4]) % 2} for name in names]
    for item in rows:
        del item["split"]
    path = write(harbour / "captions.jsonl", *rows)
    everything = {record.picture.name: record.split for record in load_jsonl(path)}
    assert sorted(everything.values()) == ["test"] * 4 + ["train"] * 32 + ["val"] * 4
    assert everything == {record.picture.name: record.split for record in load_jsonl(write(path, *reversed(rows)))}
    for record in load_jsonl(path, where={"parity": "1"}):
        assert record.split == everything[record.picture.name]
    assert {record.split for record in load_jsonl(path, split="held_out")} == {"held_out"}
    with pytest.raises(ConfigError, match="split_shares must be three fractions"):
        load_jsonl(path, split_shares=(0.5, 0.1, 0.1))


def test_a_small_task_still_gets_a_test_picture():
    assert sorted(draw_splits({"a": "t", "b": "t", "c": "t"}).values()) == ["test", "train", "train"]
    assert draw_splits({"a": "t"}) == {"a": "train"}


def test_a_folder_of_tasks_is_read_in_name_order(tmp_path):
    for task in ("sea", "air"):
        draw(tmp_path / task, "a.png", "b.png")
    write(tmp_path / "sea" / "captions.jsonl", {"image": "images/a.png", "captions": ["a boat"], "split": "test"})
    write(
        tmp_path / "air" / "metadata.jsonl",
        {"file_name": "images/a.png", "text": "a plane", "split": "train"},
        {"file_name": "b.png", "caption": "a bird", "split": "dev"},
    )
    (tmp_path / ".cache").mkdir()
    records = load_folder(tmp_path)
    assert [(record.task, record.picture.name, record.captions, record.split) for record in records] == [
        ("air", "air/images/a.png", ("a plane",), "train"),
        ("air", "air/images/b.png", ("a bird",), "val"),
        ("sea", "sea/images/a.png", ("a boat",), "test"),
    ]
    assert load_source(tmp_path) == records


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "there is no such folder"),
        (lambda root: root.mkdir(), "there is no task folder in it"),
        (lambda root: root.write_text(""), "is a file, not a folder"),
        (lambda root: (root / "sea").mkdir(parents=True), r"sea: there is no captions\.jsonl or metadata\.jsonl"),
        (lambda root: write(root / "sea" / "table.csv", "a"), r"Call table\.csv captions\.csv"),
    ],
)
def test_a_missing_folder_or_captions_file_is_named(tmp_path, make, message):
    make(tmp_path / "tasks")
    with pytest.raises(MissingFileError, match=message):
        load_folder(tmp_path / "tasks")


def test_a_flat_folder_points_to_its_file(harbour):
    path = write(harbour / "captions.jsonl", row("a.png"))
    with pytest.raises(MissingFileError, match=r"Give the file itself: .*captions\.jsonl"):
        load_folder(harbour)
    assert load_source(harbour) == load_jsonl(path)


def test_two_captions_files_in_a_task_are_refused(tmp_path):
    for name in ("captions.jsonl", "metadata.jsonl"):
        write(tmp_path / "sea" / name, row("a.png"))
    with pytest.raises(DataError, match=r"holds both captions\.jsonl and metadata\.jsonl"):
        load_folder(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"captions\.jsonl: there is no such file"):
        load_jsonl(tmp_path / "captions.jsonl")


def test_an_unknown_source_or_option_is_refused(harbour):
    path = write(harbour / "captions.jsonl", row("a.png"))
    with pytest.raises(ConfigError, match=r"load_jsonl has no option 'task_feild'. Did you mean 'task_field'"):
        load_source(path, task_feild="x")
    with pytest.raises(ConfigError, match="load_karpathy needs 'image_root'"):
        load_source(write(harbour / "dataset.json", "{}"))
    with pytest.raises(DataError, match=r"no reader for \.xml"):
        load_source(write(harbour / "captions.xml", "a"))
    with pytest.raises(MissingFileError, match="gone: there is no such file or folder"):
        load_source(harbour / "gone")


def layout(root, *files):
    """Captions files of two pictures each, without splits in their rows."""
    for number, file in enumerate(files):
        folder = (root / file).parent
        draw(folder, "a.png", "b.png")
        rows = [{"file_name": f"images/{name}.png", "text": f"boat {number}{name}"} for name in "ab"]
        write(root / file, *rows)
    return root


def splits_of(records):
    found = {}
    for record in records:
        found.setdefault(record.task, {}).setdefault(record.split, 0)
        found[record.task][record.split] += 1
    return found


@pytest.mark.parametrize("middle", ["validation", "val", "valid", "dev", "Validation"])
def test_folders_named_like_splits_are_the_splits_of_one_task(tmp_path, middle):
    root = layout(tmp_path / "boats", *(f"{split}/metadata.jsonl" for split in ("train", middle, "test")))
    records = load_folder(root)
    assert splits_of(records) == {"boats": {"train": 2, "val": 2, "test": 2}}
    assert records[0].picture.name == "train/images/a.png"
    assert load_source(root) == records


def test_tasks_may_lie_in_the_folders_of_their_splits(tmp_path):
    names = [f"{split}/{task}/captions.jsonl" for split in ("train", "test") for task in ("sea", "air")]
    found = splits_of(load_folder(layout(tmp_path, *names)))
    assert found == {task: {"train": 2, "test": 2} for task in ("air", "sea")}
    assert list(found) == ["air", "sea"]


def test_splits_may_lie_in_the_folders_of_their_tasks(tmp_path):
    names = [f"{task}/{split}/metadata.jsonl" for split in ("train", "held-out", "eval") for task in ("sea", "air")]
    root = layout(tmp_path, *names, "land/captions.jsonl")
    found = splits_of(load_folder(root))
    assert found["sea"] == found["air"] == {"train": 2, "test": 2, "held_out": 2}
    assert sum(found["land"].values()) == 2
    assert splits_of(load_task(root / "sea", "ships")) == {"ships": found["sea"]}


def test_rows_in_a_splits_folder_may_name_their_tasks(tmp_path):
    for split in ("train", "test"):
        draw(tmp_path / split, "a.png", "b.png")
        write(tmp_path / split / "metadata.jsonl", row("a.png", split=None), row("b.png", split=split, task="land"))
    assert splits_of(load_folder(tmp_path)) == {task: {"train": 1, "test": 1} for task in ("sea", "land")}


def test_pictures_sorted_by_split_beside_one_captions_file_are_no_split_folders(tmp_path):
    draw(tmp_path / "sea" / "train", "a.png")
    draw(tmp_path / "sea" / "test", "b.png")
    rows = [row("a.png", image="train/images/a.png"), row("b.png", image="test/images/b.png", split="test")]
    write(tmp_path / "sea" / "captions.jsonl", *rows)
    assert splits_of(load_folder(tmp_path)) == {"sea": {"train": 1, "test": 1}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/metadata.jsonl", "birds/captions.jsonl"], r"splits \(train\) beside others \(birds\)"),
        (["sea/train/metadata.jsonl", "sea/boats/captions.jsonl"], r"sea: .*splits \(train\) beside others \(boats\)"),
        (["sea/captions.jsonl", "sea/test/captions.jsonl"], r"sea: holds a captions file, and so does .*test"),
        (["train/metadata.jsonl", "test/sea/captions.jsonl"], r"test: there is no captions.jsonl"),
    ],
)
def test_folders_that_are_both_tasks_and_splits_are_refused(tmp_path, files, message):
    with pytest.raises((DataError, MissingFileError), match=message) as caught:
        load_folder(layout(tmp_path, *files))
    assert "\n" not in str(caught.value)


def test_a_row_that_contradicts_its_splits_folder_is_refused_by_line(tmp_path):
    root = layout(tmp_path, "train/metadata.jsonl", "test/metadata.jsonl")
    rows = [{"file_name": "images/a.png", "text": "a boat"}, row("b.png", split="train")]
    write(root / "test" / "metadata.jsonl", *rows)
    with pytest.raises(DataError, match=r'metadata.jsonl, line 2: "split" is train, but the whole file is test'):
        load_folder(root)
    assert {record.split for record in load_folder(root, split="held_out")} == {"held_out"}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[
            ("train2014", "train"),
            ("val2017", "val"),
            ("test_set", "test"),
            ("trainset", "train"),
            ("1_train", "train"),
        ],
        *[("Validation ", "val"), ("split=train", "train"), ("reset", None), ("set", None), ("training-dogs", None)],
    ],
)
def test_splits_are_told_by_their_usual_names(name: str, split: str | None) -> None:
    assert folder_split(name) == split
