"""Whatever a person or a stranger wrote is read whole or refused in one line, whichever the format."""

import contextlib
import gzip
import json
import os
import pickle
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lpi.config import read_experiment
from lpi.data.coco import load_coco
from lpi.data.expressions.jsonl import load_expressions
from lpi.data.expressions.pickled import read_plain_pickle
from lpi.data.expressions.refcoco import load_refs
from lpi.data.folder import load_folder, load_jsonl
from lpi.data.karpathy import load_karpathy
from lpi.data.rows import read_csv, read_json_lines
from lpi.errors import CheckpointError, ConfigError, DataError, LpiError
from lpi.reading import UnreadableError, parse_json, parse_toml, read_gzip, read_object, read_text, shown, wanted
from lpi.storage import read_json

DIGITS = "9" * 5000
CAPTIONS = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}
INSTANCES = {
    "categories": [{"id": 1, "supercategory": "x"}],
    "annotations": [{"image_id": 1, "category_id": 1, "area": 2.0}],
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with one picture."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return tmp_path


def write(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_a_key_that_stands_twice_among_many_takes_no_time() -> None:
    text = "{" + "".join(f'"{number}": 1, ' for number in range(50_000)) + '"49999": 1}'
    started = time.monotonic()
    with pytest.raises(UnreadableError, match="'49999' stands twice"):
        parse_json(text)
    assert time.monotonic() - started < 5


def test_of_very_many_names_that_are_not_there_few_get_a_hint(place: Path) -> None:
    for number in range(20):
        (place / f"picture-{number:04}.png").touch()
    errors: list[str] = []
    rows = "".join(json.dumps({"image": f"picture-9{number:03}.png", "captions": ["a"]}) + "\n" for number in range(50))
    load_jsonl(write(place / "rows.jsonl", rows), task="x", on_error=lambda error: errors.append(str(error)))
    assert len(errors) == 51
    assert sum("Did you mean" in error for error in errors) == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        ('{"a": ' + DIGITS + "}", "too many digits"),
        ("[" * 100_000, "nested too deep"),
        ("[" * 300 + "]" * 300, "nested too deep"),
        ('{"a": "\\ud83d"}', "half a character"),
        ('{"a": NaN}', "NaN is no number"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16, not UTF-8"),
        ("", "not valid JSON"),
    ],
)
def test_json_is_read_whole_or_not_at_all(text: str | bytes, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        parse_json(text, finite=True)


def test_a_byte_order_mark_and_a_whole_escaped_character_are_fine() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\\ud83d\\udc26"}') == {"a": "\U0001f426"}


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + DIGITS, "x = 2024-13-45"])
def test_toml_is_read_or_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        parse_toml(text)
    with pytest.raises(ConfigError, match=r"e\.toml is not valid TOML"):
        read_experiment(write(tmp_path / "e.toml", text))


@pytest.mark.parametrize("change", ["a=" + "[" * 3000, "a=" + DIGITS])
def test_a_change_on_the_command_line_that_cannot_be_read_is_one_short_line(change: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_experiment("scenes", [change])
    assert len(str(raised.value)) < 400


def test_an_experiment_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'\xef\xbb\xbfbackbone = "lpi-tiny"\n')
    assert read_experiment(file).name == "mine"


def test_what_is_too_large_or_no_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="too large: 9 bytes, and at most 8"):
        read_text(write(tmp_path / "t", "123456789"), most=8)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no file but"):
        read_json(tmp_path / "pipe")


def coco(captions: Any = CAPTIONS, instances: Any = INSTANCES) -> Callable[[Path], object]:
    return lambda at: load_coco(write(at / "c.json", captions), write(at / "i.json", instances), at)


def jsonl(line: str) -> Callable[[Path], object]:
    return lambda at: load_jsonl(write(at / "c.jsonl", line))


def karpathy(**item: Any) -> Callable[[Path], object]:
    whole = {"filename": "a.png", "split": "train", "sentences": [{"raw": "a"}], **item}
    return lambda at: load_karpathy(write(at / "k.json", {"images": [whole]}), at)


def boxed(box: str) -> Callable[[Path], object]:
    line = '{"image": "a.png", "expression": "x", "task": "t", "box": ' + box + "}"
    return lambda at: load_expressions(write(at / "e.jsonl", line), boxes="xyxy")


