"""The contract of a continual learner: its options, what it learns, and what it keeps of each task.

The trainer owns time (loops, optimiser, device, seeds) and what is noted around a task (:func:`begin`, :func:`end`);
the method owns loss and memory. Its router, if it has one, says whose knowledge a query takes: the *route*, the index
of a task. Methods that don't tell tasks apart have the one route 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import ModelHubMixin
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from lpi.backbones.base import DualEncoder, Images, Problem, Reading, Texts, View
from lpi.backbones.given import PictureLike
from lpi.backbones.state import rows_of
from lpi.config import TrainingSettings
from lpi.counting import Counter
from lpi.devices import pick_device
from lpi.errors import CheckpointError, ConfigError, LpiError
from lpi.methods.encoder import ENCODE_BATCH, How, encode_images, encode_texts
from lpi.methods.options import MethodOptions, recorded, router_of
from lpi.prompts.task_keys import FALLBACK
from lpi.routing.base import Router, Routing
from lpi.showing import counted, html_table


class FrozenFeatures(Protocol):
    """Frozen, L2-normalised features of a task's training data, computed when first asked for."""

    @property
    def image_features(self) -> Tensor:
        """Of the pictures, [pictures, features]."""

    @property
    def text_features(self) -> Tensor:
        """Of every different caption, [captions, features]."""


class Views(Protocol):
    """Gives a task's training data as a router looks at it."""

    def __call__(self, tower: str, view: View) -> Tensor:
        """Of the pictures or of every different caption, L2-normalised, [items, width of the view]."""


def no_views(tower: str, view: View) -> Tensor:
    """For models whose queries are routed by their features alone."""
    raise ConfigError("this model's queries are routed by its features: choose routing = features.")


Looks = Mapping[str, View]
"""What a router looks at, by tower."""
NO_LOOKS: Looks = {}


class FrozenPairs(Protocol):
    """A task's training pairs as the frozen model sees them."""

    def reading(self, tower: str) -> Reading:
        """Of the pictures or of every different caption, from one pass over them."""

    def pairs(self) -> Tensor:
        """Which picture goes with which caption, int64 [pairs, 2]."""

    def cuts(self, number: int) -> Iterator[Tensor]:
        """All pictures, cut and mirrored at random, in batches of normalised pixels; the same for a number always."""

    def cut_reading(self, number: int) -> Reading:
        """Of the pictures so cut."""


class Batches(Protocol):
    """Gives one epoch of a task's pairs as ready batches: pictures as in evaluation, never augmented."""

    def __call__(self, *, seed: int, captions: int = 1) -> Iterator[TrainingBatch]:
        """Every picture once, in an order drawn from ``seed``, with so many of its captions (0 for all)."""


def no_batches(*, seed: int, captions: int = 1) -> Iterator[TrainingBatch]:
    """For tasks whose pictures aren't at hand."""
    return iter(())


@dataclass(frozen=True)
class TaskData:
    """What a method may look at when a task begins or ends: the task's training data.

    Attributes:
        name: the task's name.
        frozen: frozen features of pictures and captions.
        captions: the different captions, in the order of their features.
        steps: how many optimiser steps the task will take.
        batches: the task's pairs once more, for what a method computes before or after its training.
        views: the training data as a router looks at it that looks at more than features.
        read: the training data as the frozen model sees it; ``None`` where there are no pairs.
    """

    name: str
    frozen: FrozenFeatures
    captions: Sequence[str]
    steps: int = 0
    batches: Batches = no_batches
    views: Views = no_views
    read: FrozenPairs | None = None

    def looks(self, tower: str, view: View) -> Tensor:
        """The training pictures or different captions as a router looks at them, [items, width of the view]."""
        if view == View():
            return self.frozen.image_features if tower == "vision" else self.frozen.text_features
        return self.views(tower, view)


