"""What methods that change the backbone's own weights have in common: a private copy that goes on learning."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TextInputs, Tower, TowerState
from lpi.errors import ConfigError
from lpi.methods.adapters import features_before, item_level
from lpi.methods.base import Method, TaskData, TrainingBatch, recorded
from lpi.prompts.low_rank import TOWERS


class Copied(Method):
    """What learns is a copy of the backbone, or a part of one, and encodes for every task alike.

    Attributes:
        tuned: the copy.
    """

    tuned: DualEncoder

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss alone."""
        return {"item": self.item(batch, *self.both(batch))}

    def both(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch, [images, features] and [texts, features]."""
        return self.image_features(batch.images, 0), self.text_features(batch.texts, 0)

    def item(self, batch: TrainingBatch, images: Tensor, texts: Tensor) -> Tensor:
        """The item-level loss of a batch's features, scalar."""
        multi = self.options["multi_positive"]
        return item_level(batch, images, texts, logit_scale=self.tuned.logit_scale.exp(), multi_positive=multi)

    def image_features(self, images: Tensor | TowerState, route: int) -> Tensor:
        """See :class:`Method`."""
        vision = self.tuned.vision
        if isinstance(images, TowerState):  # what lies below has been run already
            return F.normalize(vision.finish(vision.advance(images, self.trunk(), vision.depth)), dim=-1)
        return F.normalize(vision(images), dim=-1)

    def text_features(self, texts: TextInputs, route: int) -> Tensor:
        """See :class:`Method`."""
        return F.normalize(self.tuned.encode_texts(texts), dim=-1)


def below(tower: Tower, blocks: int) -> list[nn.Module]:
    """What a tower runs before and in its lowest ``blocks`` blocks."""
    norms = ("pre_layrnorm", "pre_layernorm")  # CLIP's own spelling, and OWL-ViT's
    found = [getattr(tower.module, name) for name in ("embeddings", *norms) if hasattr(tower.module, name)]
    return [*found, *tower.layers[:blocks]]


class Tuned(Copied):
    """A copy of the backbone whose weights go on learning.

    Args:
        backbone: where it starts; itself left as it is.
        multi_positive: captions that equal another picture's count as positives of it.
        learn_temperature: also train CLIP's logit scale; off where methods are compared, since a temperature that
            runs away is not what is compared.
        upper: which share of each tower's blocks learns, with all that stands above them; 1 is everything, the
            embeddings too. What stays as it is need be run only once a picture.

    Raises:
        ConfigError: ``upper`` is out of range.
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 2e-4, "weight_decay": 0.01}

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        multi_positive: bool = True,
        learn_temperature: bool = False,
        upper: float = 1.0,
    ) -> None:
        super().__init__(backbone, **recorded(locals()))
        if not 0.0 <= upper <= 1.0:
            raise ConfigError(f"upper must be between 0 and 1; got {upper}.")
        self.tuned = deepcopy(backbone)
        self.tuned.requires_grad_(True)
        self.tuned.model.logit_scale.requires_grad_(learn_temperature)
        for name in TOWERS if upper < 1 else ():
            for module in below(getattr(self.tuned, name), self._frozen(name)):
                module.requires_grad_(False)
        if self.tuned.logit_bias is not None:  # SigLIP's; the softmax loss has no use for it
            self.tuned.model.logit_bias.requires_grad_(False)

    def _frozen(self, tower: str) -> int:
        """How many of a tower's lowest blocks stay as they are."""
        depth, learning = self.backbone.depths[tower], float(self.options.get("upper", 1.0))
        return depth - round(learning * depth)

    def trunk(self) -> int:
        """The vision blocks that stay as they are."""
        return self._frozen("vision")

    def trainable(self) -> list[nn.Parameter]:
        """Every weight of the copy that learns; its temperature only if asked for."""
        return [parameter for parameter in self.tuned.parameters() if parameter.requires_grad]

    def shared_state(self) -> dict[str, Tensor]:
        """All weights of the copy."""
        return {name: tensor.contiguous() for name, tensor in self.tuned.model.state_dict().items()}

    def restore(self, tasks: list[tuple[str, dict[str, Tensor]]], shared: dict[str, Tensor]) -> None:  # type: ignore[override]
        """See :class:`Method`."""
        super().restore(tasks, shared)
        self.tuned.model.load_state_dict(shared)


class Compared(Tuned):
    """A copy that is held to what it gave before the task.

    Attributes:
        before: features of the task's pictures and captions before it is learned; ``None`` between tasks.
    """

    before: tuple[Tensor, Tensor] | None = None

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Record what the model gives for the task that it is about to learn."""
        super().begin_task(data, generator)
        self.before = features_before(self, data)

    def old(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch before the task, [images, features] and [texts, features]."""
        assert self.before is not None  # begin_task comes first
        return self.before[0][batch.picture_rows], self.before[1][batch.caption_rows]

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """What was recorded has served."""
        self.before = None