REFUSED: dict[str, Callable[[Path], object]] = {
    "a number of 5,000 digits": jsonl('{"image": "a.png", "captions": ["a"], "task": "t", "x": ' + DIGITS + "}"),
    "half a character in a name": jsonl('{"image": "q\\udcff.png", "captions": ["a"], "task": "t"}'),
    "a zero byte in a name": jsonl('{"image": "a.png\\u0000", "captions": ["a"], "task": "t"}'),
    "an absolute name": jsonl('{"image": "/etc/passwd", "captions": ["a"], "task": "t"}'),
    "a drive's name": jsonl('{"image": "C:\\\\a.png", "captions": ["a"], "task": "t"}'),
    "a key twice": jsonl('{"image": "a.png", "captions": ["a"], "task": "t", "task": "u"}'),
    "COCO: no file name": coco({**CAPTIONS, "images": [{"id": 1, "file_name": None}]}),
    "COCO: id a list": coco({**CAPTIONS, "images": [{"id": [1], "file_name": "a.png"}]}),
    "COCO: id true": coco({**CAPTIONS, "images": [{"id": True, "file_name": "a.png"}]}),
    "COCO: image_id a list": coco({**CAPTIONS, "annotations": [{"id": 1, "image_id": [1], "caption": "a"}]}),
    "COCO: area a text": coco(CAPTIONS, {**INSTANCES, "annotations": [{"image_id": 1, "category_id": 1, "area": " "}]}),
    "COCO: area nothing": coco(
        CAPTIONS, {**INSTANCES, "annotations": [{"image_id": 1, "category_id": 1, "area": None}]}
    ),
    "COCO: area beyond floats": coco(
        CAPTIONS, {**INSTANCES, "annotations": [{"image_id": 1, "category_id": 1, "area": 10**400}]}
    ),
    "COCO: category_id a list": coco(
        CAPTIONS, {**INSTANCES, "annotations": [{"image_id": 1, "category_id": [], "area": 1}]}
    ),
    "COCO: category id an object": coco(CAPTIONS, {**INSTANCES, "categories": [{"id": {}, "supercategory": "x"}]}),
    "COCO: a category without a name": coco(CAPTIONS, {**INSTANCES, "categories": [{"id": 1, "supercategory": ""}]}),
    "Karpathy: sentences 5": karpathy(sentences=5),
    "Karpathy: split a list": karpathy(split=[]),
    "Karpathy: file name a number": karpathy(filename=5),
    "a box of 10**400": boxed("[0, 0, 1" + "0" * 400 + ", 5]"),
    "a box of true": boxed("[0, 0, true, 5]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_value_is_one_line_that_names_the_file(name: str, place: Path) -> None:
    with pytest.raises(DataError) as raised:
        REFUSED[name](place)
    said = str(raised.value)
    assert str(place) in said
    assert len(said) < 600
    assert said.isprintable()


def test_names_written_on_windows_are_understood(place: Path) -> None:
    (place / "sub").mkdir()
    (place / "a.png").rename(place / "sub" / "a.png")
    line = '{"image": "sub\\\\a.png", "captions": ["a"], "task": "t"}'
    (record,) = load_jsonl(write(place / "c.jsonl", line))
    assert record.picture.name == "sub/a.png"


def test_a_category_without_a_super_category_is_a_task_of_its_own(place: Path) -> None:
    categories = [{"id": 1, "name": "cup", "supercategory": ""}]
    (record,) = load_coco(
        write(place / "c.json", CAPTIONS), write(place / "i.json", {**INSTANCES, "categories": categories}), place
    )
    assert record.task == "cup"


def test_captions_of_coco_taken_for_karpathys_say_what_is_missing(place: Path) -> None:
    with pytest.raises(DataError, match=r"COCO's captions.* --instances"):
        load_karpathy(write(place / "c.json", CAPTIONS), place)


def test_a_folder_whose_name_is_not_utf8_names_no_task(place: Path) -> None:
    os.mkdir(os.fsencode(place) + b"/v\xf6gel")
    with pytest.raises(DataError, match=r"'v\\udcf6gel' isn't UTF-8. Rename it"):
        load_folder(place)


def laughs(levels: int) -> list[Any]:
    """Lists that hold each other: some bytes to write, for ever to print."""
    found: list[Any] = ["a"]
    for _ in range(levels):
        found = [found, found]
    return found


@pytest.mark.parametrize("key", ["split", "ref_id", "ann_id", "sentences"])
def test_lists_that_hold_each_other_are_not_walked_through(key: str, place: Path) -> None:
    ref = {"ref_id": 1, "split": "train", "ann_id": 1, "sentences": [], key: laughs(40)}
    (place / "refs.p").write_bytes(pickle.dumps([ref]))
    instances = write(place / "instances.json", {"images": [], "categories": [], "annotations": []})
    started = time.monotonic()
    with pytest.raises(LpiError) as raised:
        load_refs(place / "refs.p", instances, place)
    assert time.monotonic() - started < 5
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x0f.",  # a place in the memory of 268 million
        b"\x80\x05\x96" + b"\xff" * 6 + b"\0\0.",  # so many bytes
        b"\x80\x05\x8e" + b"\xff" * 6 + b"\0\0.",
        b"\x80\x02]\x8b\xff\xff\xff\x7f.",
    ],
)
def test_a_pickle_does_not_get_the_memory_that_it_asks_for(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.p").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(DataError):
        assert read_plain_pickle(tmp_path / "x.p") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_a_value_is_shown_short_and_without_being_walked_through() -> None:
    assert shown(laughs(60)) == "a list of 2"
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown(10**5000) == "a number of very many digits"
    assert len(shown("x" * 10**6)) <= 64


def test_a_table_of_rows_with_commas_is_read_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_bytes(b'\xef\xbb\xbfID,Caption\r\n1,"a scan,\nof two lines"\r\n2,short\r\n')
    assert [(line, row["Caption"]) for line, row in read_csv(file, "ID", "Caption")] == [
        (3, "a scan,\nof two lines"),
        (4, "short"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected the columns ID, Caption; found"),
        (b"ID;Caption\n", "expected the columns ID, Caption"),
        ("ID,Caption\n1,ä".encode("latin-1"), "after line 0: not UTF-8"),
        (b"ID,Caption\n1,a\n2," + b"x" * 2_000_000, "after line 2: field larger than field limit"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "c.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said) as refused:
        list(read_csv(file, "ID", "Caption"))
    assert str(file) in str(refused.value)


def test_a_packed_file_has_a_limit_to_what_it_unpacks_to(tmp_path: Path) -> None:
    file = tmp_path / "words.gz"
    file.write_bytes(gzip.compress(b"a b\n" * 100))
    assert read_gzip(file) == b"a b\n" * 100
    assert read_gzip(file, 400) == b"a b\n" * 100
    with pytest.raises(UnreadableError, match="unpacks to more than 399 bytes"):
        read_gzip(file, 399)
    whole = file.read_bytes()
    for spoilt in (whole[:-9], b"no gzip", whole[:20] + b"\xff\xff" + whole[22:]):
        file.write_bytes(spoilt)
        with pytest.raises(UnreadableError, match="no whole gzip file"):
            read_gzip(file)


def test_two_hundred_levels_are_read_and_no_more() -> None:
    value = parse_json("[" * 200 + "]" * 200)
    assert value
    assert parse_json("[" * 200 + "]" * 199 + ",[]]")
    with pytest.raises(UnreadableError, match="nested too deep"):
        parse_json("[" * 201 + "]" * 201)
    with pytest.raises(UnreadableError, match="nested too deep"):
        parse_json('{"a":' * 201 + "1" + "}" * 201)


def test_where_what_is_shown_is_cut() -> None:
    assert shown("x" * 58) == repr("x" * 58)
    assert shown("x" * 59) == "'" + "x" * 58 + " .."
    assert shown(2**128 - 1) == str(2**128 - 1)
    assert shown(2**128) == "a number of very many digits"
    assert shown([1] * 5) == "[1, 1, 1, 1, 1]"
    assert shown([1] * 6) == "a list of 6"
    assert shown([[1], 2]) == "a list of 2"
    assert shown({"a": 1}) == "a dict of 1"


def test_a_line_and_a_pickle_have_a_limit_that_they_may_just_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpi.data.rows.MOST_SETTINGS", 10)
    file = write(tmp_path / "rows.jsonl", '{"a": 12}\n{"a": 13}\n{"a": 456}\n{"a": 14}\n')
    refused: list[LpiError] = []
    assert [(number, row["a"]) for number, row in read_json_lines(file, refused.append)] == [(1, 12), (2, 13)]
    assert [str(error) for error in refused] == [
        f"{file}, line 3: not valid JSON: the line is too long. Every line must be one JSON object."
    ]
    monkeypatch.setattr("lpi.data.expressions.pickled.MOST_BYTES", 8 * len(pickle.dumps([1, 2])))
    (tmp_path / "a.p").write_bytes(pickle.dumps([1, 2]))
    assert read_plain_pickle(tmp_path / "a.p") == [1, 2]
    (tmp_path / "a.p").write_bytes(pickle.dumps([1, 2]) + b"x")
    with pytest.raises(DataError, match="too large"):
        read_plain_pickle(tmp_path / "a.p")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("id", [1, "a"], [1.5, None, True, [1]]),
        ("text", ["a", ""], [1, None, ["a"]]),
        ("number", [1, 2.5, -1], [True, float("nan"), float("inf"), 10**400, "1"]),
        ("list", [[], [1]], [(), {}, "a"]),
        ("any", [None, 1, "a"], []),
    ],
)
def test_a_key_has_a_value_of_its_kind(kind: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert wanted({"k": value, "more": 1}, "x.json", {"k": kind}) == {"k": value, "more": 1}
    for value in bad:
        with pytest.raises(DataError, match=r'x\.json: "k" must be .*; got .* Is this the right file\?'):
            wanted({"k": value}, "x.json", {"k": kind})
    with pytest.raises(DataError, match=r"x\.json lacks k, l\."):
        wanted({"more": 1}, "x.json", {"k": kind, "l": kind})
    with pytest.raises(DataError, match=r"expected an object; got \[1\]"):
        wanted([1], "x.json", {"k": kind})


def test_an_object_with_what_is_no_number_is_refused_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    file.write_text('{"area": NaN}')
    with pytest.raises(DataError, match=r"captions\.json: .*NaN is no number.*It must hold boxes"):
        read_object(file, "boxes")
