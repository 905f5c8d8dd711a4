"""Layers by their fast kernels equal the stock layers, forward and backward, and keep no more than they must."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.activations import QuickGELUActivation

from lpi.backbones import kernels
from lpi.backbones.attention import use_own_attention
from lpi.backbones.kernels import Linear, QuickMLP, attention, quick_gelu, use_fast_kernels

WIDTH = 256


@pytest.fixture
def towers() -> tuple[Any, Any]:
    """The stock tower and ours, of the same frozen weights, wide enough for the kernels."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    stock = CLIPVisionModel(config).eval().requires_grad_(False)
    for weight in stock.parameters():
        weight += 0.02 * torch.randn_like(weight)  # biases, too
    ours = deepcopy(stock)
    use_own_attention(ours)
    return stock, ours


def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def score(features: Tensor) -> Tensor:
    """Something to follow back: the norm at the end leaves the sum of squares as it is."""
    return (features.float() * torch.linspace(-1, 1, WIDTH)).sum()


def pooled(model: Any, images: Tensor) -> Tensor:
    found: Tensor = model(images).pooler_output
    return found


def test_adopted_layers_are_ours_and_narrow_ones_stay(towers: tuple[Any, Any]) -> None:
    kinds = {type(module) for module in towers[1].encoder.modules()}
    assert {Linear, QuickMLP} <= kinds
    assert nn.Linear not in kinds
    narrow = nn.Sequential(nn.Linear(WIDTH - 1, WIDTH), nn.LayerNorm(WIDTH - 1))
    use_fast_kernels(narrow)
    assert [type(module) for module in narrow] == [nn.Linear, nn.LayerNorm]


@pytest.mark.parametrize("learns", [False, True], ids=["frozen", "learning"])
def test_features_and_gradients_equal_the_stock_model(towers: tuple[Any, Any], learns: bool) -> None:
    found = []
    for model in towers:
        model.requires_grad_(learns)
        images = pixels().requires_grad_()
        features = pooled(model, images)
        score(features).backward()
        found.append([features, images.grad, *(weight.grad for weight in model.parameters() if learns)])
    for ours, stock in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_near_the_whole_one_and_prompts_get_their_gradient(towers: tuple[Any, Any]) -> None:
    whole, images = pooled(towers[0], pixels()), pixels().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = pooled(towers[1], images)
    score(half).backward()
    exact = pixels().requires_grad_()
    score(pooled(towers[0], exact)).backward()
    assert F.cosine_similarity(half.float(), whole).min() > 0.999
    assert images.grad is not None
    assert exact.grad is not None
    assert F.cosine_similarity(images.grad.flatten(), exact.grad.flatten(), dim=0) > 0.99


def test_a_changed_weight_is_converted_anew() -> None:
    layer = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    use_fast_kernels(nn.ModuleList([layer]))
    states = torch.randn(4, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = layer(states)
        layer.weight += 1
        after = layer(states)
        torch.testing.assert_close(after, F.linear(states, layer.weight, layer.bias))
    assert not torch.equal(before, after)


def test_hooks_of_a_fast_layer_run(towers: tuple[Any, Any]) -> None:
    for layer in ("q_proj", "out_proj", "fc1", "fc2"):
        model = deepcopy(towers[1])
        block = model.encoder.layers[0]
        module = getattr(block.self_attn if "proj" in layer else block.mlp, layer)
        module.register_forward_hook(lambda module, inputs, output: 1.5 * output)
        assert not torch.allclose(pooled(model, pixels()), pooled(towers[1], pixels()), atol=1e-4), layer


def test_frozen_layers_keep_nothing_and_an_activation_keeps_one_tensor() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    use_fast_kernels(nn.ModuleList([layer]))
    states = torch.randn(64, WIDTH, requires_grad=True)
    assert kept(lambda: layer(states), frozen=layer) == 0
    assert kept(lambda: quick_gelu(states)) == states.nbytes


def kept(compute: Any, frozen: nn.Module | None = None) -> int:
    """Bytes that are kept for backward, the weights of a module not counted."""
    own = {id(weight) for weight in (frozen.parameters() if frozen is not None else ())}
    pointers = {weight.data_ptr() for weight in (frozen.parameters() if frozen is not None else ())}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and tensor.data_ptr() not in pointers:
            sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(sizes.values())


def test_quick_gelu_is_the_stock_one() -> None:
    for gradient in (False, True):
        values = torch.linspace(-8, 8, 1001, requires_grad=gradient)
        torch.testing.assert_close(quick_gelu(values), QuickGELUActivation()(values))
    ours, stock = torch.linspace(-8, 8, 1001), torch.linspace(-8, 8, 1001)
    quick_gelu(ours.requires_grad_()).sum().backward()
    QuickGELUActivation()(stock.requires_grad_()).sum().backward()
    torch.testing.assert_close(ours.grad, stock.grad)


@pytest.mark.parametrize("masked", ["nothing", "later", "padding"])
def test_attention_equals_the_fused_one(masked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SCORES", 2 * 4 * 9 * 9)  # in parts of two
    torch.manual_seed(0)
    query, key, value = (torch.randn(5, 4, 9, 16, requires_grad=True) for _ in range(3))
    hidden = torch.finfo(torch.float32).min
    mask = None
    if masked == "later":
        mask = torch.full((1, 1, 9, 9), hidden).triu(1)
    elif masked == "padding":
        mask = torch.zeros(5, 1, 1, 9)
        mask[torch.arange(5), ..., -1 - torch.arange(5)] = hidden
    ours = attention(query, key, value, mask, 0.25)
    stock = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.25)
    torch.testing.assert_close(ours, stock)
    half = [part.detach().bfloat16() for part in (query, key, value)]
    torch.testing.assert_close(attention(*half, mask, 0.25).float(), stock, rtol=0.05, atol=0.05)
    weight = torch.randn_like(ours)
    for own, other in zip(
        torch.autograd.grad(ours, (query, key, value), weight),
        torch.autograd.grad(stock, (query, key, value), weight),
        strict=True,
    ):
        torch.testing.assert_close(own, other)
