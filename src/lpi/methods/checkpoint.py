"""Saving and loading a method: one small file a task, one file for what is shared, one that says what it all is.

::

    config.json                 format, method, problem, options, tasks, backbone name and identity
    tasks/00-appliance.safetensors   prompts and keys of a task (tens of kilobytes for LPI)
    tasks/00-appliance.json          its name, shapes and the identity of the backbone it was made for
    shared-01.safetensors       only where a method keeps something that belongs to no task

The frozen backbone is not saved: it is named, and its identity is checked when the method is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from lpi.backbones.base import DualEncoder
from lpi.backbones.loading import EMBEDDED
from lpi.errors import CheckpointError, ConfigError, LpiError, MissingFileError, OutputError
from lpi.methods import Named, is_registered, loader_of, method_class, named_class, outside, recorded_name
from lpi.methods import method as build_method
from lpi.methods.base import Learner, Problem, recorded_options, restore, stored_state
from lpi.methods.older import renewed, renewed_state, with_closed_form, with_foreign_expressions
from lpi.methods.options import is_registered_router
from lpi.plugins import source_of
from lpi.reading import shown
from lpi.routing import router_class
from lpi.storage import (
    checksum,
    has_checksum,
    read_json,
    read_tensors,
    sealed,
    unsealed,
    write_atomically,
    write_json,
    write_tensors,
)

FORMAT = 2
CARD_MARK = "<!-- Written anew whenever this is saved. Take this line away to keep what you write here. -->"
KEYS = {"format", "method", "options", "backbone", "tasks", "files"}
"""By these a ``config.json`` is known to be ours, of whatever format."""


def task_file(index: int, name: str) -> str:
    """The file name of a task, without ending: its place and a readable form of its name."""
    return f"{index:02d}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')[:40] or 'task'}"


def save_method(method: Learner, folder: Path) -> None:
    """Write a method to a folder; ``config.json`` comes last, so that a folder without it is an unfinished one.

    Of what else lies there, only the files of an earlier save that are no longer needed are taken away.

    Raises:
        OutputError: the folder can't be written to, or holds something else's ``config.json``.
    """
    folder = Path(folder)
    earlier = saved_files(folder)
    identity = method.backbone.identity
    states = [stored_state(method, index) for index in range(len(method.tasks))]
    # a name of its own for whatever is new: until config.json names it, the older file still serves
    tasks = [folder / "tasks" / task_file(*own) for own in enumerate(method.tasks)]
    files = [_free(place, state, earlier) for place, state in zip(tasks, states, strict=True)]
    shared, stage = method.shared_state(), folder / f"shared-{len(method.tasks):02d}"
    shared_file = f"{_free(stage, shared, earlier)}.safetensors" if shared else None
    written = {folder / "tasks" / f"{file}{ending}" for file in files for ending in (".json", ".safetensors")}
    for place in sorted(written | ({folder / shared_file} if shared_file else set()) - earlier):
        if place.exists() and not _is_ours(place):  # what a save left that was cut short is ours
            raise OutputError(f"{place} isn't of a saved method, and would be written over. Name another folder.")
    for index, name in enumerate(method.tasks):
        state = states[index]
        if state:
            write_tensors(folder / "tasks" / f"{files[index]}.safetensors", state)
        shapes = {key: list(t.shape) for key, t in state.items()}
        types = {key: str(t.dtype) for key, t in state.items()}
        about = {"task": name, "backbone": identity, "shapes": shapes, "types": types}
        write_json(folder / "tasks" / f"{files[index]}.json", sealed(about))
    if shared_file:
        write_tensors(folder / shared_file, shared)
    write_json(
        folder / "config.json",
        sealed(
            {
                "format": FORMAT,
                "method": recorded_name(type(method)),
                "problem": method.problem,
                "options": recorded_options(method),
                "backbone": {
                    "name": method.backbone.name,
                    "identity": identity,
                    "image_size": list(method.backbone.inputs.image_size),
                },
                "tasks": method.tasks,
                "files": files,
                "shared": shared_file,
            }
        ),
    )
    for old in earlier - saved_files(folder):  # tasks that were forgotten, and what was shared before
        old.unlink(missing_ok=True)


def _free(place: Path, state: Mapping[str, Tensor], earlier: set[Path]) -> str:
    """The name of a file of tensors: a second one where an earlier save has the first, with other tensors."""
    file = Path(f"{place}.safetensors")
    kept = file in earlier and file.exists()
    other = kept and not has_checksum(file, checksum({name: own.detach().cpu() for name, own in state.items()}))
    return f"{place.name}-again" if other else place.name


def write_card(
    method: Learner, folder: Path, *, figures: Mapping[str, object] | None = None, licence: str | None = None
) -> None:
    """Write the ``README.md`` of a saved method, unless a person wrote one; it says nothing that isn't known.

    Args:
        method: that was saved.
        folder: where.
        figures: what was measured, by name.
        licence: of what was learned, as the hub writes it, e.g. ``apache-2.0``.

    Raises:
        OutputError: it can't be written.
    """
    card, backbone = Path(folder) / "README.md", method.backbone
    if card.exists() and CARD_MARK not in card.read_text(encoding="utf-8", errors="replace"):
        return
    hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", backbone.name)) and not Path(backbone.name).exists()
    head = ["library_name: lpi", *([f"base_model: {backbone.name}"] if hub else [])]
    head += [f"license: {licence}"] if licence else []
    named = backbone.name if hub or not Path(backbone.name).exists() else Path(backbone.name).name
    tasks = [f"{place}. {task}" for place, task in enumerate(method.tasks, start=1)] or ["Nothing was learned yet."]
    measured = [f"| {name} | {value} |" for name, value in (figures or {}).items()]
    lines = [
        *("---", *head, "---", f"# {type(method).__name__} on {named}", ""),
        "What a frozen model of pictures and words learned in the tasks below, one after another. Saved by the Python "
        "library `lpi`. The frozen model itself is not in here: it is named, and checked when this is loaded.",
        *("", "## Load it", "", "```python", "import lpi", "", 'learner = lpi.load("this-folder")', "```", ""),
        *("## Frozen model", "", f"`{named}`, identity `{backbone.identity}`. Its own licence holds for it.", ""),
        *("## Tasks, in the order of learning", "", *tasks, ""),
        *("## Figures", "", *(["| what | value |", "|---|---|", *measured] if measured else ["None were given."]), ""),
        *("## Licence", "", f"{licence}" if licence else "None was given: ask whoever saved it.", "", CARD_MARK, ""),
    ]
    write_atomically(card, lambda file: file.write_text("\n".join(lines), encoding="utf-8"))


def saved_files(folder: Path) -> set[Path]:
    """The files that the method in a folder consists of, ``config.json`` left out; none where there is no method.

    Raises:
        OutputError: the folder's ``config.json`` is something else's, which must not be written over.
    """
    place = folder / "config.json"
    if not place.exists() and not place.is_symlink():
        return set()
    try:
        config = read_json(place)
    except (CheckpointError, MissingFileError):
        config = None
    if not isinstance(config, dict) or not config.keys() >= KEYS:
        raise OutputError(f"{place} isn't of a saved method, and would be written over. Name another folder.")
    files, shared = config["files"], str(config.get("shared"))
    # whatever its config.json says, a method has no files elsewhere
    tasks = [name for name in files if is_plain(name)] if isinstance(files, list) else []
    found = {folder / "tasks" / f"{name}{ending}" for name in tasks for ending in (".json", ".safetensors")}
    return found | ({folder / shared} if is_plain(shared) and shared.startswith("shared-") else set())


def _is_ours(place: Path) -> bool:
    """Whether a file is one that a saved method consists of, by what is in it."""
    try:
        if place.suffix == ".json":
            return bool(read_json(place, dict).keys() >= {"task", "backbone", "shapes"})
        return has_checksum(place)
    except LpiError:
        return False


def is_plain(name: object) -> bool:
    """Whether something read from a file is the name of a file, and no way out of its folder.

    >>> is_plain("00-appliance"), is_plain("../../notes"), is_plain("")
    (True, False, False)
    """
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is not None


def load_method(
    folder: str | Path,
    *,
    backbone: DualEncoder | None = None,
    method: Named | None = None,
    router: str | Path | None = None,
    **hub: Any,
) -> Any:
    """A method as it was saved. Nothing that lies in the folder is executed, whoever it is from.

    Args:
        folder: where :func:`save_method` wrote it, or a hub name.
        backbone: the frozen model to put it on; by default the one it names is loaded.
        method: its file or class, where it was saved by a method that is none of the library's.
        router: the file of its router, where that is none of the library's.
        hub: what the hub's own loader takes.

    Raises:
        ConfigError: ``folder`` is no path.
        MissingFileError: the folder or one of its files is not there.
        CheckpointError: a file is damaged, or it was made for another backbone, or by a method that must be named.
    """
    if not isinstance(folder, str | PathLike):
        raise ConfigError(f"a saved method is loaded by its folder or hub name; got {type(folder).__name__}.")
    root = _local(str(folder), hub)
    config = read_config(root)
    first_format = config["format"] == 1
    config = renewed(config, root) if first_format else config
    kind = class_of(config["method"], root, method, problem=config["problem"])
    if backbone is None:
        backbone = load_made_for(config["backbone"], kind)
    check_identity(root, config["backbone"], backbone)
    saved = with_foreign_expressions(with_closed_form(config["options"], root))
    options = {**saved, **_router_of(config["options"].get("router"), root, router)}
    loaded: Learner = build_method(kind, backbone, **{"preset": None, **options})
    if not first_format:
        unsealed(root / "config.json", config)  # after whatever can be told by name
    states = []
    for name, file in zip(config["tasks"], config["files"], strict=True):
        state = _read_task(root / "tasks" / file, name, first_format=first_format, backbone=backbone)
        states.append((name, renewed_state(state) if first_format else state))
    shared = _read_shared(root, config)
    try:
        restore(loaded, states, shared)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{root}: the tensors don't fit the options in config.json ({reason}). Take both from one save."
        ) from error
    return loaded


def damaged_files(root: Path) -> list[str]:
    """What is damaged in a saved method's files, a line each; their backbone isn't needed.

    Args:
        root: the folder.
    """
    found: list[str] = []
    try:
        config = read_config(root)
        first_format = config["format"] == 1
        if not first_format:
            unsealed(root / "config.json", config)
    except LpiError as error:
        return [str(error)]
    parts: list[Callable[[], object]] = [
        partial(_read_task, root / "tasks" / file, name, first_format=first_format)
        for name, file in zip(config["tasks"], config["files"], strict=True)
    ]
    parts.append(partial(_read_shared, root, config))
    for read in parts:
        try:
            read()
        except LpiError as error:
            found.append(str(error))
    return found


def load_made_for(made_for: Mapping[str, Any], kind: type[Learner]) -> DualEncoder:
    """The frozen model that a saved method names, with the size of pictures that it had.

    Args:
        made_for: ``name`` and ``image_size``.
        kind: the method, whose problem says what is loaded.
    """
    load = loader_of(kind.problem)
    backbone = load(made_for["name"])
    if list(backbone.inputs.image_size) != made_for["image_size"]:  # another size than the checkpoint's own
        backbone = load(made_for["name"], image_size=made_for["image_size"][0])
    return backbone


def _router_of(recorded: object, place: Path, named: str | Path | None) -> dict[str, str]:
    """The router that a person must name, because the one that was recorded is none of the library's."""
    if is_registered_router(recorded):
        return {}
    if named is None:
        raise CheckpointError(
            f"{place} was saved with a router of its own, {Path(str(recorded)).name[:80]!r}; name its file: "
            "load_method(folder, router='my_router.py')."
        )
    return {"router": source_of(router_class(str(named)))}


