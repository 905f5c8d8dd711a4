"""Pages that mkdocs makes from the code and from what lies beside docs/: see mkdocs.yml.

Every command with its options, every option of every method, every setting of an experiment, the Python that is
promised; and README, CONTRIBUTING, SECURITY and CHANGELOG, whose links are those of the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"} | {
    "CHANGELOG.md": "changelog.md"
}
"""Pages that lie beside docs/, and what they are called in the site."""
TABLES = ("Experiment", "StreamSettings", "TrainingSettings", "EvaluationSettings")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    made = {
        **{page: rewritten((ROOT / file).read_text(encoding="utf-8")) for file, page in BESIDE.items()},
        "commands.md": commands(),
        "methods.md": methods(),
        "settings.md": settings(),
        "python.md": python(),
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that lead out of docs/ lead to the page of the site."""
    return rewritten(markdown)


def rewritten(text: str) -> str:
    """Links of the repository as those of the site."""
    for file, page in BESIDE.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(file)}", f"]({page}", text)
    text = re.sub(r"\]\((?:\.\./)?LICENSE\)", "](https://www.apache.org/licenses/LICENSE-2.0)", text)
    return re.sub(r"\]\(docs/", "](", text)


def cell(text: Any) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def commands() -> str:
    """Every command with its arguments and options, from the command line itself."""
    import typer

    from lpi.cli.main import app

    parts = ["# Commands\n\nEach says the same with `--help`. A mistake is one line, and exit code 2.\n"]

    def add(name: str, command: Any) -> None:
        inner = getattr(command, "commands", None)
        if inner:
            for one, own in sorted(inner.items()):
                add(f"{name} {one}".strip(), own)
            return
        rows = []
        for own in command.params:
            if own.name == "help":
                continue
            option = own.param_type_name == "option"
            called = ", ".join(f"`{one}`" for one in (*own.opts, *own.secondary_opts)) if option else f"`{own.name}`"
            default = "" if callable(own.default) or own.default is None else f"`{own.default}`"
            rows.append([called, cell(getattr(own, "help", None) or ""), cell(default)])
        about = (command.help or "").strip()
        parts.append(f"## lpi {name}\n\n{about}\n\n{table(['', 'what it is', 'by default'], rows) if rows else ''}")

    add("", typer.main.get_command(app))
    return "\n".join(parts)


def methods() -> str:
    """Every option of every method, from its dataclass."""
    from lpi.methods import method_class
    from lpi.methods.listing import method_cards, option_cards

    parts = ["# Options of methods\n\n`--set method.NAME=VALUE`; `lpi methods NAME` says the same in a terminal.\n"]
    for card in method_cards():
        kind = "" if card.problem == "retrieval" else " (boxes)"
        paper = f" Paper: {card.paper}." if card.paper else ""
        trained = ", ".join(f"`{key} = {value}`" for key, value in card.training.items())
        parts.append(f"## {card.name}{kind}\n\n{card.line}{paper}" + (f" Trains with {trained}." if trained else ""))
        rows = []
        for one in option_cards(method_class(card.name, card.problem)):
            presets = ", ".join(f"{name}: `{value}`" for name, value in one.presets.items())
            meaning = cell(one.option.meaning) + (f" ({cell(presets)})" if presets else "")
            rows.append([f"`{one.option.path}`", cell(one.option.kind), f"`{cell(one.option.default)}`", meaning])
        if rows:
            parts.append(table(["option", "may be", "by default", "what it means"], rows))
    return "\n\n".join(parts) + "\n"


def settings() -> str:
    """Every setting of an experiment file and of its streams, from their classes."""
    from lpi import config

    parts = ["# Settings of experiments\n\nThe keys of a TOML file, and of `--set KEY=VALUE`.\n"]
    for name in TABLES:
        kind = getattr(config, name)
        about, _, meanings = (kind.__doc__ or "").partition("Attributes:")
        told: dict[str, str] = {}
        for entry in re.split(r"\n        (?=[a-z])", meanings):
            names, _, meaning = entry.strip().partition(":")
            for one in names.split(", "):
                told[one.strip()] = meaning.strip()
        rows = [
            [f"`{key}`", f"`{cell(field.get_default(call_default_factory=True))}`", cell(told.get(key, ""))]
            for key, field in kind.model_fields.items()
        ]
        title = {"Experiment": "", "StreamSettings": "[stream]", "TrainingSettings": "[training]"}.get(
            name, "[evaluation]"
        )
        shown = f"## `{title}`" if title else "## At the top"
        parts.append(f"{shown}\n\n{' '.join(about.split())}\n\n{table(['key', 'by default', 'what it means'], rows)}")
    return "\n\n".join(parts)


def python() -> str:
    """The names that the library promises, each from where it is written."""
    import lpi

    parts = ["# Python\n\nWhat `import lpi` gives; all else may move.\n"]
    for name, (module, attribute) in sorted(lpi._WHERE.items()):
        parts.append(f"## lpi.{name}\n\n::: {module}.{attribute}\n    options:\n      heading_level: 3\n")
    return "\n".join(parts)
