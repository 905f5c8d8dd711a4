"""What the prompt-based rivals have in common: what they learn, what they keep, and how prompts reach a tower.

A subclass says what is learned once and trained on from task to task (:meth:`PromptLearner.make_shared`), what is
learned for one task and then left alone (:meth:`PromptLearner.make_own`), and what of it enters a tower for given items
(:meth:`PromptLearner.entering`). The loss is the one that all methods here share, so that they differ in their prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts, Tower, TowerPrompts
from lpi.errors import ConfigError
from lpi.losses import item_loss
from lpi.methods.base import (
    FALLBACK,
    Learner,
    Method,
    Saved,
    TaskData,
    TrainingBatch,
    load_by_shape,
    router_losses,
    router_trainable,
)
from lpi.methods.options import MethodOptions, PairOptions
from lpi.prompts.low_rank import normal

Start = Literal["paper", "neutral"]
Frozen = Callable[[], tuple[Tensor, Tensor]]
PROMPT_STD = 0.02


def even(**lengths: int) -> None:
    """Refuse odd lengths of prefixes.

    Raises:
        ConfigError: the first of them.
    """
    for name, length in lengths.items():
        if length % 2:
            raise ConfigError(f"{name} must be even, half keys and half values; got {length}.")


def fitting_depth(depth: int | None, paper: int, blocks: int) -> int:
    """How many blocks get prompts: as asked for, or as many as in the paper where there are so many.

    Raises:
        ConfigError: fewer than 1, or more than there are.
    """
    if depth is None:
        return min(paper, blocks)
    if not 1 <= depth <= blocks:
        raise ConfigError(f"depth must be between 1 and {blocks}, the blocks that can be prompted; got {depth}.")
    return depth


def run_tower(tower: Tower, inputs: Any, parts: Sequence[TowerPrompts]) -> Tensor:
    """Features of inputs through a tower that one set of prompts enters after another, [batch, features].

    Args:
        tower: which.
        inputs: what it reads, or its states between two blocks.
        parts: sets of prompts in the order of their blocks; a set is done with where the next one enters.
    """
    state = tower.entered(inputs, parts[0] if parts else None)
    stops = [part.blocks[0] for part in parts[1:]]
    for part, stop in zip(parts, [*stops, tower.depth][: len(parts)], strict=True):
        state = tower.advance(state, state.block, stop, part)
    return tower.finish(tower.advance(state, state.block, tower.depth))


def first_words(backbone: DualEncoder, words: str, states: Tensor) -> None:
    """Set the first rows of prompts [length, text width] to the word embeddings of ``words``, as many as fit."""
    ids = backbone.inputs.tokenizer(words, add_special_tokens=False)["input_ids"]
    found = backbone.text.words(torch.tensor(ids[: len(states)], dtype=torch.int64, device=backbone.device))
    states[: len(found)] = found.to(states)


@dataclass(frozen=True)
class PromptOptions(PairOptions):
    """What every prompt-based method takes."""

    start: Annotated[
        Start,
        "paper: prompts are attended to like other tokens from the first step on, which takes a model that aligns two "
        "towers far from where it was; neutral (ours): what is attended from them passes a learned gate a layer that "
        "starts at zero, so the first forward pass equals the frozen model's",
    ] = "paper"


class PromptLearner(Learner):
    """Prompts on a frozen backbone, whatever they are learned for.

    Attributes:
        learned: what all tasks train, one after another.
        experts: what each task trains alone; frozen afterwards. Empty modules where a method has no such thing.
    """

    Options: ClassVar[type[MethodOptions]] = PromptOptions
    options: PromptOptions

    def __init__(self, backbone: DualEncoder, options: PromptOptions | None = None) -> None:
        super().__init__(backbone, options)
        self.experts = nn.ModuleList()
        generator = torch.Generator().manual_seed(0)
        self.learned = self.make_shared(generator)
        self.make_own(generator, None)  # what doesn't fit the backbone is refused now, not when a task begins

    # ---- what a subclass answers -------------------------------------------------------------------------------------

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """What is learned on from task to task, as it is before the first."""
        return nn.Module()

    def make_own(self, generator: torch.Generator, data: TaskData | None) -> nn.Module:
        """What one task learns; ``data`` is ``None`` where only the shapes matter."""
        return nn.Module()

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """The prompts that enter a tower, in the order of their blocks; none leave it as it is.

        Args:
            tower: ``vision`` or ``text``.
            route: the task whose knowledge to use; while a task is learned, that one.
            query: gives the items' frozen, L2-normalised features, [batch, features], without gradient.
        """
        raise NotImplementedError

    def constraints(self, frozen: Frozen) -> dict[str, Tensor]:
        """What the loss holds beside the items, weighted.

        Args:
            frozen: gives the items' frozen, L2-normalised features, pictures and texts, [batch, features] each.
        """
        return {}

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Draw what all tasks share, if this is the first one, and what this one has for itself."""
        device = self.backbone.device
        if len(self.tasks) == 1:
            self.learned = self.make_shared(generator).to(device)
        self.experts.append(self.make_own(generator, data).to(device))

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """What the task learned for itself never changes again."""
        self.experts.requires_grad_(False)
        super().end_task(data, generator)

    def trainable(self) -> list[nn.Parameter]:
        """What is shared, and the newest task's own."""
        if not len(self.experts):
            return []
        return [*self.learned.parameters(), *self.experts[-1].parameters(), *router_trainable(self)]

    def gates(self, layers: int, *towers: str) -> dict[str, nn.Parameter]:
        """A gate a layer for each tower, at zero; none for ``start="paper"``."""
        if self.options.start == "paper":
            return {}
        return {f"gate_{tower}": nn.Parameter(torch.zeros(layers)) for tower in towers}

    def placeholders(self, length: int) -> int:
        """How many placeholder tokens prompts of the text tower's first block stand in for: all of them, or none.

        Where a tower has placeholders, prompts stand before the caption's words and carry positions, as in CoOp. A
        gate needs tokens that leave the caption's positions alone.
        """
        return length if self.options.start == "paper" and self.backbone.text.placeholders else 0

    # ---- saving ------------------------------------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """What one task learned for itself."""
        return dict(self.experts[index].state_dict())

    def shared_state(self) -> dict[str, Tensor]:
        """What all tasks learned."""
        return dict(self.learned.state_dict())

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Learner`."""
        self.learned.load_state_dict(shared)
        generator = torch.Generator().manual_seed(0)
        self.experts = nn.ModuleList()
        for _, state in tasks:
            self.experts.append(load_by_shape(self.make_own(generator, None), state))
        self.experts.to(self.backbone.device)


class Prompted(PromptLearner, Method):
    """Prompts that are learned from pairs of pictures and captions."""

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Symmetric InfoNCE of pictures and captions, and what the method and its router add."""
        route = len(self.tasks) - 1
        images = self._encode("vision", batch.images, self.entering("vision", route, lambda: batch.frozen()[0]))
        texts = self._encode("text", batch.texts, self.entering("text", route, lambda: batch.frozen()[1]))
        positives = batch.positives
        if not self.options.multi_positive:
            positives = F.one_hot(batch.owner, len(positives)).T.bool()
        scale = self.backbone.logit_scale.exp()
        item = item_loss(images, texts, positives, logit_scale=scale)
        return {"item": item} | self.constraints(batch.frozen) | router_losses(self, batch.frozen)

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone, and so is any route before the first task."""
        return self._under("vision", images, route)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return self._under("text", texts, route)

    def _under(self, tower: str, inputs: Any, route: int) -> Tensor:
        if route == FALLBACK or not self.tasks:
            return self._encode(tower, inputs, ())

        def query() -> Tensor:  # the papers' first pass
            with torch.no_grad():
                return self._encode(tower, inputs, ())

        return self._encode(tower, inputs, self.entering(tower, route, query))

    def _encode(self, tower: str, inputs: Any, parts: Sequence[TowerPrompts]) -> Tensor:
        encoder = self.backbone.vision if tower == "vision" else self.backbone.text
        return F.normalize(run_tower(encoder, inputs, parts), dim=-1)


__all__ = [
    "PROMPT_STD",
    "Frozen",
    "PromptLearner",
    "PromptOptions",
    "Prompted",
    "Start",
    "even",
    "first_words",
    "fitting_depth",
    "normal",
    "run_tower",
]
