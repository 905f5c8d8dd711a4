"""Run folders -> checked records. Everything a report says comes through here."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpi.errors import CheckpointError, DataError, MissingFileError
from lpi.evaluation.summary import DIRECTIONS, KS, summary

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """One run's files, read and checked; recalls are fractions, tasks in the order of the stream."""

    path: Path
    experiment: str
    row: str
    method: str
    seed: int
    tasks: tuple[str, ...]
    info: Record
    stages: tuple[Record, ...]
    zero_shot: Record | None = None
    result: Record = field(default_factory=dict)
    relations: Record | None = None
    examples: tuple[Record, ...] = ()
    log: tuple[Record, ...] = ()

    @property
    def zero_stages(self) -> tuple[Record, ...]:
        """The frozen backbone's stages with the same tasks as the run's; none when one is missing."""
        by_count = {tasks_in(stage): stage for stage in self.zero_shot["stages"]} if self.zero_shot else {}
        found = tuple(by_count[count] for stage in self.stages if (count := tasks_in(stage)) in by_count)
        return found if len(found) == len(self.stages) else ()

    @property
    def learned(self) -> bool:
        """Whether this run trained anything: the zero-shot row does not."""
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
    path = folder / "run.json"
    info = read_json(path, dict)
    expect(path, info, {"experiment": str, "row": str, "seed": int, "stream": dict, "method": dict})
    expect(path, info["stream"], {"tasks": list})
    expect(path, info["method"], {"name": str})
    for task in info["stream"]["tasks"]:
        expect(path, task, {"name": str})
    tasks = tuple(task["name"] for task in info["stream"]["tasks"])
    zero_shot = read_zero_shot(folder / "zero_shot.json", len(tasks))
    stages = read_stages(folder / "stages", len(tasks))
    if not stages and zero_shot and info["method"]["name"] == "zero_shot":
        stages = tuple(zero_shot["stages"])
    if not stages:
        raise CheckpointError(f"{folder}: no stage was evaluated yet. Let the run finish its first task.")
    return RunFolder(
        path=folder,
        experiment=info["experiment"],
        row=info["row"],
        method=info["method"]["name"],
        seed=info["seed"],
        tasks=tasks,
        info=info,
        stages=stages,
        zero_shot=zero_shot if zero_shot and len(zero_shot["stages"]) >= len(stages) else None,
        result=read_result(folder / "result.json", stages, zero_shot),
        relations=read_relations(folder / "tasks.json"),
        examples=read_examples(folder / "examples.json"),
        log=read_log(folder / "log.jsonl"),
    )


def tasks_in(stage: Record) -> int:
    """How many tasks a stage was tested on."""
    return len(stage["recall"][DIRECTIONS[0]]["1"])


def read_stages(folder: Path, tasks: int) -> tuple[Record, ...]:
    """The stages' records in the order of learning."""
    stages = []
    for path in sorted(folder.glob("*.json")):
        stage = read_json(path, dict)
        check_stage(path, stage, tasks)
        stages.append(stage)
    return tuple(sorted(stages, key=lambda stage: int(stage["stage"])))


def read_zero_shot(path: Path, tasks: int) -> Record | None:
    """The frozen backbone's figures, or ``None`` when the run has none."""
    if not path.is_file():
        return None
    zero_shot: Record = read_json(path, dict)
    expect(path, zero_shot, {"stages": list})
    for stage in zero_shot["stages"]:
        check_stage(path, stage, tasks)
    return zero_shot


def read_result(path: Path, stages: Sequence[Record], zero_shot: Record | None) -> Record:
    """The run's summary: from its file, or worked out for a run that has not written it yet."""
    if path.is_file():
        result: Record = read_json(path, dict)
        expect(path, result, {"final": dict})
        return result
    try:
        if zero_shot and len(zero_shot["stages"]) >= len(stages):
            return summary(stages, zero_shot)
        result = summary(stages, {"stages": stages, "held_out": None})
    except DataError as error:
        raise CheckpointError(f"{path.parent}: the stages don't fit together ({error}) Run it again.") from error
    return {**result, "zero_shot": None, "fwt": None, "retention": None}


