"""The one training loop: seeds, optimiser, schedule, progress, and a checkpoint from which a killed run goes on.

Everything random in a task depends on (seed, task, epoch) alone. A run that was stopped at any instant and started
again therefore sees the same batches and the same numbers, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from lpi.backbones.kernels import WIDE
from lpi.config import TrainingSettings
from lpi.devices import autocast, pick_device, settled_precision
from lpi.errors import CheckpointError, ConfigError, DataError, LpiError, did_you_mean
from lpi.features import TrainingData, TrainingSet, task_of_pairs
from lpi.methods import training_of
from lpi.methods.base import Learner, begin, end
from lpi.processes import average_gradients
from lpi.storage import read_checked, write_checked
from lpi.tasks.batches import batch_count
from lpi.tasks.stream import Task

UNSEEN = {"cpu": 1}
"""Steps between two looks at their losses, by kind of device; 16 elsewhere, where each look waits for the device."""
START_OVER = "Delete it; the task then starts over."


def derived_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else, in [0, 2^31)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


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


def named_task(method: Learner, task: Any, name: str | None = None) -> Task | TrainingData:
    """What a person gave to be learned, as a task of a name.

    Raises:
        ConfigError: it can't be learned, or not by this method.
    """
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ConfigError(f"a task's name must be a text; got {name!r}.")
    if hasattr(task, "epochs"):
        return task  # type: ignore[no-any-return]
    if method.problem != "retrieval":
        raise ConfigError(f"{type(method).__name__} learns expressions with boxes. Teach it with: lpi run")
    if isinstance(task, Task):
        return task if name is None else replace(task, name=name)
    return task_of_pairs(task, name or f"task-{len(method.tasks) + 1}")


def learn_task(
    method: Learner,
    task: Task | TrainingData,
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
    task = named_task(method, task)
    training: TrainingData = TrainingSet(task, method.backbone) if isinstance(task, Task) else task
    if not len(training):
        raise DataError(f"task {training.name!r} has no training pictures. Give it some.")
    index = len(method.tasks)
    per_epoch = math.ceil(batch_count(len(training), size=settings.batch) / settings.accumulate)  # steps
    epochs = settings.epochs if settings.steps is None else math.ceil(settings.steps / per_epoch)
    total = epochs * per_epoch if settings.steps is None else settings.steps
    generator = torch.Generator().manual_seed(derived_seed(seed, index, "start"))
    router = method.router
    looks = {} if router is None else {tower: router.look(tower) for tower in method.backbone.depths}
    data = training.data(total, training.once_more(method, settings), looks)
    begin(method, data, generator)
    parameters = method.trainable()
    speed = 0.0
    if parameters and total > 0:
        loop = _Loop(method, training, settings, parameters, epochs=epochs, total=total)
        speed = loop.run(seed=derived_seed(seed, index, "batches"), checkpoint=checkpoint, on_step=on_step)
        loop.check_finite()
    end(method, data, torch.Generator().manual_seed(derived_seed(seed, index, "end")))
    return speed


def is_wide(method: Learner) -> bool:
    """Whether a method gains from a processor's bfloat16; detectors' boxes were only ever measured in float32."""
    return method.problem == "retrieval" and min(method.backbone.widths.values()) >= WIDE


def own_buffers(method: Learner) -> Iterator[tuple[str, Tensor]]:
    """A method's buffers that aren't the frozen backbone's, by name: beside its parameters, they change in a task."""
    frozen = {id(buffer) for buffer in method.backbone.buffers()}
    return ((name, buffer) for name, buffer in method.named_buffers() if id(buffer) not in frozen)


