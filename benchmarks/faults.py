"""Inject faults into every command that writes, give the same command again, compare with an undisturbed run.

    python benchmarks/faults.py --rounds 500 --results results/faults.json
    python benchmarks/faults.py --rounds 50 --seed 1 --work FOLDER      # resumable: given again, it goes on

A round is a command (run, compare, index, teach, forget, rollback, migrate, report) and a fault, both drawn by the seed
and the round's number: killed (KILL, TERM, INT) at a random moment; a disk that is full, a folder that is read-only,
pictures and folders that can't be read or vanish; a file of its state with flipped bits, or cut short; the same command
twice at once. Afterwards the cause is taken away and the command given again. It must end as if nothing had happened,
bit by bit but for times; or, where what it needs was damaged, say so in one line that names the damage. Nothing may be
lost, differ, or end in a traceback. Drawn pictures and the embedded model; a process a command.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resumable import Log, parser
from search_data import NEW, OLD, draw, with_store

from lpi.errors import LpiError
from lpi.evaluation.machine import environment
from lpi.search import SearchIndex
from lpi.storage import read_json, write_json

POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]  # root, without its right to read and write anything
PATIENCE = 300.0
KILLS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
FAULTS = (*KILLS, "full disk", "read-only", "unreadable", "vanishing", "flipped bits", "cut short", "two writers")
COMMANDS = ("run", "compare", "index", "teach", "forget", "rollback", "migrate", "report")
OTHERWISE = {"pairs_per_second", "peak_mb", "checksum", "command", "machine", "versions", "commit", "when"}
EXPERIMENT = """
backbone = "lpi-tiny"
stream = {{ kind = "folder", root = "{root}" }}
method = {{ name = "lpi", rank = 2, length = 4 }}
training = {{ steps = 6, batch = 8, checkpoint_seconds = 0 }}
evaluation = {{ examples = 1 }}
[rows.frozen]
method = {{ name = "zero_shot" }}
"""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    words: str

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent" in self.words

    @property
    def last(self) -> str:
        lines = [line for line in self.words.splitlines() if line.startswith("lpi: ")]
        return lines[-1] if lines else (self.words.splitlines() or [""])[-1]


@dataclass
class World:
    """The state in which each command begins, what it ends in undisturbed, and how long that takes."""

    work: Path

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.begin, self.live = self.work / "begin", self.work / "live"
        self.file = self.work / "expected.json"
        if not self.file.exists():
            shutil.rmtree(self.begin, ignore_errors=True)
            self._prepare()
        self.expected: dict[str, dict[str, Any]] = read_json(self.file)

    def _prepare(self) -> None:
        _, captioned = draw(self.begin, train=12, test=6, side=64)
        tasks = self.begin / "tasks"
        for name in OLD:
            shutil.copytree(captioned / name, tasks / name)
        (self.begin / "mine.toml").write_text(EXPERIMENT.format(root="tasks"))
        for words in (
            ["index", "photos", "--index", "ix", "--model", "lpi-tiny"],
            ["teach", OLD[0], f"captioned/{OLD[0]}", "--index", "ix", *LEARNING],
            ["run", "mine.toml", "--no-report", "--rows", "all"],
        ):
            must(self.start(words, self.begin))
        shutil.copytree(self.begin / "runs", self.begin / "done")
        shutil.rmtree(self.begin / "runs")
        shutil.copytree(self.begin / "ix", self.begin / "taught")
        must(self.start(["teach", NEW, f"captioned/{NEW}", "--index", "taught", *LEARNING], self.begin))
        expected = {}
        for name in COMMANDS:
            self.reset()
            started = time.monotonic()
            must(self.start(words_of(name), self.live))
            expected[name] = {"seconds": time.monotonic() - started, "print": fingerprint(name, self.live)}
            print(f"undisturbed {name}: {expected[name]['seconds']:.1f} s", flush=True)
        write_json(self.file, expected)

    def reset(self) -> None:
        """The state before any command, anew."""
        shutil.rmtree(self.live, ignore_errors=True)
        shutil.copytree(self.begin, self.live)
        # the index names its folder of pictures by the whole path
        for index in ("ix", "taught"):
            manifest = self.live / index / "index.json"
            manifest.write_text(manifest.read_text().replace(str(self.begin / "photos"), str(self.live / "photos")))

    def start(self, words: list[str], where: Path, *, powerless: bool = False) -> subprocess.Popen[str]:
        """Begin a command in a folder."""
        return subprocess.Popen(
            [*(POWERLESS if powerless else []), sys.executable, "-m", "lpi", *words],
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(self.work)},
        )


LEARNING = ["--even-if-worse", "--set", "steps=4", "--set", "batch=8"]


def words_of(name: str) -> list[str]:
    """A command's words."""
    return {
        "run": ["run", "mine.toml", "--no-report"],
        "compare": ["compare", "mine.toml", "--jobs", "1"],
        "index": ["index", "photos", "--index", "new", "--model", "lpi-tiny"],
        "teach": ["teach", NEW, f"captioned/{NEW}", "--index", "ix", *LEARNING],
        "forget": ["forget", NEW, "--index", "taught"],
        "rollback": ["rollback", "--index", "taught"],
        "migrate": ["migrate", "--index", "ix", "--model", "done/mine/lpi/seed-0"],
        "report": ["report", "done/mine", "--out", "page"],
    }[name]


