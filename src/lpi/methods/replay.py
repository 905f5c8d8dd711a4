"""Replay: full fine-tuning that mixes a few kept pairs of earlier tasks into every batch.

A small memory holds a fair sample of everything seen so far, whatever its length. It is the one method here that keeps
people's pictures, and says how many numbers that takes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.data.records import normal_caption
from lpi.methods.adapters import drawn_for
from lpi.methods.base import Saved, TaskData, TrainingBatch
from lpi.methods.encoder import tokens
from lpi.methods.tuned import Tuned
from lpi.options import Size


def reservoir(kept: int, size: int, seen: int, generator: torch.Generator) -> int | None:
    """Where the next of a stream goes in a fair sample of it, or ``None`` if it is not kept.

    Args:
        kept: how many are kept so far.
        size: how many may be.
        seen: how many of the stream came before.
        generator: decides.
    """
    if kept < size:
        return kept
    place = int(torch.randint(seen + 1, (), generator=generator))
    return place if place < size else None


class Replay(Tuned):
    """Full fine-tuning with a reservoir of pairs.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Paper: experience replay with reservoir sampling (arXiv 1902.10486), algorithms 1 and 2.
    Differs: the memory takes in a task's pairs when it ends, not batch by batch: within a task they are at hand. The
        kept pairs and the batch's are contrasted with each other as one batch, since a contrastive loss of a few kept
        pairs alone would teach little.
    """

    @dataclass(frozen=True)
    class Options(Tuned.Options):
        """What replay takes."""

        size: Annotated[Size, "n, pairs kept altogether"] = 200
        replayed: Annotated[Size, "pairs of the memory that join each batch"] = 16

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.pixels: list[Tensor] = []
        self.captions: list[str] = []
        self.seen = 0
        self._own: list[str] = []

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`."""
        self._own = list(data.captions)

    def frozen_blocks(self, tower: str) -> int:
        """None: pairs of the memory join the batch as pixels and words."""
        return 0

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss of the batch and of pairs from the memory, together."""
        if self.pixels and self.options.replayed:
            batch = self.mixed(batch)
        return super().loss(batch)

    def mixed(self, batch: TrainingBatch) -> TrainingBatch:
        """A batch with pairs of the memory behind its own; equal captions are right for each other's pictures."""
        assert isinstance(batch.images, Tensor)  # no blocks are frozen
        drawn = torch.randperm(len(self.pixels), generator=drawn_for(batch))[: self.options.replayed].tolist()
        inputs = self.backbone.inputs
        images = inputs.normalise(torch.stack([self.pixels[row] for row in drawn]).to(self.backbone.device))
        texts = [self._own[row] for row in batch.caption_rows.tolist()] + [self.captions[row] for row in drawn]
        words = [normal_caption(text) for text in texts]
        own, kept = words[: len(batch.texts)], words[len(batch.texts) :]
        equal = torch.tensor(
            [[a == b for b in kept] for a in own], device=self.backbone.device
        )  # [own texts, kept texts]
        among = torch.tensor([[a == b for b in kept] for a in kept], device=self.backbone.device)
        right = (batch.positives.float() @ equal.float()) > 0  # [own images, kept texts]
        positives = torch.cat([torch.cat([batch.positives, right], 1), torch.cat([equal.T, among], 1)])
        owner = torch.cat([batch.owner, len(batch.images) + torch.arange(len(drawn), device=self.backbone.device)])
        return replace(
            batch,
            images=torch.cat([batch.images, images]),
            texts=tokens(self, texts),
            positives=positives,
            owner=owner,
        )

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Let the task's pairs pass by the reservoir."""
        seed = int(torch.randint(2**31, (), generator=generator))
        for batch in data.batches(seed=seed):
            assert isinstance(batch.images, Tensor)  # no blocks are frozen
            pictures = self.backbone.inputs.denormalise(batch.images).cpu()
            for picture, row in zip(pictures, batch.caption_rows.tolist(), strict=True):
                place = reservoir(len(self.pixels), self.options.size, self.seen, generator)
                self.seen += 1
                if place is not None:
                    self.pixels[place : place + 1] = [picture]
                    self.captions[place : place + 1] = [data.captions[row]]

    def shared_state(self) -> dict[str, Tensor]:
        """The weights; the memory: pixels, and captions as bytes."""
        text = torch.frombuffer(bytearray(json.dumps(self.captions).encode()), dtype=torch.uint8)
        pixels = {"memory/pixels": torch.stack(self.pixels)} if self.pixels else {}
        return {
            **super().shared_state(),
            **pixels,
            "memory/captions": text,
            "memory/seen": torch.tensor(self.seen),
        }

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.pixels = list(shared.get("memory/pixels", torch.empty(0)))
        self.captions = json.loads(bytes(shared["memory/captions"].tolist()))
        self.seen = int(shared["memory/seen"])
        super().restore(tasks, {name: value for name, value in shared.items() if not name.startswith("memory/")})
