"""LPI as a whole: where prompts enter, where learning starts, what learns, what stays, and what it refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpi.backbones import DualEncoder
from lpi.config import EvaluationSettings
from lpi.errors import ConfigError, UnknownNameError
from lpi.evaluation.recall import Evaluator
from lpi.features import TrainingSet
from lpi.losses import distillation_loss, item_loss, layer_loss, task_loss
from lpi.methods import method
from lpi.methods.adapters import private_copy, target_layers
from lpi.methods.base import FALLBACK, TrainingBatch, begin
from lpi.methods.encoder import routing_features
from lpi.methods.low_rank import TaskPrompts, paired_blocks
from lpi.methods.lpi import LPI
from lpi.methods.options import options_of, path_of
from lpi.options import changed, leaves, value_at
from lpi.prompts.interaction import Interaction, interaction_parameters
from lpi.prompts.low_rank import LowRankPrompts, low_rank_parameters
from lpi.prompts.task_keys import task_distances
from lpi.tasks.stream import TaskStream

Learn = Callable[..., Any]
TOWERS = ("vision", "text")
INJECTIONS = ("replace", "add", "shallow", "into")


@pytest.fixture
def build(clip: DualEncoder, small: dict[str, Any]) -> Callable[..., LPI]:
    def make(backbone: DualEncoder | None = None, **options: Any) -> LPI:
        made = method("lpi", clip if backbone is None else backbone, **{**small, **options})
        assert isinstance(made, LPI)
        return made

    return make


@pytest.fixture(scope="module")
def learned(clip: DualEncoder, small: dict[str, Any], learn: Learn, stream: TaskStream) -> LPI:
    """LPI after three tasks; tests leave it as it is."""
    made: LPI = learn(method("lpi", clip, **small), stream.tasks)
    return made


def encode(model: Any, pictures: Tensor, captions: list[str], task: str | None = None) -> dict[str, Tensor]:
    return {
        "vision": model.encode_images(pictures, task=task),
        "text": model.encode_texts(captions, task=task),
    }


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[tower], second[tower]) for tower in first)


# Where prompts enter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vision", "text", "depth", "placement", "expected"),
    [
        (12, 12, 9, "first", {"vision": tuple(range(9)), "text": tuple(range(9))}),
        (12, 12, 3, "last", {"vision": (9, 10, 11), "text": (9, 10, 11)}),
        (12, 6, 6, "first", {"vision": (0, 2, 4, 6, 8, 10), "text": (0, 1, 2, 3, 4, 5)}),
        (12, 6, 2, "last", {"vision": (8, 10), "text": (4, 5)}),
        (4, 3, 3, "first", {"vision": (0, 1, 2), "text": (0, 1, 2)}),
        (5, 3, 3, "first", {"vision": (0, 1, 3), "text": (0, 1, 2)}),
        (6, 24, 2, "first", {"vision": (0, 1), "text": (0, 4)}),
    ],
)
def test_layer_l_enters_block_l_of_the_shallower_tower_and_its_proportional_one_of_the_deeper(
    vision: int, text: int, depth: int, placement: Any, expected: dict[str, tuple[int, ...]]
) -> None:
    assert paired_blocks({"vision": vision, "text": text}, depth, placement) == expected


def test_what_a_task_encodes_is_the_backbone_with_its_prompts(
    learned: LPI, clip: DualEncoder, pictures: Tensor, captions: list[str]
) -> None:
    expert = learned.expert(1)
    with torch.no_grad():
        prompts = {tower: expert.prompts(tower) for tower in TOWERS}
        mixed = expert.interaction(prompts)
        pixels, texts = clip.inputs.normalise(pictures), clip.inputs.tokenize(captions)
        for tower, inputs in (("vision", pixels), ("text", texts)):
            part = getattr(clip, tower)
            state = part.begin(inputs)
            for block in range(part.depth):
                if block < 3:  # "into": added to the states of the first four tokens
                    states = state.states.clone()
                    states[:, :4] += mixed[tower][block]
                    state = type(state)(**{**vars(state), "states": states})
                state = part.advance(state, block, block + 1)
            expected = F.normalize(part.finish(state), dim=-1)
            given = encode(learned, pictures, captions, task="cold")[tower]
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("injection", ["replace", "add", "shallow"])
def test_the_paper_start_takes_room_for_placeholders_in_a_clip_context(
    injection: str, build: Callable[..., LPI], dual: DualEncoder
) -> None:
    assert build(injection=injection, start="paper").reserved_tokens() == 4
    assert build(injection=injection, start="neutral").reserved_tokens() == 0
    assert build(injection=injection, start="paper", depth=1, placement="last").reserved_tokens() == 0
    assert build(dual, injection=injection, start="paper").reserved_tokens() == 0
    assert build(start="paper").reserved_tokens() == 0


# Where learning starts ------------------------------------------------------------------------------------------------

STARTS = [
    {"injection": injection, "interaction": interaction, "norm": norm}
    for injection in INJECTIONS
    for interaction, norm in ((True, "matched"), (True, "unit"), (True, "none"), (False, "matched"))
]


@pytest.mark.parametrize("family", ["clip", "dinov2-bert", "vit-roberta", "siglip", "siglip2"])
@pytest.mark.parametrize("options", STARTS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_neutral_start_is_the_frozen_model_and_a_papers_is_not(
    family: str,
    options: dict[str, Any],
    families: Callable[[str], DualEncoder],
    build: Callable[..., LPI],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    backbone = families(family)
    frozen = encode(method("zero_shot", backbone), pictures[:4], captions[:4])
    for start in ("neutral", "paper"):
        model = learn(build(backbone, start=start, **options), stream.tasks[:1], epochs=0, steps=None)
        first = encode(model, pictures[:4], captions[:4], task="warm")
        for tower in TOWERS:
            distance = float((first[tower] - frozen[tower]).abs().max())
            assert (distance <= 1e-6) == (start == "neutral"), (start, tower, distance)


# What learns ----------------------------------------------------------------------------------------------------------


def task_numbers(expert: TaskPrompts) -> int:
    return sum(parameter.numel() for parameter in expert.parameters())


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("start", ["neutral", "paper"])
@pytest.mark.parametrize("norm", ["matched", "none"])
def test_gradients_reach_every_parameter_of_the_current_task_and_nothing_else(
    injection: str,
    start: str,
    norm: str,
    clip: DualEncoder,
    build: Callable[..., LPI],
    learn: Learn,
    stream: TaskStream,
    ready: Callable[..., TrainingBatch],
) -> None:
    model = learn(build(injection=injection, start=start, norm=norm), stream.tasks[:1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: set[str] = set()
    learn_first_steps(model, stream, ready, seen)
    current = {name for name, _ in model.expert(1).named_parameters()}
    assert seen == current
    for name, value in model.backbone.named_parameters():
        assert value.grad is None, name
        assert torch.equal(value, before[f"backbone.{name}"]), name
    for name, value in model.expert(0).named_parameters():
        assert value.grad is None, name
        assert torch.equal(value, before[f"experts.0.{name}"]), name


def learn_first_steps(
    model: LPI, stream: TaskStream, ready: Callable[..., TrainingBatch], seen: set[str], steps: int = 3
) -> None:
    begin(model, TrainingSet(stream.tasks[1], model.backbone).data(), torch.Generator().manual_seed(1))
    assert sum(p.numel() for p in model.trainable()) == task_numbers(model.expert(1))
    optimiser = torch.optim.SGD(model.trainable(), lr=0.1)
    batch = ready(model, stream.tasks[1])
    for _ in range(steps):  # a neutral start opens the way for some of them only at its first step
        optimiser.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        for name, parameter in model.expert(1).named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                seen.add(name)
        optimiser.step()


def test_the_loss_is_the_weighted_sum_of_the_levels(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, ready: Callable[..., TrainingBatch]
) -> None:
    weights = {"layer_weight": 0.3, "task_weight": 0.7, "distill_weight": 1.5}
    model = learn(build(start="paper", **weights), stream.tasks[:2])
    batch = ready(model, stream.tasks[1], captions=2)
    with torch.no_grad():
        parts = model.loss(batch)
        raw = [{tower: model.expert(index).prompts(tower) for tower in TOWERS} for index in range(2)]
        images, texts = model.image_features(batch.images, 1), model.text_features(batch.texts, 1)
        scale = model.backbone.logit_scale.exp()
        teacher = batch.frozen()
        expected = {
            "item": item_loss(images, texts, batch.positives, logit_scale=scale),
            "layer": 0.3 * layer_loss(raw[1]["vision"], raw[1]["text"]),
            "task": 0.7
            * sum(task_loss(torch.stack([r[tower].flatten() for r in raw]), model.near()) for tower in TOWERS)
            / 2,
            "distill": 1.5 * distillation_loss(scale * images @ texts.T, scale * teacher[0] @ teacher[1].T),
        }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_levels_without_weight_and_a_first_tasks_task_level_are_left_out(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, ready: Callable[..., TrainingBatch]
) -> None:
    first = learn(build(), stream.tasks[:1])
    assert first.loss(ready(first, stream.tasks[0])).keys() == {"item", "layer"}
    bare = learn(build(layer_weight=0.0, task_weight=0.0), stream.tasks[:2])
    assert bare.loss(ready(bare, stream.tasks[1])).keys() == {"item"}


def test_without_multi_positive_only_a_pictures_own_caption_is_right(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, ready: Callable[..., TrainingBatch]
) -> None:
    model = learn(build(multi_positive=False), stream.tasks[:1])
    batch = ready(model, stream.tasks[0], size=16)
    own = torch.zeros_like(batch.positives)
    own[batch.owner, torch.arange(len(batch.owner))] = True
    assert own.sum() < batch.positives.sum()  # some captions are equal
    with torch.no_grad():
        images, texts = model.image_features(batch.images, 0), model.text_features(batch.texts, 0)
        expected = item_loss(images, texts, own, logit_scale=model.backbone.logit_scale.exp())
        torch.testing.assert_close(model.loss(batch)["item"], expected)


# How many numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interaction", [True, False])
@pytest.mark.parametrize("norm", ["matched", "none"])
@pytest.mark.parametrize("adapter", [0, 3])
@pytest.mark.parametrize(("injection", "start"), [("into", "neutral"), ("replace", "neutral"), ("replace", "paper")])
def test_a_tasks_parameters_are_those_of_the_closed_formulas(
    interaction: bool, norm: Any, adapter: int, injection: str, start: str, build: Callable[..., LPI], clip: DualEncoder
) -> None:
    model = build(interaction=interaction, norm=norm, adapter_rank=adapter, injection=injection, start=start)
    expected = low_rank_parameters(layers=3, length=4, widths=clip.widths, rank=2)
    if interaction:
        expected += interaction_parameters(layers=3, widths=clip.widths, rank=2, norm=norm != "none")
    for tower in TOWERS:  # four maps of the attention: a scale a block, and one pair of factors for all blocks
        blocks = clip.depths[tower] - model.blocks[tower][0]
        expected += 4 * adapter * (blocks + 2 * clip.widths[tower])
    if injection != "into" and start == "neutral":
        expected += 2 * 3  # a gate a layer and tower
    assert task_numbers(model.new_expert(torch.Generator())) == expected


@pytest.mark.parametrize(("interaction", "expected"), [(False, 63_408), (True, 217_968)])
def test_twelve_tasks_on_clip_vit_b_16_stay_below_half_a_million(interaction: bool, expected: int) -> None:
    widths = {"vision": 768, "text": 512}
    generator = torch.Generator().manual_seed(0)
    tasks = nn.ModuleList()
    for _ in range(12):
        prompts = LowRankPrompts(layers=9, length=16, widths=widths, rank=4, generator=generator)
        mixing = Interaction(layers=9, widths=widths, rank=4, generator=generator) if interaction else None
        tasks.append(TaskPrompts(prompts, mixing, gated=False, features=512))
    assert sum(parameter.numel() for parameter in tasks.parameters()) == expected < 500_000


# What stays -----------------------------------------------------------------------------------------------------------


def test_learning_a_task_leaves_earlier_ones_bit_identical(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = build()
    before: dict[str, dict[str, Tensor]] = {}
    for task in stream.tasks:
        learn(model, [task])
        for name, features in before.items():
            assert equal(features, encode(model, pictures, captions, task=name)), (task.name, name)
        before[task.name] = encode(model, pictures, captions, task=task.name)
    assert not equal(before["warm"], before["cold"])


@pytest.mark.parametrize("gone", ["warm", "cold", "dull"])
def test_forgetting_a_task_leaves_the_others_bit_identical(
    gone: str, build: Callable[..., LPI], learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model = learn(build(), stream.tasks)
    left = [task.name for task in stream.tasks if task.name != gone]
    before = {name: encode(model, pictures, captions, task=name) for name in left}
    model.forget(gone)
    assert model.tasks == left
    for name in left:
        assert equal(before[name], encode(model, pictures, captions, task=name))
    with pytest.raises(UnknownNameError, match=f"'{gone}'"):
        model.encode_texts(captions, task=gone)
    assert set(model.router("text", torch.randn(9, model.backbone.feature_width)).routes[:, 0].tolist()) <= {0, 1}


def test_a_task_that_was_forgotten_is_learned_again_and_one_that_was_not_is_refused(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream
) -> None:
    model = learn(build(), stream.tasks[:2])
    with pytest.raises(ConfigError, match="'warm' was learned already"):
        learn(model, stream.tasks[:1])
    model.forget("warm")
    learn(model, stream.tasks[:1])
    assert model.tasks == ["cold", "warm"]


def test_with_every_task_forgotten_it_is_the_frozen_model(
    build: Callable[..., LPI],
    learn: Learn,
    clip: DualEncoder,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    model = learn(build(), stream.tasks[:1])
    model.forget("warm")
    assert equal(encode(model, pictures, captions), encode(method("zero_shot", clip), pictures, captions))


def test_an_earlier_stage_is_the_model_as_it_was(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    model, as_it_was = build(), []
    for task in stream.tasks:
        learn(model, [task])
        as_it_was.append(encode(model, pictures, captions))
    for k, features in enumerate(as_it_was):
        earlier = model.stage(k)
        assert earlier.tasks == [task.name for task in stream.tasks[: k + 1]]
        assert equal(features, encode(earlier, pictures, captions))
    assert len(model.tasks) == len(model.experts) == 3
    with pytest.raises(ConfigError, match="between 0 and 2; got 3"):
        model.stage(3)


# Routing --------------------------------------------------------------------------------------------------------------


def test_each_query_is_encoded_under_the_route_of_its_plain_feature(
    learned: LPI, clip: DualEncoder, pictures: Tensor, captions: list[str]
) -> None:
    plain = encode(method("zero_shot", clip), pictures, captions)
    found = encode(learned, pictures, captions)
    for tower in TOWERS:
        routes = learned.router(tower, plain[tower]).routes[:, 0]
        distances = learned.router(tower, plain[tower]).distances
        assert torch.equal(routes, distances.argmin(dim=1))
        for row, index in enumerate(routes.tolist()):
            one = encode(learned, pictures[row : row + 1], captions[row : row + 1], task=learned.tasks[index])[tower][0]
            torch.testing.assert_close(found[tower][row], one, rtol=1e-5, atol=1e-6)
        posteriors = learned.router.posteriors(tower, distances)
        torch.testing.assert_close(posteriors.sum(1), torch.ones(len(routes)))
        assert torch.equal(posteriors.argmax(dim=1), routes)


def test_with_a_key_for_each_picture_training_data_is_routed_to_its_own_task(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream
) -> None:
    model = learn(build(clusters=16), stream.tasks, steps=1)
    for index, task in enumerate(stream.tasks):
        plain = method("zero_shot", model.backbone).encode_images([record.picture.open() for record in task.train])
        assert model.router("vision", plain).routes[:, 0].tolist() == [index] * len(task.train)


def test_what_is_far_from_every_task_falls_back_to_the_frozen_model(
    build: Callable[..., LPI],
    learn: Learn,
    clip: DualEncoder,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    model = learn(build(ood="fallback", ood_quantile=0.01, start="paper", injection="replace"), stream.tasks)
    plain = encode(method("zero_shot", clip), pictures, captions)
    found = encode(model, pictures, captions)
    for tower in TOWERS:
        fallen = model.router(tower, plain[tower]).routes[:, 0] == FALLBACK
        assert fallen.any()
        torch.testing.assert_close(found[tower][fallen], plain[tower][fallen], rtol=1e-5, atol=1e-6)
    everything = learn(build(ood="nearest", ood_quantile=0.01), stream.tasks)
    assert (everything.router("vision", plain["vision"]).routes[:, 0] >= 0).all()


def test_a_long_caption_is_routed_by_all_of_its_words(
    build: Callable[..., LPI], learn: Learn, clip: DualEncoder, stream: TaskStream
) -> None:
    model = learn(build(start="paper", injection="replace", length=16), stream.tasks)
    caption = "red dot on box tip"  # 16 tokens, of which placeholders leave 8
    asked: list[Tensor] = []
    model.router.register_forward_pre_hook(lambda router, inputs: asked.append(inputs[1]))
    model.encode_texts([caption])
    torch.testing.assert_close(asked[0], method("zero_shot", clip).encode_texts([caption]))


def test_the_authors_route_captions_behind_placeholder_words(build: Callable[..., LPI]) -> None:
    assert build(routing_words="placeholders").router.wording("a dog") == "X X X X a dog"
    assert build().router.wording("a dog") == "a dog"


# Semantics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semantics", ["captions", "images", "both", "names"])
def test_a_tasks_place_is_computed_from_what_it_shows(
    semantics: str, build: Callable[..., LPI], learn: Learn, clip: DualEncoder, stream: TaskStream
) -> None:
    model = learn(build(semantics=semantics, centre_semantics=False), stream.tasks[:2])
    plain = method("zero_shot", clip)
    vectors = []
    for task in stream.tasks[:2]:
        captions = sorted({caption for record in task.train for caption in record.captions})
        texts = plain.encode_texts(captions).mean(0)
        images = plain.encode_images([record.picture.open() for record in task.train]).mean(0)
        both = torch.cat([F.normalize(texts, dim=0), F.normalize(images, dim=0)])
        name = plain.encode_texts([task.name])[0]
        vectors.append({"captions": texts, "images": images, "both": both, "names": name}[semantics])
    expected = F.cosine_similarity(vectors[0], vectors[1], dim=0)
    assert float(model.similarity()[0, 1]) == pytest.approx(float(expected), abs=1e-5)


def test_the_earlier_tasks_similarity_does_not_look_ahead(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream
) -> None:
    two = learn(build(), stream.tasks[:2])
    three = learn(build(), stream.tasks)
    assert torch.equal(two.similarity(), three.stage(1).similarity())
    assert two.near().shape == (2, 2)


def test_prompt_similarity_is_the_cosine_of_whole_prompt_tensors(learned: LPI) -> None:
    found = learned.prompt_similarity()
    first, last = (learned.expert(index).prompts("text").detach().flatten() for index in (0, 2))
    expected = float(first @ last / first.norm() / last.norm())
    assert found["text"][0][2] == pytest.approx(expected, abs=1e-6)
    assert [found["vision"][i][i] for i in range(3)] == pytest.approx([1.0] * 3)


# Options --------------------------------------------------------------------------------------------------------------

CHOICES: dict[str, list[Any]] = {
    "rank": [1, 8],
    "length": [1, 20],
    "depth": [1, 2, 3],
    "placement": ["first", "last"],
    "decomposition": ["cp", "free"],
    "sharing": ["none", "layer"],
    "injection": list(INJECTIONS),
    "start": ["paper", "neutral"],
    "interaction": [True, False],
    "interaction_rank": [1],
    "interaction_share": [0, 0.0, 1.0],
    "norm": ["matched", "unit", "none"],
    "adapter_rank": [0, 1, 4],
    "adapter_shared": [False],
    "adapter_targets": ["query_value", "attention", "mlp", "all"],
    "multi_positive": [True, False],
    "layer_weight": [0.0, 1.0],
    "layer_scaling": ["normalised", "raw"],
    "task_weight": [0.0, 1.0],
    "task_form": ["plain", "authors"],
    "task_temperature": [0.001],
    "distill_weight": [1.0],
    "memory": [0, 4],
    "semantics": ["captions", "images", "both", "names"],
    "near_threshold": [0.4, None],
    "near_share": [0.0, 1.0],
    "centre_semantics": [True, False],
    "dimensions": [0, 4, 500],
    "projection": [0, 6],
    "cuts": [1],
    "check_every": [0, 2],
    "beside": ["features", "both"],
    "clusters": [1, 50],
    "directions": [1, 16, 500],
    "metric": ["cosine", "l1", "whitened"],
    "routing": ["features", "states", "both"],
    "routing_vision": [0.0, 1.0],
    "routing_text": [0.5],
    "ood": ["nearest", "fallback"],
    "ood_quantile": [0.5, 1.0],
    "routing_words": ["plain", "placeholders"],
    "soft_tasks": [1, 2, 9],
    "posterior_temperature": [1.0],
    "reach": ["average", "own"],
}
EVERY = [(name, value) for name, values in CHOICES.items() for value in values]


def test_every_option_is_tried(build: Callable[..., LPI]) -> None:
    options = build(metric="whitened").options
    assert {path_of(options, name, {}) for name in CHOICES} | {"preset", "router"} == set(leaves(options))


@pytest.mark.parametrize(("name", "value"), EVERY, ids=lambda part: str(part))
def test_every_value_trains_and_encodes(
    name: str,
    value: Any,
    build: Callable[..., LPI],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    whitened = {"metric": "whitened"} if name in ("directions", "reach") else {}
    model = learn(build(**whitened, **{name: value}), stream.tasks[:2], steps=1)
    path = path_of(model.options, name, {})
    assert path is not None
    assert value_at(model.options, path) == value
    assert all(features.isfinite().all() for features in encode(model, pictures, captions).values())


@pytest.mark.parametrize("preset", ["paper", "authors-release"])
@pytest.mark.parametrize("family", ["clip", "dinov2-bert", "siglip"])
def test_presets_train_on_every_family(
    preset: str,
    family: str,
    families: Callable[[str], DualEncoder],
    small: dict[str, Any],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
) -> None:
    model = learn(method("lpi", families(family), preset=preset, **small), stream.tasks[:2], steps=1)
    published = LPI.Options.presets()[preset].options
    assert model.options == options_of(LPI.Options, small, preset=preset)
    assert (model.options.prompts.injection, model.options.prompts.start) == (
        published.prompts.injection,
        published.prompts.start,
    )
    assert model.options.preset == preset
    assert all(features.isfinite().all() for features in encode(model, pictures, captions).values())


def test_an_option_wins_over_the_preset(clip: DualEncoder) -> None:
    assert method("lpi", clip, preset="paper", injection="add").options.prompts.injection == "add"


def test_an_unknown_preset_names_the_nearest(clip: DualEncoder) -> None:
    with pytest.raises(UnknownNameError, match=r"LPI has no preset 'authors'. Did you mean 'authors-release'\?"):
        method("lpi", clip, preset="authors")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("injection", "repalce", "injection must be one of .*; got 'repalce'. Did you mean 'replace'?"),
        ("start", "neutrl", "start must be one of paper, neutral; got 'neutrl'. Did you mean 'neutral'?"),
        ("placement", "lasst", "placement must be one of .*'lasst'. Did you mean 'last'?"),
        ("decomposition", "fre", "decomposition must be one of .*'fre'. Did you mean 'free'?"),
        ("sharing", "layers", "sharing must be one of .*'layers'. Did you mean 'layer'?"),
        ("norm", "match", "norm must be one of .*'match'. Did you mean 'matched'?"),
        ("layer_scaling", "normalized", "layer_scaling must be .*'normalized'. Did you mean 'normalised'?"),
        ("task_form", "author", "task_form must be .*'author'. Did you mean 'authors'?"),
        ("semantics", "caption", "semantics must be .*'caption'. Did you mean 'captions'?"),
        ("metric", "cos", "metric must be one of .*; got 'cos'."),
        ("ood", "fall", "ood must be .*'fall'. Did you mean 'fallback'?"),
        ("routing_words", "placeholder", "routing_words must be .*'placeholder'. Did you mean 'placeholders'?"),
        ("rank", 0, "rank must be at least 1; got 0."),
        ("length", 0, "length must be at least 1; got 0."),
        ("interaction_rank", 0, "interaction_rank must be at least 1; got 0."),
        ("interaction_share", 1.1, "interaction_share must be between 0 and 1; got 1.1."),
        ("depth", 0, "depth must be between 1 and 3, .*; got 0."),
        ("depth", 4, "depth must be between 1 and 3, .*; got 4."),
        ("clusters", 0, "clusters must be at least 1; got 0."),
        ("adapter_rank", -1, "adapter_rank must be at least 0; got -1."),
        ("adapter_rank", 99, "adapter_rank must be between 1 and 24, the narrowest changed layer; got 99"),
        ("adapter_targets", "attn", "adapter_targets must be one of .*; got 'attn'."),
        ("directions", 0, "directions must be at least 1; got 0."),
        ("ood_quantile", 0.0, "ood_quantile must be above 0 and at most 1; got 0.0."),
        ("ood_quantile", 99.0, "ood_quantile must be above 0 and at most 1; got 99.0."),
        ("near_share", 20, "near_share must be between 0 and 1; got 20."),
        ("near_threshold", 40.0, "near_threshold must be between -1 and 1; got 40.0."),
        ("layer_weight", -0.1, "layer_weight must be at least 0; got -0.1."),
        ("task_weight", -1.0, "task_weight must be at least 0; got -1.0."),
        ("distill_weight", -1.0, "distill_weight must be at least 0; got -1.0."),
        ("memory", -1, "memory must be at least 0; got -1."),
        ("task_temperature", 0.0, "task_temperature must be above 0; got 0.0."),
        ("posterior_temperature", -1.0, "posterior_temperature must be at least 0; got -1.0."),
        ("task_temperature", math.nan, "task_temperature must be above 0; got nan."),
    ],
)
def test_a_wrong_value_is_refused_when_the_method_is_made(
    name: str, value: Any, message: str, build: Callable[..., LPI]
) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace("?", r"\?")):
        build(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rank", "4", "method 'lpi': rank must be a whole number; got '4'"),
        ("rank", 2.5, "method 'lpi': rank must be a whole number; got 2.5"),
        ("interaction", "yes", "method 'lpi': interaction must be true or false; got 'yes'"),
        ("layer_weight", "high", "method 'lpi': layer_weight must be a number; got 'high'"),
        ("near_threshold", "0.4", "method 'lpi': near_threshold must be a number or nothing; got '0.4'"),
        ("dept", 9, "method 'lpi' has no option 'dept'. Did you mean 'depth'?"),
    ],
)
def test_values_of_another_type_and_unknown_options_are_refused(
    name: str, value: Any, message: str, clip: DualEncoder
) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace("?", r"\?")):
        method("lpi", clip, **{name: value})


def test_features_kept_of_earlier_tasks_compete_in_the_next_ones_loss(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, ready: Callable[..., Any]
) -> None:
    model = build(memory=3, task_weight=0.0, layer_weight=0.0)
    first, second = stream.tasks[:2]
    learn(model, [first])
    expert = model.experts[0]
    assert expert.memory_vision.shape == expert.memory_text.shape == (3, model.backbone.feature_width)
    assert model._others() == {"vision": None, "text": None}  # there is nothing before the first task
    begin(model, TrainingSet(second, model.backbone).data(), torch.Generator().manual_seed(0))
    batch = ready(model, second)
    with_others = model.loss(batch)["item"].item()
    model.options = changed(model.options, {"losses.memory": 0})
    assert with_others > model.loss(batch)["item"].item(), "more candidates, and none of them right"


# ---- what the library adds to the published method -------------------------------------------------------------------


def test_the_best_preset_is_the_constructors_default_with_an_adapter_for_the_norm(
    clip: DualEncoder, small: dict[str, Any]
) -> None:
    sizes = {name: small[name] for name in ("rank", "length", "interaction_rank", "clusters")}
    best, usual = (method("lpi", clip, preset=preset, **sizes).options for preset in ("best", None))
    differing = {path for path in leaves(best) if value_at(best, path) != value_at(usual, path)}
    assert {path: value_at(best, path) for path in differing - {"preset"}} == {
        "interaction.norm": "none",
        "adapter.rank": 4,
        "closing.dimensions": 32,
        "closing.projection": 600,
        "closing.beside": "both",
    }


def test_a_soft_choice_mixes_the_likeliest_tasks_by_their_posteriors(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, clip: DualEncoder, pictures: Tensor
) -> None:
    model = learn(build(soft_tasks=2, posterior_temperature=2.0), stream.tasks)
    plain = method("zero_shot", clip).encode_images(pictures)
    likely = model.router.posteriors("vision", model.router("vision", plain).distances)
    under = torch.stack([model.encode_images(pictures, task=task) for task in model.tasks], dim=1)
    found = model.encode_images(pictures)
    for row, shares in enumerate(likely):
        first, second = shares.argsort(descending=True)[:2].tolist()
        total = shares[first] * under[row, first] + shares[second] * under[row, second]
        torch.testing.assert_close(found[row], total / total.norm(), rtol=1e-4, atol=1e-5)
    routing = model.router("vision", plain)
    assert torch.equal(routing.tasks, routing.distances.argmin(dim=1))
    torch.testing.assert_close(routing.weights.sum(1), torch.ones(len(pictures)))


def test_what_falls_back_is_not_mixed(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream, clip: DualEncoder, pictures: Tensor
) -> None:
    model = learn(build(soft_tasks=2, ood="fallback", ood_quantile=0.5), stream.tasks)
    far = -model.router.keys("vision")[0].centroids[:1]
    routing = model.router("vision", far)
    assert routing.routes[0].tolist() == [FALLBACK, FALLBACK]
    assert routing.weights[0].tolist() == [1.0, 0.0]
    plain = method("zero_shot", clip).encode_images(pictures)
    lost = model.router("vision", plain).routes[:, 0] == FALLBACK
    assert lost.any()
    found = model.encode_images(pictures)
    torch.testing.assert_close(found[lost], plain[lost], rtol=1e-4, atol=1e-5)
    evaluator = Evaluator(clip, stream, EvaluationSettings(transfer=False))
    encoded = evaluator.final(model).features["vision"]
    torch.testing.assert_close(encoded, found, rtol=1e-4, atol=1e-5)


def test_the_radius_of_whitened_keys_is_how_far_the_tasks_own_points_lie_from_keys_that_have_not_seen_them(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream
) -> None:
    model = learn(build(metric="whitened", ood="fallback", ood_quantile=1.0), stream.tasks[:1])
    training = TrainingSet(stream.tasks[0], model.backbone)
    seen = model.router("vision", training.image_features).distances[:, 0]
    assert model.router.keys("vision")[0].radius > seen.max()  # keys lie nearer to what they were made of
    assert (model.router("vision", training.image_features).routes[:, 0] == 0).all()
    narrow = learn(build(metric="whitened", ood="fallback", ood_quantile=0.01), stream.tasks[:1])
    assert (narrow.router("vision", training.image_features).routes[:, 0] == FALLBACK).any()


@pytest.mark.parametrize(
    ("family", "routing"),
    [("clip", "states"), ("clip", "both"), ("dinov2-bert", "both"), ("siglip", "states"), ("siglip2", "both")],
)
def test_states_inside_the_towers_route_queries(
    family: str,
    routing: str,
    families: Callable[[str], DualEncoder],
    small: dict[str, Any],
    learn: Learn,
    stream: TaskStream,
) -> None:
    options = {**small, "routing": routing, "routing_vision": 0.5, "routing_text": 0.0}
    model = learn(method("lpi", families(family), **options), stream.tasks[:2])
    backbone = model.backbone
    pixels = [torch.tensor(backbone.inputs.prepare(r.picture.open())).permute(2, 0, 1) for r in stream.tasks[1].test]
    images = backbone.inputs.normalise(torch.stack(pixels))
    state = backbone.vision.advance(backbone.vision.begin(images), 0, 2).states
    mean, deviation = state.mean(1), state.std(1, unbiased=False)
    slow = F.normalize(torch.cat([F.normalize(mean, dim=-1), F.normalize(deviation, dim=-1)], dim=1), dim=-1)
    if routing == "both":  # as much of what it shows as of how it looks
        features = F.normalize(backbone.encode_images(images), dim=-1)
        slow = torch.cat([slow, features], dim=1) / 2**0.5
    found = routing_features(model.router, model.backbone, "vision", images)
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)
    assert model.router("vision", found).distances.shape == (len(pixels), 2)
    words = ["gold dot", "a much longer blue box with many words"]
    together, alone = (
        routing_features(model.router, model.backbone, "text", words),
        torch.cat([routing_features(model.router, model.backbone, "text", [word]) for word in words]),
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # padding doesn't count
    chosen = model.encode_texts(words)
    for row, route in enumerate(model.router("text", together).routes[:, 0].tolist()):
        same = model.encode_texts(words[row : row + 1], task=model.tasks[route])
        torch.testing.assert_close(chosen[row : row + 1], same, rtol=1e-4, atol=1e-5)


def test_distances_follow_the_tasks_that_come_and_go(
    build: Callable[..., LPI], learn: Learn, stream: TaskStream
) -> None:
    model = learn(build(metric="whitened"), stream.tasks)
    plain = routing_features(model.router, model.backbone, "text", ["red dot", "blue box"])
    for forgotten in ([], [stream.tasks[1].name]):
        for name in forgotten:
            model.forget(name)
        keys = model.router.keys("text")
        for _ in range(2):  # the second time from what was kept
            torch.testing.assert_close(model.router("text", plain).distances, task_distances(plain, keys, "whitened"))
    first = model.stage(0)
    keys = first.router.keys("text")
    assert len(keys) == 1
    torch.testing.assert_close(first.router("text", plain).distances, task_distances(plain, keys, "whitened"))


@pytest.mark.parametrize("placement", ["first", "last"])
def test_an_adapter_changes_the_weights_that_a_task_sees_and_nothing_else(
    placement: str,
    build: Callable[..., LPI],
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
    clip: DualEncoder,
) -> None:
    kept = {name: weight.clone() for name, weight in clip.named_parameters()}
    model = learn(build(adapter_rank=2, depth=2, placement=placement, injection="into"), stream.tasks[:2])
    with torch.no_grad():
        found = encode(model, pictures, captions, task="cold")
        expert = model.expert(1)
        assert expert.change is not None
        changed = private_copy(clip, target_layers(clip, "attention").values())
        for name, layer in target_layers(changed, "attention").items():
            tower, block, _ = name.split("/", 2)
            if int(block) >= model.blocks[tower][0]:
                assert float(expert.change.delta(name).abs().max()) > 1e-4
                layer.weight += expert.change.delta(name)
        prompts = model.tower_prompts(1)
        expected = {"vision": changed.encode_images(clip.inputs.normalise(pictures), prompts["vision"])}
        expected["text"] = changed.encode_texts(clip.inputs.tokenize(captions), prompts["text"])
        for tower in TOWERS:
            torch.testing.assert_close(found[tower], F.normalize(expected[tower], dim=-1), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(weight, kept[name]) for name, weight in clip.named_parameters())
