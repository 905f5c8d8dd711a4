"""What a run measures, as typed records: a stage's, the whole run's, and the way from the one to the other.

A record holds each metric by its name (``t2i_r1`` is text-to-image recall@1, ``p5`` precision at 5 boxes), as a
fraction; per task as a list in the order of learning. On disk a record is its fields as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from lpi.errors import CheckpointError, DataError
from lpi.metrics.continual import (
    Matrix,
    authors_average,
    authors_forgetting,
    backward_transfer,
    final_average,
    forward_transfer,
    mean,
    retention,
    routing_accuracy,
)
from lpi.storage import read_json, sealed, unsealed, write_json

FORMAT = 2
"""Of the records in run folders: raised when they are written otherwise."""
PerTask = dict[str, list[float]]
"""For each metric one figure a task."""
Averages = dict[str, float]
"""For each metric one figure."""
Record = TypeVar("Record")


@dataclass(frozen=True)
class Metrics:
    """The metrics of a problem.

    Attributes:
        measured: names of what is measured.
        combined: means of several of these, by name.
        main: the one that methods are ranked and tuned by.
        label: what a person reads for it.
    """

    measured: tuple[str, ...]
    combined: Mapping[str, tuple[str, ...]]
    main: str
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """All metrics, the combined ones first."""
        return (*self.combined, *self.measured)

    def per_task(self, measured: PerTask, name: str) -> list[float]:
        """One metric of every task, be it measured or combined."""
        if name not in self.combined:
            return list(measured[name])
        parts = [measured[part] for part in self.combined[name]]
        return [sum(values) / len(values) for values in zip(*parts, strict=True)]

    def single(self, measured: Averages, name: str) -> float:
        """One metric of a record without tasks."""
        return self.per_task({key: [value] for key, value in measured.items()}, name)[0]


METRICS = {
    "retrieval": Metrics(
        measured=tuple(f"{direction}_r{k}" for direction in ("t2i", "i2t") for k in (1, 5, 10)),
        combined={f"r{k}": (f"t2i_r{k}", f"i2t_r{k}") for k in (1, 5, 10)},
        main="r1",
        label="R@1",
    ),
    "grounding": Metrics(measured=("p1", "p5", "p10"), combined={}, main="p1", label="P@1"),
}
"""The metrics of each problem, by its name."""


@dataclass(frozen=True)
class Routing:
    """Where the queries of a tower were sent: rows are true tasks, columns chosen ones, the last the frozen model."""

    accuracy: float
    confusion: list[list[int]]


@dataclass(frozen=True)
class Seconds:
    """How long something took."""

    train: float
    evaluate: float


@dataclass(frozen=True)
class Parameters:
    """Numbers that one task may change, and numbers and bytes that are kept beside the frozen model."""

    trainable: int
    stored: int
    bytes: int


@dataclass(frozen=True)
class StageRecord:
    """What was measured after a task was learned.

    Attributes:
        stage: the task's place in the stream.
        task: its name.
        seen: each task seen so far, among the test data of all of them.
        items: at the end, what each test item adds to the main metric, by task: the mean over a task's items is its
            figure.
        fixed: the same tasks among the test data of all tasks, those to come included.
        oracle: with the true task given.
        cosine: where routing enters the score, without that.
        frozen: the frozen model with the same routing in its score.
        next: the task that comes next, before it is learned.
        held_out: data that no task learns from.
        everything: the same queries among the test data of all tasks as well.
        routing: by tower, or ``both`` where a query is routed as a whole.
        protocols: under other papers' protocols, by their names.
        neighbour_overlap: the share of ten nearest neighbours that stayed since the stage before, by direction.
        seconds: of this stage.
        pairs_per_second: of the training.
        peak_mb: the highest memory use so far.
        parameters: see :class:`Parameters`.
    """

    stage: int
    task: str
    seen: PerTask
    items: list[list[float]] | None = None
    fixed: PerTask | None = None
    oracle: PerTask | None = None
    cosine: PerTask | None = None
    frozen: PerTask | None = None
    next: Averages | None = None
    held_out: Averages | None = None
    everything: Averages | None = None
    routing: dict[str, Routing] | None = None
    protocols: dict[str, PerTask] | None = None
    neighbour_overlap: Averages | None = None
    seconds: Seconds | None = None
    pairs_per_second: float | None = None
    peak_mb: float | None = None
    parameters: Parameters | None = None

    @property
    def tasks(self) -> int:
        """How many tasks were measured."""
        return len(next(iter(self.seen.values())))


@dataclass(frozen=True)
class FrozenRecord:
    """The frozen model in every stage."""

    stages: list[StageRecord]


@dataclass(frozen=True)
class RunRecord:
    """The figures of a whole run; one that couldn't be measured is ``None``.

    Attributes:
        tasks: how many there are.
        joint: whether all of them were learned at once: there is a final figure then, and nothing to forget.
        final: after the last stage, mean over tasks.
        average: each task's mean over the stages since it was learned (:func:`lpi.metrics.continual.authors_average`).
        forgetting: see :func:`lpi.metrics.continual.authors_forgetting`.
        bwt: see :func:`lpi.metrics.continual.backward_transfer`.
        frozen: the frozen model after the last stage.
        forgetting_fixed: forgetting among the test data of all tasks.
        fwt: see :func:`lpi.metrics.continual.forward_transfer`.
        oracle: with the true task given, after the last stage; likewise ``cosine`` and ``frozen_with_routing``,
            see :class:`StageRecord`.
        held_out: data that no task learns from, at the end.
        held_out_frozen: the frozen model on it.
        retention: the main metric's share that is left there.
        retention_everything: likewise, where its queries are searched among the test data of all tasks as well.
        routing_accuracy: by tower, and ``both``: their mean.
        neighbour_overlap: mean over stages, by direction.
        fell_out_of_10: the share of queries that lost their place among the first ten, by direction.
        trainable_per_task: numbers that a task may change.
        stored_numbers: numbers kept beside the frozen model.
        stored_bytes: likewise in bytes.
        peak_mb: the highest memory use.
        seconds: over all stages.
    """

    tasks: int
    joint: bool
    final: Averages
    average: Averages
    forgetting: Averages
    bwt: Averages
    frozen: Averages | None = None
    forgetting_fixed: Averages | None = None
    fwt: Averages | None = None
    oracle: Averages | None = None
    cosine: Averages | None = None
    frozen_with_routing: Averages | None = None
    held_out: Averages | None = None
    held_out_frozen: Averages | None = None
    retention: float | None = None
    retention_everything: float | None = None
    routing_accuracy: Averages | None = None
    neighbour_overlap: Averages | None = None
    fell_out_of_10: Averages | None = None
    trainable_per_task: int | None = None
    stored_numbers: int | None = None
    stored_bytes: int | None = None
    peak_mb: float | None = None
    seconds: Seconds | None = None


def first_tasks(measured: PerTask, tasks: int) -> PerTask:
    """The first tasks' figures."""
    return {name: values[:tasks] for name, values in measured.items()}


