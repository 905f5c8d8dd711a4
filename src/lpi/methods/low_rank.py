"""LPI's prompts, whatever they are learned for: one low-rank set a task, the tasks' places, and the prompts' losses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Injection, TowerPrompts
from lpi.errors import ConfigError
from lpi.losses import LayerScaling, TaskLoss, layer_loss, task_loss
from lpi.methods.adapters import DeltaBackbone, LowRank, SharedLowRank, Targets, WeightDelta, check_rank
from lpi.methods.base import Relations, TaskData, router_trainable
from lpi.methods.closing import Beside, Head
from lpi.methods.encoder import tokens
from lpi.methods.experts import Experts
from lpi.methods.options import MethodOptions, RoutedOptions, RouterName, RouterTable
from lpi.options import Above, Cosine, Count, Share, Size, Table, Weight
from lpi.prompts.interaction import Interaction, Norm
from lpi.prompts.low_rank import TOWERS, Decomposition, LowRankPrompts, Sharing
from lpi.prompts.task_keys import near_tasks, semantic_similarity
from lpi.routing.whitened import WhitenedKeys

PAPER_DEPTH = 9


@dataclass(frozen=True)
class PromptTable(Table):
    """What prompts are, and how they enter the towers."""

    rank: Annotated[Count, "components of the prompt decomposition, r"] = 4
    length: Annotated[Count, "prompt tokens a layer, P"] = 16
    depth: Annotated[
        int | None, "prompted layers of the shallower tower, D; by default the paper's 9, or all if there are fewer"
    ] = None
    placement: Annotated[
        Literal["first", "last"],
        "whether the first or the last layers are prompted: below the first prompted block all tasks share their "
        "states, so last trains and embeds faster",
    ] = "first"
    decomposition: Annotated[Decomposition, "cp, or free prompts without factors"] = "cp"
    sharing: Annotated[Sharing, "factors that the towers have in common"] = "layer"
    injection: Annotated[
        Injection, "how they enter: replace, add, shallow (tokens of their own), or into (added to the first tokens)"
    ] = "into"
    start: Annotated[
        Literal["paper", "neutral"], "neutral (ours): the first forward pass equals the frozen model's"
    ] = "neutral"


@dataclass(frozen=True)
class InteractionTable(Table):
    """How the towers' prompts exchange information."""

    enabled: Annotated[bool, "whether the towers exchange anything"] = True
    rank: Annotated[Count, "components of each cross-modal map, r_i"] = 4
    share: Annotated[Share, "how much comes from the other tower, a"] = 0.1
    norm: Annotated[Norm, "LayerNorm after the interaction"] = "matched"


@dataclass(frozen=True)
class PromptLossTable(Table):
    """The losses of the prompts themselves, and what says which tasks are near each other."""

    layer_weight: Annotated[Weight, "weight of the layer-level loss"] = 0.1
    layer_scaling: Annotated[LayerScaling, "form of the layer-level loss"] = "normalised"
    task_weight: Annotated[Weight, "weight of the task-level loss"] = 0.1
    task_form: Annotated[TaskLoss, "form of the task-level loss"] = "plain"
    task_temperature: Annotated[Above, "temperature of the task-level loss"] = 0.01
    semantics: Annotated[
        Literal["captions", "images", "both", "names"], "what a task's place among the tasks is computed from"
    ] = "captions"
    near_threshold: Annotated[
        Cosine | None, "similarity above which two tasks are near; by default near_share of the pairs are"
    ] = None
    near_share: Annotated[Share, "share of pairs that are near"] = 0.2
    centre_semantics: Annotated[bool, "centre the tasks' mean features before comparing them"] = True


@dataclass(frozen=True)
class AdapterTable(Table):
    """A change of the frozen weights beside the prompts (ours); the weights themselves stay as they are."""

    rank: Annotated[Size, "rank of each task's change; 0 is no change"] = 0
    targets: Annotated[Targets, "the layers that it changes, from the first prompted block upwards"] = "attention"
    shared: Annotated[
        bool, "one tensor over all blocks of a tower for each kind of layer; or factors of each block's own (LoRA)"
    ] = True


@dataclass(frozen=True)
class LowRankOptions(RoutedOptions):
    """What LPI takes, whatever it is asked."""

    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.01}

    prompts: PromptTable = PromptTable()
    interaction: InteractionTable = InteractionTable()
    adapter: AdapterTable = AdapterTable()
    losses: PromptLossTable = PromptLossTable()
    router: RouterName = "whitened"
    routing: RouterTable = field(default_factory=WhitenedKeys.Options)


