"""What methods that change the backbone's own weights have in common: a private copy that goes on learning."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts, Tower
from lpi.errors import BackboneError
from lpi.methods.adapters import blocks_below, features_before, item_level
from lpi.methods.base import Method, Saved, TaskData, TrainingBatch
from lpi.methods.options import MethodOptions, PairOptions
from lpi.options import Share, Weight
from lpi.prompts.low_rank import TOWERS


class TrainableCopy(Method):
    """What learns is a copy of the backbone, or a part of one, and encodes for every task alike.

    Attributes:
        tuned: the copy.
    """

    Options: ClassVar[type[MethodOptions]] = PairOptions
    options: PairOptions
    tuned: DualEncoder

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss alone."""
        return {"item": self.item(batch, *self.both(batch))}

    def both(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch under the copy, [images, features] and [texts, features]."""
        images, texts = self.tuned.encode_images(batch.images), self.tuned.encode_texts(batch.texts)
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)

    def item(self, batch: TrainingBatch, images: Tensor, texts: Tensor) -> Tensor:
        """The item-level loss of a batch's features, scalar."""
        multi = self.options.multi_positive
        return item_level(batch, images, texts, logit_scale=self.tuned.logit_scale.exp(), multi_positive=multi)

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`."""
        return F.normalize(self.tuned.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :class:`Method`."""
        return F.normalize(self.tuned.encode_texts(texts), dim=-1)


def below(tower: Tower, blocks: int) -> list[nn.Module]:
    """What a tower runs before and in its lowest ``blocks`` blocks."""
    norms = ("pre_layrnorm", "pre_layernorm")  # CLIP's own spelling, and OWL-ViT's
    found = [getattr(tower.module, name) for name in ("embeddings", *norms) if hasattr(tower.module, name)]
    return [*found, *tower.layers[:blocks]]


class Tuned(TrainableCopy):
    """A copy of the backbone whose weights go on learning.

    What stays as it is (see ``upper``) need be run only once a picture.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(PairOptions):
        """What every copy of the backbone takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 2e-4, "weight_decay": 0.01}

        upper: Annotated[
            Share,
            "which share of each tower's blocks learns, with all that stands above them; 1 is everything, the "
            "embeddings too",
        ] = 1.0
        learn_temperature: Annotated[
            bool, "also train CLIP's logit scale; one that runs away is not what is compared where methods are"
        ] = False

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.tuned = deepcopy(backbone)
        self.tuned.requires_grad_(True)
        self.tuned.model.logit_scale.requires_grad_(self.options.learn_temperature)
        for name in TOWERS if self.options.upper < 1 else ():
            for module in below(getattr(self.tuned, name), blocks_below(backbone, self.options.upper)[name]):
                module.requires_grad_(False)
        if all(weight is self.tuned.model.logit_scale for weight in self.tuned.parameters()):
            raise BackboneError(f"{backbone.name} has no weights that could learn. Name another backbone.")
        if self.tuned.logit_bias is not None:  # SigLIP's; the softmax loss has no use for it
            self.tuned.model.logit_bias.requires_grad_(False)

    def restart(self) -> None:
        """Give the copy the backbone's weights again."""
        self.tuned.model.load_state_dict(self.backbone.model.state_dict())

    def frozen_blocks(self, tower: str) -> int:
        """The lowest blocks that stay as they are."""
        return blocks_below(self.backbone, self.options.upper)[tower]

    def trainable(self) -> list[nn.Parameter]:
        """Every weight of the copy that learns; its temperature only if asked for."""
        return [parameter for parameter in self.tuned.parameters() if parameter.requires_grad]

    def shared_state(self) -> dict[str, Tensor]:
        """All weights of the copy."""
        return {name: tensor.contiguous() for name, tensor in self.tuned.model.state_dict().items()}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.tuned.model.load_state_dict(shared)


class Compared(Tuned):
    """A copy that is held to what it gave before the task.

    Attributes:
        before: features of the task's pictures and captions before it is learned; ``None`` between tasks.
    """

    before: tuple[Tensor, Tensor] | None = None

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Record what the model gives for the task that it is about to learn."""
        self.before = features_before(self, data)

    def old(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch before the task, [images, features] and [texts, features]."""
        assert self.before is not None  # begin_task comes first
        return self.before[0][batch.picture_rows], self.before[1][batch.caption_rows]

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Let go of the features from before the task."""
        self.before = None


class Aligned(Compared):
    """A copy whose similarities within a batch are held to what they were before the task."""

    @dataclass(frozen=True)
    class Options(Compared.Options):
        """What such a copy takes."""

        weight: Annotated[Weight, "alpha, of the alignment of the similarities"] = 20.0

    options: Options

    def kept(self, new: Tensor, old: Tensor, positives: Tensor) -> Tensor:
        """How far similarities of one direction are from what they shall be, scalar.

        Args:
            new: cosines of the model that learns, [queries, candidates].
            old: of the model before the task, [queries, candidates].
            positives: which candidates are right, bool [queries, candidates].
        """
        raise NotImplementedError

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss and the alignment of the similarities, both directions averaged."""
        images, texts = self.both(batch)
        new = images @ texts.T
        old_images, old_texts = self.old(batch)
        old = old_images @ old_texts.T
        positives = batch.positives
        kept = (self.kept(new, old, positives) + self.kept(new.T, old.T, positives.T)) / 2
        return {"item": self.item(batch, images, texts), "align": self.options.weight * kept}


def answered(scores: Tensor, positives: Tensor) -> Tensor:
    """Which queries have a right candidate in the first place, bool [queries].

    Args:
        scores: [queries, candidates].
        positives: which candidates are right, bool [queries, candidates].
    """
    return positives.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0]
