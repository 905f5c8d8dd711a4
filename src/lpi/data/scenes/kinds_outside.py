"""Kinds of the families outdoor and vehicle: what stands and drives in the open."""

from lpi.data.scenes.drawing import (
    BLACK,
    CREAM,
    DARK,
    FLAME,
    GLASS,
    GLOW,
    GOLD,
    IRON,
    RED,
    STEEL,
    WHITE,
    WOOD,
    Pen,
)
from lpi.data.scenes.kind import BRIGHT, Kind, named


def _bench(p: Pen) -> None:
    for x in (0.22, 1.4):
        p.box(IRON, x, 0.1, x + 0.08, 0.7)
    for y in (0.06, 0.26):
        p.box(p.main, 0.0, y, 1.7, y + 0.15, 0.02)
    p.poly(p.light, 0.06, 0.5, 1.64, 0.5, 1.7, 0.6, 0.0, 0.6)
    p.box(p.main, 0.0, 0.6, 1.7, 0.7, 0.02)
    for x in (0.14, 1.46):
        p.box(IRON, x, 0.7, x + 0.1, 1.0)


def _traffic_light(p: Pen) -> None:
    p.box(IRON, 0.15, 0.6, 0.23, 1.0)
    p.box(DARK, 0.08, 0.95, 0.3, 1.0)
    p.box((60, 64, 70), 0.02, 0.0, 0.36, 0.66, 0.08)
    dim = {"red": (104, 44, 44), "yellow": (104, 88, 40), "green": (36, 84, 52)}
    lit = {"red": (255, 60, 50), "yellow": (255, 210, 50), "green": (70, 240, 110)}
    for row, name in enumerate(("red", "yellow", "green")):
        p.oval((lit if p.state == name else dim)[name], 0.19, 0.13 + row * 0.2, 0.085)


def _hydrant(p: Pen) -> None:
    p.box(p.dark, 0.08, 0.9, 0.62, 1.0, 0.03)
    p.box(p.main, 0.17, 0.32, 0.53, 0.92)
    p.box(p.dark, 0.0, 0.44, 0.2, 0.62, 0.03)
    p.box(p.dark, 0.5, 0.44, 0.7, 0.62, 0.03)
    p.oval(STEEL, 0.35, 0.54, 0.12)
    p.oval(p.dark, 0.35, 0.54, 0.05)
    p.chord(p.main, 0.35, 0.3, 0.22, 0.22, 180, 360)
    p.box(p.light, 0.1, 0.27, 0.6, 0.35, 0.03)
    p.box(p.dark, 0.3, 0.0, 0.4, 0.1)


def _stop_sign(p: Pen) -> None:
    p.box(IRON, 0.31, 0.5, 0.37, 1.0)
    p.poly(WHITE, 0.2, 0.0, 0.48, 0.0, 0.68, 0.2, 0.68, 0.46, 0.48, 0.66, 0.2, 0.66, 0.0, 0.46, 0.0, 0.2)
    p.poly(RED, 0.215, 0.04, 0.465, 0.04, 0.64, 0.215, 0.64, 0.445, 0.465, 0.62, 0.215, 0.62, 0.04, 0.445, 0.04, 0.215)
    pen = 0.03
    p.line(WHITE, pen, 0.19, 0.26, 0.1, 0.26, 0.1, 0.33, 0.19, 0.33, 0.19, 0.41, 0.09, 0.41)
    p.line(WHITE, pen, 0.22, 0.26, 0.34, 0.26)
    p.line(WHITE, pen, 0.28, 0.26, 0.28, 0.42)
    p.line(WHITE, pen, 0.37, 0.26, 0.46, 0.26, 0.46, 0.41, 0.37, 0.41, 0.37, 0.25)
    p.line(WHITE, pen, 0.51, 0.42, 0.51, 0.26, 0.6, 0.26, 0.6, 0.34, 0.51, 0.34)


