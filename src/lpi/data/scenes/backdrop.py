"""The backgrounds: eleven places, each with depth and a few props, in any light."""

import math
from collections.abc import Callable
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image

from lpi.data.scenes.drawing import BARK, CREAM, DARK, GLOW, GOLD, LEAF, STEEL, WHITE, WOOD, Colour, Ink, Pen, mix

HORIZON = 0.62

# sky above, sky at the horizon, ground at the horizon, ground in front
Light = tuple[Colour, Colour, Colour, Colour]
_GROUNDS: dict[str, tuple[Colour, Colour]] = {
    "kitchen": ((214, 196, 172), (190, 164, 134)),
    "room": ((186, 140, 102), (158, 112, 78)),
    "street": ((150, 152, 158), (116, 118, 126)),
    "park": ((150, 204, 108), (110, 172, 84)),
    "beach": ((244, 224, 168), (232, 204, 140)),
    "forest": ((112, 152, 84), (84, 124, 66)),
    "snow": ((240, 246, 252), (218, 230, 244)),
    "mountains": ((148, 186, 120), (116, 160, 98)),
    "farm": ((216, 200, 104), (178, 170, 82)),
    "desert": ((240, 202, 132), (220, 170, 100)),
    "city": ((132, 136, 150), (104, 106, 122)),
}
_WALLS: dict[str, tuple[Colour, Colour]] = {
    "kitchen": ((226, 238, 236), (210, 226, 224)),
    "room": ((246, 226, 204), (236, 210, 184)),
}
_SKIES: dict[str, tuple[Colour, Colour]] = {
    "clear": ((112, 182, 240), (214, 236, 250)),
    "sunset": ((126, 92, 160), (255, 178, 112)),
    "rain": ((122, 136, 152), (184, 194, 204)),
    "snowfall": ((164, 178, 198), (214, 222, 232)),
    "night": ((16, 22, 56), (48, 62, 112)),
}


def light_of(place: str, weather: str, style: str) -> Light:
    """The four colours that a background fades between."""
    above = _WALLS[place] if place in _WALLS else _SKIES["night" if style == "night" else weather]
    return (*above, *_GROUNDS[place])


@lru_cache(maxsize=96)
def _fade(light: Light, side: int) -> Image.Image:
    shades = np.asarray(light, dtype=np.float32)
    rows = (np.arange(side, dtype=np.float32) + 0.5)[:, None] / side
    above, below = rows / HORIZON, (rows - HORIZON) / (1.0 - HORIZON)
    column = np.where(
        rows < HORIZON, shades[0] + (shades[1] - shades[0]) * above, shades[2] + (shades[3] - shades[2]) * below
    )
    pixels = np.repeat(column[:, None, :], side, axis=1)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def background(place: str, weather: str, style: str, ink: Ink, side: int) -> Image.Image:
    """Sky (or wall) and ground without props, [side, side]."""
    light = light_of(place, weather, style)
    if ink.keep < 1.0:
        share = ink.keep * (0.75 if style == "watercolour" else 0.3)
        sky_above, sky_below, far, near = (mix(ink.paper, shade, share) for shade in light)
        light = (sky_above, sky_below, far, near)
    return _fade(light, side).copy()


def draw_props(place: str, weather: str, style: str, pen: Pen, rng: Random) -> None:
    """The props of a place; the pen's unit is the picture."""
    if place not in _WALLS:
        _draw_sky(weather, style, pen, rng)
    _PROPS[place](pen, rng)


def _draw_sky(weather: str, style: str, p: Pen, rng: Random) -> None:
    x = rng.uniform(0.1, 0.9)
    if style == "night":
        p.oval((244, 240, 214), x, 0.13, 0.06)
        p.oval(_SKIES["night"][0], x + 0.025, 0.118, 0.05)
        for _ in range(14):
            p.oval(WHITE, rng.random(), rng.uniform(0.02, 0.45), rng.choice((0.004, 0.007)))
        return
    if weather == "clear":
        p.oval((255, 226, 110), x, 0.12, 0.065)
    elif weather == "sunset":
        p.oval((255, 132, 74), x, HORIZON - 0.06, 0.1)
    cloud = WHITE if weather == "clear" else (226, 196, 200) if weather == "sunset" else (150, 160, 174)
    for _ in range(2 if weather in ("clear", "sunset") else 4):
        cx, cy, size = rng.uniform(0.05, 0.95), rng.uniform(0.06, 0.26), rng.uniform(0.035, 0.055)
        p.oval(cloud, cx - size, cy, size * 1.1, size * 0.7)
        p.oval(cloud, cx + size, cy, size * 1.2, size * 0.7)
        p.oval(cloud, cx, cy - size * 0.4, size * 1.1, size * 0.85)


