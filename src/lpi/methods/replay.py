"""Replay: full fine-tuning that mixes a few kept pairs of earlier tasks into every batch.

A small memory holds a fair sample of everything seen so far, whatever its length. It is the one method here that keeps
people's pictures, and says how many numbers that takes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.data.records import normal_caption
from lpi.methods.adapters import check_range, drawn_for
from lpi.methods.base import TaskData, TrainingBatch, recorded
from lpi.methods.tuned import Tuned


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
        size: n, pairs kept altogether.
        replayed: pairs of the memory that join each batch.
        multi_positive: captions that equal another picture's count as positives of it.
        upper: which share of each tower's blocks learns, from the top; 1 is everything.

    Raises:
        ConfigError: a negative number.

    Paper: experience replay with reservoir sampling (arXiv 1902.10486), algorithms 1 and 2.
    Differs: the memory takes in a task's pairs when it ends, not batch by batch: within a task they are at hand. The
        kept pairs and the batch's are contrasted with each other as one batch, since a contrastive loss of a few kept
        pairs alone would teach little.
    """

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        size: int = 200,
        replayed: int = 16,
        multi_positive: bool = True,
        upper: float = 1.0,
    ) -> None:
        options = recorded(locals())
        super().__init__(backbone, multi_positive=multi_positive, upper=upper)
        self.options = options
        check_range("size", size, 0)
        check_range("replayed", replayed, 0)
        self.pixels: list[Tensor] = []
        self.captions: list[str] = []
        self.seen = 0
        self._own: list[str] = []

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`."""
        super().begin_task(data, generator)
        self._own = list(data.captions)

    def trunk(self) -> int:
        """None: pictures of the memory join the batch as pixels."""
        return 0

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss of the batch and of pairs from the memory, together."""
        if self.pixels and self.options["replayed"]:
            batch = self.mixed(batch)
        return super().loss(batch)

    def mixed(self, batch: TrainingBatch) -> TrainingBatch:
        """A batch with pairs of the memory behind its own; equal captions are right for each other's pictures."""
        assert isinstance(batch.images, Tensor)  # there is no trunk
        drawn = torch.randperm(len(self.pixels), generator=drawn_for(batch))[: self.options["replayed"]].tolist()
        inputs = self.backbone.inputs
        images = inputs.normalise(torch.stack([self.pixels[row] for row in drawn]).to(self.device))
        texts = [self._own[row] for row in batch.caption_rows.tolist()] + [self.captions[row] for row in drawn]
        words = [normal_caption(text) for text in texts]
        own, kept = words[: len(batch.texts)], words[len(batch.texts) :]
        equal = torch.tensor([[a == b for b in kept] for a in own], device=self.device)  # [own texts, kept texts]
        among = torch.tensor([[a == b for b in kept] for a in kept], device=self.device)
        right = (batch.positives.float() @ equal.float()) > 0  # [own images, kept texts]
        positives = torch.cat([torch.cat([batch.positives, right], 1), torch.cat([equal.T, among], 1)])
        owner = torch.cat([batch.owner, len(batch.images) + torch.arange(len(drawn), device=self.device)])
        return replace(
            batch,
            images=torch.cat([batch.images, images]),
            texts=self.tokens(texts),
            positives=positives,
            owner=owner,
        )

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Let the task's pairs pass by the reservoir."""
        seed = int(torch.randint(2**31, (), generator=generator))
        for batch in data.batches(seed=seed):
            assert isinstance(batch.images, Tensor)  # there is no trunk
            pictures = self.backbone.inputs.denormalise(batch.images).cpu()
            for picture, row in zip(pictures, batch.caption_rows.tolist(), strict=True):
                place = reservoir(len(self.pixels), self.options["size"], self.seen, generator)
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

    def restore(self, tasks: Any, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        self.pixels = list(shared.get("memory/pixels", torch.empty(0)))
        self.captions = json.loads(bytes(shared["memory/captions"].tolist()))
        self.seen = int(shared["memory/seen"])
        super().restore(tasks, {name: value for name, value in shared.items() if not name.startswith("memory/")})
