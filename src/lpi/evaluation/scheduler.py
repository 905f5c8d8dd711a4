"""Variants x seeds x task orders, each run once, in as many processes as there are cores for.

A *cell* is one variant of an experiment with one seed and one task order. Cells know nothing of each other, so they may
run anywhere in any order; a cell that was finished is left alone and one that was stopped goes on. Runs in the stream's
own order lie in ``<out>/<experiment>/<variant>/seed-<n>``, those in another one under
``<out>/<experiment>/order-<k>/``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

import torch

from lpi.backbones.detectors.base import EMBEDDED as EMBEDDED_DETECTOR
from lpi.backbones.loading import EMBEDDED
from lpi.config import Experiment, check_name, merge, parse
from lpi.errors import CheckpointError, ConfigError, LpiError, UnknownNameError, did_you_mean
from lpi.evaluation.bench import PROBLEMS, Bench, Say, open_stream, problem_of, suited
from lpi.evaluation.resume import finished, start_over
from lpi.evaluation.run import Run
from lpi.methods import method_class, method_names, training_of
from lpi.methods.options import is_registered_router
from lpi.storage import read_json, write_atomically
from lpi.trainer import Step

Json = Any
DRAWN = ("scenes", "scene_expressions")  # kinds of streams whose source takes a seed
DIED = "a process of it died, maybe for lack of memory. Give the same command again, or fewer --jobs; it goes on."
MOST_JOBS = 8  # by default: each process holds a backbone and the decoded pictures


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        variant: its name.
        seed: of the run.
        order: 0 for the stream's own order of tasks, 1 for the reverse, 2 and up for drawn ones.
        settings: the variant's experiment, with its order of tasks.
        folder: of the run.
    """

    variant: str
    seed: int
    order: int
    settings: Experiment
    folder: Path


@dataclass
class Outcome:
    """What came of the cells: all of them, and why those failed that did.

    Attributes:
        cells: in the order of variants, orders and seeds.
        failed: a line each, by position in ``cells``.
    """

    cells: Sequence[Cell]
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, dict[int, Path]]:
        """The folder of each variant and seed in the stream's own order of tasks."""
        found: dict[str, dict[int, Path]] = {}
        for cell in self.cells:
            if cell.order == 0:
                found.setdefault(cell.variant, {})[cell.seed] = cell.folder
        return found


def variants_of(
    experiment: Experiment,
    names: Sequence[str] | None = None,
    tuned: Mapping[str, Json] | None = None,
    *,
    given: Collection[str] = (),
) -> dict[str, Experiment]:
    """The settings of each variant, by its name, tuned ones put in.

    A name is a variant of the experiment, or a method: of the library, in a Python file, or in a module that can be
    imported. For a method a variant is made, with its defaults and the experiment's own stream and training. Where the
    experiment trains another method, the settings that suit this one (:func:`lpi.methods.training_of`) take the place
    of those that were chosen for that one.

    Args:
        experiment: as it was read.
        names: which variants; by default all of the experiment's.
        tuned: the ``rows`` of what ``lpi tune`` wrote, if anything; variants that it lacks stay as they are.
        given: dotted keys that were set for every variant alike, such as ``training.learning_rate``: no method's own
            settings take their place.

    Raises:
        UnknownNameError: a name that is none of them.
        MissingFileError: a file that isn't there.
        ConfigError: two variants of one name, or tuned settings that are of no variant, that the variant doesn't have
            or that were chosen for another state of it.
    """
    known = method_names(problem := problem_of(experiment.stream).name)
    variants: dict[str, Experiment] = {}
    for name in names or experiment.variant_names():
        outside = name.endswith(".py") or ("." in name and name not in experiment.variant_names())
        variant = Path(name).stem if name.endswith(".py") else name.rpartition(".")[2] if outside else name
        if variant in variants or (outside and variant in experiment.variant_names()):
            raise ConfigError(
                f"{name}: the comparison has a row {variant!r} already. Name it once, or rename the file."
            )
        if variant in experiment.variant_names():
            settings = experiment.variant(variant)
        elif outside or name in known:
            own = training_of(method_class(name, problem))  # what is wrong with a file is said before anything runs
            content = experiment.model_dump(exclude={"rows", "method"}, exclude_unset=True)
            if name != experiment.method.get("name", "lpi") and "training" not in given:
                chosen = content.get("training", {})
                for key in own.keys() & chosen.keys():
                    if f"training.{key}" not in given:
                        del chosen[key]
            settings = parse({**content, "method": {"name": name}}, f"row {variant!r} of {experiment.name}")
        else:
            near = did_you_mean(name, dict.fromkeys([*experiment.variant_names(), *known]))
            raise UnknownNameError(f"No method is called so, and {experiment.name} has no row {name!r}. {near}")
        settings, found = suited(settings), (tuned or {}).get(variant, {})
        if found.get("settings", fingerprint(settings)) != fingerprint(settings):
            raise ConfigError(
                f"row {variant!r} isn't as it was when its tuned settings were chosen: method, training or size of the "
                "stream differ. Choose them again with lpi tune, or leave --tuned away."
            )
        _require_same_backbone(variant, settings, found.get("backbone"))
        variants[variant] = changed(settings, found.get("chosen", {}), variant)
    if tuned and not tuned.keys() & variants.keys():
        raise ConfigError(f"the tuned settings are of other rows ({', '.join(tuned)[:200]}). Leave --tuned away.")
    return variants


