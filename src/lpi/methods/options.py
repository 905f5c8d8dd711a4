"""What options a method has, how a person names them, and what of them is recorded.

Options stand in tables (``prompts.rank``, ``routing.clusters``). A person may write them as tables, or flat: an option
whose name only one table has by that name, any other by its table's and its own (``interaction_rank``), and those of
:data:`FLAT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from lpi.config import short_name
from lpi.errors import ConfigError, UnknownNameError, check_choice, did_you_mean
from lpi.options import Table, as_values, changed, hints, leaves, value_at
from lpi.routing import Router, router_class, router_names
from lpi.routing.nearest import NearestKeys
from lpi.routing.whitened import UNKNOWN, WhitenedKeys

FLAT = {
    "rank": "prompts.rank",
    "interaction": "interaction.enabled",
    "routing": "routing.view",
    "routing_vision": "routing.depth_vision",
    "routing_text": "routing.depth_text",
    "routing_words": "routing.words",
    "directions": "routing.covariance_rank",
    "ood": "routing.out_of_domain",
    "ood_quantile": "routing.quantile",
}
"""Flat names that don't follow from an option's place; they count where a method has that place, and not the name."""

MetricChoice = Literal["cosine", "l1", "whitened"]


@dataclass(frozen=True)
class MethodOptions(Table):
    """What every method takes.

    Class attributes:
        training: training settings that suit the method where nobody gives others: weights that are trained on want
            another learning rate than prompts do.
    """

    training: ClassVar[Mapping[str, Any]] = {}

    #: not compared: options that are equal are, whatever they began with
    preset: Annotated[str | None, "the named set of options that these began with"] = field(default=None, compare=False)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Named sets of options, for ``lpi.method(name, backbone, preset=...)``."""
        return {}


@dataclass(frozen=True)
class Preset:
    """A named set of options.

    Attributes:
        options: all of them.
        training: training settings that belong to it; an experiment's own win over them, and they over the method's.
    """

    options: MethodOptions
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PairOptions(MethodOptions):
    """What every method takes that learns from pairs."""

    multi_positive: Annotated[bool, "captions that equal another picture's count as positives of it"] = True


RouterName = Annotated[
    str | None,
    "what works out a query's task: a router's name, a file of your own, or none; it brings its own defaults",
]
RouterTable = Annotated[Table | None, "the router's own options"]


@dataclass(frozen=True)
class RoutedOptions(MethodOptions):
    """What every method takes that may have a router."""

    router: RouterName = None
    routing: RouterTable = None

    def check(self) -> None:
        """See :class:`Table`."""
        if self.router is None:
            if self.routing is not None:
                raise ConfigError("routing has options, but there is no router: name one.")
            return
        kind = router_class(self.router).Options
        if not isinstance(self.routing, kind):
            found = type(self.routing).__qualname__
            raise ConfigError(f"router {self.router!r} takes {kind.__qualname__}; routing holds {found}.")


Own = TypeVar("Own", bound=MethodOptions)


def options_of(kind: type[Own], given: Mapping[str, Any], *, preset: str | None = None, called: str = "") -> Own:
    """Options from what a person gives, flat or in tables.

    Args:
        kind: the method's options.
        given: by name.
        preset: begins with this set instead of the defaults.
        called: the method's name, for messages.

    Raises:
        UnknownNameError: no such preset, or no such router.
        ConfigError: an option that the method doesn't have, or a value that it can't have.
    """
    start = kind()
    if preset is not None:
        known = kind.presets()
        if preset not in known:
            owner = kind.__qualname__.partition(".")[0]
            near = did_you_mean(preset, known) if known else "It has none."
            raise UnknownNameError(f"{owner} has no preset {preset!r}. {near}")
        found = known[preset].options
        assert isinstance(found, kind)
        start = changed(found, {"preset": preset})
    wanted = dict(flattened(start, given))
    instead = rerouted(start, wanted)
    names: dict[str, str] = {}
    changes: dict[str, Any] = {}
    for name, value in wanted.items():
        path = path_of(start, name, instead, called)
        if path is not None:
            changes[path], names[path] = value, name
    place = f"method {called!r}: " if called else ""
    return changed(start, changes, names=names, place=place, instead=instead)


