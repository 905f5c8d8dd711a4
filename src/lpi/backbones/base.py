"""What every backbone gives: two frozen towers that let prompts in at any block, and their inputs."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.inputs import Inputs
from lpi.backbones.state import (
    INJECTIONS,
    Images,
    Injection,
    PatchInputs,
    Reading,
    TextInputs,
    Texts,
    TowerPrompts,
    TowerState,
    View,
    VisionInputs,
)
from lpi.backbones.tower import Tower, pooled_states
from lpi.errors import ConfigError

__all__ = [
    "INJECTIONS",
    "DualEncoder",
    "Images",
    "Injection",
    "PatchInputs",
    "Problem",
    "Reading",
    "TextInputs",
    "Texts",
    "Tower",
    "TowerPrompts",
    "TowerState",
    "View",
]

Problem = Literal["retrieval", "grounding"]
"""What is asked: which picture goes with a caption, or which box in a picture an expression means."""


class DualEncoder(nn.Module):
    """A frozen vision tower and a frozen text tower with a common space.

    Attributes:
        model: the stock transformers model; both towers hold parts of it.
        vision: the vision tower.
        text: the text tower.
        inputs: turns pictures and texts into what the towers read.
        name: where it was loaded from.
        identity: 16 hexadecimal digits that stand for configuration, weights and preprocessing together, as loaded.
    """

    problem: ClassVar[Problem] = "retrieval"

    def __init__(
        self, model: nn.Module, *, vision: Tower, text: Tower, inputs: Inputs, name: str, identity: str
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.vision = vision
        self.text = text
        self.inputs = inputs
        self.name = name
        self.identity = identity
        self.freeze()

    @property
    def widths(self) -> dict[str, int]:
        """Width of each tower's token states."""
        return {"vision": self.vision.width, "text": self.text.width}

    @property
    def depths(self) -> dict[str, int]:
        """Number of blocks of each tower."""
        return {"vision": self.vision.depth, "text": self.text.depth}

    @property
    def feature_width(self) -> int:
        """Width of the common space."""
        if self.text.projection is not None:
            return int(self.text.projection.out_features)  # type: ignore[arg-type]
        return int(self.model.config.text_config.projection_size)

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of what multiplies cosine similarities, scalar."""
        scale: Tensor = self.model.logit_scale
        return scale if scale.dim() == 0 else scale.reshape(())

    @property
    def logit_bias(self) -> Tensor | None:
        """What SigLIP adds to its logits, scalar; ``None`` elsewhere."""
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.reshape(())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def encode_images(self, pixels: VisionInputs | TowerState, prompts: TowerPrompts | None = None) -> Tensor:
        """Features of pictures, [batch, features], not normalised.

        Args:
            pixels: [batch, 3, height, width], as ``inputs.images`` or ``inputs.normalise`` gives them, or their states
                between two blocks.
            prompts: for the vision tower.

        Raises:
            ConfigError: it is anything else, such as pictures or bytes.
        """
        if not isinstance(pixels, (PatchInputs, TowerState)) and not (
            isinstance(pixels, Tensor) and pixels.dim() == 4 and pixels.is_floating_point()
        ):
            shape = (
                f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}" if isinstance(pixels, Tensor) else ""
            )
            raise ConfigError(
                "a backbone reads normalised pixels, float [batch, 3, height, width]; "
                f"got {shape or type(pixels).__name__}. Make them with backbone.inputs.images(..)."
            )
        features: Tensor = self.vision(pixels, prompts)
        return features

    def view_images(self, pixels: VisionInputs, view: View) -> Tensor:
        """Pictures as a router looks at them, [batch, :meth:`view_width`], of length 1; one pass, without prompts."""
        return self._view(self.vision, pixels, view)

    def view_texts(self, texts: TextInputs, view: View) -> Tensor:
        """Texts as a router looks at them, [batch, :meth:`view_width`], of length 1; one pass, without prompts."""
        return self._view(self.text, texts, view, texts.mask)

    def view_width(self, tower: str, view: View) -> int:
        """Width of what :meth:`view_images` or :meth:`view_texts` gives."""
        states = 0 if view.depth is None else 2 * self.widths[tower]
        return states + (self.feature_width if view.features else 0)

    def reading(self, tower: str, inputs: Any, view: View | None = None) -> Reading:
        """Features, summary and what a router looks at, from one pass without prompts.

        A view from above :meth:`middle` takes a pass of its own.

        Args:
            tower: ``vision`` or ``text``.
            inputs: pixels or tokens.
            view: what the router looks at; the features by default.
        """
        encoder, view = getattr(self, tower), view or View()
        real = inputs.mask if isinstance(inputs, TextInputs) else None
        if view.depth is None or view.depth <= self.middle(tower):
            state, parts = self._low(encoder, inputs, view, real)
            features, summary = self.with_summary(tower, state)
            return Reading(features, summary, _joined([*parts, features] if view.features else parts))
        features, summary = self.with_summary(tower, inputs)
        return Reading(features, summary, self._view(encoder, inputs, view, real))

    def _view(self, tower: Tower, inputs: Any, view: View, real: Tensor | None = None) -> Tensor:
        state, parts = self._low(tower, inputs, view, real)
        if view.features:
            parts.append(tower.finish(tower.advance(state, view.depth or 0, tower.depth)))
        return _joined(parts)

    def _low(self, tower: Tower, inputs: Any, view: View, real: Tensor | None) -> tuple[TowerState, list[Tensor]]:
        """The state as deep as a view looks, and what it sees there."""
        state = tower.begin(inputs)
        if view.depth is None:
            return state, []
        state = tower.advance(state, 0, view.depth)
        return state, [pooled_states(state.states, state.real if real is None else real)]

    def encode_texts(self, texts: Texts, prompts: TowerPrompts | None = None) -> Tensor:
        """Features of texts, [batch, features], not normalised.

        Args:
            texts: as ``inputs.tokenize`` gives them, or their states between two blocks.
            prompts: for the text tower.

        Raises:
            ConfigError: it is anything else, such as words.
        """
        if not isinstance(texts, (TextInputs, TowerState)):
            raise ConfigError(
                f"a backbone reads tokens; got {type(texts).__name__}. Make them with backbone.inputs.tokenize(..)."
            )
        features: Tensor = self.text(texts, prompts)
        return features

    def with_summary(self, tower: str, inputs: Any, prompts: TowerPrompts | None = None) -> tuple[Tensor, Tensor]:
        """Features, [batch, features], not normalised, and a summary, [batch, :meth:`summary_width`]; one pass.

        The summary is what :meth:`Tower.summary` says at the end, and how the states looked (:func:`pooled_states`)
        after :meth:`middle` blocks: what the last blocks leave out of that is missed.

        Args:
            tower: ``vision`` or ``text``.
            inputs: as :meth:`encode_images` or :meth:`encode_texts` takes them; states, if not from above the middle.
            prompts: for that tower.

        Raises:
            ShapeError: states from above the middle.
        """
        encoder, middle = getattr(self, tower), self.middle(tower)
        state = encoder.entered(inputs, prompts)
        state = encoder.advance(state, state.block, middle, prompts)
        look = pooled_states(state.ordinary, state.seen)
        state = encoder.advance(state, middle, encoder.depth, prompts)
        return encoder.finish(state), torch.cat([encoder.summary(state), look], dim=1)

    def middle(self, tower: str) -> int:
        """After how many blocks a summary looks at a tower's states: two thirds of them."""
        return round(2 / 3 * self.depths[tower])

    def summary_width(self, tower: str) -> int:
        """Width of the summary that :meth:`with_summary` gives."""
        encoder = self.vision if tower == "vision" else self.text
        projection = encoder.projection
        pooled = self.feature_width if projection is None else int(projection.in_features)  # type: ignore[arg-type]
        return pooled + 3 * encoder.width

    def freeze(self) -> "DualEncoder":
        """Evaluation mode, and no weight gets a gradient: how a backbone is after loading."""
        self.eval()
        self.requires_grad_(False)
        return self


def _joined(parts: list[Tensor]) -> Tensor:
    """Parts of a view as one, each of them and the whole of length 1."""
    return F.normalize(torch.cat([F.normalize(part, dim=-1) for part in parts], dim=1), dim=-1)
