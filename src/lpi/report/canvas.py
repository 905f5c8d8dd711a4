"""What every figure is drawn on: colours by name, and matplotlib once for the page (SVG), once to carry away (PNG).

In the SVG the palette's colours are stand-ins which become CSS
variables afterwards, so that one drawing serves the light and the dark page; in the PNG they are the light page's
colours. Nothing global is touched: no pyplot, no back end, no style. The same numbers give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lpi.extras import missing_extra

# name -> the colour on the light page; the dark page's are in template/style.css under the same names.
LIGHT = {
    "ink": "#1b1f24",
    "muted": "#5b6470",
    "line": "#dfe2e6",
    "surface": "#ffffff",
    "heat-0": "#edf3f9",
    "heat-1": "#0a3f73",
    "heat-ink-0": "#000000",
    "heat-ink-mid": "#000000",
    "heat-ink-1": "#ffffff",
    "good": "#0b7a55",
    "bad": "#b8430f",
    # Okabe and Ito's colours, which colour-blind people tell apart, darkened where a line on white needs it.
    "series-0": "#0069b4",
    "series-1": "#c9510c",
    "series-2": "#00855f",
    "series-3": "#b0568e",
    "series-4": "#a67c00",
    "series-5": "#3f8fc4",
    "series-6": "#6a4fb3",
    "series-7": "#6d6f73",
}
NAMES = list(LIGHT)
SERIES = 8


class Palette:
    """Colours by name: stand-ins for CSS variables in an SVG, the light page's colours in a PNG."""

    def __init__(self, *, variables: bool) -> None:
        self.variables = variables

    def __call__(self, name: str) -> str:
        """The colour of that name."""
        return f"#fe01{NAMES.index(name):02x}" if self.variables else LIGHT[name]

    def series(self, index: int) -> str:
        """The colour of the n-th row; they come round again."""
        return self(f"series-{index % SERIES}")

    def heat(self, fraction: float) -> str:
        """A colour between the two ends of the heat scale, fraction from 0 to 1, in 100 steps."""
        step = round(100 * min(max(fraction, 0.0), 1.0))
        if self.variables:
            return f"#fe02{step:02x}"
        ends = [[int(LIGHT[name][i : i + 2], 16) for i in (1, 3, 5)] for name in ("heat-0", "heat-1")]
        return "#" + "".join(f"{round(a + (b - a) * step / 100):02x}" for a, b in zip(*ends, strict=True))

    def heat_ink(self, fraction: float) -> str:
        """The colour of text that stands on :meth:`heat`, with a contrast of at least 4.5 on the light and dark page.

        Black gives way to white at another step on the light page than white to black on the dark one; between the
        two lies ``mid``.
        """
        step = round(100 * fraction)
        return self("heat-ink-0" if step <= 48 else "heat-ink-mid" if step <= 67 else "heat-ink-1")


@dataclass(frozen=True)
class Plot:
    """A drawn figure: SVG source for inside the page, the bytes of a PNG file, and of other kinds of files."""

    name: str
    svg: str
    png: bytes
    inches: float  # width; text is 9 points of 72 an inch
    file: Callable[[str], bytes] = str.encode  # of a kind that matplotlib knows, in the light page's colours


Draw = Callable[[Any, Palette], None]


def render(name: str, draw: Draw, size: tuple[float, float]) -> Plot:
    """Draw a figure of that size (inches) as SVG and as PNG.

    Args:
        name: the PNG's file name without its ending, and what makes the SVG's ids unique in the page.
        draw: puts the content into a matplotlib figure with the palette's colours.
        size: width and height, inches; text is 9 points.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    svg = drawn(name, draw, size, "svg", variables=True).decode("utf-8")
    file = partial(drawn, name, draw, size)
    return Plot(name, for_page(svg, name), file("png"), size[0], file)


def drawn(name: str, draw: Draw, size: tuple[float, float], kind: str, *, variables: bool = False) -> bytes:
    """The bytes of a figure as a file of one kind (``svg``, ``png``, ``pdf``); for the others see :func:`render`."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("the report's figures need matplotlib, which is not installed", "report") from error
    palette = Palette(variables=variables)
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
        "pdf.fonttype": 42,
        "svg.hashsalt": name,
        "text.parse_math": False,  # a task may be called "$5"
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.edgecolor": palette("line"),
        "axes.labelcolor": palette("muted"),
        "axes.titlecolor": palette("ink"),
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.unicode_minus": True,
        "xtick.color": palette("line"),
        "ytick.color": palette("line"),
        "xtick.labelcolor": palette("muted"),
        "ytick.labelcolor": palette("muted"),
        "text.color": palette("ink"),
        "legend.frameon": False,
        "legend.labelcolor": palette("ink"),
        "grid.color": palette("line"),
    }
    nameless = {"svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer"), "png": ("Software",)}
    with mpl.rc_context():  # gives back, at its end, whatever the user had set
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        figure.set_facecolor("none" if variables else palette("surface"))
        draw(figure, palette)
        for axes in figure.axes:
            axes.set_facecolor("none")
        out = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs outside DejaVu: the browser has its own fonts for them
            figure.savefig(out, format=kind, dpi=200 if kind == "png" else 100, metadata=dict.fromkeys(nameless[kind]))
    return out.getvalue()


def for_page(svg: str, name: str) -> str:
    """An SVG that can stand inside a page: ids of its own, CSS colours, no fixed size, hidden from screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg ([^>]*?)\bwidth="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)\bheight="[^"]*"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    svg = re.sub(r"#fe01([0-9a-f]{2})", lambda found: f"var(--{NAMES[int(found[1], 16)]})", svg)
    return re.sub(
        r"#fe02([0-9a-f]{2})",
        lambda found: f"color-mix(in srgb, var(--heat-1) {int(found[1], 16)}%, var(--heat-0))",
        svg,
    )


def short(name: str, length: int = 16) -> str:
    """A name that fits beside an axis; control characters would break the SVG."""
    name = "".join(c for c in name if c.isprintable())
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
