"""Data flows one way, imports the other: which room of the package may import which, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lpi

ROOT = Path(lpi.__file__).parent
LEAVES = {"errors", "extras", "reading", "storage", "config", "devices", "counting", "processes", "showing", "terminal"}
LEARNING = {"trainer", "features"}
BELOW_METHODS = {"tasks", "backbones", "prompts", "losses", "closed_form", "data.records", *LEAVES}
#: What two methods share has moved down, or lies in ``SHARED``.
SHARED = {
    *(
        "methods.adapters",
        "methods.closing",
        "methods.corrected",
        "methods.experts",
        "methods.low_rank",
        "methods.pairs",
        "methods.prompt_sets",
        "methods.prompted",
    ),
    "methods.merged",
    "methods.tuned",
}
METHOD_BASE = {"methods.base", "methods.encoder", "methods.options", "routing", "options", *BELOW_METHODS}

#: A module may import what its own row, or else that of the folder it lies in, names; a name stands for all below it.
MAY_IMPORT: dict[str, set[str]] = {
    "": {"backbones.loading", "methods", "search.index", "tasks.stream"},  # the public names, loaded when first used
    "errors": set(),
    "extras": {"errors"},
    "reading": {"errors"},
    "storage": {"reading", "errors"},
    "config": {"reading", "errors"},
    "losses": {"errors"},
    "closed_form": {"errors"},
    "metrics": {"metrics", "errors"},
    "data": {"data", "reading", "errors", "extras"},
    "backbones": {
        *("backbones", "data.features", "data.pictures", "data.records", "devices", "processes", "reading", "errors"),
        "storage",
    },
    "processes": {"errors"},
    "prompts": {"prompts", "errors"},
    "counting": {"terminal"},
    "terminal": set(),
    "showing": set(),
    "tasks": {"tasks", "data", "errors", "showing"},
    "options": {"errors"},
    "plugins": {"errors"},
    "routing": {"routing", "options", "plugins", "prompts", "backbones", "errors"},
    # the folder itself, which lists and makes methods
    "methods": {"methods.base", "methods.options", "routing", "plugins", *BELOW_METHODS},
    "methods.options": {"routing", "options", *LEAVES},
    "methods.encoder": {"routing", *BELOW_METHODS},
    "methods.base": {"methods.options", "methods.encoder", "routing", *BELOW_METHODS},
    "methods.older": {"methods.base", "errors"},
    "methods.listing": {"methods", "options"},
    "methods.checkpoint": {"methods", "routing", "plugins", *BELOW_METHODS},
    "methods.adapters": METHOD_BASE,
    "methods.corrected": METHOD_BASE,
    "methods.experts": METHOD_BASE,
    "methods.tuned": {"methods.adapters", *METHOD_BASE},
    "methods.merged": {"methods.adapters", "methods.tuned", *METHOD_BASE},
    "methods.prompted": METHOD_BASE,
    "methods.prompt_sets": {"methods.prompted", *METHOD_BASE},
    "methods.pairs": {"metrics", *METHOD_BASE},
    "methods.closing": {"methods.pairs", "methods.experts", *METHOD_BASE},
    "methods.low_rank": {"methods.adapters", "methods.closing", "methods.experts", *METHOD_BASE},
    "methods.grounding": {"methods.grounding", "metrics", "data.expressions.record", *SHARED, *METHOD_BASE},
    "devices": {"errors"},
    "features": {"methods.base", "methods.encoder", "data.pictures", *BELOW_METHODS},
    "expression_data": {
        *("methods.base", "methods.encoder", "methods.grounding", "data.expressions.record"),
        *BELOW_METHODS,
    },
    "feature_files": {"features", "methods.base", "routing", "data.features", *BELOW_METHODS},
    "trainer": {"methods", "features", *BELOW_METHODS},
    "evaluation": {
        *("evaluation", "expression_data", "methods", "routing", "data.expressions", "data.content", "metrics"),
        *LEARNING,
        *BELOW_METHODS,
    },
    "report": {
        *("report", "data.pictures", "evaluation.records", "evaluation.figures", "metrics"),
        *("errors", "extras", "reading", "storage"),
    },
    "report.export": {"report", "evaluation.figures", "evaluation.results", "showing", "errors", "storage"},
    "search": {"search", *LEARNING, "methods", "routing", "options", "data", *BELOW_METHODS},
    "search.recorded": {
        *("search", "metrics", "evaluation", "methods", "routing", "data"),
        *LEARNING,
        *BELOW_METHODS,
    },  # recall
    "serve": {"serve", "search", "methods.grounding.base", "data.pictures", "data.records", "tasks.stream", *LEAVES},
    # beside the command line: commands with something to say; nothing but it imports them
    "pretrain": {"pretrain", *LEARNING, "methods", "metrics", "data", "options", *BELOW_METHODS},
    "doctor": {"backbones", "methods", *LEAVES},
    "damage": {"backbones", "evaluation", "methods", "report.reading", "search", "trainer", *LEAVES},
    "cli": {""},
    "__main__": {"cli"},
}
#: A method's own file.
METHOD = {*SHARED, *METHOD_BASE}
NOT_METHODS = {
    *SHARED,
    *(f"methods.{name}" for name in ("base", "checkpoint", "encoder", "listing", "older", "options")),
}

#: Imports inside functions, where a module may not or need not be imported with the one that uses it.
INSIDE_FUNCTIONS: dict[str, set[str]] = {
    "methods.base": {"trainer", "methods.checkpoint"},  # ``learn``, ``save_pretrained``: doorbells of what stands above
    "search.index": {"serve.server"},  # ``serve``, as above
    "cli": {""},  # ``lpi --help`` answers at once
    "doctor": {""},  # a broken installation is what it is there for
}


def module_name(file: Path) -> str:
    parts = [part for part in file.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
    return ".".join(parts)


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Each of our modules that a file imports, without ``lpi.``, and whether a function does so."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports say the whole name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.append(submodule if submodule.removeprefix("lpi.") in MODULES else str(node.module))
        for name in names:
            if name == "lpi" or name.startswith("lpi."):
                yield name.removeprefix("lpi").removeprefix("."), id(node) in inside


def covers(allowed: str, name: str) -> bool:
    return allowed == "" or name == allowed or name.startswith(allowed + ".")


def row(table: dict[str, set[str]], name: str) -> set[str] | None:
    """The row of a module or of the nearest folder above it."""
    while name and name not in table:
        name = name.rpartition(".")[0]
    return table.get(name) if name else None


def allowed(name: str) -> set[str]:
    if name == "":
        return MAY_IMPORT[""]
    if name.startswith("methods.") and name not in NOT_METHODS and not name.startswith("methods.grounding"):
        return METHOD
    found = row(MAY_IMPORT, name)
    assert found is not None, f"{name} is a new room: give it a row in MAY_IMPORT"
    return found


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    for imported, inside in imports(MODULES[name]):
        rooms = allowed(name) | ((row(INSIDE_FUNCTIONS, name) or set()) if inside else set())
        if imported == "" and name:  # ``lpi.__version__``
            continue
        assert any(covers(room, imported) for room in rooms), f"{name} must not import {imported}"


@pytest.mark.parametrize("name", MODULES)
def test_our_own_modules_are_imported_at_the_top(name: str) -> None:
    permitted = row(INSIDE_FUNCTIONS, name) or set()
    late = [imported for imported, inside in imports(MODULES[name]) if inside]
    assert all(any(covers(room, imported) for room in permitted) for imported in late), late


@pytest.mark.parametrize("upper", ["cli", "pretrain", "doctor", "damage"])
def test_only_the_command_line_imports_what_stands_beside_it(upper: str) -> None:
    users = {
        name.partition(".")[0] for name, file in MODULES.items() for used, _ in imports(file) if covers(upper, used)
    }
    assert users <= {"cli", "__main__", upper}


def test_the_table_names_only_rooms_that_are_or_will_be() -> None:
    assert not {name for name in MAY_IMPORT if name not in MODULES}


@pytest.mark.parametrize(
    "module",
    [
        "lpi",
        "lpi.config",
        "lpi.storage",
        "lpi.data",
        "lpi.data.scenes",
        "lpi.data.expressions",
        "lpi.tasks.grounding",
        "lpi.cli.main",
    ],
)
def test_what_a_person_waits_for_imports_neither_torch_nor_transformers(module: str) -> None:
    heavy = "[name for name in ('torch', 'transformers', 'matplotlib', 'fastapi', 'lancedb') if name in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print({heavy})"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT.parent)},
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert done.stderr == ""
