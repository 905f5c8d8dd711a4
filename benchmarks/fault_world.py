"""The world that ``faults.py`` disturbs: commands, the state in which each begins, what each ends in undisturbed."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import httpx
from search_data import NEW, OLD, draw

from lpi.search import SearchIndex
from lpi.storage import read_json, write_json

PATIENCE = 600.0
HANGS = "it hangs"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
COMMANDS = ("run", "compare", "index", "teach", "forget", "rollback", "migrate", "report", "serve")
OTHERWISE = {"pairs_per_second", "peak_mb", "checksum", "command", "machine", "versions", "commit", "when"}
UNTOLD = ("run.json", "files.json")  # of a run: they hold times and commands, and checksums of what does
EXPERIMENT = """
backbone = "lpi-tiny"
stream = {{ kind = "folder", root = "{root}" }}
method = {{ name = "lpi", rank = 2, length = 4 }}
training = {{ steps = 4, batch = 8, checkpoint_seconds = 0 }}
evaluation = {{ examples = 1 }}
[rows.frozen]
method = {{ name = "zero_shot" }}
"""
LEARNING = ["--even-if-worse", "--set", "steps=3", "--set", "batch=8"]
ASKED = ("/api/search?q=a+red+boat&k=9", "/api/search?q=soup&k=9", "/api/pictures?k=5", "/api/info")

# processes are forked from one that has imported what takes seconds; tables aren't among it, for they begin threads
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["__main__", "torch", "transformers", "pyarrow", "lpi.cli.main", "lpi.evaluation.results", "lpi.damage"]
)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    words: str

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent" in self.words

    @property
    def hangs(self) -> bool:
        return self.words.endswith(HANGS)

    @property
    def last(self) -> str:
        lines = [line for line in self.words.splitlines() if line.startswith("lpi: ")]
        return lines[-1] if lines else (self.words.splitlines() or [""])[-1]


def powerless() -> None:
    """Take away root's right to read and write whatever it likes."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, nothing):
        raise OSError("capabilities can't be given up")


def command(words: list[str], where: str, out: str, forbidden: bool, megabytes: int) -> None:
    """A command line, in a process of its own.

    Args:
        words: without ``lpi``.
        where: the folder it is typed in.
        out: the file of what it prints.
        forbidden: without root's powers.
        megabytes: of memory that it may take besides what it has; 0 for any.
    """
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(where)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this in the background ignores it
    sys.argv = ["lpi", *words]
    from lpi.cli.main import main

    if forbidden:
        powerless()
    if megabytes:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * 2**20,) * 2)
    main()


class Command:
    """A command that runs; ``serve`` is asked for pictures all the while, and ended when all was answered.

    Args:
        words: without ``lpi``.
        where: the folder it is typed in.
        out: a file for what it prints.
        forbidden, megabytes: see :func:`command`.
        clock: a file with the offset of its clock, where that isn't the machine's; needs libfaketime.
    """

    def __init__(
        self, words: list[str], where: Path, out: Path, *, forbidden: bool = False, megabytes: int = 0,
        clock: Path | None = None,
    ) -> None:  # fmt: skip
        self.words, self.where, self.out = words, where, out
        out.unlink(missing_ok=True)
        self._popen: subprocess.Popen[bytes] | None = None
        if clock is None:
            arguments = (words, str(where), str(out), forbidden, megabytes)
            self._process = FORKS.Process(target=command, args=arguments)
            self._process.start()
            self.pid = int(self._process.pid or 0)
        else:
            fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock)}
            never = {
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
                "PYTHONPATH": ":".join(sys.path),
            }
            with out.open("wb") as file:
                self._popen = subprocess.Popen(
                    [sys.executable, "-m", "lpi", *words], cwd=where, stdin=subprocess.DEVNULL,
                    stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **fake, **never},
                )  # fmt: skip
            self.pid = self._popen.pid
        self._answered = threading.Event()
        if words[0] == "serve":
            threading.Thread(target=self._ask, daemon=True).start()

    def over(self, seconds: float = 0) -> bool:
        """Whether it has ended, after at most so many seconds."""
        if self._popen is None:
            self._process.join(seconds)
            return self._process.exitcode is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self._popen.returncode is not None

    def _gone(self, seconds: float) -> bool:
        """The same for another thread, which mustn't fetch the exit code."""
        if self._popen is None:
            return bool(wait([self._process.sentinel], seconds))
        time.sleep(seconds)
        return self._popen.poll() is not None

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self, limit: float = PATIENCE) -> Ended:
        """Wait for its end."""
        until, asked_to_end = time.monotonic() + limit, False
        while not self.over(0.05):
            if self.words[0] == "serve" and self._answered.is_set() and not asked_to_end:
                self.send(signal.SIGTERM)  # once: a second one would end it before it has put things away
                asked_to_end = True
            if time.monotonic() > until:
                self.send(signal.SIGKILL)
                self.over(10)
                return Ended(-1, f"{self._said()}\n{HANGS}")
        return Ended((self._process.exitcode if self._popen is None else self._popen.returncode) or 0, self._said())

    def _said(self) -> str:
        return self.out.read_text(errors="replace") if self.out.exists() else ""

    def _ask(self) -> None:
        """Ask a server the same again and again until it is gone; what it answers at first is kept."""
        while not self._gone(0.05):
            found = re.search(r" at (http://\S+/)", self._said())
            if found is None:
                continue
            with contextlib.suppress(httpx.HTTPError):
                answers = [httpx.get(found[1][:-1] + asked, timeout=60, trust_env=False) for asked in ASKED]
                if not self._answered.is_set() and all(answer.status_code == 200 for answer in answers):
                    content = [lasting(answer.json()) for answer in answers]
                    (self.where / "answers.json").write_text(json.dumps(content))
                self._answered.set()


