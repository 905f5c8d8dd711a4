"""The figures of each benchmark's results file as a table that a person reads, for docs/results.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lpi.evaluation.figures import markdown

Record = dict[str, Any]
ABOUT = {"command", "versions", "machine", "commit", "settings", "stream", "backbone", "seed", "seeds"}
MOST_ROWS = 40


def tables(name: str, record: Record) -> str:
    """The tables of a results file that holds no runs, each with a line on what it shows."""
    make = MAKERS.get(name.removesuffix(".json"))
    if make is None and isinstance(record.get("rows"), dict) and "trials" in record:
        make = tuned
    return "\n".join(f"{words}\n\n{body}" for words, body in (make or anything)(record))


Tables = Iterator[tuple[str, str]]


def number(value: object, digits: int = 3) -> str:
    """A number as a person reads it; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if digits > 2 else text
    return f"{value:,}" if isinstance(value, int) else str(value)


def words(key: str) -> str:
    """A key in words.

    >>> words("seconds_full_rebuild")
    'seconds full rebuild'
    """
    return key.replace("_", " ")


def grid(corner: str, heads: Iterable[str], rows: Iterable[tuple[str, Iterable[object]]], digits: int = 3) -> str:
    """A table of numbers."""
    return markdown([corner, *heads], [[name, *(number(value, digits) for value in values)] for name, values in rows])


def anything(record: Record) -> Tables:
    """Every single figure of a file, by name; records in records as tables of their own."""
    single = {key: value for key, value in record.items() if isinstance(value, int | float) and key not in ABOUT}
    if single:
        yield "All figures:", grid("figure", ["value"], ((words(key), [value]) for key, value in single.items()))
    for key, value in record.items():
        if isinstance(value, dict) and key not in ABOUT:
            flat = dict(list(flattened(value))[:MOST_ROWS])
            if flat:
                yield f"{words(key)}:", grid("figure", ["value"], ((name, [one]) for name, one in flat.items()))


