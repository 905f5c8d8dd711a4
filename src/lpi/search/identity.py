"""By what an index and a model recognise each other: the backbone, its preprocessing, and every task's prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.backbones.features import FeatureBackbone
from lpi.backbones.loading import load_backbone
from lpi.errors import BackboneError, CheckpointError
from lpi.methods import Named, named_class
from lpi.methods import method as build_method
from lpi.methods.base import Method, stored_state
from lpi.methods.checkpoint import FORMAT, load_method, unless_registered
from lpi.methods.options import differing
from lpi.prompts.task_keys import FALLBACK
from lpi.search.manifest import Description, Frozen, Json, KnownTask, Manifest, Stage
from lpi.storage import read_json

FROZEN = "plain"  # the key of the frozen model; the name stands in indexes that people have
ROUTING = "routing"  # the key of what the router looks at
DECODING = "pillow, JPEG at twice the input's side, upright, transparency on white"


def short_hash(*parts: object) -> str:
    """16 hexadecimal digits that stand for plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that stand for named tensors, whatever file they lie in.

    >>> tensors_hash({"a": torch.zeros(1)}) == tensors_hash({"a": torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def task_hashes(method: Method) -> list[str]:
    """What stands for each task's prompts and keys, in the order of the tasks."""
    return [tensors_hash(stored_state(method, index)) for index in range(len(method.tasks))]


def _base(method: Method) -> list[Any]:
    name = type(method).__module__.rpartition(".")[2]
    return [method.backbone.identity, name, differing(method.options), tensors_hash(method.shared_state())]


def model_hash(method: Method) -> str:
    """What stands for a method with everything that it learned."""
    return short_hash(_base(method), method.tasks, task_hashes(method))


class RouteKeys:
    """What stands for a vector's origin under each route: features under equal keys are equal.

    A stable method's features under a task's route depend on that task alone, so the key survives other tasks' coming
    and going. In any other case everything that was learned goes into the key.
    """

    def __init__(self, method: Method) -> None:
        self._base = _base(method)
        self._hashes = task_hashes(method)
        self._own = method.router is not None and method.stable
        self._keys = {FALLBACK: FROZEN}

    def __getitem__(self, route: int) -> str:
        if route not in self._keys:
            own = self._own and route < len(self._hashes)
            parts = [self._hashes[route]] if own else [self._hashes, route]
            self._keys[route] = short_hash(self._base, *parts)
        return self._keys[route]


def preprocessing_hash(method: Method) -> str:
    """What stands for how pictures become pixels and texts become tokens."""
    return short_hash(method.backbone.inputs.describe(), DECODING)


# What was changed beside the first map would make every vector of an index twice as wide. What belongs to no domain is
# told by each domain's own spread, and captions by what they mean beside how they are worded: of what the frozen model
# finds of photographs of no archive among seven archives, 84 % is found then, and 17 % with the preset's own router.
# Two cuts of each picture that is learned from, where they help, find two points more of these archives.
OF_AN_INDEX: dict[str, Any] = {"beside": "nothing", "cuts": 2, "reach": "own", "routing_text": 2 / 3}


def load_model(source: str | Path, method_file: Named | None = None) -> tuple[Method, Json | None]:
    """What ``--model`` names, and the ``run.json`` beside it where there is one.

    Args:
        source: a run folder, a saved method (a run's ``model`` folder), or a backbone (a folder or a name): the last
            gives an LPI that has learned nothing yet.
        method_file: the file or class of the method, where it is none of the library's.

    Raises:
        MissingFileError, CheckpointError, BackboneError: nothing there can be loaded.
    """
    folder = Path(source)
    for candidate in (folder, folder / "model"):
        config = candidate / "config.json"
        if config.is_file() and "method" in read_json(config, dict):
            method = load_method(candidate, method=unless_registered(candidate, method_file))
            return _anchored(method), _run_in(candidate.parent)
    backbone = load_backbone(source)
    if isinstance(backbone, FeatureBackbone):
        raise BackboneError(f"{source} holds features, and no model that sees other pictures. Name a backbone.")
    if method_file is not None:
        return _anchored(build_method(named_class(method_file), backbone)), None
    return _anchored(build_method("lpi", backbone, preset="best", **OF_AN_INDEX)), None


def _run_in(folder: Path) -> Json | None:
    """The ``run.json`` of a run's folder; ``None`` where there is none, or another program's."""
    place = folder / "run.json"
    run: Json = read_json(place, dict) if place.is_file() else {}
    if not run.keys() >= {"experiment", "row", "settings"}:
        return None
    settings = run["settings"]
    if not isinstance(settings, dict) or not all(isinstance(settings.get(t), dict) for t in ("stream", "training")):
        raise CheckpointError(f"{place}: its 'settings' can't be right. Take it from a backup, or move it away.")
    return run


def _anchored(method: Method) -> Method:
    """The same method; a backbone in a folder is named by its whole path, to be found from anywhere."""
    folder = Path(method.backbone.name).expanduser()
    if folder.exists():
        method.backbone.name = str(folder.resolve())
    return method


def describe(method: Method) -> Description:
    """What an index records of its model."""
    backbone = method.backbone
    return Description(
        model=model_hash(method),
        backbone=Frozen(backbone.name, backbone.identity),
        preprocessing=preprocessing_hash(method),
        tasks=tuple(KnownTask(*own) for own in zip(method.tasks, task_hashes(method), strict=True)),
    )


def check_same(place: Path, recorded: Description, method: Method, name: str) -> None:
    """Refuse a model that an index was not made with.

    Args:
        place: the index.
        recorded: of the index's model.
        method: the model.
        name: what a person calls the model.

    Raises:
        CheckpointError: they differ; the message says in what.
    """
    found = describe(method)
    if (found.model, found.preprocessing) == (recorded.model, recorded.preprocessing):
        return
    ours, theirs = recorded.backbone, found.backbone
    if ours.identity != theirs.identity:
        difference = (
            f"the index has backbone {ours.identity} ({ours.name}), the model {theirs.identity} ({theirs.name})"
        )
    elif found.preprocessing != recorded.preprocessing:
        difference = "their pictures or texts are prepared differently"
    else:
        difference = _task_difference(recorded.tasks, found.tasks)
    raise CheckpointError(
        f"{place} was made with another model than {name}: {difference}. Leave --model out to go on with the index's "
        "own model, or index into another folder."
    )


def _task_difference(ours: Sequence[KnownTask], theirs: Sequence[KnownTask]) -> str:
    mine, other = ({task.name: task.prompts for task in tasks} for tasks in (ours, theirs))
    for name in mine:
        if name not in other:
            return f"the index knows task {name!r}, the model doesn't"
        if mine[name] != other[name]:
            return f"task {name!r} has prompts {mine[name]} in the index and {other[name]} in the model"
    for name in other:
        if name not in mine:
            return f"the model knows task {name!r}, the index doesn't"
    other_ways = "they were made with other options, or by another version"
    return other_ways if list(mine) == list(other) else "their tasks come in another order"


def load_stage(
    folder: Path,
    manifest: Manifest,
    stage: Stage,
    backbone: DualEncoder | None = None,
    *,
    method_file: Named | None = None,
) -> Method:
    """The model of a stage, from the index's own copy.

    Args:
        folder, manifest: of the index.
        stage: which.
        backbone: the frozen model, where it is loaded already.
        method_file: the file or class of the stage's method, where it is none of the library's.

    Raises:
        CheckpointError: the copy, or the backbone that it names, is no longer what the index was made with.
    """
    place = folder / "models" / stage.model
    method: Method = load_method(place, backbone=backbone, method=unless_registered(place, method_file))
    try:
        check_same(folder, manifest.recorded(stage), method, str(place))
    except CheckpointError as error:
        if read_json(place / "config.json", dict).get("format") == FORMAT:
            raise
        raise CheckpointError(
            f"{folder} was made by an earlier version, whose models are known by other names, so none of its vectors "
            f"can be told. Index the pictures anew with the same model: lpi index {manifest.root} --index NEW_FOLDER "
            f"--model {place}"
        ) from error
    return method
