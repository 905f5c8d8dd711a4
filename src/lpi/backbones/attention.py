"""Who attends to whom: additive masks, and attention in which prompt tokens are heard through a gate.

Prompt tokens stand behind the ordinary tokens in memory, whatever their place in the sequence: every index into the
ordinary tokens then stays valid, and the mask alone says what comes before what. A mask is always our own additive
float tensor, because that is the only kind which the library's eager and fused attention read the same way.

The gate needs an attention function of its own. It is registered with transformers under the name ``lpi`` (its
extension point, no patching) and does what ``sdpa`` does until a :class:`GatedMask` arrives in the mask's place. The
mask is the one argument that every family hands down to its attention function unread; keyword arguments are dropped
on the way by SigLIP.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lpi.backbones.kernels import attention, use_fast_kernels

NAME = "lpi"


@dataclass(frozen=True)
class GatedMask:
    """Stands in a mask's place where what is attended from prompt tokens is multiplied by a gate.

    Attributes:
        tokens: number of ordinary tokens; the prompt tokens stand behind them.
        gate: multiplies what ordinary tokens attend from prompt tokens, scalar.
        mask: additive mask over all tokens, [1 or batch, 1, 1 or all, all], or ``None`` where all see all.
        causal: the first token stands before the prompt tokens and does not see them.
    """

    tokens: int
    gate: Tensor
    mask: Tensor | None
    causal: bool


@dataclass(frozen=True)
class PrefixMask:
    """Stands in a mask's place where a block has learned keys and values beside those of its tokens.

    Attributes:
        states: keys, then as many values, [2 * prefix, width] or [batch, 2 * prefix, width], already as wide as what
            the block's own projections give. Every token sees all of them.
        mask: additive mask over the tokens, [1 or batch, 1, 1 or all, all], or ``None`` where all see all.
        gate: multiplies what is attended from the prefix, with a softmax of its own, scalar; ``None`` is one softmax
            over prefix and tokens.
    """

    states: Tensor
    mask: Tensor | None
    gate: Tensor | None


def additive_mask(
    like: Tensor, tokens: int, *, prompts: int = 0, causal: bool = False, real: Tensor | None = None
) -> Tensor | None:
    """What has to be added to attention scores so that each token sees what it may.

    Args:
        like: gives dtype and device.
        tokens: number of ordinary tokens.
        prompts: number of prompt tokens behind them. Under a causal mask they count as standing after the first
            token: they see it and one another from left to right, and all later tokens see them.
        causal: each token sees only those before it, and itself.
        real: [batch, tokens] bool, false where a token is padding that nobody may see; ``None`` where nothing is
            hidden. Not needed (and not used) under a causal mask with padding on the right, which no real token sees.

    Returns:
        [1, 1, tokens + prompts, tokens + prompts] when causal, [batch, 1, 1, tokens + prompts] when tokens are
        hidden, ``None`` when all see all.
    """
    hidden = torch.finfo(like.dtype).min
    if causal:
        total = tokens + prompts
        order = torch.arange(total, device=like.device)
        order[1:tokens] += prompts  # place of each token in the sequence
        order[tokens:] -= tokens - 1
        mask = torch.zeros(total, total, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(order[None, :] > order[:, None], hidden)[None, None]
    if real is None:
        return None
    mask = torch.zeros(len(real), tokens + prompts, dtype=like.dtype, device=like.device)
    mask[:, :tokens].masked_fill_(~real, hidden)
    return mask[:, None, None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: "Tensor | GatedMask | PrefixMask | None",
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as the library's ``sdpa``; with a :class:`GatedMask`, prompt tokens are heard through its gate.

    An ordinary token attends to the ordinary tokens as if there were no others, and to that adds gate times what it
    attends from the prompt tokens, with a softmax of their own. A prompt token attends to everything it may see.
    At gate 0 the ordinary tokens are exactly those of the frozen model, and the gate still gets a gradient.

    Args:
        module: the attention module that calls.
        query: [batch, heads, tokens, width of a head]; ``key`` and ``value`` alike.
        attention_mask: additive mask, gated mask, mask with a prefix, or ``None``.
        dropout: passed on.
        scaling: passed on.
        rest: passed on.

    Returns:
        [batch, tokens, heads, width of a head], and ``None`` for the attention weights.
    """
    if isinstance(attention_mask, PrefixMask):
        return attend_prefix(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest)
    if not isinstance(attention_mask, GatedMask):
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not dropout and scaling is not None:
            return attention(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return result
    tokens, mask = attention_mask.tokens, attention_mask.mask
    ordinary = prompt = mask
    if mask is not None:
        rows = mask.shape[-2] > 1  # or one row for all
        ordinary = mask[..., :tokens, :tokens]
        prompt = mask[..., tokens:, :] if rows else mask
    sizes = [tokens, query.shape[2] - tokens]
    queries, prompt_queries = query.split_with_sizes(sizes, dim=2)
    keys, prompt_keys = key.split_with_sizes(sizes, dim=2)
    values, prompt_values = value.split_with_sizes(sizes, dim=2)
    frozen = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=ordinary, dropout_p=dropout, scale=scaling
    )
    heard = functional.scaled_dot_product_attention(
        queries, prompt_keys, prompt_values, dropout_p=dropout, scale=scaling
    )
    gate = attention_mask.gate.to(heard.dtype)
    if attention_mask.causal:  # the first token comes before the prompts
        gate = gate * (torch.arange(tokens, device=heard.device) > 0).to(heard.dtype)[:, None]
    prompts = functional.scaled_dot_product_attention(
        prompt_queries, key, value, attn_mask=prompt, dropout_p=dropout, scale=scaling
    )
    mixed = torch.cat([torch.addcmul(frozen, heard, gate.expand_as(heard)), prompts], dim=2)
    return mixed.transpose(1, 2).contiguous(), None


def attend_prefix(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PrefixMask, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention with learned keys and values in front of the tokens' own, as prefix tuning has it (arXiv 2101.00190).

    Args:
        module: the attention module that calls.
        query: [batch, heads, tokens, width of a head]; ``key`` and ``value`` alike.
        mask: the prefix, and who sees whom.
        rest: ``dropout`` and ``scaling``, passed on.

    Returns:
        [batch, tokens, heads, width of a head], and ``None`` for the attention weights.
    """
    heads = query.shape[1]
    keys, values = (
        half.reshape(*half.shape[:-1], heads, -1).transpose(-2, -3).expand(len(query), -1, -1, -1)
        for half in mask.states.to(key.dtype).chunk(2, dim=-2)
    )  # [batch, heads, prefix, width of a head]
    if mask.gate is None:
        seen = None if mask.mask is None else functional.pad(mask.mask, (keys.shape[2], 0))
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, keys, values, seen, **rest)
        return result
    frozen, _ = sdpa_attention_forward(module, query, key, value, mask.mask, **rest)
    heard = functional.scaled_dot_product_attention(query, keys, values, scale=rest.get("scaling")).transpose(1, 2)
    return torch.addcmul(frozen, heard, mask.gate.to(heard.dtype).expand_as(heard)), None


def use_own_attention(model: Any) -> None:
    """Make a transformers model attend through :func:`attend`, which gates and prefixes need, by fast kernels."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    use_fast_kernels(model)
