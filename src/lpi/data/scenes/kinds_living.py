"""Kinds of the families animal and person."""

from lpi.data.scenes.drawing import (
    BLACK,
    CREAM,
    DARK,
    FLAME,
    GLASS,
    GLOW,
    GOLD,
    IRON,
    PINK,
    RED,
    SKINS,
    STEEL,
    WHITE,
    WOOD,
    Colour,
    Pen,
    mix,
)
from lpi.data.scenes.kind import BRIGHT, COATS, Kind, named

BARK: Colour = (134, 84, 44)
HAIRS: tuple[Colour, ...] = ((92, 60, 38), (46, 38, 36), (216, 164, 78))


def _dog(p: Pen) -> None:
    if p.state == "sitting":
        p.line(p.dark, 0.09, 0.2, 0.86, 0.02, 0.7)
        p.poly(p.main, 0.5, 0.34, 0.8, 0.4, 0.82, 0.98, 0.2, 1.0, 0.14, 0.82, 0.26, 0.58)
        p.oval(p.main, 0.32, 0.82, 0.2, 0.18)
        p.box(p.light, 0.62, 0.6, 0.74, 1.0, 0.05)
        head_x, head_y = 0.66, 0.26
    else:
        p.line(p.main, 0.09, 0.16, 0.5, 0.03, 0.22)
        for x in (0.2, 0.34):
            p.box(p.dark, x, 0.62, x + 0.11, 1.0, 0.03)
            p.box(p.dark, x + 0.5, 0.62, x + 0.61, 1.0, 0.03)
        p.box(p.main, 0.12, 0.42, 0.98, 0.78, 0.17)
        p.poly(p.main, 0.72, 0.44, 0.86, 0.2, 1.1, 0.3, 0.98, 0.66)
        head_x, head_y = 0.98, 0.24
    p.box(p.main, head_x - 0.2, head_y - 0.2, head_x + 0.2, head_y + 0.17, 0.14)
    p.box(p.light, head_x + 0.04, head_y - 0.02, head_x + 0.38, head_y + 0.17, 0.08)
    p.oval(BLACK, head_x + 0.36, head_y + 0.01, 0.055)
    p.oval(BLACK, head_x + 0.07, head_y - 0.08, 0.035)
    p.box(p.dark, head_x - 0.24, head_y - 0.2, head_x - 0.06, head_y + 0.16, 0.08)
    p.box(RED, head_x - 0.17, head_y + 0.16, head_x + 0.12, head_y + 0.22, 0.02)


def _cat(p: Pen) -> None:
    if p.state == "sleeping":
        p.oval(p.main, 0.66, 0.7, 0.6, 0.3)
        p.arc(p.dark, 0.1, 0.62, 0.8, 0.56, 0.16, 20, 150)
        x, y = 0.3, 0.62
    else:
        p.arc(p.dark, 0.09, 0.82, 0.76, 0.2, 0.2, -60, 130)
        p.oval(p.main, 0.5, 0.74, 0.3, 0.27)
        p.box(p.light, 0.36, 0.66, 0.47, 1.0, 0.05)
        p.box(p.light, 0.53, 0.66, 0.64, 1.0, 0.05)
        x, y = 0.5, 0.32
    for side in (-1, 1):
        p.poly(p.main, x + side * 0.28, y - 0.32, x + side * 0.27, y, x + side * 0.04, y - 0.18)
        p.poly(PINK, x + side * 0.24, y - 0.24, x + side * 0.23, y - 0.08, x + side * 0.12, y - 0.15)
    p.oval(p.main, x, y, 0.29, 0.25)
    for side in (-1, 1):
        if p.state == "sleeping":
            p.line(BLACK, 0.03, x + side * 0.18, y - 0.02, x + side * 0.06, y + 0.01)
        else:
            p.oval((150, 220, 110), x + side * 0.12, y - 0.04, 0.07)
            p.oval(BLACK, x + side * 0.12, y - 0.04, 0.03, 0.06)
        p.line(IRON, 0.018, x + side * 0.08, y + 0.1, x + side * 0.38, y + 0.05)
        p.line(IRON, 0.018, x + side * 0.08, y + 0.12, x + side * 0.37, y + 0.15)
    p.poly(PINK, x - 0.045, y + 0.06, x + 0.045, y + 0.06, x, y + 0.12)