def _kitchen(p: Pen, rng: Random) -> None:
    shift = rng.uniform(-0.12, 0.12)
    for row in range(2):
        for column in range(9):
            if (row + column) % 2:
                p.box((232, 244, 242), column * 0.125, 0.34 + row * 0.08, column * 0.125 + 0.125, 0.42 + row * 0.08)
    for column in range(3):
        x = 0.02 + column * 0.17 + (0.48 + shift if shift > 0 else 0.0)
        p.box((238, 228, 206), x, 0.02, x + 0.15, 0.26, 0.01)
        p.oval(GOLD, x + 0.13, 0.22, 0.01)
    p.box((206, 222, 236), 0.06, 0.5, 0.94, HORIZON)
    p.box((150, 124, 100), 0.04, 0.49, 0.96, 0.525)
    for column in range(4):
        p.line((170, 190, 206), 0.006, 0.28 + column * 0.22, 0.53, 0.28 + column * 0.22, HORIZON)
    for column in range(7):
        p.line((178, 152, 122), 0.005, 0.5 + (column - 3) * 0.16, HORIZON, 0.5 + (column - 3) * 0.34, 1.0)
    p.line((178, 152, 122), 0.005, 0.0, 0.76, 1.0, 0.76)


def _room(p: Pen, rng: Random) -> None:
    for column in range(10):
        p.box((240, 216, 190), column * 0.11, 0.0, column * 0.11 + 0.05, HORIZON)
    x = rng.choice((0.08, 0.6))
    p.box(WHITE, x, 0.08, x + 0.32, 0.42)
    p.box((150, 206, 244), x + 0.025, 0.105, x + 0.15, 0.395)
    p.box((150, 206, 244), x + 0.17, 0.105, x + 0.295, 0.395)
    p.poly((196, 96, 92), x - 0.05, 0.04, x + 0.07, 0.04, x + 0.01, 0.46, x - 0.05, 0.46)
    p.poly((196, 96, 92), x + 0.25, 0.04, x + 0.37, 0.04, x + 0.37, 0.46, x + 0.31, 0.46)
    frame = 0.62 if x < 0.5 else 0.14
    p.box(GOLD, frame, 0.12, frame + 0.2, 0.34)
    p.box((122, 172, 150), frame + 0.02, 0.14, frame + 0.18, 0.32)
    p.poly((90, 124, 160), frame + 0.02, 0.32, frame + 0.09, 0.2, frame + 0.18, 0.32)
    p.box((250, 244, 232), 0.0, HORIZON - 0.035, 1.0, HORIZON)
    p.oval((132, 150, 176), rng.uniform(0.35, 0.65), 0.88, 0.44, 0.09)


def _street(p: Pen, rng: Random) -> None:
    x = -0.04
    walls = [(206, 120, 100), (230, 196, 140), (150, 176, 190), (214, 164, 160), (176, 190, 150)]
    rng.shuffle(walls)
    for wall in walls:
        wide, top = rng.uniform(0.19, 0.25), rng.uniform(0.2, 0.32)
        p.box(wall, x, top, x + wide, HORIZON - 0.02)
        p.poly(mix(wall, DARK, 0.45), x - 0.01, top, x + wide / 2, top - 0.1, x + wide + 0.01, top)
        for column in (0.22, 0.62):
            p.box((236, 244, 248), x + wide * column, top + 0.05, x + wide * (column + 0.2), top + 0.12)
        p.box(mix(wall, DARK, 0.5), x + wide * 0.4, HORIZON - 0.14, x + wide * 0.62, HORIZON - 0.02)
        x += wide
    p.box((196, 198, 202), 0.0, HORIZON - 0.02, 1.0, HORIZON + 0.05)
    for column in range(4):
        left = column * 0.28
        p.poly(WHITE, left + 0.02, 0.795, left + 0.16, 0.795, left + 0.15, 0.82, left, 0.82)


def _tree(p: Pen, x: float, foot: float, size: float, leaf: Colour) -> None:
    p.box(BARK, x - 0.05 * size, foot - 0.45 * size, x + 0.05 * size, foot)
    p.oval(leaf, x - 0.17 * size, foot - 0.5 * size, 0.2 * size)
    p.oval(leaf, x + 0.17 * size, foot - 0.5 * size, 0.2 * size)
    p.oval(mix(leaf, WHITE, 0.12), x, foot - 0.72 * size, 0.25 * size)


def _pine(p: Pen, x: float, foot: float, size: float, leaf: Colour) -> None:
    p.box(BARK, x - 0.04 * size, foot - 0.2 * size, x + 0.04 * size, foot)
    for step in range(3):
        low, half = foot - (0.12 + 0.24 * step) * size, (0.26 - 0.06 * step) * size
        p.poly(mix(leaf, WHITE, 0.08 * step), x - half, low, x + half, low, x, low - 0.38 * size)


