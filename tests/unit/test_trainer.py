"""The training loop: steps, rates, accumulation, checkpoints, and what it does when a loss is no longer a number."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpi import features, trainer
from lpi.backbones import DualEncoder
from lpi.config import TrainingSettings
from lpi.devices import multiplies_bfloat16, pick_device, settled_precision
from lpi.errors import CheckpointError, ConfigError, DataError, LpiError
from lpi.features import TrainingSet
from lpi.methods import method, method_class, method_names
from lpi.methods.base import Method, MethodOptions, TrainingBatch
from lpi.methods.encoder import tokens
from lpi.methods.lpi import LPI
from lpi.storage import read_checked
from lpi.tasks.batches import batches
from lpi.tasks.stream import TaskStream
from lpi.trainer import Step, derived_seed, learn_task, training_for

Learn = Callable[..., Any]


@pytest.fixture
def build(clip: DualEncoder, small: dict[str, Any]) -> Callable[..., LPI]:
    def make(backbone: DualEncoder | None = None, **options: Any) -> LPI:
        made = method("lpi", clip if backbone is None else backbone, **{**small, **options})
        assert isinstance(made, LPI)
        return made

    return make


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{"steps": 4, "batch": 8, "device": "cpu", **changes})


def prompts_of(model: LPI, task: int = -1) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.expert(task).parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Stub(Method):
    """One number that is pulled towards zero; notes the size of each batch, and what a product comes out in."""

    @dataclass(frozen=True)
    class Options(MethodOptions):
        broken_from: int = 10**9

    options: Options

    def __init__(self, backbone: DualEncoder, options: Options | None = None) -> None:
        super().__init__(backbone, options)
        self.number = nn.Parameter(torch.tensor(1.0))
        self.seen: list[int] = []
        self.product = torch.float32

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        self.seen.append(len(batch.texts))
        self.product = (self.number.view(1, 1) @ self.number.view(1, 1)).dtype
        broken = math.nan if len(self.seen) >= self.options.broken_from else 0.0
        return {"pull": self.number.square(), "other": self.number * 0 + 0.5 + broken}


def steps_of(model: Method, stream: TaskStream, **changes: Any) -> list[Step]:
    noted: list[Step] = []
    learn_task(model, stream.tasks[0], settings=settings(**changes), on_step=noted.append)
    return noted


def test_a_method_learns_with_single_settings_as_keywords(clip: DualEncoder, stream: TaskStream) -> None:
    noted: list[Step] = []
    model = Stub(clip)
    model.learn(stream.tasks[0], epochs=1, batch=8, device="cpu", learning_rate=0.5, on_step=noted.append)
    assert {step.epochs for step in noted} == {1}
    assert noted[0].learning_rate == 0.5
    assert max(model.seen) == 8
    noted.clear()
    model.learn(stream.tasks[1], settings=settings(steps=9, batch=4), steps=2, seed=3, on_step=noted.append)
    assert [step.steps for step in noted] == [2, 2]
    assert model.seen[-1] == 4
    with pytest.raises(ConfigError, match=r"training has no option 'epoch'\. Did you mean 'epochs'"):
        model.learn(stream.tasks[2], epoch=1)
    with pytest.raises(ConfigError, match=r"training: epochs: .* got -1"):
        model.learn(stream.tasks[2], epochs=-1)
    assert model.tasks == [task.name for task in stream.tasks[:2]]  # refused before anything was begun


def test_a_method_that_is_given_no_rate_learns_at_its_own(clip: DualEncoder, stream: TaskStream) -> None:
    noted: list[Step] = []
    model = method("finetune", clip)
    model.learn(stream.tasks[0], steps=1, batch=8, device="cpu", on_step=noted.append)
    model.learn(stream.tasks[1], steps=1, batch=8, device="cpu", learning_rate=1e-3, on_step=noted.append)
    assert [step.learning_rate for step in noted] == [6e-5, 1e-3]
    for name in method_names():
        own = method_class(name).Options.training
        assert training_for(method_class(name), {}) == TrainingSettings(**own)
        assert "learning_rate" in own or name == "zero_shot" or own == {"epochs": 0}  # who takes no step needs none


# Seeds and devices ----------------------------------------------------------------------------------------------------


def test_a_derived_seed_depends_on_all_parts_and_fits_every_generator() -> None:
    seeds = {derived_seed(0, 1, "a"), derived_seed(0, 1, "b"), derived_seed(1, 1, "a"), derived_seed(0, 11, "a")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derived_seed(0, 1, "a") == derived_seed(0, 1, "a") == 487_990_771


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"must be auto, cpu or a device of this machine; got '{name}'"):
        pick_device(name)


def test_auto_is_an_accelerator_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_same_seed_learns_the_same_and_another_does_not(build: Callable[..., LPI], stream: TaskStream) -> None:
    found = []
    for seed in (0, 0, 1):
        model = build()
        learn_task(model, stream.tasks[0], settings=settings(augment="crop_flip"), seed=seed)
        found.append([*prompts_of(model), model.router.keys("text")[0].centroids])
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


# Steps and rates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": None, "epochs": 3}, 6),  # 16 pictures are two batches of 8
        ({"steps": None, "epochs": 2, "batch": 5}, 8),  # ... or three of 5 and one of 1
        ({"steps": 5}, 5),
        ({"steps": None, "epochs": 2, "batch": 5, "accumulate": 3}, 4),  # three batches and one an epoch
        ({"steps": 3, "accumulate": 64}, 3),  # fewer batches in an epoch than are accumulated
        ({"steps": None, "epochs": 0}, 0),
    ],
)
def test_the_number_of_steps(changes: dict[str, Any], expected: int, clip: DualEncoder, stream: TaskStream) -> None:
    noted = steps_of(Stub(clip), stream, **changes)
    assert [step.step for step in noted] == list(range(1, expected + 1))
    assert all(step.steps == expected and step.epoch < step.epochs for step in noted)


def test_each_epoch_sees_every_picture_once(clip: DualEncoder, stream: TaskStream) -> None:
    stub = Stub(clip)
    steps_of(stub, stream, steps=None, epochs=2, batch=5)
    assert stub.seen == [5, 5, 5, 1] * 2


@pytest.mark.parametrize(("captions", "texts"), [(1, 8), (2, 16), (0, 16)])
def test_captions_per_image(captions: int, texts: int, clip: DualEncoder, stream: TaskStream) -> None:
    stub = Stub(clip)
    steps_of(stub, stream, steps=1, captions_per_image=captions)
    assert stub.seen == [texts]


def test_a_warm_up_rises_linearly_and_the_cosine_falls(clip: DualEncoder, stream: TaskStream) -> None:
    noted = steps_of(Stub(clip), stream, steps=8, learning_rate=0.4, warmup=0.25)
    cosine = [0.4 * (1 + math.cos(math.pi * share / 6)) / 2 for share in range(6)]
    assert [step.learning_rate for step in noted] == pytest.approx([0.2, 0.4, *cosine])


def test_a_constant_rate_stays_after_the_warm_up(clip: DualEncoder, stream: TaskStream) -> None:
    noted = steps_of(Stub(clip), stream, steps=5, learning_rate=0.4, warmup=0.4, schedule="constant")
    assert [step.learning_rate for step in noted] == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4])


def test_the_rate_that_is_reported_is_the_one_that_was_used(clip: DualEncoder, stream: TaskStream) -> None:
    stub, number = Stub(clip), 1.0
    noted = steps_of(stub, stream, optimiser="sgd", momentum=0.0, clip=0.0, learning_rate=0.1, warmup=0.5)
    for step in noted:
        assert step.parts["pull"] == pytest.approx(number**2, rel=1e-5)
        number -= step.learning_rate * 2 * number
    assert stub.number.item() == pytest.approx(number, rel=1e-5)


def test_a_gradient_is_clipped_to_its_largest_norm(clip: DualEncoder, stream: TaskStream) -> None:
    stub = Stub(clip)
    options: dict[str, Any] = {"steps": 1, "optimiser": "sgd", "learning_rate": 0.1, "schedule": "constant"}
    steps_of(stub, stream, clip=0.5, **options)  # the gradient is 2
    assert stub.number.item() == pytest.approx(1 - 0.1 * 0.5, rel=1e-4)


def test_a_step_tells_what_a_person_wants_to_know(clip: DualEncoder, stream: TaskStream) -> None:
    noted = steps_of(Stub(clip), stream)
    first, last = noted[0], noted[-1]
    assert (first.task, first.epoch, first.epochs) == ("warm", 0, 2)
    assert first.parts.keys() == {"pull", "other"}
    assert first.loss == pytest.approx(1.5) == sum(first.parts.values())
    assert first.pairs_per_second > 0
    assert first.seconds_left > last.seconds_left == 0


def test_accumulated_gradients_are_averaged_over_the_batches(
    build: Callable[..., LPI], stream: TaskStream, learn: Learn
) -> None:
    options: dict[str, Any] = {"optimiser": "sgd", "momentum": 0.0, "clip": 0.0, "learning_rate": 0.5}
    model = build(start="paper")
    learn_task(model, stream.tasks[0], settings=settings(steps=1, batch=5, accumulate=3, **options), seed=3)

    plain = learn(build(start="paper"), stream.tasks[:1], seed=3, steps=None, epochs=0)
    training = TrainingSet(stream.tasks[0], plain.backbone)
    parameters = list(plain.expert(0).requires_grad_(True).parameters())
    source = batches(training.records, training.store, size=5, seed=derived_seed(3, 0, "batches"), epoch=0)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(3):
        batch = next(source)
        ready = TrainingBatch(
            plain.backbone.inputs.normalise(batch.pixels),
            tokens(plain, batch.texts),
            batch.positives,
            batch.owner,
            frozen=lambda: (torch.empty(0), torch.empty(0)),
        )
        loss = torch.stack(list(plain.loss(ready).values())).sum()
        for total, gradient in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
            total += gradient / 3
    expected = [parameter.detach() - 0.5 * g for parameter, g in zip(parameters, gradients, strict=True)]
    for found, wanted in zip(prompts_of(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_batches_left_over_in_an_epoch_make_a_step_of_their_own_weight(
    clip: DualEncoder, stream: TaskStream
) -> None:
    options: dict[str, Any] = {"optimiser": "sgd", "momentum": 0.0, "clip": 0.0, "schedule": "constant"}
    stub = Stub(clip)
    steps_of(stub, stream, steps=2, batch=5, accumulate=3, learning_rate=0.1, **options)
    assert len(stub.seen) == 4
    assert stub.number.item() == pytest.approx(0.8 * 0.8, rel=1e-5)  # not 0.8 * (1 - 0.2 / 3)


# When it can't go on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [True, False])
def test_a_loss_that_is_not_a_number_stops_before_it_does_harm(
    watched: bool, clip: DualEncoder, stream: TaskStream
) -> None:
    stub = method(Stub, clip, broken_from=3)
    with pytest.raises(
        LpiError, match=r"task 'warm', step 3: the loss is nan. Lower training.learning_rate \(now 0.01"
    ):
        learn_task(stub, stream.tasks[0], settings=settings(), on_step=(lambda step: None) if watched else None)
    assert math.isfinite(stub.number.item())


def test_losses_that_are_looked_at_later_are_reported_all_and_stop_by_their_own_step(
    clip: DualEncoder, stream: TaskStream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on an accelerator, where each look waits."""
    monkeypatch.setitem(trainer.UNSEEN, "cpu", 3)
    assert [step.step for step in steps_of(method(Stub, clip), stream)] == [1, 2, 3, 4]
    file, noted = tmp_path / "progress.pt", list[Step]()
    for watch in (noted.append, None):
        stub = method(Stub, clip, broken_from=2)
        with pytest.raises(LpiError, match=r"task 'warm', step 2: the loss is nan"):
            learn_task(stub, stream.tasks[0], settings=settings(), on_step=watch)
    assert not noted
    with pytest.raises(LpiError, match="step 2"):
        learn_task(
            method(Stub, clip, broken_from=2), stream.tasks[0], settings=settings(checkpoint_seconds=0), checkpoint=file
        )
    assert torch.load(io.BytesIO(read_checked(file)))["step"] == 1  # nothing that came of the broken loss is kept


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("injection", ["into", "replace"])
@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_bfloat16_learns_about_the_same_in_float32_parameters(
    injection: str, start: str, build: Callable[..., LPI], stream: TaskStream
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = build(injection=injection, start=start)
        losses[precision] = [step.loss for step in steps_of(model, stream, precision=precision)]
        assert all(parameter.dtype == torch.float32 for parameter in prompts_of(model))
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_frozen_features_are_in_full_precision_whoever_asks_first(
    build: Callable[..., LPI], clip: DualEncoder, stream: TaskStream
) -> None:
    asked_early, alone = TrainingSet(stream.tasks[0], clip), TrainingSet(stream.tasks[0], clip)
    model = build(distill_weight=1.0, semantics="names")  # asks inside the step
    learn_task(model, asked_early, settings=settings(precision="bfloat16"))
    assert asked_early.image_features.dtype == torch.float32
    assert torch.equal(asked_early.image_features, alone.image_features)
    assert torch.equal(asked_early.text_features, alone.text_features)


def test_frozen_features_come_in_the_order_of_their_captions(clip: DualEncoder, stream: TaskStream) -> None:
    training = TrainingSet(stream.tasks[0], clip, batch=3)
    assert len(set(training.captions)) == len(training.captions) == 16
    one_by_one = torch.cat([method("zero_shot", clip).encode_texts([caption]) for caption in training.captions])
    torch.testing.assert_close(training.text_features, one_by_one, rtol=1e-5, atol=1e-6)


# The trunk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["clip", "dinov2-bert", "siglip", "siglip2"])
@pytest.mark.parametrize(("injection", "start"), [("into", "neutral"), ("replace", "paper"), ("add", "neutral")])
def test_keeping_the_states_below_the_prompts_changes_nothing_but_the_time(
    family: str,
    injection: str,
    start: str,
    families: Callable[[str], DualEncoder],
    build: Callable[..., LPI],
    stream: TaskStream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = families(family)
    found = []
    for room in (features.FROZEN_STATES_BYTES, 0):
        monkeypatch.setattr(features, "FROZEN_STATES_BYTES", room)
        model = build(backbone, placement="last", depth=1, injection=injection, start=start)
        assert min(model.frozen_blocks(tower) for tower in backbone.depths) > 0
        learn_task(model, stream.tasks[0], settings=settings(optimiser="sgd"))
        found.append(model)
    for with_trunk, without in zip(prompts_of(found[0]), prompts_of(found[1]), strict=True):
        torch.testing.assert_close(with_trunk, without, rtol=1e-4, atol=1e-5)
    images = [record.picture.open() for record in stream.tasks[0].test]
    torch.testing.assert_close(found[0].encode_images(images), found[1].encode_images(images), rtol=1e-4, atol=1e-5)


def test_the_trunk_runs_once_a_picture(
    build: Callable[..., LPI], clip: DualEncoder, stream: TaskStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, int, int]] = []
    advance = clip.vision.advance

    def noted(state: Any, first: int, stop: int, prompts: Any = None) -> Any:
        ran.append((first, stop, len(state.states)))
        return advance(state, first, stop, prompts)

    monkeypatch.setattr(clip.vision, "advance", noted)
    model = build(placement="last", depth=1, semantics="captions", clusters=1)
    assert model.blocks["vision"] == (2,)
    learn_task(model, stream.tasks[0], settings=settings(steps=4))
    once = [(0, 3, 16), (3, 4, 16)]  # frozen features for the keys, with a look at the states two thirds up
    assert sorted(ran) == sorted([(0, 2, 16), *once, *[(2, 4, 8)] * 4])  # trunk, these, steps


def test_augmented_pictures_have_no_trunk(build: Callable[..., LPI], stream: TaskStream) -> None:
    found = []
    for augment in ("none", "crop_flip"):
        model = build(placement="last", depth=1)
        learn_task(model, stream.tasks[0], settings=settings(augment=augment))
        found.append(prompts_of(model))
    assert not same(*found)


# Checkpoints: see also tests/property/test_resume.py ------------------------------------------------------------------


class Stopped(Exception):  # noqa: N818
    """Stands for a power cut."""


def test_auto_is_bfloat16_where_the_hardware_multiplies_it_and_the_model_is_wide() -> None:
    here = torch.device("cpu")
    able: Any = "bfloat16" if multiplies_bfloat16(here) else "float32"
    assert settled_precision("auto", here, wide=True) == able
    assert settled_precision("auto", here, wide=False) == "float32"
    assert settled_precision("bfloat16", here, wide=False) == "bfloat16"
    assert settled_precision("float32", here, wide=True) == "float32"


def test_a_narrow_model_learns_in_float32_by_itself(clip: DualEncoder, stream: TaskStream) -> None:
    stub = method(Stub, clip)
    learn_task(stub, stream.tasks[0], settings=settings())
    assert stub.product == torch.float32
    learn_task(stub, stream.tasks[1], settings=settings(precision="bfloat16"))
    assert stub.product == torch.bfloat16


def stop_at(number: int) -> Callable[[Step], None]:
    def watch(step: Step) -> None:
        if step.step == number:
            raise Stopped

    return watch


@pytest.fixture
def checkpoint(build: Callable[..., LPI], stream: TaskStream, tmp_path: Path) -> Path:
    file = tmp_path / "progress.pt"
    with pytest.raises(Stopped):
        learn_task(
            build(), stream.tasks[0], settings=settings(checkpoint_seconds=0), checkpoint=file, on_step=stop_at(3)
        )
    return file


def test_a_resumed_task_goes_on_at_the_next_step(
    checkpoint: Path, build: Callable[..., LPI], stream: TaskStream
) -> None:
    noted: list[Step] = []
    learn_task(build(), stream.tasks[0], settings=settings(), checkpoint=checkpoint, on_step=noted.append)
    assert [(step.epoch, step.step) for step in noted] == [(1, 3), (1, 4)]


def test_no_checkpoint_is_written_before_its_time(
    build: Callable[..., LPI], stream: TaskStream, tmp_path: Path
) -> None:
    file = tmp_path / "progress.pt"
    learn_task(build(), stream.tasks[0], settings=settings(checkpoint_seconds=3600), checkpoint=file)
    assert not file.exists()


def test_a_damaged_checkpoint_is_named(checkpoint: Path, build: Callable[..., LPI], stream: TaskStream) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"progress.pt is damaged .*Delete it; the task then starts over"):
        learn_task(build(), stream.tasks[0], settings=settings(), checkpoint=checkpoint)


def test_a_checkpoint_of_another_task_is_refused(
    checkpoint: Path, build: Callable[..., LPI], stream: TaskStream
) -> None:
    with pytest.raises(CheckpointError, match=r"progress.pt belongs to task 'warm', not 'cold'"):
        learn_task(build(), stream.tasks[1], settings=settings(), checkpoint=checkpoint)


def test_a_checkpoint_of_other_options_is_refused(
    checkpoint: Path, build: Callable[..., LPI], stream: TaskStream
) -> None:
    with pytest.raises(CheckpointError, match=r"progress.pt was made with other options"):
        learn_task(build(rank=3), stream.tasks[0], settings=settings(), checkpoint=checkpoint)


def test_what_is_no_task_or_learns_without_end_is_one_line(build: Callable[..., LPI], stream: TaskStream) -> None:
    method = build()
    with pytest.raises(ConfigError, match="a task of a stream is learned; got NoneType"):
        learn_task(method, None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="task 'empty' has no training pictures"):
        learn_task(method, replace(stream.tasks[0], name="empty", train=()))
    with pytest.raises(ConfigError, match="learning_rate"):
        training_for(LPI, {"learning_rate": float("inf")})
