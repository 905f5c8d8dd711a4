"""L2P and MaPLe over detectors: their frozen start, what learns, what their prompts do, and where they don't fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_grounding import DETECTORS, EXPRESSIONS, IMAGES, TRUTH
from torch import Tensor

from lpi.backbones.detectors import GroundingBackbone
from lpi.errors import ConfigError
from lpi.methods import method as make_method
from lpi.methods.base import FALLBACK, TaskData, begin, end
from lpi.methods.checkpoint import load_method
from lpi.methods.encoder import tokens
from lpi.methods.grounding.base import GroundingBatch, GroundingMethod
from lpi.methods.grounding.l2p import GroundingL2P
from lpi.methods.grounding.losses import detection_losses

RIVALS = ("l2p", "maple")
NOTHING: Any = None  # neither rival looks at a task's features


@pytest.fixture(params=[name for name in DETECTORS if name.startswith("owl")])
def owl(request: pytest.FixtureRequest, detectors: dict[str, GroundingBackbone]) -> GroundingBackbone:
    return detectors[request.param]


def begun(name: str, backbone: GroundingBackbone, **options: Any) -> GroundingMethod:
    method = make_method(name, backbone, **options)
    begin(method, TaskData("a", NOTHING, EXPRESSIONS, 2), torch.Generator().manual_seed(0))
    return method


def batch_for(method: GroundingMethod) -> GroundingBatch:
    return GroundingBatch(method.backbone.inputs.pictures(IMAGES), tokens(method, EXPRESSIONS), TRUTH)


@torch.no_grad()
def boxes_of(method: GroundingMethod, route: int) -> Tensor:
    batch = batch_for(method)
    found = method.detect(batch.pictures, batch.texts, route)
    return torch.cat([found.boxes, found.scores[..., None]], dim=-1)


@pytest.mark.parametrize("name", RIVALS)
def test_behind_a_gate_it_starts_at_the_frozen_detector(name: str, owl: GroundingBackbone) -> None:
    method = begun(name, owl, start="neutral")
    torch.testing.assert_close(boxes_of(method, 0), boxes_of(method, FALLBACK), rtol=0, atol=1e-5)
    assert (boxes_of(begun(name, owl), 0) - boxes_of(method, FALLBACK)).abs().max() > 1e-3


@pytest.mark.parametrize("name", RIVALS)
def test_all_that_it_learns_gets_a_gradient_and_the_loss_falls(name: str, owl: GroundingBackbone) -> None:
    before = {key: weight.clone() for key, weight in owl.state_dict().items()}
    method = begun(name, owl)
    batch = batch_for(method)
    optimiser = torch.optim.AdamW(method.trainable(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = torch.stack(list(method.loss(batch).values())).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in method.trainable())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(weight, before[key]) for key, weight in owl.state_dict().items())


def test_the_pool_is_asked_by_frozen_features_and_the_loss_counts_how_far_the_keys_are(owl: GroundingBackbone) -> None:
    method = begun("l2p", owl, chosen=2, match_weight=0.25)
    assert isinstance(method, GroundingL2P)
    batch = batch_for(method)
    parts = method.loss(batch)
    plain = owl.frozen_features(batch.pictures, batch.texts)
    far = 0.0
    for tower in ("vision", "text"):
        keys = method.learned.get_parameter(f"keys_{tower}").detach()
        for query in plain[tower]:
            distances = sorted(1 - float(query @ key / key.norm()) for key in keys)
            far += sum(distances[:2]) / len(EXPRESSIONS)
    assert float(parts["match"].detach()) == pytest.approx(0.25 * far, rel=1e-4)
    own = detection_losses(method.detect(batch.pictures, batch.texts, 0), batch.boxes, **method.weights)
    assert {name: float(part.detach()) for name, part in own.items()} == {
        name: pytest.approx(float(parts[name].detach())) for name in own
    }


@pytest.mark.parametrize("name", RIVALS)
def test_it_comes_back_from_a_folder(name: str, owl: GroundingBackbone, tmp_path: Path) -> None:
    method = begun(name, owl)
    end(method, TaskData("a", NOTHING, EXPRESSIONS, 2), torch.Generator().manual_seed(0))
    method.save_pretrained(tmp_path / "saved")
    again = load_method(tmp_path / "saved", backbone=owl)
    assert again.tasks == ["a"]
    assert torch.equal(boxes_of(again, 0), boxes_of(method, 0))
    found = again.locate(IMAGES[0], EXPRESSIONS[:2], count=1)
    assert [len(boxes) for boxes in found] == [1, 1]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("family", [name for name in DETECTORS if not name.startswith("owl")])
def test_towers_that_advance_together_have_no_room_for_tokens(
    name: str, family: str, detectors: dict[str, GroundingBackbone]
) -> None:
    with pytest.raises(ConfigError, match="towers run on their own"):
        make_method(name, detectors[family])
