"""What a task is learned from, and the frozen model's features of it, computed once."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lpi.backbones.base import DualEncoder, Images, Reading, TextInputs, Texts, TowerState, View
from lpi.backbones.features import FeatureBackbone
from lpi.backbones.given import PictureLike, given_picture, given_texts
from lpi.config import TrainingSettings
from lpi.data.records import CaptionedImage, FilePicture, Picture, require_readable
from lpi.devices import in_full
from lpi.errors import ConfigError
from lpi.methods.base import NO_LOOKS, Batches, Looks, Method, TaskData, TrainingBatch, chunks, no_batches
from lpi.methods.encoder import tokens
from lpi.tasks.batches import Augment, Batch, PictureStore, ahead, batches
from lpi.tasks.stream import Task

FEATURES = View()  # what a router looks at by default
FROZEN_STATES_BYTES = 2 * 2**30  # so much of the frozen blocks' states a process keeps in memory
_resident = 0  # bytes of them that it keeps now


class Epochs(Protocol):
    """Gives one epoch of a task as batches that are ready for the method's loss."""

    def __call__(self, *, seed: int, epoch: int, start: int = 0) -> Iterator[Any]:
        """All of them from batch ``start`` on; what they are depends on ``seed`` and ``epoch`` alone."""


class TrainingData(Protocol):
    """What a task is learned from: pairs of pictures and captions, expressions with boxes, ..

    A batch is whatever the method's ``loss`` takes; its ``texts`` are counted.
    """

    name: str

    def __len__(self) -> int:
        """How many items are cut into batches."""

    def data(self, steps: int = 0, batches: Batches = no_batches, looks: Looks = NO_LOOKS) -> TaskData:
        """What a method may look at when the task begins or ends, and ``looks``, what its router looks at."""

    def once_more(self, method: Any, settings: TrainingSettings) -> Batches:
        """Gives further epochs, outside the training."""

    def epochs(self, method: Any, settings: TrainingSettings) -> Epochs:
        """Gives the epochs of the training."""


@dataclass(frozen=True)
class GivenPicture:
    """A picture that a person gave with its caption."""

    name: str
    given: PictureLike

    def open(self, side: int | None = None) -> Image.Image:
        """See :class:`lpi.data.records.Picture`."""
        return given_picture(self.given, side)


def task_of_pairs(pairs: object, name: str) -> Task:
    """A task to learn from pairs of a picture and its caption, or list of captions.

    Raises:
        ConfigError: these are no pairs.
        DataError, MissingFileError: a file can't be read as a picture.
    """
    wanted = "what is learned is a task of a stream, or a list of (picture, caption) pairs"
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes | Mapping):
        raise ConfigError(
            f"a task of a stream is learned; got {type(pairs).__name__}. Take one: stream.tasks[0], or give a list of "
            "(picture, caption) pairs."
        )
    records = []
    for place, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(f"{wanted}; got {type(pair).__name__} at place {place}.")
        picture, captions = pair
        if isinstance(picture, str | PathLike):
            seen: Picture = FilePicture(Path(picture), str(picture))
        else:
            given_picture(picture)  # what is no picture is said now
            seen = GivenPicture(f"picture {place}", picture)
        texts, _ = given_texts(captions)
        if not texts or not all(text.strip() for text in texts):
            raise ConfigError(f"every picture needs a caption; the one at place {place} has an empty one, or none.")
        records.append(CaptionedImage(seen, tuple(texts), name, "train"))
    require_readable(record.picture for record in records)  # now, not when half of it is learned
    return Task(name, tuple(records), (), ())


