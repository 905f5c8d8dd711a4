"""Routers are parts: any of them serves any method that is routed, and one of one's own is one file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpi.backbones import DualEncoder
from lpi.config import EvaluationSettings, parse
from lpi.errors import CheckpointError, ConfigError, MissingFileError, UnknownNameError
from lpi.evaluation.recall import Evaluator
from lpi.evaluation.scheduler import run_experiment
from lpi.methods import method, recorded_options
from lpi.methods.base import Method
from lpi.methods.checkpoint import load_method
from lpi.methods.encoder import route_images, route_texts
from lpi.prompts.task_keys import FALLBACK
from lpi.routing import Routing, all_under, router_class, router_names
from lpi.routing.base import most_agreement
from lpi.routing.mix import mix
from lpi.routing.score import Matched, Probe, routed_score, scored_features, scored_features_by_task
from lpi.storage import read_json
from lpi.tasks.stream import TaskStream

SIZES: dict[str, dict[str, Any]] = {
    "dar": {"rank": 2},
    "dualprompt": {"general_length": 2, "expert_length": 4},
    "lpi": {"rank": 2, "length": 4, "interaction_rank": 2},
    "moe_adapters": {"experts": 4, "bottleneck": 4},
    "s_prompts": {"vision_length": 4, "text_length": 4},
    "zero_shot": {},
}
#: what CONTRIBUTING.md shows a person
GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
MINE = GUIDE.split("```python\n")[2].partition("```\n")[0]

Learn = Callable[..., Method]


def encoded(model: Method, pictures: Tensor, captions: list[str]) -> list[Tensor]:
    return [model.encode_images(pictures), model.encode_texts(captions)]


@pytest.mark.parametrize("router", router_names())
@pytest.mark.parametrize("name", SIZES)
def test_any_router_serves_any_method(
    name: str,
    router: str,
    clip: DualEncoder,
    learn: Learn,
    stream: TaskStream,
    pictures: Tensor,
    captions: list[str],
    tmp_path: Path,
) -> None:
    model = learn(method(name, clip, router=router, **SIZES[name]), stream.tasks, steps=1)
    assert model.options.router == router
    assert model.options.routing == router_class(router).Options()  # with the router's own defaults, whoever has it
    for routing, items in ((route_images(model, pictures), pictures), (route_texts(model, captions), captions)):
        assert routing.distances.shape == routing.posteriors.shape == (len(items), 3)
        torch.testing.assert_close(routing.posteriors.sum(1), torch.ones(len(items)))
        torch.testing.assert_close(routing.weights.sum(1), torch.ones(len(items)))
        torch.testing.assert_close(routing.membership.sum(1), torch.ones(len(items)))
        assert routing.routes.shape == routing.weights.shape
    before = encoded(model, pictures, captions)
    for features in before:
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    model.save_pretrained(tmp_path)
    loaded = load_method(tmp_path, backbone=clip)
    assert all(torch.equal(a, b) for a, b in zip(before, encoded(loaded, pictures, captions), strict=True))
    record = Evaluator(clip, stream, EvaluationSettings(scoring="routed")).stage(model, 2)
    assert record.routing is not None
    assert 0 <= record.routing["vision"].accuracy <= 1


def test_the_frozen_model_with_a_router_keeps_its_vectors(
    clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor
) -> None:
    model = learn(method("zero_shot", clip, router="whitened"), stream.tasks)
    torch.testing.assert_close(model.encode_images(pictures), method("zero_shot", clip).encode_images(pictures))
    assert model.trainable() == []
    assert model.stage(0).tasks == ["warm"]
    model.forget("warm")
    assert model.tasks == ["cold", "dull"]
    assert route_images(model, pictures).distances.shape[1] == 2


def test_router_options_stand_in_a_table(clip: DualEncoder) -> None:
    model = method("dar", clip, router="whitened", routing={"clusters": 2, "view": "features"})
    assert recorded_options(model)["routing"]["clusters"] == 2
    assert model.router is not None
    assert model.router.look("vision").depth is None
    with pytest.raises(ConfigError, match=r"has no option 'routing\.margin'"):
        method("dar", clip, router="whitened", routing={"margin": 0.1})
    with pytest.raises(UnknownNameError, match=r"No router is called 'whitend'\. Did you mean 'whitened'"):
        method("dar", clip, router="whitend")
    with pytest.raises(ConfigError, match=r"view must be 'features'; got 'states'"):
        method("dualprompt", clip, view="states")


def test_the_older_word_for_keys_keeps_what_both_routers_have(clip: DualEncoder) -> None:
    options = method("lpi", clip, metric="cosine", clusters=2).options
    assert (options.router, options.routing.metric) == ("nearest", "cosine")
    assert (options.routing.clusters, options.routing.view, options.routing.soft_tasks) == (2, "states", 3)
    plain = method("lpi", clip, metric="cosine").options.routing  # only whitened keys find a temperature
    assert (plain.clusters, plain.posterior_temperature) == (5, 0.2)
    assert method("lpi", clip, metric="l1", posterior_temperature=0.4).options.routing.posterior_temperature == 0.4
    assert method("s_prompts", clip, metric="whitened").options.router == "whitened"
    with pytest.raises(ConfigError, match="method 'dar' has no option 'metric'"):
        method("dar", clip, metric="cosine")


# ---- one of one's own ------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "my_router.py"
    file.write_text(MINE)
    return file


def test_a_router_of_ones_own_is_one_file(
    mine: Path, clip: DualEncoder, learn: Learn, stream: TaskStream, pictures: Tensor, captions: list[str]
) -> None:
    assert len(MINE.splitlines()) < 40
    model = learn(method("dar", clip, rank=2, router=str(mine), routing={"sharpness": 2.0}), stream.tasks)
    assert type(model.router).__name__ == "NearestMean"
    assert {*route_images(model, pictures).tasks.tolist()} <= {0, 1, 2}
    model.save_pretrained(mine.parent / "model")
    with pytest.raises(CheckpointError, match=r"a router of its own, 'my_router\.py'; name its file"):
        load_method(mine.parent / "model", backbone=clip)
    loaded = load_method(mine.parent / "model", backbone=clip, router=mine)
    assert loaded.router.options == model.router.options  # type: ignore[union-attr]
    pairs = zip(encoded(model, pictures, captions), encoded(loaded, pictures, captions), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(MissingFileError, match="there is no such file with a router"):
        method("dar", clip, router=str(mine.parent / "gone.py"))


def test_a_run_with_a_router_of_ones_own_goes_on_where_it_was(mine: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "name": "own",
        "stream": {"families": ["food", "animal"], "train": 8, "validation": 0, "test": 4, "held_out": 0},
        "method": {"name": "zero_shot", "router": str(mine)},
        "training": {"steps": 1, "batch": 4, "device": "cpu"},
        "evaluation": {"examples": 0},
    }
    folder = run_experiment(parse(content, "own.toml"), out=tmp_path / "runs", say=lambda line: None)["zero_shot"][0]
    whole = read_json(folder / "result.json")
    (folder / "result.json").unlink()
    said: list[str] = []
    run_experiment(parse(content, "own.toml"), out=tmp_path / "runs", say=said.append)
    assert any("going on after task" in line for line in said)
    assert read_json(folder / "result.json")["final"] == whole["final"]


# ---- mixing and scoring ----------------------------------------------------------------------------------------------


def test_mixing_is_the_weighted_sum_of_what_counts() -> None:
    features = torch.nn.functional.normalize(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    routes = torch.tensor([[0, 1], [2, 0], [1, 1], [2, 2], [0, 2]])
    weights = torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.4, 0.6], [1.0, 0.0], [0.9, 0.1]])
    asked: list[tuple[int, int]] = []

    def encode(rows: Tensor, route: int) -> Tensor:
        asked.extend((row, route) for row in rows.tolist())
        return features[route][rows]

    found = mix(routes, weights, encode, width=4, batch=2)
    for row in range(5):
        total = sum(weights[row, place] * features[routes[row, place], row] for place in range(2))
        torch.testing.assert_close(found[row], total / total.norm())  # type: ignore[union-attr, operator]
    assert (3, 2) in asked
    alone = mix(routes[:, :1], torch.ones(5, 1), encode, width=4)
    assert torch.equal(alone, features[routes[:, 0], torch.arange(5)])


def test_a_routed_score_is_the_cosine_and_the_agreement() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, candidates = (
        Probe(
            torch.nn.functional.normalize(torch.randn(count, 6, generator=generator), dim=1),
            torch.rand(count, 3, generator=generator).softmax(1),
        )
        for count in (4, 5)
    )
    slow = torch.tensor(
        [
            [
                float(queries.vector[i] @ candidates.vector[j])
                + 0.2 * float(queries.membership[i] @ candidates.membership[j])  # type: ignore[index]
                for j in range(5)
            ]
            for i in range(4)
        ]
    )
    torch.testing.assert_close(routed_score(queries, candidates, 0.2), slow)
    torch.testing.assert_close(scored_features(queries, 0.2) @ scored_features(candidates, 0.2).T, slow)
    plain = Probe(queries.vector)
    torch.testing.assert_close(routed_score(plain, candidates, 0.2), queries.vector @ candidates.vector.T)
    assert len(queries) == 4
    for row in (0, 1, -2, -1):
        assert torch.equal(queries[row].vector, queries.vector[row][None])
        assert torch.equal(queries[row].membership, queries.membership[row][None])  # type: ignore[arg-type, index]


def test_a_pair_is_scored_under_a_task_only_as_far_as_both_sides_belong_to_it() -> None:
    generator = torch.Generator().manual_seed(2)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    vectors = {"text": unit(4, 3, 6), "vision": unit(5, 3, 6)}
    frozen = {"text": unit(4, 2), "vision": unit(5, 2)}
    shares = {tower: torch.rand(len(own), 3, generator=generator) for tower, own in vectors.items()}
    shares = {tower: own / own.sum(dim=1, keepdim=True) for tower, own in shares.items()}
    shares["text"][0] = torch.tensor([1.0, 0.0, 0.0])
    shares["vision"][0] = torch.tensor([1.0, 0.0, 0.0])  # the same task as the first text
    shares["vision"][1] = torch.tensor([0.0, 1.0, 0.0])  # another
    shares["vision"][2] = 0.0  # none
    membership = {tower: torch.rand(own.shape, generator=generator) for tower, own in shares.items()}
    slow = torch.zeros(4, 5)
    for i in range(4):
        for j in range(5):
            in_common = shares["text"][i] * shares["vision"][j]
            under = sum(float(in_common[t] * (vectors["text"][i, t] @ vectors["vision"][j, t])) for t in range(3))
            rest = (1 - float(in_common.sum())) * float(frozen["text"][i] @ frozen["vision"][j])
            slow[i, j] = under + rest + 0.2 * float(membership["text"][i] @ membership["vision"][j])
    found = {
        tower: scored_features_by_task(
            vectors[tower], shares[tower], frozen=frozen[tower], membership=membership[tower], weight=0.2, tower=tower
        )
        for tower in vectors
    }
    assert found["text"].shape == (4, 3 * (6 + 2) + 2 + 3)
    torch.testing.assert_close(found["text"] @ found["vision"].T, slow)


def test_a_matched_pair_is_scored_by_what_explains_it_best() -> None:
    generator, tasks, width = torch.Generator().manual_seed(3), 3, 5
    matched = Matched(tasks, width, weight=0.2)
    items: dict[str, dict[str, Tensor]] = {}
    for name, count in (("text", 4), ("vision", 6)):
        posteriors = torch.rand(count, tasks, generator=generator).softmax(dim=1)
        inside = torch.rand(count, generator=generator)
        inside[0] = 0.0  # certainly of no task
        shares = posteriors * inside[:, None]
        shares[1, 2] = 0.0  # not worth a vector
        items[name] = {
            "vectors": F.normalize(torch.randn(count, tasks, width, generator=generator), dim=2),
            "shares": shares,
            "frozen": F.normalize(torch.randn(count, 2, generator=generator), dim=1),
            "posteriors": posteriors,
            "inside": inside,
        }
    slow, unlearned = torch.zeros(4, 6), torch.zeros(4, 6)
    for i in range(4):
        for j in range(6):
            mine, theirs = (
                {key: value[at] for key, value in items[n].items()} for n, at in (("text", i), ("vision", j))
            )
            cosine = mine["frozen"] @ theirs["frozen"]
            neither = (1 - mine["inside"]) * (1 - theirs["inside"])
            explained, together, mean = neither + 1e-3, neither + 1e-3, neither * cosine
            for task in range(tasks):
                share = mine["shares"][task] * theirs["shares"][task]
                explained = explained + share
                mean = mean + share * (mine["vectors"][task] @ theirs["vectors"][task])
                belongs = mine["inside"] * theirs["inside"] * mine["posteriors"][task] * theirs["posteriors"][task]
                together = together + belongs
            slow[i, j] = mean / explained + 0.2 * together.log()
            unlearned[i, j] = (explained - 1e-3) * cosine / explained + 0.2 * together.log()
    text, vision = (matched.pack(**items[name]) for name in ("text", "vision"))
    assert text.shape == (4, 3 + 3 + 1 + 3 * 5 + 2)
    torch.testing.assert_close(matched(text, vision), slow)
    torch.testing.assert_close(matched(vision, text), slow.T)
    plain, left = matched.unlearned(text)
    torch.testing.assert_close(plain(left, matched.unlearned(vision)[1]), unlearned)


def test_what_belongs_to_no_task_agrees_with_all_alike() -> None:
    posteriors = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    routing = Routing(
        torch.zeros(2, 1),
        posteriors,
        posteriors,
        torch.tensor([[0], [FALLBACK]]),
        torch.ones(2, 1),
        torch.tensor([0, FALLBACK]),
    )
    assert routing.membership.tolist() == [pytest.approx([0.9, 0.1]), pytest.approx([0.5**0.5, 0.5**0.5])]
    assert float(routing.membership[1] @ routing.membership[1]) == pytest.approx(1)  # and fully with its like
    for own in (*routing.membership, 0.3 * torch.tensor([0.3, 0.25, 0.25, 0.2])):
        count = len(own)
        others = [*torch.eye(count), *torch.rand(50, count).softmax(1), torch.full((count,), count**-0.5)]
        assert most_agreement(own) == pytest.approx(max(float(own @ other) for other in others))
    assert most_agreement(torch.empty(0)) == 0
    assert all_under(0, torch.zeros(3, 2)).membership.shape == (3, 0)
