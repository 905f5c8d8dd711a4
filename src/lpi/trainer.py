"""The one training loop: seeds, optimiser, schedule, progress, and a checkpoint from which a killed run goes on.

Everything random in a task depends on (seed, task, epoch) alone. A run that was stopped at any instant and started
again therefore sees the same batches and the same numbers, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from lpi.backbones.base import DualEncoder, TowerState, View
from lpi.config import TrainingSettings
from lpi.data.records import CaptionedImage
from lpi.errors import CheckpointError, ConfigError, LpiError, did_you_mean
from lpi.methods import training_of
from lpi.methods.base import Batches, Learner, Method, TaskData, TrainingBatch, begin, chunks, end, no_batches
from lpi.methods.encoder import tokens
from lpi.storage import write_atomically
from lpi.tasks.batches import Augment, Batch, PictureStore, batch_count, batches
from lpi.tasks.stream import Task

FEATURES = View()  # what a router looks at by default
TRUNK_BYTES = 2 * 2**30  # states of the unprompted blocks are kept up to here


def derived_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else, in [0, 2^31)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def pick_device(name: str) -> torch.device:
    """``auto`` takes an accelerator where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has a kind for every reason
        raise ConfigError(f"training.device must be auto, cpu or a device of this machine; got {name!r}.") from error
    return device


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The precision to compute in. ``auto`` keeps float32 on a processor: there the conversions cost what they win."""
    wanted = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def in_full(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast: frozen features are kept and route queries, so they mustn't depend on who asks for them first."""
    return torch.autocast(device.type, enabled=False)


class Epochs(Protocol):
    """Gives one epoch of a task as batches that are ready for the method's loss."""

    def __call__(self, *, seed: int, epoch: int, start: int = 0) -> Iterator[Any]:
        """All of them from batch ``start`` on; what they are depends on ``seed`` and ``epoch`` alone."""


class Material(Protocol):
    """What a task is learned from: pairs of pictures and captions, expressions with boxes, ..

    A batch is whatever the method's ``loss`` takes; its ``texts`` are counted.
    """

    name: str

    def __len__(self) -> int:
        """How many items are cut into batches."""

    def data(self, steps: int = 0, batches: Batches = no_batches) -> TaskData:
        """What a method may look at when the task begins or ends."""

    def once_more(self, method: Any, settings: TrainingSettings) -> Batches:
        """Gives further epochs, outside the training."""

    def epochs(self, method: Any, settings: TrainingSettings) -> Epochs:
        """Gives the epochs of the training."""


