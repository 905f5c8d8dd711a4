"""One encoder of a backbone, run block by block with prompts.

A tower runs in three parts, so that callers can share work: :meth:`Tower.begin` embeds, :meth:`Tower.advance` runs
some of the blocks and lets prompts in where they are due, :meth:`Tower.finish` pools and projects. The modules that
compute are always the library's own; a tower only decides what stands between them.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import functional

from lpi.backbones.attention import NAME, GatedMask, PrefixMask, additive_mask
from lpi.backbones.state import TowerPrompts, TowerState, append, some
from lpi.errors import BackboneError, ConfigError, ShapeError
from lpi.processes import shared


class Tower(nn.Module):
    """One encoder of a backbone, run block by block with prompts.

    Attributes:
        module: the library's own tower.
        projection: the library's own map to the common space; ``None`` where the pooled output is already there.
        width: width of its token states.
        depth: number of its blocks.
    """

    #: prompts of block 0 can stand in for placeholder tokens (``TowerPrompts.placeholders``)
    placeholders: ClassVar[bool] = False
    #: each token sees only those before it
    causal: ClassVar[bool] = False
    #: the part of the library's module that pools, where some checkpoints come without it
    pooler: ClassVar[str | None] = None

    def __init__(self, module: Any, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.module: Any = module
        self.projection = projection
        self.config: Any = module.config
        self.width: int = self.config.hidden_size
        self.depth: int = len(self.layers)

    @property
    def layers(self) -> nn.ModuleList:
        """The library's own blocks."""
        for path in ("encoder.layers", "encoder.layer", "layers"):
            found = self.module
            for name in path.split("."):
                found = getattr(found, name, None)
            if isinstance(found, nn.ModuleList):
                return found
        raise BackboneError(f"{type(self.module).__name__} keeps its blocks where this library does not look.")

    @property
    def context(self) -> int:
        """Most tokens that a text tower has positions for."""
        embeddings = self.module.embeddings
        positions = getattr(embeddings, "position_embeddings", None) or embeddings.position_embedding
        # RoBERTa counts positions from behind its padding token
        return int(positions.num_embeddings) - (0 if positions.padding_idx is None else positions.padding_idx + 1)

    def words(self, ids: Tensor) -> Tensor:
        """Word embeddings alone of a text tower's tokens, [..., width]: before positions and norms.

        Args:
            ids: int64, of any shape.
        """
        embeddings = self.module.embeddings
        table = getattr(embeddings, "token_embedding", None) or embeddings.word_embeddings
        found: Tensor = table(ids)
        return found

    # What an adapter provides -----------------------------------------------------------------------------------

    def embed(self, inputs: Any, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """Embed the inputs, and the prompts of block 0 with them.

        Args:
            inputs: what this tower reads.
            prompts: [length, width] or [batch, length, width]; ``None`` for none.
            placeholders: the prompts stand in for placeholder tokens.
        """
        raise NotImplementedError

    def pool(self, state: TowerState) -> Tensor:
        """The pooled output before the projection, [batch, width]."""
        raise NotImplementedError

    # What callers use -------------------------------------------------------------------------------------------

    def begin(self, inputs: Any, prompts: TowerPrompts | None = None) -> TowerState:
        """Everything before the first block.

        Args:
            inputs: pixels [batch, 3, height, width] or :class:`PatchInputs`; :class:`TextInputs`.
            prompts: their tokens are put in here if they enter block 0.

        Raises:
            ShapeError: prompts or inputs don't fit this tower.
        """
        first = None
        if prompts is not None:
            self._check(prompts)
            if prompts.tokens and prompts.blocks[0] == 0:
                first = prompts.layers()[0]
        state = self.embed(inputs, first, placeholders=prompts is not None and prompts.placeholders)
        return self._with_mask(state)

    def advance(self, state: TowerState, first: int, stop: int, prompts: TowerPrompts | None = None) -> TowerState:
        """Blocks ``first`` to ``stop - 1``, with prompts let in where they are due.

        The given state is left as it is: lower blocks may run once and serve passes with and without prompts, as long
        as the prompts enter later.

        Args:
            state: what entered block ``first``.
            first: the first block to run.
            stop: the block to stop before.
            prompts: those that enter any of these blocks; others are left alone.

        Raises:
            ShapeError: prompts don't fit this tower, or their tokens should have been there already.
        """
        layers = self.layers
        if not 0 <= first <= stop <= self.depth:
            raise ShapeError(f"Blocks {first} to {stop} don't exist; the tower has {self.depth}.")
        due: dict[int, int] = {}
        states: tuple[Tensor, ...] = ()
        if prompts is not None:
            self._check(prompts)
            due = {block: layer for layer, block in enumerate(prompts.blocks)}
            states = prompts.layers()
        for block in range(first, stop):
            layer = due.get(block)
            mask = None
            if prompts is not None and layer is not None:
                if prompts.injection == "prefix":
                    mask = self._prefix(state, states[layer], layer, prompts)
                else:
                    state = self._inject(state, states[layer], layer, prompts)
            output = layers[block](state.states, self._attention(state) if mask is None else mask)
            state = replace(state, states=output[0] if isinstance(output, tuple) else output)
        return replace(state, block=stop)

    def finish(self, state: TowerState) -> Tensor:
        """Pool and project: features [batch, features], not normalised, as the stock model gives them."""
        pooled = self.pool(state)
        if self.projection is None:
            return pooled
        features: Tensor = self.projection(pooled)
        return features

    def summary(self, state: TowerState) -> Tensor:
        """What the last block left of each input: the pooled output before the projection, and the mean of the
        ordinary tokens behind the tower's own last norm, each of length 1; [batch, width of both].
        """
        names = ("post_layernorm", "final_layer_norm", "layernorm")
        norm = next((getattr(self.module, name) for name in names if hasattr(self.module, name)), nn.Identity())
        weight = state.seen.float()[:, :, None]
        mean = (norm(state.ordinary) * weight).sum(dim=1) / weight.sum(dim=1)
        return torch.cat([F.normalize(self.pool(state), dim=-1), F.normalize(mean, dim=-1)], dim=1)

    def forward(self, inputs: Any, prompts: TowerPrompts | None = None) -> Tensor:
        """The features of inputs, or of their states between two blocks, [batch, features], not normalised.

        Where several processes learn together, each runs its part of the batch.
        """
        return shared(self._forward, inputs, prompts, some)

    def _forward(self, inputs: Any, prompts: TowerPrompts | None) -> Tensor:
        state = self.entered(inputs, prompts)
        return self.finish(self.advance(state, state.block, self.depth, prompts))

    def entered(self, inputs: Any, prompts: TowerPrompts | None = None) -> TowerState:
        """Inputs as they enter the tower, see :meth:`begin`; or states that were kept of them, masked anew."""
        return self._with_mask(inputs) if isinstance(inputs, TowerState) else self.begin(inputs, prompts)

    # How prompts enter ------------------------------------------------------------------------------------------

    def _check(self, prompts: TowerPrompts) -> None:
        if prompts.states.shape[-1] != self.width:
            raise ShapeError(
                f"Prompts must be [layers, length, width={self.width}] for this tower; "
                f"got {list(prompts.states.shape)}. Were they made for another backbone?"
            )
        if prompts.blocks and prompts.blocks[-1] >= self.depth:
            raise ShapeError(f"Prompts enter block {prompts.blocks[-1]}; the tower has {self.depth}, counted from 0.")
        if prompts.placeholders and not self.placeholders:
            raise ConfigError(f"{type(self).__name__} has no placeholder tokens. Leave placeholders off for it.")

    def _inject(self, state: TowerState, prompt: Tensor, layer: int, prompts: TowerPrompts) -> TowerState:
        prompt = prompt.to(state.states.dtype)
        total = state.states.shape[1]
        if prompts.injection == "into":
            length = min(prompts.length, state.tokens)
            padded = functional.pad(prompt[..., :length, :], (0, 0, 0, total - length))
            return replace(state, states=state.states + padded)
        gate = None if prompts.gate is None else prompts.gate[layer]
        if layer == 0:
            if prompts.blocks[0] > 0:
                state = self._with_mask(replace(state, states=append(state.states, prompt)))
            elif state.prompts != prompts.length:
                raise ShapeError("Prompts that enter block 0 must be given to begin() too.")
            return replace(state, gate=gate)
        if state.prompts != prompts.length:
            raise ShapeError(f"The state has {state.prompts} prompt tokens where {prompts.length} should go on.")
        states = state.states
        if prompts.injection == "replace":
            states = append(states.split_with_sizes([state.tokens, state.prompts], dim=1)[0], prompt)
        elif prompts.injection == "add":
            # one broadcast addition: its backward pass copies nothing, a slice's or a concatenation's would
            states = states + functional.pad(prompt, (0, 0, state.tokens, 0))
        return replace(state, states=states, gate=gate)

    def _with_mask(self, state: TowerState) -> TowerState:
        mask = additive_mask(state.states, state.tokens, prompts=state.prompts, causal=self.causal, real=state.real)
        return replace(state, mask=mask)

    def _attention(self, state: TowerState) -> Tensor | GatedMask | None:
        if state.gate is None:
            return state.mask
        self._check_attention("gate")
        return GatedMask(state.tokens, state.gate, state.mask, self.causal)

    def _prefix(self, state: TowerState, prefix: Tensor, layer: int, prompts: TowerPrompts) -> PrefixMask:
        if state.gate is not None:
            raise ConfigError("A prefix can't join prompt tokens that are heard through a gate. Leave one of them out.")
        self._check_attention("prefix")
        return PrefixMask(prefix, state.mask, None if prompts.gate is None else prompts.gate[layer])

    def _check_attention(self, what: str) -> None:
        if self.config._attn_implementation != NAME:
            raise BackboneError(
                f"A {what} needs the attention called {NAME!r}; this model uses "
                f"{self.config._attn_implementation!r}. Call use_own_attention(model) first."
            )


def pooled_states(states: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean and deviation of token states over the tokens, each scaled to length 1, [batch, 2 * width].

    Low in a tower this is the look of a picture and the wording of a text: not yet what they show or mean.

    Args:
        states: [batch, tokens, width].
        real: [batch, tokens], true (or 1) for tokens that count; all of them by default.
    """
    weight = torch.ones(states.shape[:2], device=states.device) if real is None else real.float()
    weight = (weight / weight.sum(dim=1, keepdim=True))[:, :, None]
    mean = (states * weight).sum(dim=1)
    deviation = ((states - mean[:, None]).square() * weight).sum(dim=1).sqrt()
    return torch.cat([F.normalize(mean, dim=-1), F.normalize(deviation, dim=-1)], dim=1)
