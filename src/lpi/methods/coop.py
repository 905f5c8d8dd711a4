"""CoOp: a learned context in front of every caption, trained on from task to task.

The words of a hand-written prompt ("a photo of a") are replaced by vectors in the word embedding space of the text
tower; everything else stays frozen. All items share the one context, so a later task overwrites what an earlier one
put there: the simplest prompt-based learner, and one that forgets.

Paper: Learning to Prompt for Vision-Language Models (arXiv 2109.01134), eq. 2-3.
Differs: the caption stands where the class name does, and the loss is the symmetric one over pairs, because there are
no classes. The vision tower has no prompts, as in the paper. A text tower that reads both ways and pools its first
token (BERT) gets the context as tokens without positions behind its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.methods.prompted import PROMPT_STD, Prompted, PromptOptions, first_words, normal
from lpi.options import Count


class CoOp(Prompted):
    """One context for the text tower.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

    @dataclass(frozen=True)
    class Options(PromptOptions):
        """What CoOp takes."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1.2e-3}

        length: Annotated[Count, "context tokens, M"] = 16
        words: Annotated[
            str,
            "the context starts at the embeddings of these words, as many as fit; what is left over, or all of it, is "
            "drawn from N(0, 0.02^2)",
        ] = ""

    options: Options

    def make_shared(self, generator: torch.Generator) -> nn.Module:
        """The context, [length, text width]."""
        context = normal((self.options.length, self.backbone.text.width), PROMPT_STD, generator)
        if self.options.words:
            first_words(self.backbone, self.options.words, context.data)
        return nn.ParameterDict({"context": context, **self.gates(1, "text")})

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`."""
        if tower == "vision":
            return ()
        learned = dict(self.learned.named_parameters())
        states, gate = learned["context"][None], learned.get("gate_text")
        return (TowerPrompts(states, (0,), "shallow", placeholders=self.reserved_tokens() > 0, gate=gate),)

    def reserved_tokens(self) -> int:
        """The context takes its place before the caption."""
        return self.placeholders(self.options.length)

    def frozen_blocks(self, tower: str) -> int:
        """No block of the vision tower learns anything."""
        return self.backbone.vision.depth if tower == "vision" else 0
