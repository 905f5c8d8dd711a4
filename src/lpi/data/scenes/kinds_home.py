"""Kinds of the families appliance, kitchen, furniture and indoor: what stands in a house."""

from lpi.data.scenes.drawing import (
    BLUE,
    BREAD,
    CREAM,
    DARK,
    FLAME,
    GLASS,
    GLOW,
    GOLD,
    GREEN,
    IRON,
    LEAF,
    PINK,
    RED,
    STEEL,
    WHITE,
    WOOD,
    Colour,
    Pen,
)
from lpi.data.scenes.kind import BRIGHT, COATS, Kind, named


def _toaster(p: Pen) -> None:
    if p.state == "toast":
        p.box(BREAD, 0.27, 0.0, 0.62, 0.5, 0.1)
        p.box(BREAD, 0.68, 0.0, 1.03, 0.5, 0.1)
    p.box(DARK, 0.16, 0.9, 0.34, 1.0)
    p.box(DARK, 0.94, 0.9, 1.12, 1.0)
    p.box(p.main, 0.04, 0.28, 1.24, 0.94, 0.2)
    p.box(p.dark, 0.04, 0.78, 1.24, 0.94, 0.06)
    p.box(DARK, 0.22, 0.32, 1.08, 0.39, 0.03)
    p.box(DARK, 1.16, 0.46, 1.38, 0.58, 0.03)
    p.oval(WHITE, 0.34, 0.6, 0.1)


def _fridge(p: Pen) -> None:
    p.box(DARK, 0.05, 0.95, 0.51, 1.0)
    if p.state == "open":
        p.box(p.main, 0.0, 0.0, 0.56, 0.97, 0.03)
        p.box(WHITE, 0.05, 0.04, 0.51, 0.93)
        for shelf, fruit in ((0.32, RED), (0.6, LEAF), (0.9, GOLD)):
            p.line(STEEL, 0.02, 0.05, shelf, 0.51, shelf)
            p.oval(fruit, 0.18, shelf - 0.07, 0.07)
            p.box(_bottle_colour(shelf), 0.3, shelf - 0.18, 0.42, shelf - 0.01, 0.03)
        p.poly(p.dark, 0.56, 0.0, 0.82, 0.07, 0.82, 1.0, 0.56, 0.96)
        return
    p.box(p.main, 0.0, 0.0, 0.56, 0.97, 0.05)
    p.line(p.dark, 0.025, 0.0, 0.34, 0.56, 0.34)
    p.box(STEEL, 0.06, 0.14, 0.11, 0.3, 0.02)
    p.box(STEEL, 0.06, 0.4, 0.11, 0.64, 0.02)
    p.box(p.light, 0.46, 0.05, 0.5, 0.28)


def _bottle_colour(shelf: float) -> Colour:
    """Bottles in the fridge: blue above, pink below."""
    return BLUE if shelf < 0.5 else PINK


def _oven(p: Pen) -> None:
    p.box(DARK, 0.1, 0.0, 0.36, 0.05)
    p.box(DARK, 0.5, 0.0, 0.76, 0.05)
    p.box(p.main, 0.0, 0.05, 0.86, 0.97, 0.03)
    p.box(DARK, 0.0, 0.05, 0.86, 0.26, 0.02)
    for knob in (0.14, 0.33, 0.52, 0.71):
        p.oval(WHITE, knob, 0.155, 0.055)
    p.box(p.dark, 0.07, 0.34, 0.79, 0.88, 0.04)
    p.box(FLAME if p.state == "hot" else DARK, 0.14, 0.46, 0.72, 0.8, 0.04)
    if p.state == "hot":
        p.chord(GLOW, 0.43, 0.8, 0.22, 0.2, 180, 360)
    p.line(STEEL, 0.04, 0.12, 0.4, 0.74, 0.4)


def _microwave(p: Pen) -> None:
    p.box(DARK, 0.12, 0.93, 0.3, 1.0)
    p.box(DARK, 1.3, 0.93, 1.48, 1.0)
    p.box(p.main, 0.0, 0.08, 1.6, 0.95, 0.06)
    p.box(DARK, 0.1, 0.2, 1.12, 0.84, 0.05)
    p.box((96, 108, 122), 0.2, 0.3, 1.02, 0.74, 0.05)
    p.oval(CREAM, 0.61, 0.62, 0.26, 0.08)
    p.box(DARK, 1.22, 0.18, 1.52, 0.32)
    p.box(GREEN, 1.26, 0.21, 1.48, 0.29)
    for row in (0.42, 0.56, 0.7):
        for column in (1.28, 1.46):
            p.oval(p.light, column, row, 0.055)


