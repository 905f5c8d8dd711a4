"""The pen that every object and background is drawn with, and the inks that make a style of it.

Shapes are given in an object's own coordinates: y runs from 0 (top) to 1 (where it stands), x from 0 to the
kind's width in the same unit. The pen maps them into the picture, so a drawing scales to any size, flips and tilts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Matrix = tuple[float, float, float, float, float, float]

WHITE: Colour = (246, 246, 240)
DARK: Colour = (54, 58, 68)
BLACK: Colour = (32, 32, 38)
STEEL: Colour = (178, 188, 198)
IRON: Colour = (112, 120, 132)
WOOD: Colour = (172, 116, 68)
BARK: Colour = (112, 76, 50)
GLASS: Colour = (182, 222, 238)
GOLD: Colour = (238, 190, 58)
GLOW: Colour = (255, 232, 128)
FLAME: Colour = (250, 150, 40)
BREAD: Colour = (222, 164, 96)
CREAM: Colour = (250, 236, 204)
LEAF: Colour = (72, 156, 76)
RED: Colour = (214, 52, 48)
GREEN: Colour = (52, 176, 92)
BLUE: Colour = (64, 128, 214)
PINK: Colour = (244, 158, 178)
SKINS: tuple[Colour, ...] = ((248, 208, 176), (226, 170, 126), (158, 106, 72))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` moved by ``share`` (0 to 1) of the way towards ``second``."""
    keep = 1.0 - share
    return (
        int(first[0] * keep + second[0] * share),
        int(first[1] * keep + second[1] * share),
        int(first[2] * keep + second[2] * share),
    )


@dataclass(frozen=True)
class Ink:
    """How a style turns a colour into a fill, an edge and a stroke.

    ``keep`` is the share of an object's colour that is left over the ``paper``; ``edge`` says what outlines are
    drawn with (``none``, a darker ``shade``, a ``bright`` version, or ``line``: the colour ``line`` itself);
    ``width`` is the outline's width as a share of the picture; ``twice`` draws it a second time, a little off.
    """

    paper: Colour = WHITE
    keep: float = 1.0
    edge: str = "shade"
    line: Colour = BLACK
    width: float = 0.006
    twice: bool = False

    def fill(self, colour: Colour) -> Colour:
        """What a surface of that colour is filled with."""
        return colour if self.keep == 1.0 else mix(self.paper, colour, self.keep)

    def outline(self, colour: Colour) -> Colour | None:
        """What a surface of that colour is outlined with, if at all."""
        if self.edge == "none":
            return None
        if self.edge == "line":
            return self.line
        return mix(colour, WHITE, 0.35) if self.edge == "bright" else mix(self.fill(colour), BLACK, 0.42)

    def stroke(self, colour: Colour) -> Colour:
        """What a line of that colour is drawn with."""
        if self.edge == "bright":
            return mix(colour, WHITE, 0.35)
        return mix(colour, self.line, 0.35) if self.edge == "line" else self.fill(colour)


INKS: dict[str, Ink] = {
    "plain": Ink(),
    "photo": Ink(edge="none"),
    "night": Ink(paper=(18, 24, 64), keep=0.72),
    "comic": Ink(edge="line", line=(24, 22, 30), width=0.014),
    "watercolour": Ink(paper=(252, 249, 240), keep=0.68, edge="shade", width=0.004),
    "sketch": Ink(paper=(250, 247, 238), keep=0.34, edge="line", line=(70, 70, 78), width=0.006, twice=True),
    "chalk": Ink(paper=(44, 58, 54), keep=0.3, edge="bright", width=0.011),
}


@lru_cache(maxsize=64)
def _arc(first: float, last: float, steps: int) -> tuple[Point, ...]:
    angles = [math.radians(first + (last - first) * step / steps) for step in range(steps + 1)]
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)


@lru_cache(maxsize=128)
def _corners(points: str) -> tuple[Point, ...]:
    pairs = (corner.split(",") for corner in points.split())
    return tuple((float(x), float(y)) for x, y in pairs)


_CIRCLES = {steps: _arc(0.0, 360.0, steps)[:-1] for steps in (12, 20, 36)}
_CORNERS = tuple(_arc(start, start + 90.0, 4) for start in (180.0, 270.0, 0.0, 90.0))


def placing(x: float, base: float, scale: float, wide: float, *, flip: bool = False, tilt: float = 0.0) -> Matrix:
    """The matrix that puts an object's drawing into a picture.

    Args:
        x: where its middle stands, ``base``: where its foot stands, ``scale``: how large its unit is, all three in
            the picture's unit.
        base: see ``x``.
        scale: see ``x``.
        wide: width of the kind's drawing in its own unit.
        flip: mirror it left to right.
        tilt: turn it by that many degrees about its middle.
    """
    cosine, sine = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    side = -1.0 if flip else 1.0
    a, b, d, e = side * scale * cosine, -scale * sine, side * scale * sine, scale * cosine
    middle_x, middle_y = wide / 2.0, 0.5
    return (a, b, x - a * middle_x - b * middle_y, d, e, base - 0.5 * scale - d * middle_x - e * middle_y)