class TrainingSet:
    """A task's training pictures, decoded once, and their features under the frozen backbone.

    Args:
        task: whose training pictures.
        backbone: the frozen model.
        batch: pictures or captions encoded at once.
    """

    def __init__(self, task: Task, backbone: DualEncoder, *, batch: int = 128) -> None:
        self.name = task.name
        self.records: Sequence[CaptionedImage] = task.train
        self.backbone = backbone
        inputs = backbone.inputs
        self.store = PictureStore([r.picture for r in self.records], inputs.prepare, side=min(inputs.image_size))
        self.captions = list(dict.fromkeys(caption for record in self.records for caption in record.captions))
        self.caption_row = {caption: row for row, caption in enumerate(self.captions)}
        self.batch = batch
        self._views: dict[tuple[str, View], Tensor] = {}
        self._expected: Looks = NO_LOOKS
        self._readings: dict[str, Reading] = {}
        self._cut: dict[int, Reading] = {}
        self.states = FrozenStates(backbone, self.store, self.captions)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def image_features(self) -> Tensor:
        """Frozen, L2-normalised, [pictures, features]."""
        return F.normalize(self.reading("vision").features, dim=-1)

    @cached_property
    def text_features(self) -> Tensor:
        """Frozen, L2-normalised, of every different caption, [captions, features]."""
        return F.normalize(self.reading("text").features, dim=-1)

    def data(self, steps: int = 0, batches: Batches = no_batches, looks: Looks = NO_LOOKS) -> TaskData:
        """What a method may look at; see :class:`TrainingData`."""
        if looks:  # what is read from now on is looked at so in the same pass
            self._expected = looks
        return TaskData(self.name, self, self.captions, steps, batches, self.view, self)

    @torch.no_grad()
    def reading(self, tower: str) -> Reading:
        """What the frozen model sees of all pictures or of every different caption, one pass for all who ask."""
        if tower not in self._readings:
            view = self._expected.get(tower, FEATURES)
            if tower == "vision":
                found = read_images(self.backbone, in_batches(self.backbone, self.store, self.batch), view)
            else:
                found = read_texts(self.backbone, self.captions, self.batch, view)
            self._readings[tower], self._views[tower, view] = found, found.look
        return self._readings[tower]

    def pairs(self) -> Tensor:
        """See :class:`lpi.methods.base.FrozenPairs`."""
        rows = [(row, self.caption_row[text]) for row, record in enumerate(self.records) for text in record.captions]
        return torch.tensor(rows, dtype=torch.int64)

    def cuts(self, number: int) -> Iterator[Tensor]:
        """See :class:`lpi.methods.base.FrozenPairs`."""
        if isinstance(self.backbone, FeatureBackbone):
            raise ConfigError(f"{self.backbone.name} holds features, and no pictures to cut. Set method.cuts = 0.")
        augment, device = Augment(kind="crop_flip"), self.backbone.device

        def cut(rows: Sequence[int]) -> Tensor:
            return self.store.crops(rows, augment, [np.random.default_rng((number, row)) for row in rows])

        for pixels in ahead(cut, chunks(range(len(self.store)), self.batch)):
            yield self.backbone.inputs.normalise(pixels.to(device))

    @torch.no_grad()
    def cut_reading(self, number: int) -> Reading:
        """See :class:`lpi.methods.base.FrozenPairs`."""
        if number not in self._cut:
            self._cut[number] = read_images(self.backbone, self.cuts(number))
        return self._cut[number]

    def view(self, tower: str, view: View) -> Tensor:
        """Pictures or different captions as a router looks at them, [items, width of the view], L2-normalised."""
        if view == View():
            return self.image_features if tower == "vision" else self.text_features
        if view == self._expected.get(tower):
            self.reading(tower)
        if (tower, view) not in self._views:
            if tower == "vision":
                self._views[tower, view] = frozen_image_features(self.backbone, self.store, self.batch, view)
            else:
                self._views[tower, view] = frozen_text_features(self.backbone, self.captions, self.batch, view)
        return self._views[tower, view]

    def once_more(self, method: Method, settings: TrainingSettings) -> Batches:
        """Gives further epochs of the same pairs, outside the training."""

        def epoch(*, seed: int, captions: int = 1) -> Iterator[TrainingBatch]:
            source = batches(
                self.records,
                self.store,
                size=settings.batch,
                captions_per_image=captions,
                equal_captions=settings.equal_captions,
                pixels=not self.states.keeps("vision", method),
                seed=seed,
                epoch=0,
            )
            return (self.ready(batch, method) for batch in source)

        return epoch

    def epochs(self, method: Method, settings: TrainingSettings) -> Epochs:
        """See :class:`TrainingData`. Blocks that a method leaves as they are run once for all epochs and methods."""
        augment = None if settings.augment == "none" else Augment(kind=settings.augment)

        def give(*, seed: int, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
            source = batches(
                self.records,
                self.store,
                size=settings.batch,
                captions_per_image=settings.captions_per_image,
                equal_captions=settings.equal_captions,
                augment=augment,
                pixels=augment is not None or not self.states.keeps("vision", method),
                seed=seed,
                epoch=epoch,
                start=start,
            )
            return (self.ready(batch, method) for batch in source)

        return give

    def ready(self, batch: Batch, method: Method) -> TrainingBatch:
        """A batch as a method takes it.

        Args:
            batch: of this task; without pixels, kept states of its pictures stand in their place.
            method: tokenises the captions, and says where the tensors go.
        """
        device = method.backbone.device
        rows = torch.tensor([self.caption_row[text] for text in batch.texts], dtype=torch.int64)
        if batch.pixels is None:
            images: Images | None = self.states("vision", method, batch.indices)
            assert images is not None  # or the batch would have pixels
        else:
            images = self.backbone.inputs.normalise(batch.pixels.to(device))
        texts: Texts | None = self.states("text", method, rows)
        return TrainingBatch(
            images=images,
            texts=tokens(method, batch.texts) if texts is None else texts,
            positives=batch.positives.to(device),
            owner=batch.owner.to(device),
            frozen=lambda: (self.image_features[batch.indices], self.text_features[rows]),
            picture_rows=batch.indices,
            caption_rows=rows,
        )


class FrozenStates:
    """States of pictures and captions after the blocks that a method leaves as they are: the same for all of them.

    They are computed when first asked for and kept for every method that asks for the same depth: in memory up to a
    bound that the whole process shares, beyond it in a file that is mapped into memory and goes with the process,
    unless that would fill half of what is free on the disk.

    Args:
        backbone: the frozen model.
        store: the pictures.
        captions: the captions.
        batch: pictures or captions that run at once.
    """

    def __init__(self, backbone: DualEncoder, store: PictureStore, captions: Sequence[str], *, batch: int = 64) -> None:
        self.backbone, self.store, self.captions, self.batch = backbone, store, captions, batch
        self._known: dict[str, tuple[int, TowerState | None]] = {}

    def __call__(self, tower: str, method: Method, rows: Tensor) -> TowerState | None:
        """The states of some pictures or captions, int64 [some]; ``None`` where a method starts at the bottom."""
        known = self._kept(tower, method)
        return None if known is None else known.rows(rows).to(method.backbone.device)

    def keeps(self, tower: str, method: Method) -> bool:
        """Whether there are states for a method."""
        return self._kept(tower, method) is not None

    def _kept(self, tower: str, method: Method) -> TowerState | None:
        blocks = method.frozen_blocks(tower)
        if not blocks:
            return None
        if tower not in self._known or self._known[tower][0] != blocks:  # one depth at a time: the states are large
            self._known.pop(tower, None)
            self._known[tower] = (blocks, self._computed(tower, blocks))
        return self._known[tower][1]

    @torch.no_grad()
    def _computed(self, tower: str, blocks: int) -> TowerState | None:
        encoder = self.backbone.vision if tower == "vision" else self.backbone.text
        batches, longest = self._pictures() if tower == "vision" else self._texts()
        kept: TowerState | None = None
        for rows, inputs in batches:
            with in_full(self.backbone.device):
                state = encoder.advance(encoder.begin(inputs), 0, blocks)
            if kept is None:
                count = len(self.store) if tower == "vision" else len(self.captions)
                kept = _room_for(state, count, longest or state.tokens)
                if kept is None:
                    return None
            _put(kept, list(rows), state)
        return kept

    def _pictures(self) -> tuple[Iterable[tuple[Sequence[int], Tensor]], int]:
        """Rows and pixels in batches; all pictures have equally many tokens, which their first states tell."""
        groups = list(chunks(range(len(self.store)), self.batch))
        pixels = (self.backbone.inputs.normalise(one.to(self.backbone.device)) for one in self.store.in_turn(groups))
        return zip(groups, pixels, strict=True), 0

    def _texts(self) -> tuple[Iterable[tuple[Sequence[int], TextInputs]], int]:
        """Rows and tokens in batches, and the most tokens of a caption, which need not be the one of most letters."""
        batches = text_batches(self.backbone, self.captions, self.batch)
        return batches, max((words.ids.shape[1] for _, words in batches), default=0)


@torch.no_grad()
def read_images(backbone: DualEncoder, pixels: Iterable[Tensor], view: View = FEATURES) -> Reading:
    """What the frozen model sees of pictures, in batches of normalised pixels."""
    with in_full(backbone.device):
        return Reading.joined([backbone.reading("vision", batch, view) for batch in pixels])


@torch.no_grad()
def read_texts(backbone: DualEncoder, texts: Sequence[str], batch: int, view: View = FEATURES) -> Reading:
    """What the frozen model sees of captions."""
    batches, parts = text_batches(backbone, texts, batch), []
    for _, words in batches:
        with in_full(backbone.device):
            parts.append(backbone.reading("text", words, view))
    order = torch.tensor([row for rows, _ in batches for row in rows]).argsort()
    return Reading.joined(parts).rows(order.to(backbone.device))


@torch.no_grad()
def frozen_image_features(backbone: DualEncoder, store: PictureStore, batch: int, view: View = FEATURES) -> Tensor:
    """Frozen, L2-normalised features of all pictures in a store, [pictures, features]; or another view of them."""
    with in_full(backbone.device):
        return torch.cat([backbone.view_images(pixels, view) for pixels in in_batches(backbone, store, batch)])


def in_batches(backbone: DualEncoder, store: PictureStore, batch: int) -> Iterator[Tensor]:
    """All pictures in a store as a backbone reads them: normalised, on its device."""
    for pixels in store.in_turn(chunks(range(len(store)), batch)):
        yield backbone.inputs.normalise(pixels.to(backbone.device))


def _room_for(like: TowerState, count: int, longest: int) -> TowerState | None:
    """Room for the states of so many items of at most ``longest`` tokens; ``None`` if there is none."""
    shape = (count, longest, like.states.shape[2])
    states = _room(math.prod(shape), like.states.dtype)
    if states is None:
        return None
    return replace(
        like,
        states=states.view(shape),
        tokens=longest,
        mask=None,
        # also where none of these is padded: shorter ones will be
        real=torch.zeros(shape[:2], dtype=torch.bool) if like.pool is None else None,
        pool=None if like.pool is None else torch.zeros(count, dtype=like.pool.dtype),
    )


def _room(numbers: int, dtype: torch.dtype) -> Tensor | None:
    global _resident
    size = numbers * dtype.itemsize
    if _resident + size <= FROZEN_STATES_BYTES:
        _resident += size
        tensor = torch.zeros(numbers, dtype=dtype)
        weakref.finalize(tensor.untyped_storage(), _let_go, size)
        return tensor
    if 2 * size > shutil.disk_usage(tempfile.gettempdir()).free:
        return None
    with tempfile.NamedTemporaryFile(prefix="lpi-states-") as file:  # the mapping outlives its name
        try:  # or others may take the room meanwhile, and writing to a mapping without any kills the process
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # not on every system
            pass
        except OSError:
            return None
        return torch.from_file(file.name, shared=True, size=numbers, dtype=dtype)


def _let_go(size: int) -> None:
    global _resident
    _resident -= size


def _put(kept: TowerState, rows: list[int], state: TowerState) -> None:
    """Keep the states of some items; what is shorter than the longest is padded."""
    length = state.states.shape[1]
    kept.states[rows, :length] = state.states.cpu()
    if kept.real is not None:
        kept.real[rows, :length] = True if state.real is None else state.real.cpu()
    if kept.pool is not None and state.pool is not None:
        kept.pool[rows] = state.pool.cpu()


def text_batches(backbone: DualEncoder, texts: Sequence[str], batch: int) -> list[tuple[Sequence[int], TextInputs]]:
    """Rows and tokens of captions in batches, those of like length together, so that little is padding."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    return [
        (rows, backbone.inputs.tokenize([texts[row] for row in rows]).to(backbone.device))
        for rows in chunks(order, batch)
    ]


@torch.no_grad()
def frozen_text_features(backbone: DualEncoder, texts: Sequence[str], batch: int, view: View = FEATURES) -> Tensor:
    """Frozen, L2-normalised features of captions, [captions, features]; or another view of them."""
    device = backbone.device
    features = torch.empty(len(texts), backbone.view_width("text", view), device=device)
    for rows, words in text_batches(backbone, texts, batch):
        with in_full(device):
            features[list(rows)] = backbone.view_texts(words, view)
    return features