def _bird(p: Pen) -> None:
    p.poly(p.dark, 0.0, 0.4, 0.4, 0.46, 0.32, 0.66, 0.02, 0.58)
    if p.state != "flying":
        p.line(FLAME, 0.04, 0.58, 0.8, 0.56, 0.99, 0.66, 0.99)
        p.line(FLAME, 0.04, 0.74, 0.8, 0.74, 0.99, 0.84, 0.99)
    p.oval(p.main, 0.64, 0.58, 0.38, 0.27)
    p.oval(p.light, 0.74, 0.66, 0.22, 0.15)
    p.poly(FLAME, 1.12, 0.26, 1.34, 0.35, 1.12, 0.43)
    p.oval(p.main, 0.98, 0.34, 0.2)
    p.oval(WHITE, 1.03, 0.29, 0.06)
    p.oval(BLACK, 1.05, 0.29, 0.03)
    if p.state == "flying":
        p.poly(p.dark, 0.44, 0.56, 0.2, 0.0, 0.5, 0.06, 0.82, 0.5)
        p.poly(p.light, 0.5, 0.5, 0.4, 0.16, 0.52, 0.16, 0.72, 0.48)
    else:
        p.poly(p.dark, 0.3, 0.46, 0.82, 0.44, 0.62, 0.74, 0.2, 0.7)


def _elephant(p: Pen) -> None:
    p.line(p.dark, 0.04, 0.06, 0.4, 0.0, 0.66)
    for x in (0.14, 0.34, 0.62, 0.8):
        p.box(p.dark if x in (0.34, 0.62) else p.main, x, 0.6, x + 0.17, 1.0, 0.03)
        p.box(CREAM, x + 0.01, 0.95, x + 0.16, 1.0)
    p.box(p.main, 0.04, 0.14, 1.0, 0.78, 0.28)
    p.line(p.main, 0.15, 1.26, 0.34, 1.38, 0.5, 1.37, 0.78, 1.46, 0.86)
    p.oval(p.main, 1.1, 0.3, 0.27, 0.26)
    p.poly(WHITE, 1.16, 0.5, 1.26, 0.48, 1.3, 0.66, 1.22, 0.64)
    p.oval(p.dark, 0.93, 0.34, 0.2, 0.27)
    p.oval(mix(p.main, PINK, 0.45), 0.94, 0.35, 0.12, 0.18)
    p.oval(BLACK, 1.22, 0.24, 0.035)


def _giraffe(p: Pen) -> None:
    for x in (0.08, 0.2, 0.4, 0.5):
        p.box(p.main, x, 0.66, x + 0.07, 1.0)
        p.box(DARK, x, 0.95, x + 0.07, 1.0)
    p.line(p.dark, 0.03, 0.06, 0.56, 0.0, 0.76)
    p.box(p.main, 0.04, 0.5, 0.6, 0.74, 0.1)
    p.poly(p.main, 0.42, 0.56, 0.56, 0.14, 0.68, 0.14, 0.62, 0.66)
    p.line(BARK, 0.025, 0.58, 0.1, 0.57, 0.01)
    p.line(BARK, 0.025, 0.65, 0.1, 0.66, 0.01)
    p.poly(p.main, 0.53, 0.07, 0.7, 0.07, 0.86, 0.17, 0.84, 0.23, 0.6, 0.22)
    p.poly(p.main, 0.54, 0.1, 0.44, 0.08, 0.5, 0.15)
    p.oval(BLACK, 0.67, 0.12, 0.02)
    for x, y in ((0.13, 0.58), (0.27, 0.66), (0.28, 0.55), (0.42, 0.64), (0.51, 0.5), (0.57, 0.38), (0.6, 0.26)):
        p.oval(BARK, x, y, 0.04)


def _sheep(p: Pen) -> None:
    for x in (0.3, 0.44, 0.76, 0.9):
        p.box(DARK, x, 0.7, x + 0.08, 1.0, 0.02)
    for x, y in (
        (0.2, 0.46),
        (0.24, 0.66),
        (0.44, 0.3),
        (0.48, 0.74),
        (0.7, 0.26),
        (0.74, 0.76),
        (0.94, 0.36),
        (0.98, 0.66),
    ):
        p.oval(p.main, x, y, 0.2, 0.18)
    p.box(p.main, 0.22, 0.3, 1.0, 0.8, 0.2)
    for x, y in ((0.4, 0.46), (0.6, 0.6), (0.7, 0.42)):
        p.arc(p.dark, 0.02, x, y, 0.1, 0.08, 180, 360)
    face = DARK if p.main[0] > 90 else CREAM
    p.oval(face, 0.98, 0.32, 0.12, 0.06)
    p.oval(face, 1.2, 0.42, 0.18, 0.23)
    p.oval(p.main, 1.14, 0.18, 0.16, 0.11)
    p.oval(WHITE, 1.24, 0.36, 0.05)
    p.oval(BLACK, 1.25, 0.36, 0.025)


def _legs(p: Pen, colour: Colour, shoes: Colour = DARK) -> None:
    p.box(colour, 0.2, 0.68, 0.32, 0.96)
    p.box(colour, 0.36, 0.68, 0.48, 0.96)
    p.box(shoes, 0.15, 0.92, 0.32, 1.0, 0.03)
    p.box(shoes, 0.36, 0.92, 0.53, 1.0, 0.03)