def _sink(p: Pen) -> None:
    p.box(p.main, 0.1, 0.62, 1.2, 1.0)
    p.line(p.dark, 0.025, 0.65, 0.66, 0.65, 1.0)
    p.oval(GOLD, 0.56, 0.8, 0.03)
    p.oval(GOLD, 0.74, 0.8, 0.03)
    p.poly(WHITE, 0.0, 0.44, 1.3, 0.44, 1.18, 0.66, 0.12, 0.66)
    p.oval(STEEL, 0.65, 0.45, 0.5, 0.06)
    p.line(IRON, 0.09, 0.82, 0.46, 0.82, 0.16)
    p.arc(IRON, 0.09, 0.67, 0.17, 0.15, 0.14, 180, 360)
    p.line(IRON, 0.09, 0.52, 0.15, 0.52, 0.24)
    p.box(IRON, 0.92, 0.36, 1.06, 0.45)
    if p.state == "running":
        p.line((120, 190, 240), 0.07, 0.52, 0.26, 0.52, 0.47)


def _washer(p: Pen) -> None:
    p.box(DARK, 0.08, 0.95, 0.78, 1.0)
    p.box(p.main, 0.0, 0.0, 0.86, 0.97, 0.05)
    p.box(p.light, 0.05, 0.05, 0.81, 0.2, 0.02)
    p.oval(DARK, 0.7, 0.125, 0.055)
    p.box(DARK, 0.1, 0.09, 0.4, 0.16)
    p.oval(WHITE, 0.43, 0.58, 0.33)
    p.oval((74, 104, 140), 0.43, 0.58, 0.25)
    p.chord((150, 204, 238), 0.43, 0.58, 0.25, 0.25, 10, 170)
    p.oval(PINK, 0.36, 0.66, 0.07)
    p.oval(WHITE, 0.52, 0.62, 0.06)


def _cup(p: Pen) -> None:
    if p.state == "steaming":
        for x in (0.3, 0.54):
            p.line((206, 212, 220), 0.05, x, 0.2, x + 0.06, 0.13, x - 0.04, 0.07, x + 0.03, 0.0)
    p.arc(p.dark, 0.1, 0.76, 0.58, 0.2, 0.2, -90, 100)
    p.poly(p.main, 0.06, 0.28, 0.8, 0.28, 0.74, 0.94, 0.66, 1.0, 0.2, 1.0, 0.12, 0.94)
    p.oval(p.light, 0.43, 0.29, 0.37, 0.07)
    p.oval((100, 62, 40), 0.43, 0.3, 0.29, 0.045)


def _bottle(p: Pen) -> None:
    p.box(GOLD, 0.13, 0.0, 0.29, 0.1, 0.02)
    p.path(p.main, "0.15,0.08 0.27,0.08 0.28,0.28 0.41,0.42 0.41,0.97 0.38,1 0.04,1 0.01,0.97 0.01,0.42 0.14,0.28")
    p.box(WHITE, 0.01, 0.54, 0.41, 0.82)
    p.box(p.dark, 0.08, 0.62, 0.34, 0.74)
    p.line(p.light, 0.035, 0.09, 0.42, 0.09, 0.5)


def _bowl(p: Pen) -> None:
    if p.state == "full":
        for x, y, fruit in (
            (0.5, 0.26, RED),
            (0.8, 0.2, GOLD),
            (1.1, 0.26, LEAF),
            (0.66, 0.14, FLAME),
            (0.95, 0.12, RED),
        ):
            p.oval(fruit, x, y, 0.17)
    p.box(p.dark, 0.52, 0.9, 1.08, 1.0, 0.03)
    p.chord(p.main, 0.8, 0.34, 0.8, 0.62, 0, 180)
    p.box(p.light, 0.0, 0.29, 1.6, 0.4, 0.05)
    for x in (0.4, 0.8, 1.2):
        p.oval(WHITE, x, 0.58, 0.07)


def _fork(p: Pen) -> None:
    for x in (0.03, 0.12, 0.21, 0.3):
        p.box(p.main, x - 0.025, 0.0, x + 0.025, 0.32, 0.02)
    p.poly(p.main, 0.0, 0.28, 0.33, 0.28, 0.32, 0.4, 0.21, 0.5, 0.12, 0.5, 0.01, 0.4)
    p.box(p.main, 0.12, 0.46, 0.21, 1.0, 0.04)
    p.box(p.dark, 0.11, 0.72, 0.22, 1.0, 0.05)


