"""``lpi doctor FOLDER``: is what this library wrote there still what was written, and does it fit together?

A folder of a run, of a comparison (whatever runs lie below it), of an index with its lessons, or of a saved method.
Every reader is the one that everything else reads with; nothing is changed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lpi.backbones.base import DualEncoder
from lpi.errors import CheckpointError, LpiError, MissingExtraError, MissingFileError
from lpi.evaluation.records import (
    METRICS,
    FrozenRecord,
    Metrics,
    RunRecord,
    StageRecord,
    is_joint,
    read_record,
    summarise,
)
from lpi.evaluation.results import Results, tables
from lpi.evaluation.resume import FILES, changed_files
from lpi.methods import Named, is_registered
from lpi.methods.checkpoint import (
    KEYS,
    class_of,
    damaged_files,
    load_made_for,
    load_method,
    task_file,
    unless_registered,
)
from lpi.report.reading import read_examples, read_info, read_log, read_relations, read_stage
from lpi.search.checking import advice
from lpi.search.checking import damage as index_damage
from lpi.search.manifest import BESIDE
from lpi.search.manifest import FILE as INDEX
from lpi.storage import read_json, read_sealed, read_tensors
from lpi.trainer import read_progress

Result = TypeVar("Result")
AGAIN = "Take the folder from a backup, or run it again with --fresh."
LEFT_BY_RUNS = ("result.json", "frozen.json", "stages", FILES)


@dataclass
class Found:
    """What came of looking.

    Attributes:
        looked: how many things of each kind were looked at.
        wrong: what is damaged, a line each, with what to do.
        notes: what couldn't be told, a line each.
    """

    looked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(folder: str | Path, *, method_file: Named | None = None) -> Found:
    """Look at everything of this library in a folder and below it.

    Args:
        folder: of a run, a comparison, an index, a lesson or a saved method.
        method_file: the file or class of the methods that are none of the library's.

    Raises:
        MissingFileError: there is no such folder, or nothing of this library is in it.
        MissingExtraError: an index is in it, and what reads tables isn't installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such folder. Check the path.")
    look = _Look(method_file)
    look.at(folder)
    if not look.found.looked:
        raise MissingFileError(f"{folder}: no run, comparison, index, lesson or saved method is in it. Name one.")
    return look.found


