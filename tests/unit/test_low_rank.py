"""Prompts as products of factors: the formula by loops, what is shared, how many numbers, how they start."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lpi.errors import ConfigError, check_choice
from lpi.prompts.low_rank import LowRankPrompts, Sharing, low_rank_parameters

WIDTHS = {"vision": 7, "text": 5}
SHARINGS = ("none", "layer")


def make(*, seed: int = 0, **options: Any) -> LowRankPrompts:
    sizes: dict[str, Any] = {"layers": 3, "length": 4, "widths": WIDTHS, "rank": 2}
    return LowRankPrompts(**{**sizes, **options}, generator=torch.Generator().manual_seed(seed))


def slow_prompts(layer: Tensor, position: Tensor, channel: Tensor) -> Tensor:
    rank = layer.shape[1]
    prompts = torch.zeros(len(layer), len(position), len(channel))
    for level in range(len(layer)):
        for place in range(len(position)):
            for number in range(len(channel)):
                for k in range(rank):
                    product = layer[level, k] * position[place, k] * channel[number, k]
                    prompts[level, place, number] += product / rank
    return prompts


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("tower", WIDTHS)
def test_prompts_are_the_mean_over_components_of_products_of_factors(sharing: str, tower: str) -> None:
    prompts = make(sharing=sharing)
    factors = dict(prompts.factors.items())

    def factor(kind: str) -> Tensor:
        return (factors.get(kind) if kind in factors else factors[f"{kind}_{tower}"]).detach()

    with torch.no_grad():
        fast = prompts(tower)
    torch.testing.assert_close(fast, slow_prompts(factor("layer"), factor("position"), factor("channel")))
    assert fast.shape == (3, 4, WIDTHS[tower])


@pytest.mark.parametrize(
    ("sharing", "names"),
    [
        ("none", {"layer_vision", "layer_text", "position_vision", "position_text"}),
        ("layer", {"layer", "position_vision", "position_text"}),
    ],
)
def test_sharing_says_which_factors_the_towers_have_in_common(sharing: str, names: set[str]) -> None:
    assert set(make(sharing=sharing).factors) == names | {"channel_vision", "channel_text"}


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operation gives back."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_the_tensor_with_a_component_axis_is_never_made() -> None:
    prompts = make(layers=9, length=16, widths={"vision": 96, "text": 64}, rank=4)
    with Largest() as largest:
        prompts("vision").sum().backward()
    assert largest.numbers == 9 * 16 * 96  # the prompts themselves, and not four times as many


def test_a_hand_worked_prompt() -> None:
    prompts = make(layers=1, length=1, widths={"vision": 1, "text": 1}, rank=2)
    with torch.no_grad():
        prompts.factors["layer"].copy_(torch.tensor([[2.0, 3.0]]))
        prompts.factors["position_vision"].copy_(torch.tensor([[5.0, 7.0]]))
        prompts.factors["channel_vision"].copy_(torch.tensor([[1.0, -1.0]]))
    assert prompts("vision").tolist() == [[[(2 * 5 * 1 - 3 * 7 * 1) / 2]]]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize(("layers", "length", "rank"), [(1, 1, 1), (3, 4, 2), (9, 16, 4)])
def test_the_closed_formula_counts_the_parameters(sharing: Any, layers: int, length: int, rank: int) -> None:
    prompts = make(layers=layers, length=length, rank=rank, sharing=sharing)
    counted = sum(parameter.numel() for parameter in prompts.parameters())
    formula = low_rank_parameters(layers=layers, length=length, widths=WIDTHS, rank=rank, sharing=sharing)
    assert counted == formula


def test_a_task_on_clip_vit_b_16_has_5284_numbers_instead_of_184320() -> None:
    shapes: dict[str, Any] = {"layers": 9, "length": 16, "widths": {"vision": 768, "text": 512}, "rank": 4}
    assert sum(parameter.numel() for parameter in make(**shapes).parameters()) == 5_284
    free = make(**shapes, decomposition="free")
    assert sum(parameter.numel() for parameter in free.parameters()) == 9 * 16 * (768 + 512) == 184_320


def test_factors_start_with_a_spread_of_a_half_and_prompts_of_a_sixteenth() -> None:
    shapes: dict[str, Any] = {"layers": 12, "length": 64, "widths": {"vision": 768, "text": 512}, "rank": 4}
    prompts = make(**shapes)
    assert prompts.factors["channel_vision"].std().item() == pytest.approx(0.5, rel=0.05)
    assert prompts("vision").std().item() == pytest.approx(0.0625, rel=0.25)
    assert make(**shapes, decomposition="free")("text").std().item() == pytest.approx(0.0625, rel=0.05)


@pytest.mark.parametrize("decomposition", ["cp", "free"])
def test_a_zero_start_gives_prompts_of_exactly_zero_that_can_be_learned(decomposition: str) -> None:
    prompts = make(zero_channels=True, decomposition=decomposition)
    assert all(prompts(tower).count_nonzero() == 0 for tower in WIDTHS)
    prompts("vision").sum().backward()
    moved = {name for name, factor in prompts.factors.items() if factor.grad is not None and factor.grad.any()}
    assert moved == {"channel_vision" if decomposition == "cp" else "free_vision"}


def test_the_same_seed_gives_the_same_prompts() -> None:
    assert torch.equal(make(seed=3)("text"), make(seed=3)("text"))
    assert not torch.equal(make(seed=3)("text"), make(seed=4)("text"))


@pytest.mark.parametrize("name", ["layers", "length", "rank"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1; got 0."):
        make(**{name: 0})


@pytest.mark.parametrize(("name", "value"), [("sharing", "layers"), ("decomposition", "cpp")])
def test_an_unknown_choice_is_refused_with_its_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be one of .*; got '{value}'. Did you mean '{value[:-1]}'"):
        make(**{name: value})


def test_a_choice_without_a_near_one_names_them_all() -> None:
    with pytest.raises(ConfigError, match=r"^sharing must be one of none, layer; got 7.$"):
        check_choice("sharing", 7, Sharing)
