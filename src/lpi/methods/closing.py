"""The closed form of a task, on the states that its pairs have in the last blocks; learned in a second, from no steps.

A vector is then two: the model's own features, and the states under the task's map, at a share that pairs which the
map hasn't seen decide. What belongs to no task has the first alone, so that all vectors can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts, TowerPrompts
from lpi.closed_form import Correlations, Moments
from lpi.devices import in_full
from lpi.errors import LpiError
from lpi.methods.base import FALLBACK, Method, Saved, TaskData, TrainingBatch, router_losses, router_trainable
from lpi.methods.experts import Experts
from lpi.methods.options import MethodOptions, RoutedOptions
from lpi.methods.pairs import SHRINKAGES, Chosen, Pairs, Ranked, chosen, closed, frozen_pairs, likelihood
from lpi.options import Size, Table
from lpi.prompts.low_rank import TOWERS

WEIGHTS = (0.0, 0.25, 0.5, 0.75)  # of what was changed, beside the frozen states' map
NEGLIGIBLE = 0.01  # a weight below this isn't worth another pass through the last blocks
CUTS = (
    "further looks at each of a task's pictures, cut and mirrored at random, that its map is fitted to as well where "
    "pairs which the map hasn't seen are likelier then; each takes one more pass"
)
PROJECTION = (
    "states of more numbers than this are reduced to so many by a random map, the same for all tasks and stored "
    "nowhere; 0 leaves them as they are"
)


@dataclass(frozen=True)
class ClosingTable(Table):
    """A closed form on the states of the last blocks (ours; regularised CCA): covariances alone, and no steps."""

    dimensions: Annotated[Size, "directions kept for each task; 0 is no closed form"] = 0
    projection: Annotated[Size, PROJECTION] = 0
    cuts: Annotated[Size, CUTS] = 0
    check_every: Annotated[
        Size,
        "one in so many of a task's pictures is kept out of its steps, and these decide whether the closed form reads "
        "the changed states or the frozen ones; 0 keeps none out, and always takes the changed ones",
    ] = 6
    beside: Annotated[
        Literal["nothing", "features", "both"],
        "what stands beside the frozen states' map, at weights that the pictures kept out decide: the ``features`` as "
        "the steps changed them, which keeps no more numbers; or ``both``, these and a second map, of the changed "
        "states. An item then goes through the last blocks twice",
    ] = "nothing"

    def widths(self, features: int) -> tuple[int, int]:
        """Numbers of the features and of the second map in the part that stands beside the first map."""
        return (
            0 if self.beside == "nothing" else features,
            self.dimensions if self.beside == "both" else 0,
        )


class ClosedMap(nn.Module):
    """For each tower a mean and a map, [states] and [states, dimensions], from the covariances of pairs."""

    def __init__(self, widths: Mapping[str, int], dimensions: int) -> None:
        super().__init__()
        for tower in TOWERS:  # filled when the task ends
            self.register_buffer(f"mean_{tower}", torch.zeros(widths[tower], dtype=torch.float16))
            self.register_buffer(f"map_{tower}", torch.zeros(widths[tower], dimensions, dtype=torch.float16))

    @property
    def dimensions(self) -> int:
        """Of the map's vectors."""
        return self.get_buffer("map_vision").shape[1]

    def vectors(self, tower: str, states: Tensor) -> Tensor:
        """States under the tower's map, L2-normalised, [items, dimensions]."""
        return closed((getattr(self, f"mean_{tower}").float(), getattr(self, f"map_{tower}").float()), states)

    def take(self, correlations: Correlations, shrinkage: float) -> None:
        """Fit both maps."""
        for tower, (mean, weights) in correlations.maps(self.dimensions, shrinkage).items():
            setattr(self, f"mean_{tower}", mean.half().to(self.get_buffer(f"mean_{tower}").device))
            setattr(self, f"map_{tower}", weights.half().to(self.get_buffer(f"map_{tower}").device))