def flattened(record: Record, before: str = "") -> Iterator[tuple[str, float]]:
    """The figures in a record, named by the keys that lead to them."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{before}{words(key)}, ")
        elif isinstance(value, int | float):
            yield f"{before}{words(key)}", value


def tuned(record: Record) -> Tables:
    """What ``lpi tune`` tried and chose, row by row."""
    figure = next(key for row in record["rows"].values() for key in row if key.startswith("validation_"))
    metric = figure.removeprefix("validation_").upper().replace("R1", "R@1").replace("P1", "P@1")
    rows = [
        [
            name,
            str(len(row["trials"])),
            number(row[f"{figure}_untuned"], 1),
            number(row[figure], 1),
            ", ".join(f"`{key} = {value}`" for key, value in row["chosen"].items()) or "its own",
            number(row["seconds"], 0),
        ]
        for name, row in record["rows"].items()
    ]
    head = ["row", "trials", f"{metric} as it stands", f"{metric} chosen", "chosen settings", "seconds"]
    yield f"Trials on validation data, {metric} in per cent:", markdown(head, rows)


def step(record: Record) -> Tables:
    """Steps of training and embedding beside the floor that floating-point work sets."""
    parts = ("train", "image", "text")
    variants = {name: record[name] for name in ("ours", "stock", "into") if name in record}
    if "auto" in record:
        variants["auto: what a user gets"] = record["auto"]
    variants |= {f"frozen, {name}": own for name, own in record.get("frozen", {}).items()}
    if "bfloat16" in record:
        variants["bfloat16, of the float32 floor"] = record["bfloat16"]
        variants["bfloat16, of its own floor"] = record["bfloat16"].get("of_own_floor", {})
    faster = record.get("of_onednn_floor") or {}
    variants |= {f"{name}, of the floor by oneDNN's peak": own for name, own in faster.items() if isinstance(own, dict)}
    heads = ["training step", "pictures", "captions"]
    times = grid("variant", heads, ((name, map(own.get, parts)) for name, own in variants.items()), 2)
    yield (
        "Time as a multiple of the least that the floating-point work takes at `torch.mm`'s peak (1 is that floor; "
        "oneDNN's products, which wide layers go through, have a higher peak):",
        times,
    )
    if "speedup_over_stock" in record:
        against = [("auto", map(record["speedup_over_stock"].get, parts))]
        yield "How many times as fast as the stock loop:", grid("variant", heads, against, 2)
    floors = {"with prompt tokens": record["floor_gflop"], "without": record["floor_gflop_without_prompt_tokens"]}
    peak = f"Work of the floor, billions of operations; the peak is {record['peak_gflops']:,} of them a second:"
    yield peak, grid("tokens", heads, ((name, map(own.get, parts)) for name, own in floors.items()), 1)


def search_load(record: Record) -> Tables:
    """Queries over HTTP by the number of clients, together and one by one, and while the index is changed."""
    keys = {
        "queries_per_second": "queries a second",
        "p50_ms": "median, ms",
        "p99_ms": "99 %, ms",
        "queries_a_forward": "queries a forward pass",
        "server_cpu_ms_a_query": "CPU a query, ms",
        "errors": "errors",
    }
    rows = [
        (f"{clients} client{'s' if clients != '1' else ''}, {words(how)}", map(own[how].get, keys))
        for clients, own in record["clients"].items()
        for how in ("batched", "one_by_one")
    ]
    rows += [
        (f"{record[during]['clients']} clients, {words(during)}", map(record[during].get, keys))
        for during in ("while_indexing", "while_teaching")
        if during in record
    ]
    yield f"Queries over HTTP on {record['pictures']} pictures:", grid("load", keys.values(), rows, 2)


def search_scale(record: Record) -> Tables:
    """The store beside FAISS, by size and kind of vectors."""
    heads = (
        "rows a second in",
        "median, ms",
        "95 %, ms",
        "recall@10 of texts",
        "of pictures",
        "peak MB",
        "disk MB",
    )
    for size, kinds in record["sizes"].items():
        rows = []
        for kind, engines in kinds.items():
            for engine, own in engines.items():
                for search, found in own.items():
                    if not (isinstance(found, dict) and "milliseconds" in found):
                        continue
                    values = (
                        own["insert_rows_per_second"],
                        found["milliseconds"]["median"],
                        found["milliseconds"]["p95"],
                        *(found["recall_at_10"][query] for query in ("text", "image")),
                        found["peak_mb"],
                        own["disk_mb"],
                    )
                    rows.append((f"{kind}: {words(engine)}, {words(search)}", values))
        yield f"{int(size):,} vectors, one query at a time, ten hits:", grid("engine, search", heads, rows)


def search_bridge(record: Record) -> Tables:
    """How much of the new backbone's recall is kept without embedding anything again."""
    rows = []
    for pair, found in record["pairs"].items():
        rows.append((f"{pair}: old model left alone", [None, found["stale"]["recall_at_10_kept"], None, None]))
        for kind, by_size in found.get("bridges", {}).items():
            sample, best = max(by_size.items(), key=lambda item: int(item[0]))
            overlap = best["overlap_at_10"]
            values = [int(sample), best["recall_at_10_kept"], overlap["text"], overlap["image"]]
            rows.append((f"{pair}: {words(kind)}", values))
    heads = ("sample", "recall@10 kept", "overlap of captions' ten", "of pictures' ten")
    yield "New queries on old vectors, over the largest sample:", grid("pair, bridge", heads, rows)


def ties(record: Record) -> Tables:
    """How many queries have a tie, and how far the rule for them moves the frozen model."""
    rows = [
        (
            f"{words(stream)}, {words(direction)}",
            [one["queries"], one["with_a_tie"], *one["moved_points"].values()],
        )
        for stream, by_direction in record["streams"].items()
        for direction, one in by_direction.items()
    ]
    heads = ("queries", "with a tie", "R@1 moved", "R@5 moved", "R@10 moved")
    yield (
        "By how many points the frozen model's figures moved when equal scores began to count:",
        grid("stream, direction", heads, rows),
    )


