"""The library's own layers, computed by the fastest kernels that torch brings for a processor.

``torch.mm`` asks MKL for float32, which on AMD leaves the wide vector units unused: oneDNN, which is in every build of
torch for x86, is twice as fast there and no slower elsewhere. It adds the bias and scales in the same pass. Activations
are put together from one-pass kernels, so that backward is one pass, too, and keeps their input only. A frozen layer
keeps nothing for backward. Layers that are narrower than ``WIDE`` stay as they are: they would gain nothing.

Modules change their class in place (:func:`use_fast_kernels`): weights, names and hooks stay.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.activations import QuickGELUActivation

WIDE = 256  # inputs and outputs of a layer from which on its kernel is worth choosing
STEEP = 1.702  # QuickGELU is x sigmoid(1.702 x)
SCORES = 1 << 21  # attention scores that are worked on at once: they stay in the cache

_casts: MutableMapping[Tensor, tuple[object, Tensor]] = WeakTensorKeyDictionary()


def use_fast_kernels(model: nn.Module) -> None:
    """Let a model's wide layers compute through this module; what they compute stays the same."""
    for module in model.modules():
        if type(module) is nn.Linear and min(module.weight.shape) >= WIDE:
            module.__class__ = Linear
        elif type(module) is nn.LayerNorm and module.elementwise_affine and module.weight.numel() >= WIDE:
            module.__class__ = LayerNorm
    for module in model.modules():
        parts = dict(module.named_children())
        if [(name, type(part)) for name, part in parts.items()] == _QUICK:
            module.__class__ = QuickMLP


def has_onednn() -> bool:
    """Whether oneDNN computes float32 with the widest vectors here."""
    wide: bool = torch.backends.cpu.get_cpu_capability() == "AVX512"
    present: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return wide and present and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_ONEDNN = has_onednn()


class Linear(nn.Linear):
    """``nn.Linear`` through oneDNN."""

    def forward(self, states: Tensor) -> Tensor:
        """See :class:`torch.nn.Linear`."""
        return linear(states, self.weight, self.bias) if _suits(states, self) else super().forward(states)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` whose frozen norm is rounded once under autocast, not by every layer that reads it."""

    def forward(self, states: Tensor) -> Tensor:
        """See :class:`torch.nn.LayerNorm`."""
        normed = super().forward(states)
        if states.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not self.weight.requires_grad:
            return normed.to(torch.get_autocast_dtype("cpu"))
        return normed


class QuickMLP(nn.Module):
    """Two linear layers with QuickGELU between: ``fc1``, ``activation_fn``, ``fc2``.

    QuickGELU(x) is SiLU(1.702 x) / 1.702, and both factors are free in the products before and after.
    """

    fc1: Linear
    fc2: Linear

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The states [..., width] to [..., width]."""
        if not all(_suits(hidden_states, layer) and _unhooked(layer) for layer in (self.fc1, self.fc2)):
            plain: Tensor = self.fc2(quick_gelu(self.fc1(hidden_states)))
            return plain
        first, last = self.fc1, self.fc2
        steep = linear(hidden_states, first.weight, None if first.bias is None else STEEP * first.bias, STEEP)
        return linear(F.silu(steep, inplace=not steep.requires_grad), last.weight, last.bias, 1 / STEEP)


_QUICK = [("activation_fn", QuickGELUActivation), ("fc1", Linear), ("fc2", Linear)]  # children of what becomes one


def quick_gelu(values: Tensor) -> Tensor:
    """QuickGELU, x sigmoid(1.702 x), elementwise, of any shape; only 1.702 x is kept for backward."""
    steep = values * STEEP
    if steep.requires_grad:
        return F.silu(steep) * (1 / STEEP)
    return F.silu(steep, inplace=True).mul_(1 / STEEP)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None, scale: float = 1.0) -> Tensor:
    """A layer's output, scale * states @ weight^T + bias, in the type of autocast where it is on.

    Args:
        states: [..., in], on a processor.
        weight: [out, in]; nothing is kept for it where it is frozen.
        bias: [out] or ``None``.
        scale: costs nothing.

    Returns:
        [..., out].
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        states, weight, bias = states.to(dtype), _cast(weight, dtype), None if bias is None else bias.to(dtype)
    product: Tensor = _Product.apply(states, weight, bias, scale)  # type: ignore[no-untyped-call]
    return product


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention in plain products, which half precision computes several times as fast as the fused kernel, backward.

    Args:
        query: [batch, heads, tokens, width of a head].
        key: [batch, heads, keys, width of a head]; ``value`` alike.
        mask: added to the scores, broadcast to [batch, heads, tokens, keys].
        scale: multiplies the scores.

    Returns:
        [batch, heads, tokens, width of a head].
    """
    if mask is not None:  # the lowest float32 is no finite number in half precision
        mask = mask.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
    each = max(1, SCORES // (query.shape[1] * query.shape[2] * key.shape[2]))
    parts = []
    for start in range(0, len(query), each):
        rows = slice(start, start + each)
        scores = torch.matmul(query[rows] * scale, key[rows].transpose(-1, -2))
        if mask is not None:
            scores = scores + (mask[rows] if mask.dim() == 4 and len(mask) > 1 else mask)
        parts.append(torch.matmul(scores.softmax(dim=-1), value[rows]))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _suits(states: Tensor, layer: nn.Linear) -> bool:
    """Whether oneDNN computes this layer of these states."""
    if not (_ONEDNN and states.device.type == "cpu" and states.numel()):
        return False
    if torch.is_autocast_enabled("cpu"):
        return not layer.weight.requires_grad  # trained weights are cast where their gradients can follow
    return states.dtype == layer.weight.dtype and states.dtype in (torch.float32, torch.bfloat16)


def _unhooked(layer: nn.Module) -> bool:
    return not (layer._forward_hooks or layer._forward_pre_hooks)


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A frozen weight in another type, kept until it changes: autocast would convert it anew in every step."""
    state = (weight._version, weight.data_ptr(), dtype)
    if weight not in _casts or _casts[weight][0] != state:
        _casts[weight] = state, weight.detach().to(dtype)
    cast: Tensor = _casts[weight][1]
    return cast


class _Product(torch.autograd.Function):
    """:func:`linear` of one type, which keeps the states only where the weight learns."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(states if ctx.needs_input_grad[1] else None, weight)
        return _product(states, weight, bias, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        states, weight = ctx.saved_tensors
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        below = _product(gradient, weight.T, None, ctx.scale) if wanted[0] else None
        learned = None
        if wanted[1]:
            learned = _product(rows.T, states.reshape(-1, states.shape[-1]).T, None, ctx.scale)
        return below, learned, rows.sum(0) if wanted[2] else None, None


def _product(left: Tensor, right: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """The product scale left @ right^T + bias, [..., rows of right]."""
    if scale == 1:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
        return found
    multiply: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.binary  # of the sum with the bias
    factor = torch.full((1, 1), scale, dtype=left.dtype)
    rows = multiply(left.reshape(-1, left.shape[-1]), factor, right, None if bias is None else bias / scale, "mul")
    return rows.view(*left.shape[:-1], -1)
