"""How things show themselves at a prompt and in a notebook: one line, or a small table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

NAMED = 6  # names that are shown before the rest is only counted


def counted(names: Sequence[str], what: str) -> str:
    """How many there are, and what they are called.

    >>> counted(["birds", "ships"], "task")
    '2 tasks (birds, ships)'
    >>> counted([], "task")
    'no task'
    """
    if not names:
        return f"no {what}"
    more = ", .." if len(names) > NAMED else ""
    return f"{len(names)} {what}{'s' * (len(names) > 1)} ({', '.join(names[:NAMED])}{more})"


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for a notebook; whatever is in it is text.

    >>> html_table("1 task", ["name"], [["<birds>"]])
    '<table><caption>1 task</caption><tr><th>name</th></tr><tr><td>&lt;birds&gt;</td></tr></table>'
    """

    def line(cell: str, values: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{cell}>{html.escape(str(value))}</{cell}>" for value in values) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><caption>{html.escape(title)}</caption>{line('th', head)}{body}</table>"