# ---- on disk ---------------------------------------------------------------------------------------------------------


def write_record(path: Path, record: StageRecord | FrozenRecord | RunRecord) -> None:
    """Write a record as JSON, with a checksum by which :func:`read_record` knows damage."""
    write_json(path, sealed(asdict(record)))


def read_record(kind: type[Record], path: Path) -> Record:
    """Read a record.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, or something else.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(unsealed(path, read_json(path))), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if not place:
            raise CheckpointError(
                f"{path}: {first['msg']}; got {type(first['input']).__name__}. Run it again."
            ) from error
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        raise CheckpointError(f'{path}: "{place}": {first["msg"]}; got {found}. Run it again.') from error


def read_stages(folder: Path) -> list[StageRecord]:
    """The stages of a run folder that were measured, in the order of learning."""
    return [read_record(StageRecord, path) for path in sorted((folder / "stages").glob("*.json"))]


# ---- from stages to a run's figures ----------------------------------------------------------------------------------


def is_joint(stages: Sequence[StageRecord]) -> bool:
    """Whether all tasks were learned at once: a single stage with several tasks in it."""
    return len(stages) == 1 and stages[0].tasks > 1


def matrix_of(stages: Sequence[StageRecord], metrics: Metrics, name: str = "") -> list[list[float]]:
    """The task matrix of one metric, by default the main one: row t has the tasks seen after stage t."""
    return [metrics.per_task(stage.seen, name or metrics.main) for stage in stages]


def summarise(
    stages: Sequence[StageRecord],
    frozen: Sequence[StageRecord] | None,
    metrics: Metrics,
    *,
    fell_out_of_10: Averages | None = None,
) -> RunRecord:
    """The figures of a run from its stages.

    Args:
        stages: in the order of learning; at least one.
        frozen: the frozen model in the same stages, and maybe in later ones; ``None`` where nobody measured it.
        metrics: of the problem.
        fell_out_of_10: see :class:`RunRecord`; stages don't say.

    Raises:
        DataError: the stages don't form a task matrix, or the frozen model has fewer of them.
    """
    if not stages:
        raise DataError("a summary needs at least one stage.")
    last, joint = stages[-1], is_joint(stages)
    before = None if frozen is None else _last_of(frozen, stages)
    seen, fixed = [stage.seen for stage in stages], [stage.fixed for stage in stages if stage.fixed is not None]
    held_out, held_out_frozen = _single(last.held_out, metrics), _single(before.held_out if before else None, metrics)
    kept = last.parameters
    return RunRecord(
        tasks=last.tasks,
        joint=joint,
        final=_averaged(final_average, seen, metrics, joint=joint),
        average=_averaged(authors_average, seen, metrics, joint=joint),
        forgetting=_averaged(authors_forgetting, seen, metrics, joint=joint),
        bwt=_averaged(backward_transfer, seen, metrics, joint=joint),
        frozen=_means(before.seen if before else None, metrics),
        forgetting_fixed=_averaged(authors_forgetting, fixed, metrics)
        if len(fixed) == len(stages) and not joint
        else None,
        fwt=None if frozen is None else _forward(stages, frozen, metrics),
        oracle=_means(last.oracle, metrics),
        cosine=_means(last.cosine, metrics),
        frozen_with_routing=_means(last.frozen, metrics),
        held_out=held_out,
        held_out_frozen=held_out_frozen,
        retention=_left(held_out, held_out_frozen, metrics),
        retention_everything=_left(
            _single(last.everything, metrics), _single(before.everything if before else None, metrics), metrics
        ),
        routing_accuracy=_routing(last.routing),
        neighbour_overlap=_overlap(stages),
        fell_out_of_10=fell_out_of_10,
        trainable_per_task=None if kept is None else kept.trainable,
        stored_numbers=None if kept is None else kept.stored,
        stored_bytes=None if kept is None else kept.bytes,
        peak_mb=max((stage.peak_mb for stage in stages if stage.peak_mb is not None), default=None),
        seconds=_seconds(stages),
    )


def _left(found: Averages | None, frozen: Averages | None, metrics: Metrics) -> float | None:
    """The share of the frozen model's main metric that is left."""
    if not found or not frozen or not frozen[metrics.main]:
        return None
    return retention(found[metrics.main], frozen[metrics.main])


