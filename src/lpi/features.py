"""What a task is learned from, and the frozen model's features of it, computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder, TowerState, View
from lpi.config import TrainingSettings
from lpi.data.records import CaptionedImage
from lpi.devices import in_full
from lpi.methods.base import Batches, Method, TaskData, TrainingBatch, chunks, no_batches
from lpi.methods.encoder import tokens
from lpi.tasks.batches import Augment, Batch, PictureStore, batches
from lpi.tasks.stream import Task

FEATURES = View()  # what a router looks at by default
FROZEN_STATES_BYTES = 2 * 2**30  # states of the frozen blocks are kept up to here


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

    def data(self, steps: int = 0, batches: Batches = no_batches) -> TaskData:
        """What a method may look at when the task begins or ends."""

    def once_more(self, method: Any, settings: TrainingSettings) -> Batches:
        """Gives further epochs, outside the training."""

    def epochs(self, method: Any, settings: TrainingSettings) -> Epochs:
        """Gives the epochs of the training."""


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

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def image_features(self) -> Tensor:
        """Frozen, L2-normalised, [pictures, features]."""
        return frozen_image_features(self.backbone, self.store, self.batch)

    @cached_property
    def text_features(self) -> Tensor:
        """Frozen, L2-normalised, of every different caption, [captions, features]."""
        return frozen_text_features(self.backbone, self.captions, self.batch)

    def data(self, steps: int = 0, batches: Batches = no_batches) -> TaskData:
        """What a method may look at."""
        return TaskData(self.name, self, self.captions, steps, batches, self.view)

    def view(self, tower: str, view: View) -> Tensor:
        """Pictures or different captions as a router looks at them, [items, width of the view], L2-normalised."""
        if view == View():
            return self.image_features if tower == "vision" else self.text_features
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
                seed=seed,
                epoch=0,
            )
            return (self.ready(batch, method) for batch in source)

        return epoch

    def epochs(self, method: Method, settings: TrainingSettings) -> Epochs:
        """See :class:`TrainingData`. Blocks that no prompt enters are run here, once for all epochs."""
        augment = None if settings.augment == "none" else Augment(kind=settings.augment)
        blocks = method.frozen_blocks()
        below = None if blocks == 0 or augment is not None else frozen_states(self.backbone, self.store, blocks)

        def give(*, seed: int, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
            source = batches(
                self.records,
                self.store,
                size=settings.batch,
                captions_per_image=settings.captions_per_image,
                equal_captions=settings.equal_captions,
                augment=augment,
                seed=seed,
                epoch=epoch,
                start=start,
            )
            return (self.ready(batch, method, below) for batch in source)

        return give

    def ready(self, batch: Batch, method: Method, below: TowerState | None = None) -> TrainingBatch:
        """A batch as a method takes it.

        Args:
            batch: of this task.
            method: tokenises the captions, and says where the tensors go.
            below: states of all pictures after the blocks that the method leaves as they are, instead of pixels.
        """
        images: Tensor | TowerState
        if below is None:
            images = self.backbone.inputs.normalise(batch.pixels.to(method.backbone.device))
        else:
            images = replace(below, states=below.states[batch.indices])
        rows = [self.caption_row[text] for text in batch.texts]
        return TrainingBatch(
            images=images,
            texts=tokens(method, batch.texts),
            positives=batch.positives.to(method.backbone.device),
            owner=batch.owner.to(method.backbone.device),
            frozen=lambda: (self.image_features[batch.indices], self.text_features[rows]),
            picture_rows=batch.indices,
            caption_rows=torch.tensor(rows, dtype=torch.int64),
        )


@torch.no_grad()
def frozen_image_features(backbone: DualEncoder, store: PictureStore, batch: int, view: View = FEATURES) -> Tensor:
    """Frozen, L2-normalised features of all pictures in a store, [pictures, features]; or another view of them."""
    device = backbone.logit_scale.device
    parts = []
    with in_full(device):
        for pixels in store.in_turn(chunks(range(len(store)), batch)):
            parts.append(backbone.view_images(backbone.inputs.normalise(pixels.to(device)), view))
    return torch.cat(parts)


@torch.no_grad()
def frozen_states(backbone: DualEncoder, store: PictureStore, blocks: int, *, batch: int = 64) -> TowerState | None:
    """States of all pictures after the lowest ``blocks`` vision blocks; ``None`` if they would fill the memory."""
    device, vision = backbone.logit_scale.device, backbone.vision
    parts: list[Tensor] = []
    state: TowerState | None = None
    for start in range(0, len(store), batch):
        pixels = store.pixels(range(start, min(start + batch, len(store)))).to(device)
        state = vision.advance(vision.begin(backbone.inputs.normalise(pixels)), 0, blocks)
        if state.states[0].nbytes * len(store) > FROZEN_STATES_BYTES:
            return None
        parts.append(state.states)
    return None if state is None else replace(state, states=torch.cat(parts))


@torch.no_grad()
def frozen_text_features(backbone: DualEncoder, texts: Sequence[str], batch: int, view: View = FEATURES) -> Tensor:
    """Frozen, L2-normalised features of captions, [captions, features]; or another view of them.

    Batched by length, so that little is padding.
    """
    device = backbone.logit_scale.device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = torch.empty(len(texts), backbone.view_width("text", view), device=device)
    for rows in chunks(order, batch):
        tokens = backbone.inputs.tokenize([texts[row] for row in rows]).to(device)
        with in_full(device):
            features[list(rows)] = backbone.view_texts(tokens, view)
    return features