@dataclass(frozen=True)
class TrainingBatch:
    """A batch, ready for a forward pass.

    Attributes:
        images: normalised pixels [images, 3, height, width], or their states after the blocks that the method
            leaves as they are.
        texts: tokens of the captions, or likewise.
        positives: which belong together, bool [images, texts].
        owner: the picture of each caption, int64 [texts].
        frozen: gives the frozen, L2-normalised features of both, [images, features] and [texts, features].
        picture_rows: which of the task's pictures these are, int64 [images]; the rows of their frozen features.
        caption_rows: which of the task's different captions, int64 [texts].
    """

    images: Images
    texts: Texts
    positives: Tensor
    owner: Tensor
    frozen: Callable[[], tuple[Tensor, Tensor]]
    picture_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    caption_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def only(self, pictures: Tensor) -> TrainingBatch:
        """Some of its pictures and what was written for them.

        Args:
            pictures: which, bool [images].
        """
        images = pictures.nonzero()[:, 0]
        texts = pictures.to(self.owner.device)[self.owner].nonzero()[:, 0]
        place = torch.cumsum(pictures, 0).to(self.owner.device) - 1

        def frozen() -> tuple[Tensor, Tensor]:
            whole = self.frozen()
            return whole[0][images.to(whole[0].device)], whole[1][texts.to(whole[1].device)]

        here = self.positives.device
        return TrainingBatch(
            images=rows_of(self.images, images.to(here)),
            texts=rows_of(self.texts, texts.to(here)),
            positives=self.positives[images.to(here)][:, texts.to(here)],
            owner=place[self.owner[texts]],
            frozen=frozen,
            picture_rows=self.picture_rows[images.to(self.picture_rows.device)],
            caption_rows=self.caption_rows[texts.to(self.caption_rows.device)],
        )


Saved = Sequence[tuple[str, dict[str, Tensor]]]
"""The tasks' names and what was stored for each, in the order of learning."""
ROUTING = "routing/"  # before the names of what a router keeps of a task