def _glass(p: Pen) -> None:
    p.oval(STEEL, 0.3, 0.96, 0.24, 0.04)
    p.box(GLASS, 0.27, 0.5, 0.33, 0.95)
    p.poly(GLASS, 0.04, 0.0, 0.56, 0.0, 0.6, 0.28, 0.5, 0.48, 0.3, 0.56, 0.1, 0.48, 0.0, 0.28)
    p.poly(p.main, 0.02, 0.18, 0.58, 0.18, 0.6, 0.28, 0.5, 0.48, 0.3, 0.56, 0.1, 0.48, 0.0, 0.28)
    p.oval(p.light, 0.3, 0.18, 0.27, 0.04)


def _teapot(p: Pen) -> None:
    p.arc(p.dark, 0.1, 1.16, 0.58, 0.24, 0.24, -110, 110)
    p.poly(p.dark, 0.36, 0.52, 0.36, 0.8, 0.14, 0.5, 0.0, 0.34, 0.14, 0.28)
    p.oval(p.main, 0.75, 0.64, 0.48, 0.36)
    p.chord(p.light, 0.75, 0.34, 0.26, 0.14, 180, 360)
    p.oval(GOLD, 0.75, 0.16, 0.07)
    p.box(WHITE, 0.3, 0.6, 1.2, 0.7)


def _chair(p: Pen) -> None:
    p.box(p.dark, 0.1, 0.5, 0.16, 0.9)
    p.box(p.dark, 0.46, 0.5, 0.52, 0.9)
    p.box(p.main, 0.06, 0.0, 0.56, 0.14, 0.04)
    for x in (0.07, 0.275, 0.48):
        p.box(p.main, x, 0.1, x + 0.07, 0.55)
    p.poly(p.light, 0.06, 0.5, 0.56, 0.5, 0.62, 0.6, 0.0, 0.6)
    p.box(p.main, 0.0, 0.6, 0.62, 0.67)
    p.box(p.main, 0.01, 0.67, 0.08, 1.0)
    p.box(p.main, 0.54, 0.67, 0.61, 1.0)


def _couch(p: Pen) -> None:
    p.box(WOOD, 0.16, 0.9, 0.28, 1.0)
    p.box(WOOD, 1.62, 0.9, 1.74, 1.0)
    p.box(p.main, 0.18, 0.08, 1.72, 0.8, 0.16)
    p.line(p.dark, 0.03, 0.95, 0.1, 0.95, 0.55)
    p.box(p.light, 0.26, 0.52, 0.95, 0.76, 0.08)
    p.box(p.light, 0.95, 0.52, 1.64, 0.76, 0.08)
    p.box(p.main, 0.2, 0.72, 1.7, 0.93)
    p.box(p.dark, 0.0, 0.36, 0.3, 0.93, 0.13)
    p.box(p.dark, 1.6, 0.36, 1.9, 0.93, 0.13)


def _bed(p: Pen) -> None:
    p.box(WOOD, 0.0, 0.06, 0.13, 1.0, 0.05)
    p.box(WOOD, 1.72, 0.4, 1.83, 1.0, 0.04)
    p.box(WOOD, 0.1, 0.78, 1.75, 0.9)
    p.box(WHITE, 0.12, 0.52, 1.73, 0.8, 0.08)
    p.box(CREAM, 0.16, 0.34, 0.56, 0.56, 0.1)
    p.box(p.main, 0.62, 0.46, 1.74, 0.82, 0.08)
    p.box(p.light, 0.62, 0.46, 0.8, 0.82, 0.05)


def _table(p: Pen) -> None:
    p.box(p.dark, 0.22, 0.3, 0.3, 0.88)
    p.box(p.dark, 1.2, 0.3, 1.28, 0.88)
    p.poly(p.light, 0.2, 0.06, 1.3, 0.06, 1.5, 0.24, 0.0, 0.24)
    p.box(p.main, 0.0, 0.24, 1.5, 0.36, 0.02)
    p.box(p.main, 0.06, 0.36, 0.18, 1.0)
    p.box(p.main, 1.32, 0.36, 1.44, 1.0)


def _bookcase(p: Pen) -> None:
    p.box(p.main, 0.0, 0.0, 0.72, 1.0, 0.02)
    books = (RED, GOLD, BLUE, GREEN, WHITE, PINK)
    for row in range(3):
        top = 0.06 + row * 0.31
        p.box(p.dark, 0.06, top, 0.66, top + 0.26)
        for place in range(5):
            tall = (0.04, 0.0, 0.07, 0.02, 0.05)[(place + row + p.tone) % 5]
            x = 0.08 + place * 0.1
            p.box(books[(place * 2 + row + p.tone) % 6], x, top + 0.03 + tall, x + 0.085, top + 0.26)


