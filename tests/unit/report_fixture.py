"""Run folders made by hand: what a real run writes, with numbers that are easy to follow."""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

from lpi.evaluation.records import METRICS, FrozenRecord, read_record, read_stages, summarise, write_record

COLOURS = {"red": "#d1392b", "green": "#3b8f4a", "blue": "#2d6cc0", "yellow": "#e3b62c", "violet": "#7d4fb0"}
SHAPES = ("ball", "box", "kite")


def recall(values: list[float]) -> dict:
    """Recalls of which those at 5 and 10 are higher, and one direction is a little better."""
    return {
        f"{direction}_r{k}": [round(min(1.0, value + shift + more), 6) for value in values]
        for direction, shift in (("t2i", -0.02), ("i2t", 0.02))
        for k, more in ((1, 0.0), (5, 0.2), (10, 0.3))
    }


def one(value: float) -> dict:
    """Recalls without tasks."""
    return {name: values[0] for name, values in recall([value]).items()}


def make_run(
    folder: Path,
    *,
    tasks: tuple[str, ...] = ("food", "animal", "person"),
    seed: int = 0,
    row: str = "lpi",
    experiment: str = "demo",
    method: str | None = None,
    gain: float = 0.12,
    loss: float = 0.004,
    pieces: tuple[str, ...] = ("frozen", "tasks", "examples", "log", "result", "routing"),
    stages: int | None = None,
) -> Path:
    """Write a run folder in ``folder/<experiment>/<row>/seed-<n>``.

    Args:
        folder: where the experiments lie.
        tasks: names in the order of learning.
        seed: of the run; shifts the numbers a little.
        row: its name.
        experiment: its name.
        method: the method's name, by default the row's.
        gain: recall above the frozen model's just after learning.
        loss: recall lost with every later stage.
        pieces: which optional files and fields to write.
        stages: how many tasks it has finished, by default all.
    """
    rng = random.Random(f"{row}-{seed}-{len(tasks)}")
    run = folder / experiment / row / f"seed-{seed}"
    (run / "stages").mkdir(parents=True)
    count, done = len(tasks), len(tasks) if stages is None else stages
    base = [0.22 + 0.16 * random.Random(f"{name}-base").random() for name in tasks]
    own = [gain * rng.uniform(0.7, 1.3) for _ in tasks]

    def zero(t: int) -> list[float]:
        return [base[i] - 0.006 * t for i in range(t + 1)]

    def learned(t: int) -> list[float]:
        return [zero(t)[i] + own[i] - loss * (t - i) * rng.uniform(0.5, 1.5) for i in range(t + 1)]

    records = [stage(t, tasks, learned(t), zero(t), rng, "routing" in pieces) for t in range(done)]
    for t, record in enumerate(records):
        dump(run / "stages" / f"{t:02d}-{tasks[t]}.json", record)
    zero_stages = [{**stage(t, tasks, zero(t), zero(t), rng, False), "oracle": None} for t in range(count)]
    for t, record in enumerate(zero_stages):
        record["next"] = one(base[t + 1] - 0.006) if t + 1 < count else None
        record["held_out"] = one(0.3)
    if "frozen" in pieces:
        dump(run / "frozen.json", {"stages": zero_stages})
    if "tasks" in pieces:
        dump(run / "tasks.json", relations(tasks, rng))
    if "examples" in pieces:
        dump(run / "examples.json", examples(run, tasks, rng))
    if "log" in pieces:
        write_log(run / "log.jsonl", tasks[:done], rng)
    if "result" in pieces and "frozen" in pieces and done == count:
        learned_stages = read_stages(run)
        frozen = read_record(FrozenRecord, run / "frozen.json").stages
        write_record(run / "result.json", summarise(learned_stages, frozen, METRICS["retrieval"]))
    dump(run / "run.json", info(experiment, row, method or row, seed, tasks))
    return run


def info(experiment: str, row: str, method: str, seed: int, tasks: tuple[str, ...]) -> dict:
    return {
        "format": 2,
        "problem": "retrieval",
        "experiment": experiment,
        "row": row,
        "method": {"name": method, "options": {"rank": 4, "length": 16, "injection": "into", "interaction": True}},
        "seed": seed,
        "settings": {
            "epochs": 8,
            "batch": 64,
            "optimiser": {"name": "adamw", "learning_rate": 0.002},
            "ks": [1, 5, 10],
        },
        "stream": {
            "name": "scenes",
            "tasks": [{"name": name, "train": 400, "validation": 40, "test": 100, "captions": 5} for name in tasks],
            "held_out": 100,
            "checksum": "0f3c",
        },
        "backbone": {"name": "lpi-tiny", "identity": "a1b2c3d4e5f60718", "parameters": 3_200_000},
        "versions": {"lpi": "0.1.0", "torch": "2.13.0"},
        "machine": {"cores": 2, "system": "Linux"},
        "command": f"lpi run {experiment} --seed {seed}",
    }