def class_of(recorded: object, place: Path, named: Named | None = None, *, problem: str = "retrieval") -> type[Learner]:
    """The class of a saved method: of the library by its name on record, any other only as the caller names it.

    Args:
        recorded: what ``config.json`` says.
        place: the folder, for messages.
        named: what the caller says.
        problem: what the method is asked, as ``config.json`` says.

    Raises:
        CheckpointError: a method that isn't the library's and wasn't named, or one that is and was named differently.
    """
    asked: Problem = "grounding" if problem == "grounding" else "retrieval"
    if not is_registered(recorded, problem):
        if named is None:
            raise CheckpointError(
                f"{place} was saved by a method of its own, {Path(str(recorded)).name[:80]!r}; name its file: "
                "load_method(folder, method='my_method.py'), or --method-file my_method.py."
            )
        return named_class(named, asked)
    found = method_class(str(recorded), asked)
    if named is not None and (wanted := named_class(named, asked)) is not found:
        raise CheckpointError(
            f"{place} holds a {found.__name__}, not a {wanted.__name__}: it was saved by {recorded!r}, which needs no "
            "file of yours. Leave the method out."
        )
    return found


def unless_registered(folder: Path, named: Named | None) -> Named | None:
    """What a person named for whichever of several saved methods needs it: nothing, where this one is the library's."""
    config = read_json(folder / "config.json", dict)
    last = str(config.get("method")).removeprefix("lpi.grounding.")
    return None if is_registered(last) or is_registered(last, "grounding") else named


