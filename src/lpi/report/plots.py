"""The report's figures: each a function of numbers, drawn on the canvas that knows the page's colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lpi.report.canvas import SERIES, Palette, Plot, render, short

WIDE = 5.0  # inches: fits a telephone without scrolling, and half of a wide page
MARKERS = "osD^vPXp"
DASHES: tuple[Any, ...] = ("-", "-", "-", "-", (0, (5, 1.5)), (0, (5, 1.5)), (0, (5, 1.5)), (0, (2, 1)))


@dataclass(frozen=True)
class Line:
    """One curve: places, values, the spread around them (``None``: one seed), and whether it is a mere reference."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float | None] = ()
    reference: bool = False
    like: int | None = None  # a reference in the colour of that line instead of grey


def curves(
    name: str, lines: Sequence[Line], *, x_label: str, y_label: str, ticks: Sequence[str] = (), per_cent: bool = True
) -> Plot:
    """Lines over stages, each with marker and band, and its label at its end or in a legend.

    Args:
        name: of the figure.
        lines: the curves; references are dashed and grey.
        x_label: says what goes to the right.
        y_label: says what goes up.
        ticks: names of the places 1, 2, ...; empty for plain numbers.
        per_cent: whether the values are fractions to be shown as per cent.
    """
    return render(name, partial(draw_curves, lines, x_label, y_label, ticks, 100.0 if per_cent else 1.0), (WIDE, 3.3))


