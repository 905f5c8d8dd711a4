"""What all pre-trainings have in common: phases whose weights are read back as float16, and a folder at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lpi.backbones.loading import quiet
from lpi.config import TrainingSettings
from lpi.storage import copy_file, write_atomically
from lpi.trainer import OnStep, learn_task


def learn_phase(
    learner: Any,
    material: Any,
    start: Path,
    folder: Path,
    checkpoint: Path,
    *,
    settings: TrainingSettings,
    seed: int,
    on_step: OnStep | None,
) -> None:
    """Train one phase and write its model to ``folder``, in the stock format and as float16.

    Args:
        learner: a method with a ``tuned`` copy of its backbone.
        material: what it is taught: a task, or what the trainer takes batches from.
        start: the folder that the learner's backbone was read from.
        folder: where to write.
        checkpoint: of the training, for one that is stopped.
        settings: of the training.
        seed: of the batches.
        on_step: told about every step.
    """
    learn_task(learner, material, settings=settings, seed=seed, checkpoint=checkpoint, on_step=on_step)
    folder.mkdir(parents=True, exist_ok=True)
    for file in start.iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            copy_file(file, folder / file.name)
    with quiet():
        learner.tuned.model.half().save_pretrained(folder)  # writes the weights last
    checkpoint.unlink(missing_ok=True)


def finish(out: Path, last: Path, command: str, begun: float) -> Path:
    """Copy the last phase's model to the folder itself, and note the command and how long it took."""
    for file in last.iterdir():
        copy_file(file, out / file.name)
    hours = (time.monotonic() - begun) / 3600
    write_atomically(out / "training.txt", lambda file: file.write_text(f"{command}\n{hours:.3f} hours\n") and None)
    return out
