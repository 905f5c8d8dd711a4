"""Write the figures in README.md from the results, between their markers.

python benchmarks/readme_figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results_page import earlier

from lpi.evaluation.results import Results

ROOT = Path(__file__).parents[1]
FIRST, LAST = "<!-- figures -->", "<!-- end of figures -->"
FIRST_COMPARED, LAST_COMPARED = "<!-- comparison -->", "<!-- end of comparison -->"
FIRST_CHECKPOINTS, LAST_CHECKPOINTS = "<!-- checkpoints -->", "<!-- end of checkpoints -->"
KNOWN = {  # what it knows, languages, and what to fetch
    "lpi-tiny": ("drawn scenes", "English, 210 words", "nothing: comes along"),
    "openai/clip-vit-base-patch16": ("photographs, drawings", "English", "0.6 GB"),
    "google/siglip-base-patch16-224": ("photographs, drawings", "English", "0.8 GB"),
    "google/siglip2-base-patch16-224": ("photographs, drawings", "many", "1.5 GB"),
}
NAMES = {
    "frozen": "frozen model",
    "lpi": "**LPI**, tasks inferred",
    "finetune": "full fine-tuning, task after task",
    "joint": "joint training: all tasks at once",
}
COMPARED = {
    "lpi_best_large": "**LPI**, `preset=best` without its closed form",
    "lpi_best": "**LPI**, a tenth of DAR's size",
    "replay": "replay of kept pairs",
    "dar": "DAR: a LoRA expert a task",
    "finetune": "full fine-tuning, task after task",
    "ewc": "EWC",
    "c_clip": "C-CLIP",
    "zero_shot": "frozen model",
    "lpi": "LPI as published",
    "joint": "joint training: all tasks at once",
}


def figures(results: Results) -> str:
    lines = [
        "| R@1 after 12 tasks, one gallery, per cent | text to image | image to text | mean "
        "| forgotten, full gallery |",
        "|---|---|---|---|---|",
    ]
    rows = {"frozen": results.frozen, **{name: row.figures for name, row in results.rows.items()}}
    for name, row in rows.items():
        spread = f" ± {row['final_r1_std']:.1f}" if "final_r1_std" in row else ""
        forgotten = f"{row['forgetting_fixed_r1']:+.1f}" if "forgetting_fixed_r1" in row else ""
        recall = [f"{row[f'final_{direction}_r1']:.1f}" for direction in ("t2i", "i2t")]
        lines.append(f"| {NAMES[name]} | {recall[0]} | {recall[1]} | {row['final_r1']:.1f}{spread} | {forgotten} |")
    lpi = rows["lpi"]
    lines.append("")
    lines.append(
        f"{len(results.seeds)} seeds; LPI learns {lpi['trainable_per_task']:,} numbers a task. With the true task "
        f"given it reaches {lpi['oracle_r1']:.1f} by cosines alone; the router finds it for "
        f"{lpi['routing_accuracy']:.0f} % of pictures and captions. Forgotten: R@1 of the earlier tasks, last less "
        "best, against the pictures and captions of all "
        "twelve tasks; against those of the tasks seen so far, the usual way, LPI has "
        f"{lpi['forgetting_r1']:+.1f} and the frozen model, from the growing gallery alone, "
        f"{results.frozen['forgetting_r1']:+.1f}. LPI's score counts whether query and candidate belong together "
        f"by their routing: without that it has {lpi['cosine_r1']:.1f}, and the frozen model with it "
        f"{lpi['frozen_with_routing_r1']:.1f}. LPI keeps {lpi['retention']:.1f} % of what the frozen model "
        "finds in pictures of no task. From `results/scenes.json`, made by"
    )
    lines.append(f"`{results.command}`.")
    return "\n".join(lines)


def comparison(results: Results, domains: Results) -> str:
    lines = [
        "| R@1 after 4 tasks, one gallery, per cent | both directions | forgotten, growing gallery | held out "
        "| stored numbers |",
        "|---|---|---|---|---|",
    ]
    methods = {name: results.rows[name].figures for name in COMPARED if name in results.rows}
    for name, row in sorted(methods.items(), key=lambda item: -item[1]["final_r1"]):
        recall = f"{row['final_r1']:.1f} ± {row['final_r1_std']:.1f}"
        lines.append(
            f"| {COMPARED[name]} | {recall} | {row['forgetting_r1']:+.1f} | {row['retention']:.0f} % | "
            f"{row['stored_numbers']:,} |"
        )
    best = methods["lpi_best"]
    seeds, orders = len(results.seeds), results.orders
    lines.append("")
    lines.append(
        f"{seeds} seeds, {orders} task order{'s' if orders > 1 else ''}, every method's rate chosen with the same "
        "budget on validation pictures. The two upper rows of LPI count in their score whether query and candidate "
        f"belong together by their routing: without that the smaller has {best['cosine_r1']:.1f}, and the frozen "
        f"model with it {best['frozen_with_routing_r1']:.1f}. All {len(results.rows)} rows, what they cost and "
        "what they differ in: [docs/results.md](docs/results.md). From `results/compare_scenes.json`, made by"
    )
    lines.append(f"`{results.command}`. {earlier(results.backbone)}".rstrip())
    lines.append(f"\n{on_domains(domains)}")
    return "\n".join(lines)


def on_domains(results: Results) -> str:
    """The comparison on real pictures in a sentence."""
    rows, tasks = {name: row.figures for name, row in results.rows.items()}, results.stream["tasks"]
    shown = ("lpi_best", "dar", "joint", "zero_shot", "finetune", "lpi")
    names = {
        **COMPARED,
        "lpi_best": "LPI in a tenth of DAR's size",
        "dar": "DAR",
        "joint": "joint training",
        "finetune": "fine-tuning",
    }
    found = ", ".join(f"{names[row]} {rows[row]['final_r1']:.1f} ± {rows[row]['final_r1_std']:.1f}" for row in shown)
    return (
        f"On photographs, stamps, clip art and four kinds of emoji, {tasks[0]['train']} training pictures each, with a "
        f"real encoder: {found} (`results/compare_domains.json`, {len(rows)} rows)."
    )


def checkpoints(record: dict[str, Any]) -> str:
    threads = record["machine"]["threads"]
    heads = ("`--model`", "what it knows", "languages", "to fetch", "memory", f"pictures a second, {threads} cores")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, about in KNOWN.items():
        cost = record["checkpoints"][name]
        cells = (f"`{name}`", *about, f"{cost['peak_mb'] / 1000:.1f} GB", f"{cost['pictures_per_second']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between(text: str, first: str, last: str, content: str) -> str:
    """A text with what stands between two markers put in anew."""
    before, _, rest = text.partition(first)
    _, _, after = rest.partition(last)
    return f"{before}{first}\n{content}\n{last}{after}"


def updated(readme: str, costs: dict[str, Any], scenes: Results, compared: Results, domains: Results) -> str:
    readme = between(readme, FIRST_CHECKPOINTS, LAST_CHECKPOINTS, checkpoints(costs))
    readme = between(readme, FIRST, LAST, figures(scenes))
    return between(readme, FIRST_COMPARED, LAST_COMPARED, comparison(compared, domains))


def records() -> tuple[dict[str, Any], Results, Results, Results]:
    """The results that the figures are from, as :func:`updated` takes them."""
    names = ("checkpoints", "scenes", "compare_scenes", "compare_domains")
    costs, *runs = [json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    scenes, compared, domains = map(Results.from_json, runs)
    return costs, scenes, compared, domains


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8"), *records()), encoding="utf-8")


if __name__ == "__main__":
    main()
