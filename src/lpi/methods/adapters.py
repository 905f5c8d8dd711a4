"""What methods that change weights share: private copies of the backbone, low-rank changes, the item loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder
from lpi.errors import BackboneError, ConfigError, check_choice
from lpi.losses import item_loss
from lpi.methods.base import Method, TaskData, TrainingBatch
from lpi.options import Share
from lpi.prompts.low_rank import TOWERS

Targets = Literal["query_value", "attention", "mlp", "all"]


def private_copy(backbone: DualEncoder, own: Iterable[nn.Module] = ()) -> DualEncoder:
    """A backbone with modules of its own that shares the weights of another: it takes no memory worth the name.

    Args:
        backbone: whose weights.
        own: modules of it whose weights are copied instead of shared.
    """
    copied = {id(parameter) for module in own for parameter in module.parameters()}
    shared: dict[int, Any] = {id(weight): weight for weight in backbone.parameters() if id(weight) not in copied}
    shared[id(backbone.inputs)] = backbone.inputs
    return deepcopy(backbone, shared)


def target_layers(
    backbone: DualEncoder, targets: Targets, first: Mapping[str, int] | None = None
) -> dict[str, nn.Linear]:
    """The linear layers in the blocks of both towers that a method may change, by tower, block and name.

    Args:
        backbone: of any family.
        targets: ``query_value`` and ``attention`` (all four maps) are the layers of the attention, ``mlp`` the others,
            ``all`` both.
        first: of each tower, the lowest block whose layers may be changed; by default all may.

    Raises:
        ConfigError: an unknown choice.
        BackboneError: the blocks hold no such layers.
    """
    check_choice("targets", targets, Targets)
    found = {
        f"{tower}/{number}/{name.replace('.', '/')}": module
        for tower in TOWERS
        for number, block in enumerate(getattr(backbone, tower).layers)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and _wanted(name.split("."), targets)
        if first is None or number >= first[tower]
    }
    if not found:
        raise BackboneError(f"{backbone.name}: no layer of its blocks is a linear one of the kind {targets!r}.")
    return found


def _wanted(path: Sequence[str], targets: Targets) -> bool:
    attention = any("attn" in part or part == "attention" for part in path)
    if targets == "query_value":
        return attention and path[-1] in ("q_proj", "v_proj", "query", "value")
    return targets == "all" or attention == (targets == "attention")


UpperShare = Annotated[Share, "which share of each tower's blocks is changed, counted from the top; 1 is all of them"]


def blocks_below(backbone: DualEncoder, upper: float) -> dict[str, int]:
    """How many of each tower's lowest blocks stay as they are where an upper share of them learns."""
    return {tower: depth - round(upper * depth) for tower, depth in backbone.depths.items()}


def check_rank(layers: Mapping[str, nn.Linear], rank: int, option: str = "rank") -> None:
    """Refuse a rank that a change of these layers can't have.

    Args:
        layers: what would be changed.
        rank: of each change.
        option: the name that the user knows it by.

    Raises:
        ConfigError: naming the largest.
    """
    largest = min(min(layer.weight.shape) for layer in layers.values())
    if not 1 <= rank <= largest:
        raise ConfigError(f"{option} must be between 1 and {largest}, the narrowest changed layer; got {rank}.")


