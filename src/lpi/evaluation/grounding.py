"""Grounding as a problem: expressions that name an object in a picture, and the box around it."""

from __future__ import annotations

from lpi.backbones.detectors.base import GroundingBackbone
from lpi.backbones.detectors.loading import load_grounding_backbone
from lpi.config import StreamSettings
from lpi.evaluation.box_examples import write_box_examples
from lpi.evaluation.precision import GroundingEvaluator
from lpi.evaluation.problem import Problem, open_with
from lpi.expression_data import ExpressionSet
from lpi.tasks.grounding import MAKERS, GroundingStream, GroundingTask, grounding_options


def open_expressions(settings: StreamSettings, name: str) -> GroundingStream:
    """The stream of expressions that an experiment describes; see :func:`lpi.evaluation.problem.open_with`."""
    return open_with(MAKERS[settings.kind], grounding_options(settings.kind), settings, name)


def _training_data(task: GroundingTask, backbone: GroundingBackbone) -> ExpressionSet:
    return ExpressionSet(task.name, task.train, backbone)


GROUNDING = Problem(
    name="grounding",
    items="expressions",
    open_stream=open_expressions,
    load_backbone=lambda name, image_size: load_grounding_backbone(name, image_size=image_size),
    notes=lambda stream, backbone: stream.notes,
    training_data=_training_data,
    evaluator=GroundingEvaluator,
    write_examples=write_box_examples,
)
