"""DAR: a LoRA expert a task on the frozen model; a query takes the nearest one, or two merged where it is undecided.

Experts never change once their task is learned. A prototype a task and tower says which expert a query needs; when its
second-nearest prototype is almost as near, the weights of both experts are merged for it.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TextInputs, TowerState
from lpi.errors import ConfigError
from lpi.methods.adapters import Adapted, LowRank, Targets, check_range, grouped, item_level, within
from lpi.methods.base import FALLBACK, TaskData, TrainingBatch, recorded
from lpi.methods.experts import Experts
from lpi.prompts.low_rank import TOWERS
from lpi.prompts.task_keys import TaskKeys, task_distances, task_posteriors

PAIR = 1000  # the route PAIR * (i + 1) + j is experts i and j merged, i the nearer


def pair(first: Tensor, second: Tensor) -> Tensor:
    """The routes of two merged experts, int64, the nearer first; :func:`experts_of` takes them apart."""
    return PAIR * (first + 1) + second


def experts_of(route: int) -> tuple[int, ...]:
    """The experts behind a route.

    >>> experts_of(3), experts_of(4002), experts_of(-1)
    ((3,), (3, 2), ())
    """
    if route >= PAIR:
        return route // PAIR - 1, route % PAIR
    return () if route == FALLBACK else (route,)


class Expert(nn.Module):
    """What is learned and kept for one task: its change, and a prototype a tower."""

    def __init__(self, change: LowRank, features: int) -> None:
        super().__init__()
        self.change = change
        for tower in TOWERS:  # filled when the task ends
            self.register_buffer(f"prototypes_{tower}", torch.empty(0, features))
            self.register_buffer(f"scale_{tower}", torch.zeros(()))

    def keys(self, tower: str) -> TaskKeys:
        """Its prototypes as routing keys."""
        centroids, scale = getattr(self, f"prototypes_{tower}").cpu(), getattr(self, f"scale_{tower}").cpu()
        return TaskKeys(centroids, scale, scale, centroids[:0], torch.zeros(()))


class DAR(Experts):
    """Dynamic adapter routing: LoRA experts chosen and merged by prototypes.

    A route that is a task, and a route that is two tasks merged, both stand for experts that never change again: what
    was encoded under either stays bit-identical. Which route a query takes may change as tasks arrive.

    Args:
        backbone: the frozen dual encoder.
        rank: of each expert's changes.
        alpha: a change is multiplied by alpha / rank.
        targets: which layers of the blocks: ``query_value``, ``attention``, ``mlp`` or ``all``.
        margin: two experts are merged where their prototypes' cosines differ by less; 0 never merges.
        prototypes: prototypes a task and tower: 1 is the mean feature, more are k-means centroids.
        posterior_temperature: of the soft assignment to tasks, in units of the average training distance.
        multi_positive: captions that equal another picture's count as positives of it.

    Raises:
        ConfigError: a number out of range, or an unknown choice.

    Paper: Dynamic Adapter Routing (arXiv 2605.31229): rank 8, prototype routing, the two nearest merged at a margin
        below 0.05.
    Differs: only the paper's abstract and figures were at hand: which layers carry the LoRA, alpha, and that both
        merged experts count a half each are our reading. Each side of a pair routes itself, as a search must (the
        paper's one-sided setting); its main tables route a pair's picture and caption together.
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3}

    stable: ClassVar[bool] = True

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        targets: Targets = "attention",
        margin: float = 0.05,
        prototypes: int = 1,
        posterior_temperature: float = 0.1,
        multi_positive: bool = True,
    ) -> None:
        super().__init__(backbone, **recorded(locals()))
        check_range("alpha", alpha, 0.0)
        check_range("margin", margin, 0.0, 2.0)
        check_range("prototypes", prototypes, 1)
        check_range("posterior_temperature", posterior_temperature, 1e-6)
        self.adapted = Adapted(backbone, targets)
        self.experts = nn.ModuleList()
        self._new_expert(torch.Generator().manual_seed(0))  # refuses a wrong rank now, not when a task begins

    def _new_expert(self, generator: torch.Generator) -> Expert:
        change = LowRank(self.adapted.layers, rank=self.options["rank"], generator=generator)
        return Expert(change, self.backbone.feature_width)

    def _all(self) -> list[Expert]:
        return [cast(Expert, expert) for expert in self.experts]

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add a fresh expert.

        Raises:
            ConfigError: as many tasks as routes can name were learned.
        """
        super().begin_task(data, generator)
        if len(self.tasks) > PAIR:
            raise ConfigError(f"dar tells at most {PAIR} tasks apart. Forget some first.")
        self.experts.requires_grad_(False)
        self.experts.append(self._new_expert(generator).to(self.device))

    def trainable(self) -> list[nn.Parameter]:
        """The newest expert's change, and no others."""
        return list(self.experts[-1].parameters()) if len(self.experts) else []

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss under the newest expert."""
        newest = len(self.experts) - 1
        images, texts = self.image_features(batch.images, newest), self.text_features(batch.texts, newest)
        scale, multi = self.backbone.logit_scale.exp(), self.options["multi_positive"]
        return {"item": item_level(batch, images, texts, logit_scale=scale, multi_positive=multi)}

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep the task's prototypes; its expert never changes again."""
        expert = self._all()[-1]
        expert.requires_grad_(False)
        for tower, features in (("vision", data.plain.image_features), ("text", data.plain.text_features)):
            keys = TaskKeys.fit(
                features.cpu(),
                clusters=self.options["prototypes"],
                metric="cosine",
                quantile=1.0,
                generator=generator,
            )
            setattr(expert, f"prototypes_{tower}", keys.centroids.to(self.device))
            setattr(expert, f"scale_{tower}", keys.scale.to(self.device))

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def _changes(self, route: int) -> list[tuple[LowRank, float]]:
        """The changes behind a route and their factors: merging is the mean of the experts' weights."""
        chosen = experts_of(route)
        factor = self.options["alpha"] / self.options["rank"] / max(1, len(chosen))
        return [(self._all()[index].change, factor) for index in chosen]

    def image_features(self, images: Tensor | TowerState, route: int) -> Tensor:
        """See :class:`Method`; a route is a task, two of them merged, or FALLBACK: the frozen backbone."""
        assert isinstance(images, Tensor)  # there is no trunk
        with self.adapted.under(*self._changes(route)) as model:
            return F.normalize(model.encode_images(images), dim=-1)

    def text_features(self, texts: TextInputs, route: int) -> Tensor:
        """See :meth:`image_features`."""
        with self.adapted.under(*self._changes(route)) as model:
            return F.normalize(model.encode_texts(texts), dim=-1)

    # ---- routing -----------------------------------------------------------------------------------------------------

    @property
    def routed(self) -> bool:
        """Every query is sent to an expert, or to two."""
        return True

    def distances(self, tower: str, plain: Tensor) -> Tensor:
        """One minus the cosine to the nearest prototype of each task, [queries, tasks]."""
        return task_distances(plain.cpu(), [expert.keys(tower) for expert in self._all()], "cosine")

    def posteriors(self, distances: Tensor, tower: str) -> Tensor:
        """See :class:`Method`."""
        keys = [expert.keys(tower) for expert in self._all()]
        return task_posteriors(distances, keys, metric="cosine", temperature=self.options["posterior_temperature"])

    def route(self, tower: str, plain: Tensor) -> Tensor:
        """The nearest task, or the two nearest where the margin between them is small."""
        if not len(self.experts):
            return torch.full((len(plain),), FALLBACK)
        distances = self.distances(tower, plain)
        if distances.shape[1] == 1:
            return distances.argmin(dim=1)
        near, tasks = distances.topk(2, dim=1, largest=False)
        undecided = near[:, 1] - near[:, 0] < self.options["margin"]
        return torch.where(undecided, pair(tasks[:, 0], tasks[:, 1]), tasks[:, 0])

    def tasks_of(self, routes: Tensor) -> Tensor:
        """The nearer of two merged tasks."""
        return torch.where(routes >= PAIR, routes // PAIR - 1, routes)

    def task_state(self, index: int) -> dict[str, Tensor]:
        """One expert and its prototypes."""
        return grouped("expert", self.experts[index].state_dict())

    def restore(self, tasks: Any, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        self.experts = nn.ModuleList()
        for _, state in tasks:
            kept = within(state, "expert")
            expert = self._new_expert(torch.Generator().manual_seed(0))
            for tower in TOWERS:
                name = f"prototypes_{tower}"
                setattr(expert, name, torch.empty_like(kept[name]))
            expert.load_state_dict(kept)
            self.experts.append(expert.requires_grad_(False).to(self.device))
