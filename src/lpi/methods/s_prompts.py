"""S-Prompts: free prompts for each task, learned alone and never touched again; k-means centroids tell which to use.

A task's prompts enter the first block of each tower and nothing else is learned, so tasks can't disturb each other:
what a task could do when it was learned, it can do for ever, as long as its queries find it. They do by
their frozen feature's nearest centroid. This is what LPI decomposes, deepens and couples.

Paper: S-Prompts (arXiv 2207.12819), the language-image form (S-liPrompts) of section 3.3, and 3.4 for the routing.
Differs: the caption stands where the class name does, so captions are routed too, by centroids of the task's captions;
the loss is the symmetric one over pairs. A text tower without placeholders (BERT) gets its prompts as tokens without
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TowerPrompts
from lpi.errors import ConfigError, check_choice
from lpi.methods.base import FALLBACK, TaskData, recorded
from lpi.methods.experts import Keyed, KeyedExperts
from lpi.methods.prompted import PROMPT_STD, Prompted, Start, at_least, normal
from lpi.prompts.low_rank import TOWERS
from lpi.prompts.task_keys import Metric, TaskKeys, route


class TaskPrompts(Keyed):
    """A task's prompts, [1, length, width] a tower, and its routing keys."""

    def __init__(self, prompts: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterDict(prompts)


class SPrompts(KeyedExperts, Prompted):
    """Independent prompts a task.

    Args:
        backbone: the frozen dual encoder.
        vision_length: prompt tokens of the vision tower, L_I.
        text_length: prompt tokens of the text tower, L_T.
        clusters: centroids a task and tower.
        metric: distance between a query and the centroids: ``l1`` (the authors' code), ``l2``, ``cosine``, or
            ``whitened`` (ours).
        posterior_temperature: of the soft assignment to tasks, in units of the average training distance.
        multi_positive: captions that equal another picture's count as positives of it.
        start: see :class:`lpi.methods.prompted.Prompted`.
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 1.2e-3}

    stable: ClassVar[bool] = True

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        vision_length: int = 10,
        text_length: int = 16,
        clusters: int = 5,
        metric: Metric = "l1",
        posterior_temperature: float = 0.1,
        multi_positive: bool = True,
        start: Start = "paper",
    ) -> None:
        at_least(1, vision_length=vision_length, text_length=text_length, clusters=clusters)
        check_choice("metric", metric, Metric)
        if not posterior_temperature > 0:
            raise ConfigError(f"posterior_temperature must be above 0; got {posterior_temperature}.")
        super().__init__(backbone, **recorded(locals()))

    def make_own(self, generator: torch.Generator, data: TaskData | None) -> nn.Module:
        """A task's prompts, from N(0, 0.02^2)."""
        prompts = {
            tower: normal((1, self.options[f"{tower}_length"], self.backbone.widths[tower]), PROMPT_STD, generator)
            for tower in TOWERS
        }
        return TaskPrompts(prompts | self.gates(1, *TOWERS))

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep the task's routing keys; its prompts never change again."""
        super().end_task(data, generator)
        own = self._expert(len(self.experts) - 1)
        for tower, features in (("vision", data.plain.image_features), ("text", data.plain.text_features)):
            metric, clusters = self.options["metric"], self.options["clusters"]
            own.set_keys(
                tower,
                TaskKeys.fit(features.cpu(), clusters=clusters, metric=metric, quantile=1.0, generator=generator),
            )

    def _expert(self, index: int) -> TaskPrompts:
        return cast(TaskPrompts, self.experts[index])

    def entering(self, tower: str, route: int, query: Callable[[], Tensor]) -> Sequence[TowerPrompts]:
        """See :class:`Prompted`."""
        held = dict(self._expert(route).held)
        placeholders = tower == "text" and self.room() > 0
        gate = held.get(f"gate_{tower}")
        return (TowerPrompts(held[tower], (0,), "shallow", placeholders=placeholders, gate=gate),)

    def room(self) -> int:
        """The text prompts take their place before the caption."""
        return self.placeholder_room(self.options["text_length"])

    # ---- routing -----------------------------------------------------------------------------------------------------

    @property
    def routed(self) -> bool:
        """Every query goes to the task of its nearest centroid."""
        return True

    def route(self, tower: str, plain: Tensor) -> Tensor:
        """The task of the nearest centroid."""
        if not len(self.experts):
            return torch.full((len(plain),), FALLBACK)
        return route(self.distances(tower, plain), self._keys(tower))