def _require_same_backbone(variant: str, settings: Experiment, identity: Json) -> None:
    """Refuse settings that were tuned for another backbone of that name."""
    now = backbone_identity(settings.stream.problem, settings.backbone, settings.image_size) if identity else None
    if now not in (None, identity):
        raise ConfigError(
            f"row {variant!r}: its settings were tuned for another backbone than {settings.backbone} is now (identity "
            f"{identity} there, {now} now). Choose them again with lpi tune, or leave --tuned away."
        )


DRAWING = ("seed", "sources")
"""Of drawn streams: which scenes, and whether each collection has its own borders and words."""


def fingerprint(settings: Experiment) -> str:
    """What tuned settings were chosen for, in 12 hexadecimal digits: a row's method, training and size of stream.

    Names of folders and files aren't in it: they differ from machine to machine. Nor is what only draws the material
    anew, or mounts it otherwise.
    """
    stream = {
        key: value
        for key, value in settings.stream.model_dump().items()
        if not isinstance(value, str) and key not in DRAWING
    }
    stream["redrawn"] = False
    content = [settings.method, settings.training.model_dump(exclude={"device"}), stream]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def changed(settings: Experiment, changes: Mapping[str, Any], variant: str) -> Experiment:
    """The settings of a variant with some dotted keys set, checked again.

    Raises:
        ConfigError: a key or value that an experiment doesn't have, or another method.
    """
    content = settings.model_dump(exclude_unset=True)
    for key, value in changes.items():  # a file of figures names no code
        router = key.startswith("method.router") and not is_registered_router(value)
        if router or key == "method" or key.startswith("method.name"):
            raise ConfigError(
                f"tuned settings of row {variant!r} name a {'router' if router else 'method'}; they hold options. Name "
                "it in the row."
            )
    for key, value in changes.items():
        merge(content, key.split("."), value)
    return parse(content, f"tuned settings of row {variant!r}")


def task_orders(names: Sequence[str], count: int) -> list[list[str] | None]:
    """So many different orders of the tasks: the stream's own (``None``), its reverse, then drawn ones.

    They are the same everywhere.

    >>> task_orders(["a", "b", "c"], 2)
    [None, ['c', 'b', 'a']]

    Raises:
        ConfigError: there aren't so many: the same runs would be counted twice.
    """
    most = math.factorial(len(names))
    if count > most:
        has = f"{len(names)} tasks have {most} orders" if most > 1 else "1 task has 1 order"
        raise ConfigError(f"{has}; got --orders {count}.")

    def drawn(number: int) -> list[str]:
        return sorted(names, key=lambda name: hashlib.sha256(f"{number}/{name}".encode()).digest())

    found = [[*names], [*names][::-1]][:count]
    number = 2
    while len(found) < count:
        found += [own for own in [drawn(number)] if own not in found]
        number += 1
    return [None, *found[1:]]


