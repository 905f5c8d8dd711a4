"""The page about runs on expressions: P@k in tables, and pictures with the true and the found boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpi.errors import CheckpointError, DataError
from lpi.report.examples import picture
from lpi.report.reading import Record, expect, read_json, spread
from lpi.report.rows import follow
from lpi.report.words import count, duration, flatten, per_cent, points, section, table, text

KS = ("1", "5", "10")
HEAD = (
    "row",
    "seeds",
    "P@1",
    "P@5",
    "P@10",
    "P@1 over stages",
    "task given",
    "forgetting",
    "BWT",
    "FWT",
    "held-out kept",
    "routing",
    "learned per task",
    "stored",
    "time to learn",
)
Part = tuple[str, str, str]


def finds_boxes(folders: Sequence[Path]) -> bool:
    """Whether runs are about expressions with boxes.

    Raises:
        DataError: some are and some aren't.
    """
    kinds = {"precision" in stage for folder in folders for stage in _stages(folder)[:1]}
    if len(kinds) > 1:
        raise DataError("one report shows runs of one stream: these find boxes, and pictures too. Write two reports.")
    return kinds == {True}


def compose_grounding(folders: Sequence[Path]) -> tuple[str, list[str], str, list[Part]]:
    """Title, facts, headline and parts of the page about finished runs.

    Raises:
        CheckpointError: a run isn't finished, or a file of it is damaged.
    """
    rows: dict[str, list[Record]] = {}
    for folder in folders:
        run = _read(folder)
        rows.setdefault(run["info"]["row"], []).append(run)
    lead = next(
        (runs for runs in rows.values() if runs[0]["info"]["method"]["name"] == "lpi"), next(iter(rows.values()))
    )
    info = lead[0]["info"]
    seeds = sorted({run["info"]["seed"] for runs in rows.values() for run in runs})
    facts = [
        f"{len(info['stream']['tasks'])} tasks of {info['stream']['name']}",
        str(info["backbone"]["name"]),
        f"{len(rows)} rows" if len(rows) > 1 else f"row {info['row']}",
        ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds)),
    ]
    names = list(dict.fromkeys(run["info"]["experiment"] for runs in rows.values() for run in runs))
    parts = [
        ("results", "Results", _results(rows)),
        ("tasks", "Tasks", _tasks(rows)),
        ("examples", "Examples", _examples(lead[0])),
        ("configuration", "Configuration", _configuration(rows)),
    ]
    return ", ".join(names), facts, _headline(lead), parts


def _stages(folder: Path) -> list[Record]:
    return [read_json(path, dict) for path in sorted((folder / "stages").glob("*.json"))]


def _read(folder: Path) -> Record:
    info, stages = read_json(folder / "run.json", dict), _stages(folder)
    if not (folder / "result.json").is_file():
        raise CheckpointError(f"{folder}: the run isn't finished. Start the same command again; it goes on.")
    result = read_json(folder / "result.json", dict)
    expect(folder / "result.json", result, {"final": dict, "zero_shot": dict})
    expect(folder / "run.json", info, {"row": str, "seed": int, "stream": dict, "method": dict, "backbone": dict})
    examples = folder / "examples.json"
    return {
        "path": folder,
        "info": info,
        "stages": stages,
        "zero_shot": read_json(folder / "zero_shot.json", dict),
        "result": result,
        "examples": read_json(examples, list) if examples.is_file() else [],
    }


def _figure(runs: Sequence[Record], *path: str) -> tuple[float, float | None] | None:
    return spread(follow(run["result"], path) for run in runs)


def _headline(runs: Sequence[Record]) -> str:
    final, zero = _figure(runs, "final", "p1"), _figure(runs, "zero_shot", "p1")
    forgetting, learned = _figure(runs, "forgetting", "p1"), _figure(runs, "trainable_per_task")
    return (
        f"<p>After the last task, the object that an expression means is found at once for {per_cent(final)} of the "
        f"expressions; the frozen detector finds {per_cent(zero)}. Forgetting: {points(forgetting)} points; "
        f"{count(learned)} numbers are learned for a task.</p>"
    )


def _results(rows: dict[str, list[Record]]) -> str:
    first = next(iter(rows.values()))
    none = "–"
    body = [
        ["zero-shot", none, *(per_cent(_figure(first, "zero_shot", f"p{k}"), unit=False) for k in KS), *[none] * 10],
    ]
    for name, runs in rows.items():
        body.append(
            [
                text(name),
                str(len(runs)),
                *(per_cent(_figure(runs, "final", f"p{k}"), unit=False) for k in KS),
                per_cent(_figure(runs, "average", "p1"), unit=False),
                per_cent(_figure(runs, "oracle", "p1"), unit=False),
                points(_figure(runs, "forgetting", "p1")),
                points(_figure(runs, "bwt", "p1")),
                points(_figure(runs, "fwt", "p1")),
                per_cent(_figure(runs, "retention")),
                per_cent(_figure(runs, "routing_accuracy")),
                count(_figure(runs, "trainable_per_task")),
                count(_figure(runs, "stored_parameters")),
                duration((_figure(runs, "seconds", "train") or (None,))[0]),
            ]
        )
    lead = "Means over seeds, in per cent, after the last task; ± is the spread over seeds."
    return section("results", "Results", table(HEAD, body, caption="P@k of every row"), lead)


def _tasks(rows: dict[str, list[Record]]) -> str:
    """P@1 of every task: before anything was learned, just after it was learned, and at the end."""
    first = next(iter(rows.values()))[0]
    names = [task["name"] for task in first["info"]["stream"]["tasks"]]
    zero = first["zero_shot"]["stages"][-1]["precision"]["1"]
    head = ["task", "zero-shot"]
    columns: list[list[tuple[float, float | None] | None]] = [[(value, None) for value in zero]]
    for name, runs in rows.items():
        stages = min(len(run["stages"]) for run in runs)
        if stages == len(names):
            head.append(f"{text(name)}, when learned")
            columns.append([spread(run["stages"][i]["precision"]["1"][i] for run in runs) for i in range(len(names))])
        head.append(f"{text(name)}, at the end")
        columns.append([spread(run["stages"][-1]["precision"]["1"][i] for run in runs) for i in range(len(names))])
    body = [
        [text(name), *(per_cent(column[place], unit=False) for column in columns)] for place, name in enumerate(names)
    ]
    return section("tasks", "Tasks", table(head, body, caption="P@1 of every task"), "P@1 of each task, in per cent.")


def _examples(run: Record) -> str:
    shown = "".join(_example(run["path"], record) for record in run["examples"])
    return section(
        "examples",
        "Examples, before and after",
        shown,
        "The broken green line is the object that is meant; the orange box is the best one found, blue ones come next.",
    )


def _example(folder: Path, record: Record) -> str:
    expect(folder / "examples.json", record, {"expression": str, "task": str, "before": dict, "after": dict})
    used = record.get("used")
    sides = {"before": "the frozen detector", "after": f"prompts of {used}" if used else "no task's prompts"}
    lists = ""
    for moment, what in sides.items():
        found = record[moment]
        mark = "✓ right" if found["right"] else "wrong"
        title = f"{moment.capitalize()} <small>{text(what)}: {mark}, IoU {found['iou']:.2f}</small>"
        alt = f"{record['expression']}, {moment}: {mark}"
        lists += f"<div><h4>{title}</h4>{picture(folder, found['picture'], alt)}</div>"
    head = f'<q>{text(record["expression"])}</q> <span class="chip">{text(record["task"])}</span>'
    return f'<article class="example to-text"><h3>{head}</h3><div class="lists">{lists}</div></article>'


def _configuration(rows: dict[str, list[Record]]) -> str:
    def settings(run: Record) -> list[tuple[str, Any]]:
        return flatten({"command": run["info"].get("command"), **run["info"].get("settings", {})})

    body = "".join(
        f"<details><summary>{text(name)}</summary>"
        + table(["setting", "value"], [[text(k), text(v)] for k, v in settings(runs[0])], caption=f"settings of {name}")
        + "</details>"
        for name, runs in rows.items()
    )
    return section("configuration", "Configuration", body)
