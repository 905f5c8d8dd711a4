"""Experiment files: TOML in, typed settings out. What is not known is refused, with the nearest name that is."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lpi.errors import ConfigError, MissingFileError, did_you_mean
from lpi.reading import UnreadableError, parse_toml, read_text, shown

Table = dict[str, Any]
"""A table of a TOML file."""
GROUNDING_KINDS = ("scene_expressions", "expressions", "refcoco", "mdetr")
"""Kinds of streams whose tasks are expressions with boxes; those of all others are pictures with captions."""
LEAST_SCORE = 0.1
"""What a box must score to be shown, unless somebody says otherwise: detectors give every place a score."""
ROUTED_WEIGHT = 0.1
"""How much the agreement of both sides' routing counts in a score, where it counts, beside a cosine of at most 1."""


def check_name(name: str, what: str) -> None:
    """Refuse the name of an experiment or a row that is no name of a folder: its runs lie in one of that name.

    Raises:
        ConfigError: it is empty, leads elsewhere, or has characters that no name has.
    """
    odd = any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)
    if odd or not name.strip() or name in (".", "..") or any(letter in name for letter in "/\\"):
        raise ConfigError(
            f"{what} {name[:80]!r} can't name a folder: it must have letters, and no '/', '\\' or control character. "
            "Rename it."
        )


class Settings(BaseModel):
    """A table of an experiment file; keys that it doesn't have are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingSettings(Settings):
    """How a task is trained.

    Attributes:
        epochs: passes over a task's training pictures.
        steps: instead of ``epochs``: so many optimiser steps a task, whatever its size.
        batch: pictures a batch.
        captions_per_image: captions drawn for each picture of a batch; 0 takes all.
        optimiser: ``adamw`` or ``sgd``.
        learning_rate, weight_decay, momentum: of the optimiser.
        schedule: ``cosine`` falls to zero over the task's steps; ``constant`` stays.
        warmup: share of the task's steps over which the rate rises linearly.
        clip: largest norm of the gradient; 0 doesn't clip.
        accumulate: batches whose gradients are averaged before a step.
        precision: ``float32``, ``bfloat16`` (autocast), or ``auto``: bfloat16 on an accelerator that has it, and on a
            processor that multiplies it where the model is wide enough. A run's test data are embedded in it, too;
            frozen features, which route, always in float32. What it stood for is kept in ``run.json``.
        augment: how training pictures are varied.
        equal_captions: captions that are equal count as positives of each other's pictures.
        device: ``auto``, ``cpu``, ``cuda``, ...
        checkpoint_seconds: the least time between two checkpoints inside a task.
    """

    epochs: int = Field(default=5, ge=0)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=64, ge=2)
    captions_per_image: int = Field(default=1, ge=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    clip: float = Field(default=1.0, ge=0)
    accumulate: int = Field(default=1, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    augment: Literal["none", "flip", "crop", "crop_flip"] = "none"
    equal_captions: bool = True
    device: str = "auto"
    checkpoint_seconds: float = Field(default=20.0, ge=0)


class EvaluationSettings(Settings):
    """How a stage is measured.

    Attributes:
        equal_captions: equal captions of different pictures are equal matches.
        gallery: ``union`` of all tasks seen, or each task's ``own``.
        fixed_gallery: also measure each stage against the test data of all tasks, those to come included: a gallery
            that doesn't grow, in which a model that doesn't change forgets nothing.
        scoring: ``plain`` cosines, or ``routed``: plus ``routed_weight`` times the agreement of both sides' routing.
        routed_weight: see ``scoring``.
        unrouted_score: for ``routed``: what scores a pair as far as its sides don't belong to the same task: the
            vectors that the method ``mixed``, or those of the ``frozen`` model, as if nothing had been learned. With
            ``matched`` every pair is scored by what its sides would most likely belong to if they belonged together
            (:class:`lpi.routing.score.Matched`), and ``routed_weight`` is of the evidence that they do.
        oracle: also measure with the true task given.
        transfer: also measure the next task before it is learned.
        batch: pictures or captions encoded at once.
        examples: example queries a direction, with their results before and after.
        overlap: for expressions: a box counts as found from half of this on: ``iou``, or ``giou``, the generalised one,
            as the authors' code has it.
        suppress: for expressions: a box whose IoU with a better one is above it is left out; 1 keeps all.
        diagnostics: also measure under other papers' protocols, and how far the search results move from stage to
            stage (:mod:`lpi.evaluation.protocols`, :mod:`lpi.evaluation.stability`).
    """

    equal_captions: bool = True
    gallery: Literal["union", "own"] = "union"
    fixed_gallery: bool = True
    scoring: Literal["plain", "routed"] = "plain"
    routed_weight: float = Field(default=ROUTED_WEIGHT, ge=0)
    unrouted_score: Literal["mixed", "frozen", "matched"] = "mixed"
    oracle: bool = True
    transfer: bool = True
    batch: int = Field(default=128, ge=1)
    examples: int = Field(default=6, ge=0)
    overlap: Literal["iou", "giou"] = "iou"
    suppress: float = Field(default=0.7, gt=0, le=1)
    diagnostics: bool = False


class StreamSettings(BaseModel):
    """Where the tasks come from; further keys go to the source of that kind.

    Attributes:
        kind: ``scenes`` (drawn by this library), ``folder``, ``jsonl``, ``parts`` (several JSONL files), ``coco``,
            ``karpathy``, ``collection`` (public data sets by name, as their publishers distribute them), ``features``
            (what ``lpi features`` wrote of another stream; the same folder is the backbone). Expressions
            with boxes: ``scene_expressions`` (drawn), ``expressions`` (a JSONL file), ``refcoco`` (the original refs
            and instances), ``mdetr`` (converted files).
        train_limit, test_limit: at most so many pictures a task, drawn with ``limit_seed``.
        redrawn: what is drawn (scenes, and what limits leave) is drawn anew for each seed of a run, which then stands
            for other material, too: the spread over seeds has the data in it.
        order: names of the tasks in the order of learning; leaving some out is allowed.
        measured: ``test``, or ``validation``, on which settings are chosen: the validation pictures take the place of
            the test pictures, which then nobody looks at, and nothing is held out.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Literal[
        "scenes",
        "folder",
        "jsonl",
        "parts",
        "coco",
        "karpathy",
        "collection",
        "features",
        "scene_expressions",
        "expressions",
        "refcoco",
        "mdetr",
    ] = "scenes"
    train_limit: int | None = Field(default=None, ge=1)
    test_limit: int | None = Field(default=None, ge=1)
    limit_seed: int = 0
    redrawn: bool = False
    order: list[str] | None = None
    measured: Literal["test", "validation"] = "test"

    def source(self) -> Table:
        """The keys that only the source of this kind knows."""
        return dict(self.model_extra or {})

    @property
    def problem(self) -> Literal["retrieval", "grounding"]:
        """What the tasks are about: captioned pictures that are searched, or expressions with boxes that are found."""
        return "grounding" if self.kind in GROUNDING_KINDS else "retrieval"


