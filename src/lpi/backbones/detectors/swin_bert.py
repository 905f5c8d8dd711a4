"""Grounding DINO and MM-Grounding-DINO: a Swin beside a BERT, which advance together; fusion and decoder behind them.

Their blocks are run here, one by one, since prompts must enter between them and what they say to each other must, too.
Everything behind the towers is the stock model's own ``forward``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BackboneOutput, BaseModelOutput
from transformers.models.grounding_dino import modeling_grounding_dino

from lpi.backbones.base import TextInputs, Tower, TowerPrompts, TowerState
from lpi.backbones.detectors.base import Detections, GroundingBackbone, GroundingPrompts
from lpi.backbones.detectors.inputs import PhraseInputs, PictureInputs
from lpi.backbones.detectors.parts import Given, with_parts
from lpi.errors import ConfigError, ShapeError

TOWERS = ("vision", "text")
# with a type for token ids that plain tensors don't have
phrase_masks: Any = modeling_grounding_dino.generate_masks_with_special_tokens_and_transfer_map


class JointTower(Tower):
    """A tower that advances beside another: states at the prompt positions can be read and added to between blocks."""

    def read(self, state: TowerState, length: int) -> Tensor:
        """The states at the prompt positions, [batch, length, width]."""
        raise NotImplementedError

    def add(self, state: TowerState, values: Tensor) -> TowerState:
        """The state with ``values``, [length, width] or [batch, length, width], added at the prompt positions."""
        raise NotImplementedError

    def _check(self, prompts: TowerPrompts) -> None:
        super()._check(prompts)
        if prompts.injection != "into":
            raise ConfigError(
                f"injection must be 'into' for {type(self).__name__}: what it reads has no room for further tokens; "
                f"got {prompts.injection!r}."
            )

    def _inject(self, state: TowerState, prompt: Tensor, layer: int, prompts: TowerPrompts) -> TowerState:
        return self.add(state, prompt)

    def _with_mask(self, state: TowerState) -> TowerState:
        return state  # a Swin's windows have none, a phrase's tokens bring their own


@dataclass(frozen=True)
class MapState(TowerState):
    """A Swin between two blocks.

    Attributes:
        grid: rows and columns of the map that ``states`` hold.
        maps: the stages' finished maps so far, [batch, channels, rows, columns] each.
        pixels: [batch, height, width], 1 for pixels of the picture; ``None`` where that is all of them.
    """

    grid: tuple[int, int] = (0, 0)
    maps: tuple[Tensor, ...] = ()
    pixels: Tensor | None = None


class SwinTower(JointTower):
    """Swin: windows of a map that shrinks from stage to stage while its channels double.

    Prompts are added to a top-left grid of the map. A stage that is 2^s times wider takes the same numbers as 1/2^s as
    many tokens: the width of the prompts is that of the first stage everywhere.
    """

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.width = int(module.config.embed_dim)
        stages = module.swin.encoder.layers
        #: stage and place in it, of each block
        self.places = [(stage, block) for stage, part in enumerate(stages) for block in range(len(part.blocks))]

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of all stages, one after another."""
        return nn.ModuleList([block for stage in self.module.swin.encoder.layers for block in stage.blocks])

    def embed(self, inputs: Tensor | PictureInputs, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`; reads pixels alone, or with what of them is padding."""
        pixels, mask = (inputs, None) if isinstance(inputs, Tensor) else (inputs.pixels, inputs.mask)
        states, grid = self.module.swin.embeddings(pixels)
        state = MapState(states, states.shape[1], grid=grid, pixels=mask)
        return self._with_map(state, "stem")

    def advance(self, state: TowerState, first: int, stop: int, prompts: TowerPrompts | None = None) -> TowerState:
        """See :meth:`Tower.advance`; a stage's last block is followed by its norm and the merging of patches."""
        assert isinstance(state, MapState)
        if not 0 <= first <= stop <= self.depth:
            raise ShapeError(f"Blocks {first} to {stop} don't exist; the tower has {self.depth}.")
        due: dict[int, Tensor] = {}
        if prompts is not None:
            self._check(prompts)
            due = dict(zip(prompts.blocks, prompts.layers(), strict=True))
        for number in range(first, stop):
            if number in due:
                state = self.add(state, due[number])
            place, inner = self.places[number]
            stage = self.module.swin.encoder.layers[place]
            # as in the stock backbone, windows are shifted however small the map is
            states, _ = stage.blocks[inner](state.states, state.grid, always_partition=True)
            state = replace(state, states=states)
            if inner + 1 == len(stage.blocks):
                state = self._with_map(state, f"stage{place + 1}")
                if stage.downsample is not None:
                    merged, grid = stage.downsample(state.states, state.grid), [(side + 1) // 2 for side in state.grid]
                    state = replace(state, states=merged, tokens=merged.shape[1], grid=(grid[0], grid[1]))
        return state

    def pool(self, state: TowerState) -> Tensor:
        """The mean of the last map where there is picture, [batch, channels]."""
        assert isinstance(state, MapState)
        last = state.maps[-1]
        if state.pixels is None:
            return last.mean(dim=(2, 3))
        real = functional.interpolate(state.pixels[:, None].to(last.dtype), size=last.shape[-2:])
        return (last * real).sum(dim=(2, 3)) / real.sum(dim=(2, 3))

    def read(self, state: TowerState, length: int) -> Tensor:
        """See :class:`JointTower`; a map smaller than the grid counts as continued by zeros."""
        assert isinstance(state, MapState)
        rows, columns = self._grid(state, length)
        whole = state.states.reshape(len(state.states), *state.grid, -1)  # [batch, rows, columns, channels]
        corner = whole[:, :rows, :columns]
        corner = functional.pad(corner, (0, 0, 0, columns - corner.shape[2], 0, rows - corner.shape[1]))
        return corner.reshape(len(corner), length, self.width)

    def add(self, state: TowerState, values: Tensor) -> MapState:
        """See :class:`JointTower`; what of the grid lies outside a small map is left out."""
        assert isinstance(state, MapState)
        rows, columns = self._grid(state, values.shape[-2])
        height, width = state.grid
        corner = values.to(state.states.dtype).reshape(*values.shape[:-2], rows, columns, -1)
        corner = corner[..., :height, :width, :]
        corner = functional.pad(corner, (0, 0, 0, max(0, width - columns), 0, max(0, height - rows)))
        return replace(state, states=state.states + corner.flatten(-3, -2))

    def _grid(self, state: MapState, length: int) -> tuple[int, int]:
        """Rows and columns of the tokens that ``length`` prompts are in this stage."""
        tokens = length * self.width // state.states.shape[-1]
        rows = max(side for side in range(1, math.isqrt(tokens) + 1) if tokens % side == 0)
        return rows, tokens // rows

    def _check(self, prompts: TowerPrompts) -> None:
        super()._check(prompts)
        wider = 2 ** self.places[prompts.blocks[-1]][0]
        if prompts.length % wider:
            raise ConfigError(
                f"length must be a multiple of {wider}, since the last prompted stage is {wider} times as wide as the "
                f"first; got {prompts.length}."
            )

    def _with_map(self, state: MapState, stage: str) -> MapState:
        """The state, with its map kept if the detector wants this stage's."""
        if stage not in self.module.out_features:
            return state
        normed = self.module.hidden_states_norms[stage](state.states)
        finished = normed.reshape(len(normed), *state.grid, -1).permute(0, 3, 1, 2).contiguous()
        return replace(state, maps=(*state.maps, finished))


class PhraseTower(JointTower):
    """BERT as Grounding DINO uses it: the tokens of a phrase see one another, and nobody sees the delimiters.

    Args:
        module: the library's BERT.
        delimiters: ids of the tokens that end a phrase, int64.
    """

    def __init__(self, module: Any, delimiters: Tensor) -> None:
        super().__init__(module)
        self.register_buffer("delimiters", delimiters.clone(), persistent=False)

    delimiters: Tensor

    def embed(self, inputs: TextInputs, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`."""
        sees, positions = phrase_masks(inputs.ids, special_tokens=self.delimiters)
        states = self.module.embeddings(
            input_ids=inputs.ids, position_ids=positions, token_type_ids=torch.zeros_like(inputs.ids)
        )
        mask = torch.zeros(sees.shape, dtype=states.dtype, device=states.device)
        mask = mask.masked_fill_(~sees, torch.finfo(states.dtype).min)[:, None]  # [batch, 1, tokens, tokens]
        return TowerState(states, states.shape[1], mask=mask, real=self.named(inputs))

    def named(self, inputs: TextInputs) -> Tensor:
        """Which tokens are words, neither delimiters nor padding, bool [batch, tokens]."""
        return inputs.mask.bool() & ~torch.isin(inputs.ids, self.delimiters)

    def pool(self, state: TowerState) -> Tensor:
        """The mean of the words, [batch, width]."""
        assert state.real is not None
        real = state.real[..., None].to(state.states.dtype)
        return (state.states * real).sum(dim=1) / real.sum(dim=1)

    def read(self, state: TowerState, length: int) -> Tensor:
        """See :class:`JointTower`."""
        return state.states[:, :length]

    def add(self, state: TowerState, values: Tensor) -> TowerState:
        """See :class:`JointTower`."""
        length = min(values.shape[-2], state.tokens)
        padded = functional.pad(values[..., :length, :].to(state.states.dtype), (0, 0, 0, state.tokens - length))
        return replace(state, states=state.states + padded)


class SwinBertBackbone(GroundingBackbone):
    """Grounding DINO or MM-Grounding-DINO."""

    joint: ClassVar[bool] = True
    vision: SwinTower
    text: PhraseTower
    inputs: PhraseInputs

    @property
    def feature_width(self) -> int:
        """Channels of the last map."""
        return int(self.vision.module.channels[-1])

    def detect(self, pictures: PictureInputs, texts: TextInputs, prompts: GroundingPrompts | None = None) -> Detections:
        """See :meth:`GroundingBackbone.detect`.

        With prompts, a short expression is padded to their length: the states at all prompt positions then exist, and
        what is found doesn't depend on how long the other expressions of the batch are.
        """
        if prompts is not None:
            texts = self.inputs.at_least(texts, prompts.text.length)
        vision, text = self._advance(pictures, texts, prompts)
        behind = with_parts(
            self.model,
            {
                "model.backbone.conv_encoder.model": Given(BackboneOutput(feature_maps=cast(Any, vision.maps))),
                "model.text_backbone": Given(BaseModelOutput(last_hidden_state=text.states)),
            },
        )
        output = behind(
            pixel_values=pictures.pixels, pixel_mask=pictures.mask, input_ids=texts.ids, attention_mask=texts.mask
        )
        beyond = output.logits.shape[-1] - texts.ids.shape[1]  # the logits are as wide as the longest expression may be
        return Detections(
            boxes=output.pred_boxes,
            logits=output.logits,
            named=functional.pad(self.text.named(texts), (0, beyond)),
            seen=functional.pad(texts.mask.bool(), (0, beyond)),
        )

    def _advance(
        self, pictures: PictureInputs, texts: TextInputs, prompts: GroundingPrompts | None
    ) -> tuple[MapState, TowerState]:
        """Both towers from their inputs to their ends, block by block where prompts are due."""
        towers: dict[str, JointTower] = {"vision": self.vision, "text": self.text}
        states: dict[str, TowerState] = {"vision": self.vision.begin(pictures), "text": self.text.begin(texts)}
        done = dict.fromkeys(TOWERS, 0)
        if prompts is not None:
            entering = {"vision": prompts.vision, "text": prompts.text}
            self.check(prompts)
            for layer, blocks in enumerate(zip(prompts.vision.blocks, prompts.text.blocks, strict=True)):
                for tower, block in zip(TOWERS, blocks, strict=True):
                    states[tower] = towers[tower].advance(states[tower], done[tower], block)
                    states[tower] = towers[tower].add(states[tower], entering[tower].layers()[layer])
                    done[tower] = block
                if prompts.exchange is not None and layer > 0:
                    told = {tower: towers[tower].read(states[tower], entering[tower].length) for tower in TOWERS}
                    for tower, change in prompts.exchange(told, layer).items():
                        states[tower] = towers[tower].add(states[tower], change)
        vision, text = (towers[tower].advance(states[tower], done[tower], towers[tower].depth) for tower in TOWERS)
        assert isinstance(vision, MapState)
        return vision, text
