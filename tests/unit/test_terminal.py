"""Names from anywhere reach a terminal as plain text, and no letter makes printing fail."""

import io
import sys
from typing import cast

import pytest

from lpi.cli.progress import print_table
from lpi.terminal import PlainStream, plain, plain_streams


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a red boat, Köln 🐦", "a red boat, Köln 🐦"),
        ("x\x1b[2Jy", "x\\x1b[2Jy"),
        ("x\x9by\x07\r", "x\\x9by\\x07\\r"),
        ("photo\u202egpj.exe", "photo\\u202egpj.exe"),
        ("v\udcf6gel", "v\\udcf6gel"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("👩\u200d👧", "👩\u200d👧"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(name: str, shown: str) -> None:
    assert plain(name) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_printing_never_fails(encoding: str) -> None:
    behind = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    stream = PlainStream(behind)
    stream.write("🐦 \udcf6 ü\n")
    behind.flush()
    assert cast("io.BytesIO", behind.buffer).getvalue()


def test_names_in_tables_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_streams():
        print_table(["task", "x"], [["[red]boat[/nothing]", "\x1b[31m"]])
        print("\x1b]0;title\x07", file=sys.stderr)
    out, err = capsys.readouterr()
    assert "[red]boat[/nothing]" in out
    assert "\\x1b[31m" in out
    assert err == "\\x1b]0;title\\x07\n"
