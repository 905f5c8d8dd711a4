"""The page's sections without figures: each takes the rows and gives its HTML, in words and tables.

A section whose data a run does not have is the empty string.
"""

from collections.abc import Sequence

from lpi.report.reading import spread
from lpi.report.rows import Row, follow, is_triangle
from lpi.report.words import (
    count,
    duration,
    flatten,
    per_cent,
    points,
    section,
    table,
    text,
)

ZERO = "zero-shot"
HEAD = (
    "row",
    "seeds",
    "R@1 caption →\N{NO-BREAK SPACE}picture",
    "R@1 picture →\N{NO-BREAK SPACE}caption",
    "R@1",
    "R@5",
    "R@10",
    "R@1 over stages",
    "forgetting",
    "BWT",
    "FWT",
    "held-out kept",
    "routing",
    "oracle R@1",
    "learned per task",
    "stored",
    "time to learn",
)
RECALLS = (("text_to_image", "1"), ("image_to_text", "1"), ("r1",), ("r5",), ("r10",))


def seconds_of(row: Row, what: str) -> float | None:
    """Seconds over all stages of one kind, ``train`` or ``evaluate``, mean over seeds."""
    totals = []
    for run in row.runs:
        known = [value for stage in run.stages if (value := follow(stage, ("seconds", what))) is not None]
        totals.append(sum(known) if known else None)
    found = spread(totals)
    return found[0] if found else None


def headline(row: Row) -> str:
    """The run in words and in five tiles."""
    run = row.first
    to_image, to_text = (row.figure("final", d, "1") for d in ("text_to_image", "image_to_text"))
    zero_image, zero_text = (row.figure("zero_shot", d, "1") for d in ("text_to_image", "image_to_text"))
    forgetting = row.figure("forgetting", "r1")
    per_task = row.figure("trainable_per_task") or spread([follow(run.stages[-1], ("parameters", "trainable"))])
    backbone = follow(run.info.get("backbone"), ("parameters",))
    train = seconds_of(row, "train")
    seen = len(row.matrix()[-1])
    tasks = f"{seen} task{'s' if seen > 1 else ''}"
    if not run.learned:
        words = (
            f"Without learning anything, the frozen backbone puts the right picture first for "
            f"<strong>{plain(to_image)}</strong> of the captions and the right caption first for "
            f"<strong>{plain(to_text)}</strong> of the pictures of {tasks}."
        )
    else:
        was = [f" (zero-shot: {plain(zero)})" if zero else "" for zero in (zero_image, zero_text)]
        how = (
            ", learned one after another"
            if row.stages > 1
            else ""
            if is_triangle(row.matrix())
            else ", learned at once"
        )
        words = (
            f"After {tasks}{how}, <strong>{text(row.label)}</strong> puts the right picture first for "
            f"<strong>{plain(to_image)}</strong> of the captions{was[0]} and the right caption first for "
            f"<strong>{plain(to_text)}</strong> of the pictures{was[1]}. {forgot_in_words(row)}"
        )
    share = (
        f"{100 * per_task[0] / backbone:.2g}\N{NARROW NO-BREAK SPACE}% of the backbone" if per_task and backbone else ""
    )
    was_image, was_text = (gain(to_image, zero_image), gain(to_text, zero_text)) if run.learned else ("", "")
    tiles = [
        ("R@1 caption → picture", per_cent(to_image), was_image),
        ("R@1 picture → caption", per_cent(to_text), was_text),
    ]
    if run.learned and row.stages > 1:
        tiles.append(("Forgetting", points(forgetting), "points of R@1; 0 is none"))
    if run.learned and per_task and per_task[0]:
        tiles.append(("Learned per task", count(per_task), f"parameters, {share}" if share else "parameters"))
    if run.learned and train:
        evaluate = seconds_of(row, "evaluate")
        tiles.append(("Time to learn", duration(train), f"and {duration(evaluate)} to evaluate" if evaluate else ""))
    shown = "".join(
        f'<div class="tile"><dt>{label}</dt><dd><b>{value}</b><span>{note}</span></dd></div>'
        for label, value, note in tiles
    )
    unfinished = ""
    if any(len(other.stages) < len(other.tasks) and is_triangle(row.matrix()) for other in row.runs):
        so_far = f"This run has finished {row.stages} of {len(run.tasks)} tasks; all figures are as of there."
        unfinished = f'<p class="notice">{so_far}</p>'
    return f'{unfinished}<p class="words">{words}</p><dl class="tiles">{shown}</dl>'


def plain(figure: tuple[float, float | None] | None) -> str:
    """Per cent without its spread, for a sentence."""
    return per_cent(figure and (figure[0], None))


def gain(final: tuple[float, float | None] | None, zero: tuple[float, float | None] | None) -> str:
    """How a final figure stands to the zero-shot one."""
    if not final or not zero:
        return ""
    times = f", ×\N{NO-BREAK SPACE}{final[0] / zero[0]:.2f}" if zero[0] > 0 and final != zero else ""
    return f"zero-shot {plain(zero)}{times}"


