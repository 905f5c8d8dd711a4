"""Kinds of the families electronic, accessory, sports and food: what a person carries, plays with or eats."""

from lpi.data.scenes.drawing import (
    BLACK,
    BLUE,
    BREAD,
    CREAM,
    DARK,
    GLASS,
    GOLD,
    GREEN,
    IRON,
    LEAF,
    PINK,
    RED,
    STEEL,
    WHITE,
    WOOD,
    Pen,
)
from lpi.data.scenes.kind import ALL, BRIGHT, Kind, named

SCREEN = (120, 190, 240)


def _laptop(p: Pen) -> None:
    p.box(p.main, 0.18, 0.02, 1.32, 0.76, 0.06)
    p.box(SCREEN if p.state == "on" else BLACK, 0.26, 0.1, 1.24, 0.68)
    if p.state == "on":
        p.poly(LEAF, 0.26, 0.68, 0.56, 0.36, 0.8, 0.58, 0.98, 0.44, 1.24, 0.68)
        p.oval(GOLD, 1.06, 0.24, 0.08)
    p.poly(p.light, 0.18, 0.76, 1.32, 0.76, 1.5, 0.94, 0.0, 0.94)
    p.poly(DARK, 0.28, 0.79, 1.22, 0.79, 1.3, 0.87, 0.2, 0.87)
    p.box(p.dark, 0.0, 0.94, 1.5, 1.0, 0.02)


def _tv(p: Pen) -> None:
    p.line(IRON, 0.035, 0.7, 0.24, 0.42, 0.0)
    p.line(IRON, 0.035, 0.74, 0.24, 1.0, 0.02)
    p.line(DARK, 0.06, 0.36, 0.88, 0.24, 1.0)
    p.line(DARK, 0.06, 1.1, 0.88, 1.22, 1.0)
    p.box(p.main, 0.0, 0.22, 1.46, 0.92, 0.08)
    p.box(SCREEN if p.state == "on" else BLACK, 0.1, 0.31, 1.08, 0.83, 0.08)
    if p.state == "on":
        p.box(GOLD, 0.1, 0.5, 1.08, 0.6)
        p.oval(RED, 0.6, 0.56, 0.16)
    p.oval(p.light, 1.26, 0.42, 0.08)
    p.oval(p.light, 1.26, 0.6, 0.08)
    for y in (0.73, 0.78, 0.83):
        p.line(DARK, 0.02, 1.17, y, 1.35, y)