def search_teach(record: Record) -> Tables:
    """What a lesson costs and changes."""
    rows = [
        ("new domain", [100 * record["r1_new_before"], 100 * record["r1_new_after"]]),
        ("old domains", [100 * record["r1_old_before"], 100 * record["r1_old_after"]]),
    ]
    yield "R@1 before and after the lesson, per cent:", grid("queries", ["before", "after"], rows, 1)
    costs = {
        "pictures": record["pictures"],
        "share embedded again": record["reembedded_share"],
        "seconds to index": record["seconds_index"],
        "seconds to teach": record["seconds_teach"],
        **{f"of them to {part}": seconds for part, seconds in record["seconds_teach_parts"].items()},
        "seconds of a full rebuild": record["seconds_full_rebuild"],
        "vectors equal to the bit": record["vectors_bit_equal"],
        "rankings equal to a full rebuild's": record["rankings_equal_full_rebuild"],
    }
    yield "What it costs:", grid("", ["figure"], ((name, [value]) for name, value in costs.items()), 1)


def faults(record: Record) -> Tables:
    """Faults that were injected: what each kind of command, and each kind of fault, ended in."""
    heads = ("same", "named", "different", "lost")
    for title, kinds in (("fault", record["by_kind"]), ("command", record["by_command"])):
        rows = ((kind, [found.get(head, 0) for head in heads]) for kind, found in kinds.items())
        yield f"{record['injected']} faults by {title}, {record['tracebacks']} tracebacks:", grid(title, heads, rows)


def fuzz(record: Record) -> Tables:
    """Generated inputs: what each door did with them."""
    heads = ("taken", "refused", "hang", "traceback")
    rows = ((words(door), [found.get(head, 0) for head in heads]) for door, found in record["by_door"].items())
    title = f"{record['inputs']} inputs, at most {record['peak_mb_above_idle']} MB above the idle process:"
    yield title, grid("door", heads, rows)


def mutants(record: Record) -> Tables:
    """Faults that were planted in the source: how many of each module no test noticed."""
    share = 100 * record["unnoticed"] / record["planted"]
    title = f"{record['planted']} faults planted, {record['unnoticed']} unnoticed ({share:.1f} %):"
    yield title, grid("module", ("planted", "unnoticed"), record["by_module"].items())


def honest_scores(record: Record) -> Tables:
    """How often "nothing here fits well" stands, by what was asked."""

    def rows(part: Record, where: str) -> Iterator[tuple[str, Iterable[object]]]:
        asked = {"captions that fit": part["fits"], "that don't": part["does_not_fit"]}
        asked |= {f"of these: {words(kind)}": own for kind, own in part.get("does_not_fit_by_kind", {}).items()}
        asked |= {f"pictures: {words(kind)}": own for kind, own in part.get("picture_queries", {}).items()}
        for what, own in asked.items():
            yield f"{what}{where}", [own["queries"], own["said_nothing_fits"]]

    mixed = record.get("with_stamps_and_clip_art")
    more = list(rows(mixed, ", stamps and clip art among the pictures")) if mixed else []
    yield (
        f'The share of queries for which "nothing here fits well" is said, among {record["pictures"]:,} photographs:',
        grid("asked", ["queries", "said"], [*rows(record, ""), *more]),
    )


def newcomer(record: Record) -> Tables:
    """What it takes to begin, step by step."""
    heads = ["seconds", "seconds since the clone began", "megabytes by then"]
    steps = record["steps"].items()
    rows = [(f"{words(name)} (`{own['command']}`)", list(own.values())[1:]) for name, own in steps]
    yield (
        f"The README's commands in a new environment, with {record['pictures']} drawn pictures in each of two folders:",
        grid("", heads, rows),
    )


