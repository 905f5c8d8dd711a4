"""NNN: candidates near to many queries are held back, by subtracting what each gives to similar training queries.

The queries are those of training: for a picture the nearest training captions of all tasks, for a caption the nearest
training pictures. Nothing is trained, and no picture or caption of a test is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.methods.base import Saved, TaskData
from lpi.methods.corrected import Corrected
from lpi.options import Count, Share
from lpi.prompts.low_rank import TOWERS


class NNN(Corrected):
    """Nearest-neighbour normalisation of the frozen model's scores.

    A picture x and a caption y score x y - b(x) - b(y): of the two corrections the query's is the same for all
    candidates, so that one vector an item serves both directions. Vectors of length 1 carry them in four numbers more.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

    Paper: Nearest Neighbor Normalization Improves Multimodal Retrieval (arXiv 2410.24114): b(r) is alpha times the mean
        cosine of r with its k nearest reference queries.
    Differs: alpha is at most 1, and k is smaller, as the tasks are. The features of all training items are kept: to a
        strict reader that is rehearsal.
    """

    @dataclass(frozen=True)
    class Options(Corrected.Options):
        """What the normalisation takes."""

        neighbours: Annotated[Count, "k, reference queries whose cosines are averaged"] = 16
        strength: Annotated[Share, "alpha, of what is taken off"] = 0.5

    options: Options
    extra_width = 4

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.kept = {tower: torch.empty(0, backbone.feature_width) for tower in TOWERS}

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep the task's features."""
        super().end_task(data, generator)
        for tower, features in (("vision", data.frozen.image_features), ("text", data.frozen.text_features)):
            self.kept[tower] = torch.cat([self.kept[tower], features.float().cpu()])

    @property
    def known(self) -> bool:
        """See :class:`Corrected`."""
        return len(self.kept["vision"]) > 0

    def corrected(self, tower: str, features: Tensor) -> Tensor:
        """See :class:`Corrected`; the fourth and fifth number, one a tower, level the lengths."""
        queries = self.kept["text" if tower == "vision" else "vision"].to(features)
        nearest = (features @ queries.T).topk(min(self.options.neighbours, len(queries)), dim=1).values
        bias = self.options.strength * nearest.mean(dim=1, keepdim=True)
        one, none = torch.ones_like(bias), torch.zeros_like(bias)
        rest = (self.options.strength**2 - bias.square()).clamp_min(0).sqrt()
        added = (one, -bias, rest, none) if tower == "vision" else (-bias, one, none, rest)
        return F.normalize(torch.cat([features, *added], dim=1), dim=-1)

    def shared_state(self) -> dict[str, Tensor]:
        """The features that are kept."""
        return dict(self.kept)

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        none = torch.empty(0, self.backbone.feature_width)
        self.kept = {tower: torch.cat([none, shared[tower]]) for tower in TOWERS}  # of that width, or it is refused
