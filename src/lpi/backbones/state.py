"""What goes into a tower and what stands between its blocks: tokenised texts, patches, prompts, states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lpi.errors import ConfigError, ShapeError, did_you_mean

Injection = Literal["replace", "add", "shallow", "into"]
INJECTIONS: tuple[str, ...] = get_args(Injection)
Prefix = Literal["prefix"]
ENTRIES: tuple[str, ...] = (*INJECTIONS, *get_args(Prefix))


@dataclass(frozen=True)
class TextInputs:
    """Tokenised texts.

    Attributes:
        ids: [batch, tokens] int64, padded on the right (SigLIP: as its tokenizer pads).
        mask: [batch, tokens] int64, 1 for tokens that may be attended to, 0 for padding. SigLIP was trained attending
            to its padding: all 1.
    """

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> TextInputs:
        """The same texts on another device."""
        return TextInputs(self.ids.to(device), self.mask.to(device))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PatchInputs:
    """Pictures cut into patches, each picture with a grid of its own (SigLIP 2's NaFlex checkpoints).

    Attributes:
        patches: [batch, patches, 3 * side * side], rows of patches one after another, padded at the end.
        mask: [batch, patches] int64, 1 for patches of the picture, 0 for padding.
        shapes: [batch, 2] int64, rows and columns of each picture's grid.
    """

    patches: Tensor
    mask: Tensor
    shapes: Tensor

    def __len__(self) -> int:
        return len(self.patches)


VisionInputs = Tensor | PatchInputs


@dataclass(frozen=True)
class TowerPrompts:
    """The prompts that one tower gets: tensors, and where they enter.

    Attributes:
        states: [layers, length, width], or [batch, layers, length, width] for a set per sample.
        blocks: the blocks that the layers enter, strictly rising, one a layer.
        injection: ``replace``, ``add``, ``shallow``: prompts are ``length`` tokens of their own, which enter with the
            first of ``blocks``; in later ones their states are replaced, added to, or left alone. ``into``: prompts
            are added to the states of the first ``length`` tokens, and there are no tokens of their own. ``prefix``:
            the first half of a layer's ``length`` rows are keys, the second half values, which every token of that
            block attends to beside its own; no tokens either, and nothing goes on to the next block.
        placeholders: only towers with :attr:`Tower.placeholders`. The prompts of block 0 stand where placeholder
            tokens would be, before positions are added: they carry positions, and the caption's move behind them.
        gate: [layers], multiplies what ordinary tokens attend from prompt tokens, from the block where a layer enters
            to the one where the next does. 0 is exactly the frozen model. ``None`` is ordinary attention.

    Raises:
        ConfigError: an injection that doesn't exist, or options that exclude one another.
        ShapeError: shapes that don't fit together, or blocks that don't rise.
    """

    states: Tensor
    blocks: tuple[int, ...]
    injection: Injection | Prefix
    placeholders: bool = False
    gate: Tensor | None = None

    def __post_init__(self) -> None:
        if self.injection not in ENTRIES:
            raise ConfigError(f"No injection is called {self.injection!r}. {did_you_mean(self.injection, ENTRIES)}")
        if self.states.dim() not in (3, 4):
            raise ShapeError(
                f"Prompts must be [layers, length, width] or [batch, layers, length, width]; "
                f"got {list(self.states.shape)}."
            )
        if len(self.blocks) != self.states.shape[-3]:
            raise ShapeError(f"{self.states.shape[-3]} layers of prompts need as many blocks; got {self.blocks}.")
        if any(later <= earlier for earlier, later in zip((-1, *self.blocks), self.blocks, strict=False)):
            raise ShapeError(f"Blocks must rise strictly from 0 or more; got {self.blocks}.")
        if self.injection == "prefix" and self.placeholders:
            raise ConfigError("A prefix has no tokens, so there are no placeholders for it. Leave placeholders off.")
        if self.injection == "prefix" and self.length % 2:
            raise ShapeError(f"A prefix is half keys, half values: its length must be even; got {self.length}.")
        if self.gate is not None and (self.injection == "into" or self.placeholders):
            raise ConfigError(
                "A gate is for prompt tokens that leave the caption's positions alone: it goes neither with "
                "injection 'into' nor with placeholders. Set one of them only."
            )
        if self.gate is not None and self.gate.shape != (len(self.blocks),):
            raise ShapeError(f"The gate must be [layers={len(self.blocks)}]; got {list(self.gate.shape)}.")

    @property
    def length(self) -> int:
        """Prompt tokens a layer."""
        return self.states.shape[-2]

    @property
    def tokens(self) -> bool:
        """Whether prompts are tokens of their own."""
        return self.injection not in ("into", "prefix")

    def layers(self) -> tuple[Tensor, ...]:
        """The prompts of each layer, [length, width] or [batch, length, width]."""
        return self.states.unbind(dim=-3)


@dataclass(frozen=True)
class View:
    """What of an frozen pass through a tower tells which task a query belongs to.

    Attributes:
        depth: the pooled token states after so many blocks: how a query looks or is worded; ``None`` without them.
        features: the final features: what it shows or means.
    """

    depth: int | None = None
    features: bool = True


@dataclass(frozen=True)
class TowerState:
    """A tower between two blocks.

    Attributes:
        states: [batch, tokens + prompts, width]; prompt tokens stand behind the ordinary ones.
        tokens: number of ordinary tokens.
        mask: additive attention mask of this layout, or ``None`` where all tokens see all.
        real: [batch, tokens] bool, false for padding that must not be seen; ``None`` where nothing is hidden.
        pool: [batch], index of the token that is pooled, where it isn't the first.
        gate: the gate of the prompts that entered last, scalar.
        block: the block that it enters next.
    """

    states: Tensor
    tokens: int
    mask: Tensor | None = None
    real: Tensor | None = None
    pool: Tensor | None = None
    gate: Tensor | None = None
    block: int = 0

    def __len__(self) -> int:
        return len(self.states)

    def to(self, device: torch.device | str) -> TowerState:
        """The same states on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, rows: Tensor) -> TowerState:
        """The states of some of the items, int64 [some], cut to the longest of them; without prompts, without a mask.

        :meth:`lpi.backbones.tower.Tower.forward` masks them anew.
        """
        chosen = replace(self, mask=None)._each(lambda tensor: tensor[rows])
        ends = chosen.pool + 1 if chosen.real is None and chosen.pool is not None else None
        ends = chosen.real.sum(dim=1) if chosen.real is not None else ends
        if ends is None or not len(rows):
            return chosen
        longest = int(ends.max())
        real = None if chosen.real is None or bool(chosen.real[:, :longest].all()) else chosen.real[:, :longest]
        return replace(chosen, states=chosen.states[:, :longest], real=real, tokens=longest)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TowerState:
        def changed(part: Tensor | None) -> Tensor | None:
            return None if part is None else change(part)

        return replace(
            self,
            states=change(self.states),
            mask=changed(self.mask),
            real=changed(self.real),
            pool=changed(self.pool),
            gate=changed(self.gate),
        )

    @property
    def seen(self) -> Tensor:
        """Which ordinary tokens are part of the input, and no padding, bool [batch, tokens]."""
        if self.real is not None:
            return self.real
        places = torch.arange(self.tokens, device=self.states.device).expand(len(self.states), -1)
        return places >= 0 if self.pool is None else places <= self.pool[:, None]

    @property
    def prompts(self) -> int:
        """Number of prompt tokens."""
        return self.states.shape[1] - self.tokens

    @property
    def ordinary(self) -> Tensor:
        """The states of the ordinary tokens, [batch, tokens, width]."""
        return self.states[:, : self.tokens]


