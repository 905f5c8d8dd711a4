"""The page's sections without figures: each takes the variants and gives its HTML, in words and tables.

A section whose data a run does not have is the empty string.
"""

from collections.abc import Sequence

from lpi.evaluation.figures import REPORT, columns
from lpi.evaluation.records import summarise
from lpi.report.reading import spread
from lpi.report.variants import Variant, is_triangle
from lpi.report.words import Spread, cell, count, duration, flatten, per_cent, points, section, table, text

FROZEN = "frozen model"
TILES = {
    "retrieval": (("t2i_r1", "R@1 caption → picture"), ("i2t_r1", "R@1 picture → caption")),
    "grounding": (("p1", "P@1"), ("p5", "P@5")),
}
"""The figures of the headline's tiles."""


def headline(variant: Variant) -> str:
    """The run in words and in five tiles."""
    run = variant.first
    per_task = variant.over(lambda result: result.trainable_per_task)
    backbone = (run.info.get("backbone") or {}).get("parameters")
    train = variant.over(lambda result: None if result.seconds is None else result.seconds.train)
    evaluate = variant.over(lambda result: None if result.seconds is None else result.seconds.evaluate)
    tiles = []
    for metric, label in TILES[run.problem]:
        final, frozen = variant.figure("final", metric), variant.figure("frozen", metric)
        tiles.append((label, per_cent(final), gain(final, frozen) if run.learned else ""))
    if run.learned and variant.stages > 1:
        label = f"points of {variant.metrics.label}; 0 is none"
        tiles.append(("Forgetting", points(variant.figure("forgetting")), label))
    if run.learned and per_task and per_task[0]:
        share = f", {100 * per_task[0] / backbone:.2g}\N{NARROW NO-BREAK SPACE}% of the backbone" if backbone else ""
        tiles.append(("Learned per task", count(per_task), f"parameters{share}"))
    if run.learned and train and train[0]:
        note = f"and {duration(evaluate[0])} to evaluate" if evaluate else ""
        tiles.append(("Time to learn", duration(train[0]), note))
    shown = "".join(
        f'<div class="tile"><dt>{label}</dt><dd><b>{value}</b><span>{note}</span></dd></div>'
        for label, value, note in tiles
    )
    unfinished = ""
    if any(len(other.stages) < len(other.tasks) and is_triangle(variant.matrix()) for other in variant.runs):
        so_far = f"This run has finished {variant.stages} of {len(run.tasks)} tasks; all figures are as of there."
        unfinished = f'<p class="notice">{so_far}</p>'
    return f'{unfinished}<p class="words">{in_words(variant)}</p><dl class="tiles">{shown}</dl>'


def in_words(variant: Variant) -> str:
    """What was found, in a sentence or two."""
    run = variant.first
    found = [plain(variant.figure("final", metric)) for metric, _ in TILES[run.problem]]
    before = [variant.figure("frozen", metric) for metric, _ in TILES[run.problem]]
    seen = len(variant.matrix()[-1])
    of = "" if run.learned else f" of {seen} task{'s' if seen > 1 else ''}"
    if run.problem == "retrieval":
        who = "Without learning anything, the frozen backbone puts" if not run.learned else f"{learned(variant)} puts"
        was = [f" (frozen model: {plain(zero)})" if zero and run.learned else "" for zero in before]
        words = (
            f"{who} the right picture first for <strong>{found[0]}</strong> of the captions{was[0]} and the right "
            f"caption first for <strong>{found[1]}</strong> of the pictures{of}{was[1]}."
        )
    else:
        who = "Without learning anything, the frozen detector finds" if not run.learned else f"{learned(variant)} finds"
        was = [f" (frozen model: {plain(zero)})" if zero and run.learned else "" for zero in before]
        words = (
            f"{who} the object that an expression means with its best box for <strong>{found[0]}</strong> of the "
            f"expressions{of}{was[0]}, and with one of its five best for "
            f"<strong>{found[1]}</strong>{was[1]}."
        )
    return f"{words} {forgot_in_words(variant)}" if run.learned else words


def learned(variant: Variant) -> str:
    """Who learned what, as the beginning of a sentence."""
    seen = len(variant.matrix()[-1])
    how = (
        ", learned one after another"
        if variant.stages > 1
        else ""
        if is_triangle(variant.matrix())
        else ", learned at once"
    )
    return f"After {seen} task{'s' if seen > 1 else ''}{how}, <strong>{text(variant.label)}</strong>"


def plain(figure: Spread | None) -> str:
    """Per cent without its spread, for a sentence."""
    return per_cent(figure and (figure[0], None))


