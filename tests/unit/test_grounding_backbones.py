"""Grounding backbones: where prompts enter, what the towers are told, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_grounding import DETECTORS, EXPRESSIONS, pictures, tiny_dino, tiny_owl
from torch import Tensor, nn

from lpi.backbones.base import TowerPrompts
from lpi.backbones.detectors import GroundingBackbone, GroundingPrompts, load_grounding_backbone
from lpi.backbones.detectors.inputs import one_phrase, to_pixels, to_units
from lpi.backbones.detectors.parts import Given, with_parts
from lpi.backbones.detectors.swin_bert import MapState, SwinBertBackbone, SwinTower
from lpi.errors import BackboneError, ConfigError, DataError, MissingFileError, ShapeError
from lpi.methods import method as make_method

IMAGES = pictures(3)
LENGTH = 8


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> SwinBertBackbone:
    backbone = load_grounding_backbone(tiny_dino(tmp_path_factory.mktemp("dino")))
    assert isinstance(backbone, SwinBertBackbone)
    return backbone


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> GroundingBackbone:
    return load_grounding_backbone(tiny_owl(tmp_path_factory.mktemp("owl")))


def prompts(
    backbone: GroundingBackbone,
    *,
    scale: float = 0.5,
    injection: Any = "into",
    exchange: Any = None,
    length: int = LENGTH,
) -> GroundingPrompts:
    """Random prompts for every layer of the text tower, and the vision blocks that lie beside."""
    drawn = torch.Generator().manual_seed(3)
    blocks = {"vision": (0, 1, 2), "text": (0, 1, 2)}
    vision, text = (
        TowerPrompts(torch.randn(3, length, backbone.widths[tower], generator=drawn) * scale, blocks[tower], injection)
        for tower in ("vision", "text")
    )
    return GroundingPrompts(vision, text, exchange)


def entering(blocks: list[nn.Module]) -> tuple[list[Tensor], list[Any]]:
    """The states that enter some blocks, recorded as they pass."""
    passed: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: passed.append(inputs[0].detach())) for block in blocks]
    return passed, hooks


# ---- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dino", "owl"])
@torch.no_grad()
def test_prompts_change_what_is_found_and_leave_the_model_as_it_is(kind: str, request: pytest.FixtureRequest) -> None:
    backbone: GroundingBackbone = request.getfixturevalue(kind)
    seen, texts = backbone.inputs.pictures(IMAGES), backbone.inputs.tokenize(EXPRESSIONS[:3])
    before, _ = backbone(seen, texts)
    parts = dict(backbone.model.named_modules())
    prompted, scores = backbone(seen, texts, prompts(backbone))
    after, _ = backbone(seen, texts)
    assert (prompted - before).abs().max() > 1e-3
    assert torch.equal(before, after)
    assert dict(backbone.model.named_modules()) == parts
    assert ((scores >= 0) & (scores <= 1)).all()


@torch.no_grad()
def test_what_is_found_does_not_depend_on_how_long_the_other_expressions_are(dino: SwinBertBackbone) -> None:
    seen = dino.inputs.pictures([IMAGES[0]] * 2)
    exchange = _shared_exchange(dino)
    both, _ = dino(seen, dino.inputs.tokenize(["dog", EXPRESSIONS[2]]), prompts(dino, exchange=exchange))
    alone, _ = dino(seen.rows(torch.tensor([0])), dino.inputs.tokenize(["dog"]), prompts(dino, exchange=exchange))
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-5)


def _shared_exchange(backbone: GroundingBackbone) -> Any:
    drawn = torch.Generator().manual_seed(4)
    across = torch.randn(backbone.widths["text"], backbone.widths["vision"], generator=drawn) * 0.1

    def exchange(states: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
        return {"vision": states["text"] @ across, "text": states["vision"] @ across.T}

    return exchange


@pytest.mark.parametrize("injection", ["replace", "add", "shallow"])
@torch.no_grad()
def test_prompt_tokens_of_an_owl_are_no_boxes(owl: GroundingBackbone, injection: str) -> None:
    seen, texts = owl.inputs.pictures(IMAGES), owl.inputs.tokenize(EXPRESSIONS[:3])
    boxes, scores = owl(seen, texts, prompts(owl, injection=injection))
    assert boxes.shape == (3, 36, 4)
    assert scores.shape == (3, 36)


# ---- where prompts enter ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_both_towers_advance_together_and_tell_what_enters_their_blocks(dino: SwinBertBackbone) -> None:
    told: list[tuple[int, dict[str, Tensor]]] = []

    def exchange(states: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
        told.append((layer, states))
        return {tower: torch.zeros_like(states[tower]) for tower in states}

    blocks = list(dino.vision.layers)
    vision, hooks = entering(blocks)
    text, more = entering(list(dino.text.layers))
    entered = GroundingPrompts(
        TowerPrompts(prompts(dino).vision.states, (0, 1, 3), "into"), prompts(dino).text, exchange
    )
    dino(dino.inputs.pictures(IMAGES), dino.inputs.tokenize(EXPRESSIONS[:3]), entered)
    for hook in [*hooks, *more]:
        hook.remove()
    assert [layer for layer, _ in told] == [1, 2]  # not the first
    for (_, states), vision_block, text_block in zip(told, (1, 3), (1, 2), strict=True):
        assert torch.equal(states["text"], text[text_block][:, :LENGTH])
        grid, rows, columns = {1: ((7, 9), 2, 2), 3: ((4, 5), 1, 2)}[vision_block]  # of 54 x 72 pixels
        whole = vision[vision_block].reshape(3, *grid, -1)
        assert torch.equal(states["vision"], whole[:, :rows, :columns].reshape(3, LENGTH, 16))


@pytest.mark.parametrize(("blocks", "factor", "grid"), [(0, 1, (2, 4)), (1, 2, (2, 2)), (3, 4, (1, 2))])
@torch.no_grad()
def test_a_wider_stage_takes_the_same_numbers_as_fewer_tokens(
    dino: SwinBertBackbone, blocks: int, factor: int, grid: tuple[int, int]
) -> None:
    swin = dino.vision
    state = swin.advance(swin.begin(dino.inputs.pictures(IMAGES)), 0, blocks)
    assert isinstance(state, MapState)
    values = torch.arange(LENGTH * 16.0).reshape(LENGTH, 16)
    added = (swin.add(state, values).states - state.states).reshape(3, *state.grid, 16 * factor)
    rows, columns = grid
    expected = values.reshape(rows, columns, 16 * factor)
    torch.testing.assert_close(added[1, :rows, :columns], expected, rtol=0, atol=1e-4)
    added[:, :rows, :columns] = 0
    assert not added.any()
    read = swin.read(swin.add(state, values), LENGTH) - swin.read(state, LENGTH)
    torch.testing.assert_close(read[2], values, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_map_smaller_than_the_grid_takes_what_lies_in_it(dino: SwinBertBackbone) -> None:
    swin = dino.vision
    state = swin.begin(torch.zeros(1, 3, 4, 12))  # a map of 1 x 3
    assert isinstance(state, MapState)
    values = torch.arange(LENGTH * 16.0).reshape(LENGTH, 16)
    added = swin.add(state, values).states - state.states
    torch.testing.assert_close(added[0], values[:3], rtol=0, atol=1e-4)
    read = swin.read(state, LENGTH)
    assert torch.equal(read[0, :3], state.states[0])
    assert not read[0, 3:].any()


def test_a_swin_gives_the_same_maps_with_prompts_of_zero(dino: SwinBertBackbone) -> None:
    seen = dino.inputs.pictures(IMAGES)
    zero = prompts(dino, scale=0.0).vision
    assert torch.equal(dino.vision(seen), dino.vision(seen, zero))


# ---- features for routing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "widths"), [("dino", (64, 24)), ("owl", (24, 24))])
@torch.no_grad()
def test_plain_features_are_of_length_one(kind: str, widths: tuple[int, int], request: pytest.FixtureRequest) -> None:
    backbone: GroundingBackbone = request.getfixturevalue(kind)
    plain = backbone.frozen_features(backbone.inputs.pictures(IMAGES), backbone.inputs.tokenize(EXPRESSIONS[:3]))
    assert (plain["vision"].shape[1], plain["text"].shape[1]) == widths
    assert backbone.feature_width == widths[0]
    for features in plain.values():
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert set(backbone.frozen_features(None, backbone.inputs.tokenize(["dog"]))) == {"text"}


@torch.no_grad()
def test_an_expressions_features_do_not_depend_on_padding(dino: SwinBertBackbone) -> None:
    both = dino.frozen_features(None, dino.inputs.tokenize(["dog", EXPRESSIONS[2]]))["text"]
    alone = dino.frozen_features(None, dino.inputs.tokenize(["dog"]))["text"]
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-6)


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_an_expression_is_one_phrase() -> None:
    assert one_phrase(" the St. Bernard?  left of Mr. X. ") == "the St Bernard left of Mr X"


def test_the_words_that_are_meant_are_neither_delimiters_nor_padding(dino: SwinBertBackbone) -> None:
    found = dino.detect(dino.inputs.pictures(IMAGES[:2]), dino.inputs.tokenize(["Big. Cat", "dog"]))
    assert found.named[:, :6].tolist() == [
        [False, True, True, False, False, False],  # [CLS] big cat . [SEP]
        [False, True, False, False, False, False],
    ]
    assert found.seen.sum(dim=1).tolist() == [5, 4]
    assert found.named.shape[1] == found.logits.shape[2] == 64


@pytest.mark.parametrize("kind", ["dino", "owl"])
def test_an_expression_without_words_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    backbone: GroundingBackbone = request.getfixturevalue(kind)
    with pytest.raises(DataError, match=r"must have words; got ' \.\? '"):
        backbone.inputs.tokenize(["dog", " .? "])


def test_an_expression_longer_than_the_detector_reads_is_refused(dino: SwinBertBackbone) -> None:
    with pytest.raises(DataError, match="has 103 tokens; this detector reads at most 64"):
        dino.inputs.tokenize(["dog " * 100])


def test_an_owl_cuts_long_expressions_and_keeps_the_end(owl: GroundingBackbone) -> None:
    ids = owl.inputs.tokenize(["dog " * 100, "dog"]).ids
    assert ids.shape == (2, 16)
    assert ids.argmax(dim=1).tolist() == [15, 2]
    with pytest.raises(ConfigError, match="reserved must leave 3 tokens of the context of 16; got 14"):
        owl.inputs.tokenize(["dog"], reserved=14)


def test_boxes_go_to_pixels_and_back() -> None:
    frames = torch.tensor([[200.0, 100.0], [50.0, 50.0]])
    corners = torch.tensor([[20.0, 10.0, 120.0, 60.0], [0.0, 5.0, 50.0, 10.0]])
    units = to_units(corners, frames)
    torch.testing.assert_close(units[0], torch.tensor([0.35, 0.35, 0.5, 0.5]))
    torch.testing.assert_close(to_pixels(units[:, None], frames)[:, 0], corners)


def test_an_owlv2_measures_boxes_in_a_square(tmp_path: Path) -> None:
    second = load_grounding_backbone(tiny_owl(tmp_path, version=2))
    assert second.inputs.pictures(IMAGES[:1]).frames.tolist() == [[90.0, 90.0]]  # the picture has 90 x 60 pixels


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_prompts_that_need_tokens_of_their_own_do_not_fit_a_map(dino: SwinBertBackbone) -> None:
    with pytest.raises(ConfigError, match=r"injection must be 'into' for SwinTower.*got 'replace'"):
        dino(dino.inputs.pictures(IMAGES[:1]), dino.inputs.tokenize(["dog"]), prompts(dino, injection="replace"))


def test_a_length_that_the_widest_stage_cannot_share_is_refused(dino: SwinBertBackbone) -> None:
    odd = prompts(dino, length=7)
    with pytest.raises(ConfigError, match=r"length must be a multiple of 2.*got 7"):
        dino(dino.inputs.pictures(IMAGES[:1]), dino.inputs.tokenize(["dog"]), odd)


def test_prompts_of_another_width_are_refused(dino: SwinBertBackbone, owl: GroundingBackbone) -> None:
    with pytest.raises(ShapeError, match="width=16"):
        dino(dino.inputs.pictures(IMAGES[:1]), dino.inputs.tokenize(["dog"]), prompts(owl))


def test_blocks_beyond_the_tower_are_refused(dino: SwinBertBackbone) -> None:
    swin: SwinTower = dino.vision
    with pytest.raises(ShapeError, match="Blocks 0 to 9 don't exist; the tower has 4"):
        swin.advance(swin.begin(torch.zeros(1, 3, 16, 16)), 0, 9)


def test_an_owls_towers_do_not_exchange_their_states(owl: GroundingBackbone) -> None:
    with pytest.raises(ConfigError, match="can't be exchanged"):
        owl(owl.inputs.pictures(IMAGES[:1]), owl.inputs.tokenize(["dog"]), prompts(owl, exchange=_shared_exchange(owl)))


def test_there_is_no_temperature_to_ask_for(dino: SwinBertBackbone, owl: GroundingBackbone) -> None:
    with pytest.raises(BackboneError, match="has no temperature"):
        _ = dino.logit_scale
    assert owl.logit_scale.dim() == 0


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["grounding-dino", "owlv2"])
def test_a_detectors_identity_follows_its_weights_and_its_preprocessing(family: str, tmp_path: Path) -> None:
    folder = DETECTORS[family](tmp_path / "one")
    first = load_grounding_backbone(folder)
    assert load_grounding_backbone(folder).identity == first.identity
    assert load_grounding_backbone(folder, image_size=64).identity != first.identity
    assert load_grounding_backbone(folder, dtype=torch.bfloat16).identity == first.identity
    config = json.loads((folder / "config.json").read_text())
    part = config["backbone_config" if first.joint else "vision_config"]
    part["layer_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))
    assert load_grounding_backbone(folder).identity != first.identity
    assert not any(weight.requires_grad for weight in first.parameters())
    assert not first.training


def test_only_detectors_that_read_expressions_are_loaded(tmp_path: Path) -> None:
    folder = tiny_owl(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "owlvit2"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"type 'owlvit2' is no detector.*Did you mean 'owlvit'\?"):
        load_grounding_backbone(folder)
    with pytest.raises(MissingFileError, match="nowhere: there is no such model folder"):
        load_grounding_backbone(tmp_path / "nowhere")


def test_a_size_that_patches_do_not_fill_is_refused(owl: GroundingBackbone) -> None:
    with pytest.raises(ConfigError, match="multiple of the patch size 8; got 50"):
        load_grounding_backbone(owl.name, image_size=50)
    with pytest.raises(ConfigError, match="image_size must be at least 1; got 0"):
        load_grounding_backbone(owl.name, image_size=0)


def test_pictures_too_small_for_the_proposals_are_refused(dino: SwinBertBackbone) -> None:
    with pytest.raises(ConfigError, match=r"at least the 12 places.*8 gives 3"):
        load_grounding_backbone(dino.name, image_size=8)  # a 1 x 1 map in each of three levels
    small = load_grounding_backbone(dino.name, image_size=40)  # 5 x 5, 3 x 3 and 2 x 2
    boxes, _ = small(small.inputs.pictures([IMAGES[2]]), small.inputs.tokenize(["dog"]))
    assert boxes.shape == (1, 12, 4)


def test_other_towers_are_refused(tmp_path: Path) -> None:
    tower = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    folder = tiny_dino(tmp_path, backbone_config={**tower, "layer_type": "basic", "out_indices": [1, 2]})
    with pytest.raises(BackboneError, match="towers must be a swin and a bert; these are 'resnet' and 'bert'"):
        load_grounding_backbone(folder)


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_a_view_has_other_parts_and_the_same_weights() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), nn.Linear(2, 1))
    view = with_parts(model, {"0.0": Given(torch.ones(1, 3))})
    assert torch.equal(view(None), model[1](model[0][1](torch.ones(1, 3))))
    assert view[1] is model[1]
    assert isinstance(model[0][0], nn.Linear)
    assert SimpleNamespace(**dict(view.named_children())).__dict__.keys() == {"0", "1"}


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 1)])
def test_a_line_of_pixels_takes_no_room_to_speak_of_or_is_refused_in_one_line(
    size: tuple[int, int], tmp_path: Path
) -> None:
    line = Image.new("RGB", size)
    padded = load_grounding_backbone(tiny_owl(tmp_path / "owl", version=2)).inputs  # padded to a square of its length
    ready = padded.pictures([line])
    assert ready.pixels.shape == (1, 3, *padded.image_size)
    assert ready.frames.tolist() == [[max(size)] * 2]
    proportioned = load_grounding_backbone(tiny_dino(tmp_path / "dino")).inputs
    if size == (1, 1):
        assert len(proportioned.pictures([line])) == 1
    else:
        with pytest.raises(DataError, match=r"of \d+ x \d+ pixels is too long for this detector\. Cut it\."):
            proportioned.pictures([line])


def test_a_detector_takes_a_path_and_pixels_and_refuses_what_is_no_picture(tmp_path: Path) -> None:
    method = make_method("zero_shot", load_grounding_backbone(tiny_owl(tmp_path / "owl")))
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    expected = method.locate(Image.fromarray(noise), ["a dog"])
    assert method.locate(tmp_path / "noise.png", "a dog") == method.locate(noise, ["a dog"]) == expected
    for image, words in ((None, ["a dog"]), (noise / 255, ["a dog"]), (noise, [None]), (noise, 3)):
        with pytest.raises(ConfigError, match="must be"):
            method.locate(image, words)  # type: ignore[arg-type]