def read_relations(path: Path) -> Record | None:
    """How the tasks relate (``tasks.json``), or ``None``."""
    if not path.is_file():
        return None
    relations: Record = read_json(path, dict)
    expect(path, relations, {"names": list})
    count = len(relations["names"])
    prompts = relations.get("prompt_similarity") or {}
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
        len(positions) != count or any(not isinstance(place, list) or len(place) != 2 for place in positions)
    ):
        raise CheckpointError(f'{path}: "positions" must be {count} pairs of numbers. Run it again.')
    return relations


def read_examples(path: Path) -> tuple[Record, ...]:
    """The example queries, none when there is no file."""
    if not path.is_file():
        return ()
    examples = read_json(path, list)
    for example in examples:
        expect(path, example, {"direction": str, "query": str, "before": list, "after": list})
        for hit in [*example["before"], *example["after"]]:
            expect(path, hit, {"right": bool})
    return tuple(examples)


def read_log(path: Path) -> tuple[Record, ...]:
    """The training log, line by line.

    A last line without its line end is what a stopped run leaves: it is passed over. Any other broken line is an
    error. A run that was stopped and went on from an earlier step has logged some steps twice; the later record counts.
    """
    if not path.is_file():
        return ()
    text = read_text(path)
    lines = text.split("\n")
    records: list[Record] = []
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        record = parse_json(f"{path}, line {number}", line, dict)
        expect(f"{path}, line {number}", record, {"loss": (int, float)})
        while records and follows_anew(records[-1], record):
            records.pop()
        if math.isfinite(record["loss"]):
            records.append(record)
    return tuple(records)


def follows_anew(earlier: Record, later: Record) -> bool:
    """Whether the earlier record's step was done again: the same task, and no step forward."""
    before, after = earlier.get("step"), later.get("step")
    if not isinstance(before, int) or not isinstance(after, int):
        return False
    return earlier.get("task") == later.get("task") and before >= after


def check_stage(path: Path, stage: Any, tasks: int) -> None:
    """Refuse a stage that lacks what every report shows."""
    expect(path, stage, {"stage": int, "recall": dict})
    lengths: set[int] = set()
    for direction in DIRECTIONS:
        expect(path, stage["recall"], {direction: dict})
        expect(path, stage["recall"][direction], dict.fromkeys(KS, list))
        for values in (stage["recall"][direction][k] for k in KS):
            lengths.add(len(values))
            if not all(isinstance(value, (int, float)) for value in values):
                raise CheckpointError(
                    f"{path}: the recalls of {direction} must be numbers; got {values}. Run it again."
                )
    if len(lengths) != 1 or not 1 <= max(lengths) <= tasks:
        raise CheckpointError(
            f"{path}: the recalls must have one entry a task seen, of {tasks}; got {sorted(lengths)}."
        )


def expect(where: Path | str, record: Any, fields: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuse a record that is no object, lacks a field or has one of the wrong type."""
    if not isinstance(record, dict):
        raise CheckpointError(f"{where}: expected an object; got {type(record).__name__}. Run it again.")
    for name, kind in fields.items():
        if not isinstance(record.get(name), kind):
            found = type(record[name]).__name__ if name in record else "nothing"
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise CheckpointError(f'{where}: expected {wanted} under "{name}"; got {found}. Run it again.')


def read_json(path: Path, kind: type) -> Any:
    """One JSON file whose outermost value is of that type."""
    return parse_json(str(path), read_text(path), kind)


def read_text(path: Path) -> str:
    """A text file; one that can't be read or is not text is a CheckpointError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: can't be read ({error}). Run it again.") from error


def parse_json(where: str, text: str, kind: type) -> Any:
    """A JSON value of a type, or a CheckpointError that says where it breaks."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CheckpointError(f"{where} is damaged ({place}). Run the same command again to write it anew.") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{where}: expected {kind.__name__}; got {type(value).__name__}. Run it again.")
    return value


def spread(values: Iterable[float | None]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation of what there is; no deviation for one value, nothing for none."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    mean = sum(known) / len(known)
    if len(known) == 1:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))
