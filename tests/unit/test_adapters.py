"""What methods that change weights share, and what is particular to some of them."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpi.backbones import DualEncoder
from lpi.config import EvaluationSettings, TrainingSettings
from lpi.errors import BackboneError, ConfigError, MissingExtraError, MissingFileError
from lpi.evaluation.recall import Evaluator
from lpi.features import TrainingSet
from lpi.methods import method
from lpi.methods.adapters import DeltaBackbone, LowRank, drawn_for, private_copy, target_layers
from lpi.methods.base import FALLBACK, Method, TrainingBatch
from lpi.methods.linear import head
from lpi.tasks.stream import TaskStream

Learn = Callable[..., Any]
Ready = Callable[..., TrainingBatch]


def test_a_private_copy_shares_every_weight_but_its_own(clip: DualEncoder) -> None:
    copy = private_copy(clip, [head(clip.text)])
    shared = {id(parameter) for parameter in clip.parameters()}
    own = [name for name, parameter in copy.named_parameters() if id(parameter) not in shared]
    assert own == ["model.text_projection.weight"]
    assert copy.inputs is clip.inputs
    assert copy.model is not clip.model
    assert all(copied is not module for copied, module in zip(copy.modules(), clip.modules(), strict=True))


def test_layers_that_are_not_there_are_refused(clip: DualEncoder) -> None:
    with pytest.raises(ConfigError, match=r"targets must be .*; got 'everything'"):
        target_layers(clip, "everything")  # type: ignore[arg-type]
    bare = private_copy(clip)
    for layer in (layer for tower in (bare.vision, bare.text) for layer in tower.layers):
        layer.mlp = nn.Identity()
    with pytest.raises(BackboneError, match="no layer of its blocks is a linear one of the kind 'mlp'"):
        target_layers(bare, "mlp")


@pytest.mark.parametrize("rank", [0, 25])
def test_a_rank_that_does_not_fit_is_refused(rank: int, clip: DualEncoder) -> None:
    layers = DeltaBackbone(clip, "attention").layers
    with pytest.raises(ConfigError, match=rf"rank must be between 1 and 24, the narrowest changed layer; got {rank}"):
        LowRank(layers, rank=rank, generator=torch.Generator())


def test_a_change_is_of_the_thread_that_asked_for_it(clip: DualEncoder) -> None:
    adapted = DeltaBackbone(clip, "attention")
    change = LowRank(adapted.layers, rank=2, generator=torch.Generator().manual_seed(0))
    texts = clip.inputs.tokenize(["red dot"])

    def encode() -> Tensor:
        with torch.no_grad():
            return adapted.model.encode_texts(texts)

    with torch.no_grad():
        for factor in change.up.values():
            factor.fill_(0.3)
    plain = encode()
    with adapted.with_deltas((change, 1.0)), ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(encode).result(), plain)
        assert not torch.allclose(encode(), plain, atol=1e-2)
    assert torch.equal(encode(), plain)


def test_what_is_drawn_for_a_batch_depends_on_the_batch_alone(
    clip: DualEncoder, stream: TaskStream, ready: Ready
) -> None:
    batches = [ready(method("finetune", clip), stream.tasks[index]) for index in (0, 0)]
    other = ready(method("finetune", clip), stream.tasks[0], size=7)
    first, again, different = (torch.rand((), generator=drawn_for(batch)) for batch in (*batches, other))
    assert first == again
    assert first != different


def test_a_task_gives_its_pairs_once_more(clip: DualEncoder, stream: TaskStream) -> None:
    training = TrainingSet(stream.tasks[0], clip)
    data = training.data(0, training.once_more(method("finetune", clip), TrainingSettings(batch=5)))
    rows: list[int] = []
    for batch in data.batches(seed=3, captions=0):
        rows += batch.picture_rows.tolist()
        assert isinstance(batch.images, Tensor)
        assert batch.images.shape[0] == batch.positives.shape[0] == len(batch.picture_rows)
        for text, picture in zip(batch.caption_rows.tolist(), batch.owner.tolist(), strict=True):
            record = training.records[int(batch.picture_rows[picture])]
            assert data.captions[text] in record.captions
        assert len(batch.texts) == 2 * len(batch.images)
    assert sorted(rows) == list(range(16))
    assert rows != sorted(rows)


def test_pixels_come_back_exactly(clip: DualEncoder) -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(clip.inputs.denormalise(clip.inputs.normalise(every)), every)


def test_lora_says_what_to_install(clip: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"method 'lora' needs PEFT.* -e '\.\[methods\]'"):
        method("lora", clip)


def reference_folder(root: Path, stream: TaskStream, count: int) -> Path:
    lines = []
    parts = [(record, "train") for record in stream.tasks[2].train[:count]]
    parts += [(record, "test") for record in stream.tasks[2].test[:1]]
    (root / "things" / "images").mkdir(parents=True)
    for number, (record, split) in enumerate(parts):
        record.picture.open().save(root / "things" / "images" / f"{number}.png")
        row = {"image": f"images/{number}.png", "captions": list(record.captions), "split": split}
        lines.append(json.dumps(row))
    (root / "things" / "captions.jsonl").write_text("\n".join(lines))
    return root


def test_zscl_distils_on_the_reference_that_is_named(
    clip: DualEncoder, stream: TaskStream, ready: Ready, tmp_path: Path
) -> None:
    folder = reference_folder(tmp_path / "reference", stream, 6)
    model: Any = method("zscl", clip, reference=str(folder), reference_batch=4)
    batch = ready(model, stream.tasks[0])
    with torch.no_grad():
        assert float(model.loss(batch)["distill_images"]) == pytest.approx(0.0, abs=1e-5)  # nothing was learned yet
        for weight in model.trainable():
            weight.mul_(1.05)
        parts, again = model.loss(batch), model.loss(batch)
        assert float(parts["distill_images"]) > 1e-4
        assert float(parts["distill_texts"]) > 1e-5
        model.reference = None  # the task's own pairs
        assert parts["distill_images"] != model.loss(batch)["distill_images"]
    assert torch.equal(parts["distill_images"], again["distill_images"])  # the same pairs for a batch
    model = method("zscl", clip, reference=str(folder), reference_batch=4)
    pixels, texts, frozen_images, frozen_texts = model.reference.draw(torch.Generator().manual_seed(0))
    assert len(pixels) == len(texts) == len(frozen_images) == len(frozen_texts) == 4


def test_zscl_distils_on_the_world_of_the_embedded_backbone(clip: DualEncoder) -> None:
    reference: Any = method("zscl", clip, reference="scenes", reference_batch=4).reference
    assert len(reference.captions) == 512
    pixels, _, images, texts = reference.draw(torch.Generator().manual_seed(0))
    assert len(pixels) == len(images) == len(texts) == 4
    held_out = {record.captions[0] for record in TaskStream.from_scenes(train=1, held_out=128).held_out}
    assert len(held_out & set(reference.captions)) < 10  # of another seed: equal words are chance


def test_a_reference_that_can_not_serve_is_refused(clip: DualEncoder, stream: TaskStream, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        method("zscl", clip, reference=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"reference must hold at least 2 training pictures; .* has 1"):
        method("zscl", clip, reference=str(reference_folder(tmp_path / "one", stream, 1)))


def test_routes_of_two_experts_count_as_the_nearer_ones(clip: DualEncoder, stream: TaskStream, learn: Learn) -> None:
    evaluator = Evaluator(clip, stream, EvaluationSettings())
    always, never = (learn(method("dar", clip, rank=2, margin=margin), stream.tasks) for margin in (2.0, 0.0))
    records = [evaluator.stage(model, 2) for model in (always, never)]
    for tower in ("vision", "text"):
        routes = always.router(tower, evaluator.test.frozen[tower]).routes[:, 0]
        assert int(routes.min()) >= 1000
        assert records[0].routing[tower] == records[1].routing[tower]
        assert sum(map(sum, records[0].routing[tower].confusion)) == len(routes)
    assert records[0].oracle == records[1].oracle


def test_the_experts_pass_by_what_no_task_has_shown(clip: DualEncoder, stream: TaskStream, learn: Learn) -> None:
    model: Any = learn(method("moe_adapters", clip, experts=3, bottleneck=4, hidden=2), stream.tasks[:2])
    seen = TrainingSet(stream.tasks[0], clip).image_features
    strange = -seen
    assert (model.router("vision", seen).routes[:, 0] == FALLBACK).sum() <= 1  # the quantile's own share
    assert (model.router("vision", strange).routes[:, 0] == FALLBACK).all()
    pixels = clip.inputs.normalise(torch.full((2, 3, 32, 32), 200, dtype=torch.uint8))
    with torch.no_grad():
        plain = nn.functional.normalize(clip.encode_images(pixels), dim=-1)
        assert torch.equal(model.image_features(pixels, FALLBACK), plain)
        assert not torch.equal(model.image_features(pixels, 0), plain)


def test_methods_that_share_the_backbone_do_not_disturb_each_other(
    clip: DualEncoder, stream: TaskStream, learn: Learn, captions: list[str]
) -> None:
    first: Method = learn(method("dar", clip, rank=2), stream.tasks[:1])
    before = first.encode_texts(captions)
    for name, options in (("lora", {"rank": 2}), ("c_clip", {"rank": 2}), ("linear", {}), ("ewc", {})):
        learn(method(name, clip, **options), stream.tasks[:1])
    assert torch.equal(first.encode_texts(captions), before)


@pytest.mark.parametrize(("name", "options"), [("moe_adapters", {"experts": 3, "bottleneck": 4}), ("dar", {"rank": 2})])
def test_threads_that_encode_under_different_routes_do_not_disturb_each_other(
    name: str, options: dict[str, Any], clip: DualEncoder, stream: TaskStream, learn: Learn
) -> None:
    model = learn(method(name, clip, **options), stream.tasks[:2], learning_rate=0.05)
    pixels = clip.inputs.normalise(torch.full((2, 3, 32, 32), 200, dtype=torch.uint8))
    routes = (0, 1, FALLBACK)
    with torch.no_grad():
        alone = [model.image_features(pixels, route) for route in routes]
    assert not torch.equal(alone[0], alone[1])
    together = Barrier(len(routes), timeout=30)
    inner = model.model if name == "moe_adapters" else model.adapted.model  # type: ignore[union-attr]

    def all_are_under_way(*_: Any) -> None:
        together.wait()

    inner.vision.layers[0].register_forward_pre_hook(all_are_under_way)

    def encode(route: int) -> torch.Tensor:
        with torch.no_grad():
            return model.image_features(pixels, route)

    with ThreadPoolExecutor(len(routes)) as pool:
        found = list(pool.map(encode, routes))
    for vectors, expected in zip(found, alone, strict=True):
        assert torch.equal(vectors, expected)
