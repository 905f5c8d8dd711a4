"""The forms in which captions lie beside pictures, each as rows: JSON lines, JSON arrays, CSV, text files, XMP, IPTC.

A row is an object such as ``{"image": "boat.jpg", "captions": ["a red boat"], "split": "train"}``, whatever it was
written in; :mod:`lpi.data.folder` checks it.
"""

import csv
import html
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from PIL import IptcImagePlugin
from PIL.ImageFile import ImageFile

from lpi.data.pictures import SUFFIXES, opened
from lpi.data.rows import CELL, OnError, raise_error, read_json_lines, table
from lpi.errors import DataError, LpiError, MissingFileError
from lpi.reading import MOST_BYTES, Row, UnreadableError, parse_json, read_text, require_file, shown

CAPTION_FILES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv", "captions.json")
_NAMES = ("image", "file_name")
_IPTC_CAPTION = (2, 120)


def read_rows(path: Path, on_error: OnError = raise_error) -> Iterator[tuple[str, Row]]:
    """The rows of a captions file, or of a folder whose pictures have a text file each or carry their captions.

    Args:
        path: the file, by whose ending its form is known; or the folder.
        on_error: takes the error of each row that can't be read.

    Returns:
        Where each row stands, for messages, and the row.

    Raises:
        MissingFileError: there is no such file.
        DataError: it can't be read; the message names file and line.
    """
    if path.is_dir():
        yield from _beside(path, on_error) if _texts(path) else _inside(path, on_error)
    elif path.suffix.lower() == ".csv":
        yield from _table(path, on_error)
    elif path.suffix.lower() == ".json":
        yield from _array(path, on_error)
    else:
        yield from ((f"{path}, line {number}", row) for number, row in read_json_lines(path, on_error))


def bears_captions(folder: Path) -> bool:
    """Whether the pictures of a folder have text files beside them, or captions inside."""
    return bool(_texts(folder)) or any(_carried(picture) for picture in _pictures(folder))


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder and of its ``images``, in name order."""
    found = chain(folder.glob("*"), (folder / "images").glob("*"))
    return sorted(
        path for path in found if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _texts(folder: Path) -> list[Path]:
    return [text for picture in _pictures(folder) if (text := picture.with_suffix(".txt")).is_file()]


def _text_of(path: Path, most: int) -> str:
    require_file(path)
    try:
        return read_text(path, most)
    except UnreadableError as error:
        raise DataError(f"{path}: {error}. Save it as UTF-8.") from error


def _beside(folder: Path, on_error: OnError) -> Iterator[tuple[str, Row]]:
    """A text file a picture, a caption a line."""
    for picture in _pictures(folder):
        try:
            text = _text_of(picture.with_suffix(".txt"), CELL)
        except MissingFileError:
            on_error(DataError(f"{picture}: other pictures have a text file with captions, and this one has none."))
            continue
        except LpiError as error:
            on_error(error)
            continue
        captions = [line.strip() for line in text.splitlines() if line.strip()]
        name = picture.relative_to(folder).as_posix()
        yield str(picture.with_suffix(".txt")), {"image": name, "captions": captions}


def _inside(folder: Path, on_error: OnError) -> Iterator[tuple[str, Row]]:
    """What XMP's description, or IPTC's caption, says in the pictures themselves."""
    for picture in _pictures(folder):
        captions = _carried(picture)
        if captions:
            yield str(picture), {"image": picture.relative_to(folder).as_posix(), "captions": captions}
        else:
            on_error(DataError(f"{picture}: other pictures carry a caption (XMP, IPTC), and this one doesn't."))


def _carried(picture: Path) -> list[str]:
    """The captions that a picture carries; none where it can't be opened, which is said when it is learned from."""
    try:
        with opened(picture, str(picture)) as image:
            notes = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
            iptc = (IptcImagePlugin.getiptcinfo(image) or {}) if isinstance(image, ImageFile) else {}
    except (LpiError, SyntaxError, ValueError, KeyError, AttributeError):  # damaged notes are no captions
        return []
    entries = (
        _described(notes if isinstance(notes, bytes) else notes.encode()) if isinstance(notes, bytes | str) else []
    )
    written = iptc.get(_IPTC_CAPTION)
    entries += [one.decode("utf-8", "replace") for one in (written if isinstance(written, list) else [written]) if one]
    plain = (" ".join(html.unescape(entry).split()) for entry in entries)
    return list(dict.fromkeys(entry for entry in plain if entry))


def _described(notes: bytes) -> list[str]:
    """The entries of XMP's description, in a time that grows with the notes alone: anybody may have written them."""
    inside, ended, _ = notes.partition(b"<dc:description>")[2].partition(b"</dc:description>")
    parts = inside.decode("utf-8", "replace").split("<rdf:li")[1:] if ended else []
    return [part.partition(">")[2].partition("</rdf:li>")[0] for part in parts if "</rdf:li>" in part]


def _array(path: Path, on_error: OnError) -> Iterator[tuple[str, Row]]:
    """The objects of one JSON array."""
    try:
        found = parse_json(_text_of(path, MOST_BYTES), finite=True)
    except UnreadableError as error:
        raise DataError(f"{path}: {error}. It must be an array of objects.") from error
    if not isinstance(found, list):
        raise DataError(f'{path}: expected an array of objects such as {{"image": ..}}; got a {type(found).__name__}.')
    for number, row in enumerate(found, start=1):
        where = f"{path}, entry {number}"
        if isinstance(row, dict):
            yield where, row
        else:
            on_error(DataError(f'{where}: expected an object such as {{"image": ..}}; got a {type(row).__name__}.'))


def _table(path: Path, on_error: OnError) -> Iterator[tuple[str, Row]]:
    """The rows of a CSV file with a head; those of one picture are its captions, together where the first stands."""
    text = _text_of(path, MOST_BYTES)
    head = text.partition("\n")[0]
    reader = table(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    rows: dict[str, tuple[str, Row]] = {}
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if None in cells:
                on_error(DataError(f"{where}: more cells than the head has columns. Quote what holds a separator."))
                continue
            row: Row = {name: cell.strip() for name, cell in cells.items() if cell is not None and cell.strip()}
            text_of = next((name for name in ("captions", "caption", "text") if name in row), None)
            if text_of is not None:
                row["captions"] = [row.pop(text_of)]
            key = next((row[name] for name in _NAMES if name in row), "")
            if key in rows and text_of is not None and "captions" in rows[key][1]:
                first = rows[key][1]
                other = next((name for name in ("task", "split") if name in row and row[name] != first.get(name)), None)
                if other is None:
                    first["captions"] += row["captions"]
                else:
                    said = f"{other!r} isn't what an earlier row says of {shown(key)}"
                    on_error(DataError(f"{where}: {said}. Make them agree."))
            else:
                rows[key or where] = where, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num}: {error}. Save it as CSV, with UTF-8.") from error
    yield from rows.values()
