"""Tables of options: frozen dataclasses whose fields say type, range and meaning, checked when one is made.

::

    @dataclass(frozen=True)
    class Options(Table):
        rank: Annotated[Count, "components of each change"] = 8

What two options mustn't be together, a table refuses in :meth:`Table.check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from lpi.errors import ConfigError, check_choice, did_you_mean

MOST = 2**16  # of whatever an option counts: beyond any use, and a saved model that asks for more takes no memory
Count = Annotated[int, Field(ge=1, le=MOST)]
Size = Annotated[int, Field(ge=0, le=MOST)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Above = Annotated[float, Field(gt=0)]
Quantile = Annotated[float, Field(gt=0, le=1)]

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
Own = TypeVar("Own", bound="Table")


@dataclass(frozen=True)
class Table:
    """Options of one thing; what a field must be stands in its type, what it means in the text beside it.

    Raises:
        ConfigError: a value of another type, out of its range, or one that doesn't go with another.
    """

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            check_value(name, getattr(self, name), hint)
        self.check()

    def check(self) -> None:
        """Refuse values that don't go together.

        Raises:
            ConfigError: naming both.
        """


_HINTS: dict[type, dict[str, Any]] = {}


def hints(kind: type[Table]) -> dict[str, Any]:
    """The types of a table's fields, with what they are annotated with."""
    if kind not in _HINTS:
        found = get_type_hints(kind, include_extras=True)
        _HINTS[kind] = {field.name: found[field.name] for field in fields(kind)}
    return _HINTS[kind]


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def bare(hint: Any) -> Any:
    """A type without what it is annotated with."""
    return bare(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type: those of a union, or itself alone."""
    plain = bare(hint)
    return tuple(map(bare, get_args(plain))) if get_origin(plain) in (Union, UnionType) else (plain,)


def choices(hint: Any) -> tuple[str, ...]:
    """The values of a Literal among the alternatives of a type; none where there is no Literal."""
    return tuple(value for kind in kinds(hint) if get_origin(kind) is Literal for value in get_args(kind))


def meaning(hint: Any) -> str:
    """What a field means: the text that its type is annotated with."""
    texts = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str)]
    return texts[-1] if texts else ""


def spelled(hint: Any) -> str:
    """A type as a person says it.

    >>> spelled(int | None), spelled(Literal["first", "last"])
    ('a whole number or nothing', 'first or last')
    """
    words = [WORDS.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds(hint) if not get_args(kind)]
    return " or ".join([*choices(hint), *words])


def limits(hint: Any) -> dict[str, float]:
    """The bounds of a number: ``ge``, ``gt`` and ``le``, where the type has them."""
    found: dict[str, float] = {}
    for part in getattr(hint, "__metadata__", ()):
        for bound in getattr(part, "metadata", ()):
            found |= {name: getattr(bound, name) for name in ("ge", "gt", "le") if hasattr(bound, name)}
    for inner in get_args(bare(hint)) if get_origin(bare(hint)) in (Union, UnionType) else ():
        found |= limits(inner)
    return found


def check_value(name: str, value: Any, hint: Any, *, place: str = "") -> None:
    """Refuse what an option can't be.

    Args:
        name: as the person calls it.
        value: which.
        hint: the field's type.
        place: whose option, for the message.

    Raises:
        ConfigError: another type, an unknown choice, or a number out of its range.
    """
    known = choices(hint)
    if known and isinstance(value, str) and value not in known:
        check_choice(name, value, Literal[known])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    bounds = limits(hint)
    if number and bounds and _outside(value, bounds) and any(kind in (int, float) for kind in kinds(hint)):
        raise ConfigError(f"{name} must be {_range(bounds, value)}; got {value}.")
    try:
        _adapter(bare(hint)).validate_python(value, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{place}{name} must be {spelled(hint)}; got {value!r}, which isn't.") from error


def _outside(value: float, bounds: Mapping[str, float]) -> bool:
    """Whether a number is out of its bounds; NaN is out of any."""
    inside = value >= bounds.get("ge", value) and value <= bounds.get("le", value)
    return not (inside and ("gt" not in bounds or value > bounds["gt"]))


def _range(bounds: Mapping[str, float], value: float = 0) -> str:
    if bounds.get("le") == MOST:
        return f"at least {bounds['ge']:g}" if value <= MOST else f"at most {MOST:,}"
    if "gt" in bounds:
        return f"above {bounds['gt']:g}" + (f" and at most {bounds['le']:g}" if "le" in bounds else "")
    return f"between {bounds['ge']:g} and {bounds['le']:g}" if "le" in bounds else f"at least {bounds['ge']:g}"


class Described(NamedTuple):
    """One option, for a person.

    Attributes:
        path: table and name, with a dot between.
        kind: the values that it takes, in words.
        default: its value where nobody sets it.
        meaning: a sentence.
    """

    path: str
    kind: str
    default: Any
    meaning: str


def described(table: Table, within: str = "") -> Iterator[Described]:
    """Every option of a table and of the tables in it, in their order."""
    for name, hint in hints(type(table)).items():
        value = getattr(table, name)
        if isinstance(value, Table):
            yield from described(value, f"{within}{name}.")
            continue
        bounds = limits(hint)
        kind = spelled(hint) + (f", {_range(bounds)}" if bounds else "")
        yield Described(f"{within}{name}", kind, value, meaning(hint))


def leaves(table: Table) -> list[str]:
    """The paths of all options of a table and of the tables in it."""
    return [option.path for option in described(table)]


def as_values(table: Table) -> dict[str, Any]:
    """A table as plain values, tables in it as dictionaries."""
    return asdict(table)


def value_at(table: Table, path: str) -> Any:
    """The value of an option by its path."""
    found: Any = table
    for name in path.split("."):
        found = getattr(found, name)
    return found


def changed(
    table: Own,
    changes: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    place: str = "",
    instead: Mapping[str, Any] | None = None,
) -> Own:
    """The same table with other values for some options, all set at once.

    Args:
        table: which is left as it is.
        changes: values by the paths of their options.
        names: what a person calls an option, by its path, for messages; by default its path.
        place: whose options, for messages.
        instead: values and tables that take the place of the table's own before anything is changed.

    Raises:
        ConfigError: no such option, or a value that it can't have.
    """
    called, new = names or {}, dict(instead or {})
    inside: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        if first not in hints(type(table)):
            raise ConfigError(f"{place}there is no option {path!r}. {did_you_mean(first, hints(type(table)))}")
        if rest:
            inside.setdefault(first, {})[rest] = value
        else:
            check_value(called.get(path, path), value, hints(type(table))[first], place=place)
            new[first] = value
    for first, inner in inside.items():
        own = new.get(first, getattr(table, first))
        if not isinstance(own, Table):
            raise ConfigError(f"{place}{first} is a value and has no options of its own.")
        below = {path.partition(".")[2]: name for path, name in called.items() if path.startswith(f"{first}.")}
        full = {path: below.get(path, f"{first}.{path}") for path in inner}
        new[first] = changed(own, inner, names=full, place=place)
    return replace(table, **new)