class Pen:
    """Draws shapes through a matrix with an ink. What a kind's drawing function gets.

    Attributes:
        main: the object's named colour; ``dark`` and ``light`` are its shades.
        state: the object's state ("open", "lit", "" for none).
        tone: 0, 1 or 2, chooses between harmless variants (skin, hair, books).
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw | None,
        ink: Ink,
        *,
        matrix: Matrix,
        canvas: int = 1,
        main: Colour = WHITE,
        state: str = "",
        tone: int = 0,
    ) -> None:
        self._draw = draw
        self._ink = ink
        self._matrix = tuple(value * canvas for value in matrix)
        self._unit = math.hypot(self._matrix[0], self._matrix[3])  # pixels a unit of the object
        self._edge_width = max(1, round(ink.width * canvas))
        self.main = main
        self.dark = mix(main, BLACK, 0.28)
        self.light = mix(main, WHITE, 0.42)
        self.state = state
        self.tone = tone

    def poly(self, colour: Colour, *numbers: float) -> None:
        """A filled polygon: x, y, x, y, ..."""
        self._surface(self._map(list(zip(numbers[::2], numbers[1::2], strict=True))), colour)

    def path(self, colour: Colour, points: str) -> None:
        """A filled polygon with many corners: ``"x,y x,y ..."``."""
        self._surface(self._map(_corners(points)), colour)

    def box(self, colour: Colour, x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> None:
        """A filled box, its corners rounded by ``corner``."""
        if corner <= 0.0:
            self._surface(self._map([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), colour)
            return
        corner = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
        centres = (
            (x0 + corner, y0 + corner),
            (x1 - corner, y0 + corner),
            (x1 - corner, y1 - corner),
            (x0 + corner, y1 - corner),
        )
        points = [
            (cx + corner * cosine, cy + corner * sine)
            for (cx, cy), turns in zip(centres, _CORNERS, strict=True)
            for cosine, sine in turns
        ]
        self._surface(self._map(points), colour)

    def oval(self, colour: Colour, x: float, y: float, across: float, down: float | None = None) -> None:
        """A filled ellipse about (x, y) with half-axes ``across`` and ``down`` (a circle without ``down``)."""
        down = across if down is None else down
        pixels = max(across, down) * self._unit
        circle = _CIRCLES[12 if pixels < 8 else 20 if pixels < 40 else 36]
        self._surface(self._map([(x + across * cosine, y + down * sine) for cosine, sine in circle]), colour)

    def chord(self, colour: Colour, x: float, y: float, across: float, down: float, first: float, last: float) -> None:
        """The filled part of an ellipse between two angles in degrees (0 is right, 90 is down)."""
        turns = _arc(first, last, 16)
        self._surface(self._map([(x + across * cosine, y + down * sine) for cosine, sine in turns]), colour)

    def wedge(self, colour: Colour, x: float, y: float, across: float, down: float, first: float, last: float) -> None:
        """A filled slice of an ellipse, from its middle, between two angles in degrees."""
        rim = [(x + across * cosine, y + down * sine) for cosine, sine in _arc(first, last, 20)]
        self._surface(self._map([(x, y), *rim]), colour)

    def line(self, colour: Colour, width: float, *numbers: float) -> None:
        """A line through x, y, x, y, ..., ``width`` wide in the object's unit."""
        self._stroke(self._map(list(zip(numbers[::2], numbers[1::2], strict=True))), colour, width * self._unit)

    def arc(
        self,
        colour: Colour,
        width: float,
        x: float,
        y: float,
        across: float,
        down: float,
        first: float = 0.0,
        last: float = 360.0,
    ) -> None:
        """A curved line along an ellipse between two angles in degrees."""
        turns = _arc(first, last, 16)
        points = self._map([(x + across * cosine, y + down * sine) for cosine, sine in turns])
        self._stroke(points, colour, width * self._unit)

    def _map(self, points: Sequence[Point]) -> list[Point]:
        a, b, c, d, e, f = self._matrix
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def _surface(self, points: list[Point], colour: Colour) -> None:
        draw, ink = self._draw, self._ink
        if draw is None:
            return
        draw.polygon(points, fill=ink.fill(colour))
        edge = ink.outline(colour)
        if edge is None:
            return
        width = self._edge_width
        points.append(points[0])
        # Pillow leaves notches at the corners of wide lines; rounding them costs time, so only where it shows
        draw.line(points, fill=edge, width=width, joint="curve" if width > 3 and len(points) < 14 else None)
        if ink.twice:
            shift = width * 1.3
            draw.line([(x + shift, y - shift * 0.6) for x, y in points], fill=mix(edge, ink.paper, 0.45), width=1)

    def _stroke(self, points: list[Point], colour: Colour, width: float) -> None:
        draw, ink = self._draw, self._ink
        if draw is None:
            return
        pixels = max(1, round(width))
        if ink.edge == "line" and pixels > 2 * self._edge_width:  # a thick line is a surface: give it its outline
            outline = pixels + 2 * self._edge_width
            draw.line(points, fill=ink.line, width=outline, joint="curve")
            draw.line(points, fill=ink.fill(colour), width=pixels, joint="curve")
            return
        draw.line(points, fill=ink.stroke(colour), width=pixels, joint="curve" if pixels > 3 else None)


class Tracer(Pen):
    """A pen that draws nothing and remembers how far it went: gives an object's box."""

    def __init__(self, *, matrix: Matrix, state: str = "") -> None:
        super().__init__(None, INKS["plain"], matrix=matrix, state=state)
        self.left = self.top = math.inf
        self.right = self.bottom = -math.inf

    def _surface(self, points: list[Point], colour: Colour) -> None:
        self._reach(points, 0.0)

    def _stroke(self, points: list[Point], colour: Colour, width: float) -> None:
        self._reach(points, width / 2.0)

    def _reach(self, points: list[Point], margin: float) -> None:
        for x, y in points:
            self.left, self.right = min(self.left, x - margin), max(self.right, x + margin)
            self.top, self.bottom = min(self.top, y - margin), max(self.bottom, y + margin)