def _arms(p: Pen, sleeve: Colour, hand: Colour) -> None:
    p.line(sleeve, 0.1, 0.2, 0.47, 0.07, 0.66)
    p.oval(hand, 0.07, 0.69, 0.055)
    if p.state == "waving":
        p.line(sleeve, 0.1, 0.48, 0.48, 0.63, 0.32)
        p.oval(hand, 0.64, 0.28, 0.06)
    else:
        p.line(sleeve, 0.1, 0.48, 0.47, 0.61, 0.66)
        p.oval(hand, 0.61, 0.69, 0.055)


def _head(p: Pen, hair: Colour | None = None) -> Colour:
    skin = SKINS[p.tone % 3]
    if hair is not None:
        p.oval(hair, 0.34, 0.2, 0.19, 0.18)
    p.oval(skin, 0.34, 0.25, 0.165, 0.16)
    for x in (0.28, 0.4):
        p.oval(BLACK, x, 0.25, 0.02, 0.028)
    p.arc((150, 60, 50), 0.018, 0.34, 0.29, 0.06, 0.05, 20, 160)
    return skin


def _child(p: Pen) -> None:
    skin = SKINS[p.tone % 3]
    p.line(DARK, 0.012, 0.07, 0.69, 0.02, 0.3)
    p.oval(p.light, 0.0, 0.16, 0.13, 0.16)
    _legs(p, skin, WHITE)
    p.box((70, 96, 150), 0.19, 0.66, 0.49, 0.8, 0.03)
    _arms(p, p.main, skin)
    p.box(p.main, 0.18, 0.41, 0.5, 0.7, 0.07)
    p.box(WHITE, 0.18, 0.54, 0.5, 0.6)
    hair = HAIRS[p.tone % 3]
    for x in (0.13, 0.55):
        p.oval(hair, x, 0.24, 0.07)
    _head(p, hair)
    p.chord(hair, 0.34, 0.21, 0.18, 0.15, 190, 350)


def _cook(p: Pen) -> None:
    _legs(p, (84, 88, 100))
    _arms(p, WHITE, SKINS[p.tone % 3])
    p.box(WHITE, 0.17, 0.41, 0.51, 0.76, 0.06)
    p.poly(p.main, 0.24, 0.48, 0.44, 0.48, 0.48, 0.86, 0.2, 0.86)
    p.line(p.main, 0.03, 0.17, 0.58, 0.51, 0.58)
    _head(p, HAIRS[p.tone % 3])
    p.poly(p.main, 0.24, 0.41, 0.44, 0.41, 0.34, 0.48)
    for x, y in ((0.2, 0.06), (0.34, 0.02), (0.48, 0.06)):
        p.oval(WHITE, x, y, 0.11, 0.085)
    p.box(WHITE, 0.18, 0.06, 0.5, 0.18)
    p.oval(IRON, 0.02, 0.58, 0.1, 0.1)
    p.line(DARK, 0.035, 0.05, 0.66, 0.09, 0.76)


def _firefighter(p: Pen) -> None:
    coat = (70, 74, 86)
    p.line(WOOD, 0.04, 0.02, 0.98, 0.08, 0.42)
    p.poly(STEEL, 0.06, 0.4, 0.2, 0.36, 0.18, 0.52, 0.07, 0.48)
    _legs(p, coat, BLACK)
    p.box(GLOW, 0.2, 0.84, 0.32, 0.88)
    p.box(GLOW, 0.36, 0.84, 0.48, 0.88)
    _arms(p, coat, SKINS[p.tone % 3])
    p.box(coat, 0.17, 0.41, 0.51, 0.78, 0.06)
    p.box(GLOW, 0.17, 0.52, 0.51, 0.57)
    p.box(GLOW, 0.17, 0.66, 0.51, 0.71)
    p.box(GLOW, 0.31, 0.41, 0.37, 0.78)
    _head(p)
    p.chord(p.main, 0.34, 0.19, 0.21, 0.19, 180, 360)
    p.poly(p.main, 0.04, 0.2, 0.16, 0.14, 0.52, 0.14, 0.64, 0.2)
    p.poly(GOLD, 0.29, 0.03, 0.39, 0.03, 0.41, 0.14, 0.34, 0.17, 0.27, 0.14)


