"""The prompt-based rivals against their papers' formulas, computed the slow way over the stock model's own layers."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones import DualEncoder, TextInputs, TowerPrompts
from lpi.methods import method
from lpi.methods.base import Method, TrainingBatch
from lpi.methods.coda_prompt import CODAPrompt, orthogonality, orthonormal_rows
from lpi.methods.dualprompt import DualPrompt
from lpi.methods.encoder import tokens
from lpi.tasks.stream import TaskStream

Learn = Callable[..., Method]
Ready = Callable[..., TrainingBatch]


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def taught(name: str, backbone: DualEncoder, learn: Learn, stream: TaskStream, tasks: int = 1, **options: Any) -> Any:
    """A method whose prompts have moved, so that nothing is zero or equal by chance."""
    return learn(method(name, backbone, **options), stream.tasks[:tasks], learning_rate=0.05)


def shared(model: Any, name: str) -> Tensor:
    found: Tensor = model.learned.get_parameter(name)
    return found


def picture_tokens(backbone: DualEncoder, pixels: Tensor) -> Tensor:
    """Class token and patches with positions, before CLIP's first norm, [batch, tokens, width]."""
    states: Tensor = backbone.vision.module.embeddings(pixels)
    return states


def pooled_picture(backbone: DualEncoder, states: Tensor) -> Tensor:
    model = backbone.model
    features: Tensor = F.normalize(model.visual_projection(model.vision_model.post_layernorm(states[:, 0])), dim=-1)
    return features


def run_layer(layer: Any, states: Tensor, *, causal: bool = False) -> Tensor:
    """One stock layer over tokens in the order in which they stand."""
    mask = None
    if causal:
        total = states.shape[1]
        mask = torch.full((total, total), torch.finfo(states.dtype).min).triu(1)[None, None]
    output = layer(states, mask)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


# CoOp: eq. 2 -------------------------------------------------------------------------------------------------------


def test_coop_is_the_stock_model_with_the_context_as_words(clip: DualEncoder, learn: Learn, stream: TaskStream) -> None:
    """The learned vectors, put into the vocabulary under unused numbers, are read by the stock model as words."""
    model = taught("coop", clip, learn, stream, length=3)
    stock = copy.deepcopy(clip.model)
    unused = [5, 9, 11]  # none of the captions' tokens
    stock.text_model.embeddings.token_embedding.weight.data[unused] = shared(model, "context").detach()
    texts = clip.inputs.tokenize(["red dot"])
    assert not set(unused) & set(texts.ids[0].tolist())
    ids = torch.cat([texts.ids[:, :1], torch.tensor([unused]), texts.ids[:, 1:]], dim=1)
    with torch.no_grad():
        output = stock.get_text_features(input_ids=ids)
        expected = F.normalize(output if isinstance(output, Tensor) else output.pooler_output, dim=-1)
        found = model.text_features(tokens(model, ["red dot"]), 0)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(found, F.normalize(clip.encode_texts(texts), dim=-1), atol=1e-2)


@pytest.mark.parametrize("name", ["coop", "maple"])
def test_a_context_that_starts_at_words_is_those_words(
    name: str, clip: DualEncoder, learn: Learn, stream: TaskStream
) -> None:
    options = {"depth": 1} if name == "maple" else {}
    length = clip.inputs.tokenize(["the dog"]).ids.shape[1] - 2
    model = method(name, clip, length=length, words="the dog", **options)
    learn(model, stream.tasks[:1], learning_rate=1e-12)
    torch.testing.assert_close(
        model.encode_texts(["red dot"]),
        F.normalize(clip.encode_texts(clip.inputs.tokenize(["the dog red dot"])), dim=-1),
        atol=2e-6,
        rtol=1e-5,
    )


