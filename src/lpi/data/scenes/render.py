"""Draws a scene at any size: background, objects from back to front, then the style's surface."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from lpi.data.scenes.backdrop import background, draw_props, light_of
from lpi.data.scenes.drawing import BLACK, INKS, WHITE, Ink, Pen, mix, placing
from lpi.data.scenes.kind import COLOURS, extent
from lpi.data.scenes.world import INDOORS, KINDS, Scene, SceneObject, seeded
from lpi.errors import DataError

_WHOLE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the background's unit is the picture
_GRAIN_SIDE = 192
_LIGHTS: dict[str, tuple[tuple[float, float, float], tuple[int, int, int]]] = {
    "sunset": ((1.0, 0.86, 0.74), (10, 0, 0)),
    "rain": ((0.82, 0.86, 0.92), (6, 8, 12)),
    "snowfall": ((0.92, 0.94, 0.98), (10, 10, 12)),
    "night": ((0.42, 0.46, 0.62), (6, 10, 26)),
}


def render(scene: Scene, size: int) -> Image.Image:
    """The picture of a scene, RGB, ``size`` by ``size`` pixels; the same composition at every size.

    It is drawn two or three times as large and averaged down, for smooth edges.

    Raises:
        DataError: ``size`` is below 8.
    """
    if size < 8:
        raise DataError(f"A scene is drawn at 8 pixels or more; got {size}.")
    factor = 3 if size <= 128 else 2
    canvas = size * factor
    style = scene.style
    ink = INKS[style]
    image = _backdrop(scene, ink, canvas)
    draw = ImageDraw.Draw(image)
    for item in sorted(scene.objects, key=_depth):
        _draw_shadow(scene, item, ink, draw, canvas)
        _draw_object(item, ink, draw, canvas)
    if scene.weather in ("rain", "snowfall") and scene.place not in INDOORS:
        _draw_weather(scene, draw, canvas)
    return _surface(scene, image.reduce(factor), ink)


def _backdrop(scene: Scene, ink: Ink, canvas: int) -> Image.Image:
    photo = scene.style == "photo"
    side = canvas // 3 if photo else canvas  # drawn small and enlarged: out of focus, as behind a lens
    image = background(scene.place, scene.weather, scene.style, Ink() if scene.style == "night" else ink, side)
    fainter = Ink(ink.paper, ink.keep * 0.75, ink.edge, mix(ink.line, ink.paper, 0.45), ink.width * 0.6)
    if scene.style in ("plain", "night"):
        fainter = Ink(edge="none")
    elif scene.style == "comic":
        fainter = Ink(ink.paper, 0.8, "line", mix(ink.line, ink.paper, 0.3), ink.width * 0.5)
    elif scene.style == "chalk":
        fainter = Ink(ink.paper, 0.12, "line", mix(ink.paper, WHITE, 0.3), ink.width * 0.6)
    pen = Pen(ImageDraw.Draw(image), fainter, matrix=_WHOLE, canvas=side)
    draw_props(scene.place, scene.weather, scene.style, pen, seeded("props", scene.seed))
    if scene.style == "night":  # the dark lies on the background; its ink keeps the objects' colours apart
        image = _lit(image, *_LIGHTS["night"])
    return image.resize((canvas, canvas), Image.Resampling.BICUBIC) if photo else image


def _depth(item: SceneObject) -> tuple[float, float]:
    layers = {"behind": 0.0, "under": 1.0, "below": 1.0, "above": 1.0, "front": 4.0, "on": 3.0}
    return layers.get(item.role, 2.0), item.base


def _draw_shadow(scene: Scene, item: SceneObject, ink: Ink, draw: ImageDraw.ImageDraw, canvas: int) -> None:
    kind = KINDS[item.kind]
    left, _, right, bottom = extent(kind, item.state, item.flip, item.tilt)
    foot = item.base + bottom * item.scale
    if item.role == "on" or item.state in kind.flies or foot < 0.66:
        return
    if item.role == "main" and any(other.role == "under" for other in scene.objects):
        return
    ground = light_of(scene.place, scene.weather, scene.style)[3]
    shade = mix(ground, BLACK, 0.3)
    if scene.style == "night":
        shade = mix(ground, (8, 12, 34), 0.8)
    elif ink.keep < 1.0:
        shade = mix(ink.paper, shade, 0.4)
    half = (right - left) / 2 * item.scale * 1.04
    x = item.x + (left + right) / 2 * item.scale
    box = [(x - half) * canvas, (foot - 0.022) * canvas, (x + half) * canvas, (foot + 0.016) * canvas]
    draw.ellipse(box, fill=shade)


def _draw_object(item: SceneObject, ink: Ink, draw: ImageDraw.ImageDraw, canvas: int) -> None:
    kind = KINDS[item.kind]
    matrix = placing(item.x, item.base, item.scale, kind.wide, flip=item.flip, tilt=item.tilt)
    colour = COLOURS[item.colour]
    kind.draw(Pen(draw, ink, matrix=matrix, canvas=canvas, main=colour, state=item.state, tone=item.tone))


def _draw_weather(scene: Scene, draw: ImageDraw.ImageDraw, canvas: int) -> None:
    rng = seeded("weather", scene.seed)
    for _ in range(46):
        x, y = rng.random() * canvas, rng.random() * canvas
        if scene.weather == "rain":
            draw.line([x, y, x - 0.018 * canvas, y + 0.06 * canvas], fill=(206, 222, 238), width=max(1, canvas // 190))
        else:
            radius = rng.choice((0.006, 0.009, 0.012)) * canvas
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=WHITE)


@lru_cache(maxsize=32)
def _grain(side: int, softness: int, which: int = 0) -> NDArray[np.float32]:
    """Noise about 0, [side, side]: field number ``which``, the same at every size, ``softness`` cells wide."""
    field = np.random.Generator(np.random.PCG64(100 * softness + which)).standard_normal((_GRAIN_SIDE // softness,) * 2)
    image = Image.fromarray(field.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


@lru_cache(maxsize=8)
def _vignette(side: int) -> NDArray[np.float32]:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    radius = np.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)
    return np.clip(1.12 - 0.62 * radius**2 * 1.6, 0.0, 1.06)[:, :, None].astype(np.float32)


def _lit(image: Image.Image, gain: tuple[float, float, float], lift: tuple[int, int, int]) -> Image.Image:
    table = [min(255, int(value * gain[band] + lift[band])) for band in range(3) for value in range(256)]
    return image.point(table)


def _surface(scene: Scene, image: Image.Image, ink: Ink) -> Image.Image:
    """Light, paper, lens."""
    style, side = scene.style, image.width
    if scene.weather in _LIGHTS and scene.place not in INDOORS and style != "night":
        image = _lit(image, *_LIGHTS[scene.weather])
    if style in ("plain", "comic", "night"):
        return image
    if style == "photo":
        image = image.filter(ImageFilter.GaussianBlur(side / 260))
    shift = int(scene.seed % 97 / 97 * side)  # another stretch of the same noise
    which = scene.seed % 4  # soft noise isn't shifted: the seam would show
    pixels: NDArray[np.floating] = np.asarray(image, dtype=np.float32)
    if style == "photo":
        noise = np.roll(_grain(side, 1), (shift, shift // 2), (0, 1))[:, :, None]
        pixels = pixels * _vignette(side) + 6.5 * noise
    elif style == "watercolour":
        wash = _grain(side, 16, which) * 8.0 + _grain(side, 2) * 4.0
        pixels = pixels + wash[:, :, None]
    elif style == "sketch":
        pixels = pixels + np.minimum(np.roll(_grain(side, 1), shift, 1), 0.0)[:, :, None] * 6.0
    else:  # chalk: dust that the board keeps
        dust = np.roll(_grain(side, 1), shift, 1) * 7.0 + _grain(side, 24, which) * 5.0
        pixels = pixels + dust[:, :, None]
    return Image.fromarray(np.clip(pixels, 0.0, 255.0).astype(np.uint8))