class _Loop:
    """The steps of one task."""

    def __init__(
        self,
        method: Learner,
        training: TrainingData,
        settings: TrainingSettings,
        parameters: list[torch.nn.Parameter],
        *,
        epochs: int,
        total: int,
    ) -> None:
        self.method, self.training, self.settings, self.parameters = method, training, settings, parameters
        self.epochs, self.total = epochs, total
        self.device = method.backbone.device
        self.precision = settled_precision(settings.precision, self.device, wide=is_wide(method))
        self.unseen = UNSEEN.get(self.device.type, 16)
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
        losses: list[tuple[int, Tensor]] = []  # that nobody has looked at
        reports: list[tuple[int, int, dict[str, Tensor], float, float]] = []
        while step < self.total:
            source = self.batches(seed=seed, epoch=epoch, start=first)
            for number, batch in enumerate(source, start=first):
                in_step = min(s.accumulate, count - number // s.accumulate * s.accumulate)  # an epoch's last has fewer
                parts = self._backward(batch, share=1 / in_step)
                losses.append((step, parts["loss"]))
                if len(losses) >= self.unseen:
                    self._check(losses)
                pairs += len(batch.texts)
                if (number + 1) % s.accumulate and number + 1 < count:
                    continue
                self._update(step)
                step += 1
                if on_step is not None:
                    passed = time.monotonic() - started
                    left = passed / (step - begun) * (self.total - step)
                    reports.append((epoch, step, parts, pairs / max(passed, 1e-9), left))
                    if len(reports) >= self.unseen or step >= self.total:
                        self._check(losses)
                        for report in reports:
                            on_step(self._report(*report))
                        reports.clear()
                if step >= self.total:
                    break
                if checkpoint is not None and time.monotonic() - saved >= s.checkpoint_seconds:
                    self._check(losses)
                    self._save(checkpoint, epoch, number + 1, step)
                    saved = time.monotonic()
            epoch, first = epoch + 1, 0
        self._check(losses)
        return pairs / max(time.monotonic() - started, 1e-9)

    def _backward(self, batch: Any, *, share: float) -> dict[str, Tensor]:
        with autocast(self.precision, self.device):
            parts = self.method.loss(batch)
            loss = torch.stack(list(parts.values())).sum()
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in {"loss": loss, **parts}.items()}

    def _check(self, losses: list[tuple[int, Tensor]]) -> None:
        """Look at the losses of some steps at once, and empty the list: each look waits for the device.

        Raises:
            LpiError: one isn't finite; what was learned is lost where it was seen late, but no checkpoint has it.
        """
        values = torch.stack([loss for _, loss in losses]).tolist() if losses else []
        for (step, _), loss in zip(losses, values, strict=True):
            if not math.isfinite(loss):
                raise LpiError(
                    f"task {self.training.name!r}, step {step + 1}: the loss is {loss}. Lower "
                    f"training.learning_rate (now {self.settings.learning_rate}), or set training.clip."
                )
        losses.clear()

    def check_finite(self) -> None:
        """Refuse parameters that the last step, whose loss nobody saw, left without a number.

        Raises:
            LpiError: there are such.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise LpiError(
                f"task {self.training.name!r}: what was learned isn't finite. Lower training.learning_rate (now "
                f"{self.settings.learning_rate}), or set training.clip."
            )

    def _update(self, step: int) -> None:
        average_gradients(self.parameters)
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
        held = io.BytesIO()
        torch.save(content, held)
        write_checked(checkpoint, held.getvalue())

    def _resume(self, checkpoint: Path | None) -> tuple[int, int, int]:
        """Epoch, batch of that epoch and step to go on from."""
        if checkpoint is None or not checkpoint.exists():
            return 0, 0, 0
        content = read_progress(checkpoint, self.device)
        if content["task"] != self.training.name:
            raise CheckpointError(
                f"{checkpoint} belongs to task {content['task']!r}, not {self.training.name!r}. {START_OVER}"
            )
        if [value.shape for value in content["parameters"]] != [value.shape for value in self.parameters]:
            raise CheckpointError(
                f"{checkpoint} was made with other options: its tensors have other shapes. {START_OVER}"
            )
        with torch.no_grad():
            for parameter, value in zip(self.parameters, content["parameters"], strict=True):
                parameter.copy_(value)
        self.optimiser.load_state_dict(content["optimiser"])
        buffers = dict(own_buffers(self.method))
        if {name: value.shape for name, value in content["buffers"].items()} != {
            n: b.shape for n, b in buffers.items()
        }:
            raise CheckpointError(
                f"{checkpoint} was made with other options: its buffers have other shapes. {START_OVER}"
            )
        for name, value in content["buffers"].items():
            buffers[name].copy_(value)
        return content["epoch"], content["batch"], content["step"]


def read_progress(checkpoint: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a task that was cut short left to go on from.

    Raises:
        CheckpointError: it is damaged, or something else.
    """
    try:
        content = torch.load(io.BytesIO(read_checked(checkpoint)), map_location=device, weights_only=True)
    except Exception as error:  # a damaged pickle fails in many ways
        raise CheckpointError(f"{checkpoint} is damaged ({type(error).__name__}). {START_OVER}") from error
    parts = {"task", "epoch", "batch", "step", "parameters", "optimiser", "buffers"}
    if not isinstance(content, dict) or not content.keys() >= parts:
        raise CheckpointError(f"{checkpoint} is of something else or of another version. {START_OVER}")
    return content
