"""Write docs/results.md from results/*.json and docs/published.json, and the list of columns in docs/comparing.md.

Nothing on that page is typed by hand.

python benchmarks/results_page.py
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from asked import opening
from benchmark_tables import tables

import lpi
from lpi.backbones.loading import EMBEDDED
from lpi.evaluation.figures import column_list, markdown
from lpi.evaluation.results import COMPARE, RUN, Results, parts_in, planned_lines, table

ROOT = Path(__file__).parents[1]
PAGE, COMPARING = ROOT / "docs" / "results.md", ROOT / "docs" / "comparing.md"
FIRST = "<!-- columns: written by benchmarks/results_page.py from lpi.evaluation.figures -->"
LAST = "<!-- end of columns -->"
PUBLISHED_ORDER = ("lpi_paper", "s_prompts", "l2p", "frozen")
JOINT, REHEARSE = {"joint"}, {"replay"}
Record = dict[str, Any]


def page(results: dict[str, Record], published: Record) -> str:
    """The whole page.

    Args:
        results: the content of each file in ``results/``, by its name.
        published: the content of ``docs/published.json``.
    """
    parts = [
        "# Results\n",
        "<!-- written by benchmarks/results_page.py from results/*.json and docs/published.json: don't edit -->\n",
        "Recall, forgetting and retention in per cent or points; ± is the spread over seeds and task orders. Every "
        "table names the command, seeds, versions and machine it came from. Forgetting in the growing gallery is "
        "partly the gallery's: the frozen model's row says how much.\n",
        opening(results),
        "## Measured here\n",
    ]
    parts += [section(name, record) for name, record in sorted(results.items(), key=lambda item: _place(*item))]
    parts.append("## Published by others, and where we stand\n")
    marks = ", ".join(f"[{mark}] {meaning}" for mark, meaning in published["marks"].items())
    parts.append(f"Marks: {marks}.\n")
    parts += [published_table(one, results) for one in published["tables"]]
    return "\n".join(parts)


def _place(name: str, record: Record) -> tuple[int, str]:
    compared = record.get("comparisons") or parts_in(record)
    return (0 if compared else 1 if of_runs(record) else 2), name


def of_runs(record: Record) -> bool:
    """Whether a file is one of ``lpi run`` or ``lpi compare``."""
    return "rows" in record and "frozen" in record


def section(name: str, record: Record) -> str:
    """One results file: its tables if it holds runs, or a benchmark's own ones, and where they came from."""
    parts = {f"#### {part}\n\n": record[part] for part in parts_in(record)} or {"": record}
    bodies = [
        f"{head}{of_one(name, one)}\n{origin(name, one)}{earlier(one.get('backbone'))}".rstrip()
        for head, one in parts.items()
    ]
    return "\n\n".join([f"### {name}", *bodies]) + "\n\n"


def of_one(name: str, record: Record) -> str:
    """The tables of one comparison, one run or one benchmark."""
    if not of_runs(record):
        return tables(name, record)
    results = Results.from_json(record)
    if results.comparisons:
        body = f"{about(results)}{markdown(*table(results, COMPARE))}\n{legend(results)}"
        return body + planned(results) + ("" if results.planned else bars(results))
    return f"{about(results)}{markdown(*table(results, RUN))}"


@cache
def embedded_identity() -> str:
    """What stands for the weights of ``lpi-tiny`` as they are now."""
    return lpi.backbone(EMBEDDED).identity


def earlier(backbone: Record | None) -> str:
    """A sentence where figures are of an ``lpi-tiny`` with other weights; else nothing."""
    if backbone is None or backbone["name"] != EMBEDDED or backbone["identity"] == embedded_identity():
        return ""
    return (
        f"**Made with an earlier `{EMBEDDED}`** ({backbone['identity']}; now {embedded_identity()}), which knew "
        "captions only at the first positions: figures of other files don't compare with these."
    )


def about(results: Results) -> str:
    """What the figures are over, in a line."""
    stream, backbone = results.stream, results.backbone
    seeds = ", ".join(map(str, results.seeds))
    counts = sorted({len(row.runs) for row in results.rows.values() if row.runs})
    if len(counts) > 1:
        seeds += f" (rows of planned pairs have {counts[-1]} runs, the others {counts[0]})"
    orders = f", {results.orders} task orders" if results.orders > 1 else ""
    tasks, items = stream["tasks"], "pictures" if results.problem == "retrieval" else "expressions"
    count = sum(task["train"] for task in tasks), sum(task["test"] for task in tasks)
    return (
        f"{len(tasks)} tasks of `{stream['name']}` ({count[0]:,} training and {count[1]:,} test {items}), "
        f"backbone `{backbone['name']}`, seeds {seeds}{orders}.\n\n"
    )


