"""From pictures and texts to vectors: routed item by item, encoded in batches under each route, and mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder, Images, TextInputs, Texts
from lpi.backbones.given import PictureLike, given_pixels, given_texts
from lpi.backbones.state import Reading as Seen
from lpi.counting import Counter
from lpi.errors import ConfigError, UnknownNameError, did_you_mean
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Router, Routing, all_under
from lpi.routing.mix import mix

ENCODE_BATCH = 64


class Reading(Protocol):
    """What reads texts: the part of a method that tokens depend on."""

    @property
    def backbone(self) -> DualEncoder:
        """The frozen model."""

    def reserved_tokens(self) -> int:
        """How many tokens of the text context are taken."""


class Learned(Protocol):
    """What learned tasks by name."""

    @property
    def tasks(self) -> list[str]:
        """In the order of learning."""


class Encoding(Reading, Learned, Protocol):
    """What gives vectors under a route: a method of retrieval."""

    @property
    def router(self) -> Router | None:
        """Says whose knowledge a query takes."""

    def image_features(self, images: Images, route: int) -> Tensor:
        """Of pictures, [images, features]."""

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """Of captions, [texts, features]."""


@runtime_checkable
class Widened(Protocol):
    """A method whose vectors are wider than the backbone's, by a closed form's beside the features."""

    @property
    def extra_width(self) -> int:
        """By so many numbers."""


@runtime_checkable
class MapsFrozen(Protocol):
    """A method whose vectors may be maps of what the frozen model sees: then one pass serves all routes of an item."""

    def maps(self, route: int) -> bool:
        """Whether vectors under a route are such maps."""

    def seen(self, features: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """What is mapped of what a :class:`lpi.backbones.base.Reading` holds: features and states."""

    def read(self, tower: str, inputs: Any) -> tuple[Tensor, Tensor]:
        """What is mapped of inputs: features, [items, features], and states, [items, states]."""

    def mapped(self, tower: str, features: Tensor, states: Tensor, route: int) -> Tensor:
        """Vectors of what was read, under a route, [items, width]."""


class Once:
    """What is mapped of items, each read when first asked for, and once.

    Args:
        count: items that there are.
        read: reads some of them, int64 [some], as :meth:`MapsFrozen.read` does.
        known: what it would give for all of them, if that was read already.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[Tensor], tuple[Tensor, Tensor]],
        known: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._read = read
        self._known = torch.full((count,), known is not None)
        self._kept: tuple[Tensor, ...] = known or ()

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and states of some items, int64 [some]."""
        missing = rows[~self._known[rows]]
        if len(missing):
            found = self._read(missing)
            if not self._kept:
                self._kept = tuple(part.new_empty(len(self._known), part.shape[1]) for part in found)
            for kept, part in zip(self._kept, found, strict=True):
                kept[missing.to(kept.device)] = part
            self._known[missing] = True
        features, states = (kept[rows.to(kept.device)] for kept in self._kept)
        return features, states


def under(
    method: Encoding, tower: str, count: int, inputs: Callable[[Tensor], Any], reading: Seen | None = None
) -> Callable[[Tensor, int], Tensor]:
    """What encodes some of ``count`` items, int64 [some], under a route; see :class:`MapsFrozen`.

    Args:
        method: encodes.
        tower: ``vision`` or ``text``.
        count: items that there are.
        inputs: what the tower reads of some of them.
        reading: what the frozen model saw of all of them, if that is known.
    """
    encoded = method.image_features if tower == "vision" else method.text_features
    if not isinstance(method, MapsFrozen):
        return lambda rows, route: encoded(inputs(rows), route)
    known = None if reading is None else method.seen(reading.features, reading.summary)
    once = Once(count, lambda rows: method.read(tower, inputs(rows)), known)

    def encode(rows: Tensor, route: int) -> Tensor:
        if method.maps(route):
            return method.mapped(tower, *once(rows), route)
        return encoded(inputs(rows), route)

    return encode


def width_of(method: Reading) -> int:
    """Width of a method's vectors; those of the frozen model fill the first columns of them."""
    return method.backbone.feature_width + (method.extra_width if isinstance(method, Widened) else 0)


def tokens(method: Reading, texts: Sequence[str]) -> TextInputs:
    """Tokens of captions on the backbone's device, with room for what the method puts among them."""
    backbone = method.backbone
    return backbone.inputs.tokenize(texts, reserved=method.reserved_tokens()).to(backbone.device)


def task_index(method: Learned, task: str) -> int:
    """The position of a task among those learned.

    Raises:
        UnknownNameError: it wasn't learned.
    """
    if task not in method.tasks:
        raise UnknownNameError(f"No task is called {task!r}. {did_you_mean(str(task), method.tasks)}")
    return method.tasks.index(task)


@torch.no_grad()
def routing_features(router: Router, backbone: DualEncoder, tower: str, inputs: Tensor | Sequence[str]) -> Tensor:
    """What a router looks at, from the frozen backbone: L2-normalised, [items, routing features].

    Args:
        router: says what, and in which words captions are looked at.
        backbone: the frozen model.
        tower: ``vision`` or ``text``.
        inputs: normalised pixels [images, 3, height, width], or captions.
    """
    if tower == "vision":
        assert isinstance(inputs, Tensor)
        return backbone.view_images(inputs, router.look("vision"))
    worded = backbone.inputs.tokenize([router.wording(str(text)) for text in inputs]).to(backbone.device)
    return backbone.view_texts(worded, router.look("text"))