def _plant(p: Pen) -> None:
    p.line((64, 112, 60), 0.05, 0.36, 0.72, 0.36, 0.3)
    for x, y in ((0.02, 0.3), (0.7, 0.3), (0.1, 0.08), (0.62, 0.08), (0.36, 0.0)):
        middle_x, middle_y = (x + 0.36) / 2, (y + 0.6) / 2
        p.poly(LEAF, 0.36, 0.62, middle_x - 0.09, middle_y - 0.02, x, y, middle_x + 0.09, middle_y + 0.02)
    p.poly(p.main, 0.12, 0.66, 0.6, 0.66, 0.52, 1.0, 0.2, 1.0)
    p.box(p.light, 0.08, 0.6, 0.64, 0.71, 0.02)


def _clock(p: Pen) -> None:
    p.line(DARK, 0.08, 0.24, 0.86, 0.14, 0.99)
    p.line(DARK, 0.08, 0.76, 0.86, 0.86, 0.99)
    p.oval(GOLD, 0.24, 0.14, 0.14)
    p.oval(GOLD, 0.76, 0.14, 0.14)
    p.box(DARK, 0.45, 0.0, 0.55, 0.14)
    p.oval(p.main, 0.5, 0.55, 0.42)
    p.oval(WHITE, 0.5, 0.55, 0.32)
    for x, y in ((0.5, 0.28), (0.5, 0.82), (0.23, 0.55), (0.77, 0.55)):
        p.oval(DARK, x, y, 0.025)
    p.line(DARK, 0.06, 0.5, 0.55, 0.5, 0.34)
    p.line(DARK, 0.05, 0.5, 0.55, 0.65, 0.63)


def _vase(p: Pen) -> None:
    if p.state == "flowers":
        for x, y, petal in ((0.12, 0.18, PINK), (0.48, 0.18, GOLD), (0.3, 0.08, RED)):
            p.line(LEAF, 0.03, 0.3, 0.5, x, y)
            p.oval(petal, x, y, 0.1)
            p.oval(WHITE, x, y, 0.035)
    p.path(p.main, "0.19,0.46 0.41,0.46 0.4,0.54 0.56,0.68 0.56,0.82 0.44,1 0.16,1 0.04,0.82 0.04,0.68 0.2,0.54")
    p.box(p.light, 0.15, 0.42, 0.45, 0.49, 0.03)
    p.box(WHITE, 0.045, 0.71, 0.555, 0.78)


def _book(p: Pen) -> None:
    if p.state == "open":
        p.poly(p.main, 0.0, 0.34, 0.75, 0.46, 1.5, 0.34, 1.5, 0.94, 0.75, 1.0, 0.0, 0.94)
        p.poly(WHITE, 0.07, 0.28, 0.4, 0.24, 0.75, 0.4, 0.75, 0.94, 0.4, 0.82, 0.07, 0.86)
        p.poly(CREAM, 1.43, 0.28, 1.1, 0.24, 0.75, 0.4, 0.75, 0.94, 1.1, 0.82, 1.43, 0.86)
        for y in (0.46, 0.58, 0.7):
            p.line(IRON, 0.03, 0.16, y - 0.04, 0.4, y - 0.06, 0.64, y + 0.06)
            p.line(IRON, 0.03, 0.86, y + 0.06, 1.1, y - 0.06, 1.34, y - 0.04)
        return
    p.box(WHITE, 0.5, 0.1, 1.2, 1.0)
    p.box(p.main, 0.36, 0.04, 1.14, 0.96, 0.03)
    p.box(p.dark, 0.36, 0.04, 0.5, 0.96, 0.03)
    p.box(CREAM, 0.6, 0.2, 1.02, 0.44)
    p.line(p.dark, 0.04, 0.66, 0.32, 0.96, 0.32)


def _scissors(p: Pen) -> None:
    p.poly(STEEL, 0.1, 0.0, 0.22, 0.04, 0.56, 0.62, 0.46, 0.68)
    p.poly(STEEL, 0.74, 0.0, 0.62, 0.04, 0.28, 0.62, 0.38, 0.68)
    p.arc(p.main, 0.1, 0.2, 0.8, 0.14, 0.15)
    p.arc(p.main, 0.1, 0.64, 0.8, 0.14, 0.15)
    p.line(p.main, 0.1, 0.3, 0.68, 0.4, 0.56)
    p.line(p.main, 0.1, 0.54, 0.68, 0.44, 0.56)
    p.oval(DARK, 0.42, 0.54, 0.04)


