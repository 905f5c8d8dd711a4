"""The page's sections with figures: each takes the rows, gives its HTML, and adds what it drew to the gallery.

A section whose data a run does not have is the empty string.
"""

from collections.abc import Sequence

from lpi.report import plots
from lpi.report.canvas import Plot
from lpi.report.plots import Heat, Line
from lpi.report.reading import RunFolder
from lpi.report.variants import Variant, follow, is_triangle
from lpi.report.words import figure, grid_table, per_cent, section, text

Gallery = list[Plot]

FROZEN = "frozen model"
TOWERS = (
    ("vision", "Pictures (vision tower)"),
    ("text", "Captions (text tower)"),
    ("both", "Pictures and expressions together"),
)
GROWS = (
    " Every stage adds a task <em>and</em> its pictures to search among, so a falling curve may still be a gain over "
    "the frozen model."
)
GALLERY = " A part of the loss is the gallery, which grows with every task, for every row alike."


def learning(variants: Sequence[Variant], lead: Variant, gallery: Gallery) -> str:
    """Curves over stages: all rows against the frozen model, and the leading row by direction."""
    longest = max(row.stages for row in variants)
    lines: list[Line] = []
    flat: list[Line] = []
    for row in variants:
        curve = row.curve()
        if not is_triangle(row.matrix()):  # joint training has one figure for all stages
            flat.append(Line(row.label, range(1, longest + 1), [curve[-1][0]] * longest, reference=True))
        else:
            means, spreads = [m for m, _ in curve], [s for _, s in curve]
            line = Line(row.label, range(1, len(curve) + 1), means, spreads, reference=not row.first.learned)
            (lines if row.first.learned else flat).append(line)
    zero = lead.frozen_curve() or next((row.frozen_curve() for row in variants if row.frozen_curve()), [])
    if zero and all(row.first.learned for row in variants):
        lines.append(Line(FROZEN, range(1, len(zero) + 1), zero, reference=True))
    lines += flat
    if longest < 2 or not any(len(line.y) > 1 for line in lines):
        return ""
    one_order = len({row.first.tasks for row in variants}) == 1
    ticks = lead.first.tasks[:longest] if one_order and longest <= 24 else ()
    x_label = "after learning …" if ticks else "tasks learned"
    plot = plots.curves(
        "learning-curves", lines, x_label=x_label, y_label=f"{lead.metrics.label}, %, mean over tasks seen", ticks=ticks
    )
    gallery.append(plot)
    stages = [f"{t + 1}" for t in range(longest)]
    values = [[*line.y, *[None] * (longest - len(line.y))] for line in lines]
    ends = ", ".join(f"{line.label} ends at {100 * line.y[-1]:.1f} per cent" for line in lines)
    drawn = figure(
        plot,
        alt=f"Line chart of mean {lead.metrics.label} over the tasks seen, after each of {longest} stages: {ends}.",
        caption=f"Mean {lead.metrics.label} over the tasks seen so far{both(lead)}."
        f"{GROWS if has_directions(lead) else ''}",
        numbers=grid_table(
            "row", stages, [line.label for line in lines], values, caption=f"{lead.metrics.label} by stage", scale=100
        ),
    )
    body = f'<div class="pair">{drawn}{by_direction(lead, ticks, x_label, gallery)}</div>'
    return section("curves", "Learning, stage by stage", body)


def by_direction(row: Variant, ticks: Sequence[str], x_label: str, gallery: Gallery) -> str:
    """The two directions of one row and what the frozen model gives in each."""
    if not has_directions(row) or not row.first.learned or not is_triangle(row.matrix()) or row.stages < 2:
        return ""
    lines: list[Line] = []
    zeros: list[Line] = []
    for metric, label in (("t2i_r1", "caption → picture"), ("i2t_r1", "picture → caption")):
        curve = row.curve(metric)
        x = range(1, len(curve) + 1)
        lines.append(Line(label, x, [m for m, _ in curve], [s for _, s in curve]))
        zero = [sum(r) / len(r) for r in row.frozen_matrix(metric)]
        if zero:
            label = "" if zeros else f"{FROZEN} (dashed)"
            zeros.append(Line(label, range(1, len(zero) + 1), zero, reference=True, like=len(lines) - 1))
    names = [line.label for line in lines]
    lines += zeros
    plot = plots.curves(
        "directions", lines, x_label=x_label, y_label=f"{row.metrics.label}, %, mean over tasks seen", ticks=ticks
    )
    gallery.append(plot)
    stages = [f"{t + 1}" for t in range(row.stages)]
    return figure(
        plot,
        alt=f"Line chart of recall at 1 of {row.label} in both directions over {row.stages} stages.",
        caption=f"The two directions of <strong>{text(row.label)}</strong> and what the frozen model gives in each.",
        numbers=grid_table(
            "direction",
            stages,
            [*names, *[f"{FROZEN}, {name}" for name in names]][: len(lines)],
            [list(line.y) for line in lines],
            caption="R@1",
            scale=100,
        ),
    )