class Head(ClosedMap):
    """The closed form of one task: a map, and the share of its vectors in the whole.

    ``changed`` says whether it reads states as the task's steps changed them, or those of the frozen model.

    Args:
        backbone: whose states.
        dimensions: of the closed form's vectors.
        projection: see :class:`ClosingTable`.
    """

    share: Tensor
    changed: Tensor

    def __init__(self, backbone: DualEncoder, dimensions: int, projection: int) -> None:
        widths = {tower: backbone.summary_width(tower) for tower in TOWERS}
        super().__init__({tower: min(w, projection) if projection else w for tower, w in widths.items()}, dimensions)
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("changed", torch.ones((), dtype=torch.bool))

    def forward(self, tower: str, features: Tensor, states: Tensor) -> Tensor:
        """Features and states of items as one vector of length 1, [items, features + dimensions].

        Args:
            tower: which.
            features: the model's own, not normalised, [items, features].
            states: what :func:`states_of` gives, [items, states].
        """
        features = F.normalize(features, dim=-1)
        return torch.cat([(1 - self.share).sqrt() * features, self.share.sqrt() * self.vectors(tower, states)], dim=1)

    def fit(self, pairs: Pairs, moments: Moments | None = None, shrinkage: float | None = None) -> Chosen:
        """Choose on pairs that the map hasn't seen, then fit it to all of them.

        Args:
            pairs: the task's.
            moments: what is fitted instead of the task's own sums.
            shrinkage: of the covariances; chosen by default.
        """
        best = chosen(pairs, self.dimensions, SHRINKAGES if shrinkage is None else (shrinkage,))
        self.take(best.pairs.correlations() if moments is None else Correlations.of(moments), best.shrinkage)
        self.share.fill_(best.share)
        return best

    def fit_better(self, frozen: Pairs, changed: Pairs, held: Tensor) -> None:
        """Take the states under which a map finds most of pairs that neither it nor the steps have seen.

        Where those are the frozen ones, the map stays as it was fitted to them: there all pairs are unseen, and each
        may decide.

        Args:
            frozen: the task's pairs as the frozen model sees them, to which the map is fitted.
            changed: as the task's steps changed the states.
            held: the pictures that the steps haven't seen, bool [pictures].
        """
        before, after = (chosen(own, self.dimensions, held=held) for own in (frozen, changed))
        self.changed.fill_(after.merit > before.merit)
        if self.changed:
            self.take(after.pairs.correlations(), after.shrinkage)
            self.share.fill_(after.share)


