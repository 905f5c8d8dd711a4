"""Inject faults into every command that writes, give the same command again, compare with an undisturbed run.

    python benchmarks/faults.py --rounds 560 --results results/faults.json
    python benchmarks/faults.py --rounds 50 --seed 1 --work FOLDER      # resumable: given again, it goes on

A round is a command (run, compare, index, teach, forget, rollback, migrate, report, serve) and a fault, both drawn by
the seed and the round's number: killed (KILL, TERM, INT) at a random moment, a server under requests; a disk that is
full, or has no inode left; a folder that is read-only, pictures and folders that can't be read or vanish; a clock that
is years off, and jumps; little memory (RLIMIT_AS); a worker of ``compare --jobs 2`` that dies; a file of its state with
flipped bits, or cut short; the same command twice at once. Afterwards the cause is taken away and the command given
again. It must end as if nothing had happened, bit by bit but for times; or, where what it needs was damaged, it or
``lpi doctor`` must name the damage in a line. A fault that came when the command had ended already is counted as late,
not as injected. Nothing may be lost, differ, or end in a traceback. Drawn pictures and
the embedded model; every command in a process of its own.

Needs root (mounts) and, for the clock, libfaketime (Debian: faketime); a kind that can't be had here is left out, and
said so in the results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fault_world import COMMANDS, FAKETIME, Command, Ended, World, fingerprint, state_of, words_of
from resumable import Log, parser
from search_data import with_store

from lpi.damage import examine
from lpi.errors import LpiError
from lpi.evaluation.machine import environment
from lpi.storage import write_json

KILLS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
DAMAGE = ("flipped bits", "cut short")
DISKS = ("full disk", "no inodes")
FAULTS = (
    *(*KILLS, *DISKS, "read-only", "unreadable", "vanishing", *DAMAGE, "two writers", "clock", "little memory"),
    "dead worker",
)
BY_TWO = ["compare", "mine.toml", "--jobs", "2"]
PASSING = {"log.jsonl", "lock", ".lock", "error.txt", "skipped.json"}


class Round:
    """A command, a fault, and what comes of it."""

    def __init__(self, world: World, seed: int, number: int) -> None:
        self.world, self.chance, self.number = world, random.Random(f"{seed}/{number}"), number
        faults = [fault for fault in FAULTS if fault != "clock" or FAKETIME]
        self.fault = faults[number % len(faults)]
        self.command = "compare" if self.fault == "dead worker" else self.chance.choice(COMMANDS)
        self.words, self.live = words_of(self.command), world.live
        self.seconds = float(world.expected[self.command]["seconds"])
        self.late = False

    def go(self) -> dict[str, Any]:
        """Inject the fault, give the command again, compare."""
        self.world.reset()
        what = {
            **dict.fromkeys(DAMAGE, self.damage),
            **dict.fromkeys(DISKS, self.on_a_full_disk),
            "two writers": self.twice,
            "clock": self.at_another_time,
            "little memory": self.in_little_memory,
            "dead worker": self.without_a_worker,
            "vanishing": self.while_it_vanishes,
        }
        first = what.get(self.fault, self.disturb)()
        if self.counted():
            again, outcome = Ended(0, "it had counted already"), "same"
        else:
            (self.live / "answers.json").unlink(missing_ok=True)
            started = time.monotonic()
            again = self.run(self.words)
            if not again.code:  # what it takes now, whoever else is at work: the next moments are drawn from that
                self.world.expected[self.command]["seconds"] = time.monotonic() - started
            if self.fault in ("unreadable", "vanishing", "little memory") and state_of(self.command) in (
                "ix",
                "taught",
            ):
                # what couldn't be looked at is named in skipped.json, and comes back when the folder is followed
                again = self.run(["index", "photos", "--index", state_of(self.command)])
            outcome = self.judge(again)
        return {
            "round": self.number,
            "command": self.command,
            "fault": self.fault,
            "first": [first.code, first.last[:200]],
            "again": [again.code, again.last[:200]],
            "traceback": first.traceback or again.traceback,
            "hang": first.hangs or again.hangs,
            "late": self.late,
            "outcome": outcome,
            "said": ""
            if outcome in ("same", "named") and not first.traceback
            else f"{first.words}\n{again.words}"[-2000:],
        }

    def run(self, words: list[str], **options: Any) -> Ended:
        return self.world.start(words, **options).ended()

    def counted(self) -> bool:
        """Whether the command had done its work before the fault, so that there is nothing to do again."""
        with contextlib.suppress(LpiError, OSError, ValueError):
            return fingerprint(self.command, self.live) == self.world.expected[self.command]["print"]
        return False

    def judge(self, again: Ended) -> str:
        """``same``, ``named`` (the damage, in a line), ``lost`` or ``different``."""
        if again.code:
            return "named" if self.fault in DAMAGE and again.code == 2 and again.last.startswith("lpi: ") else "lost"
        try:
            found = fingerprint(self.command, self.live)
        except (LpiError, OSError, ValueError) as error:
            print("  ", error, flush=True)
            # what this reader stumbles over is named where the library says so, here or when it is asked
            named = self.fault in DAMAGE and (isinstance(error, LpiError) or self.named_by_doctor())
            return "named" if named else "lost"
        if found == self.world.expected[self.command]["print"]:
            return "same"
        return "named" if self.fault in DAMAGE and self.named_by_doctor() else "different"

    def named_by_doctor(self) -> bool:
        """Whether ``lpi doctor`` says that something is wrong in what the command ended in."""
        with contextlib.suppress(LpiError):
            return bool(examine(self.live / state_of(self.command)).wrong)
        return True

    def reach(self, process: Command) -> None:
        """Wait for a random moment of a command; where that has ended by then, there is nothing to disturb any more."""
        self.late = process.over(self.moment())

    def moment(self) -> float:
        return self.chance.uniform(0.05, 0.95) * self.seconds

    # ---- faults ------------------------------------------------------------------------------------------------------

    def disturb(self) -> Ended:
        """Killed at some moment, or while something is forbidden, which then is allowed again."""
        if self.fault in KILLS:
            process = self.world.start(self.words)
            self.reach(process)
            process.send(KILLS[self.fault])
            return process.ended()
        with self.forbidden():
            return self.run(self.words, forbidden=True)

    @contextlib.contextmanager
    def forbidden(self) -> Iterator[None]:
        """Something that may be neither read nor written, for a command without root's powers."""
        if self.fault == "read-only":
            place = self.live / state_of(self.command)
            places = [path for path in (place, *place.rglob("*")) if path.is_dir()] or [self.live]
        else:
            files = [path for name in ("photos", "tasks", "captioned") for path in (self.live / name).rglob("*")]
            places = self.chance.sample(sorted(files), 3)
        modes = {path: path.stat().st_mode for path in places}
        for path in reversed(places):
            path.chmod(0o555 if self.fault == "read-only" else 0)
        yield
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)

    def on_a_full_disk(self) -> Ended:
        """The folder on a disk of its own that has room for a part of what is written, or for so many files."""
        kept, files = self.live.with_name("kept"), list(self.live.rglob("*"))
        shutil.rmtree(kept, ignore_errors=True)
        if self.fault == "full disk":
            used = sum(path.stat().st_size + 4096 for path in files) // 1024
            first, then = f"size={used + 100_000}k", f"size={used + self.chance.randrange(8, 600)}k"
        else:
            first, then = "nr_inodes=100000", f"nr_inodes={len(files) + self.chance.randrange(3, 60)}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", first, "tmpfs", str(self.live)], check=True)
        try:
            shutil.copytree(self.world.begin, self.live, dirs_exist_ok=True)
            subprocess.run(["mount", "-o", f"remount,{then}", str(self.live)], check=False)
            done = self.run(self.words)
            shutil.copytree(self.live, kept)
        finally:
            subprocess.run(["umount", "-l", str(self.live)], check=True)
        shutil.rmtree(self.live)
        kept.rename(self.live)
        return done

    def while_it_vanishes(self) -> Ended:
        """A folder of pictures goes away while the command runs, and comes back."""
        place = self.live / self.chance.choice(["photos", "tasks", "captioned"])
        away = self.live / "away"
        process = self.world.start(self.words)
        self.reach(process)
        place.rename(away)
        first = process.ended()
        if place.exists():  # somebody made it anew
            shutil.rmtree(place)
        away.rename(place)
        return first

    def damage(self) -> Ended:
        """A file of the state is spoilt while nobody works: after the command, or after half of it."""
        process = self.world.start(self.words)
        if self.chance.random() < 0.5:
            process.over(self.moment())
            process.send(signal.SIGKILL)
        first = process.ended()
        place = self.live / state_of(self.command)
        files = sorted(p for p in place.rglob("*") if p.is_file() and p.stat().st_size and p.name not in PASSING)
        if not files:
            return first
        file = self.chance.choice(files)
        content = bytearray(file.read_bytes())
        if self.fault == "cut short":
            del content[self.chance.randrange(len(content)) :]
        else:
            for _ in range(3):
                content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        file.write_bytes(content)
        return Ended(first.code, f"{first.words}\nspoilt: {file.relative_to(self.live)}")

    def twice(self) -> Ended:
        """The same command at once with itself."""
        both = [self.world.start(self.words) for _ in range(2)]
        one, other = (process.ended() for process in both)
        return Ended(one.code or other.code, f"{one.words}\n{other.words}")

    def at_another_time(self) -> Ended:
        """A clock, and times of pictures, that are up to ten years off; the clock jumps once, then all is put right."""
        days, clock = self.chance.choice((-3650, -400, -1, 1, 400, 3650)), self.world.work / "clock"
        pictures = [path for path in (self.live / "photos").rglob("*") if path.is_file()]
        times = {path: path.stat().st_mtime for path in pictures}
        for path, own in times.items():
            os.utime(path, (own, own + days * 86_400))
        clock.write_text(f"{days:+d}d")
        jump = threading.Timer(self.moment(), clock.write_text, [f"{-days // 2:+d}d"])
        jump.start()
        first = self.run(self.words, clock=clock)
        jump.cancel()
        for path, own in times.items():
            if path.exists():
                os.utime(path, (own, own))
        return first

    def in_little_memory(self) -> Ended:
        """So little memory besides what the process has that it may not do."""
        return self.run(self.words, megabytes=self.chance.choice((4, 16, 64, 128, 256, 512, 1024)))

    def without_a_worker(self) -> Ended:
        """One of two processes that share the work is killed."""
        process = self.world.start(BY_TWO)
        until = time.monotonic() + 60
        while not (found := workers(process)) and not process.over(0.05) and time.monotonic() < until:
            pass
        self.reach(process)
        for pid in self.chance.sample(found, min(1, len(found))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return process.ended()


def workers(process: Command) -> list[int]:
    """The processes that a command spawned to share its work."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):
        pids = [int(pid) for pid in listed.read_text().split()]
        return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return []


def summary(rounds: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The figures that count, and every round by which one may be repeated."""
    outcomes = Counter(one["outcome"] for one in rounds)
    return {
        "injected": sum(not one["late"] for one in rounds),
        "late": sum(one["late"] for one in rounds),
        "lost": outcomes["lost"],
        "different": outcomes["different"],
        "tracebacks": sum(one["traceback"] for one in rounds),
        "hangs": sum(one["hang"] for one in rounds),
        "same": outcomes["same"],
        "named": outcomes["named"],
        "left_out": [] if FAKETIME else ["clock"],
        "by_kind": {
            fault: dict(Counter(one["outcome"] for one in rounds if one["fault"] == fault)) for fault in FAULTS
        },
        "by_command": {
            name: dict(Counter(one["outcome"] for one in rounds if one["command"] == name)) for name in COMMANDS
        },
        "failures": [
            one for one in rounds if one["traceback"] or one["hang"] or one["outcome"] in ("lost", "different")
        ],
        "seed": options.seed,
        "command": "python benchmarks/faults.py " + " ".join(sys.argv[1:]),
        **with_store(environment()),
    }


def arguments() -> argparse.Namespace:
    options = parser(__doc__, "faults")
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--only", type=int, help="a single round, to look at it")
    return options.parse_args()


def main() -> None:
    options = arguments()
    world = World(options.work.resolve())
    if options.only is not None:
        print(json.dumps(Round(world, options.seed, options.only).go(), indent=1))
        return
    log = Log(world.work / f"rounds-{options.seed}.jsonl")
    for number in range(len(log.done), options.rounds):
        started = time.monotonic()
        one = Round(world, options.seed, number).go()
        log.note(one)
        took = time.monotonic() - started
        print(f"{number} {took:.1f}s", one["command"], one["fault"], one["outcome"], one["again"][1][:100], flush=True)
    write_json(options.results, summary(log.done[: options.rounds], options))


if __name__ == "__main__":
    main()