# VPT: eq. 4, 5 and 7 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3, None])
def test_vpt_gives_every_block_tokens_of_its_own(
    depth: int | None, clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("vpt", clip, learn, stream, length=3, depth=depth)
    prompts = shared(model, "tokens").detach()
    assert len(prompts) == (depth or 4)
    vision = clip.model.vision_model
    with torch.no_grad():
        x = picture_tokens(clip, pixels)
        tokens = x.shape[1]
        for number, layer in enumerate(vision.encoder.layers):
            if number < len(prompts):
                x = torch.cat([x[:, :tokens], prompts[number].expand(len(x), -1, -1)], dim=1)
            x = run_layer(layer, vision.pre_layrnorm(x) if number == 0 else x)
        found = model.image_features(pixels, 0)
    torch.testing.assert_close(found, pooled_picture(clip, x), atol=2e-6, rtol=1e-5)


def test_vpt_starts_within_xavier_s_bounds(clip: DualEncoder) -> None:
    tokens = shared(method("vpt", clip, length=10), "tokens")
    bound = math.sqrt(6 / (3 * 8 * 8 + 32))
    assert tokens.abs().max() <= bound
    torch.testing.assert_close(tokens.std(), torch.tensor(bound / math.sqrt(3)), rtol=0.05, atol=0)


# MaPLe: section 3.2 -------------------------------------------------------------------------------------------------


def test_maple_s_vision_prompts_are_a_linear_layer_over_its_text_prompts(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("maple", clip, learn, stream, length=2)
    text, weight, bias = (shared(model, name).detach() for name in ("prompts", "weight", "bias"))
    assert model.blocks("vision") == (0, 1, 2)  # 3 text blocks beside 4: floor(l * 4 / 3)
    vision = clip.model.vision_model
    with torch.no_grad():
        x = picture_tokens(clip, pixels)
        tokens = x.shape[1]
        for number, layer in enumerate(vision.encoder.layers):
            if number < 3:
                prompt = F.linear(text[number], weight[number].T, bias[number, 0])
                x = torch.cat([x[:, :tokens], prompt.expand(len(x), -1, -1)], dim=1)
            x = run_layer(layer, vision.pre_layrnorm(x) if number == 0 else x)
        found = model.image_features(pixels, 0)
    torch.testing.assert_close(found, pooled_picture(clip, x), atol=2e-6, rtol=1e-5)


def test_maple_s_text_prompts_stand_before_the_caption_in_every_block(
    clip: DualEncoder, learn: Learn, stream: TaskStream
) -> None:
    model = taught("maple", clip, learn, stream, length=2)
    prompts = shared(model, "prompts").detach()
    text = clip.model.text_model
    texts = tokens(model, ["teal bar"])
    with torch.no_grad():
        words = text.embeddings.token_embedding(texts.ids)
        x = torch.cat([words[:, :1], prompts[None, 0], words[:, 1:]], dim=1)
        x = x + text.embeddings.position_embedding.weight[: x.shape[1]]
        for number, layer in enumerate(text.encoder.layers):
            if number > 0:
                x = torch.cat([x[:, :1], prompts[None, number], x[:, 3:]], dim=1)
            x = run_layer(layer, x, causal=True)
        end = int(texts.mask[0].sum()) - 1 + 2
        expected = F.normalize(clip.model.text_projection(text.final_layer_norm(x[:, end])), dim=-1)
        found = model.text_features(texts, 0)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


# L2P: section 4 -----------------------------------------------------------------------------------------------------


def test_l2p_takes_the_prompts_of_the_nearest_keys(clip: DualEncoder) -> None:
    model = method("l2p", clip, pool=4, chosen=2, length=1)
    keys = torch.zeros(4, 16)
    keys[0, 0], keys[1, 1], keys[2, 0], keys[2, 1], keys[3, 0] = 3.0, 2.0, 1.0, 1.0, -1.0
    model.learned.get_parameter("keys_text").data.copy_(keys)
    query = torch.zeros(2, 16)
    query[0, 0], query[1, 0], query[1, 1] = 1.0, 0.6, 0.8
    distances, rows = model.choose("text", query)
    assert rows.tolist() == [[0, 2], [2, 1]]  # cosines: 1, 0, 0.7071, -1 and 0.6, 0.8, 0.9899, -0.6
    root = math.sqrt(0.5)
    torch.testing.assert_close(distances, torch.tensor([[0.0, 1 - root], [1 - 1.4 * root, 0.2]]), atol=1e-6, rtol=0)


def test_l2p_puts_an_item_s_own_prompts_behind_its_tokens(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("l2p", clip, learn, stream, pool=8, chosen=2, length=2)
    vision, pool = clip.model.vision_model, shared(model, "pool_vision").detach()
    keys = shared(model, "keys_vision").detach()
    with torch.no_grad():
        found, choices = model.image_features(pixels, 0), set()
        for sample, picture in enumerate(pixels):
            query = clip.encode_images(picture[None])[0]
            near = sorted(range(8), key=lambda row: -float(torch.cosine_similarity(query, keys[row], dim=0)))[:2]
            choices.add(tuple(near))
            x = torch.cat([picture_tokens(clip, picture[None]), pool[near].flatten(0, 1)[None]], dim=1)
            x = vision.pre_layrnorm(x)
            for layer in vision.encoder.layers:
                x = run_layer(layer, x)
            torch.testing.assert_close(found[sample], pooled_picture(clip, x)[0], atol=2e-6, rtol=1e-5)
    assert len(choices) > 1  # the items really differ in what they take


def test_l2p_s_second_term_is_the_distance_to_the_chosen_keys(
    clip: DualEncoder, learn: Learn, ready: Ready, stream: TaskStream
) -> None:
    model = taught("l2p", clip, learn, stream, pool=8, chosen=2, length=2, match_weight=0.5)
    batch = ready(model, stream.tasks[1])
    expected = torch.zeros(())
    for tower, plain in zip(("vision", "text"), batch.frozen(), strict=True):
        cosines = torch.cosine_similarity(plain[:, None], shared(model, f"keys_{tower}")[None], dim=-1)
        expected = expected + (1 - cosines.sort(dim=1, descending=True).values[:, :2]).sum(1).mean()
    losses = model.loss(batch)
    torch.testing.assert_close(losses["match"], 0.5 * expected, atol=1e-6, rtol=1e-5)
    losses["match"].backward()
    for tower in ("vision", "text"):
        assert shared(model, f"pool_{tower}").grad is None  # the term moves keys alone
        assert shared(model, f"keys_{tower}").grad is not None


# DualPrompt: sections 4.1 to 4.3 -----------------------------------------------------------------------------------


def test_dualprompt_s_prefixes_are_general_below_and_the_task_s_own_above(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("dualprompt", clip, learn, stream, tasks=2, general_length=4, expert_length=4)
    assert model.depths() == (2, 1)  # of 3 text blocks
    with torch.no_grad():
        for task in range(2):
            own = model.experts[task].get_parameter("prompts_vision")
            both = torch.cat([shared(model, "prompts_vision"), own])
            expected = clip.encode_images(pixels, TowerPrompts(both, (0, 1, 2), "prefix"))
            found = model.image_features(pixels, task)
            torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=2e-6, rtol=1e-5)


def test_dualprompt_s_prompts_as_tokens_add_up_from_block_to_block(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("dualprompt", clip, learn, stream, form="prompt", general_length=3, expert_length=5)
    vision = clip.model.vision_model
    general, own = shared(model, "prompts_vision"), model.experts[0].get_parameter("prompts_vision")
    with torch.no_grad():
        x = picture_tokens(clip, pixels)
        for number, layer in enumerate(vision.encoder.layers):
            if number < 3:
                prompt = general[number] if number < 2 else own[number - 2]
                x = torch.cat([x, prompt.expand(len(x), -1, -1)], dim=1)
            x = run_layer(layer, vision.pre_layrnorm(x) if number == 0 else x)
        assert x.shape[1] == 17 + 3 + 3 + 5
        found = model.image_features(pixels, 0)
    torch.testing.assert_close(found, pooled_picture(clip, x), atol=2e-6, rtol=1e-5)


def test_dualprompt_sends_a_query_to_the_nearest_key_and_pulls_only_the_newest(
    clip: DualEncoder, learn: Learn, ready: Ready, stream: TaskStream
) -> None:
    model = taught("dualprompt", clip, learn, stream, tasks=2, general_length=2, expert_length=2, match_weight=0.3)
    assert isinstance(model, DualPrompt)
    batch = ready(model, stream.tasks[1])
    expected = torch.zeros(())
    for tower, plain in zip(("vision", "text"), batch.frozen(), strict=True):
        keys = [kept[f"key_{tower}"] for kept in model.router.kept]
        cosines = torch.stack([torch.cosine_similarity(plain, key[None], dim=1) for key in keys], dim=1)
        assert torch.equal(model.router(tower, plain).routes[:, 0], cosines.argmax(dim=1))
        expected = expected + (1 - cosines[:, 1]).mean()
    torch.testing.assert_close(model.loss(batch)["match"], 0.3 * expected, atol=1e-6, rtol=1e-5)


# CODA-Prompt: section 4 ---------------------------------------------------------------------------------------------


def test_coda_prompt_s_prompts_are_weighted_sums_of_components(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("coda_prompt", clip, learn, stream, tasks=2, components=3, length=4, depth=2)
    parts = {name: model.components(name, "vision").detach() for name in ("prompts", "attention", "keys")}
    assert parts["prompts"].shape == (2, 6, 4 * 32)
    with torch.no_grad():
        queries = F.normalize(clip.encode_images(pixels), dim=-1)
        states = torch.zeros(4, 2, 4, 32)
        for item in range(4):
            for layer in range(2):
                for m in range(6):
                    attended = queries[item] * parts["attention"][layer, m]
                    weight = torch.cosine_similarity(attended, parts["keys"][layer, m], dim=0)
                    states[item, layer] += weight * parts["prompts"][layer, m].reshape(4, 32)
        expected = clip.encode_images(pixels, TowerPrompts(states, (0, 1), "prefix"))
        found = model.image_features(pixels, 0)
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=2e-6, rtol=1e-5)


def test_orthogonality_by_hand() -> None:
    rows = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    # Gram minus identity: [[0, 1], [1, 0]], of length sqrt 2, and zero; the mean over two layers
    torch.testing.assert_close(orthogonality(rows), torch.tensor(math.sqrt(2) / 2))


def test_coda_prompt_s_new_components_are_at_right_angles_to_the_old_ones(clip: DualEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    earlier = torch.randn(5, 16, generator=generator)
    rows = orthonormal_rows(14, earlier, generator)  # three more than there is room for
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(14))
    torch.testing.assert_close(rows[:11] @ earlier.T, torch.zeros(11, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[:11] @ rows[:11].T, torch.eye(11), atol=1e-5, rtol=0)


def test_coda_prompt_trains_new_components_and_goes_on_using_the_old(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("coda_prompt", clip, learn, stream, components=3, length=4)
    assert isinstance(model, CODAPrompt)
    first = {name: value.clone() for name, value in model.experts[0].state_dict().items()}
    learn(model, stream.tasks[1:2], learning_rate=0.05)
    assert all(torch.equal(value, first[name]) for name, value in model.experts[0].state_dict().items())
    before = model.image_features(pixels, 0).detach()
    model.experts[0].get_parameter("prompts_vision").data.mul_(-1)
    assert not torch.allclose(model.image_features(pixels, 0), before, atol=1e-4)


# S-Prompts: sections 3.3 and 3.4 -----------------------------------------------------------------------------------


def test_s_prompts_enter_once_and_belong_to_one_task(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pixels: Tensor
) -> None:
    model = taught("s_prompts", clip, learn, stream, tasks=2, vision_length=3, text_length=5)
    vision = clip.model.vision_model
    for task in range(2):
        prompt = model.experts[task].held["vision"][0]
        with torch.no_grad():
            x = torch.cat([picture_tokens(clip, pixels), prompt.expand(len(pixels), -1, -1)], dim=1)
            x = vision.pre_layrnorm(x)
            for layer in vision.encoder.layers:
                x = run_layer(layer, x)
            found = model.image_features(pixels, task)
        torch.testing.assert_close(found, pooled_picture(clip, x), atol=2e-6, rtol=1e-5)
    assert sum(parameter.numel() for parameter in model.trainable()) == 3 * 32 + 5 * 24


def test_s_prompts_ask_the_nearest_centroid_in_l1(
    clip: DualEncoder, learn: Learn, ready: Ready, stream: TaskStream
) -> None:
    model = taught("s_prompts", clip, learn, stream, tasks=3, vision_length=2, text_length=2, clusters=3)
    plain = torch.cat([ready(model, task).frozen()[0] for task in stream.tasks])
    for query, found in zip(plain, model.router("vision", plain).routes[:, 0].tolist(), strict=True):
        distances = [
            min(float((query - centre).abs().sum()) for centre in keys.centroids)
            for keys in model.router.keys("vision")
        ]
        assert found == distances.index(min(distances))


def test_bert_s_prompts_are_tokens_without_positions(dual: DualEncoder, learn: Learn, stream: TaskStream) -> None:
    model = taught("s_prompts", dual, learn, stream, vision_length=2, text_length=3)
    texts: TextInputs = tokens(model, ["gold tip"])
    assert model.reserved_tokens() == 0
    with torch.no_grad():
        bert = dual.text.module
        x = torch.cat([bert.embeddings(input_ids=texts.ids), model.experts[0].held["text"]], dim=1)
        for layer in bert.encoder.layer:
            x = run_layer(layer, x)
        expected = F.normalize(dual.model.text_projection(torch.tanh(bert.pooler.dense(x[:, 0]))), dim=-1)
        torch.testing.assert_close(model.text_features(texts, 0), expected, atol=2e-6, rtol=1e-5)
