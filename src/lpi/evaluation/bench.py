"""What all variants and seeds of an experiment share: backbone, stream, decoded data, frozen features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lpi.config import Experiment, StreamSettings
from lpi.data.records import require_readable
from lpi.devices import pick_device
from lpi.errors import ConfigError
from lpi.evaluation.grounding import GROUNDING
from lpi.evaluation.problem import Evaluator, Problem
from lpi.evaluation.retrieval import RETRIEVAL
from lpi.features import TrainingData
from lpi.methods import Named, settled
from lpi.methods import method as build_method
from lpi.methods.checkpoint import load_method
from lpi.tasks.grouping import StreamOf

Say = Callable[[str], None]
PROBLEMS = {problem.name: problem for problem in (RETRIEVAL, GROUNDING)}


def problem_of(settings: StreamSettings) -> Problem:
    """The problem that a stream poses."""
    return PROBLEMS[settings.problem]


def open_stream(settings: StreamSettings, name: str) -> StreamOf[Any, Any]:
    """The stream that an experiment describes; see :func:`lpi.evaluation.problem.open_with`."""
    return problem_of(settings).open_stream(settings, name)


def suited(experiment: Experiment) -> Experiment:
    """The experiment with the training settings that suit its method, where it gives none itself."""
    training = settled(experiment.method, experiment.training, experiment.stream.problem)
    return experiment.model_copy(update={"training": training})


class Bench:
    """Backbone, stream, decoded data and frozen features, for any number of runs.

    Raises:
        ConfigError: the stream is of features, and the backbone another one.
    """

    def __init__(self, experiment: Experiment, say: Say) -> None:
        self.problem = problem_of(experiment.stream)
        self.backbone = self.problem.load_backbone(experiment.backbone, experiment.image_size)
        self.backbone.to(pick_device(experiment.training.device))
        self.stream = self.problem.open_stream(experiment.stream, experiment.name)
        root = experiment.stream.source().get("root")
        if experiment.stream.kind == "features" and Path(self.backbone.name).resolve() != Path(str(root)).resolve():
            raise ConfigError(
                f"{root} holds features, which another backbone can't read, and this one is {self.backbone.name}. Give "
                "the same folder for both: --set backbone=.. and --set stream.root=.."
            )
        train, test = (sum(len(getattr(task, split)) for task in self.stream.tasks) for split in ("train", "test"))
        say(
            f"{experiment.name}: {len(self.stream.tasks)} tasks, {train} training and {test} test "
            f"{self.problem.items}; {experiment.backbone}"
        )
        require_readable(record.picture for task in self.stream.tasks for record in (*task.train, *task.test))
        for note in self.problem.notes(self.stream, self.backbone):
            say(f"note: {note}")
        self._training: dict[int, TrainingData] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def training(self, index: int) -> TrainingData:
        """What a task is learned from; -1 is all of them as one."""
        if index not in self._training:
            task = self.stream.merged() if index < 0 else self.stream.tasks[index]
            self._training[index] = self.problem.training_data(task, self.backbone)
        return self._training[index]

    def evaluator(self, experiment: Experiment) -> Evaluator:
        """The evaluator for these settings, without features of earlier methods."""
        key = experiment.evaluation.model_dump_json()
        if key not in self._evaluators:
            self._evaluators[key] = self.problem.evaluator(self.backbone, self.stream, experiment.evaluation)
        self._evaluators[key].reset("float32")
        return self._evaluators[key]

    def method(self, experiment: Experiment) -> Any:
        """The method that the experiment names, untaught."""
        options = {key: value for key, value in experiment.method.items() if key not in ("name", "preset")}
        name, preset = experiment.method.get("name", "lpi"), experiment.method.get("preset")
        return build_method(name, self.backbone, preset=preset, **options)

    def load(self, folder: Path, method: Named | None = None, router: str | None = None) -> Any:
        """A method as it was saved; ``method`` and ``router`` name those that are none of the library's."""
        return load_method(folder, backbone=self.backbone, method=method, router=router)
