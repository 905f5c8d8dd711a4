"""Methods x seeds x task orders, each run once, in as many processes as there are cores for.

A *cell* is one row of an experiment with one seed and one task order. Cells know nothing of each other, so they may run
anywhere in any order; a cell that was finished is left alone and one that was stopped goes on, as single runs do.
Runs in the stream's own order lie where ``lpi run`` puts them, ``<out>/<experiment>/<row>/seed-<n>``, those in another
one under ``<out>/<experiment>/order-<k>/``.
"""

from __future__ import annotations

import hashlib
import os
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch

from lpi.config import Experiment, check_name, merge, parse
from lpi.errors import CheckpointError, ConfigError, LpiError, UnknownNameError, did_you_mean
from lpi.evaluation.harness import Run, Say, Workbench, open_stream, workbench_for
from lpi.evaluation.resume import finished, start_over
from lpi.methods import method_class, method_names, training_of
from lpi.storage import read_json, write_atomically
from lpi.trainer import Step

MOST_JOBS = 8  # by default: each process holds a backbone and the decoded pictures


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        row: the row's name.
        seed: of the run.
        order: 0 for the stream's own order of tasks, 1 for the reverse, 2 and up for drawn ones.
        settings: the row's experiment, with its order of tasks.
        folder: of the run.
    """

    row: str
    seed: int
    order: int
    settings: Experiment
    folder: Path


@dataclass
class Outcome:
    """What came of the cells: all of them, and why those failed that did.

    Attributes:
        cells: in the order of rows, orders and seeds.
        failed: a line each, by position in ``cells``.
    """

    cells: Sequence[Cell]
    failed: dict[int, str] = field(default_factory=dict)


def rows_of(
    experiment: Experiment,
    names: Sequence[str] | None = None,
    tuned: Mapping[str, Any] | None = None,
    *,
    given: Collection[str] = (),
) -> dict[str, Experiment]:
    """The settings of each row, by its name, tuned ones put in.

    A name is a row of the experiment, or a method: of the library, in a Python file, or in a module that can be
    imported. For a method a row is made, with its defaults and the experiment's own stream and training. Where the
    experiment trains another method, the settings that suit this one (:func:`lpi.methods.training_of`) take the place
    of those that were chosen for that one.

    Args:
        experiment: as it was read.
        names: which rows; by default all of the experiment's.
        tuned: the ``rows`` of what ``lpi tune`` wrote, if anything; rows that it lacks stay as they are.
        given: dotted keys that were set for every row alike, such as ``training.learning_rate``: no method's own
            settings take their place.

    Raises:
        UnknownNameError: a name that is none of them.
        MissingFileError: a file that isn't there.
        ConfigError: two rows of one name, or tuned settings that the row doesn't have.
    """
    rows: dict[str, Experiment] = {}
    for name in names or experiment.row_names():
        outside = name.endswith(".py") or ("." in name and name not in experiment.row_names())
        row = Path(name).stem if name.endswith(".py") else name.rpartition(".")[2] if outside else name
        if row in rows or (outside and row in experiment.row_names()):
            raise ConfigError(f"{name}: the comparison has a row {row!r} already. Name it once, or rename the file.")
        if row in experiment.row_names():
            settings = experiment.row(row)
        elif outside or name in method_names():
            suited = training_of(method_class(name))  # what is wrong with a file is said before anything runs
            content = experiment.model_dump(exclude={"rows", "method"}, exclude_unset=True)
            if name != experiment.method.get("name", "lpi") and "training" not in given:
                chosen = content.get("training", {})
                for key in suited.keys() & chosen.keys():
                    if f"training.{key}" not in given:
                        del chosen[key]
            settings = parse({**content, "method": {"name": name}}, f"row {row!r} of {experiment.name}")
        else:
            known = dict.fromkeys([*experiment.row_names(), *method_names()])
            raise UnknownNameError(f"No row or method is called {name!r}. {did_you_mean(name, known)}")
        settings = workbench_for(settings).settled(settings)
        rows[row] = changed(settings, (tuned or {}).get(row, {}).get("chosen", {}), row)
    return rows


def changed(settings: Experiment, changes: Mapping[str, Any], row: str) -> Experiment:
    """The settings of a row with some dotted keys set, checked again.

    Raises:
        ConfigError: a key or value that an experiment doesn't have, or another method.
    """
    content = settings.model_dump(exclude_unset=True)
    if any(key == "method" or key.startswith("method.name") for key in changes):  # a file of figures names no code
        raise ConfigError(f"tuned settings of row {row!r} name a method; they hold its options. Name it in the row.")
    for key, value in changes.items():
        merge(content, key.split("."), value)
    return parse(content, f"tuned settings of row {row!r}")


def task_orders(names: Sequence[str], count: int) -> list[list[str] | None]:
    """So many orders of the tasks: the stream's own (``None``), its reverse, then drawn ones, the same everywhere.

    >>> task_orders(["a", "b", "c"], 2)
    [None, ['c', 'b', 'a']]
    """

    def drawn(number: int) -> list[str]:
        return sorted(names, key=lambda name: hashlib.sha256(f"{number}/{name}".encode()).digest())

    return [None if k == 0 else [*names][::-1] if k == 1 else drawn(k) for k in range(count)]


def make_cells(
    experiment: Experiment, rows: Mapping[str, Experiment], *, seeds: Sequence[int], orders: int, out: Path
) -> list[Cell]:
    """The cells of a comparison, row by row, then order by order, then seed by seed.

    Raises:
        ConfigError: fewer than one order or no seed, or a row with a stream of its own beside several orders.
    """
    if orders < 1 or not seeds:
        raise ConfigError(f"a comparison needs at least 1 order and 1 seed; got {orders} and {len(seeds)}.")
    for name, what in ((experiment.name, "the experiment's name"), *((row, "the row's name") for row in rows)):
        check_name(name, what)  # however it was made, it names a folder
    names: list[str] = []
    if orders > 1:  # otherwise the stream needn't be opened here
        names = [task.name for task in open_stream(experiment.stream, experiment.name).tasks]
    cells = []
    for row, settings in rows.items():
        if orders > 1 and settings.stream != experiment.stream:
            raise ConfigError(f"row {row!r} has a stream of its own, so it can't share task orders. Use --orders 1.")
        for number, order in enumerate(task_orders(names, orders)):
            here, root = settings, out / experiment.name
            if order is not None:
                here = settings.model_copy(update={"stream": settings.stream.model_copy(update={"order": order})})
                root /= f"order-{number}"
            cells += [Cell(row, seed, number, here, root / row / f"seed-{seed}") for seed in seeds]
    return cells


def default_jobs(cells: int, device: str) -> int:
    """As many processes as cores, but one where all would share an accelerator."""
    if device != "cpu" and torch.cuda.is_available():
        return 1
    return max(1, min(cells, os.cpu_count() or 1, MOST_JOBS))


def run_cells(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    fresh: bool = False,
    command: str = "",
    say: Say = print,
    on_step: Callable[[Step], None] | None = None,
) -> Outcome:
    """Run what isn't finished. A cell that fails is noted, and the others go on.

    Args:
        cells: what to run.
        jobs: processes; with 1 everything runs in this one.
        fresh: start over where a run is there.
        command: recorded with the results.
        say: told a line when a cell begins or ends.
        on_step: told about every step, with one process.

    Raises:
        ConfigError: a folder holds a run with other settings or over other data: found before anything runs.
    """
    outcome = Outcome(cells)
    _checksum.cache_clear()  # pictures may have changed since this process last looked
    _bench.cache_clear()
    waiting = []
    for index, cell in enumerate(cells):
        if fresh:
            start_over(cell.folder)
        if not finished(cell.folder, cell.settings, cell.seed, partial(_checksum, _stream_key(cell))):
            waiting.append(index)
    say(f"{len(cells)} runs, {len(cells) - len(waiting)} of them finished already")
    # one order after another, so that a process seldom has to set up another stream
    waiting.sort(key=lambda index: cells[index].order)
    if jobs > 1 and len(waiting) > 1:
        _in_processes(outcome, waiting, min(jobs, len(waiting)), command, say)
        return outcome
    for done, index in enumerate(waiting, start=1):
        say(f"{_name(cells[index])} ({done} of {len(waiting)})")
        problem = _run(cells[index], command, say, on_step)
        if problem is not None:
            outcome.failed[index] = problem
            say(f"  failed: {problem}")
    return outcome


def _in_processes(outcome: Outcome, waiting: Sequence[int], jobs: int, command: str, say: Say) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,))
    try:
        futures = {pool.submit(_run, outcome.cells[index], command): index for index in waiting}
        for done, future in enumerate(as_completed(futures), start=1):
            index = futures[future]
            problem = future.result()
            if problem is not None:
                outcome.failed[index] = problem
            say(f"{_name(outcome.cells[index])}: {problem or 'done'} ({done} of {len(waiting)})")
    finally:  # after Ctrl-C nothing new begins
        pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """A worker process: takes its share of the cores, and ends when the process that started it is gone."""
    torch.set_num_threads(threads)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run(cell: Cell, command: str, say: Say | None = None, on_step: Callable[[Step], None] | None = None) -> str | None:
    """Run a cell in this process; returns what went wrong, in a line."""
    tell = say or (lambda line: None)
    try:
        bench = _bench(_bench_key(cell))
        Run(
            bench,
            cell.settings,
            row=cell.row,
            seed=cell.seed,
            folder=cell.folder,
            command=command,
            say=tell,
            on_step=on_step,
        ).go()
    except LpiError as error:
        return " ".join(str(error).split())
    except Exception as error:  # a method from anywhere may fail in any way; the others are to go on all the same
        text = traceback.format_exc()
        write_atomically(cell.folder / "error.txt", lambda file: file.write_text(text, encoding="utf-8") and None)
        return f"{type(error).__name__}: {error} (see {cell.folder / 'error.txt'})"
    return None


def _name(cell: Cell) -> str:
    return f"{cell.row}, order {cell.order}, seed {cell.seed}"


def _stream_key(cell: Cell) -> str:
    return cell.settings.model_dump_json(include={"name", "stream"})


def _bench_key(cell: Cell) -> str:
    settings = cell.settings
    key = settings.model_dump(mode="json", include={"name", "stream", "backbone", "image_size"}, exclude_unset=True)
    device = {"training": {"device": settings.training.device}}
    return Experiment.model_validate({**key, **device}).model_dump_json(exclude_unset=True)


@lru_cache(maxsize=64)
def _checksum(key: str) -> str:
    settings = Experiment.model_validate_json(key)
    return open_stream(settings.stream, settings.name).checksum()


@lru_cache(maxsize=1)
def _bench(key: str) -> Workbench:
    """The backbone, stream and decoded pictures that cells share; a process keeps the latest."""
    return Workbench(Experiment.model_validate_json(key), lambda line: None)


def read_tuned(file: Path) -> dict[str, Any]:
    """The record that ``lpi tune`` wrote.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is something else.
    """
    record = read_json(file)
    if not isinstance(record, dict) or not isinstance(record.get("rows"), dict):
        raise CheckpointError(f"{file}: these are no tuned settings (no 'rows'). Write them with lpi tune.")
    return record