def _phone(p: Pen) -> None:
    p.box(p.main, 0.0, 0.0, 0.54, 1.0, 0.09)
    p.box((226, 240, 250), 0.05, 0.11, 0.49, 0.84)
    icons = (RED, GOLD, GREEN, BLUE, PINK, DARK)
    for place in range(6):
        x, y = 0.09 + (place % 2) * 0.2, 0.17 + (place // 2) * 0.21
        p.box(icons[(place + p.tone) % 6], x, y, x + 0.15, y + 0.15, 0.03)
    p.oval(WHITE, 0.27, 0.92, 0.05)
    p.line(DARK, 0.03, 0.19, 0.055, 0.35, 0.055)


def _keyboard(p: Pen) -> None:
    p.box(p.dark, 0.0, 0.1, 2.3, 1.0, 0.1)
    p.box(p.main, 0.0, 0.02, 2.3, 0.92, 0.1)
    for row, shift in ((0.14, 0.0), (0.39, 0.06)):
        for key in range(8):
            x = 0.12 + shift + key * 0.25
            p.box(WHITE, x, row, x + 0.19, row + 0.19)
    p.box(WHITE, 0.12, 0.65, 0.4, 0.82)
    p.box(WHITE, 0.5, 0.65, 1.7, 0.82)
    p.box(RED, 1.8, 0.65, 2.14, 0.82)


def _camera(p: Pen) -> None:
    p.box(DARK, 0.16, 0.06, 0.36, 0.26, 0.03)
    p.poly(p.dark, 0.46, 0.22, 0.54, 0.0, 0.86, 0.0, 0.94, 0.22)
    p.box(p.main, 0.0, 0.2, 1.4, 1.0, 0.1)
    p.box(DARK, 0.0, 0.46, 1.4, 0.84)
    p.oval(STEEL, 0.7, 0.62, 0.36)
    p.oval(BLACK, 0.7, 0.62, 0.27)
    p.oval((70, 100, 170), 0.7, 0.62, 0.16)
    p.oval(WHITE, 0.62, 0.54, 0.05)
    p.box(GLASS, 1.06, 0.26, 1.3, 0.4)


def _radio(p: Pen) -> None:
    p.line(IRON, 0.03, 1.2, 0.36, 1.46, 0.0)
    p.arc(p.dark, 0.06, 0.75, 0.34, 0.5, 0.2, 180, 360)
    p.box(p.main, 0.0, 0.3, 1.5, 1.0, 0.1)
    p.oval(DARK, 0.42, 0.66, 0.27)
    p.oval(IRON, 0.42, 0.66, 0.19)
    p.oval(DARK, 0.42, 0.66, 0.08)
    p.box(CREAM, 0.82, 0.42, 1.38, 0.6, 0.03)
    p.line(RED, 0.04, 1.16, 0.43, 1.16, 0.59)
    p.oval(p.light, 0.96, 0.8, 0.1)
    p.oval(p.light, 1.24, 0.8, 0.1)


def _umbrella(p: Pen) -> None:
    if p.state == "closed":
        p.line(IRON, 0.03, 0.6, 0.0, 0.6, 0.12)
        p.poly(p.main, 0.6, 0.06, 0.74, 0.66, 0.6, 0.72, 0.46, 0.66)
        p.poly(p.dark, 0.6, 0.06, 0.63, 0.7, 0.56, 0.7)
        p.box(WHITE, 0.48, 0.48, 0.72, 0.54)
        p.line(WOOD, 0.055, 0.6, 0.7, 0.6, 0.9)
        p.arc(WOOD, 0.055, 0.68, 0.9, 0.08, 0.08, 0, 180)
        return
    p.line(WOOD, 0.05, 0.6, 0.04, 0.6, 0.88)
    p.arc(WOOD, 0.055, 0.69, 0.88, 0.09, 0.1, 0, 180)
    p.chord(p.main, 0.6, 0.52, 0.6, 0.46, 180, 360)
    p.poly(p.light, 0.6, 0.07, 0.4, 0.26, 0.36, 0.52, 0.84, 0.52, 0.8, 0.26)
    p.chord(p.dark, 0.6, 0.52, 0.24, 0.07, 180, 360)


def _backpack(p: Pen) -> None:
    p.arc(DARK, 0.07, 0.42, 0.13, 0.13, 0.1, 180, 360)
    p.box(p.dark, 0.0, 0.52, 0.14, 0.9, 0.06)
    p.box(p.dark, 0.7, 0.52, 0.84, 0.9, 0.06)
    p.box(p.main, 0.08, 0.1, 0.76, 1.0, 0.24)
    p.box(p.light, 0.17, 0.55, 0.67, 0.92, 0.08)
    p.line(DARK, 0.03, 0.17, 0.67, 0.67, 0.67)
    p.line(DARK, 0.035, 0.16, 0.38, 0.68, 0.38)
    p.oval(GOLD, 0.42, 0.69, 0.04)
    p.oval(WHITE, 0.42, 0.24, 0.07)


def _handbag(p: Pen) -> None:
    p.arc(p.dark, 0.07, 0.6, 0.42, 0.3, 0.38, 180, 360)
    p.poly(p.main, 0.16, 0.38, 1.04, 0.38, 1.2, 0.94, 1.14, 1.0, 0.06, 1.0, 0.0, 0.94)
    p.poly(p.light, 0.16, 0.38, 1.04, 0.38, 0.82, 0.66, 0.38, 0.66)
    p.box(GOLD, 0.53, 0.58, 0.67, 0.74, 0.03)


def _tie(p: Pen) -> None:
    p.poly(p.main, 0.14, 0.18, 0.28, 0.18, 0.42, 0.8, 0.21, 1.0, 0.0, 0.8)
    for top in (0.34, 0.52, 0.7):
        reach = 0.08 + (top - 0.18) * 0.22
        p.line(WHITE, 0.055, 0.23 - reach, top + 0.09, 0.19 + reach, top)
    p.poly(p.dark, 0.08, 0.0, 0.34, 0.0, 0.28, 0.19, 0.14, 0.19)


def _suitcase(p: Pen) -> None:
    p.box(DARK, 0.2, 0.93, 0.34, 1.0, 0.02)
    p.box(DARK, 0.92, 0.93, 1.06, 1.0, 0.02)
    p.arc(DARK, 0.08, 0.63, 0.2, 0.2, 0.16, 180, 360)
    p.box(p.main, 0.0, 0.18, 1.26, 0.95, 0.1)
    for x in (0.24, 0.9):
        p.box(p.dark, x, 0.18, x + 0.12, 0.95)
        p.box(GOLD, x + 0.02, 0.38, x + 0.1, 0.5)
    p.line(p.dark, 0.025, 0.0, 0.44, 1.26, 0.44)
    p.box(WHITE, 0.48, 0.56, 0.78, 0.76)


def _hat(p: Pen) -> None:
    p.oval(p.dark, 0.8, 0.84, 0.8, 0.16)
    p.oval(p.main, 0.8, 0.79, 0.8, 0.15)
    p.poly(p.main, 0.36, 0.8, 0.42, 0.2, 0.56, 0.04, 0.8, 0.1, 1.04, 0.04, 1.18, 0.2, 1.24, 0.8, 0.8, 0.9)
    p.poly(DARK if p.main[0] > 90 else WHITE, 0.37, 0.62, 1.23, 0.62, 1.24, 0.8, 0.8, 0.9, 0.36, 0.8)


def _ball(p: Pen) -> None:
    p.oval(p.main, 0.5, 0.5, 0.5)
    p.poly(WHITE, 0.42, 0.42, 0.06, 0.28, 0.2, 0.1, 0.4, 0.02)
    p.poly(WHITE, 0.58, 0.4, 0.72, 0.05, 0.9, 0.2, 0.98, 0.4)
    p.poly(WHITE, 0.5, 0.58, 0.7, 0.94, 0.46, 0.99, 0.24, 0.92)
    p.oval(p.light, 0.5, 0.47, 0.13)


def _kite(p: Pen) -> None:
    p.line(DARK, 0.02, 0.4, 0.62, 0.5, 0.72, 0.3, 0.82, 0.44, 0.92, 0.32, 1.0)
    p.poly(p.light, 0.4, 0.0, 0.78, 0.26, 0.4, 0.66, 0.02, 0.26)
    p.poly(p.main, 0.4, 0.0, 0.78, 0.26, 0.4, 0.26)
    p.poly(p.main, 0.4, 0.66, 0.02, 0.26, 0.4, 0.26)
    for x, y, bow in ((0.48, 0.73, RED), (0.34, 0.83, GOLD), (0.4, 0.93, BLUE)):
        p.poly(bow, x, y, x - 0.1, y - 0.045, x - 0.1, y + 0.045)
        p.poly(bow, x, y, x + 0.1, y - 0.045, x + 0.1, y + 0.045)


def _skateboard(p: Pen) -> None:
    for x in (0.56, 1.74):
        p.box(IRON, x - 0.14, 0.42, x + 0.14, 0.6)
        p.oval(CREAM, x, 0.76, 0.24)
        p.oval(DARK, x, 0.76, 0.09)
    p.poly(p.main, 0.0, 0.06, 0.1, 0.0, 0.42, 0.22, 1.88, 0.22, 2.2, 0.0, 2.3, 0.06, 1.96, 0.46, 0.34, 0.46)
    p.line(p.light, 0.07, 0.42, 0.33, 1.88, 0.33)


def _racket(p: Pen) -> None:
    p.oval(WHITE, 0.3, 0.32, 0.25, 0.29)
    for shift in (-0.14, -0.05, 0.05, 0.14):
        p.line(IRON, 0.014, 0.3 + shift, 0.07, 0.3 + shift, 0.57)
        p.line(IRON, 0.014, 0.07, 0.32 + shift, 0.53, 0.32 + shift)
    p.arc(p.main, 0.08, 0.3, 0.32, 0.26, 0.29)
    p.poly(p.main, 0.18, 0.56, 0.42, 0.56, 0.33, 0.74, 0.27, 0.74)
    p.box(DARK, 0.25, 0.7, 0.35, 1.0, 0.03)


def _surfboard(p: Pen) -> None:
    p.path(p.main, "0.2,0 0.32,0.14 0.39,0.34 0.4,0.6 0.34,0.88 0.26,1 0.14,1 0.06,0.88 0,0.6 0.01,0.34 0.08,0.14")
    p.poly(WHITE, 0.0, 0.46, 0.4, 0.36, 0.4, 0.5, 0.0, 0.6)
    p.poly(p.dark, 0.0, 0.64, 0.4, 0.54, 0.4, 0.6, 0.0, 0.7)
    p.line(DARK, 0.015, 0.2, 0.02, 0.2, 0.98)


def _bat(p: Pen) -> None:
    p.poly(p.main, 0.06, 0.06, 0.13, 0.0, 0.2, 0.0, 0.27, 0.06, 0.25, 0.46, 0.2, 0.72, 0.13, 0.72, 0.08, 0.46)
    p.box(DARK, 0.12, 0.7, 0.21, 0.96)
    p.box(p.dark, 0.09, 0.95, 0.24, 1.0, 0.02)
    p.line(p.light, 0.03, 0.13, 0.08, 0.13, 0.42)
    p.oval(WHITE, 0.46, 0.86, 0.14)
    p.arc(RED, 0.02, 0.36, 0.86, 0.12, 0.12, -50, 50)


def _apple(p: Pen) -> None:
    p.line(WOOD, 0.06, 0.49, 0.36, 0.55, 0.06)
    p.poly(LEAF, 0.55, 0.18, 0.7, 0.02, 0.94, 0.04, 0.8, 0.2)
    p.path(
        p.main,
        "0.49,0.33 0.6,0.24 0.78,0.22 0.92,0.34 0.98,0.54 0.92,0.76 0.78,0.95 0.64,1 "
        "0.49,0.95 0.34,1 0.2,0.95 0.06,0.76 0,0.54 0.06,0.34 0.2,0.22 0.38,0.24",
    )
    p.oval(p.light, 0.22, 0.46, 0.07, 0.12)


def _banana(p: Pen) -> None:
    p.path(
        p.main,
        "0.12,0.06 0.24,0.05 0.34,0.38 0.62,0.6 0.98,0.62 1.28,0.48 1.36,0.54 1.22,0.82 0.86,1 0.48,0.94 0.16,0.64",
    )
    p.line(p.dark, 0.035, 0.2, 0.3, 0.32, 0.62, 0.6, 0.8, 0.96, 0.82, 1.24, 0.64)
    p.box(BLACK, 0.12, 0.0, 0.24, 0.1)
    p.oval(BLACK, 1.32, 0.52, 0.06)


def _pizza(p: Pen) -> None:
    missing = p.state == "missing"
    first, last = (0.0, 290.0) if missing else (0.0, 360.0)
    p.wedge((206, 146, 76), 0.55, 0.5, 0.55, 0.5, first, last)
    p.wedge((250, 206, 94), 0.55, 0.5, 0.46, 0.41, first, last)
    for x, y in ((0.34, 0.3), (0.82, 0.62), (0.28, 0.6), (0.56, 0.62), (0.72, 0.78), (0.46, 0.82), (0.7, 0.26)):
        if not (missing and x > 0.6 and y < 0.4):
            p.oval((200, 54, 44), x, y, 0.085)
    for x, y in ((0.5, 0.3), (0.42, 0.46), (0.66, 0.6)):
        p.oval(LEAF, x, y, 0.04)


def _cake(p: Pen) -> None:
    p.oval(WHITE, 0.65, 0.94, 0.65, 0.06)
    p.box(CREAM, 0.14, 0.36, 1.16, 0.94, 0.04)
    p.box(p.dark, 0.14, 0.62, 1.16, 0.7)
    p.path(
        p.main,
        "0.12,0.3 1.18,0.3 1.18,0.46 1.06,0.56 0.94,0.46 0.8,0.58 0.65,0.46 0.5,0.58 0.36,0.46 0.24,0.56 0.12,0.46",
    )
    for x in (0.36, 0.65, 0.94):
        if p.state == "candles":
            p.box(BLUE, x - 0.03, 0.1, x + 0.03, 0.3)
            p.oval((255, 190, 60), x, 0.05, 0.04, 0.055)
        else:
            p.oval(RED, x, 0.25, 0.07)


def _donut(p: Pen) -> None:
    p.oval(BREAD, 0.5, 0.54, 0.5, 0.46)
    p.oval(p.main, 0.5, 0.5, 0.45, 0.4)
    sprinkles = ((0.2, 0.42, GOLD), (0.4, 0.2, BLUE), (0.64, 0.22, WHITE), (0.82, 0.46, RED), (0.7, 0.74, GREEN))
    for x, y, colour in (*sprinkles, (0.42, 0.8, WHITE), (0.22, 0.64, RED)):
        p.line(colour, 0.05, x - 0.04, y - 0.02, x + 0.04, y + 0.02)
    p.oval(BREAD, 0.5, 0.52, 0.17, 0.15)
    p.oval((104, 70, 48), 0.5, 0.53, 0.12, 0.11)


def _carrot(p: Pen) -> None:
    for x in (0.06, 0.2, 0.36, 0.48):
        p.poly(LEAF, 0.24, 0.32, 0.3, 0.32, x + 0.05, 0.02, x - 0.05, 0.0)
    p.poly(p.main, 0.05, 0.34, 0.14, 0.26, 0.4, 0.26, 0.49, 0.34, 0.31, 0.96, 0.27, 1.0, 0.22, 0.96)
    p.line(p.dark, 0.025, 0.08, 0.44, 0.24, 0.45)
    p.line(p.dark, 0.025, 0.3, 0.56, 0.42, 0.55)
    p.line(p.dark, 0.025, 0.17, 0.7, 0.28, 0.71)


ELECTRONIC = (
    Kind("laptop", "electronic", _laptop, 1.5, named("laptop|computer"), states=("on", "off"), portable=True),
    Kind("tv", "electronic", _tv, 1.46, named("tv|television"), states=("on", "off"), portable=True),
    Kind("phone", "electronic", _phone, 0.54, named("phone|smartphone"), portable=True),
    Kind("keyboard", "electronic", _keyboard, 2.3, named("keyboard"), portable=True),
    Kind("camera", "electronic", _camera, 1.4, named("camera"), portable=True),
    Kind("radio", "electronic", _radio, 1.5, named("radio|wireless/wirelesses"), portable=True),
)
ACCESSORY = (
    Kind("umbrella", "accessory", _umbrella, 1.2, named("umbrella|parasol"), states=("open", "closed"), tilts=True),
    Kind("backpack", "accessory", _backpack, 0.84, named("backpack|rucksack"), portable=True),
    Kind("handbag", "accessory", _handbag, 1.2, named("handbag|purse"), portable=True),
    Kind("tie", "accessory", _tie, 0.42, named("tie|necktie"), BRIGHT),
    Kind("suitcase", "accessory", _suitcase, 1.26, named("suitcase|trunk"), top=0.2, portable=True),
    Kind("hat", "accessory", _hat, 1.6, named("hat"), portable=True),
)
SPORTS = (
    Kind("ball", "sports", _ball, 1.0, named("ball"), tuple(c for c in ALL if c != "white"), portable=True),
    Kind("kite", "sports", _kite, 0.8, named("kite"), BRIGHT, states=("flying",), flies=("flying",), tilts=True),
    Kind("skateboard", "sports", _skateboard, 2.3, named("skateboard|board"), portable=True),
    Kind("racket", "sports", _racket, 0.6, named("tennis racket|racquet"), BRIGHT, tilts=True),
    Kind("surfboard", "sports", _surfboard, 0.4, named("surfboard|longboard"), BRIGHT, tilts=True),
    Kind("bat", "sports", _bat, 0.6, named("baseball bat|club")),
)
FOOD = (
    Kind("apple", "food", _apple, 0.98, named("apple"), ("red", "green", "yellow", "pink"), portable=True),
    Kind("banana", "food", _banana, 1.38, named("banana"), ("yellow", "green", "brown", "orange"), portable=True),
    Kind("pizza", "food", _pizza, 1.1, named("pizza"), ("yellow",), states=("missing", ""), portable=True),
    Kind("cake", "food", _cake, 1.3, named("cake|gateau/gateaux"), BRIGHT, ("candles", ""), portable=True),
    Kind("donut", "food", _donut, 1.0, named("donut|doughnut"), (*BRIGHT, "brown"), portable=True),
    Kind("carrot", "food", _carrot, 0.54, named("carrot"), ("orange", "purple", "yellow", "red"), tilts=True),
)
