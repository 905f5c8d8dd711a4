"""Learned keys and values in a block's attention: against a slow plain version, and what must hold for every family."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import gelu

from lpi.backbones import DualEncoder, Tower, TowerPrompts
from lpi.errors import BackboneError, ConfigError, ShapeError

CAPTIONS = ["the dog", "a cat on the mat", "x"]
LENGTH = 6  # three keys, three values


def towers(backbone: DualEncoder) -> list[tuple[Tower, Any]]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return [(backbone.vision, pixels), (backbone.text, backbone.inputs.tokenize(CAPTIONS))]


def prefix_for(tower: Tower, blocks: tuple[int, ...], *, batch: tuple[int, ...] = (), **options: Any) -> TowerPrompts:
    states = torch.randn(*batch, len(blocks), LENGTH, tower.width, generator=torch.Generator().manual_seed(0))
    return TowerPrompts(states, blocks, "prefix", **options)


# A slow plain version: one sample at a time, a head at a time ------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, *, heads: int, sees: Tensor, prefix: Tensor, gate: Tensor | None) -> Tensor:
    """Attention of one sample; ``prefix``: [2 * prefix, width], empty for none."""
    keys, values = prefix[: len(prefix) // 2], prefix[len(prefix) // 2 :]
    width, outputs = q.shape[1] // heads, []
    for start in range(0, q.shape[1], width):
        s = slice(start, start + width)
        own = (q[:, s] @ k[:, s].T / width**0.5).masked_fill(~sees, -torch.inf)
        learned = q[:, s] @ keys[:, s].T / width**0.5
        if gate is None:
            weights = torch.cat([learned, own], dim=1).softmax(1)
            outputs.append(weights @ torch.cat([values[:, s], v[:, s]]))
        elif len(keys):
            outputs.append(own.softmax(1) @ v[:, s] + gate * (learned.softmax(1) @ values[:, s]))
        else:
            outputs.append(own.softmax(1) @ v[:, s])
    return torch.cat(outputs, dim=1)


def clip_block(layer: Any, x: Tensor, **seen: Any) -> Tensor:
    a = layer.self_attn
    y = layer.layer_norm1(x)
    x = x + a.out_proj(attend(a.q_proj(y), a.k_proj(y), a.v_proj(y), heads=a.num_heads, **seen))
    y = layer.mlp.fc1(layer.layer_norm2(x))
    return x + layer.mlp.fc2(y * torch.sigmoid(1.702 * y))


def bert_block(layer: Any, x: Tensor, **seen: Any) -> Tensor:
    a, out = layer.attention.self, layer.attention.output
    y = attend(a.query(x), a.key(x), a.value(x), heads=a.num_attention_heads, **seen)
    x = out.LayerNorm(x + out.dense(y))
    y = layer.output.dense(gelu(layer.intermediate.dense(x)))
    return layer.output.LayerNorm(x + y)


def run(
    block: Callable[..., Tensor],
    layers: Any,
    x: Tensor,
    prompts: TowerPrompts,
    states: Tensor,
    *,
    causal: bool = False,
) -> Tensor:
    """All blocks on one sample, [tokens, width]."""
    sees = torch.ones(len(x), len(x), dtype=torch.bool)
    for index, layer in enumerate(layers):
        place = prompts.blocks.index(index) if index in prompts.blocks else None
        prefix = x[:0] if place is None else states[place]
        gate = None if place is None or prompts.gate is None else prompts.gate[place]
        x = block(layer, x, sees=sees.tril() if causal else sees, prefix=prefix, gate=gate)
    return x


def plain_clip(backbone: DualEncoder, pixels: Tensor, prompts: TowerPrompts) -> Tensor:
    tower, rows = backbone.vision.module, []
    for sample, image in enumerate(pixels):
        states = prompts.states[sample] if prompts.states.dim() == 4 else prompts.states
        x = run(clip_block, tower.encoder.layers, tower.pre_layrnorm(tower.embeddings(image[None]))[0], prompts, states)
        rows.append(backbone.model.visual_projection(tower.post_layernorm(x[0])))
    return torch.stack(rows)


def plain_clip_text(backbone: DualEncoder, texts: Any, prompts: TowerPrompts) -> Tensor:
    tower, rows = backbone.text.module, []
    for sample, ids in enumerate(texts.ids):
        states = prompts.states[sample] if prompts.states.dim() == 4 else prompts.states
        x = tower.embeddings(input_ids=ids[None, : int(texts.mask[sample].sum())])[0]
        x = run(clip_block, tower.encoder.layers, x, prompts, states, causal=True)
        rows.append(backbone.model.text_projection(tower.final_layer_norm(x[-1])))
    return torch.stack(rows)


def plain_bert(backbone: DualEncoder, texts: Any, prompts: TowerPrompts) -> Tensor:
    tower, rows = backbone.text.module, []
    for sample, ids in enumerate(texts.ids):
        states = prompts.states[sample] if prompts.states.dim() == 4 else prompts.states
        x = tower.embeddings(input_ids=ids[None, : int(texts.mask[sample].sum())])[0]
        x = run(bert_block, tower.encoder.layer, x, prompts, states)
        rows.append(backbone.model.text_projection(torch.tanh(tower.pooler.dense(x[0]))))
    return torch.stack(rows)


PLAIN = {
    "clip vision": ("clip", 0, plain_clip),
    "clip text": ("clip", 1, plain_clip_text),
    "bert": ("dinov2-bert", 1, plain_bert),
}


@pytest.mark.parametrize(
    "options", [{}, {"batch": (3,)}, {"gate": torch.tensor([0.7, -1.3])}], ids=["shared", "own", "gated"]
)
@pytest.mark.parametrize("blocks", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("which", PLAIN)
def test_a_prefix_equals_the_plain_version(
    which: str, blocks: tuple[int, ...], options: dict[str, Any], families: Callable[[str], DualEncoder]
) -> None:
    family, side, plain = PLAIN[which]
    tower, inputs = towers(families(family))[side]
    prompts = prefix_for(tower, blocks, **options)
    with torch.no_grad():
        expected = plain(families(family), inputs, prompts)
        torch.testing.assert_close(tower(inputs, prompts), expected, atol=2e-5, rtol=1e-5)
        assert not torch.allclose(expected, tower(inputs), atol=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_prefix_alone_gets_gradients_and_a_gate_of_zero_is_the_frozen_model(
    family: str, families: Callable[[str], DualEncoder]
) -> None:
    for tower, inputs in towers(families(family)):
        states = prefix_for(tower, (0, 2)).states.requires_grad_()
        gate = torch.zeros(2, requires_grad=True)
        features = tower(inputs, TowerPrompts(states, (0, 2), "prefix", gate=gate))
        torch.testing.assert_close(features, tower(inputs), atol=1e-6, rtol=0)
        features.square().sum().backward()
        assert gate.grad is not None
        assert (gate.grad.abs() > 1e-6).all()
        tower(inputs, TowerPrompts(states, (0, 2), "prefix")).square().sum().backward()
        assert states.grad is not None
        assert (states.grad.abs().amax(-1) > 0).all()
        assert all(parameter.grad is None for parameter in tower.parameters())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_caption_with_a_prefix_is_the_same_beside_longer_ones(
    family: str, families: Callable[[str], DualEncoder]
) -> None:
    backbone = families(family)
    prompts = prefix_for(backbone.text, (0, 1))
    with torch.no_grad():
        together = backbone.text(backbone.inputs.tokenize(CAPTIONS), prompts)
        alone = torch.cat([backbone.text(backbone.inputs.tokenize([text]), prompts) for text in CAPTIONS])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_a_prefix_of_one_block_leaves_nothing_for_the_next(clip: DualEncoder) -> None:
    tower, pixels = towers(clip)[0]
    prompts = prefix_for(tower, (1,))
    with torch.no_grad():
        state = tower.advance(tower.begin(pixels, prompts), 0, 2, prompts)
        assert state.prompts == 0
        once = tower.finish(tower.advance(state, 2, tower.depth))
        assert torch.equal(once, tower(pixels, prompts))


def test_a_prefix_works_in_bfloat16_and_under_autocast(clip: DualEncoder) -> None:
    small = copy.deepcopy(clip).to(torch.bfloat16)
    for (tower, inputs), (own, _) in zip(towers(clip), towers(small), strict=True):
        expected = tower(inputs, prefix_for(tower, (0, 1)))
        low = own(inputs.to(torch.bfloat16) if isinstance(inputs, Tensor) else inputs, prefix_for(own, (0, 1)))
        assert low.dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            automatic = tower(inputs, prefix_for(tower, (0, 1)))
        for features in (low, automatic):
            assert torch.cosine_similarity(features.float(), expected).min() > 0.99


def test_a_prefix_that_can_not_be_is_refused(clip: DualEncoder) -> None:
    states = torch.zeros(1, 3, 32)
    with pytest.raises(ShapeError, match="must be even; got 3"):
        TowerPrompts(states, (0,), "prefix")
    with pytest.raises(ConfigError, match="no placeholders for it"):
        TowerPrompts(states[:, :2], (0,), "prefix", placeholders=True)
    tower, pixels = towers(clip)[0]
    tokens = TowerPrompts(states, (0,), "shallow", gate=torch.zeros(1))
    state = tower.advance(tower.begin(pixels, tokens), 0, 1, tokens)
    with pytest.raises(ConfigError, match="heard through a gate"):
        tower.advance(state, 1, 2, prefix_for(tower, (1,)))
    other = copy.deepcopy(clip)
    other.model.set_attn_implementation("sdpa")
    with pytest.raises(BackboneError, match=r"A prefix needs the attention called 'lpi'; this model uses 'sdpa'"):
        other.vision(pixels, prefix_for(other.vision, (0,)))
