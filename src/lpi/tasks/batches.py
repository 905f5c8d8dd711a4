"""Records become batches of pixels, texts and what belongs to what: the same ones for the same seed and epoch.

Nothing here carries state from one epoch to the next, so a run that was stopped goes on with the very same batches.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lpi.data.records import CaptionedImage, Picture, normal_caption
from lpi.errors import ConfigError, DataError, LpiError, ShapeError, did_you_mean

Pixels = NDArray[np.uint8]
Prepare = Callable[[Image.Image], Pixels]
AugmentKind = Literal["none", "flip", "crop", "crop_flip"]

_SOURCE_SCALE = 1.25
"""A picture kept for crops has its shortest side at this multiple of the output: a crop of half the area is then
enlarged by 1.1 at most, at 1.6 times the memory."""

AHEAD = 2
"""Batches that are loaded before they are needed."""

_ORDER, _SAMPLE = 0, 1
"""Keep the random numbers of an epoch's order apart from those of its samples."""


@dataclass(frozen=True)
class Augment:
    """How training pictures are varied; evaluation never is.

    Args:
        kind: "crop" takes a random part and resizes it, "flip" mirrors every other picture, "crop_flip" does both.
        scale: smallest and largest part of the picture's area that a crop takes, 0 < smallest <= largest <= 1.
        ratio: smallest and largest width/height of a crop, before it is resized to the backbone's input.

    Raises:
        ConfigError: an unknown kind, or limits out of order.
    """

    kind: AugmentKind = "none"
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.kind not in get_args(AugmentKind):
            hint = did_you_mean(str(self.kind), get_args(AugmentKind))
            raise ConfigError(f"No augmentation is called {self.kind!r}. {hint}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augment scale must be 0 < smallest <= largest <= 1; got {self.scale}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"augment ratio must be 0 < smallest <= largest; got {self.ratio}.")

    @property
    def crops(self) -> bool:
        """Whether parts of pictures are taken."""
        return self.kind in ("crop", "crop_flip")

    @property
    def flips(self) -> bool:
        """Whether pictures are mirrored."""
        return self.kind in ("flip", "crop_flip")

    def box(self, width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
        """A random part of a picture: left, top, right, bottom in pixels.

        After ten parts that don't fit (very flat or tall pictures) the largest central part of an allowed ratio.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = width * height * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(low, high))
            wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if wide <= width and tall <= height:
                left, top = generator.uniform(0, width - wide), generator.uniform(0, height - tall)
                # rounding may overstep the edge by a hair, which PIL refuses
                return left, top, min(left + wide, width), min(top + tall, height)
        wide, tall = min(width, height * self.ratio[1]), min(height, width / self.ratio[0])
        left, top = (width - wide) / 2, (height - tall) / 2
        return left, top, left + wide, top + tall


Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def cores() -> int:
    """Processors that this process may use: as many threads decode, unless ``LPI_DECODERS`` says how many.

    Raises:
        ConfigError: it says something else.
    """
    wanted = os.environ.get("LPI_DECODERS", "")
    if wanted and not (wanted.isascii() and wanted.isdigit() and int(wanted)):
        raise ConfigError(f"LPI_DECODERS must be a number of threads, at least 1; got {wanted!r}.")
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(wanted) if wanted else found or 1


def ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Generator[Loaded, None, None]:
    """What is loaded for each item, in their order; while one is worked on, the next ones are loaded.

    Args:
        load: is called in a thread of its own, one item after another.
        items: what to load for; taken at most ``AHEAD`` before they are needed.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    coming: deque[Future[Loaded]] = deque()
    try:
        for item in items:
            coming.append(thread.submit(load, item))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


class PictureStore:
    """Pictures as pixels of the backbone's size, decoded by threads and kept in memory as long as there is room.

    What was decoded first stays; when the limit is reached, the rest is decoded again each time. (Dropping the oldest
    would drop everything, as every epoch asks for every picture once.)

    Args:
        pictures: what to decode.
        prepare: RGB picture -> pixels of the backbone's input, [height, width, 3] uint8, always of one size.
        side: the shortest side that ``prepare`` resizes to, in pixels.
        memory_bytes: how much to keep.
        workers: decoding threads; by default one for each processor, see :func:`cores`.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        prepare: Prepare,
        *,
        side: int,
        memory_bytes: int = 2 * 2**30,
        workers: int | None = None,
    ) -> None:
        workers = cores() if workers is None else workers
        if side < 1 or workers < 1 or memory_bytes < 0:
            raise ConfigError(
                f"side and workers must be at least 1, memory_bytes at least 0; got {side}, {workers}, {memory_bytes}."
            )
        self._pictures = tuple(pictures)
        self._prepare = prepare
        self._side = side
        self._room = memory_bytes
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, int], Pixels] = {}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
        self.height, self.width, _ = prepare(Image.new("RGB", (side, side))).shape

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """The pictures as the backbone sees them in evaluation, [batch, 3, height, width] uint8.

        Raises:
            DataError: a picture is broken; the message names it.
            MissingFileError: a picture isn't there any more.
        """
        return self._stack(list(self._pool.map(self._prepared, indices)))

    def crops(self, indices: Sequence[int], augment: Augment, generators: Sequence[np.random.Generator]) -> Tensor:
        """The pictures augmented, each by its own generator, [batch, 3, height, width] uint8.

        Differs: ``prepare``'s centre crop is not part of it: a random part is taken from the whole picture (kept a
        little larger than the input, so that it stays sharp) and resized (bicubic) straight to the input's size.

        Raises:
            DataError: as :meth:`pixels`.
            MissingFileError: as :meth:`pixels`.
        """
        jobs = zip(indices, generators, strict=True)
        return self._stack(list(self._pool.map(lambda job: self._augmented(job[0], augment, job[1]), jobs)))

    def in_turn(self, groups: Iterable[Sequence[int]]) -> Generator[Tensor, None, None]:
        """The :meth:`pixels` of several groups in turn, the next ones decoded while one is worked on."""
        return ahead(self.pixels, groups)

    def close(self) -> None:
        """Ends the threads. A store that is left to the garbage collector does so too."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _stack(self, pictures: list[Pixels]) -> Tensor:
        stacked = np.empty((len(pictures), 3, self.height, self.width), dtype=np.uint8)
        for row, picture in zip(stacked, pictures, strict=True):
            row[:] = picture.transpose(2, 0, 1)
        return torch.from_numpy(stacked)

    def _prepared(self, index: int) -> Pixels:
        return self._keep("prepared", index, self._prepare_one)

    def _augmented(self, index: int, augment: Augment, generator: np.random.Generator) -> Pixels:
        if augment.crops:
            source = Image.fromarray(self._keep("source", index, self._source_one))
            box = augment.box(source.width, source.height, generator)
            pixels: Pixels = np.asarray(source.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box))
        else:
            pixels = self._prepared(index)
        return pixels[:, ::-1] if augment.flips and generator.random() < 0.5 else pixels

    def _keep(self, kind: str, index: int, make: Callable[[int], Pixels]) -> Pixels:
        kept = self._kept.get((kind, index))
        if kept is not None:
            return kept
        pixels = make(index)
        with self._lock:
            if pixels.nbytes <= self._room and (kind, index) not in self._kept:
                self._room -= pixels.nbytes
                self._kept[kind, index] = pixels
        return pixels

    def _prepare_one(self, index: int) -> Pixels:
        picture = self._pictures[index]
        image = picture.open(self._side)
        try:
            pixels = self._prepare(image)
        except LpiError:
            raise
        except Exception as error:  # whatever the preparation chokes on, the person must learn at which picture
            raise DataError(
                f"{picture.name}: the picture can't be prepared ({error}). Replace or remove it."
            ) from error
        if pixels.shape != (self.height, self.width, 3) or pixels.dtype != np.uint8:
            raise ShapeError(
                f"{picture.name}: prepare must give [{self.height}, {self.width}, 3] uint8; "
                f"got {list(pixels.shape)} {pixels.dtype}. Resize and crop to one size."
            )
        return pixels

    def _source_one(self, index: int) -> Pixels:
        image = self._pictures[index].open(math.ceil(self._side * _SOURCE_SCALE))
        factor = _SOURCE_SCALE * max(self.width, self.height) / min(image.size)
        if factor < 1:
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image)


