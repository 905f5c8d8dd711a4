"""ZSCL: full fine-tuning that stays near the frozen model in feature space and in weight space.

On reference pictures and texts the model keeps giving the frozen model's retrieval distributions, and what counts in
the end is the average of the weights it went through, not the last ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TextInputs
from lpi.errors import ConfigError
from lpi.methods.adapters import drawn_for
from lpi.methods.base import TaskData, TrainingBatch
from lpi.methods.tuned import Tuned
from lpi.options import Size, Weight
from lpi.tasks.batches import PictureStore
from lpi.tasks.stream import TaskStream, general_stream

SCENES = "scenes"  # as a reference: the embedded backbone's own world
DRAWN = 512  # pictures of it


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence in nats of the students' from the teachers' softened rows, averaged, times T^2, scalar.

    Its gradient is that of the cross-entropy against the teacher's softened answers, times T^2.
    """
    new, old = (student / temperature).log_softmax(dim=1), (teacher / temperature).log_softmax(dim=1)
    return F.kl_div(new, old, reduction="batchmean", log_target=True) * temperature**2


class Reference:
    """Pictures and captions on which a model should stay as it was, with the frozen model's features.

    Args:
        folder: of tasks, as for a stream: ``<task>/captions.jsonl`` and ``<task>/images/``; or ``scenes``.
        backbone: the frozen model.
        size: pairs drawn at once.

    Raises:
        ConfigError: fewer than two pictures.
        DataError, MissingFileError: as the reader of folders says.
    """

    def __init__(self, folder: str, backbone: DualEncoder, size: int) -> None:
        stream = general_stream(DRAWN, seed=1) if folder == SCENES else TaskStream.from_folder(folder)
        records = stream.merged().train
        if len(records) < 2:
            raise ConfigError(f"reference must hold at least 2 training pictures; {folder} has {len(records)}.")
        inputs = backbone.inputs
        self.backbone, self.size = backbone, min(size, len(records))
        self.captions = [record.captions[0] for record in records]
        self.store = PictureStore([r.picture for r in records], inputs.prepare, side=min(inputs.image_size))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, TextInputs, Tensor, Tensor]:
        """Pixels, tokens, and the frozen model's features of both, L2-normalised, of pairs drawn at random."""
        rows = torch.randperm(len(self.captions), generator=generator)[: self.size].tolist()
        device, inputs = self.backbone.device, self.backbone.inputs
        pixels = inputs.normalise(self.store.pixels(rows).to(device))
        texts = inputs.tokenize([self.captions[row] for row in rows]).to(device)
        with torch.no_grad():
            frozen = (self.backbone.encode_images(pixels), self.backbone.encode_texts(texts))
        return pixels, texts, F.normalize(frozen[0], dim=-1), F.normalize(frozen[1], dim=-1)


class WeightAverage(nn.Module):
    """The average of weights over a task's steps, in buffers, so that a stopped run finds it again."""

    entered: Tensor
    steps: Tensor

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        for number, weight in enumerate(weights):
            self.register_buffer(f"mean_{number}", weight.detach().clone(), persistent=False)
        self.register_buffer("entered", torch.ones((), dtype=torch.int64), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=False)

    def means(self) -> list[Tensor]:
        """The averages, in the order of the weights."""
        return [self.get_buffer(f"mean_{number}") for number in range(len(self._buffers) - 2)]

    def step(self, weights: Sequence[Tensor], *, every: int) -> None:
        """Count a step that is about to be taken; of every so many, the weights before it enter the average."""
        if self.steps and int(self.steps) % every == 0:
            self.enter(weights)
        self.steps += 1

    @torch.no_grad()
    def enter(self, weights: Sequence[Tensor]) -> None:
        """The average of n + 1 weights from that of n and one more."""
        self.entered += 1
        for mean, weight in zip(self.means(), weights, strict=True):
            mean += (weight - mean) / int(self.entered)


class ZSCL(Tuned):
    """Full fine-tuning with distillation from the frozen model and an average over the weights.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Paper: ZSCL (arXiv 2303.06628), eq. 2 to 4 (distillation on reference pictures and texts) and eq. 6 (weight
        ensemble); T = 2, lambda = 1.
    Differs: its authors distil on 100,000 pictures of ImageNet and as many captions. Where no reference is named, the
        task's own pairs serve, with their frozen features. Their code transposes the pictures' logits for the texts'
        loss; both towers learn here, so the texts' own features stand against the frozen pictures. Divergence instead
        of cross-entropy: the same gradient, and 0 means no difference. They average every 100 steps; tasks here are
        shorter.
    """

    @dataclass(frozen=True)
    class Options(Tuned.Options):
        """What ZSCL takes."""

        weight: Annotated[Weight, "lambda, of each of the two distillation losses"] = 1.0
        temperature: Annotated[float, Field(ge=1e-3), "T, softens both sides' answers"] = 2.0
        reference: Annotated[
            str | None,
            "a folder of tasks, as for a stream, whose training pictures and captions are distilled on, or 'scenes', "
            "the world that lpi-tiny was pre-trained on; by default the task's own batches",
        ] = None
        reference_batch: Annotated[int, Field(ge=2), "pairs drawn from it a step"] = 32
        ensemble_every: Annotated[Size, "steps between two weights that enter the average; 0 doesn't average"] = 10

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        o = self.options
        self.reference = None if o.reference is None else Reference(o.reference, backbone, o.reference_batch)
        self.average: WeightAverage | None = None

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """The average begins with the weights as they are."""
        self.average = WeightAverage(self.trainable()) if self.options.ensemble_every else None

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss and the distance to the frozen model on the reference pairs."""
        if self.average is not None:
            self.average.step(self.trainable(), every=self.options.ensemble_every)
        images, texts = self.both(batch)
        parts = {"item": self.item(batch, images, texts)}
        if self.options.weight:
            if self.reference is None:
                frozen_images, frozen_texts = batch.frozen()
            else:
                pixels, tokens, frozen_images, frozen_texts = self.reference.draw(drawn_for(batch))
                images, texts = self.image_features(pixels, 0), self.text_features(tokens, 0)
            scale, temperature = self.tuned.logit_scale.exp(), self.options.temperature
            teacher = scale * frozen_images @ frozen_texts.T
            for name, student, target in (
                ("distill_images", scale * images @ frozen_texts.T, teacher),
                ("distill_texts", scale * texts @ frozen_images.T, teacher.T),
            ):
                parts[name] = self.options.weight * softened_divergence(student, target, temperature)
        return parts

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """From here on the average is the model."""
        if self.average is not None:
            self.average.enter(self.trainable())
            for mean, weight in zip(self.average.means(), self.trainable(), strict=True):
                weight.copy_(mean)
        self.average = None
