"""What differs between retrieval and other problems; whatever learns, measures and reports asks nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lpi.backbones.base import Problem as ProblemName
from lpi.config import EvaluationSettings, StreamSettings
from lpi.devices import Settled
from lpi.errors import ConfigError, did_you_mean
from lpi.evaluation.records import METRICS, Averages, FrozenRecord, Metrics, Routing, StageRecord
from lpi.features import TrainingData
from lpi.methods.base import FALLBACK
from lpi.tasks.grouping import StreamOf


class Evaluator(Protocol):
    """Measures methods on one stream."""

    def reset(self, precision: Settled | None = None) -> None:
        """Forget what was computed for earlier methods.

        Args:
            precision: what to embed test data in from now on; by default as before, at first float32.
        """

    def frozen(self) -> FrozenRecord:
        """The frozen model in every stage."""

    def stage(self, method: Any, stage: int) -> StageRecord:
        """What a method finds after a stage."""

    def replay(self, method: Any, stages: int) -> None:
        """Encode what an uninterrupted run would have encoded in its first stages, in the same groups.

        The last bits of a feature can depend on what else is in its batch; a resumed run must end with the same ones.
        """


class Diagnosis(Protocol):
    """Further measurements of a run, where the settings ask for them."""

    def of_stage(self, record: StageRecord, method: Any) -> StageRecord:
        """A stage's record with what was measured besides."""

    def of_run(self, method: Any) -> Averages:
        """The share of queries that fell out of the first ten, by direction."""


@dataclass(frozen=True)
class Problem:
    """One kind of experiment: what its tasks are made of, and how they are learned and measured.

    Attributes:
        name: also that of its metrics and figures.
        items: what its tasks are made of, in the plural.
        open_stream: opens the stream that an experiment describes, under a name.
        load_backbone: the frozen model of a name, at an image size or its own.
        notes: what a person should know of a stream with a backbone.
        training_data: a task, ready to be learned from.
        evaluator: measures methods on a stream.
        write_examples: writes what was found before and after, for the report.
        diagnosis: measures further, where ``evaluation.diagnostics`` asks for it.
    """

    name: ProblemName
    items: str
    open_stream: Callable[[StreamSettings, str], StreamOf[Any, Any]]
    load_backbone: Callable[[str, int | None], Any]
    notes: Callable[[Any, Any], Sequence[str]]
    training_data: Callable[[Any, Any], TrainingData]
    evaluator: Callable[[Any, Any, EvaluationSettings], Evaluator]
    write_examples: Callable[[Any, Any, Path, int], None]
    diagnosis: Callable[[Any, Path], Diagnosis] | None = None

    @property
    def metrics(self) -> Metrics:
        """What is measured."""
        return METRICS[self.name]


Stream = TypeVar("Stream", bound=StreamOf[Any, Any])


def open_with(maker: Callable[..., Stream], known: Sequence[str], settings: StreamSettings, name: str) -> Stream:
    """A stream as its maker gives it, ordered and limited as the settings say.

    Args:
        maker: takes the source's keys and ``name``.
        known: the keys that it takes.
        settings: of an experiment.
        name: of the stream.

    Raises:
        ConfigError: a key that the source of this kind doesn't have, or one that it lacks.
        DataError, MissingFileError: as the readers say; or a task has nothing to be tested on.
    """
    for key in settings.source():
        if key not in known:
            near = did_you_mean(key, [*known, *StreamSettings.model_fields])
            raise ConfigError(f"[stream] of kind {settings.kind!r} has no option {key!r}. {near}")
    try:
        stream = maker(name=name, **settings.source())
    except TypeError as error:  # a missing key: the makers know best which
        raise ConfigError(f"[stream] kind = {settings.kind!r}: {str(error).partition('() ')[2] or error}.") from error
    if settings.order is not None:
        stream = stream.ordered(settings.order)
    if settings.measured == "validation":
        stream = stream.on_validation()
    return stream.tested().limited(train=settings.train_limit, test=settings.test_limit, seed=settings.limit_seed)


def routing_of(true: Tensor, routes: Tensor, tasks: int) -> Routing:
    """Where queries were sent.

    Args:
        true: the task of each, int64 [queries].
        routes: the task that each was sent to, FALLBACK for the frozen model, int64 [queries].
        tasks: how many there are.
    """
    column = torch.where(routes == FALLBACK, torch.full_like(routes, tasks), routes)
    counts = torch.bincount(true * (tasks + 1) + column, minlength=tasks * (tasks + 1)).reshape(tasks, tasks + 1)
    return Routing(float((routes == true).float().mean()), counts.tolist())
