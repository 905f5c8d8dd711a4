"""Run folders -> checked records. Everything a report says comes through here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpi.errors import CheckpointError, DataError, MissingFileError
from lpi.evaluation.records import (
    FORMAT,
    METRICS,
    FrozenRecord,
    Metrics,
    RunRecord,
    StageRecord,
    read_record,
    summarise,
)
from lpi.metrics.statistics import deviation
from lpi.reading import UnreadableError, parse_json, read_bytes
from lpi.storage import read_json, read_sealed

LARGEST_BITS = 64  # of whole numbers; a float holds no more than 1,024
Json = Any
"""What JSON holds: settings, examples, lines of a log."""


@dataclass(frozen=True)
class RunFolder:
    """One run's files, read and checked; tasks in the order of the stream."""

    path: Path
    experiment: str
    variant: str
    method: str
    seed: int
    tasks: tuple[str, ...]
    problem: str
    info: Json
    stages: tuple[StageRecord, ...]
    frozen: tuple[StageRecord, ...]
    result: RunRecord
    relations: Json = None
    examples: tuple[Json, ...] = ()
    log: tuple[Json, ...] = ()

    @property
    def metrics(self) -> Metrics:
        """What was measured."""
        return METRICS[self.problem]

    @property
    def frozen_stages(self) -> tuple[StageRecord, ...]:
        """The frozen model's stages with the same tasks as the run's; none when one is missing."""
        by_count = {stage.tasks: stage for stage in self.frozen}
        found = tuple(by_count[stage.tasks] for stage in self.stages if stage.tasks in by_count)
        return found if len(found) == len(self.stages) else ()

    @property
    def finished(self) -> bool:
        """Whether all tasks were learned; the figures of a run that goes on are of fewer."""
        return self.done == len(self.tasks)

    @property
    def done(self) -> int:
        """How many tasks were learned."""
        return len(next(iter(self.stages[-1].seen.values())))

    @property
    def learned(self) -> bool:
        """Whether this run trained anything: the frozen model's row does not."""
        return self.method != "zero_shot"


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder: itself, or all below it, in name order.

    Raises:
        MissingFileError: there is no such folder.
        CheckpointError: no run is in it.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such run folder. Give a folder that `lpi run` wrote.")
    if (folder / "run.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob("run.json"))
    if not found:
        raise CheckpointError(
            f"{folder} is not a run folder: no run.json is in it or below it. Give a folder that `lpi run` wrote."
        )
    return found


def read_run(folder: Path) -> RunFolder:
    """Read one run folder; what the run has not written yet, or never writes, is left empty.

    Raises:
        MissingFileError: there is no such folder.
        CheckpointError: it is no run folder, a file in it is damaged, or nothing was evaluated yet.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such run folder. Give a folder that `lpi run` wrote.")
    if not (folder / "run.json").is_file():
        raise CheckpointError(f"{folder} is not a run folder: it has no run.json. Give a folder that `lpi run` wrote.")
    info = read_info(folder / "run.json")
    tasks = tuple(task["name"] for task in info["stream"]["tasks"])
    metrics, method = METRICS[info["problem"]], info["method"]["name"]
    frozen = tuple(read_record(FrozenRecord, folder / "frozen.json").stages) if has(folder, "frozen.json") else ()
    stages = tuple(read_stage(path, metrics, len(tasks)) for path in sorted((folder / "stages").glob("*.json")))
    if not stages and method == "zero_shot":
        stages = frozen
    if not stages:
        raise CheckpointError(f"{folder}: no stage was evaluated yet. Let the run finish its first task.")
    stages = tuple(sorted(stages, key=lambda stage: stage.stage))
    return RunFolder(
        path=folder,
        experiment=info["experiment"],
        variant=info["row"],
        method=method,
        seed=info["seed"],
        tasks=tasks,
        problem=info["problem"],
        info=info,
        stages=stages,
        frozen=frozen if len(frozen) >= len(stages) else (),
        result=read_result(folder / "result.json", stages, frozen, metrics),
        relations=read_relations(folder / "tasks.json"),
        examples=read_examples(folder / "examples.json", info["problem"]),
        log=read_log(folder / "log.jsonl"),
    )


def has(folder: Path, name: str) -> bool:
    """Whether a run wrote a file."""
    return (folder / name).is_file()


def read_info(path: Path) -> Json:
    """What the run is: ``run.json``, checked."""
    info = read_sealed(path)
    expect(path, info, {"experiment": str, "row": str, "seed": int, "stream": dict, "method": dict})
    if info.get("format") != FORMAT or info.get("problem") not in list(METRICS):
        raise CheckpointError(
            f"{path.parent} is a run of another version of lpi, whose records are written otherwise. Run it again."
        )
    expect(path, info["stream"], {"tasks": list})
    expect(path, info["method"], {"name": str})
    for task in info["stream"]["tasks"]:
        expect(path, task, {"name": str})
    return info


def read_stage(path: Path, metrics: Metrics, tasks: int) -> StageRecord:
    """A stage that has what every report shows: each metric of each task seen."""
    stage = read_record(StageRecord, path)
    lengths = {len(values) for values in stage.seen.values()}
    if set(stage.seen) != set(metrics.measured) or len(lengths) != 1 or not 1 <= max(lengths) <= tasks:
        raise CheckpointError(
            f"{path}: the figures must have one entry a task seen, of {tasks}, for each of "
            f"{', '.join(metrics.measured)}; got {sorted(lengths)} for {', '.join(stage.seen) or 'none'}. Run it again."
        )
    return stage


def read_result(
    path: Path, stages: Sequence[StageRecord], frozen: Sequence[StageRecord], metrics: Metrics
) -> RunRecord:
    """The run's figures: from its file, or worked out for a run that has not written it yet."""
    if path.is_file():
        return read_record(RunRecord, path)
    try:
        return summarise(stages, frozen if len(frozen) >= len(stages) else None, metrics)
    except DataError as error:
        raise CheckpointError(f"{path.parent}: the stages don't fit together ({error}) Run it again.") from error


def read_relations(path: Path) -> Json:
    """How the tasks relate (``tasks.json``), or ``None``."""
    if not path.is_file():
        return None
    relations: Json = read_json(path, dict)
    expect(path, relations, {"names": list})
    count = len(relations["names"])
    prompts = relations.get("prompt_similarity") or {}
    expect(path, {"prompt_similarity": prompts}, {"prompt_similarity": dict})
    squares = {"similarity": relations.get("similarity"), "near": relations.get("near")}
    squares |= {f"prompt_similarity.{tower}": prompts.get(tower) for tower in ("vision", "text")}
    for name, square in squares.items():
        if square is not None and (
            not isinstance(square, list)
            or len(square) != count
            or any(not isinstance(row, list) or len(row) != count for row in square)
        ):
            raise CheckpointError(f'{path}: "{name}" must be {count} rows of {count} numbers. Run it again.')
    positions = relations.get("positions")
    if positions is not None and (
        not isinstance(positions, list)
        or len(positions) != count
        or any(not isinstance(place, list) or len(place) != 2 for place in positions)
    ):
        raise CheckpointError(f'{path}: "positions" must be {count} pairs of numbers. Run it again.')
    return relations


def read_examples(path: Path, problem: str) -> tuple[Json, ...]:
    """The example queries, none when there is no file."""
    if not path.is_file():
        return ()
    examples = read_json(path, list)
    for example in examples if problem == "grounding" else ():
        expect(path, example, {"expression": str, "task": str, "before": dict, "after": dict})
        for moment in ("before", "after"):
            expect(path, example[moment], {"picture": str, "right": bool, "iou": (int, float)})
    for example in examples if problem == "retrieval" else ():
        expect(path, example, {"direction": str, "query": str, "before": list, "after": list})
        for hit in [*example["before"], *example["after"]]:
            expect(path, hit, {"right": bool})
    return tuple(examples)


def read_log(path: Path) -> tuple[Json, ...]:
    """The training log, line by line.

    A last line without its line end is what a stopped run leaves: it is passed over. Any other broken line is an
    error. A run that was stopped and went on from an earlier step has logged some steps twice; the later record counts.
    """
    if not path.is_file():
        return ()
    try:
        text = read_bytes(path).decode(errors="replace")
    except UnreadableError as error:
        raise CheckpointError(f"{path}: {error}. Move it away; the report is made without it.") from error
    lines = text.split("\n")
    records: list[Json] = []
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except UnreadableError as error:
            raise CheckpointError(f"{path}, line {number} is damaged ({error}). Run it again.") from error
        expect(f"{path}, line {number}", record, {"loss": (int, float)})
        while records and follows_anew(records[-1], record):
            records.pop()
        if math.isfinite(record["loss"]):
            records.append(record)
    return tuple(records)


def follows_anew(earlier: Json, later: Json) -> bool:
    """Whether the earlier record's step was done again: the same task, and no step forward."""
    before, after = earlier.get("step"), later.get("step")
    if not isinstance(before, int) or not isinstance(after, int):
        return False
    return earlier.get("task") == later.get("task") and before >= after


def expect(where: Path | str, record: Any, fields: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuse a record that is no object, lacks a field or has one of the wrong type."""
    if not isinstance(record, dict):
        raise CheckpointError(f"{where}: expected an object; got {type(record).__name__}. Run it again.")
    for name, kind in fields.items():
        if isinstance(record.get(name), int) and record[name].bit_length() > LARGEST_BITS:
            raise CheckpointError(f'{where}: the number under "{name}" is too large for any figure. Run it again.')
        if not isinstance(record.get(name), kind):
            found = type(record[name]).__name__ if name in record else "nothing"
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise CheckpointError(f'{where}: expected {wanted} under "{name}"; got {found}. Run it again.')


def spread(values: Iterable[float | None]) -> tuple[float, float | None] | None:
    """Mean and sample deviation of what there is; no deviation for one value, nothing for none."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return sum(known) / len(known), deviation(known) if len(known) > 1 else None