class Experiment(Settings):
    """One experiment: a stream, a backbone, a method and how to train and measure it.

    Attributes:
        name: names the run folder.
        about: a sentence for the report.
        backbone: ``lpi-tiny``, a folder or a hub name.
        image_size: another input size in pixels, where the backbone's positions interpolate.
        seeds: one run each.
        stream: see :class:`StreamSettings`.
        method: ``name``, optional ``preset``, and the method's own options.
        training: see :class:`TrainingSettings`.
        evaluation: see :class:`EvaluationSettings`.
        rows: further variants, each a row of the table, by name: what they change.
        planned: pairs of variants whose difference is asked for beforehand, and gets an interval and a p.
        search: what ``lpi tune`` tries: settings and their values, such as ``"method.rank" = [4, 8]``; a value like
            ``"*3"`` is three times what the variant has.
    """

    name: str = "experiment"
    about: str = ""
    backbone: str = "lpi-tiny"
    image_size: int | None = None
    seeds: list[int] = Field(default_factory=lambda: [0])
    stream: StreamSettings = StreamSettings()
    method: Table = Field(default_factory=lambda: {"name": "lpi"})
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    rows: dict[str, Table] = Field(default_factory=dict)
    planned: list[tuple[str, str]] = Field(default_factory=list)
    search: dict[str, list[Any]] = Field(default_factory=dict)

    def variant_names(self) -> list[str]:
        """The main variant, named after its method, then the further ones."""
        return [self.main_variant, *self.rows]

    @property
    def main_variant(self) -> str:
        """The name of the variant that the file describes without any change."""
        name = short_name(str(self.method.get("name", "lpi")))
        preset = self.method.get("preset")
        return name if preset is None else f"{name}_{preset}"

    def variant(self, name: str) -> Experiment:
        """The experiment of one variant.

        Raises:
            ConfigError: no row has that name, or it changes what doesn't exist.
        """
        if name == self.main_variant:
            return self.model_copy(update={"rows": {}})
        if name not in self.rows:
            raise ConfigError(
                f"experiment {self.name!r} has no row {name!r}. {did_you_mean(name, self.variant_names())}"
            )
        content = self.model_dump(exclude={"rows"}, exclude_unset=True)
        changes: Table = {}
        for key, value in self.rows[name].items():
            merge(changes, key.split("."), value)
        method = changes.get("method")
        if isinstance(method, Mapping) and any(
            method.get(key, self.method.get(key)) != self.method.get(key) for key in ("name", "preset")
        ):
            # another method's options mean nothing to this one, and a preset would be undone by the main row's options
            content["method"] = {key: value for key, value in self.method.items() if key == "name"}
        for key, value in changes.items():
            merge(content, [key], value)
        return parse(content, f"row {name!r} of {self.name}")


