"""The contract: what a continual learner of retrieval answers, and everything that all of them share.

The trainer owns time (loops, optimiser, device, seeds); the method owns loss and memory. A method answers
``begin_task``, ``loss``, ``end_task``, ``trainable`` and how it encodes under a given *route*: the index of the
task whose knowledge to use. Methods that don't tell tasks apart have the one route 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, get_args, get_type_hints

import torch
import torch.nn.functional as F
from huggingface_hub import ModelHubMixin
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from lpi.backbones.base import DualEncoder, TextInputs, TowerState, View
from lpi.backbones.given import PictureLike, given_pixels, given_texts
from lpi.config import TrainingSettings
from lpi.errors import CheckpointError, ConfigError, LpiError, UnknownNameError, did_you_mean
from lpi.prompts.task_keys import FALLBACK

ENCODE_BATCH = 64


class PlainFeatures(Protocol):
    """Unprompted, L2-normalised features of a task's training data, computed when first asked for."""

    @property
    def image_features(self) -> Tensor:
        """Of the pictures, [pictures, features]."""

    @property
    def text_features(self) -> Tensor:
        """Of every different caption, [captions, features]."""


class Mixture(NamedTuple):
    """Where queries were routed.

    Attributes:
        routes: int64 [queries, k], the likeliest first.
        weights: how much each counts, [queries, k]; rows sum to 1.
        looks: what the router looked at, [queries, routing features]; None where nothing was routed.
    """

    routes: Tensor
    weights: Tensor
    looks: Tensor | None = None


class Views(Protocol):
    """Gives a task's training data as a router looks at it."""

    def __call__(self, tower: str, view: View) -> Tensor:
        """Of the pictures or of every different caption, L2-normalised, [items, width of the view]."""


