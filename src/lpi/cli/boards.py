"""Where the losses of a run are also written, step by step: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, Protocol

from lpi.errors import MissingExtraError, OutputError
from lpi.extras import missing_extra
from lpi.storage import reason

Kind = Literal["tensorboard", "wandb", "mlflow"]


class Board(Protocol):
    """One run's scalars."""

    def add_scalar(self, name: str, value: float, step: int, /) -> None:
        """Write one."""

    def close(self) -> None:
        """The run has ended."""


class Wandb:
    """A run of Weights & Biases in the project ``lpi``; ``WANDB_MODE=offline`` sends nothing."""

    def __init__(self, folder: Path, row: str, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.run = _imported("wandb").init(project="lpi", group=row, name=f"{row}, seed {seed}", dir=str(folder))

    def add_scalar(self, name: str, value: float, step: int, /) -> None:
        """Write one."""
        self.run.log({name: value}, step=step)

    def close(self) -> None:
        """The run has ended."""
        self.run.finish()


class Mlflow:
    """A run of MLflow, at the place that ``MLFLOW_TRACKING_URI`` names or where MLflow has it by itself."""

    def __init__(self, folder: Path, row: str, seed: int) -> None:
        self.mlflow = _imported("mlflow")
        self.mlflow.start_run(run_name=f"{row}, seed {seed}")

    def add_scalar(self, name: str, value: float, step: int, /) -> None:
        """Write one."""
        self.mlflow.log_metric(name, value, step=step)

    def close(self) -> None:
        """The run has ended."""
        self.mlflow.end_run()


def board(kind: Kind, folder: Path, row: str, seed: int) -> Board:
    """The board of one run.

    Args:
        kind: whose.
        folder: for what it writes on this machine.
        row, seed: of the run.

    Raises:
        MissingExtraError: its package isn't installed.
        OutputError: the folder can't be made.
    """
    if kind == "tensorboard":
        return _tensorboard(folder / row / f"seed-{seed}")
    return (Wandb if kind == "wandb" else Mlflow)(folder, row, seed)


def check_board(kind: Kind, folder: Path) -> None:
    """Refuse a board that can't be written to, before anything is learned; see :func:`board`."""
    if kind == "tensorboard":
        _tensorboard(folder)
    else:
        _imported(kind)


def _tensorboard(folder: Path) -> Board:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_extra("TensorBoard is not installed", "log") from error
    try:
        writer: Board = SummaryWriter(str(folder))
    except OSError as error:
        raise OutputError(f"{folder} can't be made: {reason(error)}") from error
    return writer


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{package} is not installed. Install it: pip install {package}") from error