class _Look:
    """One examination; backbones are loaded once."""

    def __init__(self, method_file: Named | None) -> None:
        self.method_file, self.found = method_file, Found()
        self._backbones: dict[str, DualEncoder] = {}

    def at(self, folder: Path) -> None:
        """A folder of any kind."""
        names = {path.name for path in folder.iterdir()}
        if INDEX in names:
            self._index(folder)
        elif "run.json" in names:
            self._run(folder)
        elif len(names.intersection(LEFT_BY_RUNS)) > 1:
            self.found.looked["run"] += 1
            self._wrong(f"{folder}: its run.json is gone. {AGAIN}")
        elif "learned.json" in names or "progress.pt" in names:
            self._lesson(folder)
        elif "config.json" in names and self._is_method(folder / "config.json"):
            self._method(folder)
        else:
            if "compare.json" in names:
                self._comparison(folder)
            for inner in (folder / name for name in sorted(names)):
                if inner.is_dir() and not inner.is_symlink() and (inner.name == BESIDE or inner.name[0] != "."):
                    self.at(inner)

    # ---- kinds -------------------------------------------------------------------------------------------------------

    def _index(self, folder: Path) -> None:
        self.found.looked["index"] += 1
        before = len(self.found.wrong)
        for line in self._tried(index_damage, folder, method_file=self.method_file) or ():
            self._wrong(line)
        if len(self.found.wrong) > before:
            self.found.wrong[-1] += f" {self._quietly(advice, folder) or ''}".rstrip()
        for domain in sorted((folder / "lessons").glob("[!.]*")):
            # what was learned of a domain in several ways; of versions before that, what was learned itself
            alone = any((domain / name).exists() for name in ("learned.json", "progress.pt", "model"))
            for lesson in [domain] if alone else sorted(domain.glob("[!.]*")):
                self._lesson(lesson)

    def _lesson(self, folder: Path) -> None:
        self.found.looked["lesson"] += 1
        config = self._method(folder / "model", needed=False)
        if (folder / "progress.pt").exists():
            self._tried(read_progress, folder / "progress.pt")
        if config is None and not (folder / "learned.json").exists():
            return
        learned = self._tried(read_sealed, folder / "learned.json")
        if learned is not None and config is not None and config["tasks"][-1:] != [learned.get("task")]:
            self._wrong(f"{folder}: the model and learned.json are of different tasks. Delete the folder; teach again.")

    def _run(self, folder: Path) -> None:
        self.found.looked["run"] += 1
        info = self._tried(read_info, folder / "run.json")
        metrics = METRICS[info["problem"] if info else "retrieval"]
        names = [task["name"] for task in info["stream"]["tasks"]] if info else []
        frozen = self._there(folder / "frozen.json", lambda file: read_record(FrozenRecord, file))
        files = sorted((folder / "stages").glob("*.json"))
        read = [self._tried(lambda file: self._stage(file, metrics, names), file) for file in files]
        stages = [stage for stage in read if stage is not None]
        result = self._there(folder / "result.json", lambda file: read_record(RunRecord, file))
        for file in sorted((folder / "stability").glob("*.safetensors")):
            self._tried(read_tensors, file)
        for name, reader in (("tasks.json", read_relations), ("log.jsonl", read_log), ("progress.pt", read_progress)):
            self._there(folder / name, reader)
        self._there(folder / "examples.json", lambda file: read_examples(file, info["problem"] if info else ""))
        self._there(folder / "timing.json", lambda file: read_json(file, dict))
        for name in self._there(folder / FILES, lambda _: list(changed_files(folder))) or ():
            self._wrong(f"{folder / name} isn't what the run wrote. {AGAIN}")
        config = self._method(folder / "model", needed=result is not None)
        if len(stages) == len(files):
            self._fits(folder, stages, frozen, result, metrics)
        if info is not None and config is not None:
            joint = len(files) == 1 and is_joint(stages)
            for what in _unlike(info, config, len(files), joint=joint, whole=result is not None):
                self._wrong(f"{folder}: {what} {AGAIN}")

    def _stage(self, file: Path, metrics: Metrics, names: Sequence[str]) -> StageRecord:
        stage = read_stage(file, metrics, len(names)) if names else read_record(StageRecord, file)
        known = not names or names[stage.stage : stage.stage + 1] == [stage.task]
        if not known or stage.tasks != stage.stage + 1 or file.stem != task_file(stage.stage, stage.task):
            raise CheckpointError(f"{file} is of another stage or task than its name or the run's settings. {AGAIN}")
        return stage

    def _fits(
        self,
        folder: Path,
        stages: Sequence[StageRecord],
        frozen: FrozenRecord | None,
        result: RunRecord | None,
        metrics: Metrics,
    ) -> None:
        """A run's figures are what its stages come to."""
        if result is None:
            return
        if not stages:
            self._wrong(f"{folder} has figures, but none of the stages that they come from. {AGAIN}")
            return
        known = frozen.stages if frozen else None
        again = self._tried(lambda _: summarise(stages, known, metrics), folder)
        for name in ("final", "average", "forgetting", "bwt") if again is not None else ():
            if not _same(getattr(again, name), getattr(result, name)):
                self._wrong(f"{folder / 'result.json'}: its {name!r} isn't what its stages come to. {AGAIN}")

    def _comparison(self, folder: Path) -> None:
        self.found.looked["comparison"] += 1
        again = "Give the same lpi compare again."
        results = self._tried(lambda file: Results.from_json(read_sealed(file)), folder / "compare.json")
        if results is None:
            return
        for name, text in tables(results).items():
            if (folder / name).is_file() and (folder / name).read_text(encoding="utf-8", errors="replace") != text:
                self._wrong(f"{folder / name} isn't what compare.json comes to. {again}")
        final = f"final_{results.metrics.main}"
        for row, run, place in _runs(results, folder):
            record = self._quietly(lambda file: read_record(RunRecord, file), place / "result.json")
            if record is not None and round(100 * record.final[results.metrics.main], 3) != run.get(final):
                self._wrong(f"{folder / 'compare.json'}: row {row!r} isn't what {place} found. {again}")

    def _method(self, folder: Path, *, needed: bool = True) -> dict[str, Any] | None:
        """A saved method; gives its ``config.json`` where that can be read."""
        if not needed and not (folder / "config.json").exists():
            return None
        self.found.looked["saved method"] += 1
        lines = damaged_files(folder)
        for line in lines:
            self._wrong(line)
        config: dict[str, Any] | None = self._quietly(read_json, folder / "config.json", dict)
        if config is None or lines:
            return config if config is not None and config.keys() >= KEYS else None
        problem = str(config.get("problem", "retrieval"))
        try:
            named = unless_registered(folder, self.method_file)
            backbone = self._backbone(config["backbone"], class_of(config["method"], folder, named, problem=problem))
        except LpiError as error:  # a method of somebody's own, or a model that isn't here: no damage
            self.found.notes.append(f"{folder}: only its files were looked at: {error}")
        else:
            self._tried(load_method, folder, backbone=backbone, method=named)
        return config

    def _backbone(self, made_for: Mapping[str, Any], kind: Any) -> DualEncoder:
        key = f"{kind.problem} {made_for}"
        if key not in self._backbones:
            self._backbones[key] = load_made_for(made_for, kind)
        return self._backbones[key]

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _wrong(self, line: str) -> None:
        self.found.wrong.append(" ".join(line.split()))

    def _tried(self, read: Callable[..., Result], *what: Any, **options: Any) -> Result | None:
        """What a reader gives; what it refuses is noted as wrong."""
        try:
            return read(*what, **options)
        except MissingExtraError:
            raise
        except LpiError as error:
            place = str(what[0])  # a method's own complaint of an option that it doesn't know names no folder
            self._wrong(str(error) if place in str(error) else f"{place}: {error}")
            return None

    def _there(self, file: Path, read: Callable[[Path], Result]) -> Result | None:
        """The same of a file that needn't be there."""
        return self._tried(read, file) if file.exists() else None

    def _quietly(self, read: Callable[..., Result], *what: Any) -> Result | None:
        """The same where somebody else says what is wrong."""
        try:
            return read(*what)
        except LpiError:
            return None

    def _is_method(self, file: Path) -> bool:
        found = self._quietly(read_json, file, dict)
        return found is None or bool(found.keys() & {"method", "files"})