def no_views(tower: str, view: View) -> Tensor:
    """For models whose queries are routed by their features alone."""
    raise ConfigError("this model's queries are routed by its features: choose routing = features.")


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
        plain: unprompted features of pictures and captions.
        captions: the different captions, in the order of their features.
        steps: how many optimiser steps the task will take.
        batches: the task's pairs once more, for what a method computes before or after its training.
        views: the training data as a router looks at it, for methods with a ``routing_view``.
    """

    name: str
    plain: PlainFeatures
    captions: Sequence[str]
    steps: int = 0
    batches: Batches = no_batches
    views: Views = no_views


@dataclass(frozen=True)
class TrainingBatch:
    """A batch, ready for a forward pass.

    Attributes:
        images: normalised pixels [images, 3, height, width], or their states after the method's trunk.
        texts: tokens of the captions.
        positives: which belong together, bool [images, texts].
        owner: the picture of each caption, int64 [texts].
        plain: gives the unprompted, L2-normalised features of both, [images, features] and [texts, features].
        picture_rows: which of the task's pictures these are, int64 [images]; the rows of their plain features.
        caption_rows: which of the task's different captions, int64 [texts].
    """

    images: Tensor | TowerState
    texts: TextInputs
    positives: Tensor
    owner: Tensor
    plain: Callable[[], tuple[Tensor, Tensor]]
    picture_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    caption_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def recorded(scope: dict[str, Any]) -> dict[str, Any]:
    """The keyword options of a constructor, from its ``locals()`` at the first line."""
    return {name: value for name, value in scope.items() if name not in ("self", "backbone", "__class__")}


class Method(
    nn.Module,
    ModelHubMixin,
    library_name="lpi",
    tags=["continual-learning", "image-text-retrieval"],
    repo_url="https://github.com/Kelvin-ywc/LPI",
):
    """A continual learner of retrieval over a frozen backbone.

    Class attributes:
        presets: named sets of options, for ``lpi.method(name, backbone, preset=...)``.
        joint: wants all tasks at once (an upper bound, not a continual learner).
        stable: what was encoded under a route never changes once that task has been learned, so that vectors may
            be kept.
        default_training: training settings that suit the method where nobody gives others: weights that are trained on
            want another learning rate than prompts do. Every experiment's own settings win over them.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    default_training: ClassVar[dict[str, Any]] = {}
    joint: ClassVar[bool] = False
    stable: ClassVar[bool] = False

    def __init__(self, backbone: DualEncoder, **options: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.options = options
        self.tasks: list[str] = []

    # ---- what a method answers -----------------------------------------------------------------------------------

    def begin_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Make room for a task. Everything random comes from ``generator``.

        Raises:
            ConfigError: a task of that name was learned already.
        """
        if data.name in self.tasks:
            raise ConfigError(f"task {data.name!r} was learned already. Forget it first, or give the new one a name.")
        self.tasks.append(data.name)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Named scalars, already weighted; the trainer adds them up."""
        raise NotImplementedError

    def end_task(self, data: TaskData, generator: torch.Generator) -> None:
        """Keep what later tasks and queries need."""

    def progress(self) -> dict[str, Tensor]:
        """What a run that is stopped inside a task must find again, beside the trainable parameters."""
        return {}

    def resume(self, progress: dict[str, Tensor]) -> None:
        """Go on inside a task from what :meth:`progress` gave."""

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the current task may change; by default all that aren't the backbone's."""
        frozen = {id(parameter) for parameter in self.backbone.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in frozen]

    def image_features(self, images: Tensor | TowerState, route: int) -> Tensor:
        """L2-normalised features of pictures under one route, [images, features].

        Only a method with a :meth:`trunk` is given states.
        """
        assert isinstance(images, Tensor)
        return F.normalize(self.backbone.encode_images(images), dim=-1)

    def text_features(self, texts: TextInputs, route: int) -> Tensor:
        """L2-normalised features of captions under one route, [texts, features]."""
        return F.normalize(self.backbone.encode_texts(texts), dim=-1)

    def trunk(self) -> int:
        """How many of the lowest vision blocks the method leaves as they are, whatever it learns."""
        return 0

    def room(self) -> int:
        """How many tokens of the text context the method needs for itself."""
        return 0

    # ---- routing: which task a query belongs to --------------------------------------------------------------------

    @property
    def routed(self) -> bool:
        """Whether queries are sent to tasks at all."""
        return False

    @property
    def tells_tasks(self) -> bool:
        """Whether tasks were learned, and are told apart."""
        return self.routed and len(self.tasks) > 0

    def routing_view(self, tower: str) -> View:
        """What of an unprompted pass through a tower tells a query's task; by default its features."""
        return View()

    @torch.no_grad()
    def routing_images(self, images: Tensor) -> Tensor:
        """What routes pictures: unprompted and L2-normalised, [images, routing features].

        Args:
            images: normalised pixels, [images, 3, height, width].
        """
        return self.backbone.view_images(images, self.routing_view("vision"))

    @torch.no_grad()
    def routing_texts(self, texts: Sequence[str]) -> Tensor:
        """What routes captions, worded by :meth:`text_for_routing` here; see :meth:`routing_images`."""
        worded = [self.text_for_routing(text) for text in texts]
        tokens = self.backbone.inputs.tokenize(worded).to(self.device)
        return self.backbone.view_texts(tokens, self.routing_view("text"))

    def distances(self, tower: str, plain: Tensor) -> Tensor:
        """Distance of routing features [queries, routing features] to each task, [queries, tasks]."""
        raise ConfigError(f"{type(self).__name__} has no task keys, so it can't tell which task a query belongs to.")

    def posteriors(self, distances: Tensor, tower: str) -> Tensor:
        """How likely each task is, [queries, tasks], from :meth:`distances`."""
        raise ConfigError(f"{type(self).__name__} has no task keys, so it can't tell which task a query belongs to.")

    def belonging(self, tower: str, distances: Tensor, tasks: Tensor) -> Tensor:
        """How much each item belongs to each task, [items, tasks]; the inner product of two says whether they agree.

        These are the posteriors; but what belongs to no task agrees with every task alike.

        Args:
            tower: ``vision`` or ``text``.
            distances: of the items to each task, from :meth:`distances`.
            tasks: the task that each was sent to first of all, int64 [items], as :meth:`tasks_of` gives it.
        """
        posteriors = self.posteriors(distances, tower)
        return torch.where((tasks == FALLBACK).to(posteriors.device)[:, None], 1 / posteriors.shape[1], posteriors)

    def route(self, tower: str, plain: Tensor) -> Tensor:
        """The route of each query, int64 [queries], from its unprompted features [queries, features]."""
        return torch.zeros(len(plain), dtype=torch.int64)

    def mixture(self, tower: str, plain: Tensor) -> tuple[Tensor, Tensor]:
        """The routes of each query and how much each of them counts, from its unprompted features.

        The query's vector is the normalised sum of its features under these routes, times the weights. By default
        :meth:`route` alone decides.

        Args:
            tower: ``vision`` or ``text``.
            plain: unprompted, L2-normalised features, [queries, features].

        Returns:
            Routes int64 [queries, k], the likeliest first, and weights [queries, k]; rows sum to 1.
        """
        routes = self.route(tower, plain)[:, None]
        return routes, torch.ones(routes.shape, device=routes.device)

    def tasks_of(self, routes: Tensor) -> Tensor:
        """The task that each route belongs to first of all, int64, FALLBACK for none; of the same shape.

        Routes are tasks, unless a method has further ones (two tasks' knowledge at once, say).
        """
        return routes

    def text_for_routing(self, text: str) -> str:
        """The words whose unprompted feature routes a caption."""
        return text

    def relations(self) -> dict[str, Any] | None:
        """How the tasks lie to each other, for the report: ``near`` pairs, and ``prompt_similarity`` a tower."""
        return None

    # ---- what a person calls ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(
        self, images: PictureLike | Sequence[PictureLike], *, task: str | None = None, mixture: Mixture | None = None
    ) -> Tensor:
        """L2-normalised features of pictures, [images, features]; of a single picture, [features].

        Args:
            images: one or a list of: a PIL picture of any mode, a path, uint8 pixels as an array [height, width, 3] or
                a tensor [3, height, width]; or a whole batch, uint8 [images, 3, height, width]. Pixels of the
                backbone's own size are encoded as they are, all else is resized as its checkpoint wants it.
            task: use this task's knowledge; by default each picture is routed.
            mixture: where they were routed already, by :meth:`image_mixture`.

        Raises:
            ConfigError: these are no pictures, or could be read in several ways (float pixels, channels elsewhere).
            DataError, MissingFileError: a file can't be read as a picture.
            UnknownNameError: no such task was learned.
        """
        inputs = self.backbone.inputs
        pixels, single = given_pixels(images, inputs.prepare, inputs.image_size)
        if task is not None:
            mixture = self._only(len(pixels), self.task_index(task))

        def encode(rows: Tensor, index: int) -> Tensor:
            return self.image_features(self._ready(pixels, rows), index)

        features = self._mixed(self.image_mixture(pixels) if mixture is None else mixture, encode)
        return features[0] if single else features

    @torch.no_grad()
    def encode_texts(
        self, texts: str | Sequence[str], *, task: str | None = None, mixture: Mixture | None = None
    ) -> Tensor:
        """L2-normalised features of captions, [texts, features]; of a single text, [features].

        Args:
            texts: one text, or a list of them.
            task: see :meth:`encode_images`.
            mixture: where they were routed already, by :meth:`text_mixture`.

        Raises:
            ConfigError: these are no texts.
            UnknownNameError: no such task was learned.
        """
        words, single = given_texts(texts)

        def encode(rows: Tensor, index: int) -> Tensor:
            chosen = [words[row] for row in rows.tolist()]
            if index == FALLBACK:  # nothing of the method's own takes room in the context
                return self._plain_texts(chosen)
            return self.text_features(self.tokens(chosen), index)

        if task is not None:
            mixture = self._only(len(words), self.task_index(task))
        features = self._mixed(self.text_mixture(words) if mixture is None else mixture, encode)
        return features[0] if single else features

    @torch.no_grad()
    def image_mixture(self, images: PictureLike | Sequence[PictureLike]) -> Mixture:
        """Where pictures are routed, and how much each route counts; see :meth:`mixture`.

        Args:
            images: as :meth:`encode_images` takes them.
        """
        pixels = self.backbone.inputs.pixels(images)
        if not self.routed or not len(pixels):
            return self._only(len(pixels), 0)
        looks = self._encoded(len(pixels), lambda rows: self.routing_images(self._ready(pixels, rows)))
        return self._routed("vision", looks)

    @torch.no_grad()
    def text_mixture(self, texts: str | Sequence[str]) -> Mixture:
        """Where captions are routed, and how much each route counts; see :meth:`mixture`."""
        texts = given_texts(texts)[0]
        if not self.routed or not len(texts):
            return self._only(len(texts), 0)
        looks = self._encoded(len(texts), lambda rows: self.routing_texts([texts[row] for row in rows.tolist()]))
        return self._routed("text", looks)

    def _routed(self, tower: str, looks: Tensor) -> Mixture:
        routes, weights = self.mixture(tower, looks)
        return Mixture(routes.cpu(), weights.cpu(), looks)

    @torch.no_grad()
    def mixture_belonging(self, tower: str, mixture: Mixture) -> Tensor:
        """:meth:`belonging` of queries that were routed, [queries, tasks]."""
        if mixture.looks is None:
            raise ConfigError("what belongs to which task can be told of routed queries only.")
        tasks = self.tasks_of(mixture.routes[:, 0])
        return self.belonging(tower, self.distances(tower, mixture.looks), tasks).cpu()

    def _ready(self, pixels: Tensor, rows: Tensor) -> Tensor:
        return self.backbone.inputs.normalise(pixels[rows].to(self.device))

    def _only(self, count: int, route: int) -> Mixture:
        return Mixture(torch.full((count, 1), route), torch.ones(count, 1))

    def _plain_texts(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.backbone.encode_texts(self.backbone.inputs.tokenize(texts).to(self.device)), dim=-1)

    def tokens(self, texts: Sequence[str]) -> TextInputs:
        """Tokens of captions, on the method's device."""
        return self.backbone.inputs.tokenize(texts, room=self.room()).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the backbone lives."""
        return self.backbone.logit_scale.device

    def _mixed(self, mixture: Mixture, encode: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Encode rows in groups of one route each and add up; rows come back in their own order."""
        routes, weights, _ = mixture
        features = torch.zeros(len(routes), self.backbone.feature_width, device=self.device)
        for index in sorted(set(routes.flatten().tolist())):
            own, place = ((routes == index) & (weights > 0)).nonzero(as_tuple=True)
            if not len(own):  # nobody gives this route any weight
                continue
            for rows, share in zip(
                torch.split(own, ENCODE_BATCH), torch.split(weights[own, place], ENCODE_BATCH), strict=True
            ):
                features.index_add_(
                    0, rows.to(self.device), share[:, None].to(self.device) * encode(rows, index).float()
                )
        return features if routes.shape[1] == 1 else F.normalize(features, dim=-1)

    def _encoded(self, count: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Features of ``count`` items in batches, [count, features], float32."""
        parts = [
            encode(torch.arange(start, min(start + ENCODE_BATCH, count))) for start in range(0, count, ENCODE_BATCH)
        ]
        return torch.cat(parts).float() if parts else torch.empty(0, self.backbone.feature_width, device=self.device)

    def task_index(self, task: str) -> int:
        """The position of a task among those learned.

        Raises:
            UnknownNameError: it wasn't learned.
        """
        if task not in self.tasks:
            raise UnknownNameError(f"No task is called {task!r}. {did_you_mean(str(task), self.tasks)}")
        return self.tasks.index(task)

    def learn(
        self,
        task: Any,
        *,
        settings: TrainingSettings | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        on_step: Callable[[Any], None] | None = None,
        **changes: Any,
    ) -> None:
        """Learn one task (a ``lpi.tasks.Task``), in place, with the trainer's settings as keywords.

        ``learner.learn(task, epochs=1)``.

        Args:
            task: what is learned.
            settings: all training settings at once; by default the method's own and, for the rest,
                :class:`TrainingSettings`'s.
            seed: see :func:`lpi.trainer.learn_task`, like ``checkpoint`` and ``on_step``.
            checkpoint: likewise.
            on_step: likewise.
            changes: single training settings, which win over ``settings``.

        Raises:
            ConfigError: a setting that training doesn't have, or a wrong value.
        """
        from lpi.trainer import learn_task, training_for  # the trainer stands above methods; this is only its doorbell

        chosen = training_for(type(self), {**(settings.model_dump() if settings else {}), **changes})
        learn_task(self, task, settings=chosen, seed=seed, checkpoint=checkpoint, on_step=on_step)

    def forget(self, task: str) -> None:
        """Take a task away again, exactly: what is encoded under the other tasks' routes stays bit-identical."""
        raise LpiError(f"{type(self).__name__} mixes its tasks in one set of weights, so none can be taken away.")

    def stage(self, k: int) -> Method:
        """The method as it was after stage ``k`` (0-based)."""
        raise LpiError(f"{type(self).__name__} keeps no earlier stage.")

    # ---- saving: see lpi.methods.checkpoint --------------------------------------------------------------------------

    def task_state(self, index: int) -> dict[str, Tensor]:
        """What is stored for one task."""
        return {}

    def shared_state(self) -> dict[str, Tensor]:
        """What is stored once, whatever the number of tasks."""
        return {}

    def restore(self, tasks: Sequence[tuple[str, dict[str, Tensor]]], shared: dict[str, Tensor]) -> None:
        """Take over what :meth:`task_state` and :meth:`shared_state` gave."""
        self.tasks = [name for name, _ in tasks]

    def stored_parameters(self) -> int:
        """How many numbers have to be stored beside the frozen backbone, keys included."""
        states = [self.task_state(index) for index in range(len(self.tasks))] + [self.shared_state()]
        return sum(tensor.numel() for state in states for tensor in state.values())

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
            save_directory: the folder; a ``README.md`` is put into it, if it has none.
            repo_id: the name on the hub, where it is pushed there; by default the folder's.
            push_to_hub: whether it is.
            model_card_kwargs: what the ``README.md`` says besides.
            hub: what the hub's own ``push_to_hub`` takes.

        Raises:
            OutputError: the folder can't be written to, or holds something else's ``config.json``.
        """
        folder = Path(save_directory)
        self._save_pretrained(folder)
        card = folder / "README.md"
        if not card.exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(card)
        if not push_to_hub:
            return None
        name = repo_id or folder.resolve().name
        return str(self.push_to_hub(repo_id=name, model_card_kwargs=model_card_kwargs, **hub))

    def _save_pretrained(self, save_directory: Path) -> None:
        from lpi.methods.checkpoint import save_method

        save_method(self, save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's would fill arguments from config.json by their names
        cls,
        source: str | Path,
        *,
        backbone: DualEncoder | None = None,
        method: str | Path | type[Method] | None = None,
        **hub: Any,
    ) -> Method:
        """A method from a folder or a hub name; see :func:`lpi.methods.checkpoint.load_method`.

        A class of one's own names itself: no ``method`` is needed then.

        Raises:
            CheckpointError: it was saved by another method, or for another backbone, or is damaged.
            MissingFileError: it is not there.
        """
        from lpi.methods.checkpoint import load_method, named_by

        named = named_by(cls) if method is None else method
        loaded = load_method(source, backbone=backbone, method=named, **hub)
        if not isinstance(loaded, cls):
            raise CheckpointError(f"{source} holds a {type(loaded).__name__}, not a {cls.__name__}. Load it as that.")
        return loaded


def chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """Consecutive pieces of at most ``size`` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def spelled(hint: Any) -> str:
    """A type as a person says it."""
    kinds = [hint] if isinstance(hint, type) else list(get_args(hint))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
    return " or ".join(words.get(kind, str(kind)) for kind in kinds)


def check_options(method: type[Method], options: dict[str, Any]) -> None:
    """Refuse options that the constructor doesn't have, naming the nearest one it has, and values of another type.

    Raises:
        ConfigError: an unknown option, or text where a number must stand, and the like.
    """
    called = method.__module__.rpartition(".")[2]
    hints = get_type_hints(method.__init__)
    parameters = list(inspect.signature(method.__init__).parameters.values())[2:]  # after self and the backbone
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"method {called!r} has no option {name!r}. {did_you_mean(name, known)}")
        hint: Any = hints.get(name, Any)
        try:
            TypeAdapter(hint).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] != "literal_error":  # the constructor names the choices
                raise ConfigError(
                    f"method {called!r}: {name} must be {spelled(hint)}; got {value!r}, which isn't."
                ) from error


__all__ = [
    "FALLBACK",
    "Batches",
    "Method",
    "TaskData",
    "TrainingBatch",
    "check_options",
    "chunks",
    "no_batches",
    "recorded",
]
