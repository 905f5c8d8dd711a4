"""One variant with one seed -> results on disk. A run that was stopped goes on where it was.

A run folder ``<out>/<experiment>/<variant>/seed-<n>`` holds the resolved settings (``run.json``), the frozen model's
figures (``frozen.json``), one record a stage (``stages/``), the method (``model/``), what the report shows
(``tasks.json``, ``examples.json``, ``log.jsonl``), checksums of what has none inside (``files.json``) and the run's
figures (``result.json``), which are written last.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from lpi.config import Experiment
from lpi.devices import Settled, settled_precision
from lpi.errors import ConfigError, OutputError
from lpi.evaluation.bench import Bench, Say
from lpi.evaluation.machine import environment
from lpi.evaluation.memory import PeakMemory
from lpi.evaluation.records import (
    FORMAT,
    Parameters,
    RunRecord,
    Seconds,
    StageRecord,
    read_record,
    read_stages,
    summarise,
    write_record,
)
from lpi.evaluation.resume import at_work, comparable, note_files
from lpi.features import TrainingData
from lpi.methods import Named, is_registered
from lpi.methods.base import Jointly, Method, recorded_options, relations, stored_parameters, stored_state
from lpi.methods.checkpoint import read_config, save_method, task_file, unless_registered
from lpi.prompts.task_keys import semantic_similarity
from lpi.storage import read_json, read_sealed, reason, sealed, write_atomically, write_json
from lpi.trainer import Step, derived_seed, is_wide, learn_task

HEADS = {
    "t2i_r1": "R@1 text to image",
    "i2t_r1": "R@1 image to text",
    "p1": "P@1",
    "p5": "P@5",
    "p10": "P@10",
}
"""What a person is told of a stage."""


class Run:
    """One variant with one seed, from wherever it stands to the end."""

    def __init__(
        self,
        bench: Bench,
        experiment: Experiment,
        *,
        variant: str,
        seed: int,
        folder: Path,
        command: str,
        say: Say,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.bench, self.experiment, self.variant, self.seed = bench, experiment, variant, seed
        self.folder, self.command, self.say, self.on_step = folder, command, say, on_step
        self.evaluator = bench.evaluator(experiment)
        self.precision: Settled = "float32"  # until it is known whether it goes on
        self.stream = bench.stream
        self.memory = PeakMemory()
        diagnosis = bench.problem.diagnosis if experiment.evaluation.diagnostics else None
        self.diagnosis = diagnosis(self.evaluator, folder / "stability") if diagnosis else None

    def go(self) -> RunRecord:
        """Learn, measure and write; returns the run's figures."""
        method = self.bench.method(self.experiment)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} can't be made: {reason(error)}") from error
        with at_work(self.folder):
            self.precision = self._precision(method)
            self.evaluator.reset(self.precision)
            return self._go(method)

    def _go(self, method: Method) -> RunRecord:
        self._begin(method)
        frozen = self.evaluator.frozen()
        write_record(self.folder / "frozen.json", frozen)
        method = self._learn_jointly(method) if isinstance(method, Jointly) else self._learn_in_turn(method)
        fell = self.diagnosis.of_run(method) if self.diagnosis else None
        metrics = self.bench.problem.metrics
        result = summarise(read_stages(self.folder), frozen.stages, metrics, fell_out_of_10=fell)
        self._write_tasks(method)
        self._settle_log()
        examples = self.experiment.evaluation.examples
        self.bench.problem.write_examples(self.evaluator, method, self.folder, examples)
        note_files(self.folder)
        write_record(self.folder / "result.json", result)
        return result

    # ---- the folder ------------------------------------------------------------------------------------------------

    def _precision(self, method: Method) -> Settled:
        """What the run began with; a run of before this was noted had float32 on a processor."""
        wanted, device = self.experiment.training.precision, method.backbone.device
        if wanted != "auto" or not (self.folder / "run.json").exists():
            return settled_precision(wanted, device, wide=is_wide(method))
        before = settled_precision(wanted, device, wide=False)
        noted: Settled = read_sealed(self.folder / "run.json").get("precision", before)
        return noted

    def _begin(self, method: Method) -> None:
        backbone = self.bench.backbone
        about = sealed(
            {
                "format": FORMAT,
                "problem": self.bench.problem.name,
                "experiment": self.experiment.name,
                "about": self.experiment.about,
                "row": self.variant,
                "method": {"name": self.experiment.method.get("name", "lpi"), "options": recorded_options(method)},
                "seed": self.seed,
                "settings": comparable(self.experiment, self.seed),
                "precision": self.precision,
                "stream": {
                    "name": self.stream.name,
                    "tasks": self.stream.summary(),
                    "held_out": len(self.stream.held_out),
                    "checksum": self.stream.checksum(whole=True),
                },
                "backbone": {
                    "name": backbone.name,
                    "identity": backbone.identity,
                    "parameters": sum(p.numel() for p in backbone.parameters()),
                },
                "command": self.command,
                **environment(),
            }
        )
        write_json(self.folder / "run.json", about)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "progress.pt"

    def _stage_file(self, stage: int) -> Path:
        return self.folder / "stages" / f"{task_file(stage, self.stream.tasks[stage].name)}.json"

    # ---- learning ----------------------------------------------------------------------------------------------------

    def _load(self, like: Method) -> Method:
        """What was learned so far."""
        method: Method = self.bench.load(self.folder / "model", type(like), self.experiment.method.get("router"))
        return method

    def _learn_in_turn(self, method: Method) -> Method:
        learned = 0
        if (self.folder / "model" / "config.json").exists():
            method = self._load(method)
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
                timing = read_json(self.folder / "timing.json", dict)
            self._checkpoint.unlink(missing_ok=True)
            self._measure(method, stage, timing)
            self.say(f"  {stage + 1}/{len(self.stream.tasks)} {task.name}: {self._line(stage)}")
        (self.folder / "timing.json").unlink(missing_ok=True)
        return method

    def _learn_jointly(self, method: Method) -> Method:
        last = len(self.stream.tasks) - 1
        if (self.folder / "model" / "config.json").exists():
            method = self._load(method)
        timing = {"train": 0.0, "pairs_per_second": 0.0}
        if not method.tasks:
            timing = self._learn(method, self.bench.training(-1))
            save_method(method, self.folder / "model")
        self._checkpoint.unlink(missing_ok=True)
        if not self._stage_file(last).exists():
            self._measure(method, last, timing)
            self.say(f"  all tasks at once: {self._line(last)}")
        return method

    def _learn(self, method: Method, training: TrainingData) -> dict[str, float]:
        settings = self.experiment.training.model_copy(update={"precision": self.precision})
        if (
            isinstance(method, Jointly) and settings.steps is not None
        ):  # as many steps as a sequential learner takes altogether
            settings = settings.model_copy(update={"steps": settings.steps * len(self.stream.tasks)})
        started = time.monotonic()
        log = (self.folder / "log.jsonl").open("a", encoding="utf-8", buffering=1)  # a kill loses no line but one
        log.write("\n" if _breaks_off(self.folder / "log.jsonl") else "")

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
        states = [stored_state(method, index) for index in range(len(method.tasks))] + [method.shared_state()]
        record = replace(
            record,
            seconds=Seconds(timing["train"], time.monotonic() - started),
            pairs_per_second=timing["pairs_per_second"],
            peak_mb=self.memory.megabytes(),  # before the diagnosis, which isn't the method's to answer for
            parameters=Parameters(
                trainable=sum(parameter.numel() for parameter in method.trainable()),
                stored=stored_parameters(method),
                bytes=sum(tensor.nbytes for state in states for tensor in state.values()),
            ),
        )
        if self.diagnosis is not None:
            record = self.diagnosis.of_stage(record, method)
        write_record(self._stage_file(stage), record)

    def _line(self, stage: int) -> str:
        return in_words(read_record(StageRecord, self._stage_file(stage)))

    def _settle_log(self) -> None:
        """Steps that ran twice, before and after a kill, are noted once."""
        log = self.folder / "log.jsonl"
        if log.exists():
            steps: dict[tuple[str, int], str] = {}
            for line in log.read_text(encoding="utf-8").splitlines():
                try:
                    content = json.loads(line)
                    steps[content["task"], content["step"]] = line
                except (ValueError, TypeError, KeyError):
                    continue  # the line that was being written when the run was killed
            text = "".join(f"{line}\n" for line in steps.values())
            write_atomically(log, lambda file: file.write_text(text, encoding="utf-8") and None)

    def _write_tasks(self, method: Method) -> None:
        """How the tasks lie to each other: by what they show, and by what was learned for them."""
        means = torch.stack(
            [
                self.bench.training(index).data().frozen.text_features.mean(0).cpu()
                for index in range(len(self.stream.tasks))
            ]
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


def _breaks_off(log: Path) -> bool:
    """Whether a log's last line is part of one: the run was killed while it was written."""
    with log.open("rb") as file:
        return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"


def in_words(record: StageRecord) -> str:
    """What a person is told of a stage."""
    shown = [
        f"{HEADS[name]} {100 * sum(values) / len(values):.1f}" for name, values in record.seen.items() if name in HEADS
    ]
    if record.routing:
        shown.append("routed right " + " / ".join(f"{100 * found.accuracy:.0f}" for found in record.routing.values()))
    return ", ".join(shown)


def evaluate_saved(
    model: Path, experiment: Experiment, method_file: Named | None = None
) -> tuple[list[str], StageRecord]:
    """The names of the tasks, and the last stage of a saved method on an experiment's stream.

    Args:
        model: where it was saved.
        experiment: whose stream and evaluation to use.
        method_file: the file or class of a method that is none of the library's.

    Raises:
        ConfigError: the stream's tasks are not those that the method learned.
        CheckpointError, MissingFileError: the model can't be loaded.
    """
    saved = read_config(model)
    if experiment.backbone != saved["backbone"]["name"] and "backbone" not in experiment.model_fields_set:
        experiment = experiment.model_copy(update={"backbone": saved["backbone"]["name"]})
    bench = Bench(experiment, lambda line: None)
    if method_file is None:  # an experiment that a person hands in may name a file, too
        own = experiment.method.get("name", "lpi")
        method_file = None if is_registered(own) else own
    method = bench.load(model, unless_registered(model, method_file), experiment.method.get("router"))
    names = [task.name for task in bench.stream.tasks]
    if not isinstance(method, Jointly) and method.tasks != names:
        raise ConfigError(
            f"{model} learned the tasks {', '.join(method.tasks)}; the stream has {', '.join(names)}. "
            "Choose its tasks with --set stream.order=[...]."
        )
    evaluator, training = bench.evaluator(experiment), experiment.training
    evaluator.reset(settled_precision(training.precision, method.backbone.device, wide=is_wide(method)))
    return names, evaluator.stage(method, len(names) - 1)
