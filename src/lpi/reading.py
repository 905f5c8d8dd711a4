"""The one reader of text that a person or a stranger wrote: JSON, lines of JSON and TOML, whole or not at all.

Whatever is read is UTF-8, with or without the mark that some editors put first; it has a size, a nesting and numbers
that a machine can hold, no key twice and no half of a character. What isn't so is one
:class:`UnreadableError`; whoever asked says which file it was, and what to do.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lpi.errors import DataError, MissingFileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Row = dict[str, Any]

MOST_BYTES = 2 * 1024**3  # of a file of data; COCO's largest has half a gigabyte
MOST_SETTINGS = 16 * 1024**2  # of a file of settings, and of a line of JSON
DEEPEST = 200
"""Levels of nesting; whoever writes such files by hand or by program needs five."""
SHOWN = 60

_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_HOLDERS = (list, tuple, dict, set)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "id": ((int, str), "a number or a name"),
    "text": (str, "text"),
    "number": ((int, float), "a number"),
    "list": (list, "a list"),
}


class UnreadableError(ValueError):
    """Why something can't be read, in a few words without file or advice."""


def shown(value: object, most: int = SHOWN) -> str:
    """A value of a file as a message shows it: cut, and without walking through what holds itself a million times.

    >>> shown("x" * 100, most=8)
    "'xxxxxx .."
    """
    if isinstance(value, list | tuple) and len(value) <= 5 and not any(isinstance(one, _HOLDERS) for one in value):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, _HOLDERS):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of very many digits"
    text = repr(value[: most + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= most else f"{text[: most - 1]} .."


def is_text(words: str) -> bool:
    """Whether a text can be written as UTF-8: no half of a character, which a file name in another encoding gives.

    >>> is_text("Köln"), is_text("K\\udcf6ln")
    (True, False)
    """
    return words.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in words)


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file that isn't too large.

    Raises:
        UnreadableError: it is, or it is no file of bytes.
        OSError: it isn't there, or can't be read.
    """
    size = path.stat().st_size
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise UnreadableError("no file but a folder, a pipe, a socket or a device")
    if size > most:
        raise UnreadableError(f"too large: {size:,} bytes, and at most {most:,} are read")
    return path.read_bytes()


def decoded(data: bytes) -> str:
    """Text from UTF-8, with or without a byte-order mark.

    Raises:
        UnreadableError: it is in another encoding.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data[:2] in _MARKS:
            raise UnreadableError(f"{_MARKS[data[:2]]}, not UTF-8") from error
        raise UnreadableError(f"not UTF-8 (byte {data[error.start]:#04x} at {error.start})") from error


def read_text(path: Path, most: int = MOST_SETTINGS) -> str:
    """The text of a file that a person wrote.

    Raises:
        UnreadableError: it is too large, no file, or not UTF-8.
        OSError: it isn't there, or can't be read.
    """
    return decoded(read_bytes(path, most))


def read_gzip(path: Path, most: int = MOST_SETTINGS) -> bytes:
    """What a gzip file holds, where that isn't too large, however small the file is.

    Raises:
        UnreadableError: it is, or this is no whole gzip file.
        OSError: it isn't there, or can't be read.
    """
    packed = io.BytesIO(read_bytes(path, most))
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"no whole gzip file: {error}") from error
    if len(content) > most:
        raise UnreadableError(f"too large: it unpacks to more than {most:,} bytes")
    return content


