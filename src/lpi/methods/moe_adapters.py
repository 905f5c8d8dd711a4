"""MoE-Adapters: small expert networks beside every MLP, a router a task, and a selector that knows what it hasn't seen.

All tasks draw on the same experts through routers of their own. Experts that a task used most are frozen when it ends,
so that later tasks can build on them but not change them. An auto-encoder a task tells at test time whose router a
query takes; a query that none can rebuild goes to the frozen model.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TextInputs, TowerState
from lpi.errors import check_choice
from lpi.methods.adapters import check_range, grouped, item_level, private_copy, target_layers, within
from lpi.methods.base import FALLBACK, Method, TaskData, TrainingBatch, recorded
from lpi.prompts.low_rank import TOWERS

SCALE = 0.1  # of an expert's output, as the authors have it
ROUTER_SPREAD = 0.02


@dataclass
class Pass:
    """One pass through a model: whose experts run, under which route, and what each block's MLP was given."""

    owner: MoEAdapters
    route: int
    inputs: dict[str, Tensor] = field(default_factory=dict)


#: of each thread its own, for several may encode at once under different routes
RUNNING: ContextVar[Pass | None] = ContextVar("pass", default=None)


class Adapter(nn.Module):
    """One expert: a bottleneck with a rectifier, whose output starts at zero."""

    def __init__(self, width: int, bottleneck: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        drawn = 2 * torch.rand(self.down.weight.shape, generator=generator) - 1
        self.down.weight.data.copy_(drawn / width**0.5)
        for start_at_zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start_at_zero)

    def forward(self, states: Tensor) -> Tensor:
        """What it adds to token states, [batch, tokens, width]."""
        added: Tensor = SCALE * self.up(self.down(states).relu())
        return added