def state_of(name: str) -> str:
    """The folder that a command changes."""
    return {"run": "runs", "compare": "runs", "index": "new", "teach": "ix", "migrate": "ix", "report": "page"}.get(
        name, "taught"
    )


def ended(process: subprocess.Popen[str], limit: float = PATIENCE) -> Ended:
    """Wait for a command."""
    try:
        words, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        words, _ = process.communicate()
        return Ended(-1, f"{words}\nhangs")
    return Ended(process.returncode, words)


def must(process: subprocess.Popen[str]) -> None:
    done = ended(process)
    if done.code:
        raise RuntimeError(done.words)


def fingerprint(name: str, where: Path) -> str:
    """What must not differ of what a command ends in, in one digest."""
    place = where / state_of(name)
    digest = hashlib.sha256()
    if name in ("run", "compare"):
        for file in sorted(place.rglob("*")):
            if file.suffix == ".json" and file.name != "run.json":
                content = json.dumps(timeless(json.loads(file.read_text())), sort_keys=True).replace(str(where), "")
                digest.update(f"{file.relative_to(place)} {content}\n".encode())
            elif file.suffix in (".safetensors", ".csv", ".tex", ".jsonl") and "log" not in file.name:
                digest.update(f"{file.relative_to(place)}\n".encode() + tensors(file))
    elif name == "report":
        digest.update((place / "report.html").read_bytes())
    else:
        index = SearchIndex.open(place, device="cpu")
        rows = index.rows().columns("id", "paths", "task", "routes", "weights", "distances")
        vectors = [hashlib.sha256(vector.tobytes()).hexdigest() for vector in index.rows().vectors(rows["id"])]
        stages = [[s.kind, s.task, s.model, [asdict(task) for task in s.tasks], s.pictures] for s in index.stages()]
        table = sorted(map(list, zip(*rows.values(), vectors, strict=True)))
        digest.update(json.dumps([table, stages]).encode())
    return digest.hexdigest()


def tensors(file: Path) -> bytes:
    return file.read_bytes() if file.suffix == ".safetensors" else b""


def timeless(content: Any) -> Any:
    """JSON without durations, machines and times of day."""
    if isinstance(content, dict):
        return {
            name: timeless(value) for name, value in content.items() if name not in OTHERWISE and "seconds" not in name
        }
    return [timeless(one) for one in content] if isinstance(content, list) else content


