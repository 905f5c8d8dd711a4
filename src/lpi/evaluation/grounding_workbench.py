"""What a run asks of its workbench where the tasks are expressions with boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lpi.backbones.detectors.base import GroundingBackbone
from lpi.backbones.detectors.loading import load_grounding_backbone
from lpi.config import Experiment, StreamSettings
from lpi.errors import ConfigError
from lpi.evaluation.grounding import GroundingEvaluator, grounding_summary
from lpi.evaluation.grounding_examples import write_grounding_examples
from lpi.evaluation.workbench import Workbench, check_source
from lpi.methods import Named, method_class
from lpi.methods import method as build_method
from lpi.methods.base import Learner
from lpi.methods.checkpoint import load_method
from lpi.methods.grounding.base import GroundingMethod
from lpi.methods.grounding.expressions import ExpressionSet
from lpi.tasks.grounding import MAKERS, GroundingStream, GroundingTask, grounding_options


def open_expressions(settings: StreamSettings, name: str) -> GroundingStream:
    """The stream of expressions that an experiment describes.

    Raises:
        ConfigError: a key that the source of this kind doesn't have, or lacks.
        DataError, MissingFileError: as the readers say.
    """
    check_source(settings, grounding_options(settings.kind))
    try:
        stream = MAKERS[settings.kind](name=name, **settings.source())
    except TypeError as error:  # a missing key: the readers know best which
        raise ConfigError(f"[stream] kind = {settings.kind!r}: {str(error).partition('() ')[2] or error}.") from error
    if settings.order is not None:
        stream = stream.ordered(settings.order)
    if settings.measured == "validation":
        stream = stream.on_validation()
    return stream.limited(train=settings.train_limit, test=settings.test_limit, seed=settings.limit_seed)


class GroundingWorkbench(Workbench):
    """Detector, expressions, opened pictures; and how finding boxes is learned, measured and told of."""

    items: ClassVar[str] = "expressions"
    backbone: GroundingBackbone

    @staticmethod
    def open(settings: StreamSettings, name: str) -> GroundingStream:
        """See :class:`Workbench`."""
        return open_expressions(settings, name)

    def load_backbone(self, experiment: Experiment) -> GroundingBackbone:
        """See :class:`Workbench`."""
        return load_grounding_backbone(experiment.backbone, image_size=experiment.image_size)

    def _note_cut_captions(self, say: Callable[[str], None]) -> None:
        for note in self.stream.notes:
            say(f"note: {note}")

    def prepare(self, task: GroundingTask) -> ExpressionSet:
        """See :class:`Workbench`."""
        return ExpressionSet(task.name, task.train, self.backbone)

    def measuring(self, experiment: Experiment) -> GroundingEvaluator:
        """See :class:`Workbench`."""
        return GroundingEvaluator(self.backbone, self.stream, experiment.evaluation)

    @staticmethod
    def method_class(name: str) -> type[Learner]:
        """See :class:`Workbench`."""
        return method_class(name, "grounding")

    def build(self, name: str, *, preset: str | None, **options: Any) -> Any:
        """See :class:`Workbench`."""
        return build_method(name, self.backbone, preset=preset, **options)

    def load(self, folder: Path, method: Named | None = None) -> Any:
        """See :class:`Workbench`."""
        return load_method(folder, backbone=self.backbone, method=method)

    def summary(self, stages: Sequence[dict[str, Any]], zero_shot: dict[str, Any]) -> dict[str, Any]:
        """See :class:`Workbench`."""
        return grounding_summary(stages, zero_shot)

    def line(self, record: dict[str, Any]) -> str:
        """See :class:`Workbench`."""
        shown = [f"P@{k} {100 * sum(values) / len(values):.1f}" for k, values in record["precision"].items()]
        if record["routing"]:
            shown.append(f"routed right {100 * record['routing']['accuracy']:.0f}")
        return ", ".join(shown)

    def write_examples(self, evaluator: GroundingEvaluator, method: GroundingMethod, folder: Path, count: int) -> None:  # type: ignore[override]
        """See :class:`Workbench`."""
        write_grounding_examples(evaluator, method, folder, count)