class Beside(ClosedMap):
    """What a task's steps changed, beside the map of the frozen states: features, maybe a second map, and weights.

    Args:
        features: width of the model's features.
        dimensions: of the second map, for the changed states; 0 is none. It keeps nothing while its weight is zero.

    Attributes:
        weights: of the features and of the second map, [2]; the first map has what they leave.
    """

    weights: Tensor

    def __init__(self, features: int, dimensions: int) -> None:
        super().__init__(dict.fromkeys(TOWERS, 0), dimensions)
        self.features = features
        self.register_buffer("weights", torch.zeros(2))

    def forward(self, tower: str, first: Tensor, changed: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """Vectors of length 1 with what was changed behind the first map's, [items, first + features + dimensions].

        Args:
            tower: which.
            first: what the task's :class:`Head` gives for the frozen states, [items, first].
            changed: gives the changed features, not normalised, [items, features], and states, [items, states].
        """
        if not self.weights.any():
            return self.padded(first)
        own, mapped = self.weights.to(first.device)
        features, states = changed()
        parts = [(1 - own - mapped).sqrt() * first, own.sqrt() * F.normalize(features, dim=-1)]
        if mapped:
            parts.append(mapped.sqrt() * self.vectors(tower, states))
        return F.pad(torch.cat(parts, dim=1), (0, 0 if mapped else self.dimensions))

    def padded(self, first: Tensor) -> Tensor:
        """The first map's vectors with nothing beside them, [items, first + features + dimensions]."""
        return F.pad(first, (0, self.features + self.dimensions))

    def fit(self, frozen: Chosen, changed: Pairs, held: Tensor) -> None:
        """Find shrinkage and weights on pairs that the steps haven't seen, and fit the second map to all of them.

        Args:
            frozen: what the first map, of the frozen states, was fitted to.
            changed: the pairs as the task's steps changed features and states.
            held: the pictures that the steps haven't seen, bool [pictures].
        """
        ranked = Ranked.of(frozen.pairs, held)
        maps = frozen.pairs.correlations(~held).maps(frozen.dimensions, frozen.shrinkage)
        first = (1 - frozen.share) * ranked.own + frozen.share * ranked.scores(frozen.pairs, maps)
        trained = Ranked.of(changed, held).own
        correlations = changed.correlations(~held) if self.dimensions else None
        tried: list[tuple[float, float, float]] = []
        merit: list[float] = []
        for chosen_shrinkage in SHRINKAGES if correlations else (0.0,):
            found = torch.zeros_like(first)
            if correlations:
                found = ranked.scores(changed, correlations.maps(self.dimensions, chosen_shrinkage))
            for own, mapped in product(WEIGHTS, WEIGHTS if correlations else (0.0,)):
                if own + mapped < 1:
                    scores = (1 - own - mapped) * first + own * trained + mapped * found
                    tried.append((chosen_shrinkage, own, mapped))
                    merit.append(likelihood(scores, ranked.places))
        shrinkage, weights = self.averaged(torch.tensor(tried), len(ranked.pictures) * torch.tensor(merit))
        self.weights.copy_(weights)
        if weights[1]:
            self.take(changed.correlations(), shrinkage)

    @staticmethod
    def averaged(tried: Tensor, likelihoods: Tensor) -> tuple[float, Tensor]:
        """A shrinkage, and weights averaged by how likely each of those tried is.

        A few pictures tell good weights from bad ones, but not the best one; the average errs less than any winner.

        Args:
            tried: a shrinkage and two weights a row, [tried, 3].
            likelihoods: the logarithm of how likely all pairs are under each, [tried].
        """
        likely = likelihoods.double().softmax(dim=0)
        shrinkages = sorted(set(tried[:, 0].tolist()))
        shrinkage = max(shrinkages, key=lambda one: float(likely[tried[:, 0] == one].sum()))
        averages = likely @ tried[:, 1:].double()
        return shrinkage, torch.where(averages < NEGLIGIBLE, 0.0, averages).float()


def states_of(
    model: DualEncoder, tower: str, inputs: Any, prompts: TowerPrompts | None = None, *, projection: int
) -> tuple[Tensor, Tensor]:
    """Features of inputs, [items, features], not normalised, and what a :class:`Head` reads of them, [items, states].

    Args:
        model: whose.
        tower: ``vision`` or ``text``.
        inputs: as :meth:`lpi.backbones.base.DualEncoder.with_summary` takes them.
        prompts: for that tower.
        projection: see :class:`ClosingTable`.
    """
    features, summary = model.with_summary(tower, inputs, prompts)
    return features, reduced(summary, projection)


def reduced(summary: Tensor, projection: int) -> Tensor:
    """What a map is fitted to of a summary, [items, states]; see :class:`ClosingTable`."""
    if not 0 < projection < summary.shape[1]:
        return summary
    with in_full(summary.device):
        return summary.float() @ drawn(summary.shape[1], projection).to(summary.device)


@lru_cache(maxsize=4)  # both towers of two models
def drawn(width: int, numbers: int) -> Tensor:
    """A map with orthonormal columns, the same wherever it is drawn, [width, numbers].

    What is far apart stays so (Johnson and Lindenstrauss 1984), so that a task's map can be narrower than the states.
    """
    noise = torch.randn(width, numbers, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
    found: Tensor = torch.linalg.qr(noise).Q.float()
    return found


SUMS = "sums/"


@dataclass(frozen=True)
class ClosedFormOptions(RoutedOptions):
    """What every closed form on the frozen model takes."""

    training: ClassVar[Mapping[str, Any]] = {"epochs": 0}

    maps: Annotated[
        Literal["task", "sum"],
        "a map for each task, which needs a router; or one for all tasks, from the sum of their covariances",
    ] = "task"
    cuts: Annotated[Size, f"{CUTS}; ridge, and one map for all tasks, are always fitted to them"] = 0


class ClosedForm(Experts, Method):
    """A closed form on the frozen model: a map a task, or one from the sums of all tasks.

    Attributes:
        sums: of all tasks, where they make one map.
    """

    Options: ClassVar[type[MethodOptions]] = ClosedFormOptions
    options: ClosedFormOptions

    def __init__(self, backbone: DualEncoder, options: ClosedFormOptions | None = None) -> None:
        super().__init__(backbone, options)
        self.stable = self.options.maps == "task"
        self.experts = nn.ModuleList()
        self.sums: Moments | None = None

    @property
    def extra_width(self) -> int:
        """See :class:`lpi.methods.encoder.Widened`."""
        raise NotImplementedError

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`: room for one more map."""
        self.experts.append(self.new_expert(generator).to(self.backbone.device))

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """That of the router, if it learns; else the trainer doesn't ask for one."""
        parts = router_losses(self, batch.frozen)
        if not parts:
            raise LpiError(f"{type(self).__name__} has nothing to learn by steps.")
        return parts

    def trainable(self) -> list[nn.Parameter]:
        """Nothing, unless the router learns."""
        return router_trainable(self)

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Fit the newest map; or add the task's sums to those of the earlier ones, and fit the one map anew."""
        super().end_task(data, generator)
        pairs = frozen_pairs(data, self.seen, self.options.cuts)
        head: Any = self.experts[-1]
        if not self.stable:
            self.sums = pairs.moments() if self.sums is None else self.sums + pairs.moments()
        head.fit(pairs, self.sums, self.strength())
        head.to(self.backbone.device)

    def forget(self, task: str) -> None:
        """See :class:`Experts`.

        Raises:
            LpiError: the one map is of the sums of all tasks.
        """
        if not self.stable:
            raise LpiError(f"{type(self).__name__} has one map, of the sums of all tasks, so none can be taken away.")
        super().forget(task)

    def strength(self) -> float | None:
        """How much the map is held back; ``None`` where pairs shall decide."""
        return None

    def frozen_blocks(self, tower: str) -> int:
        """All of them."""
        return self.backbone.depths[tower]

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._encode("vision", images, route)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return self._encode("text", texts, route)

    def _encode(self, tower: str, inputs: Images | Texts, route: int) -> Tensor:
        if not self.maps(route):
            return F.normalize(getattr(self.backbone, tower)(inputs), dim=-1)
        return self.mapped(tower, *self.read(tower, inputs), route)

    def seen(self, features: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`lpi.methods.encoder.MapsFrozen`."""
        raise NotImplementedError

    def read(self, tower: str, inputs: Any) -> tuple[Tensor, Tensor]:
        """See :class:`lpi.methods.encoder.MapsFrozen`."""
        return self.seen(*self.backbone.with_summary(tower, inputs))

    def maps(self, route: int) -> bool:
        """See :class:`lpi.methods.encoder.MapsFrozen`: always, but for the frozen model itself."""
        return route != FALLBACK and bool(self.tasks)

    def mapped(self, tower: str, features: Tensor, states: Tensor, route: int) -> Tensor:
        """See :class:`lpi.methods.encoder.MapsFrozen`."""
        found: Tensor = self.experts[route if self.stable else -1](tower, features, states)
        return found

    def shared_state(self) -> dict[str, Tensor]:
        """The sums of all tasks, where they make one map."""
        return {} if self.sums is None else {f"{SUMS}{name}": value for name, value in vars(self.sums).items()}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        sums = {name.removeprefix(SUMS): value for name, value in shared.items() if name.startswith(SUMS)}
        self.sums = Moments(**sums) if sums else None
