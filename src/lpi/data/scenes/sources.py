"""Where a task's pictures come from: each family has a collection of its own, which mounts and words them its way.

A collection that grows by domain grows by sources: a shop, a recipe box, a security camera. Each puts its own border
or label on a picture and its own phrase around a caption. The embedded backbone has seen none of them, so they are
what a task brings besides new objects; what they add tells the source apart and says nothing about the scene.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int, int]
Box = tuple[float, float, float, float]

_FINE = 4  # mounts are drawn so many times as large and averaged down
INK, PAPER, CREAM, GREY = (24, 26, 32, 255), (252, 251, 247, 255), (241, 230, 205, 255), (128, 132, 140, 255)
RED, YELLOW, BLUE, GOLD = (206, 52, 46, 255), (244, 200, 48, 255), (34, 70, 140, 255), (198, 160, 82, 255)
PINK, GREEN, BROWN, SKY = (232, 132, 164, 255), (70, 140, 92, 255), (172, 124, 72, 255), (96, 156, 206, 255)


class Mount:
    """A transparent sheet that lies over the picture; coordinates are shares of the side."""

    def __init__(self, side: int) -> None:
        self.side = side * _FINE
        self.sheet = Image.new("RGBA", (self.side, self.side), (0, 0, 0, 0))
        self.pen = ImageDraw.Draw(self.sheet)

    def _pixels(self, box: Box) -> list[float]:
        return [value * self.side for value in box]

    def bar(self, box: Box, fill: Colour) -> None:
        """A filled rectangle."""
        self.pen.rectangle(self._pixels(box), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A filled circle."""
        self.pen.ellipse(self._pixels((x - radius, y - radius, x + radius, y + radius)), fill=fill)

    def shape(self, points: list[tuple[float, float]], fill: Colour) -> None:
        """A filled polygon."""
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill=fill)

    def border(self, width: float, fill: Colour, inset: float = 0.0) -> None:
        """A frame along the edges."""
        near, far = inset, 1.0 - inset
        for box in (
            (near, near, far, near + width),
            (near, far - width, far, far),
            (near, near, near + width, far),
            (far - width, near, far, far),
        ):
            self.bar(box, fill)

    def writing(self, x: float, y: float, lengths: tuple[float, ...], fill: Colour, height: float = 0.02) -> None:
        """Lines that stand for words."""
        for row, length in enumerate(lengths):
            top = y + row * height * 1.9
            self.bar((x, top, x + length, top + height), fill)


def _manual(m: Mount) -> None:
    m.border(0.035, SKY)
    m.border(0.008, BLUE, inset=0.035)
    m.disc(0.88, 0.13, 0.075, BLUE)
    m.disc(0.88, 0.13, 0.055, PAPER)
    m.bar((0.872, 0.095, 0.89, 0.165), BLUE)


def _broadcast(m: Mount) -> None:
    m.bar((0.0, 0.88, 1.0, 1.0), BLUE)
    m.bar((0.04, 0.9, 0.2, 0.98), YELLOW)
    m.writing(0.07, 0.92, (0.1,), INK, height=0.035)
    m.writing(0.25, 0.91, (0.3, 0.22), PAPER)
    m.bar((0.82, 0.9, 0.96, 0.98), PAPER)


def _watching(m: Mount) -> None:
    for x, y in ((0.04, 0.04), (0.96, 0.04), (0.04, 0.96), (0.96, 0.96)):
        dx, dy = (0.12 if x < 0.5 else -0.12), (0.12 if y < 0.5 else -0.12)
        m.bar((min(x, x + dx), y - 0.012, max(x, x + dx), y + 0.012), PAPER)
        m.bar((x - 0.012, min(y, y + dy), x + 0.012, max(y, y + dy)), PAPER)
    m.disc(0.12, 0.13, 0.035, RED)
    m.writing(0.18, 0.115, (0.13,), PAPER, height=0.03)


def _listing(m: Mount) -> None:
    m.bar((0.0, 0.0, 1.0, 0.07), INK)
    m.writing(0.05, 0.025, (0.12,), PAPER)
    m.writing(0.83, 0.025, (0.12,), GREEN)
    m.bar((0.0, 0.93, 1.0, 1.0), INK)
    m.disc(0.5, 0.93, 0.06, PINK)


def _tagged(m: Mount) -> None:
    m.shape([(0.66, 0.0), (1.0, 0.0), (1.0, 0.22), (0.74, 0.22), (0.66, 0.11)], BROWN)
    m.disc(0.71, 0.11, 0.02, PAPER)
    m.writing(0.77, 0.06, (0.17, 0.12, 0.15), INK)
    m.border(0.02, BROWN)