def named_by(kind: type[Learner]) -> type[Learner] | None:
    """What a class names by being the one that loads: itself, unless it is the library's; see :func:`class_of`."""
    return outside(kind)


def check_identity(place: Path, made_for: dict[str, str], backbone: DualEncoder) -> None:
    """Refuse what was made for another backbone.

    Raises:
        CheckpointError: the identities differ.
    """
    if made_for["identity"] != backbone.identity:
        since = f" {EMBEDDED} itself was trained anew on 2026-11-30." if backbone.name == EMBEDDED else ""
        raise CheckpointError(
            f"{place} was made for the backbone {made_for['identity']}; this one is {backbone.identity} "
            f"({backbone.name}).{since} Load it with the same weights and preprocessing it was trained on, or train "
            "again. An index is made anew from its pictures."
        )


def read_config(root: Path) -> dict[str, Any]:
    """A saved method's ``config.json``; of the first format, with what that took for granted.

    Raises:
        MissingFileError: there is none.
        CheckpointError: it is something else's, of a version to come, or damaged.
    """
    config = read_json(root / "config.json")
    if not isinstance(config, dict) or not config.keys() >= KEYS:
        raise CheckpointError(f"{root}/config.json isn't of a saved method. Name the folder that one was saved in.")
    if config.get("format") not in (1, FORMAT):
        raise CheckpointError(
            f"{root}/config.json has format {shown(config.get('format'))}; this version reads 1 and {FORMAT}."
        )
    if config["format"] == 1:
        config = {"problem": "retrieval", "shared": None, **config}
    _check_config(root, config)
    return config