def new_factors(layer: nn.Linear, rank: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """A drawn down [rank, in] and an up of zeros [out, rank]: their product is zero."""
    drawn = 2 * torch.rand(rank, layer.in_features, generator=generator) - 1
    return nn.Parameter(drawn / layer.in_features**0.5), nn.Parameter(torch.zeros(layer.out_features, rank))


class WeightDelta(nn.Module):
    """A change of low rank for each of some linear layers: up @ down, [out, in]."""

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """One layer's down [rank, in] and up [out, rank]."""
        raise NotImplementedError

    def delta(self, name: str) -> Tensor:
        """The change of one layer's weight, [out, in]."""
        down, up = self.factors(name)
        return up @ down


class LowRank(WeightDelta):
    """A change of low rank whose factors are each layer's own. It starts at zero.

    Args:
        layers: which.
        rank: of each change.
        generator: draws ``down``.

    Raises:
        ConfigError: the rank is out of range.

    Paper: LoRA (arXiv 2106.09685), eq. 3; the start is the one of its authors' code.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        check_rank(layers, rank)
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        for name, layer in layers.items():
            self.down[name], self.up[name] = new_factors(layer, rank, generator)

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """One layer's down [rank, in] and up [out, rank]."""
        return self.down[name], self.up[name]


class SharedLowRank(WeightDelta):
    """A change of low rank with factors that all blocks of a tower have in common.

    The weights of one kind of layer (a tower's query maps, say) change by one tensor of rank r over blocks, inputs and
    outputs: up @ diag(scale[block]) @ down. That takes r (blocks + in + out) numbers a kind, where a :class:`LowRank`
    takes r blocks (in + out). Where layers of a kind differ in shape (a Swin's grow from stage to stage), those of one
    shape have one tensor. It starts at zero.

    Args:
        layers: which, by tower, block and name as :func:`target_layers` gives them.
        rank: of each change.
        generator: draws ``down``, as a :class:`LowRank`'s.

    Raises:
        ConfigError: the rank is out of range.

    Paper: FacT (arXiv 2212.03145), section 3.3, in the CP form that this library's prompts have.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        check_rank(layers, rank)
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        self.scale = nn.ParameterDict()
        self.place: dict[str, tuple[str, int]] = {}  # of a layer: its kind, and which row of ``scale`` is its own
        counts: dict[str, int] = {}
        first: dict[str, torch.Size] = {}
        for name, layer in layers.items():
            tower, _, kind = name.split("/", 2)
            group, shape = f"{tower}/{kind}", layer.weight.shape
            if first.setdefault(group, shape) != shape:
                group = f"{group}/{shape[0]}x{shape[1]}"
            self.place[name] = (group, counts.get(group, 0))
            counts[group] = counts.get(group, 0) + 1
            if group not in self.down:
                self.down[group], self.up[group] = new_factors(layer, rank, generator)
        for group, count in counts.items():
            self.scale[group] = nn.Parameter(torch.ones(count, rank))

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """One layer's down [rank, in], by its block's scale, and up [out, rank]."""
        group, row = self.place[name]
        return self.scale[group][row][:, None] * self.down[group], self.up[group]


#: whose changes run now, and which: of each thread its own, for several may encode at once under different tasks
ACTIVE: ContextVar[tuple[nn.Module | None, tuple[tuple[WeightDelta, float], ...]]] = ContextVar(
    "deltas", default=(None, ())
)


class DeltaBackbone(nn.Module):
    """A private copy of a backbone through whose linear layers low-rank changes may run.

    Args:
        backbone: left as it is.
        targets: which layers, see :func:`target_layers`.
        own: copy the weights of these layers, so that changes can be merged into them for good.
        first: of each tower, the lowest block whose layers may be changed; by default all may.
    """

    def __init__(
        self, backbone: DualEncoder, targets: Targets, *, own: bool = False, first: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self.model = private_copy(backbone, target_layers(backbone, targets, first).values() if own else ())
        self.layers = target_layers(self.model, targets, first)
        for name, layer in self.layers.items():
            layer.register_forward_hook(partial(self._add, name))

    @contextmanager
    def with_deltas(self, *deltas: tuple[WeightDelta, float]) -> Iterator[DualEncoder]:
        """The backbone with its weights plus each change times its factor; none is the backbone as it is."""
        token = ACTIVE.set((self, deltas))
        try:
            yield self.model
        finally:
            ACTIVE.reset(token)

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        owner, deltas = ACTIVE.get()
        for delta, factor in deltas if owner is self else ():
            down, up = delta.factors(name)
            output = output + factor * F.linear(F.linear(inputs[0], down), up)
        return output

    @torch.no_grad()
    def merge(self, delta: WeightDelta, factor: float) -> None:
        """Add a change times its factor to the weights for good; only for weights of its own."""
        for name, layer in self.layers.items():
            layer.weight += factor * delta.delta(name)


def item_level(
    batch: TrainingBatch, images: Tensor, texts: Tensor, *, logit_scale: Tensor, multi_positive: bool
) -> Tensor:
    """The item loss of a batch, scalar.

    Args:
        batch: says what belongs together.
        images: L2-normalised, [images, features].
        texts: L2-normalised, [texts, features].
        logit_scale: multiplies the cosines.
        multi_positive: captions that equal another picture's count as positives of it.
    """
    positives = batch.positives
    if not multi_positive:
        positives = F.one_hot(batch.owner, len(images)).T.bool()
    return item_loss(images, texts, positives, logit_scale=logit_scale)


@torch.no_grad()
def features_before(method: Method, data: TaskData) -> tuple[Tensor, Tensor]:
    """What a method gives for a task's pictures and captions before it learns them.

    They are computed once, when the task begins, and looked up in every step: no second model has to be kept, and
    none runs beside the one that learns.

    Returns:
        L2-normalised, [pictures, features] and [captions, features].
    """
    pictures: dict[int, Tensor] = {}
    captions: dict[int, Tensor] = {}
    for batch in data.batches(seed=0, captions=0):
        for rows, features, kept in (
            (batch.picture_rows, method.image_features(batch.images, 0), pictures),
            (batch.caption_rows, method.text_features(batch.texts, 0), captions),
        ):
            kept.update(zip(rows.tolist(), features.float(), strict=True))
    return _stacked(pictures), _stacked(captions)


def _stacked(rows: dict[int, Tensor]) -> Tensor:
    return torch.stack([rows[number] for number in range(len(rows))]) if rows else torch.empty(0, 0)


def drawn_for(batch: TrainingBatch) -> torch.Generator:
    """A generator that depends on what is in a batch alone: a run that was stopped and goes on draws the same."""
    return torch.Generator().manual_seed(hash((*batch.picture_rows.tolist(), *batch.caption_rows.tolist())) % 2**63)


def within(state: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of a state whose names begin with ``group/``, without it."""
    return {name.removeprefix(f"{group}/"): value for name, value in state.items() if name.startswith(f"{group}/")}


def grouped(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with ``group/`` before their names, as :func:`within` takes them apart."""
    return {f"{group}/{name}": value.detach().contiguous() for name, value in tensors.items()}
