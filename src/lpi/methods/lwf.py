"""LwF: full fine-tuning that keeps giving the answers the model gave before the task, on the task's own pairs.

Before a task is learned, the model's answers to it are recorded. While it is learned, the new model's answers are
drawn towards them: what it knew is asked for through the new task's data, since the old tasks' data are gone.
"""

from __future__ import annotations

from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.losses import distillation_loss
from lpi.methods.adapters import check_range
from lpi.methods.base import TrainingBatch, recorded
from lpi.methods.tuned import Compared


class LwF(Compared):
    """Full fine-tuning with distillation from the model as it was when the task began.

    Args:
        backbone: where it starts; itself left as it is.
        weight: lambda_o, of the distillation.
        temperature: T, softens both sides' answers.
        multi_positive: captions that equal another picture's count as positives of it.
        upper: which share of each tower's blocks learns, from the top; 1 is everything.

    Raises:
        ConfigError: a negative weight, or a temperature of 0 or less.

    Paper: Learning without Forgetting (arXiv 1606.09282), eq. 2 and 3 and fig. 3; T = 2.
    Differs: there are no output heads. A picture's answer is its retrieval distribution over the batch's captions,
        and a caption's over its pictures. The gradient is multiplied by T^2 (arXiv 1503.02531), so that the weight
        means the same at every temperature. Answers are recorded for the pictures as in evaluation, not augmented.
        The first task's teacher is the frozen model.
    """

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        weight: float = 1.0,
        temperature: float = 2.0,
        multi_positive: bool = True,
        upper: float = 1.0,
    ) -> None:
        options = recorded(locals())
        super().__init__(backbone, multi_positive=multi_positive, upper=upper)
        self.options = options
        check_range("weight", weight, 0.0)
        check_range("temperature", temperature, 1e-3)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss, and the distance to the answers before the task."""
        images, texts = self.both(batch)
        parts = {"item": self.item(batch, images, texts)}
        if self.options["weight"]:
            temperature = self.options["temperature"]
            sharpness = self.tuned.logit_scale.exp() / temperature
            old_images, old_texts = self.old(batch)
            distance = distillation_loss(sharpness * images @ texts.T, sharpness * old_images @ old_texts.T)
            parts["distill"] = self.options["weight"] * temperature**2 * distance
        return parts