def short_name(method: str) -> str:
    """What a method is called in tables and folders: of a path or a module's dotted name, the last part.

    >>> short_name("lpi"), short_name("mine/my_method.py"), short_name("mine.my_method")
    ('lpi', 'my_method', 'my_method')
    """
    return Path(method).stem if method.endswith(".py") else method.rpartition(".")[2]


def merge(content: Table, path: Sequence[str], value: Any) -> None:
    """Set ``content[path...] = value``; a table is merged into the table that is there."""
    *parents, last = path
    for key in parents:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{'.'.join(path)}: {key!r} is a value and has no keys of its own.")
    if isinstance(value, Mapping) and isinstance(content.get(last), dict):
        for key, inner in value.items():
            merge(content[last], [key], inner)
    else:
        content[last] = value


def shipped() -> dict[str, Path]:
    """The experiment files that come with the package, by name."""
    folder = Path(str(resources.files("lpi") / "experiments"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def read_experiment(source: str | Path, changes: Sequence[str] = ()) -> Experiment:
    """An experiment from a TOML file or the name of a shipped one, with ``a.b=value`` changes applied.

    Raises:
        MissingFileError: there is no such file, and no shipped experiment of that name.
        ConfigError: bad TOML, an unknown key or a wrong value.
    """
    path = Path(source)
    if not path.is_file():
        known = shipped()
        if str(source) not in known:
            raise MissingFileError(
                f"{source}: there is no such experiment file, and none of that name is shipped. "
                + did_you_mean(str(source), known)
            )
        path = known[str(source)]
    try:
        content = parse_toml(read_text(path))
    except UnreadableError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}.") from error
    content.setdefault("name", path.stem)
    for key, value in parse_changes(changes).items():
        merge(content, key.split("."), value)
    return parse(content, path.name)


def parse_changes(changes: Sequence[str]) -> Table:
    """The values that ``--set`` gives to dotted keys, by key; of a key that is given twice the last value counts.

    >>> parse_changes(["method.rank=8", "training.optimiser = sgd"])
    {'method.rank': 8, 'training.optimiser': 'sgd'}

    Raises:
        ConfigError: a change that isn't ``key=value``.
    """
    values: Table = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value; got {change!r}.")
        values.pop(key.strip(), None)  # in the order in which they count
        values[key.strip()] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    """A value as TOML writes it; anything that isn't TOML is a plain string, so that quotes may be left out."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except UnreadableError:
        return text


def parse(content: Mapping[str, Any], place: str) -> Experiment:
    """A checked experiment.

    Raises:
        ConfigError: an unknown key (naming the nearest known one) or a wrong value.
    """
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        *tables, key = [str(part) for part in first["loc"]]
        where = f"[{'.'.join(tables)}]" if tables else "the top level"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{place}: {where} has no option {key!r}. {did_you_mean(key, _known(tables))}") from error
        raise ConfigError(f"{place}: {key} in {where}: {first['msg']}; got {shown(first['input'])}.") from error
    _check_kind(experiment, place)
    _check_names(experiment, place)
    if experiment.main_variant in experiment.rows:
        raise ConfigError(
            f"{place}: the row {experiment.main_variant!r} has the name of the main row, which would hide it. "
            "Rename it."
        )
    return experiment


def _check_names(experiment: Experiment, place: str) -> None:
    check_name(experiment.name, f"{place}: the experiment's name")
    for row in experiment.variant_names():
        check_name(row, f"{place}: the row's name")


NOT_OBEYED: dict[str, dict[str, tuple[str, ...]]] = {
    "retrieval": {"training": (), "evaluation": ("overlap", "suppress")},
    "grounding": {
        "training": ("augment", "captions_per_image", "equal_captions"),
        "evaluation": (
            "equal_captions",
            "gallery",
            "fixed_gallery",
            "scoring",
            "routed_weight",
            "unrouted_score",
            "diagnostics",
        ),
    },
}
"""For each problem the settings that mean nothing to it, by their table."""


def _check_kind(experiment: Experiment, place: str) -> None:
    """Refuse settings that were given but that tasks of this kind don't obey."""
    for table, names in NOT_OBEYED[experiment.stream.problem].items():
        given: Settings = getattr(experiment, table)
        for name in sorted(given.model_fields_set & set(names)):
            known = [field for field in type(given).model_fields if field not in names]
            raise ConfigError(
                f"{place}: [{table}] has no option {name!r} for a stream of kind {experiment.stream.kind!r}. "
                f"{did_you_mean(name, known)}"
            )


def _known(tables: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Experiment
    for table in tables:
        annotation = model.model_fields[table].annotation if table in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return list(model.model_fields)
        model = annotation
    return list(model.model_fields)
