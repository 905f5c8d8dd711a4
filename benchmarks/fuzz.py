"""Hand every door generated inputs by the thousand: each is taken, or refused in one line of this library's own.

    python benchmarks/fuzz.py --inputs 200000 --results results/fuzz.json
    python benchmarks/fuzz.py --inputs 5000 --work FOLDER        # resumable: given again, it goes on
    python benchmarks/fuzz.py --only 1234                           # one input, with whatever it raises

A door is a reader, a call of the library or an address of the server. Its inputs are good ones, changed by the seed and
their number: bytes are flipped, cut, doubled and put in; values of JSON, TOML and pickles are replaced by odd ones,
taken away and nested; arguments are of any type. Counted are errors that aren't the library's own, inputs that
take more than ten seconds of this process (or two minutes, whoever else is at work), and the memory above that of the
process before its first input. Every chunk of inputs runs in a process of its own: one that dies is a traceback, too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz_http import Doors
from resumable import Log, parser

from lpi.errors import LpiError

CHUNK = 4000
HANGS, WAITS = 10, 120


class HangsError(Exception):
    """An input took too long."""


def too_long(*_: object) -> None:
    raise HangsError


def tried(doors: Doors, seed: int, number: int) -> tuple[str, str]:
    """The door of an input, and what came of it: ``taken``, ``refused``, ``hang``, or the traceback."""
    names = list(doors.doors)
    name = names[number % len(names)]
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    signal.alarm(WAITS)
    try:
        doors.doors[name](random.Random(f"{seed}/{number}"))
    except LpiError as error:
        said = str(error)
        return name, "refused" if len(said) < 3000 else f"a message of {len(said)} letters: {said[:200]}"
    except HangsError:
        return name, "hang"
    except BaseException:
        return name, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return name, "taken"


def chunk(seed: int, start: int, count: int) -> dict[str, Any]:
    """A chunk of inputs in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for expired in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(expired, too_long)
    with tempfile.TemporaryDirectory(prefix="lpi-fuzz-") as work:
        os.chdir(work)
        doors = Doors(Path(work))
        doors.server()
        for number in range(len(doors.doors)):  # what is loaded when it is first used isn't an input's doing
            tried(doors, -1, number)
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts: Counter[str] = Counter()
        failures = []
        for number in range(start, start + count):
            door, outcome = tried(doors, seed, number)
            kind = outcome if outcome in ("taken", "refused", "hang") else "traceback"
            counts[f"{door}/{kind}"] += 1
            if kind in ("hang", "traceback"):
                failures.append({"input": number, "door": door, "kind": kind, "what": outcome[-1500:]})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        doors.close()
        return {"start": start, "counts": counts, "failures": failures, "peak_mb_above_idle": (peak - idle) // 1024}


def apart(options: argparse.Namespace, start: int, count: int) -> dict[str, Any]:
    """The same in a process of its own."""
    words = [sys.executable, __file__, "--seed", str(options.seed), "--chunk", str(start), "--inputs", str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        what = {"input": start, "door": "?", "kind": "traceback", "what": f"{done.returncode}: {done.stderr[-1500:]}"}
        return {"start": start, "counts": {"?/traceback": count}, "failures": [what], "peak_mb_above_idle": 0}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(chunks: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    from lpi.evaluation.machine import environment

    counts: Counter[str] = Counter()
    for one in chunks:
        counts.update(one["counts"])
    by_door: dict[str, dict[str, int]] = {}
    for name, count in sorted(counts.items()):
        door, _, kind = name.partition("/")
        by_door.setdefault(door, {})[kind] = count
    failures = [failure for one in chunks for failure in one["failures"]]
    return {
        "inputs": sum(counts.values()),
        "doors": len(by_door),
        "tracebacks": sum(count for name, count in counts.items() if name.endswith("/traceback")),
        "hangs": sum(count for name, count in counts.items() if name.endswith("/hang")),
        "peak_mb_above_idle": max(one["peak_mb_above_idle"] for one in chunks),
        "by_door": by_door,
        "failures": failures[:50],
        "seed": options.seed,
        "command": "python benchmarks/fuzz.py " + " ".join(sys.argv[1:]),
        **environment(),
    }


def arguments() -> argparse.Namespace:
    options = parser(__doc__, "fuzz")
    options.add_argument("--inputs", type=int, default=5000)
    options.add_argument("--only", type=int, help="a single input, to look at it")
    options.add_argument("--chunk", type=int, help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    options = arguments()
    if options.chunk is not None:
        print(json.dumps(chunk(options.seed, options.chunk, options.inputs)))
        return
    if options.only is not None:
        print(json.dumps(chunk(options.seed, options.only, 1), indent=1))
        return
    log = Log(options.work / f"chunks-{options.seed}.jsonl")
    for start in range(len(log.done) * CHUNK, options.inputs, CHUNK):
        log.note(apart(options, start, CHUNK))
        print(start + CHUNK, "inputs,", len(log.done[-1]["failures"]), "failures", flush=True)
    from lpi.storage import write_json

    write_json(options.results, summary(log.done, options))


if __name__ == "__main__":
    main()