def paired_blocks(
    depths: dict[str, int], depth: int, placement: Literal["first", "last"]
) -> dict[str, tuple[int, ...]]:
    """Which blocks of each tower the prompts enter: layer l of the shallower one, floor(l N / n) of the deeper.

    >>> paired_blocks({"vision": 12, "text": 6}, 3, "first")
    {'vision': (0, 2, 4), 'text': (0, 1, 2)}
    """
    shallow = min(depths.values())
    first = 0 if placement == "first" else shallow - depth
    layers = range(first, first + depth)
    return {tower: tuple(layer * depths[tower] // shallow for layer in layers) for tower in depths}


class TaskPrompts(nn.Module):
    """What is learned for one task, and its place among the tasks."""

    prompts: LowRankPrompts
    interaction: Interaction | None
    change: WeightDelta | None
    head: Head | None
    beside: Beside | None
    semantics: Tensor

    def __init__(self, prompts: LowRankPrompts, interaction: Interaction | None, *, gated: bool, features: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.register_module("interaction", interaction)
        self.register_module("change", None)  # of the frozen weights, where a task has one
        self.register_module("head", None)  # its closed form, likewise
        self.register_module("beside", None)  # a second one, likewise
        self.gates = nn.ParameterDict()
        if gated:
            self.gates = nn.ParameterDict({tower: nn.Parameter(torch.zeros(prompts.layers)) for tower in TOWERS})
        for tower in TOWERS:  # filled when the task ends
            self.register_buffer(f"memory_{tower}", torch.empty(0, features, dtype=torch.float16))
        self.register_buffer("semantics", torch.empty(0))
        if interaction is not None:
            interaction.match({tower: prompts(tower).detach() for tower in TOWERS})

    def raw(self) -> dict[str, Tensor]:
        """The decomposed prompts before any interaction, [layers, length, width] a tower."""
        return {tower: self.prompts(tower) for tower in TOWERS}

    def forward(self, raw: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The prompts that enter the towers, [layers, length, width] each."""
        raw = self.raw() if raw is None else raw
        return raw if self.interaction is None else self.interaction(raw)


class LowRankTasks(Experts):
    """Low-rank prompts with cross-modal interaction, one set a task.

    Attributes:
        depth: prompted layers.
        blocks: those of each tower that are prompted.
    """

    Options: ClassVar[type[MethodOptions]] = LowRankOptions
    options: LowRankOptions
    stable = True

    def __init__(self, backbone: DualEncoder, options: LowRankOptions | None = None) -> None:
        super().__init__(backbone, options)
        o = self.options.prompts
        shallow = min(backbone.depths.values())
        self.depth = min(PAPER_DEPTH, shallow) if o.depth is None else o.depth
        if not 1 <= self.depth <= shallow:
            raise ConfigError(
                f"depth must be between 1 and {shallow}, the layers of the shallower tower; got {o.depth}."
            )
        if self.router is not None:
            self.router.placeholders = o.length
        self.blocks = paired_blocks(backbone.depths, self.depth, o.placement)
        self.experts = nn.ModuleList()
        adapter = self.options.adapter
        self.adapted: DeltaBackbone | None = None
        if adapter.rank:
            first = {tower: blocks[0] for tower, blocks in self.blocks.items()}
            self.adapted = DeltaBackbone(backbone, adapter.targets, first=first)
            check_rank(self.adapted.layers, adapter.rank, "adapter_rank")

    def silent_prompts(self) -> bool:
        """Whether prompts are zero at first, because no gate or norm behind them is."""
        o, mixing = self.options.prompts, self.options.interaction
        normed = mixing.enabled and mixing.norm != "none"
        return o.start == "neutral" and o.injection == "into" and not normed

    def new_expert(self, generator: torch.Generator) -> TaskPrompts:
        """See :class:`Experts`: a task's prompts, their interaction, and its change of the frozen weights."""
        o, mixing = self.options.prompts, self.options.interaction
        neutral, into = o.start == "neutral", o.injection == "into"
        prompts = LowRankPrompts(
            layers=self.depth,
            length=o.length,
            widths=self.backbone.widths,
            rank=o.rank,
            sharing=o.sharing,
            decomposition=o.decomposition,
            zero_channels=self.silent_prompts(),
            generator=generator,
        )
        interaction = None
        if mixing.enabled:
            interaction = Interaction(
                layers=self.depth,
                widths=self.backbone.widths,
                rank=mixing.rank,
                share=mixing.share,
                norm=mixing.norm,
                neutral=neutral and into,
                generator=generator,
            )
        gated = neutral and not into
        expert = TaskPrompts(prompts, interaction, gated=gated, features=self.backbone.feature_width)
        if self.adapted is not None:
            kind = SharedLowRank if self.options.adapter.shared else LowRank
            expert.change = kind(self.adapted.layers, rank=self.options.adapter.rank, generator=generator)
        return expert

    def expert(self, index: int) -> TaskPrompts:
        """What is kept for one task."""
        return cast(TaskPrompts, self.experts[index])

    def _all(self) -> list[TaskPrompts]:
        return [self.expert(index) for index in range(len(self.experts))]

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add a fresh set of prompts and place the task among those seen so far."""
        device = self.backbone.device
        self.experts.requires_grad_(False)
        expert = self.new_expert(generator).to(device)
        expert.semantics = self._semantics(data).to(device)
        self.experts.append(expert)

    def kept_features(self) -> int:
        """How many frozen features of a task and tower are kept."""
        return 0

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep what routes the task's queries, and some of its features; its prompts never change again."""
        expert, router = self.expert(-1), self.router
        expert.requires_grad_(False)
        for tower, features in (("vision", data.frozen.image_features), ("text", data.frozen.text_features)):
            if router is not None:
                router.fit(tower, data.looks(tower, router.look(tower)), generator)
            drawn = torch.randperm(len(features), generator=generator)[: self.kept_features()]
            setattr(expert, f"memory_{tower}", features[drawn.to(features.device)].half())

    def trainable(self) -> list[nn.Parameter]:
        """The newest task's parameters, and no others."""
        return [*self.experts[-1].parameters(), *router_trainable(self)] if len(self.experts) else []

    @torch.no_grad()
    def _semantics(self, data: TaskData) -> Tensor:
        kind = self.options.losses.semantics
        if kind == "names":
            return F.normalize(self.backbone.encode_texts(tokens(self, [data.name])), dim=-1)[0]
        means = {"captions": data.frozen.text_features.mean(0), "images": data.frozen.image_features.mean(0)}
        if kind == "both":
            return torch.cat([F.normalize(mean, dim=0) for mean in means.values()])
        return means[kind]

    def similarity(self) -> Tensor:
        """Semantic similarity of the tasks learned so far, [tasks, tasks]."""
        vectors = torch.stack([expert.semantics for expert in self._all()])
        return semantic_similarity(vectors, centre=self.options.losses.centre_semantics)

    def near(self) -> Tensor:
        """Which tasks count as near each other, bool [tasks, tasks]."""
        o = self.options.losses
        return near_tasks(self.similarity().cpu(), threshold=o.near_threshold, share=o.near_share)

    @torch.no_grad()
    def prompt_similarity(self) -> dict[str, list[list[float]]]:
        """Cosines between the tasks' prompt tensors, [tasks, tasks] a tower."""
        similarity = {}
        for tower in TOWERS:
            directions = F.normalize(torch.stack([expert.prompts(tower).flatten() for expert in self._all()]), dim=-1)
            similarity[tower] = (directions @ directions.T).tolist()
        return similarity

    def relations(self) -> Relations:
        """How the tasks lie to each other, for the report."""
        return {"near": self.near().tolist(), "prompt_similarity": self.prompt_similarity()}

    def prompt_losses(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """The layer loss and the task loss of the newest task's prompts, each times its weight.

        Args:
            raw: the prompts before any interaction, [layers, length, width] a tower.
        """
        o, parts = self.options.losses, {}
        if o.layer_weight:
            parts["layer"] = o.layer_weight * layer_loss(raw["vision"], raw["text"], scaling=o.layer_scaling)
        if o.task_weight and len(self.experts) > 1:
            parts["task"] = o.task_weight * self.task_loss(raw)
        return parts

    def task_loss(self, raw: dict[str, Tensor]) -> Tensor:
        """The task-level loss of the newest task, both towers averaged, scalar."""
        device = self.backbone.device
        near = self.near().to(device)
        total = torch.zeros((), device=device)
        for tower in TOWERS:
            earlier = [expert.prompts(tower).detach().flatten() for expert in self._all()[:-1]]
            total = total + task_loss(
                torch.stack([*earlier, raw[tower].flatten()]),
                near,
                temperature=self.options.losses.task_temperature,
                kind=self.options.losses.task_form,
            )
        return total / len(TOWERS)

    # ---- what enters the towers --------------------------------------------------------------------------------------

    def entering(self, expert: TaskPrompts, states: dict[str, Tensor], tower: str) -> TowerPrompts:
        """What enters one tower: prompts [layers, length, width], and how."""
        return TowerPrompts(
            states=states[tower],
            blocks=self.blocks[tower],
            injection=self.options.prompts.injection,
            placeholders=tower == "text" and self.reserved_tokens() > 0,
            gate=expert.gates[tower] if expert.gates else None,
        )

    def changed(self, expert: TaskPrompts) -> AbstractContextManager[DualEncoder]:
        """The frozen backbone with a task's change of its weights, if there is one."""
        if self.adapted is None or expert.change is None:
            return nullcontext(self.backbone)
        return self.adapted.with_deltas((expert.change, 1.0))

    def reserved_tokens(self) -> int:
        """Placeholders take their place in the text context."""
        o = self.options.prompts
        first = o.start == "paper" and o.injection != "into" and self.blocks["text"][0] == 0
        return o.length if first and self.backbone.text.placeholders else 0
