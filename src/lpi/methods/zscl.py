"""ZSCL: full fine-tuning that stays near the frozen model in feature space and in weight space.

On reference pictures and texts the model keeps giving the frozen model's retrieval distributions, and what counts in
the end is the average of the weights it went through, not the last ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones.base import DualEncoder, TextInputs
from lpi.errors import ConfigError
from lpi.methods.adapters import check_range, drawn_for, grouped, within
from lpi.methods.base import TaskData, TrainingBatch, recorded
from lpi.methods.tuned import Tuned
from lpi.tasks.batches import PictureStore
from lpi.tasks.stream import TaskStream


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence in nats of the students' from the teachers' softened rows, averaged, times T^2, scalar.

    Its gradient is that of the cross-entropy against the teacher's softened answers, times T^2.
    """
    new, old = (student / temperature).log_softmax(dim=1), (teacher / temperature).log_softmax(dim=1)
    return F.kl_div(new, old, reduction="batchmean", log_target=True) * temperature**2


class Reference:
    """Pictures and captions on which a model should stay as it was, with the frozen model's features.

    Args:
        folder: of tasks, as for a stream: ``<task>/captions.jsonl`` and ``<task>/images/``.
        backbone: the frozen model.
        size: pairs drawn at once.

    Raises:
        ConfigError: fewer than two pictures.
        DataError, MissingFileError: as the reader of folders says.
    """

    def __init__(self, folder: str, backbone: DualEncoder, size: int) -> None:
        records = TaskStream.from_folder(folder).merged().train
        if len(records) < 2:
            raise ConfigError(f"reference must hold at least 2 training pictures; {folder} has {len(records)}.")
        inputs = backbone.inputs
        self.backbone, self.size = backbone, min(size, len(records))
        self.captions = [record.captions[0] for record in records]
        self.store = PictureStore([r.picture for r in records], inputs.prepare, side=min(inputs.image_size))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, TextInputs, Tensor, Tensor]:
        """Pixels, tokens, and the frozen model's features of both, L2-normalised, of pairs drawn at random."""
        rows = torch.randperm(len(self.captions), generator=generator)[: self.size].tolist()
        device, inputs = self.backbone.logit_scale.device, self.backbone.inputs
        pixels = inputs.normalise(self.store.pixels(rows).to(device))
        texts = inputs.tokenize([self.captions[row] for row in rows]).to(device)
        with torch.no_grad():
            plain = (self.backbone.encode_images(pixels), self.backbone.encode_texts(texts))
        return pixels, texts, F.normalize(plain[0], dim=-1), F.normalize(plain[1], dim=-1)


class ZSCL(Tuned):
    """Full fine-tuning with distillation from the frozen model and an average over the weights.

    Args:
        backbone: where it starts, and the teacher; itself left as it is.
        weight: lambda, of each of the two distillation losses.
        temperature: T, softens both sides' answers.
        reference: a folder of tasks, as for a stream, whose training pictures and captions are distilled on; by
            default the task's own batches.
        reference_batch: pairs drawn from it a step.
        ensemble_every: steps between two weights that enter the average; 0 doesn't average.
        multi_positive: captions that equal another picture's count as positives of it.
        upper: which share of each tower's blocks learns, from the top; 1 is everything.

    Raises:
        ConfigError: a number out of range, or a reference of fewer than two pictures.

    Paper: ZSCL (arXiv 2303.06628), eq. 2 to 4 (distillation on reference pictures and texts) and eq. 6 (weight
        ensemble); T = 2, lambda = 1.
    Differs: its authors distil on 100,000 pictures of ImageNet and as many captions. Where no reference is named, the
        task's own pairs serve, with their frozen features. Their code transposes the pictures' logits for the texts'
        loss; both towers learn here, so the texts' own features stand against the frozen pictures. Divergence instead
        of cross-entropy: the same gradient, and 0 means no difference. They average every 100 steps; tasks here are
        shorter.
    """

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        weight: float = 1.0,
        temperature: float = 2.0,
        reference: str | None = None,
        reference_batch: int = 32,
        ensemble_every: int = 10,
        multi_positive: bool = True,
        upper: float = 1.0,
    ) -> None:
        options = recorded(locals())
        super().__init__(backbone, multi_positive=multi_positive, upper=upper)
        self.options = options
        check_range("weight", weight, 0.0)
        check_range("temperature", temperature, 1e-3)
        check_range("reference_batch", reference_batch, 2)
        check_range("ensemble_every", ensemble_every, 0)
        self.reference = Reference(reference, backbone, reference_batch) if reference is not None else None
        self.average: list[Tensor] = []
        self.averaged = self.seen = 0

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """The average begins with the weights as they are."""
        super().begin_task(data, generator)
        self.average = [weight.detach().clone() for weight in self.trainable()] if self._ensembles else []
        self.averaged, self.seen = 1, 0

    @property
    def _ensembles(self) -> bool:
        return bool(self.options["ensemble_every"])

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss and the distance to the frozen model on the reference pairs."""
        if self.average and self.seen and self.seen % self.options["ensemble_every"] == 0:
            self._enter_average()
        self.seen += 1
        images, texts = self.both(batch)
        parts = {"item": self.item(batch, images, texts)}
        if self.options["weight"]:
            if self.reference is None:
                plain_images, plain_texts = batch.plain()
            else:
                pixels, tokens, plain_images, plain_texts = self.reference.draw(drawn_for(batch))
                images, texts = self.image_features(pixels, 0), self.text_features(tokens, 0)
            scale, temperature = self.tuned.logit_scale.exp(), self.options["temperature"]
            teacher = scale * plain_images @ plain_texts.T
            for name, student, target in (
                ("distill_images", scale * images @ plain_texts.T, teacher),
                ("distill_texts", scale * texts @ plain_images.T, teacher.T),
            ):
                parts[name] = self.options["weight"] * softened_divergence(student, target, temperature)
        return parts

    @torch.no_grad()
    def _enter_average(self) -> None:
        """The average of n + 1 weights from that of n and one more."""
        self.averaged += 1
        for mean, weight in zip(self.average, self.trainable(), strict=True):
            mean += (weight - mean) / self.averaged

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """From here on the average is the model."""
        if self.average:
            self._enter_average()
            for mean, weight in zip(self.average, self.trainable(), strict=True):
                weight.copy_(mean)
        self.average = []

    def progress(self) -> dict[str, Tensor]:
        """The average so far."""
        means = {str(number): mean for number, mean in enumerate(self.average)}
        return {"counts": torch.tensor([self.averaged, self.seen]), **grouped("average", means)}

    def resume(self, progress: dict[str, Any]) -> None:
        """See :class:`Method`."""
        self.averaged, self.seen = progress["counts"].tolist()
        means = within(progress, "average")
        self.average = [means[str(number)] for number in range(len(means))]
