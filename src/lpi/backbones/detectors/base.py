"""What every grounding backbone gives: two frozen towers that let prompts in, and boxes with scores behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder, Problem, TextInputs, TowerPrompts
from lpi.backbones.detectors.inputs import GroundingInputs, PictureInputs
from lpi.errors import BackboneError

EMBEDDED = "lpi-tiny-grounding"
"""The name of the detector that comes with the package."""

Exchange = Callable[[dict[str, Tensor], int], dict[str, Tensor]]
"""From both towers' states at the prompt positions, [batch, length, width], and the layer, to what is added to them."""


@dataclass(frozen=True)
class GroundingPrompts:
    """What enters both towers of a grounding backbone.

    Attributes:
        vision: for the vision tower.
        text: for the text tower.
        exchange: what the towers' states tell each other in every prompted layer but the first; only backbones whose
            towers advance together (:attr:`GroundingBackbone.joint`).
    """

    vision: TowerPrompts
    text: TowerPrompts
    exchange: Exchange | None = None


@dataclass(frozen=True)
class Detections:
    """What a detector found, for one expression a picture.

    Attributes:
        boxes: [batch, queries, 4], (centre x, centre y, width, height), 0..1 of the picture's frame.
        logits: how well each box goes with each token of the expression, [batch, queries, tokens]; minus infinity for
            tokens that aren't there.
        named: the tokens that say what is meant, bool [batch, tokens].
        seen: the tokens that are there, bool [batch, tokens].
    """

    boxes: Tensor
    logits: Tensor
    named: Tensor
    seen: Tensor

    @property
    def scores(self) -> Tensor:
        """The score of each box, 0..1, [batch, queries]: that of its best token, as the stock processors say."""
        best: Tensor = self.logits.amax(dim=-1).sigmoid()
        return best


class GroundingBackbone(DualEncoder):
    """A frozen detector that reads an expression: two towers, and the stock model's own heads behind them.

    Class attributes:
        joint: the towers advance together, block by block, and the prompts' interaction acts on their states; otherwise
            pictures and expressions are encoded on their own, as in any dual encoder.
    """

    problem: ClassVar[Problem] = "grounding"
    joint: ClassVar[bool] = False
    inputs: GroundingInputs  # type: ignore[assignment]

    @property
    def feature_width(self) -> int:
        """Width of the vision tower's features; here, the two towers need not have a space in common."""
        raise NotImplementedError

    @property
    def drawn_only(self) -> bool:
        """Whether it has seen nothing but drawn scenes, so that what it finds on a photograph means little."""
        return self.name == EMBEDDED

    @property
    def logit_scale(self) -> Tensor:
        """There is none.

        Raises:
            BackboneError: always.
        """
        raise BackboneError(f"{type(self).__name__} compares boxes with words by its own heads: it has no temperature.")

    def detect(self, pictures: PictureInputs, texts: TextInputs, prompts: GroundingPrompts | None = None) -> Detections:
        """What is found in each picture for its expression.

        Args:
            pictures: as ``inputs.pictures`` gives them.
            texts: one expression a picture, as ``inputs.tokenize`` gives them.
            prompts: for both towers; ``None`` is the stock model.

        Raises:
            ShapeError: prompts don't fit the towers.
        """
        raise NotImplementedError

    def check(self, prompts: GroundingPrompts) -> None:
        """Refuse prompts that don't fit the towers.

        Raises:
            ShapeError: another width, or blocks that don't exist.
            ConfigError: they enter in a way that a tower doesn't have.
        """
        self.vision._check(prompts.vision)
        self.text._check(prompts.text)

    def forward(
        self, pictures: PictureInputs, texts: TextInputs, prompts: GroundingPrompts | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes [batch, queries, 4], as centre and size in 0..1, and scores [batch, queries]; see :meth:`detect`."""
        found = self.detect(pictures, texts, prompts)
        return found.boxes, found.scores

    def frozen_features(self, pictures: PictureInputs | None, texts: TextInputs | None) -> dict[str, Tensor]:
        """Frozen, L2-normalised features of whole pictures and expressions, [batch, features] a tower.

        They tell which task a picture or an expression belongs to; a tower whose input is ``None`` is left out.
        """
        given: dict[str, tuple[Any, Any]] = {"vision": (self.vision, pictures), "text": (self.text, texts)}
        return {
            name: F.normalize(tower(inputs), dim=-1) for name, (tower, inputs) in given.items() if inputs is not None
        }