def _meter(p: Pen) -> None:
    p.box(IRON, 0.16, 0.5, 0.24, 1.0)
    p.box(DARK, 0.08, 0.95, 0.32, 1.0)
    p.chord(p.main, 0.2, 0.2, 0.2, 0.2, 180, 360)
    p.poly(p.main, 0.0, 0.2, 0.4, 0.2, 0.34, 0.56, 0.06, 0.56)
    p.chord(GLASS, 0.2, 0.2, 0.13, 0.13, 180, 360)
    p.line(RED, 0.025, 0.2, 0.19, 0.14, 0.11)
    p.box(p.light, 0.1, 0.27, 0.3, 0.48)
    p.line(DARK, 0.03, 0.2, 0.31, 0.2, 0.42)


def _lamp_post(p: Pen) -> None:
    p.box(p.dark, 0.1, 0.93, 0.42, 1.0, 0.02)
    p.box(p.main, 0.22, 0.3, 0.3, 0.95)
    p.box(p.main, 0.16, 0.62, 0.36, 0.66)
    p.poly(GLOW if p.state == "lit" else GLASS, 0.06, 0.1, 0.46, 0.1, 0.38, 0.32, 0.14, 0.32)
    p.poly(p.main, 0.0, 0.12, 0.26, 0.0, 0.52, 0.12)
    p.box(p.main, 0.12, 0.3, 0.4, 0.36)
    if p.state == "lit":
        p.oval(WHITE, 0.26, 0.2, 0.07)


def _wheel(p: Pen, x: float, y: float, radius: float) -> None:
    p.oval(BLACK, x, y, radius)
    p.oval(STEEL, x, y, radius * 0.5)


def _car(p: Pen) -> None:
    p.poly(p.main, 0.42, 0.44, 0.66, 0.02, 1.36, 0.02, 1.66, 0.44)
    p.poly(GLASS, 0.56, 0.42, 0.72, 0.12, 0.98, 0.12, 0.98, 0.42)
    p.poly(GLASS, 1.06, 0.42, 1.06, 0.12, 1.32, 0.12, 1.52, 0.42)
    p.box(p.main, 0.0, 0.4, 2.1, 0.82, 0.14)
    p.box(p.dark, 0.02, 0.7, 2.08, 0.82, 0.04)
    p.oval(GLOW, 2.02, 0.54, 0.06)
    p.box(RED, 0.0, 0.48, 0.07, 0.6)
    p.line(p.dark, 0.02, 1.02, 0.42, 1.02, 0.7)
    for x in (0.46, 1.62):
        _wheel(p, x, 0.79, 0.21)


def _bus(p: Pen) -> None:
    p.box(p.main, 0.0, 0.02, 1.9, 0.88, 0.08)
    p.box(p.dark, 0.0, 0.68, 1.9, 0.76)
    for place in range(4):
        x = 0.1 + place * 0.35
        p.box(GLASS, x, 0.14, x + 0.28, 0.44, 0.02)
    p.box(GLASS, 1.54, 0.14, 1.86, 0.5, 0.03)
    p.box(WHITE, 1.5, 0.03, 1.84, 0.1)
    p.oval(GLOW, 1.83, 0.62, 0.05)
    for x in (0.42, 1.44):
        _wheel(p, x, 0.84, 0.16)


def _bicycle(p: Pen) -> None:
    for x in (0.36, 1.28):
        p.arc(BLACK, 0.06, x, 0.66, 0.31, 0.31)
        p.line(IRON, 0.015, x - 0.3, 0.66, x + 0.3, 0.66)
        p.line(IRON, 0.015, x, 0.36, x, 0.96)
    p.line(p.main, 0.07, 0.36, 0.66, 0.56, 0.28, 1.1, 0.28, 0.74, 0.66, 0.36, 0.66)
    p.line(p.main, 0.07, 0.74, 0.66, 0.54, 0.18)
    p.line(p.main, 0.07, 1.28, 0.66, 1.06, 0.12)
    p.box(DARK, 0.4, 0.12, 0.68, 0.2, 0.04)
    p.line(DARK, 0.06, 1.2, 0.04, 1.04, 0.1, 1.0, 0.04)
    p.oval(GOLD, 0.74, 0.66, 0.08)


