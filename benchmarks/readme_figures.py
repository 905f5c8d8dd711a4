"""Write the figures in README.md from results/scenes.json, between its two markers.

python benchmarks/readme_figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIRST, LAST = "<!-- figures -->", "<!-- end of figures -->"
NAMES = {
    "zero_shot": "frozen model",
    "lpi": "**LPI**, tasks inferred",
    "finetune": "full fine-tuning, task after task",
    "joint": "joint training (upper bound)",
}


def figures(record: dict[str, Any]) -> str:
    lines = [
        "| R@1 after 12 tasks, one gallery, per cent | text to image | image to text | mean | forgotten |",
        "|---|---|---|---|---|",
    ]
    for name in record["rows"]:
        row = record[name]
        mean = row.get("final_r1", row.get("r1"))
        spread = f" ± {row['final_r1_std']:.1f}" if "final_r1_std" in row else ""
        forgotten = f"{row['forgetting_fixed_gallery_r1']:+.1f}" if "forgetting_fixed_gallery_r1" in row else ""
        recall = [f"{row[direction]['r1']:.1f}" for direction in ("text_to_image", "image_to_text")]
        lines.append(f"| {NAMES[name]} | {recall[0]} | {recall[1]} | {mean:.1f}{spread} | {forgotten} |")
    lpi = record["lpi"]
    lines.append("")
    lines.append(
        f"{len(record['seeds'])} seeds; LPI learns {lpi['trainable_per_task']:,} numbers a task. With the true task "
        f"given it reaches {lpi['oracle_r1']:.1f}; the router finds it for {lpi['routing_accuracy']:.0f} % of pictures "
        "and captions. Forgotten: R@1 of the earlier tasks, last less best, against the pictures and captions of all "
        "twelve tasks; against those of the tasks seen so far, the usual way, LPI has "
        f"{lpi['forgetting_r1']:+.1f} and the frozen model, from the growing gallery alone, "
        f"{record['zero_shot']['forgetting_r1']:+.1f}. LPI keeps {lpi['retention']:.1f} % of what the frozen model "
        "finds in pictures of no task. From `results/scenes.json`, made by"
    )
    lines.append(f"`{record['command']}`.")
    return "\n".join(lines)


def updated(readme: str, record: dict[str, Any]) -> str:
    before, _, rest = readme.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}\n{figures(record)}\n{LAST}{after}"


def main() -> None:
    record = json.loads((ROOT / "results" / "scenes.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8"), record), encoding="utf-8")


if __name__ == "__main__":
    main()
