"""What all rows and seeds of an experiment share, and what differs between retrieval and other tasks.

A run (:mod:`lpi.evaluation.harness`) learns tasks, keeps its folder and goes on after a stop, whatever the tasks are.
It asks its workbench for the rest: data, methods, evaluator, and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lpi.backbones.base import DualEncoder
from lpi.backbones.loading import load_backbone
from lpi.config import Experiment, StreamSettings
from lpi.errors import ConfigError, did_you_mean
from lpi.evaluation.continual import summary
from lpi.evaluation.examples import write_examples
from lpi.evaluation.protocol import Evaluator
from lpi.methods import Named, method_class, training_of
from lpi.methods import method as build_method
from lpi.methods.base import Learner, Method
from lpi.methods.checkpoint import load_method
from lpi.tasks.stream import TaskStream, source_options
from lpi.trainer import TrainingSet, pick_device

Say = Callable[[str], None]


def open_stream(settings: StreamSettings, name: str) -> TaskStream:
    """The stream that an experiment describes.

    Raises:
        ConfigError: a key that the source of this kind doesn't have.
        DataError, MissingFileError: as the readers say.
    """
    if settings.grounding:
        raise ConfigError(f"[stream] kind = {settings.kind!r} gives expressions with boxes; this needs captions.")
    check_source(settings, source_options(settings.kind))
    maker = getattr(TaskStream, f"from_{settings.kind}")
    try:
        stream: TaskStream = maker(name=name, **settings.source())
    except TypeError as error:  # a missing key: the constructors know best which
        raise ConfigError(f"[stream] kind = {settings.kind!r}: {str(error).partition('() ')[2] or error}.") from error
    if settings.order is not None:
        stream = stream.ordered(settings.order)
    if settings.measured == "validation":
        stream = stream.on_validation()
    return stream.limited(train=settings.train_limit, test=settings.test_limit, seed=settings.limit_seed)


def check_source(settings: StreamSettings, known: Sequence[str]) -> None:
    """Refuse keys that the source of a stream's kind doesn't have.

    Raises:
        ConfigError: such a key; the message names the nearest one that is known.
    """
    for key in settings.source():
        if key not in known:
            near = did_you_mean(key, [*known, *StreamSettings.model_fields])
            raise ConfigError(f"[stream] of kind {settings.kind!r} has no option {key!r}. {near}")


class Workbench:
    """Backbone, stream, decoded pictures, frozen features; and how retrieval is learned, measured and told of."""

    items: ClassVar[str] = "pictures"

    @staticmethod
    def open(settings: StreamSettings, name: str) -> Any:
        """The stream that an experiment describes."""
        return open_stream(settings, name)

    def __init__(self, experiment: Experiment, say: Say) -> None:
        self.backbone = self.load_backbone(experiment)
        self.backbone.to(pick_device(experiment.training.device))
        self.stream = self.open(experiment.stream, experiment.name)
        train = sum(len(task.train) for task in self.stream.tasks)
        test = sum(len(task.test) for task in self.stream.tasks)
        tasks = len(self.stream.tasks)
        say(f"{experiment.name}: {tasks} tasks, {train} training and {test} test {self.items}; {experiment.backbone}")
        self._note_cut_captions(say)
        self._training: dict[int, Any] = {}
        self._evaluators: dict[str, Any] = {}

    def load_backbone(self, experiment: Experiment) -> DualEncoder:
        """The frozen model that the experiment names."""
        return load_backbone(experiment.backbone, image_size=experiment.image_size)

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

    def training(self, index: int) -> Any:
        """What a task is learned from; -1 is all of them as one."""
        if index not in self._training:
            self._training[index] = self.prepare(self.stream.merged() if index < 0 else self.stream.tasks[index])
        return self._training[index]

    def prepare(self, task: Any) -> Any:
        """A task, ready to be learned from."""
        return TrainingSet(task, self.backbone)

    def evaluator(self, experiment: Experiment) -> Any:
        """The evaluator for these settings, without features of earlier methods."""
        key = experiment.evaluation.model_dump_json()
        if key not in self._evaluators:
            self._evaluators[key] = self.measuring(experiment)
        self._evaluators[key].reset()
        return self._evaluators[key]

    def measuring(self, experiment: Experiment) -> Any:
        """An evaluator for these settings."""
        return Evaluator(self.backbone, self.stream, experiment.evaluation)

    # ---- methods -----------------------------------------------------------------------------------------------------

    @staticmethod
    def method_class(name: str) -> type[Learner]:
        """The class of a method by its name."""
        return method_class(name)

    @classmethod
    def settled(cls, experiment: Experiment) -> Experiment:
        """The experiment with the training settings that suit its method, where it gives none itself."""
        found = cls.method_class(str(experiment.method.get("name", "lpi")))
        suited = training_of(found, experiment.method.get("preset"))
        lacking = {key: value for key, value in suited.items() if key not in experiment.training.model_fields_set}
        return experiment.model_copy(update={"training": experiment.training.model_copy(update=lacking)})

    def method(self, experiment: Experiment) -> Any:
        """The method that the experiment names, untaught."""
        options = {key: value for key, value in experiment.method.items() if key not in ("name", "preset")}
        name, preset = experiment.method.get("name", "lpi"), experiment.method.get("preset")
        return self.build(name, preset=preset, **options)

    def build(self, name: str, *, preset: str | None, **options: Any) -> Any:
        """A method by its name, over the backbone."""
        return build_method(name, self.backbone, preset=preset, **options)

    def load(self, folder: Path, method: Named | None = None) -> Any:
        """A method as it was saved; ``method`` names one that is none of the library's."""
        return load_method(folder, backbone=self.backbone, method=method)

    # ---- figures -----------------------------------------------------------------------------------------------------

    def summary(self, stages: Sequence[dict[str, Any]], zero_shot: dict[str, Any]) -> dict[str, Any]:
        """A run's figures from its stages' records."""
        return summary(stages, zero_shot)

    def line(self, record: dict[str, Any]) -> str:
        """What a person is told of a stage."""
        recall = record["recall"]
        shown = []
        for direction, arrow in (("text_to_image", "text to image"), ("image_to_text", "image to text")):
            values = recall[direction]["1"]
            shown.append(f"R@1 {arrow} {100 * sum(values) / len(values):.1f}")
        if record["routing"]:
            shown.append("routed right " + " / ".join(f"{100 * r['accuracy']:.0f}" for r in record["routing"].values()))
        return ", ".join(shown)

    def write_examples(self, evaluator: Any, method: Method, folder: Path, count: int) -> None:
        """What was found before and after, for the report."""
        write_examples(evaluator, method, folder, count)
