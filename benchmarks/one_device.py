"""Do a method's loss, encoding and routing keep all tensors on one device? Asked without such a device.

    python benchmarks/one_device.py --results results/one_device.json

Every method learns a task of drawn pictures on this processor and begins a second one. Then it moves, with a batch, to
a device whose tensors have shapes but no values, under FakeTensorMode of torch, which refuses to compute with tensors
that lie on several devices. The batch's loss and its backward pass, features of pictures and captions under the first
task, and the router's distances are computed there. ``ok`` is what went through; ``looks at values`` is what stopped
where a value is needed on the host (a synchronisation, not a fault). A router's distances may also lie ``on the
processor``, where its keys are kept and its routes are chosen. Anything else is the error.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

import lpi
from lpi.config import TrainingSettings
from lpi.evaluation.machine import environment
from lpi.features import TrainingSet
from lpi.methods import method_names
from lpi.methods.base import Method, begin
from lpi.methods.encoder import tokens
from lpi.prompts.low_rank import TOWERS
from lpi.storage import write_json
from lpi.tasks.stream import Task, TaskStream

DEVICE = "meta"  # any that isn't the processor; of torch's own, the one that needs no build of its own
STEP = TrainingSettings(steps=1, batch=8, epochs=1, device="cpu", precision="float32")
Outcome = dict[str, str]


def outcome(act: Callable[[], Any]) -> str:
    """What came of it, in a line."""
    try:
        found = act()
    except (DataDependentOutputException, DynamicOutputShapeException):
        return "looks at values"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    devices = {tensor.device.type for tensor in tensors(found)}
    if devices == {"cpu"}:
        return "on the processor"
    return "ok" if devices <= {DEVICE} else f"on {sorted(devices)}"


def tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict | list | tuple):
        for part in found.values() if isinstance(found, dict) else found:
            yield from tensors(part)


def on_device(part: Any) -> Any:
    """The same with its tensors moved; whatever is no tensor, or table or row of such, as it is."""
    if isinstance(part, torch.Tensor):
        return part.to(DEVICE)
    if type(part) in (dict, list, tuple) and any(True for _ in tensors(part)):
        if isinstance(part, dict):
            return {key: on_device(value) for key, value in part.items()}
        return type(part)(on_device(value) for value in part)
    return part


def check(name: str, tasks: tuple[Task, ...]) -> Outcome:
    """What a method does on the device that isn't there."""
    method: Method = lpi.method(name, "lpi-tiny")
    method.learn(tasks[0], settings=STEP)
    training = TrainingSet(tasks[1], method.backbone)
    begin(method, training.data(1, training.once_more(method, STEP)), torch.Generator().manual_seed(0))
    ready = next(iter(training.epochs(method, STEP)(seed=0, epoch=0)))
    frozen = tuple(own.to(DEVICE) for own in ready.frozen())
    words = tokens(method, training.captions[:4]).to(DEVICE)
    router = method.router
    looks = {tower: training.view(tower, router.look(tower)).to(DEVICE) for tower in TOWERS} if router else {}
    method.to(DEVICE)
    for module in method.modules():  # what a method keeps for the task only lies where it was computed
        kept = {name: part for name, part in vars(module).items() if not name.startswith("_")}
        vars(module).update({name: on_device(part) for name, part in kept.items()})
    moved = {name: getattr(ready, name).to(DEVICE) for name in ("images", "texts", "positives", "owner")}
    batch = replace(ready, **moved, frozen=lambda: frozen)
    with FakeTensorMode(allow_non_fake_inputs=True):

        def learn() -> Any:
            parts = method.loss(batch)
            torch.stack(list(parts.values())).sum().backward()
            return [parts, [p.grad for p in method.parameters() if p.grad is not None]]

        found = {
            "loss": outcome(learn) if any(p.requires_grad for p in method.trainable()) else "nothing to learn",
            "pictures": outcome(lambda: method.image_features(batch.images, 0)),
            "captions": outcome(lambda: method.text_features(words, 0)),
        }
        if router is not None:
            first = router.stage(0)  # the second task has nothing that routes yet
            found["routing"] = outcome(lambda: [first.distances(tower, own) for tower, own in looks.items()])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=method_names())
    parser.add_argument("--results", type=Path)
    choices = parser.parse_args()
    stream = TaskStream.from_scenes(families=["food", "animal"], train=8, validation=0, test=0, held_out=0)
    found = {}
    for name in choices.methods:
        found[name] = check(name, stream.tasks)
        print(name, found[name], file=sys.stderr, flush=True)
    failed = sorted(name for name, own in found.items() if any(one not in fine(what) for what, one in own.items()))
    command = " ".join(["python", "benchmarks/one_device.py", *map(shlex.quote, sys.argv[1:])])
    figures = {"methods": found, "failed": failed, "command": command, **environment()}
    if choices.results is not None:
        write_json(choices.results, figures)
    print(json.dumps({"failed": failed}, indent=1))


def fine(what: str) -> tuple[str, ...]:
    """Outcomes that aren't a failure."""
    return "ok", "looks at values", "nothing to learn", *(["on the processor"] if what == "routing" else [])


if __name__ == "__main__":
    main()
