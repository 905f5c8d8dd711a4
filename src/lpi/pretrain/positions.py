"""Text towers that are at home at every position: captions of all lengths, and captions that begin anywhere.

Prompts of many tokens move a caption to positions that short captions never reach. A tower that never saw text there
loses by the move alone, whatever the prompts say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import TextInputs, Tower, TowerState
from lpi.data.records import CaptionedImage
from lpi.methods.base import TrainingBatch
from lpi.methods.finetune import FineTune
from lpi.options import Weight

BEFORE = (
    "here is",
    "this shows",
    "it says",
    "page 7:",
    "as far as one can see,",
    "look,",
    "number 3 of 12:",
    "someone saw",
)
BETWEEN = (", and", ";", ", that is to say,", ", or")


def moved(tower: Tower, texts: TextInputs, by: int | Tensor) -> TowerState:
    """Captions as they enter a CLIP's text tower, all but the start token ``by`` positions further back.

    Args:
        tower: a text tower with a table of positions.
        texts: [batch, tokens].
        by: for all, or for each, int64 [batch]; at most the context less a caption's tokens. Padding, which nothing
            looks at, stays within the table.
    """
    state, table = tower.begin(texts), tower.module.embeddings.position_embedding.weight
    here = torch.arange(1, texts.ids.shape[1], device=table.device)
    there = here + torch.as_tensor(by, device=table.device).reshape(-1, 1)
    shift: Tensor = table[there.clamp_max(len(table) - 1)] - table[here]
    return replace(state, states=state.states + F.pad(shift, (0, 0, 1, 0)))


def lengthened(records: Iterable[CaptionedImage], *, seed: int) -> Iterator[CaptionedImage]:
    """Records with as many captions again, each of two, with a few words before or between that say nothing."""
    for record in records:
        rng = Random(f"{seed}/{record.picture.name}")
        longer = []
        for caption in record.captions:
            other = rng.choice(record.captions)
            parts = [rng.choice(BEFORE) if rng.random() < 0.5 else "", f"{caption}{rng.choice(BETWEEN)}", other]
            longer.append(" ".join(part for part in parts if part))
        yield replace(record, captions=(*record.captions, *longer))


class AnyPosition(FineTune):
    """Fine-tuning in which every caption begins somewhere else in the context each time it is seen."""

    @dataclass(frozen=True)
    class Options(FineTune.Options):
        """What fine-tuning takes, and how much a caption is held to what it is at the first positions."""

        steady: Annotated[
            Weight, "weight of 1 less the cosine of a caption that was moved with the same one at the first positions"
        ] = 0.0

    options: Options

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss of moved captions; with ``steady``, also how far they come from where they were."""
        images, read = self.both(batch)
        parts = {"item": self.item(batch, images, read)}
        if self.options.steady:
            here = F.normalize(self.tuned.encode_texts(batch.texts), dim=-1)
            parts["steady"] = self.options.steady * (1 - (here * read).sum(dim=-1)).mean()
        return parts

    def both(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch under the copy, [images, features] and [texts, features]."""
        texts = batch.texts
        assert isinstance(texts, TextInputs)  # every weight learns, so that no block's states are kept
        room = self.tuned.text.context - texts.mask.sum(1)
        draw = torch.Generator().manual_seed(int(batch.caption_rows.sum()))  # a stopped training goes on alike
        by = (torch.rand(len(room), generator=draw).to(room.device) * (room + 1)).long()
        return super().both(replace(batch, texts=moved(self.tuned.text, texts, by)))
