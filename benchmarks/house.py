"""Counts what the structure of the package is held to: members, string options, untyped dictionaries, circles, lines.

python benchmarks/house.py --results results/house.json

- ``method_members``: what :class:`lpi.methods.base.Method` defines, without dunder methods.
- ``options_by_string``: how often ``options["..."]`` stands in the source.
- ``dict_str_any``: how often ``dict[str, Any]`` stands in an annotation.
- ``import_circles``: groups of modules that import each other, wherever in a file they do, also inside functions and
  for type checkers only; ``doorbells``, by name, are functions that call on what stands above them, and don't count.
- ``layer_exceptions``: imports inside functions that the layer test has to permit, doorbells aside.
- ``code_lines``: of src/lpi, without docstrings, comments, blank lines and ``data/scenes``.
- ``functions_over_60``: functions of more than 60 lines, docstrings included.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import shlex
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from lpi.evaluation.machine import environment
from lpi.storage import write_json

ROOT = Path(__file__).parents[1] / "src" / "lpi"
DOORBELLS = {
    "lpi.methods.base.Learner.learn",
    "lpi.methods.base.Learner.save_pretrained",
    "lpi.methods.base.Learner.from_pretrained",
    "lpi.search.index.SearchIndex.serve",
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def members(tree: ast.Module, name: str = "Method") -> int:
    """Names that a class defines, and its bases in the same module: methods, properties, attributes; no dunders."""
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    here = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    inherited = sum(members(tree, base.id) for base in found.bases if isinstance(base, ast.Name) and base.id in here)
    names = {node.name for node in found.body if isinstance(node, FUNCTIONS)}
    names |= {n.target.id for n in found.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    names |= {t.id for n in found.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    start = next((n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    for node in ast.walk(start) if start else ():
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            names.add(node.attr)
    return inherited + len([name for name in names if not name.startswith("__")])


def annotations(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            yield ast.unparse(node.annotation)
        elif isinstance(node, FUNCTIONS) and node.returns is not None:
            yield ast.unparse(node.returns)


def imports(name: str, tree: ast.Module, known: set[str]) -> Iterator[tuple[str, str]]:
    """Each module of the package that one imports, and the function that does so, if one does, by its whole name."""

    def visit(node: ast.AST, place: str, inside: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for found in targets(child):
                    yield found, inside
            own = isinstance(child, (*FUNCTIONS, ast.ClassDef))
            here = f"{place}.{child.name}" if own else place  # type: ignore[attr-defined]
            yield from visit(child, here, here if isinstance(child, FUNCTIONS) else inside)

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
            return
        for alias in node.names:
            deeper = f"{node.module}.{alias.name}"
            yield from (target for target in [deeper if deeper in known else node.module or ""] if target in known)

    yield from visit(tree, name, "")


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (strongly connected, two or more), by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def docstrings(tree: ast.Module) -> set[int]:
    """The lines that docstrings fill, those after attributes included."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def code_lines(text: str, tree: ast.Module) -> int:
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings(tree))


def count() -> dict[str, object]:
    files = sorted(ROOT.rglob("*.py"))
    texts = {module_name(file): file.read_text(encoding="utf-8") for file in files}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    graph: dict[str, set[str]] = {name: set() for name in trees}
    late, doorbells = set(), set()
    for name, tree in trees.items():
        for target, inside in imports(name, tree, set(trees)):
            if inside in DOORBELLS:
                doorbells.add(inside)
                continue
            if target != name and target != "lpi":  # the package itself only holds the version and lazy names
                graph[name].add(target)
            if inside and not name.startswith(("lpi.cli", "lpi.doctor")) and name != "lpi":
                late.add(f"{inside}: {target}")
    functions = [
        f"{name}.{node.name}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    counted = {name: code_lines(texts[name], trees[name]) for name in trees}
    rings = circles(graph)
    return {
        "method_members": members(trees["lpi.methods.base"]),
        "options_by_string": sum(len(re.findall(r"options\[[\"'f]", text)) for text in texts.values()),
        "dict_str_any": sum(a.count("dict[str, Any]") for tree in trees.values() for a in annotations(tree)),
        "import_circles": len(rings),
        "layer_exceptions": len(late),
        "code_lines": sum(lines for name, lines in counted.items() if not name.startswith("lpi.data.scenes")),
        "files": len(files),
        "functions_over_60": len(functions),
        "doorbells": sorted(doorbells),
        "circles": rings,
        "late_imports": sorted(late),
        "long_functions": functions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/house.json"))
    options = parser.parse_args()
    record = count()
    command = shlex.join(["python", "benchmarks/house.py", *sys.argv[1:]])
    write_json(options.results, {**record, "command": command, **environment()})
    for name, value in record.items():
        print(f"{name}: {len(value) if isinstance(value, list) else value}")


if __name__ == "__main__":
    main()