def has_directions(row: Variant) -> bool:
    """Whether queries go both ways, from captions to pictures and back."""
    return row.first.problem == "retrieval"


def both(row: Variant) -> str:
    """Words for what is a mean of both directions."""
    return ", mean of both directions" if has_directions(row) else ""


def task_maps(variants: Sequence[Variant], lead: Variant, gallery: Gallery) -> str:
    """The stage x task heat map of every row that learned; the leading row's is open."""
    drawn = [(row, stage_by_task(row, gallery)) for row in [lead, *[row for row in variants if row is not lead]]]
    body = ""
    for row, html in drawn:
        body += html if row is lead else f"<details><summary>{text(row.label)}</summary>{html}</details>"
    return section(
        "tasks",
        "Every task after every stage",
        body,
        "Read a column downwards: what one task's figure becomes while later tasks are learned.",
    )


def stage_by_task(row: Variant, gallery: Gallery) -> str:
    """One row's heat map, with the frozen model's figures below."""
    matrix, tasks = row.matrix(), row.first.tasks
    columns = tasks[: max(len(r) for r in matrix)]
    values: list[list[float | None]] = [[*r, *[None] * (len(columns) - len(r))] for r in matrix]
    names = [f"{t + 1} {tasks[t]}" for t in range(len(matrix))] if is_triangle(matrix) else ["all at once"]
    zero = row.frozen_matrix()
    gap = None
    if zero and row.first.learned and len(zero[-1]) == len(columns):
        gap = len(values)
        values.append([*zero[-1]])
        names.append(FROZEN)
    heat = Heat(
        values,
        names,
        columns,
        x_label=f"{row.metrics.label} (%) of task",
        y_label="after learning",
        low=floor(values),
        gap_before=gap,
    )
    plot = plots.heat_map(f"tasks-{slug(row.label)}", heat)
    gallery.append(plot)
    seeds = f", mean of {len(row.runs)} seeds" if len(row.runs) > 1 else ""
    return figure(
        plot,
        alt=f"Heat map of {row.metrics.label} of {row.label}, rows are stages, columns tasks. The numbers follow.",
        caption=f"{row.metrics.label} of <strong>{text(row.label)}</strong> in per cent{both(row)}{seeds}; "
        "the more a cell stands out, the higher its figure."
        + (" Last line: the frozen model on the same test data." if gap else ""),
        numbers=grid_table(
            "after", columns, names, values, caption=f"{row.metrics.label} of {row.label}, per cent", scale=100
        ),
    )


def forgetting(variants: Sequence[Variant], lead: Variant, gallery: Gallery) -> str:
    """What each task lost, all rows side by side, and the leading row's way from the frozen model to the end."""
    same = [row for row in variants if row.first.tasks == lead.first.tasks and row.first.learned and row.forgetting()]
    same = [row for row in same if row.stages == same[0].stages][:4]
    body = ""
    if same:
        tasks = lead.first.tasks[: len(same[0].forgetting())]
        series = [
            Line(row.label, range(len(tasks)), [m for m, _ in row.forgetting()], [s for _, s in row.forgetting()])
            for row in same
        ]
        plot = plots.bars(
            "forgetting", tasks, series, x_label=f"points of {lead.metrics.label} against the task's best stage"
        )
        gallery.append(plot)
        worst = min((m, task) for m, task in zip(series[0].y, tasks, strict=True))
        body += figure(
            plot,
            alt=f"Forgetting per task. {series[0].label} loses most on {worst[1]}: {100 * worst[0]:.1f} points.",
            caption=f"{lead.metrics.label} at the end less the task's best before the last stage. Left of zero: "
            f"forgotten.{GALLERY if has_directions(lead) else ''}",
            numbers=grid_table(
                "row", tasks, [s.label for s in series], [list(s.y) for s in series], caption="Points", scale=100
            ),
        )
    body += way(lead, gallery)
    return section(
        "forgetting", "Gained and forgotten, task by task", f'<div class="pair">{body}</div>' if body else ""
    )


