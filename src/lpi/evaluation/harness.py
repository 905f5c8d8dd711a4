"""Method x stream x seeds -> results on disk. A run that was stopped goes on; one that is finished is left alone.

A run folder ``<out>/<experiment>/<row>/seed-<n>`` holds the resolved settings (``run.json``), the frozen backbone's
figures (``zero_shot.json``), one record a stage (``stages/``), the method (``model/``), what the report shows
(``tasks.json``, ``examples.json``, ``log.jsonl``) and the summary (``result.json``), which is written last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lpi.config import Experiment, check_name, check_row
from lpi.errors import ConfigError, OutputError
from lpi.evaluation.machine import environment
from lpi.evaluation.memory import PeakMemory
from lpi.evaluation.protocols import protocols
from lpi.evaluation.resume import comparable, finished, start_over
from lpi.evaluation.stability import Stability
from lpi.evaluation.workbench import Say, Workbench, open_stream
from lpi.methods import Named, is_registered
from lpi.methods.base import Method, recorded_options, relations, stored_parameters, stored_state
from lpi.methods.checkpoint import save_method, task_file, unless_registered
from lpi.prompts.task_keys import semantic_similarity
from lpi.storage import read_json, reason, write_atomically, write_json
from lpi.trainer import Material, Step, derived_seed, learn_task


def workbench_for(experiment: Experiment) -> type[Workbench]:
    """The kind of workbench that an experiment's stream asks for."""
    if not experiment.stream.grounding:
        return Workbench
    from lpi.evaluation.grounding_workbench import GroundingWorkbench  # retrieval shouldn't wait for detectors to load

    return GroundingWorkbench


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
    check_name(experiment.name, "the experiment's name")  # however it was made, it names a folder
    for name in names:
        check_row(name, experiment.name)
    kind = workbench_for(experiment)
    checksum = cache(lambda: kind.open(experiment.stream, experiment.name).checksum())
    each = {
        name: kind.settled(experiment.row(name)) for name in names
    }  # all names and options are checked before the first run
    folders: dict[str, dict[int, Path]] = {}
    bench: Workbench | None = None
    for name, settings in each.items():
        folders[name] = {}
        for seed in seeds if seeds is not None else settings.seeds:
            folder = out / experiment.name / name / f"seed-{seed}"
            folders[name][seed] = folder
            if fresh:
                start_over(folder)
            if finished(folder, settings, seed, checksum):
                say(f"{name}, seed {seed}: already finished in {folder}")
                continue
            bench = bench or kind(experiment, say)
            say(f"{name}, seed {seed}: {folder}")
            if on_run is not None:
                on_run(name, seed)
            Run(bench, settings, row=name, seed=seed, folder=folder, command=command, say=say, on_step=on_step).go()
    return folders


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
        self.memory = PeakMemory()
        diagnostics = experiment.evaluation.diagnostics
        self.stability = Stability(self.evaluator, folder / "stability") if diagnostics else None

    def go(self) -> dict[str, Any]:
        """Learn, measure and write; returns the summary."""
        method = self.bench.method(self.experiment)
        self._begin(method)
        zero_shot = self.evaluator.zero_shot()
        write_json(self.folder / "zero_shot.json", zero_shot)
        method = self._learn_jointly(method) if method.joint else self._learn_in_turn(method)
        stages = [read_json(path) for path in sorted((self.folder / "stages").glob("*.json"))]
        if method.joint:  # one stage that saw everything: there is a final figure and nothing to forget
            zero_shot = {"stages": zero_shot["stages"][-1:], "held_out": zero_shot["held_out"]}
        result = self.bench.summary(stages, zero_shot)
        result |= {
            "trainable_per_task": stages[-1]["parameters"]["trainable"],
            "stored_parameters": stages[-1]["parameters"]["stored"],
            "stored_bytes": stages[-1]["parameters"]["bytes"],
            "peak_mb": max(stage["peak_mb"] for stage in stages),
            "seconds": {
                "train": sum(stage["seconds"]["train"] for stage in stages),
                "evaluate": sum(stage["seconds"]["evaluate"] for stage in stages),
            },
        }
        if self.stability is not None:
            result["stability"] = self.stability.summary(method)
        self._write_tasks(method)
        self._settle_log()
        self.bench.write_examples(self.evaluator, method, self.folder, self.experiment.evaluation.examples)
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
                "method": {"name": self.experiment.method.get("name", "lpi"), "options": recorded_options(method)},
                "seed": self.seed,
                "settings": comparable(self.experiment, self.seed),
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
            method = self.bench.load(self.folder / "model", type(method))
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
            method = self.bench.load(self.folder / "model", type(method))
        timing = {"train": 0.0, "pairs_per_second": 0.0}
        if not method.tasks:
            timing = self._learn(method, self.bench.training(-1))
            save_method(method, self.folder / "model")
        self._checkpoint.unlink(missing_ok=True)
        if not self._stage_file(last).exists():
            self._measure(method, last, timing)
            self.say(f"  all tasks at once: {self._line(last)}")
        return method

    def _learn(self, method: Method, training: Material) -> dict[str, float]:
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
        record["peak_mb"] = self.memory.megabytes()  # before the diagnostics, which aren't the method's to answer for
        states = [stored_state(method, index) for index in range(len(method.tasks))] + [method.shared_state()]
        record["parameters"] = {
            "trainable": sum(parameter.numel() for parameter in method.trainable()),
            "stored": stored_parameters(method),
            "bytes": sum(tensor.nbytes for state in states for tensor in state.values()),
        }
        if self.stability is not None:
            record["protocols"] = protocols(self.evaluator, method, stage)
            record["stability"] = self.stability.note(method, stage)
        write_json(self._stage_file(stage), record)

    def _line(self, stage: int) -> str:
        return self.bench.line(read_json(self._stage_file(stage)))

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
        related = relations(method)
        write_json(
            self.folder / "tasks.json",
            {
                "names": [task.name for task in self.stream.tasks],
                "similarity": similarity.tolist(),
                "positions": positions.tolist(),
                "near": related["near"] if related else None,
                "prompt_similarity": related["prompt_similarity"] if related else None,
            },
        )


def evaluate_saved(model: Path, experiment: Experiment, method_file: Named | None = None) -> dict[str, Any]:
    """The last stage's record of a saved method on an experiment's stream, with the names of the tasks.

    Args:
        model: where it was saved.
        experiment: whose stream and evaluation to use.
        method_file: the file or class of a method that is none of the library's.

    Raises:
        ConfigError: the stream's tasks are not those that the method learned.
        CheckpointError, MissingFileError: the model can't be loaded.
    """
    saved = read_json(model / "config.json")
    if experiment.backbone != saved["backbone"]["name"] and "backbone" not in experiment.model_fields_set:
        experiment = experiment.model_copy(update={"backbone": saved["backbone"]["name"]})
    bench = workbench_for(experiment)(experiment, lambda line: None)
    if method_file is None:  # an experiment that a person hands in may name a file, too
        own = experiment.method.get("name", "lpi")
        method_file = None if is_registered(own) else own
    method = bench.load(model, unless_registered(model, method_file))
    names = [task.name for task in bench.stream.tasks]
    if not method.joint and method.tasks != names:
        raise ConfigError(
            f"{model} learned the tasks {', '.join(method.tasks)}; the stream has {', '.join(names)}. "
            "Choose its tasks with --set stream.order=[...]."
        )
    return {**bench.evaluator(experiment).stage(method, len(names) - 1), "tasks": names}


__all__ = ["Run", "Say", "Workbench", "environment", "evaluate_saved", "open_stream", "run_experiment", "workbench_for"]