def _read_task(place: Path, name: str, *, first_format: bool, backbone: DualEncoder | None = None) -> dict[str, Tensor]:
    """A task's tensors.

    Args:
        place: of its two files, without their endings.
        name: of the task.
        first_format: its files say neither types nor checksums.
        backbone: that it must have been learned for, where that is known.
    """
    about_file, tensor_file = Path(f"{place}.json"), Path(f"{place}.safetensors")
    about = _about(about_file, name) | ({"types": None} if first_format else {})
    if backbone is not None:
        check_identity(about_file, {"name": name, "identity": about["backbone"]}, backbone)
    state = read_tensors(tensor_file) if about["shapes"] else {}
    _check_state(tensor_file, state, about)
    if not first_format:
        unsealed(about_file, about)
    return state


def _read_shared(root: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """What belongs to no task."""
    shared = read_tensors(root / config["shared"]) if config["shared"] else {}
    _check_finite(root / str(config["shared"]), shared)
    return shared


def _check_config(root: Path, config: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` whose parts aren't what they must be, before anything is made of them.

    Raises:
        CheckpointError: naming the first.
    """
    options, files, tasks, backbone = (config[key] for key in ("options", "files", "tasks", "backbone"))
    named = isinstance(tasks, list) and all(isinstance(one, str) for one in tasks)
    right = {
        "options": isinstance(options, dict) and not {"name", "backbone"} & options.keys(),
        "tasks": named and len(set(tasks)) == len(tasks),
        "files": named and isinstance(files, list) and all(map(is_plain, files)) and len(files) == len(tasks),
        "shared": "shared" in config and (config["shared"] is None or is_plain(config["shared"])),
        "problem": config.get("problem") in get_args(Problem),
        "backbone": isinstance(backbone, dict)
        and all(isinstance(backbone.get(key), str) for key in ("name", "identity"))
        and isinstance(backbone.get("image_size"), list)
        and all(isinstance(side, int) for side in backbone["image_size"])
        and len(backbone["image_size"]) == 2,
    }
    for part, fits in right.items():
        if not fits:
            raise CheckpointError(f"{root}/config.json: its {part!r} can't be right. Take it from a backup.")


def _about(place: Path, task: str) -> dict[str, Any]:
    """What a task's file says of its tensors.

    Raises:
        CheckpointError: it is another task's, or lacks something.
    """
    about: dict[str, Any] = read_json(place, dict)
    if about.get("task") != task:
        raise CheckpointError(
            f"{place} is of the task {shown(about.get('task'))}; config.json says {shown(task)}. "
            "Take both from one save."
        )
    if not isinstance(about.get("shapes"), dict) or not isinstance(about.get("backbone"), str):
        raise CheckpointError(f"{place}: its 'shapes' or 'backbone' can't be right. Take it from a backup.")
    return about


def _check_state(place: Path, state: dict[str, Tensor], about: Mapping[str, Any]) -> None:
    """Refuse a task's tensors that aren't those that were saved, by name, shape and type, or hold no numbers."""
    found = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in state.items()}
    types = about.get("types")
    said = {
        name: [shape, types.get(name) if isinstance(types, dict) else (found.get(name) or ["", ""])[1]]
        for name, shape in about["shapes"].items()
    }
    if found != said:
        wrong = sorted(set(found) ^ set(said)) or sorted(name for name in said if found[name] != said[name])
        raise CheckpointError(f"{place} doesn't hold what its .json says, first {wrong[0]!r}. Take both from one save.")
    _check_finite(place, state)


def _check_finite(place: Path, state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{place}: {name!r} holds what is no number. Take it from a backup, or train again.")


def _local(folder: str, hub: dict[str, Any]) -> Path:
    root = Path(folder)
    if root.is_dir():
        return root
    if folder.count("/") != 1 or folder.startswith((".", "/", "~")):
        raise MissingFileError(f"{folder}: there is no such folder.")
    from huggingface_hub import snapshot_download

    # only what is read: a repository's own code doesn't even come here
    files = ["*.json", "*.safetensors"]
    allowed = {key: hub[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in hub}
    try:
        return Path(snapshot_download(folder, allow_patterns=files, **allowed))
    except Exception as error:  # the hub client has a dozen kinds of failure; a person needs one line
        raise MissingFileError(f"{folder}: no such folder, and the hub did not give it ({error}).") from error