def parse_json(data: bytes | str, *, finite: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        data: the text.
        finite: also refuse NaN and infinity, which Python writes and nobody means.

    Raises:
        UnreadableError: it isn't JSON, or holds a key twice, half a character, or what is too long or too deep.
    """
    text = decoded(data) if isinstance(data, bytes) else data
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused if finite else None)
        if _too_deep(text, value):
            raise RecursionError
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnreadableError:
        raise
    except json.JSONDecodeError as error:
        raise UnreadableError(
            f"not valid JSON: line {error.lineno}, column {error.colno}: {error.msg[:200]}"
        ) from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UnreadableError(f"it holds half a character ({half}), which is no text") from error
    except RecursionError as error:
        raise UnreadableError("not valid JSON: lists or objects are nested too deep") from error
    except ValueError as error:
        raise UnreadableError("not valid JSON: a number has too many digits") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise UnreadableError(f"not valid JSON: {shown(twice)} stands twice in one object")
    return found


def _refused(name: str) -> Any:
    raise UnreadableError(f"not valid JSON: {name} is no number")


def _too_deep(text: str, value: Any) -> bool:
    """Whether a value is nested so deep that walking through it may fail later."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    level, here = 0, [value]
    while here:
        level += 1
        here = [inner for outer in here if isinstance(outer, list | dict) for inner in _inside(outer)]
        if level > DEEPEST:
            return True
    return False


def _inside(value: list[Any] | Row) -> Iterator[Any]:
    yield from (one for one in (value.values() if isinstance(value, dict) else value) if isinstance(one, list | dict))


def parse_toml(text: str) -> Row:
    """The tables of a TOML text.

    Raises:
        UnreadableError: it isn't TOML, or is too deep or long somewhere.
    """
    try:
        found: Row = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnreadableError(str(error)[:300]) from error
    except RecursionError as error:
        raise UnreadableError("lists or tables are nested too deep") from error
    except ValueError as error:  # of Python's own, for a number; a bad date is a TOMLDecodeError
        raise UnreadableError("a number has too many digits, or a date doesn't exist") from error
    return found


# ---- files of data ---------------------------------------------------------------------------------------------------


def require_file(path: Path) -> None:
    """Refuse a path that is not a file.

    Raises:
        MissingFileError: it is not there, or is a folder.
    """
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise MissingFileError(f"{path}: {problem}. Check the path.")


def require_folder(path: Path) -> None:
    """Refuse a path that is not a folder.

    Raises:
        MissingFileError: it is not there, or is a file.
    """
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "there is no such folder"
        raise MissingFileError(f"{path}: {problem}. Check the path.")


def read_object(path: Path, what: str, data: bytes | None = None) -> Row:
    """One JSON object from a file, or from ``data`` that was found in it.

    Args:
        path: the file, named in messages.
        what: what the file should hold, for messages: "COCO captions".
        data: its bytes, where they don't lie plainly in the file (a zip).

    Raises:
        MissingFileError: there is no such file.
        DataError: it is not UTF-8, not JSON, or not an object.
    """
    require_file(path)
    try:
        loaded = parse_json(read_bytes(path) if data is None else data, finite=True)
    except UnreadableError as error:
        raise DataError(f"{path}: {error}. It must hold {what} as UTF-8 JSON. Is the file complete?") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: expected an object with {what}; got a {type(loaded).__name__}.")
    return loaded


def wanted(item: object, where: str, keys: Mapping[str, str], hint: str = "Is this the right file?") -> Row:
    """An object of a file that has keys, each with a value of its kind.

    Args:
        item: what the file holds.
        where: names it.
        keys: by name the kind: ``id``, ``text``, ``number`` (finite), ``list``, or ``any``.
        hint: how a message ends.

    Raises:
        DataError: it is no object, lacks a key, or has another kind of value there.
    """
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object; got {shown(item)}. {hint}")
    if lacking := [key for key in keys if key not in item]:
        raise DataError(f"{where} lacks {', '.join(lacking)}. {hint}")
    for key, kind in keys.items():
        if kind == "any":
            continue
        types, words = _KINDS[kind]
        value = item[key]
        if not isinstance(value, types) or isinstance(value, bool) or (kind == "number" and not is_number(value)):
            raise DataError(f'{where}: "{key}" must be {words}; got {shown(value)}. {hint}')
    return item


def is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold.

    >>> is_number(10**400), is_number(float("nan")), is_number(True), is_number(3)
    (False, False, False, True)
    """
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