def way(row: Variant, gallery: Gallery) -> str:
    """From the frozen model over just learned to the end, task by task."""
    matrix, zero = row.matrix(), row.frozen_matrix()
    if not zero or not row.first.learned or not is_triangle(matrix) or len(zero[-1]) != len(matrix[-1]):
        return ""
    tasks = row.first.tasks[: len(matrix)]
    learned = [matrix[t][t] for t in range(len(matrix))]
    plot = plots.journeys(
        "journeys", tasks, zero[-1], learned, matrix[-1], x_label=f"{row.metrics.label}, %{both(row)}"
    )
    gallery.append(plot)
    up = sum(end > start for start, end in zip(zero[-1], matrix[-1], strict=True))
    return figure(
        plot,
        alt=f"Each task by the frozen model, just learned, at the end. {up} of {len(tasks)} end above it.",
        caption=f"<strong>{text(row.label)}</strong>: {up} of {len(tasks)} tasks end above the frozen model. "
        "“Just learned” was measured when fewer tasks were in the test.",
        numbers=grid_table(
            "figure",
            tasks,
            [FROZEN, "just learned", "at the end"],
            [zero[-1], learned, matrix[-1]],
            caption=row.metrics.label,
            scale=100,
        ),
    )


def routing(lead: Variant, gallery: Gallery) -> str:
    """Where queries of each task were sent."""
    body = ""
    for tower, title in TOWERS:
        counts = lead.routing(tower)
        if not counts:
            continue
        names = list(lead.first.tasks[: len(counts)])
        columns = [*names, "frozen"] if len(counts[0]) > len(counts) else names
        if len(columns) > len(names) and not any(row[-1] for row in counts):
            counts, columns = [row[:-1] for row in counts], names  # the fallback was off or never needed
        shares: list[list[float | None]] = [[value / (sum(row) or 1) for value in row] for row in counts]
        heat = Heat(shares, names, columns, x_label="sent to", y_label="query of task", high=1.0)
        plot = plots.heat_map(f"routing-{tower}", heat)
        gallery.append(plot)
        right = sum(counts[i][i] for i in range(len(counts))) / (sum(map(sum, counts)) or 1)
        body += figure(
            plot,
            alt=f"Routing confusion of the {tower} tower: {100 * right:.1f} per cent of queries go to their own task.",
            caption=f"{title}: <strong>{per_cent((right, None))}</strong> go to their own task.",
            numbers=grid_table("task", columns, names, shares, caption=f"Routing of {tower}, per cent", scale=100),
        )
    # the true task's figure is of cosines alone, and so is what it is held against
    oracle, cosine, final = (lead.figure(name) for name in ("oracle", "cosine", "final"))
    cost = ""
    if oracle and final:
        alone = ", both by cosines alone" if cosine else ""
        told, inferred = per_cent(oracle), per_cent(cosine or final)
        label = lead.metrics.label
        cost = f" Told the right task each time (oracle), {label} would be {told} instead of {inferred}{alone}."
    return section(
        "routing",
        "Which task does a query belong to?",
        f'<div class="pair">{body}</div>' if body else "",
        "At test time nobody says so: a query goes to the task with the nearest centroid. Per cent of each row." + cost,
    )