def legend(results: Results) -> str:
    """How the last column is read, and which rows failed or weren't tuned."""
    lines = [
        f"`vs {results.against}`: the mean paired difference in {results.metrics.label}, ± the spread of the "
        "paired differences."
    ]
    tuned = results.tuned
    if tuned:
        trials = sorted({len(row["trials"]) for row in tuned.values()})
        own = [row for row in results.rows if row not in tuned]
        rest = f"; as the experiment has them: {', '.join(own)}" if own else ""
        lines.append(f"Settings chosen on validation data, {' or '.join(map(str, trials))} trials a row{rest}.")
    lines += [f"Row `{row}` failed: {problem}" for row, problem in results.failed.items()]
    return "\n".join(lines) + "\n"


def bars(results: Results) -> str:
    """What was asked of the best row before pairs were planned, and whether it is reached; empty without that row."""
    methods = {name: row.figures for name, row in results.rows.items()}
    best = methods.get("lpi_best")
    if best is None:
        return ""
    rivals = {
        name: row
        for name, row in methods.items()
        if not name.startswith("lpi") and name not in JOINT | REHEARSE | {"zero_shot"}
    }
    lines = []
    if rivals:
        name, rival = max(rivals.items(), key=lambda item: item[1]["final_r1"])
        ahead, spread = best["final_r1"] - rival["final_r1"], max(best["final_r1_std"], rival["final_r1_std"])
        lines.append(
            (f"ahead of `{name}`, the best rehearsal-free rival, by more than {spread:.1f}", ahead, ahead > spread)
        )
    if "dar" in methods:
        share = 100 * best["stored_numbers"] / methods["dar"]["stored_numbers"]
        lines.append(("at most 10 % of `dar`'s stored numbers", share, share <= 10))
    if "way_to_joint" in best:
        lines.append(
            (
                "85 % of the way from the frozen model to joint training",
                best["way_to_joint"],
                best["way_to_joint"] >= 85,
            )
        )
    lines.append(("forgetting better than -1 point", best["forgetting_r1"], best["forgetting_r1"] > -1))
    if "retention" in best:
        lines.append(("held-out retention of 99 %", best["retention"], best["retention"] >= 99))
    rows = [[what, f"{value:.1f}", "yes" if met else "**no**"] for what, value, met in lines]
    return "\n" + markdown(["asked of `lpi_best`", "found", "reached"], rows)


def planned(results: Results) -> str:
    """The pairs that the experiment names, with intervals; of the published regime, the paper's order beside ours."""
    lines = [f"- {line}" for line in planned_lines(results)]
    ours = {row: results.rows[row].figures["final_r1"] for row in PUBLISHED_ORDER if row in results.rows}
    if len(ours) == len(PUBLISHED_ORDER):
        here = ", ".join(f"`{row}` {ours[row]:.1f}" for row in sorted(ours, key=lambda row: -ours[row]))
        lines.append(f"- As published: {' above '.join(f'`{row}`' for row in PUBLISHED_ORDER)}. Here: {here}.")
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def origin(name: str, record: Record) -> str:
    """Command, versions and machine."""
    versions = ", ".join(f"{package} {version}" for package, version in record.get("versions", {}).items())
    machine = record.get("machine", {})
    where = ", ".join(str(part) for part in (machine.get("processor"), machine.get("accelerator")) if part)
    threads = f", {machine['threads']} threads" if machine.get("threads") else ""
    return f"From `results/{name}`: `{record.get('command', '')}`. {versions}. {where}{threads}.\n"


def published_table(one: Record, results: dict[str, Record]) -> str:
    """A table that others published, and what stands beside it here."""
    head = f"### {one['title']}\n\n{one['source']} [{one['mark']}].\n\n{markdown(one['columns'], one['rows'])}\n"
    if one.get("reproduced"):
        return f"{head}{one['reproduced']}\n"
    if one.get("file") in results:
        return f"{head}Ours: [{one['file']}](#{one['file'].replace('.', '').lower()}) above.\n"
    command = f" With the data: `{one['command']}`." if one.get("command") else ""
    return f"{head}Not reproduced yet. {one['why']}{command}\n"


def current() -> str:
    """The page as the committed files make it."""
    results = {
        file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "results").glob("*.json"))
    }
    published = json.loads((ROOT / "docs" / "published.json").read_text(encoding="utf-8"))
    return page(results, published)


def with_columns(text: str) -> str:
    """The page on comparing with its list of columns put in anew."""
    before, _, rest = text.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}\n{column_list('retrieval')}{LAST}{after}"


def main() -> None:
    PAGE.write_text(current(), encoding="utf-8")
    COMPARING.write_text(with_columns(COMPARING.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
