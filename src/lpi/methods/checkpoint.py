"""Saving and loading a method: one small file a task, one file for what is shared, one that says what it all is.

::

    config.json                 format, method, options, tasks, backbone name and identity
    tasks/00-appliance.safetensors   prompts and keys of a task (tens of kilobytes for LPI)
    tasks/00-appliance.json          its name, shapes and the identity of the backbone it was made for
    shared-01.safetensors       only where a method keeps something that belongs to no task

The frozen backbone is not saved: it is named, and its identity is checked when the method is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.backbones.loading import load_backbone
from lpi.errors import CheckpointError, MissingFileError
from lpi.methods import method, method_source
from lpi.methods.base import Method
from lpi.storage import read_json, read_tensors, write_json, write_tensors

FORMAT = 1


def task_file(index: int, name: str) -> str:
    """The file name of a task, without ending: its place and a readable form of its name."""
    return f"{index:02d}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')[:40] or 'task'}"


def save_method(method: Method, folder: Path) -> None:
    """Write a method to a folder; ``config.json`` comes last, so that a folder without it is an unfinished one.

    Raises:
        OutputError: the folder can't be written to.
    """
    folder = Path(folder)
    identity = method.backbone.identity
    files = [task_file(index, name) for index, name in enumerate(method.tasks)]
    for index, name in enumerate(method.tasks):
        state = method.task_state(index)
        if state:
            write_tensors(folder / "tasks" / f"{files[index]}.safetensors", state)
        about = {"task": name, "backbone": identity, "shapes": {key: list(t.shape) for key, t in state.items()}}
        write_json(folder / "tasks" / f"{files[index]}.json", about)
    shared = method.shared_state()
    # a name of its own for every stage: until config.json names it, the older file still serves
    shared_file = f"shared-{len(method.tasks):02d}.safetensors" if shared else None
    if shared_file:
        write_tensors(folder / shared_file, shared)
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "method": method_source(type(method)),
            "options": method.options,
            "backbone": {
                "name": method.backbone.name,
                "identity": identity,
                "image_size": list(method.backbone.inputs.image_size),
            },
            "tasks": method.tasks,
            "files": files,
            "shared": shared_file,
        },
    )
    keep = {f"{file}{ending}" for file in files for ending in (".json", ".safetensors")}
    outdated = [old for old in (folder / "tasks").glob("*") if old.name not in keep]  # tasks that were forgotten
    outdated += [old for old in folder.glob("shared-*.safetensors") if old.name != shared_file]
    for old in outdated:
        old.unlink()


def load_method(folder: str | Path, *, backbone: DualEncoder | None = None, **hub: Any) -> Method:
    """A method as it was saved.

    Args:
        folder: where :func:`save_method` wrote it, or a hub name.
        backbone: the frozen model to put it on; by default the one it names is loaded.
        hub: what the hub's own loader takes.

    Raises:
        MissingFileError: the folder or one of its files is not there.
        CheckpointError: a file is damaged, or it was made for another backbone.
    """
    root = _local(str(folder), hub)
    config = read_json(root / "config.json")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{root}/config.json has format {config.get('format')!r}; this version reads {FORMAT}.")
    if backbone is None:
        made_for = config["backbone"]
        backbone = load_backbone(made_for["name"])
        if list(backbone.inputs.image_size) != made_for["image_size"]:  # another size than the checkpoint's own
            backbone = load_backbone(made_for["name"], image_size=made_for["image_size"][0])
    check_identity(root, config["backbone"], backbone)
    loaded = method(config["method"], backbone, **config["options"])
    states = []
    for name, file in zip(config["tasks"], config["files"], strict=True):
        about = read_json(root / "tasks" / f"{file}.json")
        check_identity(root / "tasks" / f"{file}.json", {"name": name, "identity": about["backbone"]}, backbone)
        state = read_tensors(root / "tasks" / f"{file}.safetensors") if about["shapes"] else {}
        _check_shapes(root / "tasks" / f"{file}.safetensors", state, about["shapes"])
        states.append((name, state))
    shared = read_tensors(root / config["shared"]) if config["shared"] else {}
    try:
        loaded.restore(states, shared)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{root}: the tensors don't fit the options in config.json ({reason}). Take both from one save."
        ) from error
    return loaded


def check_identity(place: Path, made_for: dict[str, str], backbone: DualEncoder) -> None:
    """Refuse what was made for another backbone.

    Raises:
        CheckpointError: the identities differ.
    """
    if made_for["identity"] != backbone.identity:
        raise CheckpointError(
            f"{place} was made for the backbone {made_for['identity']}; this one is {backbone.identity} "
            f"({backbone.name}). Load it with the same weights and preprocessing it was trained on, or train again."
        )


def _check_shapes(place: Path, state: dict[str, Tensor], shapes: dict[str, list[int]]) -> None:
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    if found != shapes:
        wrong = sorted(set(found) ^ set(shapes)) or sorted(name for name in shapes if found[name] != shapes[name])
        raise CheckpointError(f"{place} doesn't hold what its .json says, first {wrong[0]!r}. Take both from one save.")


def _local(folder: str, hub: dict[str, Any]) -> Path:
    root = Path(folder)
    if root.is_dir():
        return root
    if folder.count("/") != 1 or folder.startswith((".", "/", "~")):
        raise MissingFileError(f"{folder}: there is no such folder.")
    from huggingface_hub import snapshot_download

    allowed = {key: hub[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in hub}
    try:
        return Path(snapshot_download(folder, **allowed))
    except Exception as error:  # the hub client has a dozen kinds of failure; a person needs one line
        raise MissingFileError(f"{folder}: no such folder, and the hub did not give it ({error}).") from error
