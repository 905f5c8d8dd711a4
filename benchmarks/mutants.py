"""Plant faults in the code that figures and files depend on, one at a time, and see whether the tests notice.

    python benchmarks/mutants.py --each 20 --results results/mutants.json
    python benchmarks/mutants.py --each 2 --work FOLDER       # resumable: given again, it goes on

A fault is a comparison, sum, constant, condition or answer that is another one, drawn by the seed in a copy of the
source; the tests beside each module's name run against that copy. One that no test notices is listed with its place.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from resumable import Log, parser

ROOT = Path(__file__).parents[1]
PATIENCE = 1200.0
# processes are forked from one that has imported what takes seconds and isn't the library
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "transformers", "pytest", "hypothesis", "pyarrow"])
TESTS: dict[str, list[str]] = {
    "metrics/ranking.py": ["unit/test_ranking.py", "property/test_ranking.py"],
    "metrics/boxes.py": ["unit/test_boxes.py", "property/test_boxes.py"],
    "metrics/continual.py": ["unit/test_continual.py"],
    "metrics/statistics.py": ["unit/test_statistics.py"],
    "losses.py": ["unit/test_losses.py", "parity/test_methods_match_formulas.py"],
    "routing/base.py": ["unit/test_router_formulas.py", "unit/test_routers.py", "unit/test_lpi.py"],
    "routing/nearest.py": ["unit/test_router_formulas.py", "unit/test_routers.py", "unit/test_task_keys.py"],
    "routing/learned.py": ["unit/test_router_formulas.py", "unit/test_routers.py"],
    "routing/merged.py": ["unit/test_router_formulas.py", "unit/test_routers.py"],
    "routing/reconstruction.py": ["unit/test_router_formulas.py", "unit/test_routers.py"],
    "routing/whitened.py": ["unit/test_router_formulas.py", "unit/test_routers.py"],
    "routing/mix.py": ["unit/test_routers.py", "unit/test_lpi.py"],
    "routing/score.py": ["unit/test_routers.py", "unit/test_search_index.py"],
    "methods/checkpoint.py": ["unit/test_checkpoint.py", "unit/test_untrusted_folders.py", "unit/test_options.py"],
    "storage.py": ["unit/test_storage.py", "unit/test_checkpoint.py"],
    "reading.py": ["unit/test_reading.py", "unit/test_storage.py"],
    "data/rows.py": ["unit/test_folder.py", "unit/test_reading.py"],
    "data/coco.py": ["unit/test_coco.py", "unit/test_reading.py"],
    "data/karpathy.py": ["unit/test_karpathy.py", "unit/test_reading.py"],
    "data/folder.py": ["unit/test_folder.py", "unit/test_reading.py", "unit/test_guessed.py"],
    "data/expressions/jsonl.py": ["unit/test_expressions.py", "unit/test_reading.py"],
    "data/expressions/pickled.py": ["unit/test_expressions.py", "unit/test_reading.py"],
}
COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip


def places(tree: ast.AST) -> list[ast.AST]:
    """The nodes at which a fault can be planted; what only words a message, a type or a decorator isn't one.

    Neither is ``strict=`` of a zip, which changes nothing that can come about.
    """
    wording: set[int] = set()
    for node in ast.walk(tree):
        annotated = [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            annotated.append(node)
        annotated += getattr(node, "decorator_list", [])
        if isinstance(node, ast.keyword) and node.arg == "strict":  # what is zipped is as long in any case
            annotated.append(node.value)
        for part in annotated:
            wording |= {id(inner) for inner in ast.walk(part)} if isinstance(part, ast.AST) else set()
    return [node for node in ast.walk(tree) if id(node) not in wording and planted(node) is not None]


def planted(node: ast.AST) -> ast.AST | None:
    """The same node with a fault; ``None`` where there is none to plant."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        return ast.Compare(node.left, [COMPARED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    if isinstance(node, ast.BinOp) and type(node.op) in COUNTED and not joins(node):
        return ast.BinOp(node.left, COUNTED[type(node.op)](), node.right)
    if isinstance(node, ast.BoolOp):
        return ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return ast.Constant(node.value + 1)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return ast.Constant(not node.value)
    return None