class Experts(nn.Module):
    """The experts beside one MLP and the tasks' routers, with ``used`` counting whom the router chose."""

    frozen: Tensor
    chosen: Tensor

    def __init__(self, width: int, count: int, bottleneck: int, generator: torch.Generator) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Adapter(width, bottleneck, generator) for _ in range(count))
        self.routers = nn.ParameterList()
        self.width = width
        self.register_buffer("frozen", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("chosen", torch.zeros(count, dtype=torch.bool))
        self.used: Tensor | None = None

    def add_router(self, generator: torch.Generator) -> None:
        """A router for one more task; what earlier tasks trained or used most stays as it is."""
        self.routers.requires_grad_(False)
        drawn = torch.randn(self.width, len(self.experts), generator=generator)
        self.routers.append(nn.Parameter(ROUTER_SPREAD * drawn))
        self.frozen |= self.chosen
        for expert, frozen in zip(self.experts, self.frozen.tolist(), strict=True):
            expert.requires_grad_(not frozen)

    def gates(self, states: Tensor, task: int, top: int) -> Tensor:
        """How much each expert counts for each item, [batch, experts]: a softmax over the ``top`` largest.

        The first token asks for its whole sequence.
        """
        logits = states[:, 0] @ self.routers[task].to(states.dtype)  # [batch, experts]
        largest, places = logits.topk(top, dim=1)
        return torch.zeros_like(logits).scatter(1, places, largest.softmax(dim=1).to(logits.dtype))

    def forward(self, states: Tensor, task: int, top: int) -> Tensor:
        """What the experts add to token states, [batch, tokens, width]."""
        gates = self.gates(states, task, top)
        if self.used is not None:
            self.used += (gates > 0).sum(dim=0).to(self.used)
        added = torch.zeros_like(states)
        for number, expert in enumerate(self.experts):
            rows = gates[:, number].nonzero()[:, 0]
            if len(rows):
                part = gates[rows, number][:, None, None] * expert(states[rows])
                added = added.index_add(0, rows, part.to(added.dtype))
        return added


class Selector(nn.Module):
    """The auto-encoder of one task and tower: how badly does it rebuild a feature?

    A linear auto-encoder with a squared loss is at its best a principal component analysis (Baldi and Hornik, 1989),
    so it is computed, not trained.
    """

    mean: Tensor
    directions: Tensor
    radius: Tensor

    def __init__(self, features: int, hidden: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("directions", torch.zeros(hidden, features))
        self.register_buffer("radius", torch.zeros(()))

    @classmethod
    def fit(cls, points: Tensor, *, hidden: int, quantile: float) -> Selector:
        """Of a task's frozen features, [points, features]; the radius is a quantile of its own points' errors."""
        selector = cls(points.shape[1])
        selector.mean = points.mean(dim=0)
        _, _, directions = torch.linalg.svd(points - selector.mean, full_matrices=False)
        selector.directions = directions[:hidden].contiguous()
        selector.radius = selector(points).quantile(quantile)
        return selector

    def forward(self, points: Tensor) -> Tensor:
        """The length of what is lost in rebuilding, [points]."""
        centred = points - self.mean
        return cast(Tensor, (centred - centred @ self.directions.T @ self.directions).norm(dim=1))


class MoEAdapters(Method):
    """Mixture-of-experts adapters with a router a task and a discriminative auto-selector.

    Args:
        backbone: the frozen dual encoder.
        experts: beside each MLP.
        top: k, experts that a router chooses for an item; so many are frozen in each block when a task ends.
        bottleneck: width of an expert.
        hidden: width of the selector's auto-encoders.
        ood: ``fallback`` sends what no task's auto-encoder can rebuild to the frozen model; ``nearest`` does not.
        ood_quantile: how badly rebuilt is too badly, as a quantile of the training errors.
        multi_positive: captions that equal another picture's count as positives of it.

    Raises:
        ConfigError: a number out of range, or an unknown choice.

    Paper: Boosting Continual Learning of Vision-Language Models via Mixture-of-Experts Adapters (arXiv 2403.11549),
        eq. 2 to 4 (mixture, top-k gates), the activate-freeze strategy, and the auto-selector (DDAS, eq. 6 to 8);
        22 experts, k = 2, bottleneck 64.
    Differs: experts see what the MLP sees (its normed input), since tower families norm in different places. No noise
        in the gates: a stopped run could not draw the same again; routers start at small random values instead of
        zero, where all experts would tie. How often experts are chosen is counted in one pass when the task ends. The
        auto-encoders are linear, over the backbone's own features of both towers (the paper: AlexNet's, of pictures).
    """

    default_training: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3}

    def __init__(
        self,
        backbone: DualEncoder,
        *,
        experts: int = 22,
        top: int = 2,
        bottleneck: int = 64,
        hidden: int = 16,
        ood: Literal["nearest", "fallback"] = "fallback",
        ood_quantile: float = 0.99,
        multi_positive: bool = True,
    ) -> None:
        super().__init__(backbone, **recorded(locals()))
        check_range("experts", experts, 1)
        check_range("top", top, 1, experts)
        check_range("bottleneck", bottleneck, 1)
        check_range("hidden", hidden, 0)
        check_range("ood_quantile", ood_quantile, 0.0, 1.0)
        check_choice("ood", ood, Literal["nearest", "fallback"])
        self.model = private_copy(backbone)
        self.selectors = nn.ModuleList()
        self._start(torch.Generator().manual_seed(0))
        for name, (first, last) in self._edges().items():
            first.register_forward_pre_hook(partial(self._remember, name))
            last.register_forward_hook(partial(self._add, name))

    def _edges(self) -> dict[str, tuple[nn.Linear, nn.Linear]]:
        """The first and the last linear layer of each block's MLP."""
        inside: dict[str, list[nn.Linear]] = {}
        for name, layer in target_layers(self.model, "mlp").items():
            inside.setdefault("/".join(name.split("/")[:2]), []).append(layer)
        return {name: (layers[0], layers[-1]) for name, layers in inside.items()}

    def _start(self, generator: torch.Generator) -> None:
        o = self.options
        self.blocks = nn.ModuleDict(
            {
                name: Experts(first.in_features, o["experts"], o["bottleneck"], generator)
                for name, (first, _) in self._edges().items()
            }
        )

    def _pass(self) -> Pass | None:
        """What runs in this thread, if it is this method's."""
        running = RUNNING.get()
        return running if running is not None and running.owner is self else None

    def _remember(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        running = self._pass()
        if running is not None:
            running.inputs[name] = inputs[0]

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        running = self._pass()
        if running is None:
            return output
        added: Tensor = self.blocks[name](running.inputs.pop(name), running.route, self.options["top"])
        return output + added

    def _all(self) -> list[Experts]:
        return [cast(Experts, block) for block in self.blocks.values()]

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add routers; freeze the experts that earlier tasks used most."""
        super().begin_task(data, generator)
        if len(self.tasks) == 1:
            self._start(generator)
        for block in self._all():
            block.add_router(generator)
        self.to(self.device)

    def trainable(self) -> list[nn.Parameter]:
        """The newest routers, and the experts that aren't frozen."""
        return [parameter for parameter in self.blocks.parameters() if parameter.requires_grad]

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss under the newest routers."""
        newest = len(self.tasks) - 1
        images, texts = self.image_features(batch.images, newest), self.text_features(batch.texts, newest)
        scale, multi = self.backbone.logit_scale.exp(), self.options["multi_positive"]
        return {"item": item_level(batch, images, texts, logit_scale=scale, multi_positive=multi)}

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Note the experts that the task used most, and fit its auto-encoders."""
        newest = len(self.tasks) - 1
        for block in self._all():
            block.used = torch.zeros(len(block.experts), device=self.device)
        for batch in data.batches(seed=0):
            self.image_features(batch.images, newest)
            self.text_features(batch.texts, newest)
        for block in self._all():
            if block.used is not None and block.used.any():
                block.chosen[block.used.topk(self.options["top"]).indices] = True
            block.used = None
        pair = nn.ModuleDict()
        for tower, features in (("vision", data.plain.image_features), ("text", data.plain.text_features)):
            points = F.normalize(features.cpu().float(), dim=-1)
            pair[tower] = Selector.fit(points, hidden=self.options["hidden"], quantile=self.options["ood_quantile"])
        self.selectors.append(pair.to(self.device))

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def image_features(self, images: Tensor | TowerState, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        assert isinstance(images, Tensor)  # there is no trunk
        return self._encoded_under(route, lambda: self.model.encode_images(images))

    def text_features(self, texts: TextInputs, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._encoded_under(route, lambda: self.model.encode_texts(texts))

    def _encoded_under(self, route: int, encode: Any) -> Tensor:
        frozen = route == FALLBACK or not len(self.tasks)
        token = RUNNING.set(None if frozen else Pass(self, route))
        try:
            return F.normalize(encode(), dim=-1)
        finally:
            RUNNING.reset(token)

    # ---- routing -----------------------------------------------------------------------------------------------------

    @property
    def routed(self) -> bool:
        """The selector sends every query to a task's routers, or past all experts."""
        return True

    def distances(self, tower: str, plain: Tensor) -> Tensor:
        """How badly each task's auto-encoder rebuilds each query, [queries, tasks]."""
        points = F.normalize(plain.float(), dim=-1).to(self.device)
        pairs = [cast(nn.ModuleDict, pair) for pair in self.selectors]
        return torch.stack([pair[tower](points) for pair in pairs], dim=1).cpu()

    def posteriors(self, distances: Tensor, tower: str) -> Tensor:
        """A softmax of the negative squared errors, in units of the tasks' mean squared radius, rows sum to 1."""
        return (-distances.square() / self._radii(tower).square().mean().clamp(min=1e-6)).softmax(dim=1)

    def _radii(self, tower: str) -> Tensor:
        return torch.stack([cast(Selector, cast(nn.ModuleDict, pair)[tower]).radius.cpu() for pair in self.selectors])

    def route(self, tower: str, plain: Tensor) -> Tensor:
        """The task whose auto-encoder rebuilds best; FALLBACK where that is worse than it ever was in training."""
        if not len(self.selectors):
            return torch.full((len(plain),), FALLBACK)
        error, task = self.distances(tower, plain).min(dim=1)
        if self.options["ood"] == "nearest":
            return task
        return torch.where(error > self._radii(tower)[task], torch.full_like(task, FALLBACK), task)

    # ---- saving ------------------------------------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """A task's routers and auto-encoders."""
        routers = {name: cast(Experts, block).routers[index] for name, block in self.blocks.items()}
        return {**grouped("router", routers), **grouped("selector", self.selectors[index].state_dict())}

    def shared_state(self) -> dict[str, Tensor]:
        """The experts, and which of them are frozen or will be."""
        return {name: value for name, value in self.blocks.state_dict().items() if ".routers." not in name}

    def restore(self, tasks: Any, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        super().restore(tasks, shared)
        self.selectors = nn.ModuleList()
        for _, state in tasks:
            for name, block in self.blocks.items():
                cast(Experts, block).routers.append(nn.Parameter(within(state, "router")[name]))
            kept = within(state, "selector")
            pair = nn.ModuleDict()
            for tower in TOWERS:
                pair[tower] = Selector(self.backbone.feature_width, len(kept[f"{tower}.directions"]))
            pair.load_state_dict(kept)
            self.selectors.append(pair)
        self.blocks.load_state_dict(
            {**shared, **{k: v for k, v in self.blocks.state_dict().items() if ".routers." in k}}
        )
        for block in self._all():
            block.routers.requires_grad_(False)
            if len(block.routers):
                block.routers[-1].requires_grad_(True)
            for expert, frozen in zip(block.experts, block.frozen.tolist(), strict=True):
                expert.requires_grad_(not frozen)
        self.to(self.device)
