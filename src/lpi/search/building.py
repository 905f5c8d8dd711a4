"""From a folder of pictures and a model to an index, in one call; made once, it only follows what changed."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from lpi.devices import pick_device
from lpi.errors import ConfigError, MissingFileError, OutputError
from lpi.methods import Named, outside
from lpi.methods.base import Method
from lpi.methods.checkpoint import save_method
from lpi.methods.encoder import width_of
from lpi.search.encoding import steady_size
from lpi.search.files import OnProgress
from lpi.search.identity import check_same, describe, load_model
from lpi.search.manifest import (
    BESIDE,
    FILE,
    RECALL,
    STORE,
    Json,
    Manifest,
    Stage,
    check_place,
    is_address,
    only_writer,
    read_manifest,
    timestamp,
)
from lpi.search.store import Store
from lpi.search.writer import change


def build(
    model: Method | str | Path,
    folder: str | Path,
    place: str | Path | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    method_file: Named | None = None,
) -> Path:
    """Make all pictures of a folder searchable, or bring their index up to date; returns where the index is.

    Args:
        model: a method; or a run, a saved method or a backbone, as ``lpi index --model`` takes it.
        folder: of pictures.
        place: folder of the index; by default one inside ``folder`` that moves with it.
        device: where the model computes.
        workers: threads that read and decode.
        on_progress: told what is going on, how many are done and how many there are.
        method_file: the file of the model's method, where it is none of the library's; an object names its own.

    Raises:
        MissingFileError: there is no such folder of pictures.
        ConfigError: the index is of another folder.
        CheckpointError: the index was made with another model.
    """
    root = Path(folder)
    index = root / BESIDE if place is None else Path(place)
    named = outside(type(model)) if isinstance(model, Method) else method_file
    prepare(root, index, model, moved=index == root / BESIDE, device=device, method_file=named)
    with change(index, workers=workers, device=device, method_file=named) as writer:
        writer.update(on_progress=on_progress)
    return index


def prepare(
    root: Path,
    index: Path,
    model: Method | str | Path | None,
    *,
    moved: bool = False,
    store: str | None = None,
    device: str = "auto",
    method_file: Named | None = None,
) -> Json | None:
    """Begin an index, or see that one is of this folder and model; returns the ``run.json`` beside a new one's model.

    Args:
        root: the folder of pictures.
        index: folder of the index.
        model: see :func:`build`; a new index needs one.
        moved: the folder may be the indexed one in a new place.
        store: the address where the tables of a new index shall be, if not in its folder.
        device: where the model computes.
        method_file: see :func:`build`.

    Raises:
        MissingFileError: there is no such folder of pictures.
        ConfigError: the index is of another folder, has its tables elsewhere, or is new and has no model.
        CheckpointError: the index was made with another model.
    """
    if not root.is_dir():
        raise MissingFileError(f"{root}: there is no such folder. Check the path, or connect the disk it is on.")
    if (index / FILE).exists():
        manifest = read_manifest(index)
        check_root(root, manifest, moved=moved)
        if isinstance(model, Method):
            check_model(index, manifest, model, type(model).__name__)
        elif model is not None:
            check_model(index, manifest, load_model(model, method_file)[0], str(model))
        if store is not None and store != manifest.store:
            raise ConfigError(f"{index} has its tables in {manifest.store}. They can't be moved; leave --store out.")
        move_root(index, root)
        return None
    if model is None:
        raise ConfigError(f"{index} is a new index and needs a model. Say which with --model RUN, or --model lpi-tiny.")
    if store is not None and not is_address(store):
        raise ConfigError(f"store must be an address like s3://bucket/path; got {store!r}. Leave it out for a folder.")
    if not isinstance(model, Method):
        return create(index, root, model, device=device, store=store or STORE, method_file=method_file)
    with tempfile.TemporaryDirectory(prefix="lpi-model-") as saved:  # the caller's own stays as it is
        save_method(model, Path(saved) / "model")
        own = outside(type(model))
        return create(index, root, Path(saved) / "model", device=device, store=store or STORE, method_file=own)


def check_root(folder: Path, manifest: Manifest, *, moved: bool) -> None:
    """Refuse to follow another folder than the indexed one, unless it is the same in a new place.

    Raises:
        ConfigError: it is another.
    """
    if str(folder.resolve()) != manifest.root and not moved:
        raise ConfigError(
            f"the index is of {manifest.root}, not of {folder}. Name that folder, or another --index; or, if it is the "
            "same folder in a new place, add --moved."
        )


def check_model(place: Path, manifest: Manifest, method: Method, name: str) -> None:
    """Refuse a model that the index wasn't made with at any stage.

    Raises:
        CheckpointError: it wasn't; the message says what differs.
    """
    if describe(method).model not in {stage.model for stage in manifest.stages}:
        check_same(place, manifest.recorded(manifest.current), method, name)


def create(
    folder: str | Path,
    root: str | Path,
    model: str | Path | Method,
    *,
    device: str = "auto",
    batch: int | None = None,
    store: str = STORE,
    method_file: Named | None = None,
    recall: float = RECALL,
    run: Json | None = None,
) -> Json | None:
    """Begin an index, without any picture yet; returns the ``run.json`` beside the model, where there is one.

    Args:
        folder: a new one, for the index.
        root: the folder of pictures.
        model: what ``--model`` names (see :func:`lpi.search.identity.load_model`), or a model that was loaded so.
        device: where the model computes.
        batch: pictures in every forward pass; by default the most for which every place gives the same bits.
        store: where the tables shall be: a folder, seen from the index, or the address of an object store.
        method_file: the file or class of the model's method, where it is none of the library's.
        recall: see :class:`lpi.search.manifest.Manifest`.
        run: the ``run.json`` beside a model that was loaded.

    Raises:
        OutputError: the folder holds something else, or can't be made; or the object store holds an index.
    """
    folder = Path(folder)
    method, run = (model, run) if isinstance(model, Method) else load_model(model, method_file)
    method.to(pick_device(device))
    check_place(folder)
    with only_writer(folder):
        if (folder / FILE).exists():
            raise OutputError(f"{folder} holds an index already. Leave --model out to go on with it.")
        about = describe(method)
        width = width_of(method)
        save_method(method, folder / "models" / about.model)
        tables = Store(store if is_address(store) else folder / store, width)
        if is_address(store) and not tables.empty():
            raise OutputError(f"{store} holds an index already, or part of one. Name another address, or empty it.")
        version = tables.start()
        stage = Stage(0, "index", "", about.model, about.tasks, version, 0, 0, 0.0, timestamp())
        Manifest(
            root=str(Path(root).resolve()),
            backbone=about.backbone,
            preprocessing=about.preprocessing,
            width=width,
            batch=batch or steady_size(method),
            stages=(stage,),
            training=(run or {}).get("settings", {}).get("training", {}),
            store=store,
            recall=recall,
        ).write(folder)
    return run


def move_root(folder: str | Path, root: str | Path) -> None:
    """Write down where the folder of pictures lies now, if it has moved."""
    folder = Path(folder)
    with only_writer(folder):
        manifest = read_manifest(folder)
        if manifest.root != str(Path(root).resolve()):
            replace(manifest, root=str(Path(root).resolve())).write(folder)