class Round:
    """A command, a fault, and what comes of it."""

    def __init__(self, world: World, seed: int, number: int) -> None:
        self.world, self.chance, self.number = world, random.Random(f"{seed}/{number}"), number
        self.command = self.chance.choice(COMMANDS)
        self.fault = FAULTS[number % len(FAULTS)]
        self.words, self.live = words_of(self.command), world.live
        self.seconds = float(world.expected[self.command]["seconds"])

    def go(self) -> dict[str, Any]:
        """Inject the fault, give the command again, compare."""
        self.world.reset()
        what = {"flipped bits": self.damage, "cut short": self.damage, "two writers": self.twice}
        first = what.get(self.fault, self.disturb)()
        if self.counted():
            again, outcome = Ended(0, "it had counted already"), "same"
        else:
            again = ended(self.world.start(self.words, self.live))
            if self.fault in ("unreadable", "vanishing") and state_of(self.command) in ("ix", "taught"):
                # what couldn't be looked at is named in skipped.json, and comes back when the folder is followed
                again = ended(self.world.start(["index", "photos", "--index", state_of(self.command)], self.live))
            outcome = self.judge(again)
        return {
            "round": self.number,
            "command": self.command,
            "fault": self.fault,
            "first": [first.code, first.last[:200]],
            "again": [again.code, again.last[:200]],
            "traceback": first.traceback or again.traceback,
            "outcome": outcome,
        }

    def counted(self) -> bool:
        """Whether the command had done its work before the fault, so that there is nothing to do again."""
        with contextlib.suppress(LpiError, OSError, ValueError):
            return fingerprint(self.command, self.live) == self.world.expected[self.command]["print"]
        return False

    def judge(self, again: Ended) -> str:
        """``same``, ``named`` (the damage, in a line), ``lost`` or ``different``."""
        if again.code:
            named = self.fault in ("flipped bits", "cut short") and again.code == 2 and again.last.startswith("lpi: ")
            return "named" if named else "lost"
        try:
            found = fingerprint(self.command, self.live)
        except (LpiError, OSError, ValueError) as error:
            print("  ", error, flush=True)
            return "lost"
        return "same" if found == self.world.expected[self.command]["print"] else "different"

    def moment(self) -> float:
        return self.chance.uniform(0.1, 0.95) * self.seconds

    def disturb(self) -> Ended:
        """Run the command while something is wrong, which then is put right."""
        if self.fault in KILLS:
            process = self.world.start(self.words, self.live)
            time.sleep(self.moment())
            process.send_signal(KILLS[self.fault])
            return ended(process)
        if self.fault == "full disk":
            return self.on_a_full_disk()
        if self.fault == "vanishing":
            return self.while_it_vanishes()
        with self.forbidden():
            return ended(self.world.start(self.words, self.live, powerless=True))

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
        """The folder on a disk of its own that has room for a part of what is written."""
        kept = self.live.with_name("full")
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        used = sum(path.stat().st_size + 4096 for path in self.live.rglob("*")) // 1024
        room = used + self.chance.randrange(8, 600)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room + 100_000}k", "tmpfs", str(kept)], check=True)
        try:
            shutil.copytree(self.live, kept, dirs_exist_ok=True)
            self._relocate(self.live, kept)
            subprocess.run(["mount", "-o", f"remount,size={room}k", str(kept)], check=False)
            first = ended(self.world.start(self.words, kept))
            shutil.rmtree(self.live)
            shutil.copytree(kept, self.live)
            self._relocate(kept, self.live)
        finally:
            subprocess.run(["umount", "-l", str(kept)], check=True)
        return first

    def _relocate(self, old: Path, new: Path) -> None:
        for manifest in new.glob("*/index.json"):
            with contextlib.suppress(OSError):
                text = manifest.read_text().replace(str(old / "photos"), str(new / "photos"))
                manifest.write_text(text)

    def while_it_vanishes(self) -> Ended:
        """A folder of pictures goes away while the command runs, and comes back."""
        place = self.live / self.chance.choice(["photos", "tasks", "captioned"])
        away = self.live / "away"
        process = self.world.start(self.words, self.live)
        time.sleep(self.moment())
        place.rename(away)
        first = ended(process)
        if place.exists():  # somebody made it anew
            shutil.rmtree(place)
        away.rename(place)
        return first

    def damage(self) -> Ended:
        """A file of the state is spoilt while nobody works: after the command, or after half of it."""
        process = self.world.start(self.words, self.live)
        if self.chance.random() < 0.5:
            time.sleep(self.moment())
            process.kill()
        first = ended(process)
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
        both = [self.world.start(self.words, self.live) for _ in range(2)]
        one, other = (ended(process) for process in both)
        return Ended(one.code or other.code, f"{one.words}\n{other.words}")


PASSING = {"log.jsonl", "lock", ".lock", "compare.md", "compare.tex", "compare.csv", "error.txt", "skipped.json"}


def summary(rounds: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The figures that count, and every round by which one may be repeated."""
    outcomes = Counter(one["outcome"] for one in rounds)
    return {
        "injected": len(rounds),
        "lost": outcomes["lost"],
        "different": outcomes["different"],
        "tracebacks": sum(one["traceback"] for one in rounds),
        "same": outcomes["same"],
        "named": outcomes["named"],
        "by_kind": {
            fault: dict(Counter(one["outcome"] for one in rounds if one["fault"] == fault)) for fault in FAULTS
        },
        "by_command": {
            name: dict(Counter(one["outcome"] for one in rounds if one["command"] == name)) for name in COMMANDS
        },
        "failures": [one for one in rounds if one["traceback"] or one["outcome"] in ("lost", "different")],
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
        one = Round(world, options.seed, number).go()
        log.note(one)
        print(number, one["command"], one["fault"], one["outcome"], one["again"][1][:100], flush=True)
    write_json(options.results, summary(log.done[: options.rounds], options))


if __name__ == "__main__":
    main()