class Learner(
    nn.Module,
    ModelHubMixin,
    library_name="lpi",
):
    """A continual learner over a frozen backbone, whatever it is asked.

    Class attributes:
        problem: what it is asked.

    Attributes:
        stable: what was encoded under a route never changes once that task has been learned, so that vectors may
            be kept.
        backbone: the frozen model.
        options: see :class:`lpi.methods.options.MethodOptions`; a subclass has a class of that name of its own.
        tasks: the names of the tasks that were learned, in their order.
        router: says which task a query belongs to; ``None`` where tasks aren't told apart.

    What a run that is stopped inside a task must find again, beside the trainable parameters, is a buffer.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    problem: ClassVar[Problem] = "retrieval"
    stable: bool = False

    options: MethodOptions

    def __init__(self, backbone: DualEncoder, options: MethodOptions | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.options = type(self).Options() if options is None else options
        self.tasks: list[str] = []
        kind = router_of(self.options)
        routing: Any = getattr(self.options, "routing", None)
        self.router: Router | None = None if kind is None else kind(backbone, routing)

    # ---- what a method answers -----------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Make room for the newest task, the last of ``tasks``. Everything random comes from ``generator``."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Named scalars, already weighted; the trainer adds them up."""
        raise NotImplementedError

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep what later tasks and queries need; by default what the router does."""
        if self.router is not None:
            self.router.end_task(data.looks, generator)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the current task may change; by default all that aren't the backbone's."""
        frozen = {id(parameter) for parameter in self.backbone.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in frozen]

    def reserved_tokens(self) -> int:
        """How many tokens of the text context the method needs for itself."""
        return 0

    def task_state(self, index: int) -> dict[str, Tensor]:
        """What is stored for one task, beside what its router keeps."""
        return {}

    def shared_state(self) -> dict[str, Tensor]:
        """What is stored once, whatever the number of tasks."""
        return {}

    def restore(self, tasks: Saved, shared: dict[str, Tensor]) -> None:
        """Take over what :meth:`task_state` and :meth:`shared_state` gave; see :func:`restore`."""

    # ---- what a person calls ---------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{type(self).__name__} on {self.backbone.name}: {counted(self.tasks, 'task')}"

    def _repr_html_(self) -> str:
        return html_table(repr(self), ("task",), [(name,) for name in self.tasks])

    def learn(
        self,
        task: Any,
        *,
        name: str | None = None,
        progress: bool = False,
        settings: TrainingSettings | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        on_step: Callable[[Any], None] | None = None,
        **changes: Any,
    ) -> None:
        """Learn one task, in place, with the trainer's settings as keywords: ``learner.learn(task, epochs=1)``.

        Args:
            task: a ``lpi.Task``, or a list of (picture, caption) pairs, where a picture is what :meth:`encode_images
                <Method.encode_images>` takes and several captions are a list.
            name: what the task is called; by default its own name, or ``task-1``, ``task-2``, ..
            progress: show a bar on standard error.
            settings: all training settings at once; by default those that suit the method and, for the rest,
                :class:`TrainingSettings`'s.
            seed: see :func:`lpi.trainer.learn_task`, like ``checkpoint`` and ``on_step``.
            checkpoint: likewise.
            on_step: likewise.
            changes: single training settings, which win over ``settings``.

        Raises:
            ConfigError: nothing that can be learned, a setting that training doesn't have, or a wrong value.
        """
        from lpi.trainer import learn_task, named_task, training_for  # above methods; this is only their doorbell

        given = {**(settings.model_dump() if settings else {}), **changes}
        chosen = training_for(type(self), given, preset=self.options.preset)
        task = named_task(self, task, name)
        with Counter() if progress and on_step is None else nullcontext() as counter:
            told = on_step if counter is None else counter.step
            learn_task(self, task, settings=chosen, seed=seed, checkpoint=checkpoint, on_step=told)

    def forget(self, task: str) -> None:
        """Take a task away again, exactly: what is encoded under the other tasks' routes stays bit-identical."""
        raise LpiError(f"{type(self).__name__} mixes its tasks in one set of weights, so none can be taken away.")

    def save_pretrained(  # the mixin's begins by deleting the folder's config.json
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **hub: Any,
    ) -> str | None:
        """Write the method to a folder; see :func:`lpi.methods.checkpoint.save_method`.

        Args:
            save_directory: the folder; a ``README.md`` is put into it, unless there is one that a person wrote.
            repo_id: the name on the hub, where it is pushed there; by default the folder's.
            push_to_hub: whether it is.
            model_card_kwargs: what the ``README.md`` says besides; see :func:`lpi.methods.checkpoint.write_card`.
            hub: what the hub's own ``push_to_hub`` takes.

        Raises:
            OutputError: the folder can't be written to, or holds something else's ``config.json``.
        """
        from lpi.methods.checkpoint import (  # which knows all methods; a doorbell, as the next one
            save_method,
            write_card,
        )

        folder = Path(save_directory)
        save_method(self, folder)
        write_card(self, folder, **(model_card_kwargs or {}))
        if not push_to_hub:
            return None
        name = repo_id or folder.resolve().name
        return str(self.push_to_hub(repo_id=name, model_card_kwargs=model_card_kwargs, **hub))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's would fill arguments from config.json by their names
        cls: type[Own],
        source: str | Path,
        *,
        backbone: DualEncoder | None = None,
        method: str | Path | type[Learner] | None = None,
        router: str | Path | None = None,
        **hub: Any,
    ) -> Own:
        """A method from a folder or a hub name; see :func:`lpi.methods.checkpoint.load_method`.

        A class of one's own names itself: no ``method`` is needed then.

        Raises:
            CheckpointError: it was saved by another method, or for another backbone, or is damaged.
            MissingFileError: it is not there.
        """
        from lpi.methods.checkpoint import load_method, named_by

        named = named_by(cls) if method is None else method
        loaded = load_method(source, backbone=backbone, method=named, router=router, **hub)
        if not isinstance(loaded, cls):
            raise CheckpointError(f"{source} holds a {type(loaded).__name__}, not a {cls.__name__}. Load it as that.")
        return loaded


Own = TypeVar("Own", bound=Learner)
Item = TypeVar("Item")


