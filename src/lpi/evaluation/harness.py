"""Method x stream x seeds -> results on disk. A run that was stopped goes on; one that is finished is left alone.

A run folder ``<out>/<experiment>/<row>/seed-<n>`` holds the resolved settings (``run.json``), the frozen backbone's
figures (``zero_shot.json``), one record a stage (``stages/``), the method (``model/``), what the report shows
(``tasks.json``, ``examples.json``, ``log.jsonl``) and the summary (``result.json``), which is written last.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lpi.backbones.base import DualEncoder
from lpi.backbones.loading import load_backbone
from lpi.config import Experiment, StreamSettings
from lpi.errors import ConfigError, MissingFileError, OutputError, did_you_mean
from lpi.evaluation.continual import summary
from lpi.evaluation.examples import write_examples
from lpi.evaluation.protocol import Evaluator
from lpi.methods import method as build_method
from lpi.methods.base import Method
from lpi.methods.checkpoint import load_method, save_method, task_file
from lpi.prompts.task_keys import semantic_similarity
from lpi.storage import read_json, reason, write_atomically, write_json
from lpi.tasks.stream import TaskStream, source_options
from lpi.trainer import Step, TrainingSet, derived_seed, learn_task, pick_device

Say = Callable[[str], None]
VERSIONED = ("lpi", "torch", "transformers", "numpy", "pillow", "safetensors")


def open_stream(settings: StreamSettings, name: str) -> TaskStream:
    """The stream that an experiment describes.

    Raises:
        ConfigError: a key that the source of this kind doesn't have.
        DataError, MissingFileError: as the readers say.
    """
    options = settings.source()
    known = source_options(settings.kind)
    for key in options:
        if key not in known:
            near = did_you_mean(key, [*known, *StreamSettings.model_fields])
            raise ConfigError(f"[stream] of kind {settings.kind!r} has no option {key!r}. {near}")
    maker = getattr(TaskStream, f"from_{settings.kind}")
    try:
        stream: TaskStream = maker(name=name, **options)
    except TypeError as error:  # a missing key: the constructors know best which
        raise ConfigError(f"[stream] kind = {settings.kind!r}: {str(error).partition('() ')[2] or error}.") from error
    if settings.order is not None:
        stream = stream.ordered(settings.order)
    return stream.limited(train=settings.train_limit, test=settings.test_limit, seed=settings.limit_seed)


class Workbench:
    """What all rows and seeds of an experiment share: backbone, stream, decoded pictures, frozen features."""

    def __init__(self, experiment: Experiment, say: Say) -> None:
        self.backbone: DualEncoder = load_backbone(experiment.backbone, image_size=experiment.image_size)
        self.backbone.to(pick_device(experiment.training.device))
        self.stream = open_stream(experiment.stream, experiment.name)
        train = sum(len(task.train) for task in self.stream.tasks)
        test = sum(len(task.test) for task in self.stream.tasks)
        tasks = len(self.stream.tasks)
        say(f"{experiment.name}: {tasks} tasks, {train} training and {test} test pictures; {experiment.backbone}")
        self._note_cut_captions(say)
        self._training: dict[int, TrainingSet] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def _note_cut_captions(self, say: Say) -> None:
        records = [record for task in self.stream.tasks for record in (*task.train, *task.test)]
        captions = list(dict.fromkeys(caption for record in records for caption in record.captions))
        inputs = self.backbone.inputs
        cut = inputs.too_long(captions)
        if cut:
            say(
                f"note: {len(cut)} of {len(captions)} captions are cut to the backbone's context of {inputs.context} "
                f"tokens, first {captions[cut[0]][:40].rstrip()!r}. 'lpi data check --backbone ..' lists them."
            )

    def training(self, index: int) -> TrainingSet:
        """The training set of a task; -1 is all of them as one."""
        if index not in self._training:
            task = self.stream.merged() if index < 0 else self.stream.tasks[index]
            self._training[index] = TrainingSet(task, self.backbone)
        return self._training[index]

    def evaluator(self, experiment: Experiment) -> Evaluator:
        """The evaluator for these settings, without features of earlier methods."""
        key = experiment.evaluation.model_dump_json()
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(self.backbone, self.stream, experiment.evaluation)
        self._evaluators[key].reset()
        return self._evaluators[key]


def run_experiment(
    experiment: Experiment,
    *,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: Path = Path("runs"),
    fresh: bool = False,
    command: str = "",
    say: Say = print,
    on_step: Callable[[Step], None] | None = None,
    on_run: Callable[[str, int], None] | None = None,
) -> dict[str, dict[int, Path]]:
    """Run rows x seeds; returns the run folder of each.

    Args:
        experiment: what to run.
        rows: names of rows; by default the main row only.
        seeds: by default the experiment's.
        out: the folder of all runs.
        fresh: start over where a run folder exists.
        command: recorded with the results.
        say: told a line when something begins or ends.
        on_step: told about every training step.
        on_run: told row and seed when a run begins.

    Raises:
        LpiError: anything a person can put right.
    """
    names = list(rows) if rows else [experiment.main_row]
    each = {name: experiment.row(name) for name in names}  # all names and options are checked before the first run
    folders: dict[str, dict[int, Path]] = {}
    bench: Workbench | None = None
    for name, settings in each.items():
        folders[name] = {}
        for seed in seeds if seeds is not None else settings.seeds:
            folder = out / experiment.name / name / f"seed-{seed}"
            folders[name][seed] = folder
            if fresh and folder.exists():
                shutil.rmtree(folder)
            if _finished(folder, settings, seed):
                say(f"{name}, seed {seed}: already finished in {folder}")
                continue
            bench = bench or Workbench(experiment, say)
            say(f"{name}, seed {seed}: {folder}")
            if on_run is not None:
                on_run(name, seed)
            Run(bench, settings, row=name, seed=seed, folder=folder, command=command, say=say, on_step=on_step).go()
    return folders


def _finished(folder: Path, settings: Experiment, seed: int) -> bool:
    """Whether a run is complete.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    if not (folder / "run.json").exists():
        return False
    before = read_json(folder / "run.json")["settings"]
    now = _comparable(settings, seed)
    if before != now:
        changed = _difference(before, now)
        raise ConfigError(
            f"{folder} holds a run with other settings ({changed}). Choose another --out or --set name=..., "
            "or start over with --fresh."
        )
    return (folder / "result.json").exists()