def draw_curves(
    lines: Sequence[Line], x_label: str, y_label: str, ticks: Sequence[str], scale: float, figure: Any, palette: Palette
) -> None:
    """See :func:`curves`."""
    axes = figure.add_subplot()
    index = 0
    for line in lines:
        y = [scale * value for value in line.y]
        if line.reference:
            color = palette("muted") if line.like is None else palette.series(line.like)
            style: Any = {"color": color, "linestyle": (0, (4, 3)), "linewidth": 1.4}
        else:
            style = {
                "color": palette.series(index),
                "linestyle": DASHES[index % SERIES],
                "marker": MARKERS[index % len(MARKERS)],
                "markersize": 4.5,
                "linewidth": 1.9,
            }
            index += 1
        if line.spread and all(value is not None for value in line.spread) and len(y) > 1:
            low = [value - scale * (s or 0.0) for value, s in zip(y, line.spread, strict=True)]
            high = [value + scale * (s or 0.0) for value, s in zip(y, line.spread, strict=True)]
            axes.fill_between(line.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(line.x, y, label=short(line.label, 32) or "_", **style)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    if ticks:
        axes.set_xticks(range(1, len(ticks) + 1), [short(tick, 12) for tick in ticks], rotation=40, ha="right")
        axes.set_xlim(0.7, len(ticks) + 0.3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    legend(figure)


def legend(figure: Any) -> None:
    """The names of what is drawn, above the figure, in as many columns as fit."""
    names = [name for name in figure.axes[0].get_legend_handles_labels()[1] if not name.startswith("_")]
    columns = max(1, min(len(names), 64 // (max(map(len, names), default=1) + 9)))
    figure.legend(loc="outside upper left", ncols=columns, fontsize=8.5, handlelength=2.2, columnspacing=1.4)


@dataclass(frozen=True)
class Heat:
    """A table of numbers as a heat map; ``None`` leaves a cell empty."""

    values: Sequence[Sequence[float | None]]
    rows: Sequence[str]
    columns: Sequence[str]
    x_label: str = ""
    y_label: str = ""
    low: float = 0.0
    high: float | None = None
    scale: float = 100.0
    digits: int = 0
    marked: Sequence[Sequence[bool]] = ()
    gap_before: int | None = None  # leave a little room above this row: what follows is a reference


def heat_map(name: str, heat: Heat) -> Plot:
    """A heat map with each cell's value in it, as long as there is room to write."""
    rows, columns = len(heat.values), len(heat.columns)
    cell = 0.44 if columns <= 8 else 0.36 if columns <= 14 else 0.30 if columns <= 20 else max(0.1, 6.0 / columns)
    margin = 0.075 * max([len(short(row)) for row in heat.rows], default=0) + 0.4
    foot = 0.055 * max([len(short(column)) for column in heat.columns], default=0) + 0.5
    width = max(3.2, margin + cell * columns * 1.12)
    return render(name, partial(draw_heat_map, heat), (width, max(1.6, foot + cell * (rows + 0.3))))


def draw_heat_map(heat: Heat, figure: Any, palette: Palette) -> None:
    """See :func:`heat_map`."""
    from matplotlib.patches import Rectangle

    axes = figure.add_subplot()
    rows, columns = len(heat.values), len(heat.columns)
    known = [value for row in heat.values for value in row if value is not None]
    high = heat.high if heat.high is not None else max(known, default=1.0)
    reach = high - heat.low or 1.0
    gap = 0.25 if heat.gap_before is not None else 0.0
    tops = [y + (gap if heat.gap_before is not None and y >= heat.gap_before else 0.0) for y in range(rows)]
    drawn: list[Any] = []
    for y, row in enumerate(heat.values):
        for x, value in enumerate(row):
            if value is None:
                continue
            fraction = min(max((value - heat.low) / reach, 0.0), 1.0)
            cell, frame = (x + 0.03, tops[y] + 0.03), (x + 0.06, tops[y] + 0.06)
            drawn.append(Rectangle(cell, 0.94, 0.94, facecolor=palette.heat(fraction), edgecolor="none"))
            if heat.marked and heat.marked[y][x]:
                drawn.append(Rectangle(frame, 0.88, 0.88, fill=False, edgecolor=palette("bad"), linewidth=1.6))
            if columns <= 20:
                text = f"{heat.scale * value:.{heat.digits}f}".replace("-", "\N{MINUS SIGN}")
                size = 8 if columns <= 14 else 7
                label = axes.text(
                    x + 0.5, tops[y] + 0.52, text, ha="center", va="center", size=size, color=palette.heat_ink(fraction)
                )
                label.set_in_layout(False)  # it lies inside the axes: measuring each would take most of the time
    for patch in drawn:
        axes.add_patch(patch).set_in_layout(False)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows + gap, 0)
    small = 8.5 if columns <= 20 else 6
    axes.set_xticks([x + 0.5 for x in range(columns)], [short(c) for c in heat.columns], rotation=40, ha="right")
    axes.set_yticks([top + 0.5 for top in tops], [short(row) for row in heat.rows])
    axes.tick_params(length=0, labelsize=small, labelcolor=palette("ink"), pad=2)
    axes.set_xlabel(heat.x_label)
    axes.set_ylabel(heat.y_label)
    for spine in axes.spines.values():
        spine.set_visible(False)


def bars(name: str, tasks: Sequence[str], series: Sequence[Line], *, x_label: str) -> Plot:
    """Horizontal bars per task, one a row of the comparison, whiskers for the spread; fractions, shown in points."""
    height = 0.9 + len(tasks) * max(0.26, 0.13 * len(series) + 0.08) + (0.2 if len(series) > 1 else 0)
    return render(name, partial(draw_bars, tasks, series, x_label), (WIDE, height))


def draw_bars(tasks: Sequence[str], series: Sequence[Line], x_label: str, figure: Any, palette: Palette) -> None:
    """See :func:`bars`."""
    axes = figure.add_subplot()
    thick = 0.8 / max(len(series), 1)
    for index, line in enumerate(series):
        places = [place + (index - (len(series) - 1) / 2) * thick for place in range(len(line.y))]
        values = [100 * value for value in line.y]
        signs = [palette("good") if value >= 0 else palette("bad") for value in values]
        color: Any = signs if len(series) == 1 else palette.series(index)
        errors = [100 * (value or 0.0) for value in line.spread] if any(line.spread) else None
        axes.barh(
            places,
            values,
            height=thick * 0.86,
            color=color,
            xerr=errors,
            error_kw={"ecolor": palette("muted"), "elinewidth": 1, "capsize": 2},
            label=short(line.label, 32),
        )
        if len(series) <= 2:
            for place, value, error in zip(places, values, errors or [0.0] * len(values), strict=True):
                away = 3 if value >= 0 else -3
                axes.annotate(
                    f"{value:+.1f}".replace("-", "\N{MINUS SIGN}"),
                    (value + (error if value >= 0 else -error), place),
                    xytext=(away, 0),
                    textcoords="offset points",
                    ha="left" if value >= 0 else "right",
                    va="center",
                    fontsize=7.5,
                    color=palette("ink"),
                )
    axes.axvline(0, color=palette("muted"), linewidth=1)
    axes.set_yticks(range(len(tasks)), [short(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.margins(x=0.16)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1.0), max(high, 1.0))
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=palette("ink"))
    axes.set_xlabel(x_label)
    if len(series) > 1:
        legend(figure)


def journeys(
    name: str,
    tasks: Sequence[str],
    before: Sequence[float],
    learned: Sequence[float],
    last: Sequence[float],
    *,
    x_label: str,
) -> Plot:
    """For each task three places on one line: frozen model, just learned, after the last stage; fractions."""
    return render(name, partial(draw_journeys, tasks, before, learned, last, x_label), (WIDE, 1.2 + 0.26 * len(tasks)))


def draw_journeys(
    tasks: Sequence[str],
    before: Sequence[float],
    learned: Sequence[float],
    last: Sequence[float],
    x_label: str,
    figure: Any,
    palette: Palette,
) -> None:
    """See :func:`journeys`."""
    axes = figure.add_subplot()
    places = range(len(tasks))
    for place, start, end in zip(places, before, last, strict=True):
        axes.plot([100 * start, 100 * end], [place, place], color=palette("line"), linewidth=4, solid_capstyle="round")
    for label, values, marker, fill, edge in (
        ("frozen model", before, "o", palette("surface"), palette("muted")),
        ("just learned", learned, "D", palette("surface"), palette("series-0")),
        ("after the last task", last, "o", palette("series-0"), palette("series-0")),
    ):
        axes.plot(
            [100 * value for value in values],
            places,
            linestyle="none",
            marker=marker,
            markersize=6.5 if marker == "o" else 5,
            markerfacecolor=fill,
            markeredgecolor=edge,
            markeredgewidth=1.5,
            label=label,
        )
    axes.set_yticks(places, [short(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=palette("ink"))
    axes.set_xlabel(x_label)
    legend(figure)


def semantic_map(
    name: str, tasks: Sequence[str], positions: Sequence[Sequence[float]], near: Sequence[Sequence[bool]] | None
) -> Plot:
    """The tasks as points in the plane, with a line between two that count as near."""
    return render(name, partial(draw_semantic_map, tasks, positions, near), (5.2, 4.2))


def draw_semantic_map(
    tasks: Sequence[str],
    positions: Sequence[Sequence[float]],
    near: Sequence[Sequence[bool]] | None,
    figure: Any,
    palette: Palette,
) -> None:
    """See :func:`semantic_map`."""
    axes = figure.add_subplot()
    for i, (x, y) in enumerate(positions):
        for j in range(i):
            if near and (near[i][j] or near[j][i]):
                other = positions[j]
                axes.plot([x, other[0]], [y, other[1]], color=palette("series-4"), linewidth=1.6, alpha=0.7, zorder=1)
    axes.scatter(
        [x for x, _ in positions],
        [y for _, y in positions],
        s=46,
        color=palette("series-0"),
        edgecolor=palette("surface"),
        linewidth=1,
        zorder=2,
    )
    names = [f"{order} {short(task)}" for order, task in enumerate(tasks, start=1)]
    for label, place, (across, up) in zip(names, positions, label_sides(names, positions), strict=True):
        axes.annotate(
            label,
            (place[0], place[1]),
            xytext=(7 * across, 7 * up),
            textcoords="offset points",
            ha=("right", "center", "left")[across + 1],
            va=("top", "center", "bottom")[up + 1],
            fontsize=8.5,
        )
    axes.margins(0.16)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def label_sides(labels: Sequence[str], positions: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """For each point the side (across, up; -1, 0 or 1) on which its label covers least of the others and the points."""
    spans = [max(p[axis] for p in positions) - min(p[axis] for p in positions) or 1.0 for axis in (0, 1)]
    places = [(p[0] / spans[0] * 4.2, p[1] / spans[1] * 3.4) for p in positions]  # inches, about
    taken = [(x - 0.06, y - 0.06, x + 0.06, y + 0.06) for x, y in places]
    sides = []
    for label, (x, y) in zip(labels, places, strict=True):
        wide, high = 0.075 * len(label), 0.15
        best = None
        for across, up in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
            left = x + 0.1 * across - wide * (1 - across) / 2
            low = y + 0.1 * up - high * (1 - up) / 2
            box = (left, low, left + wide, low + high)
            covered = sum(overlap(box, other) for other in taken)
            if best is None or covered < best[0] - 1e-9:
                best = (covered, (across, up), box)
        if best is not None:
            sides.append(best[1])
            taken.append(best[2])
    return sides


def overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """The area that two boxes (left, low, right, high) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def losses(
    name: str, steps: Sequence[float], parts: Sequence[tuple[str, Sequence[float]]], bounds: Sequence[tuple[str, float]]
) -> Plot:
    """The loss and its parts over the steps of the whole run, one panel each, with a line where a new task begins.

    Args:
        name: of the figure.
        steps: the running step of each record.
        parts: name and values of each panel.
        bounds: name and first step of each task.
    """
    return render(name, partial(draw_losses, steps, parts, bounds), (8.6, 1.0 + 1.25 * len(parts)))


def draw_losses(
    steps: Sequence[float],
    parts: Sequence[tuple[str, Sequence[float]]],
    bounds: Sequence[tuple[str, float]],
    figure: Any,
    palette: Palette,
) -> None:
    """See :func:`losses`."""
    panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, (part, values)) in enumerate(zip(panels, parts, strict=True)):
        for _, first in bounds[1:]:
            axes.axvline(first, color=palette("line"), linewidth=1)
        axes.plot(steps, values, color=palette.series(index), linewidth=1.2)
        axes.set_ylabel(short(part, 14), rotation=0, ha="right", va="center", labelpad=8, color=palette("ink"))
        axes.grid(axis="y", linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.margins(x=0.005, y=0.1)
        axes.locator_params(axis="y", nbins=4)
    panels[-1].set_xlabel("step")
    if 1 < len(bounds) <= 14:
        top = panels[0].secondary_xaxis("top")
        ends = [*[first for _, first in bounds[1:]], max(steps, default=0.0)]
        middles = [(first + end) / 2 for (_, first), end in zip(bounds, ends, strict=True)]
        top.set_xticks(middles, [short(task, 11) for task, _ in bounds], fontsize=7.5, rotation=25, ha="left")
        top.tick_params(length=0, labelcolor=palette("muted"))
        top.spines["top"].set_visible(False)