class Method(Learner):
    """A continual learner of retrieval: vectors of pictures and captions in one space."""

    def image_features(self, images: Images, route: int) -> Tensor:
        """L2-normalised features of pictures under one route, [images, features].

        Only a method with :meth:`frozen_blocks` is given states; so with captions.
        """
        return F.normalize(self.backbone.encode_images(images), dim=-1)

    def text_features(self, texts: Texts, route: int) -> Tensor:
        """L2-normalised features of captions under one route, [texts, features]."""
        return F.normalize(self.backbone.encode_texts(texts), dim=-1)

    def frozen_blocks(self, tower: str) -> int:
        """How many of a tower's lowest blocks the method leaves as they are, whatever it learns."""
        return 0

    @overload
    def encode_images(
        self, images: PictureLike | Sequence[PictureLike], *, as_numpy: Literal[False] = False, **how: Unpack[How]
    ) -> Tensor: ...

    @overload
    def encode_images(
        self, images: PictureLike | Sequence[PictureLike], *, as_numpy: Literal[True], **how: Unpack[How]
    ) -> NDArray[np.float32]: ...

    def encode_images(
        self,
        images: PictureLike | Sequence[PictureLike],
        *,
        task: str | None = None,
        routing: Routing | None = None,
        batch_size: int = ENCODE_BATCH,
        progress: bool = False,
        device: str | None = None,
        as_numpy: bool = False,
    ) -> Tensor | NDArray[np.float32]:
        """L2-normalised features of pictures, [images, features]; of a single picture, [features].

        Args:
            images: one or a list of: a PIL picture of any mode, a path, uint8 pixels as an array [height, width, 3] or
                a tensor [3, height, width]; or a whole batch, uint8 [images, 3, height, width]. Pixels of the
                backbone's own size are encoded as they are, all else is resized as its checkpoint wants it.
            task: use this task's knowledge; by default each picture is routed.
            routing: where they were routed already, by :func:`lpi.methods.encoder.route_images`.
            batch_size: how many go through the model at once.
            progress: show a bar on standard error.
            device: move the model there first, to stay: ``cpu``, ``cuda``, ``auto``; by default it stays.
            as_numpy: give an array in main memory, not a tensor.

        Raises:
            ConfigError: these are no pictures, or could be read in several ways (float pixels, channels elsewhere); or
                there is no such device.
            DataError, MissingFileError: a file can't be read as a picture.
            UnknownNameError: no such task was learned.
        """
        features = encode_images(
            moved(self, device), images, task=task, routing=routing, batch_size=batch_size, progress=progress
        )
        return features.cpu().numpy() if as_numpy else features

    @overload
    def encode_texts(
        self, texts: str | Sequence[str], *, as_numpy: Literal[False] = False, **how: Unpack[How]
    ) -> Tensor: ...

    @overload
    def encode_texts(
        self, texts: str | Sequence[str], *, as_numpy: Literal[True], **how: Unpack[How]
    ) -> NDArray[np.float32]: ...

    def encode_texts(
        self,
        texts: str | Sequence[str],
        *,
        task: str | None = None,
        routing: Routing | None = None,
        batch_size: int = ENCODE_BATCH,
        progress: bool = False,
        device: str | None = None,
        as_numpy: bool = False,
    ) -> Tensor | NDArray[np.float32]:
        """L2-normalised features of captions, [texts, features]; of a single text, [features].

        Args:
            texts: one text, or a list of them.
            task: see :meth:`encode_images`, like ``batch_size``, ``progress``, ``device`` and ``as_numpy``.
            routing: where they were routed already, by :func:`lpi.methods.encoder.route_texts`.
            batch_size, progress, device, as_numpy: as in :meth:`encode_images`.

        Raises:
            ConfigError: these are no texts, or there is no such device.
            UnknownNameError: no such task was learned.
        """
        features = encode_texts(
            moved(self, device), texts, task=task, routing=routing, batch_size=batch_size, progress=progress
        )
        return features.cpu().numpy() if as_numpy else features


def moved(method: Method, device: str | None) -> Method:
    """The method, on another device if one is named."""
    return method if device is None else method.to(pick_device(device))


class Jointly:
    """Marks a method that wants all tasks at once: something to compare with, and no continual learner."""