def _astronaut(p: Pen) -> None:
    p.box(IRON, 0.1, 0.4, 0.58, 0.72, 0.06)
    _legs(p, p.main, p.dark)
    _arms(p, p.main, p.dark)
    p.box(p.main, 0.17, 0.41, 0.51, 0.78, 0.09)
    p.box(DARK, 0.24, 0.5, 0.44, 0.64, 0.02)
    p.oval(RED, 0.29, 0.57, 0.03)
    p.oval(GOLD, 0.38, 0.57, 0.03)
    p.oval(p.main, 0.34, 0.23, 0.24, 0.23)
    p.oval((54, 74, 116), 0.34, 0.24, 0.175, 0.155)
    p.chord((236, 180, 84), 0.34, 0.24, 0.175, 0.155, 110, 290)
    p.oval(WHITE, 0.42, 0.18, 0.03)


def _king(p: Pen) -> None:
    skin = SKINS[p.tone % 3]
    p.line(GOLD, 0.035, 0.62, 0.98, 0.62, 0.44)
    p.oval(GOLD, 0.62, 0.4, 0.06)
    p.poly(p.main, 0.2, 0.42, 0.48, 0.42, 0.62, 1.0, 0.06, 1.0)
    p.poly(WHITE, 0.3, 0.42, 0.38, 0.42, 0.42, 1.0, 0.26, 1.0)
    p.poly(WHITE, 0.07, 0.93, 0.61, 0.93, 0.63, 1.0, 0.05, 1.0)
    for y in (0.62, 0.78):
        p.oval(BLACK, 0.34, y, 0.02)
    _arms(p, p.main, skin)
    p.oval(WHITE, 0.34, 0.43, 0.18, 0.06)
    _head(p)
    p.poly(HAIRS[p.tone % 3], 0.19, 0.29, 0.34, 0.32, 0.49, 0.29, 0.44, 0.43, 0.34, 0.49, 0.24, 0.43)
    p.poly(GOLD, 0.17, 0.14, 0.14, -0.04, 0.25, 0.05, 0.34, -0.06, 0.43, 0.05, 0.54, -0.04, 0.51, 0.14)
    p.oval(RED, 0.34, 0.08, 0.03)


def _doctor(p: Pen) -> None:
    skin = SKINS[p.tone % 3]
    _legs(p, p.main)
    _arms(p, WHITE, skin)
    p.box(WHITE, 0.16, 0.41, 0.52, 0.86, 0.05)
    p.poly(p.main, 0.25, 0.41, 0.43, 0.41, 0.34, 0.62)
    p.line(IRON, 0.02, 0.34, 0.6, 0.34, 0.86)
    p.arc(DARK, 0.028, 0.34, 0.42, 0.12, 0.2, 0, 180)
    p.oval(STEEL, 0.4, 0.61, 0.035)
    hair = HAIRS[p.tone % 3]
    _head(p, hair)
    p.chord(hair, 0.34, 0.2, 0.18, 0.15, 190, 350)
    p.oval(GLASS, 0.28, 0.25, 0.05)
    p.oval(GLASS, 0.4, 0.25, 0.05)
    p.box(WHITE, 0.0, 0.72, 0.2, 0.88, 0.03)
    p.box(RED, 0.08, 0.74, 0.12, 0.86)
    p.box(RED, 0.04, 0.78, 0.16, 0.82)


ANIMAL = (
    Kind("dog", "animal", _dog, 1.36, named("dog|hound"), COATS, states=("", "sitting"), portable=True),
    Kind("cat", "animal", _cat, 1.04, named("cat|kitty/kitties"), COATS, states=("", "sleeping"), portable=True),
    Kind("bird", "animal", _bird, 1.34, named("bird"), BRIGHT, states=("flying", ""), flies=("flying",), portable=True),
    Kind("elephant", "animal", _elephant, 1.5, named("elephant"), ("grey", "brown", "pink", "blue")),
    Kind("giraffe", "animal", _giraffe, 0.86, named("giraffe"), ("yellow", "orange", "white")),
    Kind("sheep", "animal", _sheep, 1.38, named("sheep/sheep|lamb"), ("white", "black", "brown", "grey", "pink")),
)
WEAR = tuple(name for name in (*BRIGHT, "grey") if name != "white")
PERSON = (
    Kind("child", "person", _child, 0.68, named("child/children|kid"), BRIGHT, states=("", "waving")),
    Kind("cook", "person", _cook, 0.68, named("cook|chef"), WEAR, states=("", "waving")),
    Kind("firefighter", "person", _firefighter, 0.68, named("firefighter|fireman/firemen"), BRIGHT, ("", "waving")),
    Kind(
        "astronaut", "person", _astronaut, 0.68, named("astronaut|spaceman/spacemen"), (*BRIGHT, "grey"), ("", "waving")
    ),
    Kind("king", "person", _king, 0.68, named("king|ruler"), WEAR, states=("", "waving")),
    Kind("doctor", "person", _doctor, 0.68, named("doctor|physician"), WEAR, states=("", "waving")),
)