def stage(
    t: int, tasks: tuple[str, ...], values: list[float], zero: list[float], rng: random.Random, routed: bool
) -> dict:
    def confusion(right: float) -> dict:
        table = [[0] * (t + 2) for _ in range(t + 1)]
        for i in range(t + 1):
            for _ in range(100):
                table[i][i if rng.random() < right else rng.randrange(t + 2)] += 1
        return {"accuracy": sum(table[i][i] for i in range(t + 1)) / (100 * (t + 1)), "confusion": table}

    return {
        "stage": t,
        "task": tasks[t],
        "seen": recall(values),
        "oracle": recall([value + 0.02 for value in values]),
        "next": one(0.3) if t + 1 < len(tasks) else None,
        "held_out": one(0.295),
        "routing": {"vision": confusion(0.85), "text": confusion(0.75)} if routed else None,
        "seconds": {"train": 21.5 + t, "evaluate": 3.2},
        "parameters": {"trainable": 5284, "stored": 5284 * (t + 1), "bytes": 4 * 5284 * (t + 1)},
        "pairs_per_second": 812.5,
    }


def relations(tasks: tuple[str, ...], rng: random.Random) -> dict:
    positions = [[rng.uniform(-1, 1), rng.uniform(-1, 1)] for _ in tasks]

    def alike(i: int, j: int, reach: float) -> float:
        (a, b), (c, d) = positions[i], positions[j]
        return 1.0 if i == j else round(1 - reach * ((a - c) ** 2 + (b - d) ** 2) ** 0.5, 4)

    square = [[alike(i, j, 0.6) for j in range(len(tasks))] for i in range(len(tasks))]
    return {
        "names": list(tasks),
        "similarity": square,
        "positions": positions,
        "near": [[value > 0.7 for value in row] for row in square],
        "prompt_similarity": {
            tower: [[alike(i, j, reach) for j in range(len(tasks))] for i in range(len(tasks))]
            for tower, reach in (("vision", 0.45), ("text", 0.3))
        },
    }


def examples(run: Path, tasks: tuple[str, ...], rng: random.Random) -> list[dict]:
    (run / "examples").mkdir()
    pictures = []
    for number in range(8):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        draw_picture(run / "examples" / f"{number}.png", colour, shape, rng)
        pictures.append((f"examples/{number}.png", f"a {colour} {shape} on a table near the window"))
    records = []
    for number, (path, caption) in enumerate(pictures[:4]):
        before = rng.sample([p for p in pictures if p[0] != path], 5)
        after = [(path, caption), *before[:4]]
        to_image = number % 2 == 0

        def hits(found: list, path: str = path, to_image: bool = to_image) -> list[dict]:
            return [
                {"picture": p if to_image else None, "caption": c, "right": p == path, "score": 0.9 - 0.1 * place}
                for place, (p, c) in enumerate(found)
            ]

        records.append(
            {
                "direction": "text_to_image" if to_image else "image_to_text",
                "task": tasks[number % len(tasks)],
                "query": caption if to_image else path,
                "before": hits(before),
                "after": hits(after),
            }
        )
    return records


def draw_picture(path: Path, colour: str, shape: str, rng: random.Random) -> None:
    image = Image.new("RGB", (96, 96), "#dcd6c8")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 62, 96, 96), fill="#8a6b4a")
    x, y = rng.randint(15, 45), rng.randint(20, 35)
    if shape == "ball":
        draw.ellipse((x, y, x + 36, y + 36), fill=COLOURS[colour])
    elif shape == "box":
        draw.rectangle((x, y, x + 36, y + 36), fill=COLOURS[colour])
    else:
        draw.polygon([(x + 18, y), (x + 36, y + 18), (x + 18, y + 40), (x, y + 18)], fill=COLOURS[colour])
    image.save(path)


def write_log(path: Path, tasks: tuple[str, ...], rng: random.Random) -> None:
    lines = []
    for task in tasks:
        for step in range(40):
            item = 2.4 * 0.96**step + 0.6 + rng.uniform(-0.1, 0.1)
            parts = {"item": item, "layer": 0.3 * 0.9**step + 0.2, "task": 0.5 * 0.95**step}
            lines.append(
                {"task": task, "epoch": step // 10, "step": step, "loss": item + 0.05, "parts": parts,
                 "learning_rate": 0.002, "pairs_per_second": 800.0}
            )  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def dump(path: Path, record: object) -> None:
    path.write_text(json.dumps(record))
