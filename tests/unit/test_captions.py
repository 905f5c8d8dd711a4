"""Captions in every form that people keep them in: the same pictures and captions, and errors with their place."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Type
from PIL import Image, TiffImagePlugin

from lpi.data.check import check_stream_source
from lpi.data.folder import load_folder, load_jsonl, load_task
from lpi.data.source import load_source
from lpi.errors import DataError, MissingFileError

CAPTIONS = {"boat.png": ("a red boat", "a small boat; at sea"), "gull.png": ("a gull, \u00fcber dem Meer",)}
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>{}</rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(CAPTIONS):
        Image.new("RGB", (8, 8), (40 * number, 90, 10)).save(tmp_path / name)
    return tmp_path


def lines(folder: Path) -> None:
    rows = [json.dumps({"image": name, "captions": list(words)}) for name, words in CAPTIONS.items()]
    (folder / "captions.jsonl").write_text("\n".join(rows), encoding="utf-8")


def array(folder: Path) -> None:
    rows = [{"file_name": name, "captions": list(words)} for name, words in CAPTIONS.items()]
    (folder / "captions.json").write_text(json.dumps(rows), encoding="utf-8")


def table(folder: Path) -> None:
    rows = [f'{name},"{text}"' for name, words in CAPTIONS.items() for text in words]
    (folder / "captions.csv").write_text("\ufeffimage,caption\r\n" + "\r\n".join(rows) + "\r\n", encoding="utf-8")


def semicolons(folder: Path) -> None:
    rows = [f'"{text}";{name}' for name, words in CAPTIONS.items() for text in words]
    (folder / "metadata.csv").write_text("text;file_name\n" + "\n".join(rows), encoding="utf-8")


def texts(folder: Path) -> None:
    for name, words in CAPTIONS.items():
        (folder / name).with_suffix(".txt").write_text("\n".join(words) + "\n\n", encoding="utf-8")


def carried(folder: Path) -> None:
    for name, words in CAPTIONS.items():
        entries = "".join(f'<rdf:li xml:lang="x-default">{text}</rdf:li>' for text in words)
        notes = XMP.format(entries).encode()
        Image.open(folder / name).save((folder / name).with_suffix(".jpg"), xmp=notes)
        (folder / name).unlink()


@pytest.mark.parametrize("write", [lines, array, table, semicolons, texts, carried])
def test_every_form_gives_the_same_captions(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder)
    records = load_task(folder, "sea")
    assert {Path(one.picture.name).stem: one.captions for one in records} == {
        Path(name).stem: words for name, words in CAPTIONS.items()
    }
    assert {one.split for one in records} == {"train", "test"}
    assert all(one.picture.open().size == (8, 8) for one in records)


@pytest.mark.parametrize("write", [lines, array, table, semicolons, texts, carried])
def test_the_check_takes_one_folder_in_every_form_and_counts_it(
    folder: Path, write: Callable[[Path], None], type_command: Type
) -> None:
    write(folder)
    ended = type_command("data", "check", folder, "--json")
    assert ended.code == 0, ended.out
    told = json.loads(ended.out)
    (row,) = told["tasks"]
    assert (row["task"], row["captions"], told["pictures"], told["errors"]) == (folder.name, 3, 2, [])
    assert {split: row[split] for split in ("train", "val", "test")} == {"train": 1, "val": 0, "test": 1}
    assert [(one.task, one.split) for one in load_source(folder)] == [
        (folder.name, one.split) for one in load_task(folder, "sea")
    ], "the same are drawn as lpi teach draws"


def test_rows_that_name_tasks_are_of_these_and_none_is_guessed(folder: Path) -> None:
    rows = [{"image": "boat.png", "captions": ["a"]}, {"image": "gull.png", "captions": ["b"], "task": "air"}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r'line 1: no column "task"'):
        load_source(folder)
    (folder / "captions.csv").write_text("image,caption\n")
    with pytest.raises(DataError, match=r"holds both captions\.jsonl and captions\.csv"):
        load_source(folder)


def test_iptc_captions_are_read(folder: Path) -> None:
    text = b"a red boat"
    record = b"\x1c\x02\x78" + len(text).to_bytes(2, "big") + text
    block = b"8BIM\x04\x04\x00\x00" + len(record).to_bytes(4, "big") + record + b"\0" * (len(record) % 2)
    for name in CAPTIONS:
        plain = (folder / name).with_suffix(".jpg")
        Image.open(folder / name).save(plain)
        (folder / name).unlink()
        content, notes = plain.read_bytes(), b"Photoshop 3.0\0" + block
        plain.write_bytes(content[:2] + b"\xff\xed" + (len(notes) + 2).to_bytes(2, "big") + notes + content[2:])
    assert [one.captions for one in load_task(folder, "sea")] == [("a red boat",)] * 2
    assert check_stream_source(folder).rows[0]["captions"] == 2


def test_columns_of_a_table_are_fields_and_name_splits_and_tasks(folder: Path) -> None:
    (folder / "rows.csv").write_text("image,caption,split,task\nboat.png,a,train,sea\ngull.png,b,test,air\n")
    records = load_source(folder / "rows.csv")
    assert [(one.task, one.split, one.captions) for one in records] == [
        ("sea", "train", ("a",)),
        ("air", "test", ("b",)),
    ]


def test_a_folder_of_tasks_may_hold_any_form(folder: Path) -> None:
    texts(folder)
    (folder / "tasks").mkdir()
    for name in ("sea", "air"):
        place = folder / "tasks" / name
        place.mkdir()
        for file in folder.glob("*.*"):
            (place / file.name).write_bytes(file.read_bytes())
    assert [one.picture.name for one in load_folder(folder / "tasks")] == [
        *("air/boat.png", "air/gull.png", "sea/boat.png", "sea/gull.png")
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.csv", "image,caption\nboat.png,a,b\n", r"captions\.csv, line 2: more cells than the head"),
        ("captions.csv", 'image,caption\nboat.png,"a\n', r"captions\.csv, line 2: unexpected end of data"),
        ("captions.csv", "image,words\nboat.png,a\n", r'line 2: no caption column .* found "image", "words"'),
        ("captions.csv", "image,caption\nboat.png,\n", r"line 2: no caption column"),
        ("captions.csv", "image,caption\nbaot.png,a\n", r"line 2: there is no picture 'baot\.png'.*'boat\.png'"),
        ("captions.csv", "image,caption,split\nboat.png,a,train\nboat.png,b,test\n",
            r"line 3: 'split' isn't what an earlier row says of 'boat\.png'"),
        ("captions.json", '{"image": 1}', r"captions\.json: expected an array of objects .* got a dict"),
        ("captions.json", "[1]", r"captions\.json, entry 1: expected an object"),
        ("captions.json", "[", r"captions\.json: not valid JSON"),
        ("captions.json", '[{"image": "boat.png", "captions": ["a"]}, {"image": "boat.png", "captions": ["b"]}]',
            r"entry 2: 'boat\.png' is already on entry 1"),
        ("boat.txt", "a\n", r"gull\.png: other pictures have a text file with captions, and this one has none"),
        ("boat.txt", "", r'boat\.txt: "captions" is an empty list'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_task(folder, "sea")


@pytest.mark.parametrize("note", ["<rdf:li", "<dc:description>", "<rdf:li></rdf:li>"])
def test_notes_that_lead_nowhere_take_no_time(folder: Path, note: str) -> None:
    notes = f"<dc:description>{note * 30_000}</dc:description>".encode()
    Image.new("RGB", (8, 8)).save(folder / "long.webp", xmp=notes)
    started = time.monotonic()
    with pytest.raises(MissingFileError, match="there is no captions"):
        load_task(folder, "sea")
    assert time.monotonic() - started < 5


def test_notes_of_another_kind_are_no_captions(folder: Path) -> None:
    carried(folder)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[700], tags[700] = 3, 60  # a number where XMP should be
    Image.new("RGB", (8, 8)).save(folder / "odd.tif", tiffinfo=tags)
    with pytest.raises(DataError, match=r"odd\.tif: other pictures carry a caption"):
        load_task(folder, "sea")


def test_a_cell_may_hold_what_elsewhere_ends_a_line(folder: Path) -> None:
    (folder / "captions.csv").write_text(
        "caption,image\na red\u2028boat,boat.png\na\x0cgull,gull.png\n", encoding="utf-8"
    )
    assert [one.captions for one in load_task(folder, "sea")] == [("a red\u2028boat",), ("a\x0cgull",)]


def test_a_picture_that_carries_none_beside_others_that_do_is_named(folder: Path) -> None:
    carried(folder)
    Image.new("RGB", (8, 8)).save(folder / "bare.jpg")
    with pytest.raises(DataError, match=r"bare\.jpg: other pictures carry a caption"):
        load_task(folder, "sea")


def test_pictures_alone_have_no_captions(folder: Path) -> None:
    with pytest.raises(MissingFileError, match=r"there is no captions\.jsonl or metadata\.jsonl"):
        load_task(folder, "sea")
    (folder / "mine.csv").write_text("image,caption\n")
    with pytest.raises(MissingFileError, match=r"Call mine\.csv captions\.csv"):
        load_task(folder, "sea")
    errors: list[str] = []
    array(folder)
    load_jsonl(folder / "captions.json", task="sea", on_error=lambda error: errors.append(str(error)))
    assert errors == []