def make_cells(
    experiment: Experiment, variants: Mapping[str, Experiment], *, seeds: Sequence[int], orders: int, out: Path
) -> list[Cell]:
    """The cells of a comparison, variant by variant, then order by order, then seed by seed.

    Raises:
        ConfigError: fewer than one order, or more than there are, or no seed, or a variant with a stream of its own
            beside several orders.
    """
    if orders < 1 or not seeds:
        raise ConfigError(f"a comparison needs at least 1 order and 1 seed; got {orders} and {len(seeds)}.")
    check_name(experiment.name, "the experiment's name")  # however it was made, it names a folder
    for variant in variants:
        check_name(variant, "the row's name")
    names: list[str] = []
    if orders > 1:  # otherwise the stream needn't be opened here
        names = [task.name for task in open_stream(experiment.stream, experiment.name).tasks]
    cells = []
    for variant, settings in variants.items():
        if orders > 1 and settings.stream != experiment.stream:
            raise ConfigError(
                f"row {variant!r} has a stream of its own, so it can't share task orders. Use --orders 1."
            )
        for number, order in enumerate(task_orders(names, orders)):
            here, root = settings, out / experiment.name
            if order is not None:
                here = settings.model_copy(update={"stream": settings.stream.model_copy(update={"order": order})})
                root /= f"order-{number}"
            cells += [
                Cell(variant, seed, number, of_seed(here, seed), root / variant / f"seed-{seed}")
                for seed in dict.fromkeys(seeds)  # a run that stands twice would count twice
            ]
    return cells


def of_seed(settings: Experiment, seed: int) -> Experiment:
    """The settings of a run, with material of its own where ``stream.redrawn`` says so."""
    stream = settings.stream
    if not stream.redrawn:
        return settings
    update = {"limit_seed": seed} | ({"seed": seed} if stream.kind in DRAWN else {})
    return settings.model_copy(update={"stream": stream.model_copy(update=update)})


def default_jobs(cells: int, device: str) -> int:
    """As many processes as cores, but one where all would share an accelerator."""
    if device != "cpu" and torch.cuda.is_available():
        return 1
    return max(1, min(cells, os.cpu_count() or 1, MOST_JOBS))


def run_experiment(
    experiment: Experiment,
    *,
    names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: Path = Path("runs"),
    **options: Any,
) -> dict[str, dict[int, Path]]:
    """Run variants x seeds in this process; returns the run folder of each.

    Args:
        experiment: what to run.
        names: of variants; by default the main one only.
        seeds: by default the experiment's.
        out: the folder of all runs.
        options: see :func:`run_cells`.

    Raises:
        LpiError: anything a person can put right.
    """
    variants = variants_of(experiment, names or [experiment.main_variant])
    cells = make_cells(experiment, variants, seeds=experiment.seeds if seeds is None else seeds, orders=1, out=out)
    return run_cells(cells, keep_going=False, **options).folders


def run_cells(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    fresh: bool = False,
    keep_going: bool = True,
    command: str = "",
    say: Say = print,
    on_step: Callable[[Step], None] | None = None,
    on_run: Callable[[str, int], None] | None = None,
) -> Outcome:
    """Run what isn't finished.

    Args:
        cells: what to run.
        jobs: processes; with 1 everything runs in this one.
        fresh: start over where a run is there.
        keep_going: a cell that fails is noted, and the others go on; else its error is everybody's.
        command: recorded with the results.
        say: told a line when a cell begins or ends.
        on_step: told about every step, with one process.
        on_run: told variant and seed when a run begins, with one process.

    Raises:
        ConfigError: a folder holds a run with other settings, data or backbone: found before anything runs.
    """
    outcome = Outcome(cells)
    _checksum.cache_clear()  # pictures may have changed since this process last looked, and models
    backbone_identity.cache_clear()
    _BENCHES.clear()
    waiting = []
    for index, cell in enumerate(cells):
        if fresh:
            start_over(cell.folder)
        own = cell.settings
        now = (
            partial(_checksum, _stream_key(cell)),
            partial(backbone_identity, own.stream.problem, own.backbone, own.image_size),
        )
        if not finished(cell.folder, own, cell.seed, *now):
            waiting.append(index)
    say(f"{len(cells)} runs, {len(cells) - len(waiting)} of them finished already")
    # one stream after another, so that a process seldom has to set up another
    waiting.sort(key=lambda index: (cells[index].order, _stream_key(cells[index])))
    if jobs > 1 and len(waiting) > 1:
        _in_processes(outcome, waiting, min(jobs, len(waiting)), command, say)
        return outcome
    for done, index in enumerate(waiting, start=1):
        cell = cells[index]
        say(f"{_name(cell)} ({done} of {len(waiting)}): {cell.folder}")
        if on_run is not None:
            on_run(cell.variant, cell.seed)
        if not keep_going:
            _run(cell, command, say, on_step)
        elif (problem := _attempt(cell, command, say, on_step)) is not None:
            outcome.failed[index] = problem
            say(f"  failed: {problem}")
    return outcome


