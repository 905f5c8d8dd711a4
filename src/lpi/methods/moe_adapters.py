"""MoE-Adapters: small expert networks beside every MLP, a router for each task, and a selector for unseen ones.

All tasks draw on the same experts through routers of their own. Experts that a task used most are frozen when it ends,
so that later tasks can build on them but not change them. An auto-encoder a task tells at test time whose router a
query takes; a query that none can rebuild goes to the frozen model.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, Images, Texts
from lpi.errors import ConfigError
from lpi.methods.adapters import grouped, item_level, private_copy, target_layers, within
from lpi.methods.base import FALLBACK, Method, Saved, TaskData, TrainingBatch, router_losses, router_trainable
from lpi.methods.options import PairOptions, RoutedOptions, RouterName, RouterTable
from lpi.options import Count
from lpi.routing.reconstruction import Reconstruction

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


class MoEAdapters(Method):
    """Mixture-of-experts adapters with a router a task and a discriminative auto-selector.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.

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

    @dataclass(frozen=True)
    class Options(RoutedOptions, PairOptions):
        """What MoE-Adapters take."""

        training: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-3}

        experts: Annotated[Count, "beside each MLP"] = 22
        top: Annotated[
            Count, "k, experts that a gate chooses for an item; so many are frozen in each block when a task ends"
        ] = 2
        bottleneck: Annotated[Count, "width of an expert"] = 64
        router: RouterName = "reconstruction"
        routing: RouterTable = field(default_factory=Reconstruction.Options)

        def check(self) -> None:
            """See :class:`Table`."""
            super().check()
            if self.top > self.experts:
                raise ConfigError(f"top must be between 1 and {self.experts}; got {self.top}.")

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.model = private_copy(backbone)
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
                name: Experts(first.in_features, o.experts, o.bottleneck, generator)
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
        added: Tensor = self.blocks[name](running.inputs.pop(name), running.route, self.options.top)
        return output + added

    def _all(self) -> list[Experts]:
        return [cast(Experts, block) for block in self.blocks.values()]

    # ---- learning ----------------------------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Add routers; freeze the experts that earlier tasks used most."""
        if len(self.tasks) == 1:
            self._start(generator)
        for block in self._all():
            block.add_router(generator)
        self.to(self.backbone.device)

    def trainable(self) -> list[nn.Parameter]:
        """The newest routers, and the experts that aren't frozen."""
        own = [parameter for parameter in self.blocks.parameters() if parameter.requires_grad]
        return [*own, *router_trainable(self)]

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The item-level loss under the newest routers."""
        newest = len(self.tasks) - 1
        images, texts = self.image_features(batch.images, newest), self.text_features(batch.texts, newest)
        scale, multi = self.backbone.logit_scale.exp(), self.options.multi_positive
        item = item_level(batch, images, texts, logit_scale=scale, multi_positive=multi)
        return {"item": item} | router_losses(self, batch.frozen)

    @torch.no_grad()
    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Note the experts that the task used most, and keep what routes its queries."""
        newest = len(self.tasks) - 1
        for block in self._all():
            block.used = torch.zeros(len(block.experts), device=self.backbone.device)
        for batch in data.batches(seed=0):
            self.image_features(batch.images, newest)
            self.text_features(batch.texts, newest)
        for block in self._all():
            if block.used is not None and block.used.any():
                block.chosen[block.used.topk(self.options.top).indices] = True
            block.used = None
        super().end_task(data, generator)

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def image_features(self, images: Images, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._encoded_under(route, lambda: self.model.encode_images(images))

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """See :class:`Method`; FALLBACK is the frozen backbone."""
        return self._encoded_under(route, lambda: self.model.encode_texts(texts))

    def _encoded_under(self, route: int, encode: Any) -> Tensor:
        frozen = route == FALLBACK or not len(self.tasks)
        token = RUNNING.set(None if frozen else Pass(self, route))
        try:
            return F.normalize(encode(), dim=-1)
        finally:
            RUNNING.reset(token)

    # ---- saving ------------------------------------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """A task's gates."""
        return grouped("router", {name: cast(Experts, block).routers[index] for name, block in self.blocks.items()})

    def shared_state(self) -> dict[str, Tensor]:
        """The experts, and which of them are frozen or will be."""
        return {name: value for name, value in self.blocks.state_dict().items() if ".routers." not in name}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """See :class:`Method`."""
        for _, state in tasks:
            for name, block in self.blocks.items():
                cast(Experts, block).routers.append(nn.Parameter(within(state, "router")[name]))
        self.blocks.load_state_dict(
            {**shared, **{k: v for k, v in self.blocks.state_dict().items() if ".routers." in k}}
        )
        for block in self._all():
            block.routers.requires_grad_(False)
            if len(block.routers):
                block.routers[-1].requires_grad_(True)
            for expert, frozen in zip(block.experts, block.frozen.tolist(), strict=True):
                expert.requires_grad_(not frozen)
        self.to(self.backbone.device)