def checkpoints(record: Record) -> Tables:
    """What the checkpoints that README names cost while pictures are indexed."""
    columns = ("numbers", "pictures_per_second", "peak_mb")
    rows = [(name, [own[column] for column in columns]) for name, own in record["checkpoints"].items()]
    title = f"Indexing {record['pictures']} JPEG files of 640 x 480 pixels, random weights in each checkpoint's sizes:"
    yield title, grid("checkpoint", map(words, columns), rows)


def ray(record: Record) -> Tables:
    """Embedding on a cluster beside one process."""
    parts = {name: own for name, own in record.items() if isinstance(own, dict) and "embedded" in own}
    columns = ("pictures", "embedded", "seconds", "largest_difference")
    rows = [(words(name), [own.get(column) for column in columns]) for name, own in parts.items()]
    busy = " and ".join(map(str, record["cluster"]["seconds_of_each_node"]))
    title = (
        f"A Ray cluster of {record['nodes']} nodes on one machine beside a single process (of the last row the second "
        f"try; largest difference: to the single process's vectors; the nodes were busy for {busy} s):"
    )
    yield title, grid("way", map(words, columns), rows)


def slow_clients(record: Record) -> Tables:
    """A server under half-sent requests."""
    yield (
        f"{record['searches']} searches while {record['half_sent']} requests are half sent, with "
        f"{record['open_files']} files that may be open:",
        grid(
            "",
            ["failed", "median s", "slowest s", "bytes of log"],
            [("searches", [record[key] for key in ("failed", "median_seconds", "slowest_seconds", "log_bytes")])],
        ),
    )


def resume(record: Record) -> Tables:
    """Runs that were killed: whether they ended with the same bytes."""
    rows = [
        (f"after {kill['after_seconds']:.1f} s", [kill["stages_done"], kill["same_bytes"]]) for kill in record["kills"]
    ]
    files = record["files_compared"]
    yield (
        f"A run that was killed and started again; {files} files compared with an undisturbed run's:",
        grid("killed", ["tasks finished", "same bytes"], rows),
    )


def grounding_sizes(record: Record) -> Tables:
    """One step and one picture on detectors of real size."""
    keys = {
        "image_size": "pixels",
        "parameters": "parameters",
        "trainable_per_task": "learned a task",
        "step_seconds": "s a step",
        "locate_seconds": "s a picture",
        "peak_mb": "peak MB",
    }
    models = {name: own for name, own in record.items() if isinstance(own, dict) and "step_seconds" in own}
    rows = ((name, map(own.get, keys)) for name, own in models.items())
    yield "Random weights at real sizes:", grid("detector", keys.values(), rows)


def pipeline(record: Record) -> Tables:
    """From picture files to vectors and to a trained task, beside the model alone."""
    keys = {
        "share_of_model_rate": "of the model's rate",
        "reachable": "that processor time allows",
        "pictures_per_second": "pictures a second",
        "processor_seconds_a_picture": "CPU s a picture",
        "of_these_the_model": "of these the model",
    }
    for what, title in (("embed", "files to vectors"), ("train", "files to a trained task")):
        rows = ((words(name), map(own.get, keys)) for name, own in record[what].items())
        yield f"From {title}:", grid("model", keys.values(), rows)


def precision(record: Record) -> Tables:
    """Where methods end in bfloat16 and in float32."""
    for name, own in record.items():
        rows = [
            (words(row), [sum(found[kind]) / len(found[kind]) for kind in ("float32", "bfloat16")])
            for row, found in own["rows"].items()
        ]
        kept = ((row, [*values, values[1] - values[0]]) for row, values in rows)
        yield f"{words(name)}, R@1 at the end in per cent:", grid("row", ["float32", "bfloat16", "less"], kept, 2)


