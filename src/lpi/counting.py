"""What a person sees while pictures are counted, embedded and learned from: one bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lpi.terminal import drawing, plain


class Learning(Protocol):
    """A step of training, as far as it is shown (:class:`lpi.trainer.Step`)."""

    @property
    def task(self) -> str:
        """What is learned."""

    @property
    def step(self) -> int:
        """Which step this was, from 1."""

    @property
    def steps(self) -> int:
        """How many there are."""

    @property
    def loss(self) -> float:
        """The loss before it."""

    @property
    def pairs_per_second(self) -> float:
        """The speed so far."""

    @property
    def seconds_left(self) -> float:
        """How long the rest will take."""


LINE_SECONDS = 15.0
Own = TypeVar("Own", bound="Barred")


def counting_bar(console: Console) -> Progress:
    """One bar: what is counted, how many of how many, a note, the time left; gone when it is done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class Barred:
    """What shows one bar while it lasts, where there is a terminal.

    Args:
        stream: where the bar is drawn.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=drawing(stream))
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self: Own) -> Own:
        if self._console.is_terminal:
            self._bar = counting_bar(self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class Counter(Barred):
    """Progress on standard error, so that results alone go to standard output."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._what = ""
        self._shown = time.monotonic()

    def count(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show how many pictures or steps of ``total`` are done."""
        if self._bar is not None:
            if what != self._what:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._what, self._task = what, self._bar.add_task(plain(what), total=total, note="")
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif time.monotonic() - self._shown > LINE_SECONDS:
            self._shown = time.monotonic()
            print(f"  {what}: {done}/{total}  {note}".rstrip(), file=sys.stderr, flush=True)

    def step(self, step: Learning) -> None:
        """Show a step of training, with its loss and speed."""
        note = f"loss {step.loss:.3f}  {step.pairs_per_second:.0f} pairs/s"
        self.count(f"learning {step.task}", step.step, step.steps, note)