def forgot_in_words(row: Row) -> str:
    """One sentence on forgetting and on what is left of the backbone."""
    forgetting, kept = row.figure("forgetting", "r1"), row.figure("retention")
    words = ""
    if forgetting and row.stages > 1 and is_triangle(row.matrix()):
        lost = 100 * forgetting[0]
        if round(lost, 1) >= 0:
            words = "Earlier tasks lost nothing on the way."
        else:
            words = f"On the way, earlier tasks lost {abs(lost):.1f} points from their best."
    if kept:
        words += f" On held-out data it keeps {plain(kept)} of what the frozen backbone could do."
    return words


def row_table(rows: Sequence[Row], lead: Row) -> str:
    """Every row's figures, the frozen backbone first."""
    body = []
    if all(row.first.method != "zero_shot" for row in rows) and lead.figure("zero_shot", "r1"):
        of_zero = [lead.figure("zero_shot", *path) for path in RECALLS]
        body.append(
            [
                f"{ZERO} <small>frozen backbone</small>",
                "",
                *[per_cent(f and (f[0], None), unit=False) for f in of_zero],
                *[""] * 10,
            ]
        )
    for row in rows:
        routed = row.figure("routing_accuracy", "both")
        body.append(
            [
                text(row.label),
                str(len(row.runs)),
                *[per_cent(row.figure("final", *path), unit=False) for path in RECALLS],
                per_cent(row.figure("average", "r1"), unit=False),
                *[points(row.figure(name, "r1")) for name in ("forgetting", "bwt", "fwt")],
                per_cent(row.figure("retention"), unit=False),
                per_cent(routed, unit=False),
                per_cent(row.figure("oracle", "r1"), unit=False),
                count(row.figure("trainable_per_task")),
                count(row.figure("stored_parameters")),
                duration(seconds_of(row, "train")),
            ]
        )
    # A column that nobody has a figure in only takes room.
    kept = [i for i in range(len(HEAD)) if any(cells[i] and 'class="none"' not in cells[i] for cells in body)]
    body = [[cells[i] for i in kept] for cells in body]
    strong = len(body) - len(rows) + list(rows).index(lead) if len(rows) > 1 else None
    caption = "Results of each row, in per cent and points"
    return table([HEAD[i] for i in kept], body, caption=caption, strong=strong)


def results(rows: Sequence[Row], lead: Row) -> str:
    """The table of rows."""
    seeds = " ± is the sample standard deviation over seeds." if any(len(row.runs) > 1 for row in rows) else ""
    return section(
        "results",
        "Results",
        row_table(rows, lead),
        "After the last task, mean over tasks, in per cent; every query searches the pictures or captions of "
        f"<em>all</em> tasks together. Forgetting, BWT and FWT are in points.{seeds}",
    )


def costs(lead: Row) -> str:
    """Sizes, times and parameters, stage by stage."""
    run = lead.first
    head = [
        "task",
        "training pictures",
        "test pictures",
        "captions",
        "learned",
        "stored so far",
        "train",
        "evaluate",
        "pairs/s",
    ]
    body = []
    for number, task in enumerate(run.info["stream"]["tasks"]):
        stage = run.stages[number] if number < len(run.stages) and is_triangle(lead.matrix()) else {}
        train, evaluate = (follow(stage, ("seconds", what)) for what in ("train", "evaluate"))
        body.append(
            [
                f"{number + 1} {text(task['name'])}",
                *[count(follow(task, (name,))) for name in ("train", "test", "captions")],
                *[count(follow(stage, ("parameters", name))) for name in ("trainable", "stored")],
                duration(train),
                duration(evaluate),
                count(follow(stage, ("pairs_per_second",))),
            ]
        )
    kept = [i for i in range(len(head)) if any('class="none"' not in cells[i] for cells in body)]
    return section(
        "costs",
        "Data, parameters and time",
        table(
            [head[i] for i in kept], [[cells[i] for i in kept] for cells in body], caption="Data and cost of each task"
        ),
        f"<strong>{text(lead.label)}</strong>, seed {run.seed}.",
    )


def configuration(rows: Sequence[Row]) -> str:
    """What decided each row, to unfold."""
    body = ""
    for row in rows:
        info = row.first.info
        command = f"<pre><code>{text(info['command'])}</code></pre>" if info.get("command") else ""
        lists = ""
        for title, name in (
            ("Method", "method"), ("Settings", "settings"), ("Backbone", "backbone"), ("Stream", "stream"),
            ("Versions", "versions"), ("Machine", "machine"),
        ):  # fmt: skip
            record = info.get(name)
            if isinstance(record, dict) and record:
                record = {key: value for key, value in record.items() if key != "tasks"}
                pairs = "".join(f"<tr><th scope=row>{text(k)}</th><td>{text(v)}</td></tr>" for k, v in flatten(record))
                lists += f"<div><h3>{title}</h3><table class=plain>{pairs}</table></div>"
        seeds = ("seeds " if len(row.runs) > 1 else "seed ") + ", ".join(str(run.seed) for run in row.runs)
        body += (
            f"<details><summary>{text(row.label)} <small>{seeds}</small></summary>"
            f'{command}<div class="settings">{lists}</div></details>'
        )
    return section("configuration", "Configuration", body, "Everything that decides a result, as it was resolved.")
