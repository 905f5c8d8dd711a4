"""A task's expressions as a detector takes them: pictures opened once, boxes in its units, batches by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from lpi.backbones.base import TextInputs
from lpi.backbones.detectors.base import GroundingBackbone
from lpi.backbones.detectors.inputs import PictureInputs, to_units
from lpi.config import TrainingSettings
from lpi.data.expressions.record import ReferringExpression
from lpi.devices import in_full
from lpi.errors import ConfigError, DataError
from lpi.methods.base import NO_LOOKS, Batches, Looks, TaskData, no_batches
from lpi.methods.encoder import tokens
from lpi.methods.grounding.base import GroundingBatch, GroundingMethod

Item = TypeVar("Item")
KEPT_BYTES = 2**30  # opened pictures are kept up to here; those beyond are opened anew
#: settings of the training that are about pictures with captions, and what they must be here
WITHOUT = {"augment": "none", "captions_per_image": 1}


class ExpressionSet:
    """Expressions, ready to be learned from or searched for.

    Args:
        name: of the task.
        records: the expressions; several may be about one picture.
        backbone: the frozen detector, whose processor prepares them.
        batch: pictures or expressions encoded at once, where features are computed.

    Raises:
        DataError: no record.
    """

    def __init__(
        self, name: str, records: Sequence[ReferringExpression], backbone: GroundingBackbone, *, batch: int = 16
    ) -> None:
        if not records:
            raise DataError(f"task {name!r} has no expressions to learn from. Add some, or leave the task out.")
        self.name, self.records, self.backbone, self.batch = name, records, backbone, batch
        self.expressions = list(dict.fromkeys(record.expression for record in records))
        self._kept: dict[str, Image.Image] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.records)

    # ---- batches -----------------------------------------------------------------------------------------------------

    def ready(self, rows: Sequence[int], tokens: Callable[[Sequence[str]], TextInputs]) -> GroundingBatch:
        """Some of the expressions as one batch, on the detector's device.

        Args:
            rows: their places.
            tokens: turns expressions into tokens; a method's own ``tokens``.
        """
        records = [self.records[row] for row in rows]
        images = [self._open(record) for record in records]
        pictures = self.backbone.inputs.pictures(images)
        scales = [
            (image.width / record.size[0], image.height / record.size[1]) * 2
            for image, record in zip(images, records, strict=True)
        ]
        corners = torch.tensor([record.box for record in records]) * torch.tensor(scales)
        texts = tokens([record.expression for record in records])
        return GroundingBatch(pictures, texts, to_units(corners, pictures.frames)).to(self.backbone.device)

    def units(self, row: int) -> tuple[float, float, float, float]:
        """The box of one expression, left, top, right, bottom in 0..1 of the detector's frame."""
        record = self.records[row]
        width, height = record.size
        if self.backbone.inputs.square:
            width = height = max(record.size)
        left, top, right, bottom = record.box
        return left / width, top / height, right / width, bottom / height

    def epoch(
        self, method: GroundingMethod, *, size: int, seed: int, epoch: int, start: int = 0
    ) -> Iterator[GroundingBatch]:
        """Every expression once, in an order that depends on the seed and the epoch alone.

        Args:
            method: tokenises the expressions.
            size: expressions a batch; the last may be smaller.
            seed: >= 0.
            epoch: >= 0.
            start: begins with this batch: where a stopped run goes on.
        """
        drawn = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.records), generator=drawn).tolist()
        for first in range(start * size, len(order), size):
            yield self.ready(order[first : first + size], partial(tokens, method))

    def epochs(self, method: GroundingMethod, settings: TrainingSettings) -> Callable[..., Iterator[GroundingBatch]]:
        """What the trainer takes its batches from.

        Raises:
            ConfigError: a setting that means nothing for expressions.
        """
        for name, only in WITHOUT.items():
            if (value := getattr(settings, name)) != only:
                raise ConfigError(
                    f"training.{name} must be {only!r} for expressions: each has its own picture, and its box would "
                    f"have to move with it; got {value!r}."
                )
        return partial(self.epoch, method, size=settings.batch)

    def once_more(self, method: GroundingMethod, settings: TrainingSettings) -> Batches:
        """Gives further epochs of the same expressions, outside the training."""

        def epoch(*, seed: int, captions: int = 1) -> Iterator[Any]:
            return self.epoch(method, size=settings.batch, seed=seed, epoch=0)

        return epoch

    # ---- what a method may look at -----------------------------------------------------------------------------------

    def data(self, steps: int = 0, batches: Batches = no_batches, looks: Looks = NO_LOOKS) -> TaskData:
        """What a method may look at when the task begins or ends."""
        return TaskData(self.name, self, self.expressions, steps, batches)

    @cached_property
    def image_features(self) -> Tensor:
        """Frozen, L2-normalised, of every different picture, [pictures, features], in the order of first sight."""
        first: dict[str, ReferringExpression] = {}
        for record in self.records:
            first.setdefault(record.picture.name, record)

        def features(records: Sequence[ReferringExpression]) -> Tensor:
            pictures = self.backbone.inputs.pictures([self._open(record) for record in records])
            return self._plain(pictures, None)["vision"]

        return self._all(list(first.values()), features)

    @cached_property
    def text_features(self) -> Tensor:
        """Frozen, L2-normalised, of every different expression, [expressions, features]."""
        return self.features_of(self.expressions)

    def features_of(self, texts: Sequence[str]) -> Tensor:
        """Frozen, L2-normalised features of any texts, [texts, features]."""
        return self._all(texts, lambda part: self._plain(None, part)["text"])

    @torch.no_grad()
    def _plain(self, pictures: PictureInputs | None, expressions: Sequence[str] | None) -> dict[str, Tensor]:
        device = self.backbone.device
        texts = None if expressions is None else self.backbone.inputs.tokenize(expressions).to(device)
        with in_full(device):
            return self.backbone.frozen_features(None if pictures is None else pictures.to(device), texts)

    def _all(self, items: Sequence[Item], features: Callable[[Sequence[Item]], Tensor]) -> Tensor:
        parts = [features(items[first : first + self.batch]) for first in range(0, len(items), self.batch)]
        return torch.cat(parts)

    def _open(self, record: ReferringExpression) -> Image.Image:
        """The picture of an expression, at about the size that the detector wants."""
        name = record.picture.name
        if name in self._kept:
            return self._kept[name]
        image = record.picture.open(min(self.backbone.inputs.image_size))
        if self._bytes + 3 * image.width * image.height <= KEPT_BYTES:
            self._kept[name] = image
            self._bytes += 3 * image.width * image.height
        return image