def _park(p: Pen, rng: Random) -> None:
    p.oval((130, 190, 110), 0.2, HORIZON + 0.04, 0.5, 0.12)
    p.oval((142, 198, 116), 0.85, HORIZON + 0.05, 0.45, 0.1)
    p.box((150, 204, 108), 0.0, HORIZON + 0.02, 1.0, HORIZON + 0.08)
    for x in (rng.uniform(0.04, 0.2), rng.uniform(0.42, 0.6), rng.uniform(0.8, 0.96)):
        _tree(p, x, HORIZON + 0.03, rng.uniform(0.36, 0.52), (72, 150, 84))
    p.poly((224, 206, 160), 0.4, HORIZON + 0.07, 0.5, HORIZON + 0.07, 0.86, 1.0, 0.3, 1.0)
    for _ in range(8):
        p.oval(rng.choice((WHITE, (250, 210, 80), (244, 130, 150))), rng.random(), rng.uniform(0.7, 0.98), 0.01)


def _beach(p: Pen, rng: Random) -> None:
    p.box((64, 160, 206), 0.0, HORIZON - 0.14, 1.0, HORIZON + 0.04)
    for _ in range(6):
        x, y = rng.uniform(0.0, 0.9), rng.uniform(HORIZON - 0.12, HORIZON)
        p.line((190, 228, 244), 0.008, x, y, x + 0.12, y)
    points = [(step / 8, HORIZON + 0.04 + 0.015 * math.sin(step * 1.9)) for step in range(9)]
    p.line(WHITE, 0.025, *(number for point in points for number in point))
    x = rng.choice((0.1, 0.9))
    lean = 0.05 if x < 0.5 else -0.05
    p.line(BARK, 0.03, x, 0.74, x + lean * 0.4, 0.5, x + lean, 0.26)
    for dx, dy in ((-0.16, 0.0), (-0.12, -0.1), (0.03, -0.14), (0.13, -0.08), (0.16, 0.03), (-0.07, 0.1)):
        tip, low = x + lean + dx, 0.27 + dy
        p.poly(LEAF, x + lean, 0.24, tip - dx * 0.4, low - 0.07, tip, low, tip - dx * 0.5, low - dy * 0.4)
    p.oval((255, 170, 140), rng.uniform(0.2, 0.8), 0.95, 0.02)


def _forest(p: Pen, rng: Random) -> None:
    p.box((86, 130, 96), 0.0, 0.42, 1.0, HORIZON + 0.01)
    for place in range(8):
        _pine(p, place * 0.14 + rng.uniform(-0.03, 0.03), HORIZON - 0.02, rng.uniform(0.5, 0.66), (62, 122, 84))
    for place in range(4):
        x = 0.08 + place * 0.29 + rng.uniform(-0.07, 0.07)
        _pine(p, x, HORIZON + 0.05, rng.uniform(0.62, 0.8), (44, 98, 62))
    for _ in range(3):
        x, y = rng.random(), rng.uniform(0.76, 0.97)
        p.box(CREAM, x - 0.008, y, x + 0.008, y + 0.025)
        p.chord((208, 70, 60), x, y, 0.025, 0.022, 180, 360)


def _snow(p: Pen, rng: Random) -> None:
    p.oval((228, 238, 248), 0.2, HORIZON + 0.06, 0.55, 0.16)
    p.oval((234, 242, 250), 0.85, HORIZON + 0.05, 0.5, 0.12)
    for x in (rng.uniform(0.02, 0.2), rng.uniform(0.3, 0.5), rng.uniform(0.66, 0.95)):
        _pine(p, x, HORIZON + 0.03, rng.uniform(0.34, 0.5), (128, 168, 170))
    p.box((238, 245, 252), 0.0, HORIZON + 0.03, 1.0, HORIZON + 0.1)
    x = rng.choice((0.06, 0.94))
    p.oval(WHITE, x, 0.72, 0.055)
    p.oval(WHITE, x, 0.64, 0.04)
    p.poly((240, 130, 40), x, 0.635, x + 0.05, 0.645, x, 0.65)


