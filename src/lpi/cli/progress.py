"""What a person sees while something takes long: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from lpi.counting import LINE_SECONDS, Barred
from lpi.terminal import drawing, plain

if TYPE_CHECKING:
    from lpi.cli.boards import Board
    from lpi.trainer import Step


class Console(Barred):
    """Progress of a command.

    Args:
        quiet: say nothing on standard output, where figures as JSON are to come.
        board: opens the board of a run, by its row and seed; none by default.
    """

    def __init__(self, *, quiet: bool = False, board: Callable[[str, int], Board] | None = None) -> None:
        super().__init__(sys.stderr if quiet else sys.stdout)
        self._shown = 0.0
        self._open_board = board
        self._board: Board | None = None
        self._steps = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._board is not None:
            self._board.close()

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()

    def begin(self, row: str, seed: int) -> None:
        """A run begins: it has a board of its own."""
        if self._open_board is not None:
            if self._board is not None:
                self._board.close()
            self._board, self._steps = self._open_board(row, seed), 0

    def step(self, step: Step) -> None:
        """Task, epoch, loss and its parts, pairs a second, time left."""
        if self._board is not None:
            self._steps += 1
            self._board.add_scalar("loss/total", step.loss, self._steps)
            for name, value in step.parts.items():
                self._board.add_scalar(f"loss/{name}", value, self._steps)
            self._board.add_scalar("learning_rate", step.learning_rate, self._steps)
            self._board.add_scalar("pairs_per_second", step.pairs_per_second, self._steps)
        parts = " ".join(f"{name} {value:.3f}" for name, value in step.parts.items())
        note = (
            f"epoch {step.epoch + 1}/{step.epochs}  loss {step.loss:.3f} ({parts})  {step.pairs_per_second:.0f} pairs/s"
        )
        if self._bar is not None:
            if self._task is None or step.step == 1:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(plain(step.task), total=step.steps, note="")
            self._bar.update(self._task, completed=step.step, note=note)
        elif time.monotonic() - self._shown > LINE_SECONDS:
            self._shown = time.monotonic()
            self.say(f"  {step.task}: step {step.step}/{step.steps}  {note}  {step.seconds_left:.0f} s left")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 140, left: int = 1) -> None:
    """A table that fits the terminal; without one it is at most ``width`` letters wide. The first columns go left."""
    table = Table()
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = RichConsole(file=drawing(sys.stdout))
    if not console.is_terminal:  # a pipe or a log file has no width of its own
        console = RichConsole(file=drawing(sys.stdout), width=width)
    console.print(table)
