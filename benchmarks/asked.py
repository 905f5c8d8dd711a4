"""What the project asks of itself, bar by bar, and what its results files say: the opening of docs/results.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from lpi.evaluation.figures import markdown

Record = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """One thing that is asked.

    Attributes:
        file: whose figures answer.
        asked: in words, with the bar.
        found: gives the figure.
        limit: of it.
        least: the figure is to be at least that; else at most.
    """

    file: str
    asked: str
    found: Callable[[Record], float]
    limit: float
    least: bool = False

    def row(self, record: Record | None) -> list[str]:
        """Asked, the limit, found, whether that is reached, and where it stands; not measured, it isn't reached."""
        limit = f"at {'least' if self.least else 'most'} {said(self.limit)}"
        try:
            value = float(self.found(record or {}))
        except (KeyError, TypeError, IndexError):
            return [self.asked, limit, "–", "**not measured**", f"{self.file}.json"]
        met = value >= self.limit if self.least else value <= self.limit
        return [self.asked, limit, said(value), "yes" if met else "**no**", f"[{self.file}.json](#{self.file}json)"]


def said(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def r1(record: Record, row: str) -> float:
    return float(record["rows"][row]["final_r1"])


def at_a_million(kind: str, engine: str, search: str, what: str) -> Callable[[Record], float]:
    def found(record: Record) -> float:
        own = record["sizes"]["1000000"][kind][engine][search]
        return float(own["milliseconds"]["median"] if what == "median" else min(own["recall_at_10"].values()))

    return found


def planned(record: Record, row: str, against: str) -> Record:
    """A planned pair of a comparison."""
    return next((one for one in record["planned"] if (one["row"], one["against"]) == (row, against)), {})


def apart(found: dict[str, float]) -> float:
    """How far apart the largest and the smallest are."""
    return max(found.values()) - min(found.values())


def seven(record: Record) -> list[Record]:
    """What each of the seven archives measured; a bar over all of them isn't measured by some."""
    found = list(record["archives"].values())
    if len(found) < 7:
        raise KeyError(f"{len(found)} archives of seven")
    return found


def times(found: float, of: float) -> float:
    """How many times the one is the other; of nothing, anything is infinitely much."""
    return found / of if of else inf if found else 1.0


def exact_of_flat(record: Record) -> float:
    """The slowest exact search at a million vectors, in medians of FAISS's flat one."""
    own = record["sizes"]["1000000"].values()
    return max(
        one["lpi"]["exact"]["milliseconds"]["median"] / one["faiss_flat"]["exact"]["milliseconds"]["median"]
        for one in own
    )


def of_scenes(part: str) -> list[Bar]:
    """What is asked of ``lpi_best`` in one of the two tables of scenes."""
    words = f"`lpi_best`, scenes {part.replace('_', ' ')}"

    def of_best(name: str) -> Callable[[Record], float]:
        return lambda d: float(d[part]["rows"]["lpi_best"][name])

    def gain(d: Record) -> float:  # who loses by learning gains nothing, however much more another one loses
        best, closed = (float(d[part]["rows"][row]["gain_by_learning"]) for row in ("lpi_best", "closed"))
        return 0.0 if best <= 0 else best / closed if closed > 0 else inf

    file = "compare_scenes"
    return [
        *(
            Bar(
                file,
                f"{words}: above `{rival}`, points, lower end of 95 %",
                lambda d, r=rival: planned(d[part], "lpi_best", r)["low"],  # type: ignore[misc]
                0,
                True,
            )
            for rival in ("closed", "cca_routed", "dar_routed", "s_prompts_routed")
        ),
        Bar(file, f"{words}: gain by learning, in those of the closed form alone", gain, 1.15, True),
        Bar(file, f"{words}: forgetting in one gallery, points", of_best("forgetting_fixed_r1"), -0.5, True),
        Bar(file, f"{words}: retention among everything, per cent", of_best("retention_everything"), 97, True),
    ]


BARS = [
    *(
        Bar("step", f"{words} in float32 floors", lambda d, k=kind, p=part: d[k][p], limit)  # type: ignore[misc]
        for kind, name, limits in (
            ("ours", "float32", (1.2, 1.12, 1.25)),
            ("auto", "what a user gets", (0.8, 0.65, 0.8)),
        )
        for part, limit in zip(("train", "image", "text"), limits, strict=True)
        for words in (f"a step of ViT-B/16, {part}, {name},",)
    ),
    *(
        Bar(
            "step",
            f"{part}: as many times as fast as the stock loop",
            lambda d, p=part: d["speedup_over_stock"][p],
            1.8,
            True,
        )  # type: ignore[misc]
        for part in ("train", "text")
    ),
    *(
        Bar(
            "pipeline",
            f"{model}, {what}: of the model's own rate",
            lambda d, w=what, m=model: d[w][m]["share_of_model_rate"],
            0.9,
            True,
        )  # type: ignore[misc]
        for what in ("embed", "train")
        for model in ("vit_b16", "lpi-tiny")
    ),
    Bar(
        "compare_cost", "drawn scenes: processor time before over after", lambda d: d["scenes"]["cpu_ratio"], 1.5, True
    ),
    Bar("compare_cost", "upper third, real: likewise", lambda d: d["upper_third"]["cpu_ratio"], 2.5, True),
    *(
        Bar(
            "search_scale",
            f"recall@10 at a million, {kind}",
            at_a_million(kind, "lpi", "approximate", "recall"),
            0.95,
            True,
        )
        for kind in ("random", "clustered", "real")
    ),
    *(
        Bar("search_scale", f"median ms at a million, {kind}", at_a_million(kind, "lpi", "approximate", "median"), 20)
        for kind in ("clustered", "real")
    ),
    Bar("search_scale", "exact search, in those of FAISS's flat one", exact_of_flat, 1.5),
    Bar("compare_archives", "R@1 of `lpi_best`, free", lambda d: r1(d, "lpi_best"), 26, True),
    Bar("compare_archives", "R@1 of `lpi_small`, within 0.5 M numbers", lambda d: r1(d, "lpi_small"), 22, True),
    Bar(
        "compare_archives",
        "`lpi_best` above the closed form alone, points, lower end of 95 %",
        lambda d: planned(d, "lpi_best", "closed")["low"],
        0,
        True,
    ),
    Bar(
        "compare_archives",
        "its gain by learning, in those of the closed form alone",
        lambda d: d["rows"]["lpi_best"]["gain_by_learning"] / d["rows"]["closed"]["gain_by_learning"],
        1.15,
        True,
    ),
    Bar(
        "compare_archives",
        "forgetting of `lpi_best` in one gallery, points",
        lambda d: d["rows"]["lpi_best"]["forgetting_fixed_r1"],
        -0.5,
        True,
    ),
    Bar(
        "compare_archives",
        "retention of `lpi_best` among everything, per cent",
        lambda d: d["rows"]["lpi_best"]["retention_everything"],
        97,
        True,
    ),
    Bar(
        "compare_archives",
        "the closed form above the frozen model with its router, points",
        lambda d: r1(d, "closed") - r1(d, "frozen_routed"),
        10,
        True,
    ),
    Bar(
        "compare_archives",
        "forgetting of the closed form in one gallery, points",
        lambda d: d["rows"]["closed"]["forgetting_fixed_r1"],
        -0.5,
        True,
    ),
    *(bar for part in ("with_sources", "without_sources") for bar in of_scenes(part)),
    Bar(
        "teach_archives",
        "R@10 of a new archive after its closed form, in the frozen model's, the least of all archives",
        lambda d: min(times(own["new_r10_closed"], own["frozen"]["r10"]) for own in seven(d)),
        5,
        True,
    ),
    Bar(
        "teach_archives",
        "points of R@10 that the others lose by it, the most",
        lambda d: max(own["old_r10_before"] - own["old_r10_after"] for own in seven(d)),
        1,
    ),
    Bar(
        "teach_archives",
        "archives after which all rank as in an index made anew, of seven",
        lambda d: sum(own["rankings_equal"] for own in d["archives"].values()),
        7,
        True,
    ),
    *(
        Bar(
            "grounding_compare",
            f"LPI for expressions above {words}, points of P@1, lower end of 95 %",
            lambda d, r=rival: planned(d, "lpi_best", r)["low"],  # type: ignore[misc]
            0,
            True,
        )
        for rival, words in (("zero_shot", "the frozen detector"), ("s_prompts", "`s_prompts`"))
    ),
    Bar(
        "grounding_compare",
        "its retention on general scenes, per cent",
        lambda d: d["rows"]["lpi_best"]["retention"],
        97,
        True,
    ),
    Bar("backbone", "frozen R@1 of 192 pictures with captions moved, points apart", lambda d: apart(d["moved_r1"]), 1),
    Bar("backbone", "of 768 pictures, likewise", lambda d: apart(d["more_pictures"]), 1),
    Bar(
        "published",
        "published LPI above the frozen model, points, lower end of 95 %",
        lambda d: planned(d, "lpi_paper", "frozen")["low"],
        0,
        True,
    ),
    Bar(
        "honest_scores",
        "captions that fit and are told that nothing does",
        lambda d: d["fits"]["said_nothing_fits"],
        0.1,
    ),
    Bar(
        "honest_scores", "what doesn't fit and is told so", lambda d: d["does_not_fit"]["said_nothing_fits"], 0.8, True
    ),
    Bar(
        "honest_scores",
        "captions that fit, with stamps and clip art",
        lambda d: d["with_stamps_and_clip_art"]["fits"]["said_nothing_fits"],
        0.1,
    ),
    Bar("faults", "injected faults", lambda d: d["injected"], 500, True),
    Bar("faults", "of these: lost, different, tracebacks", lambda d: d["lost"] + d["different"] + d["tracebacks"], 0),
    Bar("fuzz", "generated inputs", lambda d: d["inputs"], 200_000, True),
    Bar("fuzz", "tracebacks and hangs among them", lambda d: d["tracebacks"] + d["hangs"], 0),
    Bar("mutants", "planted faults that no test notices, share", lambda d: d["unnoticed"] / d["planted"], 0.05),
    Bar("slow_clients", "slowest search under 300 half-sent requests, s", lambda d: d["slowest_seconds"], 1),
    Bar("house", "code lines", lambda d: d["code_lines"], 17_000),
    Bar("house", "members of Method", lambda d: d["method_members"], 25),
    Bar("house", "import circles", lambda d: d["import_circles"], 0),
]


def opening(results: dict[str, Record]) -> str:
    """What is asked, what is found, what holds, as a section."""
    found = [bar.row(results.get(f"{bar.file}.json")) for bar in BARS]
    missed = sum(row[3] != "yes" for row in found)
    return (
        f"## What is asked, and what holds\n\n{len(found) - missed} of {len(found)} bars are reached.\n\n"
        f"{markdown(['asked', 'limit', 'found', 'reached', 'from'], found)}"
    )
