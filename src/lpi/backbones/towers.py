"""One small adapter a tower family: how it embeds and how it pools. The blocks between are run by ``Tower``.

A new family is one adapter and one line in ``VISION_TOWERS`` or ``TEXT_TOWERS``; the key is the ``model_type`` of the
tower's own configuration.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lpi.backbones.state import PatchInputs, TextInputs, TowerState, append
from lpi.backbones.tower import Tower
from lpi.errors import BackboneError, ShapeError, did_you_mean


class VisionTower(Tower):
    """What vision towers share: positions are interpolated when pictures aren't of the trained size."""

    def _grown(self, pixels: Tensor) -> dict[str, bool]:
        """The arguments that make the embedding interpolate its positions, only where it must."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {"interpolate_pos_encoding": True} if tuple(pixels.shape[-2:]) != (height, width) else {}


class ClipVisionTower(VisionTower):
    """CLIP: class token, positions, a norm before the first block, the normed class token pooled. Also OWL-ViT's."""

    def embed(self, inputs: Tensor, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`; prompts go in after the positions and before the norm."""
        states = self.module.embeddings(inputs, **self._grown(inputs))
        tokens = states.shape[1]
        if prompts is not None:
            states = append(states, prompts)
        # CLIP's own spelling, and OWL-ViT's
        norm = self.module.pre_layrnorm if hasattr(self.module, "pre_layrnorm") else self.module.pre_layernorm
        return TowerState(norm(states), tokens)

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        pooled: Tensor = self.module.post_layernorm(state.states[:, 0])
        return pooled


class ClipTextTower(Tower):
    """CLIP: causal, with the state at the end-of-text token pooled. Also OWL-ViT's."""

    placeholders = True
    causal = True

    def embed(self, inputs: TextInputs, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`; placeholders stand between the start token and the caption."""
        states = _embed_text(self.module.embeddings, inputs, prompts, placeholders, before=1)
        # No padding mask: padding is on the right, where under a causal mask no real token can see it.
        return TowerState(states, inputs.ids.shape[1], pool=self._ends(inputs.ids))

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        assert state.pool is not None
        rows = torch.arange(len(state.states), device=state.states.device)
        pooled: Tensor = self.module.final_layer_norm(state.states[rows, state.pool])
        return pooled

    def _ends(self, ids: Tensor) -> Tensor:
        # Older checkpoints (and all of OWL-ViT's) say 2, which is wrong: there, the end token is the largest id.
        end = getattr(self.module, "eos_token_id", 2)
        return ids.argmax(dim=-1) if end == 2 else (ids == end).int().argmax(dim=-1)


class SiglipVisionTower(VisionTower):
    """SigLIP: no class token; a learned query attends to the picture's tokens. Prompt tokens are not pooled."""

    pooler: ClassVar[str | None] = "head"

    def embed(self, inputs: Tensor, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`."""
        states = self.module.embeddings(inputs, **self._grown(inputs))
        tokens = states.shape[1]
        return TowerState(states if prompts is None else append(states, prompts), tokens)

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        pooled: Tensor = self.module.head(self.module.post_layernorm(state.ordinary))
        return pooled


class Siglip2VisionTower(Tower):
    """SigLIP 2's NaFlex tower: reads patches, each picture with its own grid; whole pictures are cut up here."""

    pooler: ClassVar[str | None] = "head"

    def embed(self, inputs: Tensor | PatchInputs, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`."""
        real = None
        if isinstance(inputs, Tensor):
            patches, shapes = cut(inputs, self.config.patch_size)
        else:
            patches, shapes = inputs.patches, inputs.shapes
            real = None if bool(inputs.mask.all()) else inputs.mask.bool()
        states = self.module.embeddings(patches, shapes)
        tokens = states.shape[1]
        return TowerState(states if prompts is None else append(states, prompts), tokens, real=real)

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        real = None if state.real is None else state.real.int()
        pooled: Tensor = self.module.head(self.module.post_layernorm(state.ordinary), real)
        return pooled


class SiglipTextTower(Tower):
    """SigLIP and SigLIP 2: reads both ways, padding too, and pools the last token."""

    placeholders = True

    def embed(self, inputs: TextInputs, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`; placeholders stand in front of the caption."""
        states = _embed_text(self.module.embeddings, inputs, prompts, placeholders, before=0)
        return TowerState(states, inputs.ids.shape[1], real=_real(inputs))

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        last = state.states[:, state.tokens - 1]
        pooled: Tensor = self.module.head(self.module.final_layer_norm(last))
        return pooled


class VitTower(VisionTower):
    """ViT: class token, positions, the normed class token through a dense pooler."""

    pooler: ClassVar[str | None] = "pooler"

    def embed(self, inputs: Tensor, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`."""
        states = self.module.embeddings(inputs.to(self.module.dtype), **self._grown(inputs))
        tokens = states.shape[1]
        return TowerState(states if prompts is None else append(states, prompts), tokens)

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        pooled: Tensor = self.module.pooler(self.module.layernorm(state.states[:, :1]))
        return pooled


class Dinov2Tower(VitTower):
    """DINOv2: as ViT, with the normed class token itself pooled; its embedding always interpolates."""

    pooler: ClassVar[str | None] = None

    def _grown(self, pixels: Tensor) -> dict[str, bool]:
        return {}

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        pooled: Tensor = self.module.layernorm(state.states[:, 0])
        return pooled


class BertTower(Tower):
    """BERT and RoBERTa: read both ways, never see padding, pool the first token through a dense layer."""

    pooler: ClassVar[str | None] = "pooler"

    def embed(self, inputs: TextInputs, prompts: Tensor | None, placeholders: bool) -> TowerState:
        """See :meth:`Tower.embed`; prompts carry no position, the caption keeps its own."""
        states = self.module.embeddings(input_ids=inputs.ids)
        tokens = states.shape[1]
        return TowerState(states if prompts is None else append(states, prompts), tokens, real=_real(inputs))

    def pool(self, state: TowerState) -> Tensor:
        """See :meth:`Tower.pool`."""
        pooled: Tensor = self.module.pooler(state.states[:, :1])
        return pooled


VISION_TOWERS: dict[str, type[Tower]] = {
    "clip_vision_model": ClipVisionTower,
    "dinov2": Dinov2Tower,
    "owlvit_vision_model": ClipVisionTower,
    "owlv2_vision_model": ClipVisionTower,
    "siglip_vision_model": SiglipVisionTower,
    "siglip2_vision_model": Siglip2VisionTower,
    "vit": VitTower,
}
TEXT_TOWERS: dict[str, type[Tower]] = {
    "bert": BertTower,
    "clip_text_model": ClipTextTower,
    "owlvit_text_model": ClipTextTower,
    "owlv2_text_model": ClipTextTower,
    "roberta": BertTower,
    "siglip_text_model": SiglipTextTower,
    "siglip2_text_model": SiglipTextTower,
    "xlm-roberta": BertTower,
}


def vision_tower(module: Any, projection: nn.Module | None = None) -> Tower:
    """The adapter for a transformers vision tower.

    Raises:
        BackboneError: no adapter knows its family.
    """
    return _tower(VISION_TOWERS, module, projection, "vision")


def text_tower(module: Any, projection: nn.Module | None = None) -> Tower:
    """The adapter for a transformers text tower.

    Raises:
        BackboneError: no adapter knows its family.
    """
    return _tower(TEXT_TOWERS, module, projection, "text")


def _tower(table: dict[str, type[Tower]], module: Any, projection: nn.Module | None, side: str) -> Tower:
    family: str = module.config.model_type
    if family not in table:
        raise BackboneError(f"No {side} tower of the family {family!r} is known. {did_you_mean(family, table)}")
    return table[family](module, projection)


def cut(pixels: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Pictures as rows of square patches.

    Args:
        pixels: [batch, 3, height, width].
        side: of a patch, in pixels.

    Returns:
        Patches [batch, rows * columns, side * side * 3], and each picture's rows and columns [batch, 2] int64.

    Raises:
        ShapeError: height or width is no multiple of the side.
    """
    batch, channels, height, width = pixels.shape
    if height % side or width % side:
        raise ShapeError(f"Pictures of {height} x {width} pixels can't be cut into patches of {side}.")
    rows, columns = height // side, width // side
    patches = pixels.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    shapes = torch.tensor([[rows, columns]], device=pixels.device).expand(batch, 2)
    return patches.reshape(batch, rows * columns, side * side * channels), shapes


def _real(inputs: TextInputs) -> Tensor | None:
    """Which tokens may be seen, or ``None`` when that is all of them: attention without a mask is faster."""
    return None if bool(inputs.mask.all()) else inputs.mask.bool()


def _embed_text(embeddings: Any, inputs: TextInputs, prompts: Tensor | None, placeholders: bool, before: int) -> Tensor:
    """Embed a caption, and prompts behind it in memory; as placeholders they carry the positions before the caption.

    Args:
        embeddings: the library's own module, with ``token_embedding`` and ``position_embedding``.
        inputs: the caption.
        prompts: [length, width] or [batch, length, width].
        placeholders: prompts carry positions.
        before: how many of the caption's tokens stand before the placeholders.

    Raises:
        ShapeError: caption and placeholders together are longer than the context.
    """
    if prompts is None or not placeholders:
        states: Tensor = embeddings(input_ids=inputs.ids)
        return states if prompts is None else append(states, prompts)
    tokens, length = inputs.ids.shape[1], prompts.shape[-2]
    context = embeddings.position_embedding.num_embeddings
    if tokens + length > context:
        raise ShapeError(
            f"{length} placeholders and {tokens} tokens are more than the context of {context}. "
            f"Tokenise with reserved={length}."
        )
    positions = torch.arange(tokens + length, device=inputs.ids.device)
    positions[before:tokens] += length
    positions[tokens:] -= tokens - before
    words = append(embeddings.token_embedding(inputs.ids), prompts)
    embedded: Tensor = embeddings(inputs_embeds=words, position_ids=positions[None])
    return embedded