@dataclass
class Batch:
    """What a method learns from in one step.

    Attributes:
        pixels: [images, 3, height, width] uint8; ``None`` where nobody looks at them.
        texts: captions.
        owner: which picture of the batch each text was written for, [texts] int64.
        positives: whether a text is a right answer for a picture, [images, texts] bool.
        indices: which records the pictures are, [images] int64.
    """

    pixels: Tensor | None
    texts: list[str]
    owner: Tensor
    positives: Tensor
    indices: Tensor


def batches(
    records: Sequence[CaptionedImage],
    store: PictureStore,
    *,
    size: int,
    captions_per_image: int = 1,
    equal_captions: bool = True,
    augment: Augment | None = None,
    pixels: bool = True,
    seed: int,
    epoch: int,
    start: int = 0,
) -> Iterator[Batch]:
    """One epoch: every picture once, in an order drawn from the seed and the epoch.

    Order, choice of captions and augmentation depend on (seed, epoch) and on the record's index, never on the batch
    size or on what ran before. While a batch is learned from, the next ones are decoded.

    Args:
        records: what to learn from.
        store: holds the pictures of exactly these records, in their order.
        size: pictures a batch; the last one may be smaller.
        captions_per_image: 1 takes one caption at random, n takes n distinct ones (all where there are fewer), 0 all.
        equal_captions: a picture with an equal caption (:func:`lpi.data.records.normal_caption`) is right as well.
        augment: how to vary the pictures; ``None`` shows them as in evaluation.
        pixels: whether the pictures are decoded at all.
        seed: >= 0.
        epoch: >= 0.
        start: begins with this batch: where a stopped run goes on.

    Raises:
        ConfigError: a number is out of range.
        ShapeError: the store holds another number of pictures.
        DataError: a picture is broken.
    """
    if min(size - 1, captions_per_image, seed, epoch, start) < 0:
        raise ConfigError(
            "size must be at least 1, captions_per_image, seed, epoch and start at least 0; "
            f"got {size}, {captions_per_image}, {seed}, {epoch}, {start}."
        )
    if len(store) != len(records):
        raise ShapeError(
            f"The store must hold the pictures of the {len(records)} records; it holds {len(store)}. "
            "Make it from the same records."
        )
    return _batches(
        records,
        store,
        groups=_groups(len(records), size, seed=seed, epoch=epoch)[start:],
        captions_per_image=captions_per_image,
        equal_captions=equal_captions,
        augment=augment,
        shown=pixels,
        seed=seed,
        epoch=epoch,
    )