def lasting(answer: Any) -> Any:
    """What a server answers, without times, and without what it measures meanwhile and doesn't know at first."""
    if isinstance(answer, dict):
        gone = {"seconds", "milliseconds", "when", "fit", "fits_well", "examples"}
        return {name: lasting(value) for name, value in answer.items() if name not in gone}
    return [lasting(one) for one in answer] if isinstance(answer, list) else answer


@dataclass
class World:
    """The state in which each command begins, what it ends in undisturbed, and how long that takes."""

    work: Path

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        os.environ.update(OMP_NUM_THREADS="1", HOME=str(self.work))
        self.begin, self.live = self.work / "begin", self.work / "live"
        self.file = self.work / "expected.json"
        if not self.file.exists():
            for folder in (self.begin, self.live):
                shutil.rmtree(folder, ignore_errors=True)
            self._prepare()
        self.expected: dict[str, dict[str, Any]] = read_json(self.file)

    def _prepare(self) -> None:
        """Make the state where it will be disturbed: an index names its folder of pictures by the whole path."""
        _, captioned = draw(self.live, train=10, test=5, side=48)
        tasks = self.live / "tasks"
        for name in OLD:
            shutil.copytree(captioned / name, tasks / name)
        (self.live / "mine.toml").write_text(EXPERIMENT.format(root="tasks"))
        for words in (
            ["index", "photos", "--index", "ix", "--model", "lpi-tiny"],
            ["teach", OLD[0], f"captioned/{OLD[0]}", "--index", "ix", *LEARNING],
            ["run", "mine.toml", "--no-report", "--rows", "all"],
        ):
            must(self.start(words))
        shutil.move(self.live / "runs", self.live / "done")
        shutil.copytree(self.live / "ix", self.live / "taught")
        must(self.start(["teach", NEW, f"captioned/{NEW}", "--index", "taught", *LEARNING]))
        shutil.copytree(self.live, self.begin)
        expected = {}
        for name in COMMANDS:
            self.reset()
            started = time.monotonic()
            must(self.start(words_of(name)))
            expected[name] = {"seconds": time.monotonic() - started, "print": fingerprint(name, self.live)}
            print(f"undisturbed {name}: {expected[name]['seconds']:.1f} s", flush=True)
        write_json(self.file, expected)

    def reset(self) -> None:
        """The state before any command, anew."""
        shutil.rmtree(self.live, ignore_errors=True)
        shutil.copytree(self.begin, self.live)

    def start(self, words: list[str], **options: Any) -> Command:
        """Begin a command; see :class:`Command`."""
        self._started = getattr(self, "_started", 0) + 1
        return Command(words, self.live, self.work / f"out-{self._started % 4}", **options)


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
        "serve": ["serve", "photos", "--index", "new", "--model", "lpi-tiny", "--port", "0"],
    }[name]


def state_of(name: str) -> str:
    """The folder that a command changes."""
    new = {"run": "runs", "compare": "runs", "index": "new", "serve": "new", "report": "page"}
    return new.get(name) or ("ix" if name in ("teach", "migrate") else "taught")


def must(process: Command) -> None:
    done = process.ended()
    if done.code:
        raise RuntimeError(done.words)


def fingerprint(name: str, where: Path) -> str:
    """What must not differ of what a command ends in, in one digest."""
    place = where / state_of(name)
    digest = hashlib.sha256()
    if name in ("run", "compare"):
        for file in sorted(place.rglob("*")):
            if file.suffix == ".json" and file.name not in UNTOLD:
                content = json.dumps(timeless(json.loads(file.read_text())), sort_keys=True).replace(str(where), "")
                digest.update(f"{file.relative_to(place)} {content}\n".encode())
            elif file.suffix in (".safetensors", ".csv", ".tex", ".webp"):
                kept = file.read_bytes() if file.suffix in (".safetensors", ".webp") else b""
                digest.update(f"{file.relative_to(place)}\n".encode() + kept)
    elif name == "report":
        digest.update((place / "report.html").read_bytes())
    else:
        index = SearchIndex.open(place, device="cpu")
        rows = index.rows().columns("id", "paths", "task", "routes", "weights", "distances")
        vectors = [hashlib.sha256(vector.tobytes()).hexdigest() for vector in index.rows().vectors(rows["id"])]
        stages = [[s.kind, s.task, s.model, [asdict(task) for task in s.tasks], s.pictures] for s in index.stages()]
        table = sorted(map(list, zip(*rows.values(), vectors, strict=True)))
        digest.update(json.dumps([table, stages]).encode())
        if name == "serve":
            digest.update((where / "answers.json").read_bytes())
    return digest.hexdigest()


def timeless(content: Any) -> Any:
    """JSON without durations, machines and times of day."""
    if isinstance(content, dict):
        return {
            name: timeless(value) for name, value in content.items() if name not in OTHERWISE and "seconds" not in name
        }
    return [timeless(one) for one in content] if isinstance(content, list) else content
