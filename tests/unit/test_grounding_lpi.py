"""LPI over detectors: the frozen start, what learns, what stays, what it costs, and how expressions are routed."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_grounding import DETECTORS, EXPRESSIONS, IMAGES, TRUTH
from torch import Tensor

from lpi.backbones.detectors import GroundingBackbone
from lpi.backbones.detectors.base import Detections
from lpi.errors import CheckpointError, ConfigError, LpiError, MissingExtraError, ShapeError, UnknownNameError
from lpi.methods import method as make_method
from lpi.methods import method_names
from lpi.methods.adapters import SharedLowRank
from lpi.methods.base import FALLBACK, Jointly, TaskData, begin, end
from lpi.methods.checkpoint import load_method
from lpi.methods.encoder import tokens
from lpi.methods.grounding import losses
from lpi.methods.grounding.base import GroundingBatch, GroundingMethod
from lpi.methods.grounding.losses import detection_losses
from lpi.methods.grounding.lpi import GroundingLPI, told
from lpi.prompts.interaction import Interaction, interaction_parameters
from lpi.prompts.low_rank import LowRankPrompts, low_rank_parameters
from lpi.storage import CHECKSUM, sealed

CHANGED = {"adapter_rank": 2, "adapter_shared": False, "adapter_targets": "all"}


def batch_of(backbone: GroundingBackbone) -> GroundingBatch:
    return GroundingBatch(backbone.inputs.pictures(IMAGES), backbone.inputs.tokenize(EXPRESSIONS), TRUTH)


def data_of(backbone: GroundingBackbone, name: str, shift: float = 0.0) -> TaskData:
    """A task of four expressions; ``shift`` moves its features, so that tasks can be told apart."""
    batch = batch_of(backbone)
    plain = backbone.frozen_features(batch.pictures, batch.texts)
    moved = SimpleNamespace(image_features=plain["vision"] + shift, text_features=plain["text"] + shift)
    return TaskData(name, moved, EXPRESSIONS, 2)


def learn(method: GroundingMethod, name: str, *, steps: int = 2, shift: float = 0.0) -> list[dict[str, Tensor]]:
    """A few steps on one task; returns the parts of the loss."""
    data, batch = data_of(method.backbone, name, shift), batch_of(method.backbone)
    begin(method, data, torch.Generator().manual_seed(len(method.tasks)))
    history = []
    optimiser = torch.optim.AdamW(method.trainable(), lr=0.05) if method.trainable() else None
    for _ in range(steps if optimiser else 0):
        assert optimiser is not None
        parts = method.loss(batch)
        optimiser.zero_grad()
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append({part: value.detach() for part, value in parts.items()})
    end(method, data, torch.Generator().manual_seed(1))
    return history


@torch.no_grad()
def boxes_of(method: GroundingMethod, route: int) -> tuple[Tensor, Tensor]:
    batch = batch_of(method.backbone)
    found = method.detect(batch.pictures, batch.texts, route)
    return found.boxes, found.scores


# ---- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(DETECTORS))
@pytest.mark.parametrize(
    "options",
    [{}, {"interaction": False}, {"norm": "none"}, {"decomposition": "free"}, {"sharing": "none"}, CHANGED],
    ids=str,
)
def test_it_starts_at_the_frozen_detector(
    family: str, options: dict[str, Any], detectors: dict[str, GroundingBackbone]
) -> None:
    backbone = detectors[family]
    method = make_method("lpi", backbone, length=8, **options)
    begin(method, data_of(backbone, "a"), torch.Generator().manual_seed(0))
    boxes, scores = boxes_of(method, 0)
    frozen, frozen_scores = boxes_of(method, FALLBACK)
    torch.testing.assert_close(boxes, frozen, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, frozen_scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", list(DETECTORS))
def test_the_papers_start_is_another(family: str, detectors: dict[str, GroundingBackbone]) -> None:
    backbone = detectors[family]
    method = make_method("lpi", backbone, preset="paper", length=8)
    learn(method, "a")
    boxes, scores = boxes_of(method, 0)
    assert (boxes - boxes_of(method, FALLBACK)[0]).abs().max() > 1e-3
    assert boxes.isfinite().all()
    assert scores.isfinite().all()


@pytest.mark.parametrize("injection", ["replace", "add", "shallow"])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_an_owl_takes_the_prompts_of_any_dual_encoder(
    injection: str, start: str, detectors: dict[str, GroundingBackbone]
) -> None:
    method = make_method("lpi", detectors["owlv2"], length=4, injection=injection, start=start)
    texts = tokens(method, EXPRESSIONS)
    assert texts.ids.shape[1] == (16 if start == "neutral" else 12)  # placeholders take their place in the context
    begin(method, data_of(method.backbone, "a"), torch.Generator().manual_seed(0))
    with torch.no_grad():
        boxes = method.detect(batch_of(method.backbone).pictures, texts, 0).boxes
    same = torch.allclose(boxes, boxes_of(method, FALLBACK)[0], rtol=0, atol=1e-5)
    assert same == (start == "neutral")


# ---- the interaction of states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["unit", "none"])
def test_states_tell_each_other_what_the_affine_maps_say(norm: Any) -> None:
    widths, drawn = {"vision": 6, "text": 5}, torch.Generator().manual_seed(0)
    interaction = Interaction(layers=3, widths=widths, rank=2, share=0.3, norm=norm, generator=drawn)
    states = {tower: torch.randn(2, 4, width, generator=drawn) for tower, width in widths.items()}
    changes = told(interaction, states, 2, neutral=False)
    for tower, other in (("vision", "text"), ("text", "vision")):
        cp: Any = interaction.maps[tower]
        whole = torch.einsum("k,ik,ok->io", cp.layer[2], cp.input, cp.output)  # [input + 1, output]
        mixed = 0.7 * states[tower] + 0.3 * (states[other] @ whole[:-1] + whole[-1])
        if norm == "unit":
            mixed = torch.nn.functional.layer_norm(mixed, (widths[tower],))
        torch.testing.assert_close(states[tower] + changes[tower], mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["matched", "none"])
def test_a_neutral_interaction_changes_nothing_and_learns(norm: Any) -> None:
    widths, drawn = {"vision": 6, "text": 5}, torch.Generator().manual_seed(0)
    interaction = Interaction(layers=3, widths=widths, rank=2, norm=norm, neutral=True, generator=drawn)
    states = {tower: torch.randn(2, 4, width, generator=drawn) for tower, width in widths.items()}
    changes = told(interaction, states, 1, neutral=True)
    assert all(not change.any() for change in changes.values())
    sum(change.sum() for change in changes.values()).backward()  # type: ignore[union-attr]
    assert any(weight.grad is not None and bool(weight.grad.any()) for weight in interaction.parameters())


# ---- what learns and what stays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(DETECTORS))
@pytest.mark.parametrize("options", [{}, CHANGED], ids=str)
def test_only_the_newest_tasks_prompts_learn(
    family: str, options: dict[str, Any], detectors: dict[str, GroundingBackbone]
) -> None:
    backbone = detectors[family]
    weights = {name: weight.clone() for name, weight in backbone.named_parameters()}
    method = make_method("lpi", backbone, length=8, **options)
    learn(method, "a")
    first, state = boxes_of(method, 0), {name: tensor.clone() for name, tensor in method.task_state(0).items()}
    history = learn(method, "b", steps=3, shift=0.5)
    assert set(history[0]) == {"alignment", "box", "overlap", "place", "layer", "task"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in method.task_state(0).items())
    assert all(torch.equal(new, old) for new, old in zip(boxes_of(method, 0), first, strict=True))
    assert not torch.equal(boxes_of(method, 1)[0], first[0])
    assert all(torch.equal(weight, weights[name]) for name, weight in backbone.named_parameters())
    assert all(weight.grad is None for weight in backbone.parameters())


@pytest.mark.parametrize("family", list(DETECTORS))
@pytest.mark.parametrize("options", [{}, CHANGED], ids=str)
def test_every_parameter_of_a_task_gets_a_gradient(
    family: str, options: dict[str, Any], detectors: dict[str, GroundingBackbone]
) -> None:
    method = make_method("lpi", detectors[family], length=8, **options)
    assert isinstance(method, GroundingLPI)
    learn(method, "a", steps=3)  # the first step moves what starts at zero, the next what lies behind it
    missing = {
        name for name, weight in method.experts[0].named_parameters() if weight.grad is None or not weight.grad.any()
    }
    assert not missing


@pytest.mark.parametrize(("steps", "published"), [(12, {"alignment_share": 1.0, "place_weight": 0.0}), (30, {})])
def test_learning_lowers_the_loss(
    detectors: dict[str, GroundingBackbone], steps: int, published: dict[str, Any]
) -> None:
    method = make_method("lpi", detectors["mm-grounding-dino"], length=8, layer_weight=0.0, **published)
    history = [float(sum(parts.values())) for parts in learn(method, "a", steps=steps)]
    assert min(history[-3:]) < 0.9 * history[0]


def test_weights_of_the_parts_are_obeyed(detectors: dict[str, GroundingBackbone]) -> None:
    backbone = detectors["owlvit"]
    full = learn(make_method("lpi", backbone, length=8), "a", steps=1)[0]
    half = make_method("lpi", backbone, length=8, detection_weight=0.4, layer_weight=0.0)
    parts = learn(half, "a", steps=1)[0]
    assert set(parts) == {"alignment", "box", "overlap", "place"}
    for name, value in parts.items():
        torch.testing.assert_close(value, full[name] / 2)


# ---- what a task costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(DETECTORS))
def test_a_task_costs_what_the_formula_says(family: str, detectors: dict[str, GroundingBackbone]) -> None:
    backbone = detectors[family]
    method = make_method("lpi", backbone, length=8, rank=3, interaction_rank=2)
    begin(method, data_of(backbone, "a"), torch.Generator().manual_seed(0))
    expected = low_rank_parameters(layers=3, length=8, widths=backbone.widths, rank=3)
    expected += interaction_parameters(layers=3, widths=backbone.widths, rank=2)
    assert sum(weight.numel() for weight in method.trainable()) == expected


def test_a_change_of_the_weights_costs_what_the_formula_says_and_is_made_in_the_prompted_blocks(
    detectors: dict[str, GroundingBackbone],
) -> None:
    backbone = detectors["owlvit"]
    plain, changed, shared = (
        make_method("lpi", backbone, length=8, depth=1, placement="last", **options)
        for options in ({}, {"adapter_rank": 2, "adapter_shared": False}, {"adapter_rank": 2})
    )
    costs = []
    for method in (plain, changed, shared):
        begin(method, data_of(backbone, "a"), torch.Generator().manual_seed(0))
        costs.append(sum(weight.numel() for weight in method.trainable()))
    changed_blocks = {tower: backbone.depths[tower] - plain.blocks[tower][0] for tower in ("vision", "text")}
    assert 1 in changed_blocks.values()
    maps, rank = 4, 2  # of a block's attention
    kinds = {tower: maps * rank * (width + width) for tower, width in backbone.widths.items()}
    assert costs[1] - costs[0] == sum(changed_blocks[tower] * cost for tower, cost in kinds.items())
    scales = maps * rank * sum(changed_blocks.values())
    assert costs[2] - costs[0] == sum(kinds.values()) + scales


def test_what_differs_in_shape_from_block_to_block_has_a_tensor_for_each_shape(
    detectors: dict[str, GroundingBackbone],
) -> None:
    method = make_method("lpi", detectors["grounding-dino"], length=8, adapter_rank=2)
    learn(method, "a")
    assert boxes_of(method, 0)[0].isfinite().all()
    change = method.expert(0).change
    assert isinstance(change, SharedLowRank)
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, layer in method.adapted.layers.items():
        down, up = change.factors(name)
        assert (up.shape[0], down.shape[1]) == layer.weight.shape
        shapes.setdefault(name.split("/", 2)[2], set()).add(tuple(layer.weight.shape))
    assert max(map(len, shapes.values())) > 1  # a Swin grows from stage to stage
    rows = sum(len(scale) for scale in change.scale.values())
    assert rows == len(method.adapted.layers)


def test_twelve_tasks_of_a_swin_t_and_a_bert_base_cost_148_512_parameters() -> None:
    widths, drawn = {"vision": 96, "text": 768}, torch.Generator().manual_seed(0)
    prompts = LowRankPrompts(layers=12, length=16, widths=widths, rank=4, generator=drawn)
    interaction = Interaction(layers=12, widths=widths, rank=4, generator=drawn)
    own = sum(weight.numel() for part in (prompts, interaction) for weight in part.parameters())
    formula = low_rank_parameters(layers=12, length=16, widths=widths, rank=4)
    formula += interaction_parameters(layers=12, widths=widths, rank=4)
    assert own == formula == 12_376
    assert 12 * own == 148_512 < 500_000


# ---- routing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["vision", "text", "both"])
def test_expressions_go_to_the_task_whose_features_they_are_near(
    by: str, detectors: dict[str, GroundingBackbone]
) -> None:
    method = make_method("lpi", detectors["grounding-dino"], length=8, route_by=by, metric="cosine", ood="nearest")
    learn(method, "a", steps=0)
    learn(method, "b", steps=0, shift=0.5)
    batch = batch_of(method.backbone)
    plain = method.routing_features(batch.pictures, EXPRESSIONS)
    assert method.routes(plain).tolist() == [0, 0, 0, 0]
    assert method.routes({tower: features + 0.5 for tower, features in plain.items()}).tolist() == [1, 1, 1, 1]
    half = {"vision": plain["vision"], "text": plain["text"] + 0.5}
    expected = {"vision": [0] * 4, "text": [1] * 4}.get(by)
    assert expected is None or method.routes(half).tolist() == expected


@pytest.mark.parametrize("by", ["vision", "text", "both"])
def test_what_is_far_from_every_task_falls_back_if_asked(by: str, detectors: dict[str, GroundingBackbone]) -> None:
    method = make_method("lpi", detectors["grounding-dino"], length=8, route_by=by, ood="fallback")
    batch = batch_of(method.backbone)
    plain = method.routing_features(batch.pictures, EXPRESSIONS)
    assert method.routes(plain).tolist() == [FALLBACK] * 4  # nothing learned yet
    learn(method, "a", steps=0)
    assert method.routes({tower: -features for tower, features in plain.items()}).tolist() == [FALLBACK] * 4


@pytest.mark.parametrize("foreign_to", ["either", "both"])
def test_what_picture_or_words_find_foreign_goes_to_the_frozen_detector(
    foreign_to: str, detectors: dict[str, GroundingBackbone]
) -> None:
    method = make_method("lpi", detectors["grounding-dino"], length=8, route_by="both", foreign_to=foreign_to)
    batch = batch_of(method.backbone)
    plain = method.routing_features(batch.pictures, EXPRESSIONS)
    learn(method, "a", steps=0)
    lost = FALLBACK if foreign_to == "either" else 0
    assert method.routes(plain).tolist() == [0] * 4
    assert method.routes({**plain, "vision": -plain["vision"]}).tolist() == [lost] * 4
    assert method.routes({**plain, "text": -plain["text"]}).tolist() == [lost] * 4
    assert method.routes({tower: -features for tower, features in plain.items()}).tolist() == [FALLBACK] * 4


def test_what_was_saved_before_tells_foreign_expressions_as_it_did(
    detectors: dict[str, GroundingBackbone], tmp_path: Path
) -> None:
    method = make_method(
        "lpi", detectors["owlvit"], length=8, route_by="both", foreign_to="both", routing={"reach": "average"}
    )
    learn(method, "a")
    method.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop(CHECKSUM)
    del config["options"]["foreign_to"], config["options"]["routing"]["reach"]
    (tmp_path / "config.json").write_text(json.dumps(sealed(config)))
    loaded = load_method(tmp_path, backbone=method.backbone)
    assert loaded.options == method.options


def test_each_row_is_searched_under_its_own_route(detectors: dict[str, GroundingBackbone]) -> None:
    method = make_method("lpi", detectors["owlvit"], length=8)
    learn(method, "a")
    learn(method, "b", shift=0.5)
    batch = batch_of(method.backbone)
    boxes, scores = method.search(batch.pictures, batch.texts, torch.tensor([1, FALLBACK, 0, 1]))
    for row, route in enumerate([1, FALLBACK, 0, 1]):
        torch.testing.assert_close(boxes[row], boxes_of(method, route)[0][row], rtol=0, atol=1e-5)
        torch.testing.assert_close(scores[row], boxes_of(method, route)[1][row], rtol=0, atol=1e-5)


def test_boxes_are_located_in_the_picture(detectors: dict[str, GroundingBackbone]) -> None:
    method = make_method("lpi", detectors["owlv2"], length=8, ood="nearest")
    learn(method, "a")
    answers = method.locate(IMAGES[0], ["the dog", "a cat"], count=3)
    assert [len(found) for found in answers] == [3, 3]
    for found in answers:
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            left, top, right, bottom = one.box
            assert 0 <= left <= right <= 90
            assert 0 <= top <= bottom <= 60
            assert one.task == "a"
    assert method.locate(IMAGES[0], []) == []
    assert method.locate(IMAGES[0], ["the dog", "a cat"], task="a", count=3) == answers
    with pytest.raises(UnknownNameError, match="No task is called 'b'"):
        method.locate(IMAGES[0], ["the dog"], task="b")


# ---- tasks go, methods are kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["grounding-dino", "owlvit"])
@pytest.mark.parametrize("options", [{}, CHANGED], ids=str)
def test_a_saved_method_finds_the_same(
    family: str, options: dict[str, Any], detectors: dict[str, GroundingBackbone], tmp_path: Path
) -> None:
    method = make_method("lpi", detectors[family], length=8, route_by="both", **options)
    learn(method, "a")
    learn(method, "b", shift=0.5)
    method.save_pretrained(tmp_path)
    loaded = load_method(tmp_path)
    assert isinstance(loaded, GroundingLPI)
    assert loaded.options == method.options
    assert loaded.tasks == ["a", "b"]
    for route in (0, 1):
        assert torch.equal(boxes_of(loaded, route)[0], boxes_of(method, route)[0])
    assert loaded.locate(IMAGES[1], ["the dog"]) == method.locate(IMAGES[1], ["the dog"])
    assert isinstance(GroundingLPI.from_pretrained(tmp_path, backbone=method.backbone), GroundingLPI)


def test_another_detectors_method_is_refused(detectors: dict[str, GroundingBackbone], tmp_path: Path) -> None:
    method = make_method("lpi", detectors["owlvit"], length=8)
    method.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"made for the backbone {method.backbone.identity}"):
        load_method(tmp_path, backbone=detectors["owlv2"])


def test_a_forgotten_task_leaves_the_others_as_they_are(detectors: dict[str, GroundingBackbone]) -> None:
    method = make_method("lpi", detectors["grounding-dino"], length=8)
    learn(method, "a")
    learn(method, "b", shift=0.5)
    second, earlier = boxes_of(method, 1), method.stage(0)
    assert earlier.tasks == ["a"]
    method.forget("a")
    assert method.tasks == ["b"]
    assert torch.equal(boxes_of(method, 0)[0], second[0])


# ---- what it is compared with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(DETECTORS))
def test_zero_shot_is_the_frozen_detector(family: str, detectors: dict[str, GroundingBackbone]) -> None:
    method = make_method("zero_shot", detectors[family])
    learn(method, "a")
    batch = batch_of(method.backbone)
    with torch.no_grad():
        boxes, scores = method.backbone(batch.pictures, batch.texts)
    assert torch.equal(boxes_of(method, 0)[0], boxes)
    assert torch.equal(boxes_of(method, 0)[1], scores)
    assert method.trainable() == []
    with pytest.raises(LpiError, match="nothing to learn"):
        method.loss(batch)


@pytest.mark.parametrize("family", ["mm-grounding-dino", "owlv2"])
def test_fine_tuning_changes_a_copy(family: str, detectors: dict[str, GroundingBackbone], tmp_path: Path) -> None:
    backbone = detectors[family]
    weights = {name: weight.clone() for name, weight in backbone.named_parameters()}
    method = make_method("finetune", backbone)
    learn(method, "a", steps=1)
    assert all(torch.equal(weight, weights[name]) for name, weight in backbone.named_parameters())
    assert not torch.equal(boxes_of(method, 0)[0], boxes_of(make_method("zero_shot", backbone), 0)[0])
    method.save_pretrained(tmp_path)
    loaded = load_method(tmp_path, backbone=backbone)
    assert torch.equal(boxes_of(loaded, 0)[0], boxes_of(method, 0)[0])


def test_joint_training_wants_all_tasks_at_once(detectors: dict[str, GroundingBackbone]) -> None:
    assert isinstance(make_method("joint", detectors["owlvit"]), Jointly)
    assert not isinstance(make_method("finetune", detectors["owlvit"]), Jointly)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("owlvit", {"memory": 5}, "method 'lpi' has no option 'memory'"),
        ("owlvit", {"distill_weight": 1.0}, "method 'lpi' has no option 'distill_weight'"),
        ("owlvit", {"soft_tasks": 2}, "soft_tasks must be 1 for a detector.*got 2"),
        ("owlvit", {"routing": "states"}, "view must be 'features' for a detector.*got 'states'"),
        ("owlvit", {"route_by": "words"}, "route_by must be one of vision, text, both; got 'words'"),
        ("owlvit", {"detection_weight": -1.0}, "detection_weight must be at least 0; got -1.0"),
        ("owlvit", {"rnak": 4}, "has no option 'rnak'. Did you mean 'rank'"),
        ("owlvit", {"rank": "four"}, "rank must be a whole number; got 'four'"),
        ("owlvit", {"depth": 4}, "depth must be between 1 and 3.*got 4"),
        ("grounding-dino", {"injection": "replace"}, "injection must be 'into'.*got 'replace'"),
        ("grounding-dino", {"start": "paper"}, "norm must be 'unit' or 'none'.*got 'matched'"),
        ("grounding-dino", {"length": 7}, "length must be a multiple of 2.*got 7"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(
    family: str, options: dict[str, Any], message: str, detectors: dict[str, GroundingBackbone]
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method("lpi", detectors[family], **options)


def test_methods_that_find_no_boxes_are_refused(detectors: dict[str, GroundingBackbone]) -> None:
    with pytest.raises(UnknownNameError, match=r"No method for expressions is called 'lpo'. Did you mean 'lpi'"):
        make_method("lpo", detectors["owlvit"])
    with pytest.raises(UnknownNameError, match=r"'lpi.methods.zero_shot' finds no boxes"):
        make_method("lpi.methods.zero_shot", detectors["owlvit"])
    assert all(make_method(name, detectors["owlvit"]) for name in method_names("grounding"))


def test_there_are_no_vectors_of_pictures_or_expressions_alone(detectors: dict[str, GroundingBackbone]) -> None:
    method = make_method("zero_shot", detectors["owlvit"])
    assert not hasattr(method, "encode_images")
    assert not hasattr(method, "encode_texts")


def test_losses_need_a_box_for_every_expression(
    detectors: dict[str, GroundingBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(detectors["owlvit"])
    found = detectors["owlvit"].detect(batch.pictures, batch.texts)
    with pytest.raises(ShapeError, match=r"truth must be \[batch=4, 4\]; got \[3, 4\]"):
        detection_losses(found, TRUTH[:3])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"-e '\.\[grounding\]'"):
        detection_losses(found, TRUTH)


# ---- the place loss --------------------------------------------------------------------------------------------------


def test_the_place_loss_lets_all_boxes_on_the_object_be_right_together() -> None:
    truth = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]])
    boxes = torch.tensor(
        [
            # IoU 1, 3/4, 1/4, 0
            [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.3], [0.5, 0.5, 0.4, 0.1], [0.9, 0.9, 0.1, 0.1]],
            # 0.4, 0.3, 0, 0: none is right, so the first is
            [[0.2, 0.2, 0.1, 0.04], [0.2, 0.2, 0.1, 0.03], [0.7, 0.7, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]],
        ]
    )
    logits = torch.tensor([[1.0, -0.5, 0.3, 2.0], [0.2, 0.4, -1.0, 0.0]])
    tokens = torch.stack([logits - 1, logits], dim=-1)  # the best token counts
    seen = torch.ones(2, 2, dtype=torch.bool)
    share = [
        (math.exp(1.0) + math.exp(-0.5)) / sum(map(math.exp, (1.0, -0.5, 0.3, 2.0))),
        math.exp(0.2) / sum(map(math.exp, (0.2, 0.4, -1.0, 0.0))),
    ]
    expected = -sum(map(math.log, share)) / 2
    found = Detections(boxes=boxes, logits=tokens.requires_grad_(), named=seen, seen=seen)
    loss = losses.place_loss(found, truth)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert (tokens.grad[0, :, 1] < 0).tolist() == [True, True, False, False]
    parts, published = detection_losses(found, truth, alignment=0.5, place=3.0), detection_losses(found, truth)
    assert float(parts["place"].detach()) == pytest.approx(3 * expected, rel=1e-6)
    assert float(parts["alignment"].detach()) == pytest.approx(0.5 * float(published["alignment"].detach()))
    assert set(published) == {"alignment", "box", "overlap"}


@pytest.mark.parametrize("preset", ["paper", "authors-release"])
def test_published_presets_learn_from_the_published_losses(
    detectors: dict[str, GroundingBackbone], preset: str
) -> None:
    options = make_method("lpi", next(iter(detectors.values())), preset=preset).options
    assert (options.losses.alignment_share, options.losses.place_weight) == (1.0, 0.0)


@pytest.mark.parametrize("family", list(DETECTORS))
def test_the_best_preset_changes_weights_and_asks_picture_and_words(
    detectors: dict[str, GroundingBackbone], family: str
) -> None:
    method = make_method("lpi", detectors[family], preset="best", length=8)
    assert (method.options.adapter.rank, method.options.route_by) == (4, "both")
    learn(method, "a")
    learned, frozen = boxes_of(method, 0)[0], boxes_of(method, FALLBACK)[0]
    assert (learned - frozen).abs().max() > 1e-4
    assert learned.isfinite().all()