def _plane(p: Pen) -> None:
    p.poly(p.dark, 0.02, 0.0, 0.26, 0.0, 0.52, 0.42, 0.2, 0.46)
    p.poly(p.main, 0.06, 0.4, 0.4, 0.36, 1.7, 0.36, 1.98, 0.46, 2.1, 0.58, 1.96, 0.7, 1.6, 0.74, 0.5, 0.72, 0.12, 0.56)
    p.poly(p.light, 0.0, 0.44, 0.3, 0.5, 0.22, 0.58, 0.02, 0.58)
    for x in (0.66, 0.9, 1.14, 1.38):
        p.oval(GLASS, x, 0.49, 0.065)
    p.poly(GLASS, 1.7, 0.42, 1.86, 0.44, 1.96, 0.52, 1.72, 0.52)
    p.poly(p.light, 0.86, 0.6, 1.3, 0.6, 0.84, 1.0, 0.6, 1.0)


def _boat(p: Pen) -> None:
    p.line(WOOD, 0.05, 0.62, 0.02, 0.62, 0.72)
    p.poly(CREAM, 0.68, 0.08, 1.18, 0.6, 0.68, 0.62)
    p.poly(WHITE, 0.55, 0.14, 0.55, 0.62, 0.16, 0.62)
    p.poly(RED, 0.62, 0.0, 0.84, 0.05, 0.62, 0.1)
    p.poly(p.main, 0.0, 0.7, 1.36, 0.7, 1.14, 1.0, 0.24, 1.0)
    p.poly(p.light, 0.0, 0.7, 1.36, 0.7, 1.31, 0.78, 0.07, 0.78)


def _train(p: Pen) -> None:
    if p.state == "smoking":
        for x, y, size in ((1.4, 0.12, 0.1), (1.2, 0.08, 0.12), (0.98, 0.1, 0.1)):
            p.oval((216, 218, 224), x, y, size)
    p.poly(DARK, 1.5, 0.2, 1.76, 0.2, 1.71, 0.42, 1.55, 0.42)
    p.box(p.main, 0.6, 0.38, 1.9, 0.74, 0.12)
    p.box(GOLD, 1.1, 0.38, 1.17, 0.74)
    p.oval(p.light, 1.9, 0.56, 0.08, 0.18)
    p.box(p.dark, 0.08, 0.2, 0.72, 0.76)
    p.box(DARK, 0.0, 0.13, 0.8, 0.22, 0.03)
    p.box(GLASS, 0.2, 0.3, 0.56, 0.5)
    p.poly(RED, 1.86, 0.76, 2.18, 0.96, 1.8, 0.96)
    p.box(DARK, 0.04, 0.73, 1.94, 0.81)
    for x, radius in ((0.34, 0.16), (0.76, 0.16), (1.24, 0.12), (1.6, 0.12)):
        p.oval(BLACK, x, 1.0 - radius, radius)
        p.oval(FLAME, x, 1.0 - radius, radius * 0.55)


OUTDOOR = (
    Kind("bench", "outdoor", _bench, 1.7, named("bench"), top=0.55),
    Kind(
        "traffic light",
        "outdoor",
        _traffic_light,
        0.38,
        named("traffic light|stoplight"),
        ("black",),
        states=("red", "green", "yellow"),
    ),
    Kind("hydrant", "outdoor", _hydrant, 0.7, named("fire hydrant|hydrant"), BRIGHT),
    Kind("stop sign", "outdoor", _stop_sign, 0.68, named("stop sign|road sign"), ("red",), tilts=True),
    Kind("meter", "outdoor", _meter, 0.4, named("parking meter|ticket machine")),
    Kind("lamp post", "outdoor", _lamp_post, 0.52, named("street lamp|lantern"), states=("lit", "")),
)
VEHICLE = (
    Kind("car", "vehicle", _car, 2.1, named("car|automobile")),
    Kind("bus", "vehicle", _bus, 1.9, named("bus|coach")),
    Kind("bicycle", "vehicle", _bicycle, 1.64, named("bicycle|bike")),
    Kind("plane", "vehicle", _plane, 2.1, named("plane|aircraft/aircraft"), states=("flying", ""), flies=("flying",)),
    Kind("boat", "vehicle", _boat, 1.36, named("sailboat|yacht")),
    Kind("train", "vehicle", _train, 2.18, named("train|locomotive"), states=("smoking", "")),
)