def scale(record: Record) -> Tables:
    """What grows with tasks, prompts, batch and gallery."""
    for part, head in (("tasks", "tasks"), ("prompts", "tokens"), ("batch", "pairs"), ("gallery", "vectors")):
        own = record[part]
        keys = list(next(iter(own.values())))
        rows = ((f"{int(size):,}", map(found.get, keys)) for size, found in own.items())
        yield f"By {words(part)}:", grid(head, map(words, keys), rows)


def compare_cost(record: Record) -> Tables:
    """Processor time of a comparison, before and after."""
    heads = ("CPU s before", "after", "ratio", "wall ratio", "same figures", "R@1 apart, mean")
    rows = [
        (
            words(name),
            [
                *(own[tree]["cpu_seconds"] for tree in ("before", "after")),
                *(own[key] for key in ("cpu_ratio", "wall_ratio", "equal_figures", "mean_difference_r1")),
            ],
        )
        for name, own in record.items()
        if isinstance(own, dict) and "cpu_ratio" in own
    ]
    yield f"Six rows each, beside commit {record['before_commit']}:", grid("comparison", heads, rows)


def teach_archives(record: Record) -> Tables:
    """What each archive gains when it is taught last, among all pictures."""
    keys = {
        "seconds_closed": "s, closed form",
        "learning_closed": "of them to learn",
        "seconds_deeper": "s, deeper",
        "new_r10_before": "R@10 before",
        "new_r10_closed": "closed",
        "new_r10_deeper": "deeper",
        "old_r10_before": "others before",
        "old_r10_after": "others after",
        "reembedded_share": "embedded again",
        "rankings_equal": "as rebuilt",
    }
    rows = ((name, map(own.get, keys)) for name, own in record["archives"].items())
    yield "Recall among all pictures, per cent:", grid("archive", keys.values(), rows, 2)


def backbone(record: Record) -> Tables:
    """What moving the captions does to the embedded backbone, and did to the one before."""
    heads = {
        "moved_r1": "R@1, 192 pictures",
        "more_pictures": "768 pictures",
        "moved_cosine": "cosine with itself",
        "before": "before: 192 pictures",
        "more_pictures_before": "768 pictures",
        "moved_cosine_before": "cosine",
    }
    heads = {key: head for key, head in heads.items() if key in record}
    rows = ((by, [record[key].get(by) for key in heads]) for by in record["moved_r1"])
    yield "The frozen model on the tasks of `compare_scenes`:", grid("captions moved by", heads.values(), rows, 3)


def one_device(record: Record) -> Tables:
    """What becomes of each method's loss, encoding and routing on a device whose tensors have no values."""
    parts = ("loss", "pictures", "captions", "routing")
    rows = [
        [words(name), *(own.get(part, "–").partition(":")[0] for part in parts)]
        for name, own in record["methods"].items()
    ]
    yield (
        f"On a device whose tensors have shapes and no values; failed: {', '.join(record['failed']) or 'none'}.",
        markdown(["method", *parts], rows),
    )


def house(record: Record) -> Tables:
    """Counts of the package's structure."""
    rows = ((words(key), [value]) for key, value in record.items() if isinstance(value, int))
    yield "Counts of the package's structure:", grid("count", ["found"], rows)


MAKERS: dict[str, Callable[[Record], Tables]] = {
    "step": step,
    "backbone": backbone,
    "pipeline": pipeline,
    "precision": precision,
    "scale": scale,
    "compare_cost": compare_cost,
    "teach_archives": teach_archives,
    "search_load": search_load,
    "search_scale": search_scale,
    "ties": ties,
    "search_bridge": search_bridge,
    "search_bridge_large": search_bridge,
    "search_teach": search_teach,
    "faults": faults,
    "fuzz": fuzz,
    "mutants": mutants,
    "honest_scores": honest_scores,
    "newcomer": newcomer,
    "checkpoints": checkpoints,
    "ray": ray,
    "slow_clients": slow_clients,
    "resume": resume,
    "grounding_sizes": grounding_sizes,
    "one_device": one_device,
    "house": house,
}
"""What makes the tables of each benchmark's file; of others all figures are shown as they are."""
