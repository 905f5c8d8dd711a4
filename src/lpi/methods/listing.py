"""What methods there are and what options they have, for a person; all of it from the classes themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lpi.methods import method_class, method_names
from lpi.methods.base import Learner, Problem
from lpi.methods.options import FLAT, path_of
from lpi.options import Described, Table, described, leaves, value_at

PROBLEMS: tuple[Problem, ...] = ("retrieval", "grounding")


@dataclass(frozen=True)
class Card:
    """One method.

    Attributes:
        name: on the command line.
        problem: what it is asked.
        line: what it does.
        paper: whose it is; empty where there is none.
        training: training settings that suit it.
        presets: the names of its sets of options.
    """

    name: str
    problem: Problem
    line: str
    paper: str
    training: Mapping[str, Any]
    presets: tuple[str, ...]


@dataclass(frozen=True)
class OptionCard:
    """One option of a method.

    Attributes:
        option: path, values, default and meaning.
        flat: what it may be called without its table.
        presets: its value in each preset that has it otherwise.
    """

    option: Described
    flat: str
    presets: Mapping[str, Any]


def method_cards() -> list[Card]:
    """All methods of the library, those for retrieval first."""
    return [card_of(name, problem) for problem in PROBLEMS for name in method_names(problem)]


def card_of(name: str, problem: Problem) -> Card:
    """One method, by its name or file.

    Raises:
        UnknownNameError, MissingFileError, ConfigError: see :func:`lpi.methods.method_class`.
    """
    found = method_class(name, problem)
    module = inspect.getmodule(found)
    text = (module.__doc__ or "") if module else ""
    line = " ".join(text.split("\n\n")[0].split()) or str(inspect.getdoc(found)).split("\n")[0]
    options = found.Options
    return Card(name, problem, line, paper_of(found), dict(options.training), tuple(options.presets()))


def paper_of(found: type[Learner]) -> str:
    """The paper that a method is from, by what is written at its class or file, or at a class that it is made of."""
    for kind in found.__mro__:
        if not kind.__module__.startswith("lpi.") and kind is not found:
            continue
        module = inspect.getmodule(kind)
        for text in (kind.__doc__ or "", (module.__doc__ or "") if module else ""):
            named = re.search(r"Paper: ([^(]*\([^)]*\))", text)
            if named:
                return " ".join(named[1].split())
    return ""


def option_cards(found: type[Learner]) -> list[OptionCard]:
    """All options of a method, with what its presets make of them."""
    usual = found.Options()
    presets = {name: preset.options for name, preset in found.Options.presets().items()}
    cards = []
    for option in described(usual):
        if option.path == "preset":
            continue
        others = {
            name: value_at(options, option.path)
            for name, options in presets.items()
            if option.path in leaves(options) and value_at(options, option.path) != option.default
        }
        cards.append(OptionCard(option, flat_name(usual, option.path), others))
    return cards


def flat_name(options: Table, path: str) -> str:
    """The shortest name that an option may be called by."""
    last = path.rpartition(".")[2]
    by_path = {place: name for name, place in FLAT.items()}
    for name in (last, by_path.get(path, ""), path.replace(".", "_")):
        if name and _leads_to(options, name, path):
            return name
    return path


def _leads_to(options: Any, name: str, path: str) -> bool:
    try:
        return path_of(options, name, {}) == path
    except ValueError:  # a ConfigError: it is nobody's name
        return False
