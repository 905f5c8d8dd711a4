"""LwF: full fine-tuning that keeps giving the answers the model gave before the task, on the task's own pairs.

Before a task is learned, the model's answers to it are recorded. While it is learned, the new model's answers are
drawn towards them: what it knew is asked for through the new task's data, since the old tasks' data are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from lpi.losses import distillation_loss
from lpi.methods.base import TrainingBatch
from lpi.methods.tuned import Compared
from lpi.options import Weight


class LwF(Compared):
    """Full fine-tuning with distillation from the model as it was when the task began.

    Args:
        backbone: where it starts; itself left as it is.
        options: see :class:`Options`.

    Paper: Learning without Forgetting (arXiv 1606.09282), eq. 2 and 3 and fig. 3; T = 2.
    Differs: there are no output heads. A picture's answer is its retrieval distribution over the batch's captions,
        and a caption's over its pictures. The gradient is multiplied by T^2 (arXiv 1503.02531), so that the weight
        means the same at every temperature. Answers are recorded for the pictures as in evaluation, not augmented.
        The first task's teacher is the frozen model.
    """

    @dataclass(frozen=True)
    class Options(Compared.Options):
        """What LwF takes."""

        weight: Annotated[Weight, "lambda_o, of the distillation"] = 1.0
        temperature: Annotated[float, Field(ge=1e-3), "T, softens both sides' answers"] = 2.0

    options: Options

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss, and the distance to the answers before the task."""
        images, texts = self.both(batch)
        parts = {"item": self.item(batch, images, texts)}
        if self.options.weight:
            temperature = self.options.temperature
            sharpness = self.tuned.logit_scale.exp() / temperature
            old_images, old_texts = self.old(batch)
            distance = distillation_loss(sharpness * images @ texts.T, sharpness * old_images @ old_texts.T)
            parts["distill"] = self.options.weight * temperature**2 * distance
        return parts
