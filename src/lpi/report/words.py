"""Numbers as people read them, and the small pieces of HTML that sections are made of."""

from collections.abc import Sequence
from html import escape
from typing import Any

from lpi.evaluation.figures import Figure
from lpi.report.canvas import Plot

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
NONE = '<span class="none" title="not measured">–</span>'

Spread = tuple[float, float | None]
"""A mean, and its deviation over seeds where there are several."""


def text(value: object) -> str:
    """Any text, safe inside HTML and its attributes; control characters are left out."""
    return escape("".join(c for c in str(value) if c.isprintable() or c in "\n\t"), quote=True)


def per_cent(figure: Spread | None, *, unit: bool = True) -> str:
    """A fraction as per cent with one decimal, and its spread: ``41.2 ± 0.4 %``.

    >>> per_cent((0.4123, None), unit=False)
    '41.2'
    """
    if figure is None:
        return NONE
    mean, deviation = figure
    return number(100 * mean, 100 * deviation if deviation is not None else None, 1) + (THIN + "%" if unit else "")


def points(figure: Spread | None) -> str:
    """A difference of fractions in points, with its sign; zero has none.

    >>> points((0.0123, None))
    '+1.2'
    """
    if figure is None:
        return NONE
    mean, deviation = figure
    sign = "+" if round(100 * mean, 1) > 0 else ""
    return sign + number(100 * mean, 100 * deviation if deviation is not None else None, 1)


def cell(figure: Figure, value: Spread | None) -> str:
    """A figure in a table, in its unit."""
    if value is None:
        return NONE
    if figure.unit == "seconds":
        return duration(value[0])
    if figure.unit == "points":
        return points(value)
    return per_cent(value, unit=False) if figure.unit == "per cent" else count(value)


def number(mean: float, deviation: float | None, digits: int) -> str:
    """A number with a real minus sign, and ``± spread`` where there is one."""
    rounded = round(mean, digits) + 0.0  # adding zero turns -0.0 into 0.0
    shown = f"{rounded:.{digits}f}".replace("-", MINUS)
    return shown if deviation is None else f'{shown}<span class="spread">{THIN}±{THIN}{deviation:.{digits}f}</span>'


def count(figure: Spread | float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(5284.0)
    '5,284'
    """
    if figure is None:
        return NONE
    return f"{round(figure[0] if isinstance(figure, tuple) else figure):,}"


def duration(seconds: float | None) -> str:
    """A time in its two largest units.

    >>> duration(192)
    '3 min 12 s'
    """
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def table(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    caption: str,
    hidden_caption: bool = True,
    strong: int | None = None,
) -> str:
    """An HTML table that scrolls sideways on a narrow screen; cells are HTML already, the first of a row its header.

    Args:
        head: the column headers.
        body: the rows.
        caption: what the table shows, for everyone or only for screen readers.
        hidden_caption: only for screen readers.
        strong: index of a row that stands out.
    """
    hide = ' class="unseen"' if hidden_caption else ""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    rows = []
    for index, row in enumerate(body):
        cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
        kind = ' class="strong"' if index == strong else ""
        rows.append(f'<tr{kind}><th scope="row">{row[0]}</th>{cells}</tr>')
    name = text(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table><caption{hide}>{name}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def grid_table(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    caption: str,
    scale: float,
) -> str:
    """A heat map's numbers as a table."""
    body = [
        [text(name), *["" if value is None else number(scale * value, None, 1 if scale > 1 else 2) for value in row]]
        for name, row in zip(rows, values, strict=True)
    ]
    return table([text(corner), *[text(column) for column in columns]], body, caption=caption)


def figure(plot: Plot, *, alt: str, caption: str, numbers: str = "") -> str:
    """A drawn figure with its caption, a description for who can't see it, and its numbers to unfold."""
    unfold = f"<details><summary>The numbers</summary>{numbers}</details>" if numbers else ""
    # At most 1.7 and at least 0.85 pixels a point, so that the 9-point text is neither shouting nor unreadable.
    size = f"--most:{round(plot.inches * 122)}px;--least:{round(plot.inches * 61)}px"
    canvas = f'<div class="canvas" style="{size}" role="img" aria-label="{text(alt)}">{plot.svg}</div>'
    return f'<figure><div class="scroll-narrow">{canvas}</div><figcaption>{caption}</figcaption>{unfold}</figure>'


def section(anchor: str, title: str, body: str, lead: str = "") -> str:
    """A section of the page with its heading and one sentence on how to read it; nothing where there is no body."""
    if not body:
        return ""
    intro = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{text(title)}</h2>{intro}{body}</section>'


def flatten(record: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names with their values.

    >>> flatten({"method": {"rank": 4}, "seed": 0})
    [('method.rank', '4'), ('seed', '0')]
    """
    if isinstance(record, dict) and record:
        return [
            pair for key, value in record.items() for pair in flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(record, list):
        return [(prefix, ", ".join(map(str, record)) or "none")]
    if record is None or record == {}:
        return [(prefix, "none")]
    return [(prefix, str(record))]