def _teddy(p: Pen) -> None:
    for x in (0.2, 0.64):
        p.oval(p.main, x, 0.1, 0.11)
        p.oval(p.light, x, 0.1, 0.055)
        p.oval(p.main, 0.42 + (x - 0.42) * 1.35, 0.6, 0.11, 0.15)
    p.oval(p.main, 0.42, 0.68, 0.26, 0.27)
    p.oval(p.light, 0.42, 0.7, 0.16, 0.18)
    for x in (0.18, 0.66):
        p.oval(p.main, x, 0.88, 0.15, 0.12)
        p.oval(p.light, x, 0.89, 0.08, 0.07)
    p.oval(p.main, 0.42, 0.25, 0.25, 0.23)
    p.oval(p.light, 0.42, 0.32, 0.12, 0.09)
    p.oval(DARK, 0.42, 0.28, 0.045, 0.035)
    p.oval(DARK, 0.32, 0.2, 0.03)
    p.oval(DARK, 0.52, 0.2, 0.03)
    p.poly(RED, 0.42, 0.47, 0.28, 0.41, 0.28, 0.53)
    p.poly(RED, 0.42, 0.47, 0.56, 0.41, 0.56, 0.53)


def _candle(p: Pen) -> None:
    p.oval(GOLD, 0.26, 0.93, 0.26, 0.07)
    p.box(p.main, 0.14, 0.36, 0.38, 0.93, 0.03)
    p.oval(p.light, 0.26, 0.37, 0.12, 0.035)
    p.line(DARK, 0.03, 0.26, 0.36, 0.26, 0.28)
    if p.state == "burning":
        p.poly(FLAME, 0.26, 0.0, 0.36, 0.18, 0.33, 0.28, 0.26, 0.31, 0.19, 0.28, 0.16, 0.18)
        p.oval(GLOW, 0.26, 0.22, 0.05, 0.07)


APPLIANCE = (
    Kind("toaster", "appliance", _toaster, 1.38, named("toaster"), states=("toast", ""), portable=True),
    Kind("fridge", "appliance", _fridge, 0.56, named("fridge|refrigerator"), states=("open", "closed")),
    Kind("oven", "appliance", _oven, 0.86, named("oven|stove|cooker"), states=("hot", ""), top=0.03),
    Kind("microwave", "appliance", _microwave, 1.6, named("microwave"), top=0.1, portable=True),
    Kind("sink", "appliance", _sink, 1.3, named("sink|basin"), states=("running", "")),
    Kind("washer", "appliance", _washer, 0.86, named("washing machine|washer"), top=0.02),
)
KITCHEN = (
    Kind("cup", "kitchen", _cup, 1.0, named("cup|mug"), states=("steaming", ""), portable=True),
    Kind("bottle", "kitchen", _bottle, 0.42, named("bottle|flask"), portable=True),
    Kind("bowl", "kitchen", _bowl, 1.6, named("bowl|dish"), states=("full", "empty"), portable=True),
    Kind("fork", "kitchen", _fork, 0.33, named("fork"), tilts=True),
    Kind("glass", "kitchen", _glass, 0.6, named("wine glass|goblet"), BRIGHT, portable=True),
    Kind("teapot", "kitchen", _teapot, 1.45, named("teapot|tea pot"), portable=True),
)
FURNITURE = (
    Kind("chair", "furniture", _chair, 0.62, named("chair|seat"), top=0.55),
    Kind("couch", "furniture", _couch, 1.9, named("couch|sofa"), top=0.58),
    Kind("bed", "furniture", _bed, 1.83, named("bed"), top=0.5),
    Kind("table", "furniture", _table, 1.5, named("table|desk"), top=0.17),
    Kind("bookcase", "furniture", _bookcase, 0.72, named("bookcase|bookshelf/bookshelves"), top=0.01),
    Kind("plant", "furniture", _plant, 0.72, named("potted plant|houseplant"), portable=True),
)
INDOOR = (
    Kind("clock", "indoor", _clock, 1.0, named("clock|alarm clock"), portable=True),
    Kind("vase", "indoor", _vase, 0.6, named("vase|jar"), states=("flowers", "empty"), portable=True),
    Kind("book", "indoor", _book, 1.5, named("book|novel"), states=("open", "closed"), portable=True),
    Kind("scissors", "indoor", _scissors, 0.84, named("pair of scissors/pairs of scissors"), tilts=True),
    Kind("teddy", "indoor", _teddy, 0.84, named("teddy bear|stuffed bear"), (*COATS, "pink", "blue"), portable=True),
    Kind("candle", "indoor", _candle, 0.52, named("candle"), states=("burning", ""), portable=True),
)