def _unlike(
    info: Mapping[str, Any], config: Mapping[str, Any], stages: int, *, joint: bool, whole: bool
) -> Iterator[str]:
    """In what a run's model isn't the one that its settings ask for and its stages measured."""
    said, held = info["method"]["name"], config["method"]
    if is_registered(said, info["problem"]) and said != held:
        yield f"run.json says {said!r}, the model is {held!r}."
    elif info["method"].get("options") != config["options"]:
        yield "the options in run.json and in model/config.json differ."
    if info.get("backbone", {}).get("identity") != config["backbone"]["identity"]:
        yield "the model was made for another backbone than run.json names."
    names, learned = [task["name"] for task in info["stream"]["tasks"]], config["tasks"]
    if joint or not (stages or whole):
        return
    if learned != names[: len(learned)]:
        yield f"the model knows {', '.join(learned)}; the run's tasks are {', '.join(names)}."
    elif len(learned) < stages or (whole and learned != names):
        yield f"the model knows {len(learned)} of {len(names)} tasks; {stages} were measured."


def _runs(results: Results, folder: Path) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Each run that a comparison names: its row, its entry and its folder."""
    for row, found in results.rows.items():
        for run in found.runs:
            root = folder / f"order-{run.get('order')}" if run.get("order") else folder
            yield row, run, root / row / f"seed-{run.get('seed')}"


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(math.isclose(one[name], other[name], abs_tol=1e-9) for name in one)
