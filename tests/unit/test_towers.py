"""How prompts enter a tower: each injection against a slow plain version, and what must hold for every family."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from lpi.backbones import DualEncoder, TextInputs, Tower, TowerPrompts, load_backbone
from lpi.backbones.attention import NAME
from lpi.errors import BackboneError, ConfigError, ShapeError

TOKENS = ("replace", "add", "shallow")
ALL = (*TOKENS, "into")
CAPTIONS = ["the dog", "a cat on the mat", "x"]
PLACES = [(0, 1, 2), (0, 2), (1, 2), (2,), (0,)]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DualEncoder]:
    root = tmp_path_factory.mktemp("families")
    return {name: load_backbone(make(root / name)) for name, make in tiny.FAMILIES.items()}


def towers(backbone: DualEncoder) -> list[tuple[Tower, Any]]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return [(backbone.vision, pixels), (backbone.text, backbone.inputs.tokenize(CAPTIONS))]


def prompts_for(
    tower: Tower, blocks: tuple[int, ...], injection: Any, *, seed: int = 0, **options: Any
) -> TowerPrompts:
    generator = torch.Generator().manual_seed(seed)
    batch = options.pop("batch", ())
    states = torch.randn(*batch, len(blocks), 4, tower.width, generator=generator)
    return TowerPrompts(states, blocks, injection, **options)


# A slow plain version: one sample at a time, tokens in the order in which they stand in the sequence ----------------


def attend(block: Any, x: Tensor, sees: Tensor, prompt: list[int], gate: Tensor | None) -> Tensor:
    """Attention of one sample, a query and a head at a time. ``sees``: [tokens, tokens] bool."""
    q, k, v, heads = block["q"](x), block["k"](x), block["v"](x), block["heads"]
    width = q.shape[-1] // heads
    rows = []
    for i in range(len(x)):
        parts = []
        for h in range(heads):
            s = slice(h * width, (h + 1) * width)
            scores = (k[:, s] @ q[i, s]) / width**0.5
            seen = [j for j in range(len(x)) if sees[i, j]]
            if gate is None or i in prompt:
                weights = scores[seen].softmax(0)
                parts.append(weights @ v[seen][:, s])
                continue
            own = [j for j in seen if j not in prompt]
            out = scores[own].softmax(0) @ v[own][:, s]
            heard = [j for j in seen if j in prompt]
            if heard:
                out = out + gate * (scores[heard].softmax(0) @ v[heard][:, s])
            parts.append(out)
        rows.append(torch.cat(parts))
    return block["o"](torch.stack(rows))


def clip_block(layer: Any, x: Tensor, sees: Tensor, prompt: list[int], gate: Tensor | None) -> Tensor:
    a = layer.self_attn
    parts = {"q": a.q_proj, "k": a.k_proj, "v": a.v_proj, "o": a.out_proj, "heads": a.num_heads}

    def norm(module: Any, y: Tensor) -> Tensor:
        return layer_norm(y, y.shape[-1:], module.weight, module.bias, module.eps)

    x = x + attend(parts, norm(layer.layer_norm1, x), sees, prompt, gate)
    y = norm(layer.layer_norm2, x) @ layer.mlp.fc1.weight.T + layer.mlp.fc1.bias
    y = y * torch.sigmoid(1.702 * y)
    return x + y @ layer.mlp.fc2.weight.T + layer.mlp.fc2.bias


def bert_block(layer: Any, x: Tensor, sees: Tensor, prompt: list[int], gate: Tensor | None) -> Tensor:
    a, out = layer.attention.self, layer.attention.output
    parts = {"q": a.query, "k": a.key, "v": a.value, "o": out.dense, "heads": a.num_attention_heads}

    def norm(module: Any, y: Tensor) -> Tensor:
        return layer_norm(y, y.shape[-1:], module.weight, module.bias, module.eps)

    x = norm(out.LayerNorm, x + attend(parts, x, sees, prompt, gate))
    y = gelu(x @ layer.intermediate.dense.weight.T + layer.intermediate.dense.bias)
    y = y @ layer.output.dense.weight.T + layer.output.dense.bias
    return norm(layer.output.LayerNorm, x + y)


def run_plain(
    block: Callable[..., Tensor],
    layers: Any,
    x: Tensor,
    prompts: TowerPrompts,
    states: Tensor,
    *,
    causal: bool,
    inside: bool,
) -> tuple[Tensor, list[int]]:
    """All blocks on one sample; ``inside``: the prompts of block 0 stand in ``x`` already, behind its first token."""
    length = prompts.length
    prompt = list(range(1, 1 + length)) if inside else []
    gate = None
    for index, layer in enumerate(layers):
        if index in prompts.blocks:
            place = prompts.blocks.index(index)
            new = states[place]
            if prompts.injection == "into":
                count = min(length, len(x))
                x = torch.cat([x[:count] + new[:count], x[count:]])
            elif not prompt:
                x = torch.cat([x[:1], new, x[1:]])
                prompt = list(range(1, 1 + length))
            elif place > 0 and prompts.injection == "replace":
                x = torch.cat([x[:1], new, x[1 + length :]])
            elif place > 0 and prompts.injection == "add":
                x = torch.cat([x[:1], x[1 : 1 + length] + new, x[1 + length :]])
            gate = None if prompts.gate is None else prompts.gate[place]
        sees = torch.ones(len(x), len(x), dtype=torch.bool)
        x = block(layer, x, sees.tril() if causal else sees, prompt, gate)
    return x, prompt


def plain_clip_vision(backbone: DualEncoder, pixels: Tensor, prompts: TowerPrompts) -> Tensor:
    tower, model = backbone.vision.module, backbone.model
    rows = []
    for sample, image in enumerate(pixels):
        states = prompts.states[sample] if prompts.states.dim() == 4 else prompts.states
        x = tower.embeddings(image[None])[0]
        inside = prompts.injection != "into" and prompts.blocks[0] == 0
        if inside:
            x = torch.cat([x[:1], states[0], x[1:]])
        x, _ = run_plain(
            clip_block, tower.encoder.layers, tower.pre_layrnorm(x), prompts, states, causal=False, inside=inside
        )
        rows.append(model.visual_projection(tower.post_layernorm(x[0])))
    return torch.stack(rows)


def plain_clip_text(backbone: DualEncoder, texts: TextInputs, prompts: TowerPrompts) -> Tensor:
    tower, model = backbone.text.module, backbone.model
    words, places = tower.embeddings.token_embedding.weight, tower.embeddings.position_embedding.weight
    rows = []
    for sample in range(len(texts.ids)):
        states = prompts.states[sample] if prompts.states.dim() == 4 else prompts.states
        ids = texts.ids[sample][: int(texts.mask[sample].sum())]  # ends with the end token
        x = words[ids]
        inside = prompts.injection != "into" and prompts.blocks[0] == 0
        if inside and prompts.placeholders:
            x = torch.cat([x[:1], states[0], x[1:]])
            x = x + places[: len(x)]
        else:
            x = x + places[: len(x)]
            if inside:
                x = torch.cat([x[:1], states[0], x[1:]])
        x, _ = run_plain(clip_block, tower.encoder.layers, x, prompts, states, causal=True, inside=inside)
        rows.append(model.text_projection(tower.final_layer_norm(x[-1])))
    return torch.stack(rows)


def plain_bert(backbone: DualEncoder, texts: TextInputs, prompts: TowerPrompts) -> Tensor:
    tower, model = backbone.text.module, backbone.model
    rows = []
    for sample in range(len(texts.ids)):
        states = prompts.states[sample] if prompts.states.dim() == 4 else prompts.states
        ids = texts.ids[sample][: int(texts.mask[sample].sum())]
        x = tower.embeddings(input_ids=ids[None])[0]
        inside = prompts.injection != "into" and prompts.blocks[0] == 0
        if inside:
            x = torch.cat([x[:1], states[0], x[1:]])
        x, _ = run_plain(bert_block, tower.encoder.layer, x, prompts, states, causal=False, inside=inside)
        pooled = torch.tanh(tower.pooler.dense(x[0]))
        rows.append(model.text_projection(pooled))
    return torch.stack(rows)


PLAIN = {
    "clip vision": ("clip", "vision", plain_clip_vision),
    "clip text": ("clip", "text", plain_clip_text),
    "bert": ("dinov2-bert", "text", plain_bert),
}


def check_plain(backbones: dict[str, DualEncoder], which: str, make: Callable[[Tower], TowerPrompts]) -> None:
    family, side, plain = PLAIN[which]
    backbone = backbones[family]
    tower, inputs = towers(backbone)[0 if side == "vision" else 1]
    prompts = make(tower)
    with torch.no_grad():
        torch.testing.assert_close(tower(inputs, prompts), plain(backbone, inputs, prompts), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("blocks", PLACES)
@pytest.mark.parametrize("injection", ALL)
@pytest.mark.parametrize("which", PLAIN)
def test_each_injection_equals_the_plain_version(
    which: str, injection: str, blocks: tuple[int, ...], backbones: dict[str, DualEncoder]
) -> None:
    check_plain(backbones, which, lambda tower: prompts_for(tower, blocks, injection))


@pytest.mark.parametrize("injection", TOKENS)
def test_placeholders_carry_positions_and_move_the_caption_behind_them(
    injection: str, backbones: dict[str, DualEncoder]
) -> None:
    check_plain(backbones, "clip text", lambda tower: prompts_for(tower, (0, 1, 2), injection, placeholders=True))


@pytest.mark.parametrize("injection", ALL)
@pytest.mark.parametrize("which", PLAIN)
def test_each_sample_can_have_prompts_of_its_own(which: str, injection: str, backbones: dict[str, DualEncoder]) -> None:
    check_plain(backbones, which, lambda tower: prompts_for(tower, (0, 2), injection, batch=(3,)))


@pytest.mark.parametrize("blocks", [(0, 2), (1, 2)])
@pytest.mark.parametrize("injection", TOKENS)
@pytest.mark.parametrize("which", PLAIN)
def test_a_gate_multiplies_what_is_attended_from_prompts(
    which: str, injection: str, blocks: tuple[int, ...], backbones: dict[str, DualEncoder]
) -> None:
    gate = torch.tensor([0.7, -1.3])
    check_plain(backbones, which, lambda tower: prompts_for(tower, blocks, injection, gate=gate))


# What holds for every family ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("injection", TOKENS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_gate_of_zero_is_exactly_the_frozen_model_and_gets_a_gradient(
    family: str, injection: str, backbones: dict[str, DualEncoder]
) -> None:
    for tower, inputs in towers(backbones[family]):
        for blocks in [(0, 1, 2), (1,)]:
            gate = torch.zeros(len(blocks), requires_grad=True)
            features = tower(inputs, prompts_for(tower, blocks, injection, gate=gate))
            torch.testing.assert_close(features, tower(inputs), atol=1e-6, rtol=0)
            features.square().sum().backward()
            assert gate.grad is not None
            assert (gate.grad.abs() > 1e-6).all()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_zero_prompts_into_tokens_are_exactly_the_frozen_model(family: str, backbones: dict[str, DualEncoder]) -> None:
    for tower, inputs in towers(backbones[family]):
        prompts = TowerPrompts(torch.zeros(2, 40, tower.width), (0, 2), "into")  # longer than any sequence here
        assert torch.equal(tower(inputs, prompts), tower(inputs))


@pytest.mark.parametrize("injection", ALL)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_prompts_change_features_and_alone_get_gradients(
    family: str, injection: str, backbones: dict[str, DualEncoder]
) -> None:
    backbone = backbones[family]
    for tower, inputs in towers(backbone):
        prompts = prompts_for(tower, (0, 1, 2), injection)
        prompts.states.requires_grad_(True)
        features = tower(inputs, prompts)
        assert (features - tower(inputs)).abs().max() > 1e-3
        features.square().sum().backward()
        grads = prompts.states.grad
        assert grads is not None
        reached = grads.abs().amax(dim=(1, 2)) > 0
        # left alone after the first block, later layers of prompts have no effect
        assert reached.tolist() == ([True, False, False] if injection == "shallow" else [True] * 3)
    assert all(weight.grad is None and not weight.requires_grad for weight in backbone.parameters())


@pytest.mark.parametrize("options", [{}, {"placeholders": True}, {"gate": torch.tensor([0.5, 0.2])}])
@pytest.mark.parametrize("injection", TOKENS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_changes_nothing_with_prompts_either(
    family: str, injection: str, options: dict[str, Any], backbones: dict[str, DualEncoder]
) -> None:
    backbone = backbones[family]
    tower = backbone.text
    if backbone.inputs.whole_context or ("placeholders" in options and not tower.placeholders):
        pytest.skip("attends to its padding, or has no placeholders")
    prompts = prompts_for(tower, (0, 2), injection, **options)
    together = tower(backbone.inputs.tokenize(CAPTIONS), prompts)
    alone = torch.cat([tower(backbone.inputs.tokenize([caption]), prompts) for caption in CAPTIONS])
    torch.testing.assert_close(together, alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager", NAME])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_attention_of_the_library_gives_the_same_with_prompts(
    family: str, attention: str, backbones: dict[str, DualEncoder]
) -> None:
    backbone = copy.deepcopy(backbones[family])
    backbone.model.set_attn_implementation(attention)
    for (tower, inputs), (other, _) in zip(towers(backbone), towers(backbones[family]), strict=True):
        prompts = prompts_for(tower, (0, 2), "replace")
        torch.testing.assert_close(tower(inputs, prompts), other(inputs, prompts), atol=5e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"gate": torch.tensor([0.5])}])
@pytest.mark.parametrize("injection", ALL)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_lower_blocks_run_once_can_serve_a_plain_and_a_prompted_pass(
    family: str, injection: str, options: dict[str, Any], backbones: dict[str, DualEncoder]
) -> None:
    if injection == "into" and options:
        pytest.skip("no gate without tokens")
    for tower, inputs in towers(backbones[family]):
        prompts = prompts_for(tower, (2,), injection, **options)
        shared = tower.advance(tower.begin(inputs), 0, 2)
        before = shared.states.clone()
        prompted = tower.finish(tower.advance(shared, 2, tower.depth, prompts))
        plain = tower.finish(tower.advance(shared, 2, tower.depth))
        assert torch.equal(shared.states, before)
        assert torch.equal(prompted, tower(inputs, prompts))
        assert torch.equal(plain, tower(inputs))


@pytest.mark.parametrize("injection", ALL)
def test_blocks_run_in_pieces_equal_blocks_run_at_once(injection: str, backbones: dict[str, DualEncoder]) -> None:
    for family in ("clip", "dinov2-bert"):
        for tower, inputs in towers(backbones[family]):
            gate = None if injection == "into" else torch.tensor([0.5, 0.2])
            prompts = prompts_for(tower, (0, 2), injection, gate=gate)
            state = tower.begin(inputs, prompts)
            for block in range(tower.depth):
                state = tower.advance(state, block, block + 1, prompts)
            assert torch.equal(tower.finish(state), tower(inputs, prompts))


def test_siglip_s_placeholders_stand_in_front_and_the_last_token_keeps_its_position(
    backbones: dict[str, DualEncoder],
) -> None:
    backbone = backbones["siglip"]
    tower, embeddings = backbone.text, backbone.text.module.embeddings
    prompts = prompts_for(tower, (0,), "replace", placeholders=True)
    texts = backbone.inputs.tokenize(CAPTIONS, reserved=4)
    state = tower.begin(texts, prompts)
    places = embeddings.position_embedding.weight
    torch.testing.assert_close(state.ordinary, embeddings.token_embedding(texts.ids) + places[4:])
    torch.testing.assert_close(state.states[:, -4:], (prompts.states[0] + places[:4]).expand(3, -1, -1))


def test_a_backbone_in_bfloat16_takes_prompts(backbones: dict[str, DualEncoder]) -> None:
    for family in tiny.FAMILIES:
        backbone = copy.deepcopy(backbones[family]).to(torch.bfloat16)
        for tower, inputs in towers(backbone):
            gate = torch.tensor([0.5, 0.2])
            for options in ({}, {"gate": gate}):
                features = tower(inputs, prompts_for(tower, (0, 2), "replace", **options))
                assert features.dtype == torch.bfloat16
                assert features.isfinite().all()


def test_autocast_runs_with_prompts(backbones: dict[str, DualEncoder]) -> None:
    for family in tiny.FAMILIES:
        for tower, inputs in towers(backbones[family]):
            for options in ({}, {"gate": torch.tensor([0.5, 0.2])}):
                prompts = prompts_for(tower, (0, 2), "replace", **options)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    rough = tower(inputs, prompts)
                exact = tower(inputs, prompts)
                assert torch.cosine_similarity(rough.float(), exact).min() > 0.98


# What is refused ---------------------------------------------------------------------------------------------------


def test_an_unknown_injection_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'replac'\. Did you mean 'replace'\?"):
        TowerPrompts(torch.zeros(1, 2, 8), (0,), "replac")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("states", "blocks", "message"),
    [
        (torch.zeros(2, 8), (0,), r"got \[2, 8\]"),
        (torch.zeros(2, 3, 8), (0,), r"2 layers of prompts need as many blocks; got \(0,\)"),
        (torch.zeros(2, 3, 8), (1, 1), r"rise strictly .* got \(1, 1\)"),
        (torch.zeros(1, 3, 8), (-1,), r"rise strictly .* got \(-1,\)"),
    ],
)
def test_prompts_whose_shapes_do_not_fit_are_refused(states: Tensor, blocks: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        TowerPrompts(states, blocks, "add")


def test_a_gate_goes_neither_with_into_nor_with_placeholders() -> None:
    with pytest.raises(ConfigError, match="injection 'into'"):
        TowerPrompts(torch.zeros(1, 2, 8), (0,), "into", gate=torch.zeros(1))
    with pytest.raises(ConfigError, match="placeholders"):
        TowerPrompts(torch.zeros(1, 2, 8), (0,), "add", placeholders=True, gate=torch.zeros(1))
    with pytest.raises(ShapeError, match=r"\[layers=1\]; got \[2\]"):
        TowerPrompts(torch.zeros(1, 2, 8), (0,), "add", gate=torch.zeros(2))


def test_prompts_that_do_not_fit_the_tower_are_refused(backbones: dict[str, DualEncoder]) -> None:
    backbone = backbones["clip"]
    pixels, texts = torch.randn(1, 3, 32, 32), backbone.inputs.tokenize(["x"])
    with pytest.raises(ShapeError, match=r"width=32\] for this tower; got \[1, 2, 8\]"):
        backbone.encode_images(pixels, TowerPrompts(torch.zeros(1, 2, 8), (0,), "add"))
    with pytest.raises(ShapeError, match="enter block 4; the tower has 4"):
        backbone.encode_images(pixels, TowerPrompts(torch.zeros(1, 2, 32), (4,), "add"))
    with pytest.raises(ConfigError, match="ClipVisionTower has no placeholder tokens"):
        backbone.encode_images(pixels, TowerPrompts(torch.zeros(1, 2, 32), (0,), "add", placeholders=True))
    long = TowerPrompts(torch.zeros(1, 30, 24), (0,), "add", placeholders=True)
    with pytest.raises(ShapeError, match=r"30 placeholders and 3 tokens .* context of 24\. Tokenise with reserved=30"):
        backbone.encode_texts(texts, long)


def test_prompts_of_block_0_must_be_there_from_the_beginning(backbones: dict[str, DualEncoder]) -> None:
    tower = backbones["clip"].vision
    state = tower.begin(torch.randn(1, 3, 32, 32))
    with pytest.raises(ShapeError, match=r"must be given to begin\(\)"):
        tower.advance(state, 0, 1, prompts_for(tower, (0, 1), "replace"))
    with pytest.raises(ShapeError, match="0 prompt tokens where 4 should go on"):
        tower.advance(tower.advance(state, 0, 1), 1, 2, prompts_for(tower, (0, 1), "replace"))
    with pytest.raises(ShapeError, match="Blocks 3 to 5 don't exist; the tower has 4"):
        tower.advance(state, 3, 5)


def test_a_gate_without_our_attention_says_what_to_call(backbones: dict[str, DualEncoder]) -> None:
    backbone = copy.deepcopy(backbones["clip"])
    backbone.model.set_attn_implementation("eager")
    prompts = prompts_for(backbone.vision, (0,), "replace", gate=torch.zeros(1))
    with pytest.raises(BackboneError, match=r"'eager'.*use_own_attention"):
        backbone.encode_images(torch.randn(1, 3, 32, 32), prompts)


def test_a_saved_model_does_not_carry_our_attention_with_it(backbones: dict[str, DualEncoder], tmp_path: Path) -> None:
    backbones["dinov2-bert"].model.save_pretrained(tmp_path)
    assert NAME not in {str(value) for value in tiny.json_values(tmp_path / "config.json")}