# ---- what is noted around a task, and what is kept of it -------------------------------------------------------------


def begin(method: Learner, data: TaskData, generator: torch.Generator) -> None:
    """Begin a task: its name is noted, the method makes room for it, and so does the router.

    Raises:
        ConfigError: a task of that name was learned already.
    """
    if data.name in method.tasks:
        raise ConfigError(f"task {data.name!r} was learned already. Forget it first, or give the new one a name.")
    router = method.router
    if router is not None and not router.learns:  # first, for it may have no room for a further task
        router.begin_task(data.looks, generator)
    method.tasks.append(data.name)
    method.begin_task(data, generator)
    if router is not None:
        if len(router.kept) < len(method.tasks):  # a method draws keys itself where the order of draws matters
            router.begin_task(data.looks, generator)
        router.to(method.backbone.device)


def end(method: Learner, data: TaskData, generator: torch.Generator) -> None:
    """End a task: what later tasks and queries need is kept."""
    method.end_task(data, generator)


def router_losses(method: Learner, frozen: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """What a router that learns adds to the loss of a batch; nothing where none does.

    Args:
        method: whose router.
        frozen: gives the frozen features of the batch's pictures and captions, [images, features], [texts, features].
    """
    return method.router.losses(*frozen()) if method.router is not None and method.router.learns else {}


def router_trainable(method: Learner) -> list[nn.Parameter]:
    """What the newest task may change of the method's router."""
    return [] if method.router is None else method.router.newest()


def stored_state(method: Learner, index: int) -> dict[str, Tensor]:
    """Everything that is stored for one task: what the method keeps, and what its router does."""
    own = method.task_state(index)
    if method.router is None:
        return own
    return own | {f"{ROUTING}{name}": value for name, value in method.router.task_state(index).items()}


def restore(method: Learner, tasks: Saved, shared: dict[str, Tensor]) -> None:
    """Put back what :func:`stored_state` and the shared state gave."""
    method.tasks = [name for name, _ in tasks]
    method.restore(
        [(name, {key: value for key, value in state.items() if not key.startswith(ROUTING)}) for name, state in tasks],
        shared,
    )
    if method.router is not None:
        method.router.restore(
            [
                {key.removeprefix(ROUTING): value for key, value in state.items() if key.startswith(ROUTING)}
                for _, state in tasks
            ]
        )
        method.router.to(method.backbone.device)


def load_by_shape(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load a state into a module whose buffers take the shapes that the state has; nothing of it learns on.

    How many keys a task has, say, is known from its file alone.
    """
    for name, _ in list(module.named_buffers()):
        owner, _, last = name.rpartition(".")
        if name in state:
            setattr(module.get_submodule(owner), last, torch.empty_like(state[name]))
    module.load_state_dict(state)
    return module.requires_grad_(False)


def stored_parameters(method: Learner) -> int:
    """How many numbers have to be stored beside the frozen backbone, keys included."""
    states = [stored_state(method, index) for index in range(len(method.tasks))] + [method.shared_state()]
    return sum(tensor.numel() for state in states for tensor in state.values())


def recorded_options(method: Learner) -> Mapping[str, Any]:
    """A method's options as plain values, for a file."""
    return recorded(method.options)


class Relations(TypedDict):
    """How tasks lie to each other: which are ``near``, [tasks, tasks], and cosines of their prompts a tower."""

    near: list[list[bool]]
    prompt_similarity: dict[str, list[list[float]]]


@runtime_checkable
class Related(Protocol):
    """A method that knows how its tasks lie to each other."""

    def relations(self) -> Relations:
        """For the report."""


def relations(method: Learner) -> Relations | None:
    """How the tasks lie to each other, for the report; ``None`` where the method doesn't know."""
    return method.relations() if isinstance(method, Related) else None


def chunks(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    """Consecutive pieces of at most ``size`` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


__all__ = [
    "FALLBACK",
    "Batches",
    "Learner",
    "Method",
    "MethodOptions",
    "Problem",
    "TaskData",
    "TrainingBatch",
    "chunks",
    "no_batches",
]