def flattened(options: Table, given: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Options one by one, those in tables by their paths."""
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from flattened(options, value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def rerouted(options: MethodOptions, wanted: dict[str, Any]) -> dict[str, Any]:
    """The router and its table where a person chooses another; what chose it is taken out of ``wanted``.

    ``router`` takes a router with its own defaults, whoever has it. ``metric``, the older word, goes from one kind of
    keys to the other and keeps what both have.
    """
    if not isinstance(options, RoutedOptions):
        return {}
    instead: dict[str, Any] = {}
    if "router" in wanted:
        name = wanted.pop("router")
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"router must be text or nothing; got {name!r}, which isn't.")
        instead = {"router": name, "routing": None if name is None else router_class(name).Options()}
    routing = instead.get("routing", options.routing)
    metric = next((wanted.pop(key) for key in ("metric", "routing.metric") if key in wanted), None)
    if metric is None:
        return instead
    if not isinstance(routing, NearestKeys.Options):
        wanted["metric"] = metric
        return instead
    check_choice("metric", metric, MetricChoice)
    name = "whitened" if metric == "whitened" else "nearest"
    kept = routing
    if instead.get("router", options.router) != name:
        target = router_class(name).Options
        common = {part.name for part in fields(target)} & {part.name for part in fields(routing)} - {"metric"}
        taken = {part: getattr(routing, part) for part in common}
        if isinstance(routing, WhitenedKeys.Options):  # whose one key a task and own temperature no other keys have
            if routing.clusters == WhitenedKeys.Options.clusters:
                del taken["clusters"]
            taken["posterior_temperature"] = routing.posterior_temperature or UNKNOWN
        kept = target(**taken)  # type: ignore[assignment]
        instead = {"router": name, "routing": kept}
    if name == "nearest":
        instead = {**instead, "router": name, "routing": changed(kept, {"metric": metric})}
    return instead


def path_of(options: MethodOptions, name: str, instead: Mapping[str, Any], called: str = "") -> str | None:
    """The path of the option that a person calls ``name``; ``None`` where it means nothing to the chosen router.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    own = hints(type(options))
    routing = instead.get("routing", getattr(options, "routing", None))
    paths = [path for path in leaves(options) if not path.startswith("routing.")]
    if isinstance(routing, Table):
        paths += [f"routing.{path}" for path in leaves(routing)]
    if name in paths or (name in own and not isinstance(getattr(options, name), Table) and name != "routing"):
        return name
    if name in FLAT and FLAT[name] in paths:
        return FLAT[name]
    if name == "directions" and isinstance(routing, NearestKeys.Options):
        return None  # nothing is whitened
    ending = [path for path in paths if path.rpartition(".")[2] == name]
    if len(ending) == 1:
        return ending[0]
    joined = {path.replace(".", "_"): path for path in paths}
    if name in joined:
        return joined[name]
    short = [path.rpartition(".")[2] for path in paths]
    known = {*(one for one in short if short.count(one) == 1), *joined, *paths}
    known |= {flat for flat, path in FLAT.items() if path in paths}
    if "." not in name:
        known = {one for one in known if "." not in one}
    raise ConfigError(f"method {called!r} has no option {name!r}. {did_you_mean(name, known - {'preset'})}")


def router_of(options: MethodOptions) -> type[Router] | None:
    """The class of the router that options name; ``None`` where they name none."""
    name = getattr(options, "router", None)
    return None if name is None else router_class(name)


def is_registered_router(name: object) -> bool:
    """Whether a name, wherever it was found, is that of a router of the library, or of none."""
    return name is None or name in router_names()


def differing(options: MethodOptions) -> dict[str, Any]:
    """The options that aren't as they come, by their paths; what options began with is no difference.

    An option that a method is given later has its default in whatever was made before: that is no difference either.
    """
    usual = type(options)()
    known = set(leaves(usual))
    values = {path: value_at(options, path) for path in leaves(options) if path != "preset"}
    if "router" in values:
        values["router"] = recorded(options)["router"]
    return {path: v for path, v in values.items() if path not in known or v != value_at(usual, path)}


def recorded(options: MethodOptions) -> dict[str, Any]:
    """Options as plain values for a file; a router of one's own by a name that leads nowhere."""
    values = as_values(options)
    router = values.get("router")
    if not is_registered_router(router):
        values["router"] = f"{short_name(str(router))}.py"
    return values