def _mountains(p: Pen, rng: Random) -> None:
    for x, top, half in ((0.2, 0.2, 0.36), (0.82, 0.24, 0.34), (0.52, 0.3, 0.3)):
        x += rng.uniform(-0.07, 0.07)
        p.poly((126, 134, 158), x - half, HORIZON + 0.01, x, top, x + half, HORIZON + 0.01)
        low = top + 0.11
        reach = half * 0.11 / (HORIZON - top)
        p.poly(WHITE, x - reach, low, x, top, x + reach, low, x + 0.01, low - 0.03, x - 0.01, low + 0.02)
    p.box((148, 186, 120), 0.0, HORIZON, 1.0, HORIZON + 0.06)
    for _ in range(5):
        x, y = rng.random(), rng.uniform(0.7, 0.97)
        p.poly((150, 150, 152), x - 0.035, y, x - 0.015, y - 0.03, x + 0.02, y - 0.025, x + 0.035, y)


def _farm(p: Pen, rng: Random) -> None:
    p.oval((176, 196, 110), 0.3, HORIZON + 0.04, 0.7, 0.1)
    x = rng.choice((0.06, 0.64))
    p.box((186, 62, 54), x, 0.4, x + 0.3, HORIZON + 0.01)
    p.poly((108, 60, 56), x - 0.03, 0.41, x + 0.05, 0.27, x + 0.25, 0.27, x + 0.33, 0.41)
    p.box(WHITE, x + 0.1, 0.48, x + 0.2, HORIZON + 0.01)
    p.line((186, 62, 54), 0.01, x + 0.1, 0.48, x + 0.2, HORIZON)
    p.line((186, 62, 54), 0.01, x + 0.2, 0.48, x + 0.1, HORIZON)
    for row in range(3):
        p.line((190, 166, 72), 0.012, 0.0, 0.8 + row * 0.075, 1.0, 0.8 + row * 0.075)
    for column in range(9):
        p.box(WHITE, column * 0.125, 0.6, column * 0.125 + 0.025, 0.72)
    p.box(WHITE, 0.0, 0.63, 1.0, 0.65)
    p.box(WHITE, 0.0, 0.68, 1.0, 0.7)


def _desert(p: Pen, rng: Random) -> None:
    p.poly((206, 142, 92), 0.0, HORIZON, 0.08, 0.46, 0.3, 0.46, 0.38, HORIZON)
    p.oval((232, 184, 112), rng.uniform(0.6, 0.9), HORIZON + 0.03, 0.5, 0.12)
    p.oval((240, 198, 128), rng.uniform(0.1, 0.4), HORIZON + 0.08, 0.6, 0.1)
    for x, foot, size in ((rng.uniform(0.03, 0.15), 0.74, 0.4), (rng.uniform(0.8, 0.96), 0.7, 0.3)):
        p.box((84, 146, 90), x - 0.07 * size, foot - size, x + 0.07 * size, foot, 0.03)
        p.line(
            (84, 146, 90),
            0.1 * size,
            x,
            foot - 0.4 * size,
            x - 0.22 * size,
            foot - 0.4 * size,
            x - 0.22 * size,
            foot - 0.68 * size,
        )
        p.line(
            (84, 146, 90),
            0.1 * size,
            x,
            foot - 0.3 * size,
            x + 0.22 * size,
            foot - 0.3 * size,
            x + 0.22 * size,
            foot - 0.56 * size,
        )
    for _ in range(4):
        x, y = rng.uniform(0.0, 0.8), rng.uniform(0.74, 0.96)
        p.arc((206, 156, 92), 0.008, x, y, 0.1, 0.02, 180, 360)


def _city(p: Pen, rng: Random) -> None:
    x = -0.03
    while x < 1.0:
        wide, top = rng.uniform(0.1, 0.17), rng.uniform(0.1, 0.38)
        wall = rng.choice(((92, 104, 136), (112, 122, 152), (78, 86, 118), (130, 128, 150)))
        p.box(wall, x, top, x + wide, HORIZON)
        for row in range(int((HORIZON - top) / 0.075)):
            for column in range(3):
                if rng.random() < 0.7:
                    wx, wy = x + wide * (0.14 + 0.27 * column), top + 0.03 + row * 0.075
                    p.box(GLOW if rng.random() < 0.6 else STEEL, wx, wy, wx + wide * 0.16, wy + 0.035)
        x += wide
    p.box((176, 178, 188), 0.0, HORIZON - 0.01, 1.0, HORIZON + 0.05)
    for column in range(6):
        left = 0.04 + column * 0.17
        p.poly((226, 226, 230), left + 0.02, 0.72, left + 0.09, 0.72, left + 0.07, 0.8, left - 0.02, 0.8)
    p.box(WOOD, 0.0, HORIZON + 0.045, 1.0, HORIZON + 0.055)


_PROPS: dict[str, Callable[[Pen, Random], None]] = {
    "kitchen": _kitchen,
    "room": _room,
    "street": _street,
    "park": _park,
    "beach": _beach,
    "forest": _forest,
    "snow": _snow,
    "mountains": _mountains,
    "farm": _farm,
    "desert": _desert,
    "city": _city,
}