def _comparable(settings: Experiment, seed: int) -> dict[str, Any]:
    content = settings.model_dump(mode="json", exclude={"rows", "seeds", "about"})
    return {**json.loads(json.dumps(content)), "seed": seed}


def _difference(before: Any, now: Any, place: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    return f"{place}: {before!r} there, {now!r} now"


class Run:
    """One row with one seed, from wherever it stands to the end."""

    def __init__(
        self,
        bench: Workbench,
        experiment: Experiment,
        *,
        row: str,
        seed: int,
        folder: Path,
        command: str,
        say: Say,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.bench, self.experiment, self.row, self.seed = bench, experiment, row, seed
        self.folder, self.command, self.say, self.on_step = folder, command, say, on_step
        self.evaluator = bench.evaluator(experiment)
        self.stream = bench.stream

    def go(self) -> dict[str, Any]:
        """Learn, measure and write; returns the summary."""
        options = {key: value for key, value in self.experiment.method.items() if key not in ("name", "preset")}
        method = build_method(
            self.experiment.method.get("name", "lpi"),
            self.bench.backbone,
            preset=self.experiment.method.get("preset"),
            **options,
        )
        self._begin(method)
        zero_shot = self.evaluator.zero_shot()
        write_json(self.folder / "zero_shot.json", zero_shot)
        method = self._learn_jointly(method) if method.joint else self._learn_in_turn(method)
        stages = [read_json(path) for path in sorted((self.folder / "stages").glob("*.json"))]
        if method.joint:  # one stage that saw everything: there is a final figure and nothing to forget
            result = summary(stages, {"stages": zero_shot["stages"][-1:], "held_out": zero_shot["held_out"]})
        else:
            result = summary(stages, zero_shot)
        result |= {
            "trainable_per_task": stages[-1]["parameters"]["trainable"],
            "stored_parameters": stages[-1]["parameters"]["stored"],
            "seconds": {
                "train": sum(stage["seconds"]["train"] for stage in stages),
                "evaluate": sum(stage["seconds"]["evaluate"] for stage in stages),
            },
        }
        self._write_tasks(method)
        self._settle_log()
        write_examples(self.evaluator, method, self.folder, self.experiment.evaluation.examples)
        write_json(self.folder / "result.json", result)
        return result

    # ---- the folder ------------------------------------------------------------------------------------------------

    def _begin(self, method: Method) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} can't be made: {reason(error)}") from error
        backbone = self.bench.backbone
        write_json(
            self.folder / "run.json",
            {
                "experiment": self.experiment.name,
                "about": self.experiment.about,
                "row": self.row,
                "method": {"name": self.experiment.method.get("name", "lpi"), "options": method.options},
                "seed": self.seed,
                "settings": _comparable(self.experiment, self.seed),
                "stream": {
                    "name": self.stream.name,
                    "tasks": self.stream.summary(),
                    "held_out": len(self.stream.held_out),
                    "checksum": self.stream.checksum(),
                },
                "backbone": {
                    "name": backbone.name,
                    "identity": backbone.identity,
                    "parameters": sum(p.numel() for p in backbone.parameters()),
                },
                "command": self.command,
                **environment(),
            },
        )

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "progress.pt"

    def _stage_file(self, stage: int) -> Path:
        return self.folder / "stages" / f"{task_file(stage, self.stream.tasks[stage].name)}.json"

    # ---- learning ----------------------------------------------------------------------------------------------------

    def _learn_in_turn(self, method: Method) -> Method:
        learned = 0
        if (self.folder / "model" / "config.json").exists():
            method = load_method(self.folder / "model", backbone=self.bench.backbone)
            learned = len(method.tasks)
        measured = sum(1 for stage in range(learned) if self._stage_file(stage).exists())
        if learned:
            self.say(f"  going on after task {learned} of {len(self.stream.tasks)}")
            self.evaluator.replay(method, measured)
        for stage, task in enumerate(self.stream.tasks):
            if stage < measured:
                continue
            timing = {"train": 0.0, "pairs_per_second": 0.0}
            if stage >= learned:
                timing = self._learn(method, self.bench.training(stage))
                # first, for a run that dies between the two or before its stage is measured
                write_json(self.folder / "timing.json", timing)
                save_method(method, self.folder / "model")
            else:
                timing = read_json(self.folder / "timing.json")
            self._checkpoint.unlink(missing_ok=True)
            self._measure(method, stage, timing)
            self.say(f"  {stage + 1}/{len(self.stream.tasks)} {task.name}: {self._line(stage)}")
        (self.folder / "timing.json").unlink(missing_ok=True)
        return method

    def _learn_jointly(self, method: Method) -> Method:
        last = len(self.stream.tasks) - 1
        if (self.folder / "model" / "config.json").exists():
            method = load_method(self.folder / "model", backbone=self.bench.backbone)
        timing = {"train": 0.0, "pairs_per_second": 0.0}
        if not method.tasks:
            timing = self._learn(method, self.bench.training(-1))
            save_method(method, self.folder / "model")
        self._checkpoint.unlink(missing_ok=True)
        if not self._stage_file(last).exists():
            self._measure(method, last, timing)
            self.say(f"  all tasks at once: {self._line(last)}")
        return method

    def _learn(self, method: Method, training: TrainingSet) -> dict[str, float]:
        settings = self.experiment.training
        if method.joint and settings.steps is not None:  # as many steps as a sequential learner takes altogether
            settings = settings.model_copy(update={"steps": settings.steps * len(self.stream.tasks)})
        started = time.monotonic()
        log = (self.folder / "log.jsonl").open("a", encoding="utf-8")

        def note(step: Step) -> None:
            line = {key: value for key, value in asdict(step).items() if key not in ("epochs", "steps", "seconds_left")}
            log.write(json.dumps(line) + "\n")
            if self.on_step is not None:
                self.on_step(step)

        with log:
            speed = learn_task(
                method,
                training,
                settings=settings,
                seed=derived_seed(self.seed, "run"),
                checkpoint=self._checkpoint,
                on_step=note,
            )
        return {"train": time.monotonic() - started, "pairs_per_second": speed}

    def _measure(self, method: Method, stage: int, timing: dict[str, float]) -> None:
        started = time.monotonic()
        record = self.evaluator.stage(method, stage)
        record["seconds"] = {"train": timing["train"], "evaluate": time.monotonic() - started}
        record["pairs_per_second"] = timing["pairs_per_second"]
        record["parameters"] = {
            "trainable": sum(parameter.numel() for parameter in method.trainable()),
            "stored": method.stored_parameters(),
        }
        write_json(self._stage_file(stage), record)

    def _line(self, stage: int) -> str:
        record = read_json(self._stage_file(stage))
        recall = record["recall"]
        shown = []
        for direction, arrow in (("text_to_image", "text to image"), ("image_to_text", "image to text")):
            values = recall[direction]["1"]
            shown.append(f"R@1 {arrow} {100 * sum(values) / len(values):.1f}")
        if record["routing"]:
            shown.append("routed right " + " / ".join(f"{100 * r['accuracy']:.0f}" for r in record["routing"].values()))
        return ", ".join(shown)

    def _settle_log(self) -> None:
        """Steps that ran twice, before and after a kill, are noted once."""
        log = self.folder / "log.jsonl"
        if log.exists():
            steps: dict[tuple[str, int], str] = {}
            for line in log.read_text(encoding="utf-8").splitlines():
                try:
                    content = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line that was being written when the run was killed
                steps[content["task"], content["step"]] = line
            text = "".join(f"{line}\n" for line in steps.values())
            write_atomically(log, lambda file: file.write_text(text, encoding="utf-8") and None)

    def _write_tasks(self, method: Method) -> None:
        """How the tasks lie to each other: by what they show, and by what was learned for them."""
        means = torch.stack(
            [self.bench.training(index).text_features.mean(0).cpu() for index in range(len(self.stream.tasks))]
        )
        similarity = semantic_similarity(means)
        centred = means - means.mean(0, keepdim=True)
        plane = torch.linalg.svd(centred, full_matrices=False)[2][:2]
        positions = centred @ plane.T
        if positions.shape[1] < 2:
            positions = torch.nn.functional.pad(positions, (0, 2 - positions.shape[1]))
        relations = method.relations()
        write_json(
            self.folder / "tasks.json",
            {
                "names": [task.name for task in self.stream.tasks],
                "similarity": similarity.tolist(),
                "positions": positions.tolist(),
                "near": relations["near"] if relations else None,
                "prompt_similarity": relations["prompt_similarity"] if relations else None,
            },
        )


def evaluate_saved(model: Path, experiment: Experiment) -> dict[str, Any]:
    """The last stage's record of a saved method on an experiment's stream, with the names of the tasks.

    Raises:
        ConfigError: the stream's tasks are not those that the method learned.
        CheckpointError, MissingFileError: the model can't be loaded.
    """
    saved = read_json(model / "config.json")
    if experiment.backbone != saved["backbone"]["name"] and "backbone" not in experiment.model_fields_set:
        experiment = experiment.model_copy(update={"backbone": saved["backbone"]["name"]})
    bench = Workbench(experiment, lambda line: None)
    method = load_method(model, backbone=bench.backbone)
    names = [task.name for task in bench.stream.tasks]
    if not method.joint and method.tasks != names:
        raise ConfigError(
            f"{model} learned the tasks {', '.join(method.tasks)}; the stream has {', '.join(names)}. "
            "Choose its tasks with --set stream.order=[...]."
        )
    return {**bench.evaluator(experiment).stage(method, len(names) - 1), "tasks": names}


def find_runs(places: Sequence[Path]) -> list[Path]:
    """All finished run folders at or below some places.

    Raises:
        MissingFileError: a place is not there, or holds no finished run.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            raise MissingFileError(f"{place}: there is no such folder. Name a run folder, such as runs/scenes.")
        here = sorted(file.parent for file in place.rglob("result.json") if (file.parent / "run.json").exists())
        if not here:
            raise MissingFileError(f"{place} holds no finished run (no result.json). Run 'lpi run' to its end first.")
        found += here
    return found


def environment() -> dict[str, Any]:
    """Versions, machine and commit: what a result can only be repeated with."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {"versions": versions, "machine": machine, "commit": _commit()}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's own word will do
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the library's own source, when it runs from a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


__all__ = ["Run", "Workbench", "environment", "evaluate_saved", "find_runs", "open_stream", "run_experiment"]
