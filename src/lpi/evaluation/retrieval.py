"""Retrieval as a problem: pictures and captions that find each other."""

from __future__ import annotations

from collections.abc import Callable

from lpi.backbones.base import DualEncoder
from lpi.backbones.loading import load_backbone
from lpi.config import StreamSettings
from lpi.errors import ConfigError
from lpi.evaluation.examples import write_examples
from lpi.evaluation.problem import Problem, open_with
from lpi.evaluation.recall import Evaluator
from lpi.evaluation.stability import Stability
from lpi.features import TrainingSet
from lpi.tasks.stream import TaskStream, source_options


def open_stream(settings: StreamSettings, name: str) -> TaskStream:
    """The stream of captioned pictures that an experiment describes; see :func:`lpi.evaluation.problem.open_with`.

    Raises:
        ConfigError: it describes something else.
    """
    if settings.problem != "retrieval":
        raise ConfigError(f"[stream] kind = {settings.kind!r} gives expressions with boxes; this needs captions.")
    maker: Callable[..., TaskStream] = getattr(TaskStream, f"from_{settings.kind}")
    return open_with(maker, source_options(settings.kind), settings, name)


def cut_captions(stream: TaskStream, backbone: DualEncoder) -> list[str]:
    """A note where captions are longer than the backbone reads."""
    records = [record for task in stream.tasks for record in (*task.train, *task.test)]
    captions = list(dict.fromkeys(caption for record in records for caption in record.captions))
    cut = backbone.inputs.too_long(captions)
    if not cut:
        return []
    return [
        f"{len(cut)} of {len(captions)} captions are cut to the backbone's context of {backbone.inputs.context} "
        f"tokens, first {captions[cut[0]][:40].rstrip()!r}. 'lpi data check --backbone ..' lists them."
    ]


RETRIEVAL = Problem(
    name="retrieval",
    items="pictures",
    open_stream=open_stream,
    load_backbone=lambda name, image_size: load_backbone(name, image_size=image_size),
    notes=cut_captions,
    training_data=TrainingSet,
    evaluator=Evaluator,
    write_examples=write_examples,
    diagnosis=Stability,
)