class TrainingSet:
    """A task's training pictures, decoded once, and their features under the frozen backbone.

    Args:
        task: whose training pictures.
        backbone: the frozen model.
        batch: pictures or captions encoded at once.
    """

    def __init__(self, task: Task, backbone: DualEncoder, *, batch: int = 128) -> None:
        self.name = task.name
        self.records: Sequence[CaptionedImage] = task.train
        self.backbone = backbone
        inputs = backbone.inputs
        self.store = PictureStore([r.picture for r in self.records], inputs.prepare, side=min(inputs.image_size))
        self.captions = list(dict.fromkeys(caption for record in self.records for caption in record.captions))
        self.caption_row = {caption: row for row, caption in enumerate(self.captions)}
        self.batch = batch
        self._views: dict[tuple[str, View], Tensor] = {}

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def image_features(self) -> Tensor:
        """Unprompted, L2-normalised, [pictures, features]."""
        return plain_image_features(self.backbone, self.store, self.batch)

    @cached_property
    def text_features(self) -> Tensor:
        """Unprompted, L2-normalised, of every different caption, [captions, features]."""
        return plain_text_features(self.backbone, self.captions, self.batch)

    def data(self, steps: int = 0, batches: Batches = no_batches) -> TaskData:
        """What a method may look at."""
        return TaskData(self.name, self, self.captions, steps, batches, self.view)

    def view(self, tower: str, view: View) -> Tensor:
        """Pictures or different captions as a router looks at them, [items, width of the view], L2-normalised."""
        if view == View():
            return self.image_features if tower == "vision" else self.text_features
        if (tower, view) not in self._views:
            if tower == "vision":
                self._views[tower, view] = plain_image_features(self.backbone, self.store, self.batch, view)
            else:
                self._views[tower, view] = plain_text_features(self.backbone, self.captions, self.batch, view)
        return self._views[tower, view]

    def once_more(self, method: Method, settings: TrainingSettings) -> Batches:
        """Gives further epochs of the same pairs, outside the training."""

        def epoch(*, seed: int, captions: int = 1) -> Iterator[TrainingBatch]:
            source = batches(
                self.records,
                self.store,
                size=settings.batch,
                captions_per_image=captions,
                equal_captions=settings.equal_captions,
                seed=seed,
                epoch=0,
            )
            return (self.ready(batch, method) for batch in source)

        return epoch

    def epochs(self, method: Method, settings: TrainingSettings) -> Epochs:
        """See :class:`Material`. Blocks that no prompt enters are run here, once for all epochs."""
        augment = None if settings.augment == "none" else Augment(kind=settings.augment)
        blocks = method.frozen_blocks()
        trunk = None if blocks == 0 or augment is not None else trunk_states(self.backbone, self.store, blocks)

        def give(*, seed: int, epoch: int, start: int = 0) -> Iterator[TrainingBatch]:
            source = batches(
                self.records,
                self.store,
                size=settings.batch,
                captions_per_image=settings.captions_per_image,
                equal_captions=settings.equal_captions,
                augment=augment,
                seed=seed,
                epoch=epoch,
                start=start,
            )
            return (self.ready(batch, method, trunk) for batch in source)

        return give

    def ready(self, batch: Batch, method: Method, trunk: TowerState | None = None) -> TrainingBatch:
        """A batch as a method takes it.

        Args:
            batch: of this task.
            method: tokenises the captions, and says where the tensors go.
            trunk: states of all pictures after the method's trunk, instead of the batch's pixels.
        """
        images: Tensor | TowerState
        if trunk is None:
            images = self.backbone.inputs.normalise(batch.pixels.to(method.backbone.device))
        else:
            images = replace(trunk, states=trunk.states[batch.indices])
        rows = [self.caption_row[text] for text in batch.texts]
        return TrainingBatch(
            images=images,
            texts=tokens(method, batch.texts),
            positives=batch.positives.to(method.backbone.device),
            owner=batch.owner.to(method.backbone.device),
            plain=lambda: (self.image_features[batch.indices], self.text_features[rows]),
            picture_rows=batch.indices,
            caption_rows=torch.tensor(rows, dtype=torch.int64),
        )


@torch.no_grad()
def plain_image_features(backbone: DualEncoder, store: PictureStore, batch: int, view: View = FEATURES) -> Tensor:
    """Unprompted, L2-normalised features of all pictures in a store, [pictures, features]; or another view of them."""
    device = backbone.logit_scale.device
    parts = []
    with in_full(device):
        for start in range(0, len(store), batch):
            pixels = store.pixels(range(start, min(start + batch, len(store)))).to(device)
            parts.append(backbone.view_images(backbone.inputs.normalise(pixels), view))
    return torch.cat(parts)


@torch.no_grad()
def trunk_states(backbone: DualEncoder, store: PictureStore, blocks: int, *, batch: int = 64) -> TowerState | None:
    """States of all pictures after the lowest ``blocks`` vision blocks; ``None`` if they would fill the memory."""
    device, vision = backbone.logit_scale.device, backbone.vision
    parts: list[Tensor] = []
    state: TowerState | None = None
    for start in range(0, len(store), batch):
        pixels = store.pixels(range(start, min(start + batch, len(store)))).to(device)
        state = vision.advance(vision.begin(backbone.inputs.normalise(pixels)), 0, blocks)
        if state.states[0].nbytes * len(store) > TRUNK_BYTES:
            return None
        parts.append(state.states)
    return None if state is None else replace(state, states=torch.cat(parts))


