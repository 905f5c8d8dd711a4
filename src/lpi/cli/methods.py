"""``lpi methods``: which methods there are, and which options each has."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpi.cli.options import JsonOption
from lpi.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from lpi.methods.listing import Card, OptionCard

TITLES = {"retrieval": "Retrieval: which picture goes with a caption", "grounding": "Expressions: which box is meant"}


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, or a Python file with one; all by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List all methods with their papers, or all options of one: type, default, meaning, and what presets set."""
    from lpi.methods import method_class, method_names
    from lpi.methods.listing import PROBLEMS, card_of, method_cards, option_cards

    if name is None:
        cards = method_cards()
        print(json.dumps([asdict(card) for card in cards], indent=2) if as_json else all_of(cards))
        return
    outside = name.endswith(".py") or "." in name
    asked = PROBLEMS[:1] if outside else tuple(problem for problem in PROBLEMS if name in method_names(problem))
    if not asked:
        known = {known for problem in PROBLEMS for known in method_names(problem)}
        raise UnknownNameError(f"No method is called {name!r}. {did_you_mean(name, known)}")
    pairs = [(card_of(name, problem), option_cards(method_class(name, problem))) for problem in asked]
    if as_json:
        print(json.dumps([as_record(card, options) for card, options in pairs], indent=2))
        return
    print("\n\n".join(one_of(card, options) for card, options in pairs))


def width() -> int:
    """Columns of the terminal, within what is read easily."""
    return min(shutil.get_terminal_size((100, 24)).columns, 110)


def all_of(cards: Sequence[Card]) -> str:
    """The list of methods, as text."""
    from lpi.routing import router_names

    lines: list[str] = []
    for problem, title in TITLES.items():
        own = [card for card in cards if card.problem == problem]
        lines += ["", title, ""] if lines else [title, ""]
        for card in own:
            text = f"{card.line} ({card.paper})" if card.paper else card.line
            lines += textwrap.wrap(
                text, width(), initial_indent=f"  {card.name:<14}", subsequent_indent=" " * 16, break_long_words=False
            )
    routers = ", ".join(router_names())
    lines += ["", f"Routers, for methods that tell tasks apart (method.router): {routers}."]
    return "\n".join([*lines, "All options of a method: lpi methods NAME."])


def one_of(card: Card, options: Sequence[OptionCard]) -> str:
    """One method with all of its options, as text."""
    lines = [f"{card.name} ({card.problem})"]
    lines += textwrap.wrap(card.line, width(), initial_indent="  ", subsequent_indent="  ")
    if card.paper:
        lines.append(f"  Paper: {card.paper}")
    if card.training:
        lines.append("  Trains with: " + ", ".join(f"{key} = {value}" for key, value in card.training.items()))
    if card.presets:
        lines.append("  Presets: " + ", ".join(card.presets))
    for one in options:
        option = one.option
        called = option.path if one.flat == option.path else f"{option.path} ({one.flat})"
        lines += ["", f"  {called} = {shown(option.default)}    {option.kind}"]
        lines += textwrap.wrap(option.meaning, width(), initial_indent="      ", subsequent_indent="      ")
        if one.presets:
            lines.append("      " + ", ".join(f"{name}: {shown(value)}" for name, value in one.presets.items()))
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as TOML has it; nothing where there is none."""
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def as_record(card: Card, options: Sequence[OptionCard]) -> dict[str, Any]:
    """One method with its options, for JSON."""
    own = [{**one.option._asdict(), "flat": one.flat, "presets": dict(one.presets)} for one in options]
    return {**asdict(card), "options": own}