def gain(final: Spread | None, frozen: Spread | None) -> str:
    """How a final figure stands to the frozen model's."""
    if not final or not frozen:
        return ""
    times = f", ×\N{NO-BREAK SPACE}{final[0] / frozen[0]:.2f}" if frozen[0] > 0 and final != frozen else ""
    return f"frozen model {plain(frozen)}{times}"


def forgot_in_words(variant: Variant) -> str:
    """One sentence on forgetting and on what is left of the backbone."""
    forgetting, kept = variant.figure("forgetting"), variant.over(lambda result: result.retention)
    words = ""
    if forgetting and variant.stages > 1 and is_triangle(variant.matrix()):
        lost = 100 * forgetting[0]
        if round(lost, 1) >= 0:
            words = "Earlier tasks lost nothing on the way."
        else:
            words = f"On the way, earlier tasks lost {abs(lost):.1f} points from their best."
    if kept:
        words += f" On held-out data it keeps {plain(kept)} of what the frozen backbone could do."
    return words


def result_table(variants: Sequence[Variant], lead: Variant) -> str:
    """Some variants' figures; the frozen model first, where the leading variant is among them."""
    shown = [figure for column in columns(lead.first.problem, REPORT) for figure in column.figures]
    body = []
    frozen = lead.first.frozen_stages
    if frozen and lead in variants and all(one.first.method != "zero_shot" for one in variants):
        alone = summarise(frozen, None, lead.metrics)
        body.append(
            [
                FROZEN,
                "",
                *(
                    cell(figure, spread([figure.of(alone)])) if figure.name.startswith("final_") else ""
                    for figure in shown
                ),
            ]
        )
    for variant in variants:
        body.append(
            [
                text(variant.label),
                str(len(variant.runs)),
                *(cell(figure, variant.over(figure.of)) for figure in shown),
            ]
        )
    head = ["row", "seeds", *(figure.head for figure in shown)]
    # a column that nobody has a figure in only takes room
    kept = [i for i in range(len(head)) if any(cells[i] and 'class="none"' not in cells[i] for cells in body)]
    body = [[cells[i] for i in kept] for cells in body]
    told = len(variants) > 1 and lead in variants
    strong = len(body) - len(variants) + list(variants).index(lead) if told else None
    meanings = "".join(
        f"<dt>{text(figure.head)}</dt><dd>{text(figure.explanation)}</dd>"
        for figure in shown
        if figure.explanation and figure.head in {head[i] for i in kept}
    )
    caption = "Results of each row, in per cent and points"
    return (
        table([head[i] for i in kept], body, caption=caption, strong=strong)
        + f"<details><summary>What the columns mean</summary><dl>{meanings}</dl></details>"
    )


def results(variants: Sequence[Variant], lead: Variant) -> str:
    """The table of all variants; those that aren't finished have one of their own."""
    whole = [one for one in variants if one.first.finished]
    others = [one for one in variants if not one.first.finished]
    body = result_table(whole, lead) if whole else ""
    if others:
        body += f"<h3>Not finished</h3>{result_table(others, lead)}"
    seeds = " ± is the sample standard deviation over seeds." if any(len(one.runs) > 1 for one in variants) else ""
    how = (
        "every query searches the pictures or captions of <em>all</em> tasks together. "
        if lead.first.problem == "retrieval"
        else "every expression finds its task by itself. "
    )
    return section(
        "results",
        "Results",
        body,
        f"After the last task, mean over tasks, in per cent; {how}Forgetting, BWT and FWT are in points.{seeds}",
    )


def costs(lead: Variant) -> str:
    """Sizes, times and parameters, stage by stage."""
    run = lead.first
    tasks = run.info["stream"]["tasks"]
    further = next((name for name in ("captions", "pictures") if name in tasks[0]), "captions")
    head = ["task", "to learn from", "to test on", further, "learned", "stored so far", "train", "evaluate", "pairs/s"]
    body = []
    for number, task in enumerate(tasks):
        stage = run.stages[number] if number < len(run.stages) and is_triangle(lead.matrix()) else None
        seconds, kept_numbers = (stage.seconds, stage.parameters) if stage else (None, None)
        body.append(
            [
                f"{number + 1} {text(task['name'])}",
                *[count(task.get(name)) for name in ("train", "test", further)],
                count(kept_numbers.trainable if kept_numbers else None),
                count(kept_numbers.stored if kept_numbers else None),
                duration(seconds.train if seconds else None),
                duration(seconds.evaluate if seconds else None),
                count(stage.pairs_per_second if stage else None),
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


def configuration(variants: Sequence[Variant]) -> str:
    """What decided each row, to unfold."""
    body = ""
    for row in variants:
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