def _framed(m: Mount) -> None:
    m.border(0.05, INK)
    m.border(0.014, GOLD, inset=0.036)


def _priced(m: Mount) -> None:
    m.border(0.045, PAPER)
    m.disc(0.14, 0.15, 0.115, RED)
    m.writing(0.085, 0.115, (0.11, 0.08), PAPER, height=0.028)


def _printed(m: Mount) -> None:
    m.bar((0.0, 0.86, 1.0, 1.0), PAPER)
    m.writing(0.05, 0.89, (0.5, 0.36), GREY)
    m.writing(0.82, 0.89, (0.13,), RED, height=0.04)
    m.shape([(0.88, 0.0), (1.0, 0.0), (1.0, 0.12)], GREY)


def _numbered(m: Mount) -> None:
    m.border(0.022, YELLOW)
    m.bar((0.0, 0.0, 0.3, 0.14), YELLOW)
    for place in range(7):
        m.bar((0.04 + place * 0.034, 0.035, 0.04 + place * 0.034 + (0.01 if place % 2 else 0.02), 0.105), INK)


def _checked(m: Mount) -> None:
    for row in range(2):
        for place in range(20):
            fill = PAPER if (row + place) % 2 else RED
            for top in (row * 0.05, 0.9 + row * 0.05):
                m.bar((place * 0.05, top, place * 0.05 + 0.05, top + 0.05), fill)


def _taped(m: Mount) -> None:
    m.border(0.03, CREAM)
    for corner in (
        ((0.0, 0.16), (0.16, 0.0), (0.24, 0.06), (0.06, 0.24)),
        ((1.0, 0.84), (0.84, 1.0), (0.76, 0.94), (0.94, 0.76)),
    ):
        m.shape(list(corner), (236, 222, 150, 235))


def _filmed(m: Mount) -> None:
    for left in (0.0, 0.93):
        m.bar((left, 0.0, left + 0.07, 1.0), INK)
        for place in range(9):
            m.bar((left + 0.02, 0.03 + place * 0.11, left + 0.05, 0.085 + place * 0.11), PAPER)


@dataclass(frozen=True)
class Source:
    """A collection: its name, what it lays over a picture, and what it writes around a caption.

    Attributes:
        name: for people.
        mount: draws the sheet.
        before, after: phrases around the caption; ``{}`` takes a number.
    """

    name: str
    mount: Callable[[Mount], None]
    before: tuple[str, ...] = ("",)
    after: tuple[str, ...] = ("",)

    def word(self, caption: str, rng: Random) -> str:
        """A caption in this collection's words."""
        before, after = (rng.choice(phrases).format(rng.randint(2, 99)) for phrases in (self.before, self.after))
        return f"{before}{caption}{after}"

    def over(self, image: Image.Image) -> Image.Image:
        """The picture under this collection's sheet."""
        sheet = _sheet(self.mount, image.width)
        mounted = image.copy()
        mounted.paste(sheet, (0, 0), sheet)
        return mounted


@lru_cache(maxsize=64)
def _sheet(mount: Callable[[Mount], None], side: int) -> Image.Image:
    drawn = Mount(side)
    mount(drawn)
    return drawn.sheet.reduce(_FINE)


SOURCES: dict[str, Source] = {
    "appliance": Source("service manual", _manual, before=("figure {}: ", "see figure {}, ")),
    "sports": Source("sports channel", _broadcast, before=("live on channel {}: ", "in minute {}: ")),
    "outdoor": Source("street camera", _watching, before=("camera {}: ", "camera {}, ")),
    "electronic": Source("second-hand market", _listing, after=(", hardly used, {} euros", ", for sale, {} euros")),
    "accessory": Source("lost property office", _tagged, before=("found, number {}: ", "lost and found {}: ")),
    "indoor": Source("auction house", _framed, after=(", lot {}", ", estate lot {}")),
    "kitchen": Source("shop", _priced, before=("new in our shop: ", "only {} euros: ")),
    "furniture": Source("catalogue", _printed, before=("page {}: ", "on page {}, ")),
    "vehicle": Source("car dealer", _numbered, after=(", stock number {}", ", car number {}")),
    "food": Source("recipe box", _checked, after=(", serves {}", ", ready in {} minutes")),
    "animal": Source("field notes", _taped, before=("day {}, ", "field notes, day {}: ")),
    "person": Source("news archive", _filmed, after=(", we report", ", from reel {}")),
}
