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
    "lpi_best": "**LPI**, `preset=best` *",
    "closed": "its closed form alone, without steps *",
    "lpi_small": "**LPI**, less than a tenth of DAR's size *",
    "dar_routed": "DAR *",
    "frozen_routed": "frozen model *",
    "joint": "joint training: all tasks at once",
    "replay": "replay of kept pairs",
    "finetune": "full fine-tuning, task after task",
    "lpi": "LPI as published",
    "zero_shot": "frozen model",
}
ON_DOMAINS = {
    "lpi_best": "LPI in a tenth of DAR's size",
    "dar": "DAR",
    "joint": "joint training",
    "zero_shot": "frozen model",
    "finetune": "fine-tuning",
    "lpi": "LPI as published",
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


def comparison(results: Results, without: Results, domains: Results) -> str:
    lines = [
        "| R@1 after 4 tasks, one gallery | R@1 | learned | without sources | forgotten | kept | stored numbers |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {name: results.rows[name].figures for name in COMPARED if name in results.rows}
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["final_r1"]):
        other = without.rows[name].figures["final_r1"] if name in without.rows else None
        forgotten = f"{row['forgetting_fixed_r1']:+.1f}" if "forgetting_fixed_r1" in row else ""
        cells = (
            f"{row['final_r1']:.1f} ± {row['final_r1_std']:.1f}",
            f"{row['gain_by_learning']:+.1f}",
            "" if other is None else f"{other:.1f}",
            forgotten,
            f"{row['retention_everything']:.0f}",
            f"{row['stored_numbers']:,}",
        )
        lines.append(f"| {COMPARED[name]} | {' | '.join(cells)} |")
    counted = sorted({len(row.runs) for row in results.rows.values()})
    lines.append("")
    lines.append(
        "\\* under one router and one score. *Learned*: above the frozen model with the same router and score. "
        "*Without sources*: R@1 where no collection has borders and words of its own. *Forgotten*: last less best, in "
        "one gallery of all tasks. *Kept*: per cent of what the frozen model finds in pictures of no task, searched "
        f"among everything. {' or '.join(map(str, counted))} runs, each with scenes of its own, every method's rate "
        f"chosen with the same budget on validation pictures. {on_sources(without)} All {len(results.rows)} rows, "
        "intervals of the planned differences and what it cost: [docs/results.md](docs/results.md). From "
        "`results/compare_scenes.json`, made by"
    )
    lines.append(f"`{results.command}`. {earlier(results.backbone)}".rstrip())
    lines.append(f"\n{on_domains(domains)}")
    return "\n".join(lines)


def on_sources(without: Results) -> str:
    """Whether the best row is above the frozen model without sources, in a sentence."""
    best = without.rows["lpi_best"].figures
    gain, routed = best["gain_by_learning"], best["routing_accuracy_vision"]
    fewest = min(len(row.runs) for row in without.rows.values())
    where = "above" if gain > 0 else "below"
    return (
        f"Without sources ({fewest} run where none was planned) `preset=best` is {abs(gain):.1f} points {where} the "
        f"frozen model; {routed:.0f} % of the pictures are sent to their own task (told the task, it has "
        f"{best['oracle_r1']:.1f})."
    )


def on_domains(results: Results) -> str:
    """The comparison on real pictures in a sentence."""
    rows, tasks = {name: row.figures for name, row in results.rows.items()}, results.stream["tasks"]
    found = ", ".join(
        f"{words} {rows[row]['final_r1']:.1f} ± {rows[row]['final_r1_std']:.1f}" for row, words in ON_DOMAINS.items()
    )
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


def updated(
    readme: str, costs: dict[str, Any], scenes: Results, compared: Results, without: Results, domains: Results
) -> str:
    readme = between(readme, FIRST_CHECKPOINTS, LAST_CHECKPOINTS, checkpoints(costs))
    readme = between(readme, FIRST, LAST, figures(scenes))
    return between(readme, FIRST_COMPARED, LAST_COMPARED, comparison(compared, without, domains))


def records() -> tuple[dict[str, Any], Results, Results, Results, Results]:
    """The results that the figures are from, as :func:`updated` takes them."""

    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
        return found

    compared = read("compare_scenes")
    runs = (read("scenes"), compared["with_sources"], compared["without_sources"], read("compare_domains"))
    scenes, sources, without, domains = map(Results.from_json, runs)
    return read("checkpoints"), scenes, sources, without, domains


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8"), *records()), encoding="utf-8")


if __name__ == "__main__":
    main()
