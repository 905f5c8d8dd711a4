"""ConDU: the tasks' changes of the weights are fused into one, from which a mask takes each task's change again.

Every task is fine-tuned from the frozen weights. Of all tasks only one change is kept, as large as the model, and for
each task which of its entries are that task's, and how much to scale them: a bit a weight. A router says whose change a
query takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.errors import LpiError
from lpi.methods.adapters import private_copy
from lpi.methods.base import FALLBACK, Saved, TaskData, TrainingBatch, router_losses, router_trainable
from lpi.methods.experts import Experts
from lpi.methods.options import RoutedOptions, RouterName, RouterTable
from lpi.methods.tuned import Tuned
from lpi.routing.nearest import NearestKeys

Changes = dict[str, Tensor]
"""Changes of weights, by the weights' names."""


class Part(nn.Module):
    """A task's part in the fused change: which entries it takes, bool, and how large it makes them.

    Args:
        changes: of its weights, of which the signs count; those of the task itself.
    """

    scale: Tensor

    def __init__(self, changes: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, change in changes.items():
            self.register_buffer(name.replace(".", "/"), torch.ones_like(change, dtype=torch.bool))
        self.register_buffer("scale", torch.ones(()))

    def mask(self, name: str) -> Tensor:
        """Which entries of a weight it takes, bool."""
        return self.get_buffer(name.replace(".", "/"))

    def of(self, fused: Changes) -> Changes:
        """The task's change, as it is taken out of the fused one."""
        return {name: self.scale * self.mask(name) * change for name, change in fused.items()}


def fuse(changes: list[Changes]) -> tuple[Changes, list[Part]]:
    """One change for several tasks, and each task's part in it.

    An entry has the sign of the tasks' sum, and the largest size of those tasks that agree with it. A task takes the
    entries whose sign it agrees with; its scale makes them as large as its own change, on average.
    """
    fused: Changes = {}
    parts = [Part(own) for own in changes]
    own_sizes, taken_sizes = torch.zeros(len(parts)), torch.zeros(len(parts))
    for name in changes[-1]:  # in the model's order: those from a file have another, and sums are rounded
        tasks = torch.stack([own[name] for own in changes])
        sign = torch.where(tasks.sum(0) > 0, 1.0, -1.0)
        fused[name] = sign * (sign * tasks).amax(0).clamp_min(0)
        masks = sign * tasks > 0
        for part, mask in zip(parts, masks, strict=True):
            part.mask(name).copy_(mask)
        own_sizes += tasks.abs().flatten(1).mean(1).cpu()
        taken_sizes += (masks * fused[name].abs()).flatten(1).mean(1).cpu()
    for part, scale in zip(parts, own_sizes / taken_sizes.clamp_min(1e-12), strict=True):
        part.scale.copy_(scale)
    return fused, parts


class ConDU(Experts, Tuned):
    """Continual decoupling and unifying of fine-tuned models.

    Args:
        backbone: where every task starts; itself left as it is.
        options: see :class:`Options`.

    Paper: ConDU (arXiv 2503.10705), unifying and decoupling; the sizes behind a scale are means a tensor, as in its
        authors' code.
    Differs: that every task begins at the frozen weights is our reading. A query takes the change of one task, the one
        that its router finds (theirs, where nobody says the task: the answers of several, weighted by the nearest
        prototypes of classes, which captions don't have).
    """

    @dataclass(frozen=True)
    class Options(RoutedOptions, Tuned.Options):
        """What ConDU takes."""

        router: RouterName = "nearest"
        routing: RouterTable = field(default_factory=NearestKeys.Options)

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.experts = nn.ModuleList()
        self.fused: Changes = {}
        self._taken: tuple[nn.Module, DualEncoder] | None = None  # the last part taken out, and the model with it

    def _changes(self) -> Changes:
        frozen = dict(self.backbone.model.named_parameters())
        return {
            name: (weight - frozen[name]).detach()
            for name, weight in self.tuned.model.named_parameters()
            if weight.requires_grad
        }

    def new_expert(self, generator: torch.Generator) -> Part:
        """See :class:`Experts`."""
        return Part(self._changes())

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """See :class:`Method`: begin at the frozen weights."""
        self.restart()
        self.experts.append(self.new_expert(generator))

    def trainable(self) -> list[nn.Parameter]:
        """The copy's weights, and the router's if it learns."""
        return [*super().trainable(), *router_trainable(self)]

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss, and that of the router, if it learns."""
        return super().loss(batch) | router_losses(self, batch.frozen)

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Take the earlier tasks' changes out of the fused one, and fuse them with the newest."""
        super().end_task(data, generator)
        earlier = [part.of(self.fused) for part in self.experts[:-1] if isinstance(part, Part)]
        self.fused, parts = fuse([*earlier, self._changes()])
        self.experts = nn.ModuleList(parts)

    def stage(self, k: int) -> ConDU:
        """See :class:`Experts`: there is none, for the fused change is that of all tasks.

        Raises:
            LpiError: always.
        """
        raise LpiError("ConDU keeps no earlier stage.")

    def model_of(self, route: int) -> DualEncoder:
        """The frozen model with a task's change; the last one is kept, for items come in batches of one route."""
        if route == FALLBACK or not self.fused:
            return self.backbone
        part, taken = self.experts[route], self._taken
        assert isinstance(part, Part)
        if taken is None or taken[0] is not part:
            model = private_copy(self.backbone)
            for name, change in part.of(self.fused).items():
                owner, _, last = name.rpartition(".")
                weight = self.backbone.model.get_parameter(name) + change
                setattr(model.model.get_submodule(owner), last, nn.Parameter(weight, requires_grad=False))
            taken = self._taken = (part, model)
        return taken[1]

    @torch.no_grad()
    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return F.normalize(self.model_of(route).encode_images(images), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :meth:`image_features`."""
        return F.normalize(self.model_of(route).encode_texts(texts), dim=-1)

    def shared_state(self) -> dict[str, Tensor]:
        """The fused change."""
        return dict(self.fused)

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        Experts.restore(self, tasks, shared)
        kept = self._changes() if shared else {}  # by every weight that learns, as the parts are
        self.fused = {name: shared[name].to(own).view_as(own) for name, own in kept.items()}
