"""Linear heads: only the two maps into the common space learn; the towers below them stay as they are.

The cheapest thing that can be trained on from task to task, and the linear probe's form for retrieval: what the frozen
towers already tell apart can be weighted anew, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts, Tower
from lpi.errors import BackboneError
from lpi.methods.adapters import item_level, private_copy
from lpi.methods.base import Method, Saved, TrainingBatch
from lpi.methods.options import PairOptions
from lpi.prompts.low_rank import TOWERS


def head(tower: Tower) -> nn.Linear:
    """The last linear layer of a tower: its projection, or that of its pooler where there is no projection.

    Raises:
        BackboneError: above its blocks the tower has no linear layer.
    """
    if isinstance(tower.projection, nn.Linear):
        return tower.projection
    inside = {id(module) for module in tower.layers.modules()}
    above = [m for m in tower.module.modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    if not above:
        raise BackboneError(f"{type(tower.module).__name__} has no linear layer above its blocks that could learn.")
    return above[-1]


class Linear(Method):
    """The two projection heads, trained on from task to task.

    Args:
        backbone: where they start.
        options: see :class:`Options`.

    Paper: the linear probe of CLIP (arXiv 2103.00020), section 3.2.
    Differs: its probe is a classifier over the features; retrieval has no classes, so the loss is the item loss.
        SigLIP has no projection: there the last linear layer of each pooler learns.
    """

    @dataclass(frozen=True)
    class Options(PairOptions):
        """What linear heads take."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3}

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        towers = (backbone.vision, backbone.text)
        self.tuned = private_copy(backbone, [head(tower) for tower in towers])
        self._heads = {tower: head(getattr(self.tuned, tower)) for tower in TOWERS}
        for layer in self._heads.values():
            layer.requires_grad_(True)

    def trainable(self) -> list[nn.Parameter]:
        """Weights (and biases) of the two heads."""
        return [parameter for layer in self._heads.values() for parameter in layer.parameters()]

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss."""
        images, texts = self.image_features(batch.images, 0), self.text_features(batch.texts, 0)
        scale, multi = self.backbone.logit_scale.exp(), self.options.multi_positive
        return {"item": item_level(batch, images, texts, logit_scale=scale, multi_positive=multi)}

    def frozen_blocks(self, tower: str) -> int:
        """All of them: their states are computed once."""
        return self.backbone.depths[tower]

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`."""
        return F.normalize(self.tuned.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :class:`Method`."""
        return F.normalize(self.tuned.encode_texts(texts), dim=-1)

    def shared_state(self) -> dict[str, Tensor]:
        """The two heads."""
        return {
            f"{tower}.{name}": value.contiguous()
            for tower, layer in self._heads.items()
            for name, value in layer.state_dict().items()
        }

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for tower, layer in self._heads.items():
            layer.load_state_dict({name: shared[f"{tower}.{name}"] for name in layer.state_dict()})