def batch_count(records: int, *, size: int) -> int:
    """How many batches an epoch has."""
    return -(-records // size)


def _groups(count: int, size: int, *, seed: int, epoch: int) -> list[list[int]]:
    order = np.random.default_rng([_ORDER, seed, epoch]).permutation(count).tolist()
    return [order[first : first + size] for first in range(0, count, size)]


def _batches(
    records: Sequence[CaptionedImage],
    store: PictureStore,
    *,
    groups: list[list[int]],
    captions_per_image: int,
    equal_captions: bool,
    augment: Augment | None,
    shown: bool,
    seed: int,
    epoch: int,
) -> Iterator[Batch]:
    def load(indices: list[int]) -> Batch:
        generators = [np.random.default_rng([_SAMPLE, seed, epoch, index]) for index in indices]
        chosen = [records[index] for index in indices]
        # Captions first: whether pictures are augmented must not change which captions are drawn.
        captions = [
            _choose(record.captions, captions_per_image, generator)
            for record, generator in zip(chosen, generators, strict=True)
        ]
        pixels: Tensor | None = None
        if shown:
            plain = augment is None or augment.kind == "none"
            pixels = store.pixels(indices) if augment is None or plain else store.crops(indices, augment, generators)
        texts = [caption for row in captions for caption in row]
        owner = torch.repeat_interleave(torch.arange(len(indices)), torch.tensor([len(row) for row in captions]))
        positives = _positives(chosen, texts, owner, equal_captions=equal_captions)
        return Batch(pixels, texts, owner, positives, torch.tensor(indices, dtype=torch.int64))

    return ahead(load, groups)


def _choose(captions: tuple[str, ...], count: int, generator: np.random.Generator) -> list[str]:
    if count == 0:
        return list(captions)
    return [captions[index] for index in generator.permutation(len(captions))[:count]]


def _positives(
    records: Sequence[CaptionedImage], texts: Sequence[str], owner: Tensor, *, equal_captions: bool
) -> Tensor:
    """Which texts are right for which pictures, [images, texts] bool.

    A text is right for a picture when any of the picture's captions equals it, drawn for this batch or not: so the
    rule is the one by which the model is evaluated (:func:`lpi.tasks.relevance.relevance`).
    """
    positives = owner.unsqueeze(0) == torch.arange(len(records)).unsqueeze(1)  # [images, texts]
    if not equal_captions:
        return positives
    places: dict[str, list[int]] = {}
    for position, text in enumerate(texts):
        places.setdefault(normal_caption(text), []).append(position)
    for image, record in enumerate(records):
        for caption in record.captions:
            positives[image, places.get(normal_caption(caption), [])] = True
    return positives