def joins(node: ast.BinOp) -> bool:
    """Whether an operator joins parts of a path or of a text: another one would be a type error, and show nothing."""
    parts = (part for side in (node.left, node.right) for part in ast.walk(side))
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in parts
    )


class Planter(ast.NodeTransformer):
    """Puts a fault in the place of one node."""

    def __init__(self, chosen: ast.AST) -> None:
        self.chosen = chosen

    def visit(self, node: ast.AST) -> Any:
        """Take the fault, or go on looking."""
        if node is self.chosen:
            return ast.copy_location(planted(node) or node, node)
        return self.generic_visit(node)


def mutant(module: str, seed: int, number: int) -> tuple[str, str] | None:
    """The source of a module with one fault, and what it is; ``None`` where it hasn't so many places for one.

    Args:
        module: the file, in src/lpi.
        seed: decides the order in which its places are taken.
        number: of the fault.
    """
    tree = ast.parse((ROOT / "src/lpi" / module).read_text(encoding="utf-8"))
    order = places(tree)
    random.Random(f"{seed}/{module}").shuffle(order)
    if number >= len(order):
        return None
    chosen = order[number]
    before, line = ast.unparse(chosen), getattr(chosen, "lineno", 0)
    after = ast.unparse(planted(chosen) or chosen)
    source = ast.unparse(ast.fix_missing_locations(Planter(chosen).visit(tree)))
    return source, f"{module}:{line}: {before[:80]} -> {after[:80]}"


def noticed(module: str, source: str, work: Path) -> bool:
    """Whether a test fails against a copy of the library with this source."""
    copy = work / "src"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "lpi" / module).write_text(source, encoding="utf-8")
    process = FORKS.Process(target=run_tests, args=(str(copy), [str(ROOT / "tests" / name) for name in TESTS[module]]))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode != 0


def run_tests(copy: str, tests: list[str]) -> None:
    """Run tests against a copy of the source, in a process of its own; its exit code is pytest's."""
    import pytest

    assert not any(name.partition(".")[0] == "lpi" for name in sys.modules)
    path = [copy, str(ROOT / "benchmarks"), str(ROOT / "tests")]
    sys.path[:0] = path
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # for what tests start
    os.chdir(ROOT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", *tests])
    os._exit(int(code))  # whatever threads they leave


def main() -> None:
    from lpi.evaluation.machine import environment  # here: what tests a copy must not have this one
    from lpi.storage import write_json

    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    given = parser(__doc__, "mutants")
    given.add_argument("--each", type=int, default=20, help="faults a module")
    given.add_argument("--again", action="store_true", help="what no test noticed before is tried again")
    options = given.parse_args()
    log = Log(options.work / f"mutants-{options.seed}.jsonl")
    found = {(one["module"], one["number"]): one for one in log.done}
    wanted = [(module, number) for number in range(options.each) for module in TESTS]
    sound: set[str] = set()
    for module, number in wanted:
        before = found.get((module, number))
        if before is not None and (before["noticed"] or not options.again):
            continue
        made = mutant(module, options.seed, number)
        if made is None:
            continue
        source, what = made
        if module not in sound and noticed(module, (ROOT / "src/lpi" / module).read_text("utf-8"), options.work):
            raise SystemExit(f"the tests of {module} fail without any fault: nothing can be told.")
        sound.add(module)
        one = {"module": module, "number": number, "fault": what, "noticed": noticed(module, source, options.work)}
        found[module, number] = one
        log.note(one)
        print("noticed  " if one["noticed"] else "UNNOTICED", what, flush=True)
    counted = [found[key] for key in wanted if key in found]
    unnoticed = [one["fault"] for one in counted if not one["noticed"]]
    write_json(
        options.results,
        {
            "planted": len(counted),
            "unnoticed": len(unnoticed),
            "by_module": {
                module: [
                    sum(one["module"] == module for one in counted),
                    sum(one["module"] == module and not one["noticed"] for one in counted),
                ]
                for module in TESTS
            },
            "unnoticed_faults": unnoticed,
            "seed": options.seed,
            "command": "python benchmarks/mutants.py " + " ".join(sys.argv[1:]),
            **environment(),
        },
    )


if __name__ == "__main__":
    main()