@torch.no_grad()
def plain_text_features(backbone: DualEncoder, texts: Sequence[str], batch: int, view: View = FEATURES) -> Tensor:
    """Unprompted, L2-normalised features of captions, [captions, features]; or another view of them.

    Batched by length, so that little is padding.
    """
    device = backbone.logit_scale.device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = torch.empty(len(texts), backbone.view_width("text", view), device=device)
    for rows in chunks(order, batch):  # type: ignore[arg-type]
        tokens = backbone.inputs.tokenize([texts[row] for row in rows]).to(device)  # type: ignore[call-overload]
        with in_full(device):
            features[list(rows)] = backbone.view_texts(tokens, view)
    return features


@dataclass(frozen=True)
class Step:
    """What a person wants to know of a step."""

    task: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    parts: dict[str, float]
    learning_rate: float
    pairs_per_second: float
    seconds_left: float


OnStep = Callable[[Step], None]


def training_for(method: type[Learner], given: Mapping[str, Any], *, preset: str | None = None) -> TrainingSettings:
    """Training settings for a method: those that are given, then its preset's, then its own, then everybody's.

    Raises:
        ConfigError: a setting that training doesn't have, or a wrong value.
    """
    known = TrainingSettings.model_fields
    for name in given:
        if name not in known:
            raise ConfigError(f"training has no option {name!r}. {did_you_mean(name, known)}")
    try:
        return TrainingSettings.model_validate({**training_of(method, preset), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"training: {first['loc'][0]}: {first['msg']}; got {first['input']!r}.") from error


def learn_task(
    method: Learner,
    task: Task | Material,
    *,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> float:
    """Teach a method one task.

    Args:
        method: what learns, in place.
        task: the task, or what it is learned from.
        settings: how; by default the method's own, see :func:`training_for`.
        seed: decides initial values, order, captions and augmentation.
        checkpoint: a file to go on from if it is there, rewritten during the task and removed by the caller.
        on_step: told about every step.

    Returns:
        Pairs a second over the whole training.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another task.
        LpiError: the loss is no longer a number.
    """
    settings = settings or training_for(type(method), {}, preset=method.options.preset)
    method.to(pick_device(settings.device))
    training: Material = TrainingSet(task, method.backbone) if isinstance(task, Task) else task
    index = len(method.tasks)
    per_epoch = math.ceil(batch_count(len(training), size=settings.batch) / settings.accumulate)  # steps
    epochs = settings.epochs if settings.steps is None else math.ceil(settings.steps / per_epoch)
    total = epochs * per_epoch if settings.steps is None else settings.steps
    generator = torch.Generator().manual_seed(derived_seed(seed, index, "start"))
    data = training.data(total, training.once_more(method, settings))
    begin(method, data, generator)
    parameters = method.trainable()
    speed = 0.0
    if parameters and total > 0:
        loop = _Loop(method, training, settings, parameters, epochs=epochs, total=total)
        speed = loop.run(seed=derived_seed(seed, index, "batches"), checkpoint=checkpoint, on_step=on_step)
    end(method, data, torch.Generator().manual_seed(derived_seed(seed, index, "end")))
    return speed


def own_buffers(method: Learner) -> Iterator[tuple[str, Tensor]]:
    """A method's buffers that aren't the frozen backbone's, by name: beside its parameters, they change in a task."""
    frozen = {id(buffer) for buffer in method.backbone.buffers()}
    return ((name, buffer) for name, buffer in method.named_buffers() if id(buffer) not in frozen)


class _Loop:
    """The steps of one task."""

    def __init__(
        self,
        method: Learner,
        training: Material,
        settings: TrainingSettings,
        parameters: list[torch.nn.Parameter],
        *,
        epochs: int,
        total: int,
    ) -> None:
        self.method, self.training, self.settings, self.parameters = method, training, settings, parameters
        self.epochs, self.total = epochs, total
        self.device = method.backbone.device
        if settings.optimiser == "adamw":
            self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(
                parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
            )
        else:
            self.optimiser = torch.optim.SGD(
                parameters, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
            )
        self.batches = training.epochs(method, settings)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        s = self.settings
        warm = round(s.warmup * self.total)
        if step < warm:
            return s.learning_rate * (step + 1) / warm
        if s.schedule == "constant":
            return s.learning_rate
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.total - warm)))

    def run(self, *, seed: int, checkpoint: Path | None, on_step: OnStep | None) -> float:
        """All steps that are left; returns pairs a second."""
        s = self.settings
        count = batch_count(len(self.training), size=s.batch)
        epoch, first, step = self._resume(checkpoint)
        started = saved = time.monotonic()
        pairs = 0
        begun = step
        while step < self.total:
            source = self.batches(seed=seed, epoch=epoch, start=first)
            for number, batch in enumerate(source, start=first):
                in_step = min(s.accumulate, count - number // s.accumulate * s.accumulate)  # an epoch's last has fewer
                parts = self._backward(batch, share=1 / in_step)
                self._check(parts["loss"], step)
                pairs += len(batch.texts)
                if (number + 1) % s.accumulate and number + 1 < count:
                    continue
                self._update(step)
                step += 1
                if on_step is not None:
                    passed = time.monotonic() - started
                    left = passed / (step - begun) * (self.total - step)
                    on_step(self._report(epoch, step, parts, pairs / max(passed, 1e-9), left))
                if step >= self.total:
                    break
                if checkpoint is not None and time.monotonic() - saved >= s.checkpoint_seconds:
                    self._save(checkpoint, epoch, number + 1, step)
                    saved = time.monotonic()
            epoch, first = epoch + 1, 0
        return pairs / max(time.monotonic() - started, 1e-9)

    def _backward(self, batch: Any, *, share: float) -> dict[str, Tensor]:
        with autocast(self.settings.precision, self.device):
            parts = self.method.loss(batch)
            loss = torch.stack(list(parts.values())).sum()
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in {"loss": loss, **parts}.items()}

    def _check(self, loss: Tensor, step: int) -> None:
        if not math.isfinite(float(loss)):  # before the step: what was learned so far stays a number
            raise LpiError(
                f"task {self.training.name!r}, step {step + 1}: the loss is {float(loss)}. Lower "
                f"training.learning_rate (now {self.settings.learning_rate}), or set training.clip."
            )

    def _update(self, step: int) -> None:
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _report(self, epoch: int, step: int, parts: dict[str, Tensor], speed: float, left: float) -> Step:
        values = {name: float(value) for name, value in parts.items()}
        loss = values.pop("loss")
        name = self.training.name
        return Step(name, epoch, self.epochs, step, self.total, loss, values, self.rate(step - 1), speed, left)

    def _save(self, checkpoint: Path, epoch: int, batch: int, step: int) -> None:
        content = {
            "task": self.training.name,
            "epoch": epoch,
            "batch": batch,
            "step": step,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimiser": self.optimiser.state_dict(),
            "buffers": dict(own_buffers(self.method)),
        }
        write_atomically(checkpoint, lambda file: torch.save(content, file))

    def _resume(self, checkpoint: Path | None) -> tuple[int, int, int]:
        """Epoch, batch of that epoch and step to go on from."""
        if checkpoint is None or not checkpoint.exists():
            return 0, 0, 0
        again = "Delete it; the task then starts over."
        try:
            content = torch.load(checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # a damaged pickle fails in many ways
            raise CheckpointError(f"{checkpoint} is damaged ({error}). {again}") from error
        if content["task"] != self.training.name:
            raise CheckpointError(
                f"{checkpoint} belongs to task {content['task']!r}, not {self.training.name!r}. {again}"
            )
        if [value.shape for value in content["parameters"]] != [value.shape for value in self.parameters]:
            raise CheckpointError(f"{checkpoint} was made with other options: its tensors have other shapes. {again}")
        with torch.no_grad():
            for parameter, value in zip(self.parameters, content["parameters"], strict=True):
                parameter.copy_(value)
        self.optimiser.load_state_dict(content["optimiser"])
        buffers = dict(own_buffers(self.method))
        if {name: value.shape for name, value in content["buffers"].items()} != {
            n: b.shape for n, b in buffers.items()
        }:
            raise CheckpointError(f"{checkpoint} was made with other options: its buffers have other shapes. {again}")
        for name, value in content["buffers"].items():
            buffers[name].copy_(value)
        return content["epoch"], content["batch"], content["step"]