@dataclass(frozen=True)
class Reading:
    """What a frozen tower makes of inputs in one pass.

    Attributes:
        features: [batch, features], not normalised.
        summary: what a closed form reads, [batch, summary width].
        look: what a router looks at, of length 1, [batch, width of the view].
    """

    features: Tensor
    summary: Tensor
    look: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Reading]) -> Reading:
        """Readings of batches as one of all their items."""
        return cls(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))

    def rows(self, rows: Tensor) -> Reading:
        """Of some items, int64 [some]."""
        return Reading(self.features[rows], self.summary[rows], self.look[rows])


Images = Tensor | TowerState
"""Normalised pixels [images, 3, height, width], or their states between two blocks."""
Texts = TextInputs | TowerState
"""Tokens of captions, or their states between two blocks."""


def some(inputs: Any, prompts: TowerPrompts | None, rows: Tensor) -> tuple[Any, TowerPrompts | None]:
    """Some rows of what enters a tower, int64 [some], and the prompts for them."""
    if prompts is not None and prompts.states.dim() == 4:
        prompts = replace(prompts, states=prompts.states[rows])
    return rows_of(inputs, rows), prompts


def rows_of(inputs: Any, rows: Tensor) -> Any:
    """Some rows of what enters a tower, int64 [some]."""
    if isinstance(inputs, TowerState):
        return inputs.rows(rows)
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return type(inputs)(*(part[rows] for part in vars(inputs).values()))


def append(states: Tensor, prompt: Tensor) -> Tensor:
    """Token states with prompt tokens behind them, [batch, tokens + length, width]."""
    return torch.cat([states, prompt.to(states.dtype).expand(len(states), -1, -1)], dim=1)