def relations(lead: Variant, gallery: Gallery) -> str:
    """The tasks' semantic map and similarity, and how alike their prompts are."""
    run = next((run for run in lead.runs if run.relations), None)
    if run is None or run.relations is None:
        return ""
    record = run.relations
    names, near = [str(name) for name in record["names"]], record.get("near")
    body = ""
    if record.get("positions") and len(names) > 1:
        plot = plots.semantic_map("semantic-map", names, record["positions"], near)
        gallery.append(plot)
        pairs = [f"{names[j]} and {names[i]}" for i in range(len(names)) for j in range(i) if near and near[i][j]]
        body += figure(
            plot,
            alt=f"Map of the tasks by meaning. Near pairs: {'; '.join(pairs) or 'none'}.",
            caption="Tasks by meaning, flattened to a plane, numbered in the order of learning."
            + (" A line joins two that count as near." if pairs else ""),
        )
    prompts = record.get("prompt_similarity") or {}
    for name, square, marked, caption in (
        (
            "semantic-similarity",
            record.get("similarity"),
            near,
            "Semantic similarity of the tasks (cosine). Framed: near.",
        ),
        ("prompts-vision", prompts.get("vision"), None, "Similarity of the learned <em>vision</em> prompts (cosine)."),
        ("prompts-text", prompts.get("text"), None, "Similarity of the learned <em>text</em> prompts (cosine)."),
    ):
        if not square:
            continue
        frame = [[bool(x) and i != j for j, x in enumerate(row)] for i, row in enumerate(marked)] if marked else ()
        heat = Heat(square, names, names, low=floor(square), high=1.0, scale=1.0, digits=2, marked=frame)
        plot = plots.heat_map(name, heat)
        gallery.append(plot)
        body += figure(
            plot,
            alt=f"{name.replace('-', ' ')} matrix of {len(names)} tasks. The numbers follow as a table.",
            caption=caption,
            numbers=grid_table("task", names, names, square, caption=name.replace("-", " "), scale=1.0),
        )
    seed = f" Seed {run.seed}." if len(lead.runs) > 1 else ""
    return section(
        "relations",
        "How the tasks relate",
        f'<div class="pair">{body}</div>' if body else "",
        f"Computed from what each task shows when it arrives, without looking ahead.{seed}",
    )


def training(lead: Variant, gallery: Gallery) -> str:
    """The loss and its parts over the run."""
    run = next((run for run in lead.runs if len(run.log) > 1), None)
    if run is None:
        return ""
    steps, bounds = running_steps(run)
    names = list(dict.fromkeys(name for record in run.log for name in record.get("parts") or {}))
    parts = [("loss", [float(record["loss"]) for record in run.log])]
    parts += [(name, [number_or_gap(follow(record.get("parts"), (name,))) for record in run.log]) for name in names]
    if len(parts) == 2:
        parts = parts[:1]  # a single part is the loss itself
    steps, parts = thinned(steps, parts[:6])
    plot = plots.losses("losses", steps, parts, bounds)
    gallery.append(plot)
    seed = f", seed {run.seed}" if len(lead.runs) > 1 else ""
    first, last = parts[0][1][0], parts[0][1][-1]
    return section(
        "training",
        "Training",
        figure(
            plot,
            alt=f"Loss and parts over {steps[-1]:.0f} steps in {len(bounds)} tasks, from {first:.2f} to {last:.2f}.",
            caption=f"Loss of <strong>{text(lead.label)}</strong>{seed}, and the weighted parts that it is the sum of; "
            "upright lines mark where the next task begins.",
        ),
    )


def number_or_gap(value: float | None) -> float:
    """A number, or NaN, which leaves a gap in a line."""
    return float("nan") if value is None else float(value)


def running_steps(run: RunFolder) -> tuple[list[float], list[tuple[str, float]]]:
    """Steps counted through the whole run, even if the log starts anew with every task, and each task's first step."""
    steps: list[float] = []
    bounds: list[tuple[str, float]] = []
    offset = 0.0
    for index, record in enumerate(run.log):
        step = follow(record, ("step",))
        own = float(index if step is None else step)
        if steps and own + offset <= steps[-1]:
            offset = steps[-1] + 1 - own
        steps.append(own + offset)
        task = str(record.get("task", ""))
        if not bounds or bounds[-1][0] != task:
            bounds.append((task, steps[-1]))
    return steps, bounds


def thinned(
    steps: list[float], parts: list[tuple[str, list[float]]], points_kept: int = 500
) -> tuple[list[float], list[tuple[str, list[float]]]]:
    """Means of neighbouring records, so that a long run does not make a heavy page."""
    size = -(-len(steps) // points_kept)
    if size == 1:
        return steps, parts

    def means(values: list[float]) -> list[float]:
        blocks = [values[i : i + size] for i in range(0, len(values), size)]
        return [sum(block) / len(block) for block in blocks]

    return means(steps), [(name, means(values)) for name, values in parts]


def floor(values: Sequence[Sequence[float | None]]) -> float:
    """Where the heat scale begins: a little below the lowest value, so that what differs looks different."""
    known = [value for row in values for value in row if value is not None]
    return min(known) - 0.15 * (max(known) - min(known))


def slug(label: str) -> str:
    """A label as part of a file name."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in label.lower()).split()) or "row"
