"""``lpi features``: what a backbone gives for a stream, written down once."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lpi.cli.options import ExperimentArgument, SetOption


def features(
    experiment: ExperimentArgument,
    changes: SetOption = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("features"),
) -> None:
    """Write a stream's frozen features; methods that don't change the model then run over them in seconds."""
    from lpi.backbones import load_backbone
    from lpi.config import read_experiment
    from lpi.evaluation.retrieval import open_stream
    from lpi.feature_files import write_features

    settings = read_experiment(experiment, changes or [])
    stream = open_stream(settings.stream, settings.name)
    backbone = load_backbone(settings.backbone, image_size=settings.image_size, device=settings.training.device)
    write_features(stream, backbone, out)
    at = shlex.quote(str(out))
    print(
        f"Written to {out}; use it with: --set stream.kind=features --set stream.root={at} --set backbone={at}, and no "
        "other keys of the stream's source."
    )
