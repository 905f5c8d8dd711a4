"""LPI: low-rank prompts for both towers of a frozen dual encoder, one small set a task.

The prompts of a task are one low-rank tensor a tower with a layer factor in common; in every prompted layer each
tower's prompts take up something of the other's; contrastive losses on items, layers and tasks train them. A query
goes to the task of its nearest k-means key, so tasks never overwrite each other.

Paper: Low-rank Prompt Interaction (arXiv 2501.14369, ACM MM 2024).
Differs: the constructor's defaults are what measured best here with prompts alone: prompts added *into* the first
tokens, a start at the frozen model, kept features of earlier tasks as negatives, a pull towards the frozen model,
whitened keys and a soft choice of the task. ``preset="best"`` adds what prompts can't do, a low-rank change of the
frozen weights, and leaves out the norm. ``preset="paper"`` and ``preset="authors-release"`` are the published readings.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Injection, TextInputs, TowerPrompts, TowerState, View
from lpi.errors import ConfigError, check_choice
from lpi.losses import LayerScaling, TaskLoss, distillation_loss, item_loss, layer_loss, task_loss
from lpi.methods.adapters import Adapted, SharedLowRank, Targets, check_rank
from lpi.methods.base import FALLBACK, TaskData, TrainingBatch, recorded
from lpi.methods.experts import Keyed, KeyedExperts
from lpi.prompts.interaction import Interaction, Norm
from lpi.prompts.low_rank import TOWERS, Decomposition, LowRankPrompts, Sharing
from lpi.prompts.task_keys import (
    Metric,
    TaskKeys,
    near_tasks,
    route,
    semantic_similarity,
    task_distances,
)

Start = Literal["paper", "neutral"]
Placement = Literal["first", "last"]
Semantics = Literal["captions", "images", "both", "names"]
Routing = Literal["features", "states", "both"]
Initial = Literal["fresh", "previous", "nearest"]
PAPER_DEPTH = 9
# what this library adds to the published method, at the values that measured best, and switched off
OURS: dict[str, Any] = {
    "memory": 32,
    "distill_weight": 0.2,
    "metric": "whitened",
    "routing": "states",
    "ood_quantile": 0.97,
    "soft_tasks": 3,
    "posterior_temperature": 0.2,
    "ood": "fallback",
}
PUBLISHED: dict[str, Any] = {
    "memory": 0,
    "distill_weight": 0.0,
    "soft_tasks": 1,
    "routing": "features",
    "ood": "nearest",
}


def paired_blocks(depths: dict[str, int], depth: int, placement: Placement) -> dict[str, tuple[int, ...]]:
    """Which blocks of each tower the prompts enter: layer l of the shallower one, floor(l N / n) of the deeper.

    >>> paired_blocks({"vision": 12, "text": 6}, 3, "first")
    {'vision': (0, 2, 4), 'text': (0, 1, 2)}
    """
    shallow = min(depths.values())
    first = 0 if placement == "first" else shallow - depth
    layers = range(first, first + depth)
    return {tower: tuple(layer * depths[tower] // shallow for layer in layers) for tower in depths}


def between(low: float, high: float) -> str:
    """A range in words, for messages."""
    return f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


class TaskPrompts(Keyed):
    """Everything that is learned and kept for one task."""

    semantics: Tensor

    def __init__(
        self,
        prompts: LowRankPrompts,
        interaction: Interaction | None,
        gated: bool,
        features: int,
        change: SharedLowRank | None = None,
    ) -> None:
        super().__init__()
        self.prompts = prompts
        self.interaction = interaction
        self.change = change
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


class LPI(KeyedExperts):
    """Low-rank prompts with cross-modal interaction, one set a task, routed by k-means keys.

    Args:
        backbone: the frozen dual encoder.
        rank: components of the prompt decomposition, r.
        length: prompt tokens a layer, P.
        depth: prompted layers of the shallower tower, D; by default the paper's 9, or all where there are fewer.
        placement: whether the first or the last ``depth`` layers are prompted. Below the first prompted block
            all tasks share their states, so ``last`` trains and embeds faster.
        decomposition: ``cp``, or ``free`` prompts without factors.
        sharing: factors the towers have in common: ``none``, ``layer``, ``layer+position``.
        injection: ``replace``, ``add``, ``shallow`` (tokens of their own) or ``into`` (added to the first tokens).
        start: ``paper``, or ``neutral``: the first forward pass equals the frozen model's.
        initial: where a task's prompts begin: ``fresh`` (the paper), at the ``previous`` task's, or at those of the
            semantically ``nearest`` earlier task (ours): what tasks have in common is then learned once, and prompts
            that a query was sent to by mistake are not far from its own.
        interaction: whether the towers' prompts exchange information.
        interaction_rank: components of each cross-modal map, r_i.
        interaction_share: how much comes from the other tower, a.
        norm: LayerNorm after the interaction: ``matched``, ``unit`` or ``none``.
        adapter_rank: components of a change of the frozen weights, one tensor over all blocks of a tower for each kind
            of layer, a task (ours); 0 is none. The weights themselves stay as they are.
        adapter_targets: the layers that it changes: ``query_value``, ``attention``, ``mlp`` or ``all``, of the first
            prompted block and those above it.
        multi_positive: captions that equal another picture's count as positives of it.
        layer_weight, layer_scaling: weight and form of the layer-level loss.
        task_weight, task_form, task_temperature: weight, form and temperature of the task-level loss.
        distill_weight: weight of staying near the frozen model's retrieval distribution on the batch (ours).
        memory: so many unprompted training features a task and tower are kept, and compete as negatives in later
            tasks (ours): a task's own pictures alone don't teach it what the union gallery will hold.
        semantics: what a task's place among the tasks is computed from.
        near_threshold: similarity above which two tasks are near; by default ``near_share`` of the pairs are.
        near_share: share of pairs that are near.
        centre_semantics: centre the tasks' mean features before comparing them.
        clusters: k-means keys a task and tower.
        directions: of a task's spread that are kept for the whitened metric, each as wide as what routes: more tell
            tasks apart better, and make the task's file larger.
        metric: distance between a query and the keys: ``cosine`` (paper), ``l1`` (authors), ``l2``, or
            ``whitened`` by how the tasks spread on average (ours).
        routing: queries are told apart by their ``features`` (paper), by the pooled ``states`` of their tokens
            inside the frozen towers (ours: how they look and are worded, at a fraction of a pass), or by ``both``.
        routing_vision, routing_text: after which share of a tower's blocks those states are taken.
        ood: ``fallback`` sends what is far from every task to the unprompted backbone; ``nearest`` does not.
        ood_quantile: how far is far, as a quantile of the training distances.
        routing_words: route captions as they are (``plain``), or behind placeholder words as the authors do.
        soft_tasks: a query's vector is mixed from so many of its likeliest tasks', weighted by their posteriors; 1
            is the paper's hard choice.
        frozen_share: how much of every query's vector stays the frozen model's (ours): where a third of the queries
            goes to a wrong task, what prompts win under the right one is lost again under the others.
        posterior_temperature: of the soft assignment to tasks, in units of the average training distance.

    Raises:
        ConfigError: an unknown choice, or sizes that don't fit the backbone.
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 0.01}

    stable: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "best": {**OURS, "injection": "into", "start": "neutral", "norm": "none", "adapter_rank": 4},
        "paper": {**PUBLISHED, "injection": "replace", "start": "paper", "metric": "cosine"},
        "authors-release": {
            **PUBLISHED,
            "injection": "shallow",
            "start": "paper",
            "interaction": False,
            "multi_positive": False,
            "layer_scaling": "raw",
            "task_form": "authors",
            "task_temperature": 0.001,
            "semantics": "names",
            "near_threshold": 0.4,
            "centre_semantics": False,
            "metric": "l1",
            "routing_words": "placeholders",
        },
    }

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        rank: int = 4,
        length: int = 16,
        depth: int | None = None,
        placement: Placement = "first",
        decomposition: Decomposition = "cp",
        sharing: Sharing = "layer",
        injection: Injection = "into",
        start: Start = "neutral",
        initial: Initial = "fresh",
        interaction: bool = True,
        interaction_rank: int = 4,
        interaction_share: float = 0.1,
        norm: Norm = "matched",
        adapter_rank: int = 0,
        adapter_targets: Targets = "attention",
        multi_positive: bool = True,
        layer_weight: float = 0.1,
        layer_scaling: LayerScaling = "normalised",
        task_weight: float = 0.1,
        task_form: TaskLoss = "plain",
        task_temperature: float = 0.01,
        distill_weight: float = 0.2,
        memory: int = 32,
        semantics: Semantics = "captions",
        near_threshold: float | None = None,
        near_share: float = 0.2,
        centre_semantics: bool = True,
        clusters: int = 5,
        directions: int = 16,
        metric: Metric = "whitened",
        routing: Routing = "states",
        routing_vision: float = 2 / 3,
        routing_text: float = 0.0,
        ood: Literal["nearest", "fallback"] = "fallback",
        ood_quantile: float = 0.97,
        routing_words: Literal["plain", "placeholders"] = "plain",
        soft_tasks: int = 3,
        frozen_share: float = 0.0,
        posterior_temperature: float = 0.2,
    ) -> None:
        super().__init__(backbone, **recorded(locals()))
        shallow = min(backbone.depths.values())
        self.depth = min(PAPER_DEPTH, shallow) if depth is None else depth
        if not 1 <= self.depth <= shallow:
            raise ConfigError(f"depth must be between 1 and {shallow}, the layers of the shallower tower; got {depth}.")
        for name, value, choices in (
            ("placement", placement, Placement),
            ("injection", injection, Injection),
            ("start", start, Start),
            ("initial", initial, Initial),
            ("layer_scaling", layer_scaling, LayerScaling),
            ("task_form", task_form, TaskLoss),
            ("semantics", semantics, Semantics),
            ("ood", ood, Literal["nearest", "fallback"]),
            ("routing_words", routing_words, Literal["plain", "placeholders"]),
            ("metric", metric, Metric),
            ("routing", routing, Routing),
            ("adapter_targets", adapter_targets, Targets),
        ):
            check_choice(name, value, choices)
        for name, number, low, high in (  # wrong numbers are refused now, not when a task begins or has been learned
            ("layer_weight", layer_weight, 0.0, math.inf),
            ("task_weight", task_weight, 0.0, math.inf),
            ("distill_weight", distill_weight, 0.0, math.inf),
            ("near_threshold", near_threshold or 0.0, -1.0, 1.0),
            ("near_share", near_share, 0.0, 1.0),
            ("routing_vision", routing_vision, 0.0, 1.0),
            ("routing_text", routing_text, 0.0, 1.0),
            ("clusters", clusters, 1, math.inf),
            ("directions", directions, 1, math.inf),
            ("memory", memory, 0, math.inf),
            ("adapter_rank", adapter_rank, 0, math.inf),
            ("frozen_share", frozen_share, 0.0, 1.0),
            ("soft_tasks", soft_tasks, 1, math.inf),
        ):
            if not low <= number <= high:
                raise ConfigError(f"{name} must be {between(low, high)}; got {number}.")
        for name, number, high in (
            ("task_temperature", task_temperature, math.inf),
            ("posterior_temperature", posterior_temperature, math.inf),
            ("ood_quantile", ood_quantile, 1.0),
        ):
            if not 0 < number <= high:
                limit = "" if math.isinf(high) else f" and at most {high:g}"
                raise ConfigError(f"{name} must be above 0{limit}; got {number}.")
        self.blocks = paired_blocks(backbone.depths, self.depth, placement)
        self.adapted: Adapted | None = None
        if adapter_rank:
            first = {tower: blocks[0] for tower, blocks in self.blocks.items()}
            self.adapted = Adapted(backbone, adapter_targets, first=first)
            check_rank(self.adapted.layers, adapter_rank, "adapter_rank")
        self.experts = nn.ModuleList()
        self._new_expert(torch.Generator().manual_seed(0))  # refuses wrong sizes now, not when a task begins

    def _new_expert(self, generator: torch.Generator) -> TaskPrompts:
        o = self.options
        neutral = o["start"] == "neutral"
        into = o["injection"] == "into"
        normed = o["interaction"] and o["norm"] != "none"
        prompts = LowRankPrompts(
            layers=self.depth,
            length=o["length"],
            widths=self.backbone.widths,
            rank=o["rank"],
            sharing=o["sharing"],
            decomposition=o["decomposition"],
            zero_channels=neutral and into and not normed,
            generator=generator,
        )
        interaction = None
        if o["interaction"]:
            interaction = Interaction(
                layers=self.depth,
                widths=self.backbone.widths,
                rank=o["interaction_rank"],
                share=o["interaction_share"],
                norm=o["norm"],
                neutral=neutral and into,
                generator=generator,
            )
        change = None
        if self.adapted is not None:
            change = SharedLowRank(self.adapted.layers, rank=o["adapter_rank"], generator=generator)
        return TaskPrompts(
            prompts, interaction, gated=neutral and not into, features=self.backbone.feature_width, change=change
        )

    def _expert(self, index: int) -> TaskPrompts:
        return cast(TaskPrompts, self.experts[index])

    def _all(self) -> list[TaskPrompts]:
        return [self._expert(index) for index in range(len(self.experts))]

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add a fresh set of prompts and place the task among those seen so far."""
        super().begin_task(data, generator)
        for parameter in self.experts.parameters():
            parameter.requires_grad_(False)
        expert = self._new_expert(generator).to(self.device)
        expert.semantics = self._semantics(data).to(self.device)
        self.experts.append(expert)
        parent = self._parent()
        if parent is not None:
            learned = dict(parent.named_parameters())
            for name, parameter in expert.named_parameters():
                parameter.data.copy_(learned[name].data)

    def _parent(self) -> TaskPrompts | None:
        """The task whose prompts the newest one begins with, if it begins with any."""
        earlier = len(self.experts) - 1
        if earlier == 0 or self.options["initial"] == "fresh":
            return None
        if self.options["initial"] == "previous":
            return self._expert(earlier - 1)
        return self._expert(int(self.similarity()[-1, :earlier].argmax()))

    @torch.no_grad()
    def _semantics(self, data: TaskData) -> Tensor:
        kind = self.options["semantics"]
        if kind == "names":
            return F.normalize(self.backbone.encode_texts(self.tokens([data.name])), dim=-1)[0]
        means = {"captions": data.plain.text_features.mean(0), "images": data.plain.image_features.mean(0)}
        if kind == "both":
            return torch.cat([F.normalize(mean, dim=0) for mean in means.values()])
        return means[kind]

    def similarity(self) -> Tensor:
        """Semantic similarity of the tasks learned so far, [tasks, tasks]."""
        vectors = torch.stack([expert.semantics for expert in self._all()])
        return semantic_similarity(vectors, centre=self.options["centre_semantics"])

    def near(self) -> Tensor:
        """Which tasks count as near each other, bool [tasks, tasks]."""
        return near_tasks(
            self.similarity().cpu(), threshold=self.options["near_threshold"], share=self.options["near_share"]
        )

    @torch.no_grad()
    def prompt_similarity(self) -> dict[str, list[list[float]]]:
        """Cosines between the tasks' prompt tensors, [tasks, tasks] a tower."""
        similarity = {}
        for tower in TOWERS:
            directions = F.normalize(torch.stack([expert.prompts(tower).flatten() for expert in self._all()]), dim=-1)
            similarity[tower] = (directions @ directions.T).tolist()
        return similarity

    def relations(self) -> dict[str, Any]:
        """See :class:`Method`."""
        return {"near": self.near().tolist(), "prompt_similarity": self.prompt_similarity()}

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Item, layer and task level, and the pull towards the frozen model, each times its weight."""
        o, expert = self.options, self._expert(-1)
        raw = expert.raw()
        states = expert(raw)
        with self._changed(expert) as model:
            images = self._encode_images(model, batch.images, self._enter(expert, states, "vision"))
            texts = model.encode_texts(batch.texts, self._enter(expert, states, "text"))
        images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
        scale = self.backbone.logit_scale.exp()
        positives = batch.positives
        if not o["multi_positive"]:
            positives = F.one_hot(batch.owner, len(images)).T.bool()
        others = self._others()
        item = item_loss(
            images,
            texts,
            positives,
            logit_scale=scale,
            other_images=others["vision"],
            other_texts=others["text"],
        )
        parts = {"item": item}
        if o["layer_weight"]:
            parts["layer"] = o["layer_weight"] * layer_loss(raw["vision"], raw["text"], scaling=o["layer_scaling"])
        if o["task_weight"] and len(self.experts) > 1:
            parts["task"] = o["task_weight"] * self._task_loss(raw)
        if o["distill_weight"]:
            plain_images, plain_texts = batch.plain()
            teacher = scale * plain_images @ plain_texts.T
            parts["distill"] = o["distill_weight"] * distillation_loss(scale * images @ texts.T, teacher)
        return parts

    def _others(self) -> dict[str, Tensor | None]:
        """What earlier tasks left to compete with, [others, features] a tower; nothing for the first task."""
        earlier = [self._expert(index) for index in range(len(self.experts) - 1)]
        if not earlier or not self.options["memory"]:
            return dict.fromkeys(TOWERS)
        return {tower: torch.cat([getattr(task, f"memory_{tower}").float() for task in earlier]) for tower in TOWERS}

    def _task_loss(self, raw: dict[str, Tensor]) -> Tensor:
        near = self.near().to(self.device)
        total = torch.zeros((), device=self.device)
        for tower in TOWERS:
            earlier = [expert.prompts(tower).detach().flatten() for expert in self._all()[:-1]]
            total = total + task_loss(
                torch.stack([*earlier, raw[tower].flatten()]),
                near,
                temperature=self.options["task_temperature"],
                kind=self.options["task_form"],
            )
        return total / len(TOWERS)

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep the task's routing keys; its prompts never change again."""
        expert = self._expert(-1)
        expert.requires_grad_(False)
        for tower, features in (("vision", data.plain.image_features), ("text", data.plain.text_features)):
            view = self.routing_view(tower)
            points = (features if view == View() else data.views(tower, view)).cpu()
            keys = self._fit(points, generator)
            if self.options["metric"] == "whitened":
                keys = replace(keys, radius=self._whitened_radius(tower, points, generator))
            expert.set_keys(tower, keys)
            drawn = torch.randperm(len(features), generator=generator)[: self.options["memory"]]
            setattr(expert, f"memory_{tower}", features[drawn.to(features.device)].half())

    def _fit(self, points: Tensor, generator: torch.Generator) -> TaskKeys:
        o = self.options
        return TaskKeys.fit(
            points,
            clusters=o["clusters"],
            directions=o["directions"],
            metric=o["metric"],
            quantile=o["ood_quantile"],
            generator=generator,
        )

    def _whitened_radius(self, tower: str, points: Tensor, generator: torch.Generator) -> Tensor:
        """How far what belongs to the newest task lies from keys that haven't seen it, scalar, in whitened distance.

        Each half of the points is measured against keys of the other half: a covariance from a hundred points fits
        those very points, and would call most new ones far.
        """
        earlier = self._keys(tower)[:-1]
        order = torch.randperm(len(points), generator=generator)
        halves = order.chunk(2) if len(points) > 1 else (order, order)
        distances = [
            task_distances(points[own], [*earlier, self._fit(points[other], generator)], "whitened")[:, -1]
            for own, other in (halves, halves[::-1])
        ]
        return torch.cat(distances).quantile(self.options["ood_quantile"])

    def trainable(self) -> list[nn.Parameter]:
        """The newest task's parameters, and no others."""
        return list(self.experts[-1].parameters()) if len(self.experts) else []

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def _enter(self, expert: TaskPrompts, states: dict[str, Tensor], tower: str) -> TowerPrompts:
        injection = self.options["injection"]
        return TowerPrompts(
            states=states[tower],
            blocks=self.blocks[tower],
            injection=injection,
            placeholders=tower == "text" and self.room() > 0,
            gate=expert.gates[tower] if expert.gates else None,
        )

    def tower_prompts(self, index: int) -> dict[str, TowerPrompts]:
        """What enters each tower for task ``index``."""
        expert = self._expert(index)
        states = expert()
        return {tower: self._enter(expert, states, tower) for tower in TOWERS}

    def image_features(self, images: Tensor | TowerState, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the unprompted backbone."""
        if route == FALLBACK:
            return F.normalize(self._encode_images(self.backbone, images, None), dim=-1)
        expert = self._expert(route)
        with self._changed(expert) as model:
            features = self._encode_images(model, images, self.tower_prompts(route)["vision"])
        return F.normalize(features, dim=-1)

    def text_features(self, texts: TextInputs, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the unprompted backbone."""
        if route == FALLBACK:
            return F.normalize(self.backbone.encode_texts(texts), dim=-1)
        expert = self._expert(route)
        with self._changed(expert) as model:
            features = model.encode_texts(texts, self.tower_prompts(route)["text"])
        return F.normalize(features, dim=-1)

    def _changed(self, expert: TaskPrompts) -> AbstractContextManager[DualEncoder]:
        """The frozen backbone with a task's change of its weights, if there is one."""
        if self.adapted is None or expert.change is None:
            return nullcontext(self.backbone)
        return self.adapted.under((expert.change, 1.0))

    def _encode_images(self, model: DualEncoder, images: Tensor | TowerState, prompts: TowerPrompts | None) -> Tensor:
        if isinstance(images, TowerState):  # the trunk has been run already
            return model.vision.finish(model.vision.advance(images, self.trunk(), model.vision.depth, prompts))
        return model.encode_images(images, prompts)

    def trunk(self) -> int:
        """Vision blocks below the first prompted one."""
        return self.blocks["vision"][0]

    def room(self) -> int:
        """Placeholders take their place in the text context."""
        o = self.options
        entering = o["start"] == "paper" and o["injection"] != "into" and self.blocks["text"][0] == 0
        return int(o["length"]) if entering and self.backbone.text.placeholders else 0

    # ---- routing -----------------------------------------------------------------------------------------------------

    def routing_view(self, tower: str) -> View:
        """See :class:`Method`."""
        kind, share = self.options["routing"], self.options[f"routing_{tower}"]
        depth = None if kind == "features" else round(share * self.backbone.depths[tower])
        return View(depth, features=kind != "states")

    @property
    def routed(self) -> bool:
        """LPI sends every query to a task."""
        return True

    def route(self, tower: str, plain: Tensor) -> Tensor:
        """The nearest task; FALLBACK for queries far from all of them, if ``ood="fallback"``."""
        if not len(self.experts):
            return torch.full((len(plain),), FALLBACK)
        return self._nearest(tower, self.distances(tower, plain))

    def _nearest(self, tower: str, distances: Tensor) -> Tensor:
        return route(distances, self._keys(tower), fall_back=self.options["ood"] == "fallback")

    def mixture(self, tower: str, plain: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Method`: the ``soft_tasks`` likeliest tasks; one alone for a query that falls back.

        Behind them stands the frozen model, if it has a share.
        """
        routes, shares = self._likeliest(tower, plain)
        frozen: float = self.options["frozen_share"]
        if not frozen:
            return routes, shares
        last = torch.full_like(routes[:, :1], FALLBACK)
        return torch.cat([routes, last], dim=1), torch.cat(
            [(1 - frozen) * shares, torch.full_like(shares[:, :1], frozen)], dim=1
        )

    def _likeliest(self, tower: str, plain: Tensor) -> tuple[Tensor, Tensor]:
        count = min(self.options["soft_tasks"], len(self.experts))
        if count <= 1:
            return super().mixture(tower, plain)
        distances = self.distances(tower, plain)
        routes = self._nearest(tower, distances)[:, None]
        shares, likeliest = self.posteriors(distances, tower).topk(count, dim=1)
        lost = routes == FALLBACK
        alone = torch.zeros(count)
        alone[0] = 1.0
        shares = torch.where(lost, alone, shares / shares.sum(dim=1, keepdim=True))
        return torch.where(lost, routes, likeliest), shares

    def text_for_routing(self, text: str) -> str:
        """The caption, behind as many placeholder words as there are prompts if asked for (the authors' way)."""
        return text if self.options["routing_words"] == "plain" else "X " * self.options["length"] + text

    # ---- saving ------------------------------------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """Prompts, interaction, keys and place of one task."""
        return dict(self.experts[index].state_dict())

    def restore(self, tasks: Any, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        self.experts = nn.ModuleList()
        for _, state in tasks:
            expert = self._new_expert(torch.Generator().manual_seed(0))
            for name, buffer in list(expert.named_buffers()):
                setattr(expert, name, torch.empty_like(state[name]) if name in state else buffer)
            expert.load_state_dict(state)
            self.experts.append(expert.requires_grad_(False).to(self.device))