@torch.no_grad()
def route_images(method: Encoding, images: PictureLike | Sequence[PictureLike]) -> Routing:
    """Where pictures are routed, and how much each route counts.

    Args:
        method: whose router.
        images: as :meth:`lpi.methods.base.Method.encode_images` takes them.
    """
    backbone, router = method.backbone, method.router
    pixels = backbone.inputs.pixels(images)
    if router is None or not len(pixels):
        return all_under(0, pixels)
    found: Routing = router(
        "vision",
        _in_batches(
            len(pixels),
            lambda rows: routing_features(router, backbone, "vision", _ready(method, pixels, rows)),
        ),
    )
    return found


def reads_once(method: Encoding) -> bool:
    """Whether one pass may give what the router looks at, and vectors under the routes that it then chooses."""
    if method.router is None or not method.tasks:  # all will be the frozen model's
        return method.router is not None
    return isinstance(method, MapsFrozen) and any(method.maps(route) for route in range(len(method.tasks)))


@torch.no_grad()
def read_captions(method: Encoding, words: Sequence[str]) -> Seen | None:
    """What the frozen model and the router see of captions in one pass; ``None`` where vectors take their own passes.

    Args:
        method: whose router and vectors.
        words: the captions.
    """
    router = method.router
    if router is None or not len(words) or not reads_once(method):
        return None
    if method.reserved_tokens() or router.options.words != "plain":  # it isn't the same tokens that both read
        return None
    view, starts = router.look("text"), range(0, len(words), ENCODE_BATCH)
    batches = (tokens(method, words[start : start + ENCODE_BATCH]) for start in starts)
    return Seen.joined([method.backbone.reading("text", batch, view) for batch in batches])


@torch.no_grad()
def route_texts(method: Encoding, texts: str | Sequence[str], reading: Seen | None = None) -> Routing:
    """Where captions are routed, and how much each route counts.

    Args:
        method: whose router.
        texts: the captions.
        reading: what :func:`read_captions` gave for them, if they were read.
    """
    words, router = given_texts(texts)[0], method.router
    if router is None or not len(words):
        return all_under(0, torch.empty(len(words), 0))
    if reading is not None:
        known: Routing = router("text", reading.look.float())
        return known

    def look(rows: Tensor) -> Tensor:
        return routing_features(router, method.backbone, "text", [words[row] for row in rows.tolist()])

    found: Routing = router("text", _in_batches(len(words), look))
    return found


class How(TypedDict, total=False):
    """How items are encoded; see :meth:`lpi.methods.base.Method.encode_images`."""

    task: str | None
    routing: Routing | None
    batch_size: int
    progress: bool
    device: str | None


@torch.no_grad()
def encode_images(
    method: Encoding,
    images: PictureLike | Sequence[PictureLike],
    *,
    task: str | None = None,
    routing: Routing | None = None,
    batch_size: int = ENCODE_BATCH,
    progress: bool = False,
) -> Tensor:
    """See :meth:`lpi.methods.base.Method.encode_images`."""
    inputs = method.backbone.inputs
    pixels, single = given_pixels(images, inputs.prepare, inputs.image_size)
    if task is not None:
        routing = all_under(task_index(method, task), pixels)
    features = _mixed(
        method,
        route_images(method, pixels) if routing is None else routing,
        under(method, "vision", len(pixels), lambda rows: _ready(method, pixels, rows)),
        batch_size,
        "pictures" if progress else None,
    )
    return features[0] if single else features


@torch.no_grad()
def encode_texts(
    method: Encoding,
    texts: str | Sequence[str],
    *,
    task: str | None = None,
    routing: Routing | None = None,
    reading: Seen | None = None,
    batch_size: int = ENCODE_BATCH,
    progress: bool = False,
) -> Tensor:
    """See :meth:`lpi.methods.base.Method.encode_texts`; ``reading`` is what :func:`read_captions` gave, if it did."""
    words, single = given_texts(texts)
    if task is not None:
        routing = all_under(task_index(method, task), torch.empty(len(words), 0))
    if routing is None:
        reading = read_captions(method, words)
        routing = route_texts(method, words, reading)
    own = under(method, "text", len(words), lambda rows: tokens(method, [words[row] for row in rows.tolist()]), reading)

    def encode(rows: Tensor, route: int) -> Tensor:
        if route != FALLBACK:
            return own(rows, route)
        if reading is not None:
            return F.normalize(reading.features[rows.to(reading.features.device)], dim=-1)
        backbone, chosen = method.backbone, [words[row] for row in rows.tolist()]
        # nothing of the method's own takes room in the context
        return F.normalize(backbone.encode_texts(backbone.inputs.tokenize(chosen).to(backbone.device)), dim=-1)

    features = _mixed(method, routing, encode, batch_size, "texts" if progress else None)
    return features[0] if single else features


def _ready(method: Reading, pixels: Tensor, rows: Tensor) -> Tensor:
    return method.backbone.inputs.normalise(pixels[rows].to(method.backbone.device))


def _mixed(
    method: Encoding, routing: Routing, encode: Callable[[Tensor, int], Tensor], batch: int, counted: str | None
) -> Tensor:
    """Features of items under their routes, mixed; ``counted`` names them on a bar."""
    if batch < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch}.")
    backbone, done, total = method.backbone, 0, int((routing.weights > 0).sum())

    def counting(rows: Tensor, route: int) -> Tensor:
        nonlocal done
        found, done = encode(rows, route), done + len(rows)
        counter.count(f"encoding {counted}", done, total)
        return found

    how: dict[str, Any] = {"width": width_of(method), "batch": batch, "device": backbone.device}
    if counted is None:
        return mix(routing.routes, routing.weights, encode, **how)
    with Counter() as counter:
        return mix(routing.routes, routing.weights, counting, **how)


def _in_batches(count: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of ``count`` items in batches, [count, features], float32."""
    starts = range(0, count, ENCODE_BATCH)
    return torch.cat([encode(torch.arange(start, min(start + ENCODE_BATCH, count))) for start in starts]).float()