def _in_processes(outcome: Outcome, waiting: Sequence[int], jobs: int, command: str, say: Say) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,))
    try:
        futures = {pool.submit(_attempt, outcome.cells[index], command): index for index in waiting}
        for done, future in enumerate(as_completed(futures), start=1):
            index = futures[future]
            try:
                problem = future.result()
            except BrokenProcessPool:  # whichever cell it had, all that weren't done are lost with it
                problem = DIED
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


def _run(cell: Cell, command: str, say: Say, on_step: Callable[[Step], None] | None) -> None:
    """Run a cell in this process."""
    Run(
        _bench(cell.settings, say),
        cell.settings,
        variant=cell.variant,
        seed=cell.seed,
        folder=cell.folder,
        command=command,
        say=say,
        on_step=on_step,
    ).go()


def _attempt(
    cell: Cell, command: str, say: Say = lambda line: None, on_step: Callable[[Step], None] | None = None
) -> str | None:
    """Run a cell in this process; returns what went wrong, in a line."""
    try:
        _run(cell, command, say, on_step)
    except LpiError as error:
        return " ".join(str(error).split())
    except Exception as error:  # a method from anywhere may fail in any way; the others are to go on all the same
        text = traceback.format_exc()
        write_atomically(cell.folder / "error.txt", lambda file: file.write_text(text, encoding="utf-8") and None)
        return f"{type(error).__name__}: {error} (see {cell.folder / 'error.txt'})"
    return None


def _name(cell: Cell) -> str:
    order = f", order {cell.order}" if cell.order else ""
    return f"{cell.variant}{order}, seed {cell.seed}"


def _stream_key(cell: Cell) -> str:
    return cell.settings.model_dump_json(include={"name", "stream"})


@lru_cache(maxsize=64)
def _checksum(key: str) -> str:
    settings = Experiment.model_validate_json(key)
    return open_stream(settings.stream, settings.name).checksum()


@lru_cache(maxsize=64)
def backbone_identity(problem: Literal["retrieval", "grounding"], backbone: str, image_size: int | None) -> str | None:
    """What stands for a backbone that can change under its name: in a folder or file, or one that comes along.

    ``None`` of a name on the hub, which means the same model for ever.
    """
    there = backbone in (EMBEDDED, EMBEDDED_DETECTOR) or Path(backbone).expanduser().exists()
    return str(PROBLEMS[problem].load_backbone(backbone, image_size).identity) if there else None


_BENCHES: dict[str, Bench] = {}  # a process keeps the latest


def _bench(settings: Experiment, say: Say) -> Bench:
    """The backbone, stream and decoded pictures that cells share."""
    key = settings.model_dump(mode="json", include={"name", "stream", "backbone", "image_size"}, exclude_unset=True)
    shared = Experiment.model_validate({**key, "training": {"device": settings.training.device}})
    name = shared.model_dump_json(exclude_unset=True)
    if name not in _BENCHES:
        _BENCHES.clear()  # before the next one takes its room
        _BENCHES[name] = Bench(shared, say)
    return _BENCHES[name]


def read_tuned(file: Path) -> Json:
    """The record that ``lpi tune`` wrote.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is something else.
    """
    try:
        record = read_json(file)
    except CheckpointError:  # a person's file: nobody shall be told to delete it
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("rows"), dict):
        raise CheckpointError(f"{file}: these are no tuned settings (no 'rows'). Write them with lpi tune.")
    for row, found in record["rows"].items():
        if not isinstance(found, dict) or not isinstance(found.get("chosen", {}), dict):
            raise CheckpointError(f"{file}: row {row!r} holds no table of chosen settings. Write it with lpi tune.")
    return record