def _averaged(
    figure: Callable[[Matrix], float], rows: Sequence[PerTask], metrics: Metrics, *, joint: bool = False
) -> Averages:
    """A figure of each metric's task matrix.

    Joint training is one stage with all tasks in it: as a task matrix, a single task with their mean.
    """
    matrices = {name: [metrics.per_task(row, name) for row in rows] for name in metrics.names}
    return {name: figure([[mean(matrix[0])]] if joint else matrix) for name, matrix in matrices.items()}


def _means(measured: PerTask | None, metrics: Metrics) -> Averages | None:
    """The mean over tasks of each metric."""
    return None if measured is None else {name: mean(metrics.per_task(measured, name)) for name in metrics.names}


def _single(measured: Averages | None, metrics: Metrics) -> Averages | None:
    """Each metric of a record without tasks, the combined ones too."""
    return None if measured is None else {name: metrics.single(measured, name) for name in metrics.names}


def _last_of(frozen: Sequence[StageRecord], stages: Sequence[StageRecord]) -> StageRecord:
    """The frozen model's stage with as many tasks as the run ends with."""
    if len(frozen) < len(stages):
        raise DataError(f"the frozen model has {len(frozen)} stages; the run has {len(stages)}. Evaluate it again.")
    seen = stages[-1].tasks
    found = next((stage for stage in frozen if stage.tasks == seen), None)
    if found is None:
        raise DataError(f"the frozen model has no stage of {seen} tasks, which the run ends with. Evaluate it again.")
    return found


def _forward(stages: Sequence[StageRecord], frozen: Sequence[StageRecord], metrics: Metrics) -> Averages | None:
    """Forward transfer over the stages that looked at the next task; ``None`` when none did."""
    looked = [
        (own.next, before.next)
        for own, before in zip(stages, frozen, strict=False)  # the frozen model may know of later stages
        if own.next and before.next
    ]
    if not looked:
        return None
    return {
        name: forward_transfer(
            [metrics.single(own, name) for own, _ in looked], [metrics.single(before, name) for _, before in looked]
        )
        for name in metrics.names
    }


def _routing(routing: Mapping[str, Routing] | None) -> Averages | None:
    if not routing:
        return None
    accuracy = {tower: routing_accuracy(found.confusion) for tower, found in routing.items()}
    return {**accuracy, "both": mean(list(accuracy.values()))}


def _overlap(stages: Sequence[StageRecord]) -> Averages | None:
    overlaps = [stage.neighbour_overlap for stage in stages if stage.neighbour_overlap]
    return {key: mean([overlap[key] for overlap in overlaps]) for key in overlaps[0]} if overlaps else None


def _seconds(stages: Sequence[StageRecord]) -> Seconds | None:
    known = [stage.seconds for stage in stages if stage.seconds]
    return Seconds(sum(s.train for s in known), sum(s.evaluate for s in known)) if known else None
