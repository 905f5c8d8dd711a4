"""The cross-modal interaction against explicit maps, built in the test."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lpi.errors import ConfigError
from lpi.prompts.interaction import Interaction, LowRankMap, interaction_parameters

WIDTHS = {"vision": 7, "text": 5}
LAYERS, LENGTH, RANK = 3, 4, 2


def make(**options: Any) -> Interaction:
    sizes: dict[str, Any] = {"layers": LAYERS, "widths": WIDTHS, "rank": RANK}
    return Interaction(**{**sizes, **options}, generator=torch.Generator().manual_seed(0))


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts() -> dict[str, Tensor]:
    return {"vision": draw(LAYERS, LENGTH, 7), "text": 3 * draw(LAYERS, LENGTH, 5, seed=2)}


def explicit(low_rank: LowRankMap) -> Tensor:
    """W, [layers, input + 1, output], element by element."""
    layer, inputs, outputs = low_rank.layer.detach(), low_rank.input.detach(), low_rank.output.detach()
    weights = torch.zeros(len(layer), len(inputs), len(outputs))
    for level in range(len(layer)):
        for row in range(len(inputs)):
            for column in range(len(outputs)):
                for k in range(layer.shape[1]):
                    weights[level, row, column] += layer[level, k] * inputs[row, k] * outputs[column, k]
    return weights


def normalised(row: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    mean = row.mean()
    spread = ((row - mean) ** 2).mean()
    return (row - mean) / torch.sqrt(spread + 1e-5) * gain + bias


def slow_interaction(interaction: Interaction, old: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    new = {}
    for tower, other in (("vision", "text"), ("text", "vision")):
        weights = explicit(interaction.maps[tower])
        result = torch.zeros_like(old[tower])
        for layer in range(LAYERS):
            for place in range(LENGTH):
                said = old[other][layer, place] @ weights[layer, :-1] + weights[layer, -1]
                mixed = (1 - share) * old[tower][layer, place] + share * said
                if interaction.norms:
                    norm = interaction.norms[tower]
                    mixed = normalised(mixed, norm.weight.detach(), norm.bias.detach())
                result[layer, place] = mixed
        new[tower] = result
    return new


@pytest.mark.parametrize("norm", ["matched", "unit", "none"])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_prompts_mix_by_the_explicit_maps_from_the_old_values(norm: str, share: float) -> None:
    interaction, old = make(norm=norm, share=share), prompts()
    interaction.match(old)
    with torch.no_grad():
        for module in interaction.norms.values():  # so that a forgotten bias shows
            module.bias.add_(draw(len(module.bias)))
        fast = interaction({tower: states.clone() for tower, states in old.items()})
    slow = slow_interaction(interaction, old, share)
    for tower in WIDTHS:
        torch.testing.assert_close(fast[tower], slow[tower], rtol=1e-4, atol=1e-5)


def test_each_layer_has_a_map_of_its_own_and_one_can_be_asked_for() -> None:
    low_rank = LowRankMap(
        layers=3, inputs=5, outputs=7, rank=2, zero_output=False, generator=torch.Generator().manual_seed(0)
    )
    states = draw(3, 4, 5)
    with torch.no_grad():
        for layer in range(3):
            torch.testing.assert_close(low_rank(states)[layer], low_rank(states[layer], layer))
    assert not torch.allclose(low_rank(states[0], 0), low_rank(states[0], 1))


class Largest(TorchDispatchMode):
    """Notes the most numbers that any operation gives back."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_map_is_ever_built() -> None:
    wide = make(widths={"vision": 96, "text": 64})
    with Largest() as largest:
        wide({"vision": draw(LAYERS, LENGTH, 96), "text": draw(LAYERS, LENGTH, 64)})["vision"].sum().backward()
    assert largest.numbers <= LAYERS * LENGTH * 96 < 97 * 64


def test_matched_gains_start_at_the_rms_of_the_prompts() -> None:
    interaction, old = make(norm="matched"), prompts()
    interaction.match(old)
    for tower in WIDTHS:
        rms = math.sqrt(sum(float(x) ** 2 for x in old[tower].flatten()) / old[tower].numel())
        assert interaction.norms[tower].weight.tolist() == pytest.approx([rms] * WIDTHS[tower])


def test_unit_gains_stay_at_one() -> None:
    interaction = make(norm="unit")
    interaction.match(prompts())
    assert interaction.norms["text"].weight.tolist() == [1.0] * 5


def test_factors_start_kaiming_uniform() -> None:
    factor = make(widths={"vision": 2000, "text": 500}, rank=4).maps["vision"].output
    bound = math.sqrt(2 / (1 + 5)) * math.sqrt(3 / 4)  # gain for a = sqrt 5, fan-in 4
    assert factor.abs().max().item() <= bound
    assert factor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("norm", ["matched", "unit"])
def test_a_neutral_start_with_a_norm_gives_exactly_zero_whatever_comes_in(norm: str) -> None:
    interaction = make(norm=norm, neutral=True)
    interaction.match(prompts())
    assert all(states.count_nonzero() == 0 for states in interaction(prompts()).values())


def test_a_neutral_start_without_a_norm_passes_zero_prompts_on_as_zero() -> None:
    zero = {tower: torch.zeros_like(states) for tower, states in prompts().items()}
    assert all(states.count_nonzero() == 0 for states in make(norm="none", neutral=True)(zero).values())
    assert any(states.count_nonzero() for states in make(norm="none")(zero).values())


@pytest.mark.parametrize("norm", ["matched", "none"])
@pytest.mark.parametrize(("layers", "rank"), [(1, 1), (3, 2), (9, 4)])
def test_the_closed_formula_counts_the_parameters(norm: str, layers: int, rank: int) -> None:
    counted = sum(parameter.numel() for parameter in make(layers=layers, rank=rank, norm=norm).parameters())
    assert counted == interaction_parameters(layers=layers, widths=WIDTHS, rank=rank, norm=norm != "none")


def test_a_task_on_clip_vit_b_16_has_12880_numbers() -> None:
    big = make(layers=9, widths={"vision": 768, "text": 512}, rank=4)
    assert sum(parameter.numel() for parameter in big.parameters()) == 12_880


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("norm", "units", "norm must be one of matched, unit, none; got 'units'. Did you mean 'unit'?"),
        ("share", 1.5, "interaction_share must be between 0 and 1; got 1.5."),
        ("rank", 0, "interaction_rank must be at least 1; got 0."),
    ],
)
def test_wrong_options_are_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**{option: value})
    assert str(caught.value) == message
