"""Many clients at once against ``lpi serve``: with and without batching, and while the index is being changed.

    python benchmarks/search_load.py --small
    python benchmarks/search_load.py --results results/search_load.json

Draws pictures, indexes two of their three domains, and starts two real servers on loopback: one joins concurrent
queries, one answers each by itself, both on the same number of cores. Simulated people (each a connection of its own)
ask one query after another, words of captions; the two servers are measured in turns. Then ``lpi index`` takes in the
third domain and ``lpi teach`` learns it, while people go on asking the server that batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import httpx
from search_data import NEW, draw, with_store

from lpi.evaluation.machine import environment
from lpi.storage import write_json

CLIENTS = (1, 8, 32)
BESIDE_CLIENTS = 8  # that go on asking while the index is changed
MOST_REQUESTS = 20_000  # of one measurement
MOST_QUERIES = 1000  # different ones
MOST_SECONDS = 900.0  # that a command beside may take
WARM_UP = 40
LPI = [sys.executable, "-m", "lpi"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few pictures and short measurements, in a minute or two")
    parser.add_argument("--model", default="lpi-tiny", help="run, saved model or backbone")
    parser.add_argument("--pictures", type=int, default=240, help="drawn a domain")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each server, in turns")
    parser.add_argument("--steps", type=int, default=150, help="training steps of the domain that is taught")
    parser.add_argument("--threads", type=int, default=1, help="cores that a server's models may use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/search_load.json"))
    options = parser.parse_args()
    if options.small:
        options.pictures, options.seconds, options.rounds, options.steps = 36, 1.5, 1, 20
    return options


@dataclass
class Heard:
    """What clients met.

    Attributes:
        latencies: of each answer, in seconds.
        errors: answers that weren't one.
        seconds: that it took in all.
        batch: queries of a forward pass, on average.
        cpu: processor time of the server, in seconds.
    """

    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0
    batch: float = 0.0
    cpu: float = 0.0

    def record(self) -> dict[str, Any]:
        count = len(self.latencies)
        ordered = sorted(self.latencies)

        def at(share: float) -> float:
            return round(1000 * ordered[min(count - 1, math.ceil(share * count) - 1)], 1)

        return {
            "queries_per_second": round(count / self.seconds, 1),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "requests": count,
            "errors": self.errors,
            "queries_a_forward": round(self.batch, 2),
            "server_cpu_ms_a_query": round(1000 * self.cpu / count, 2),
        }


class Load:
    """People who ask a server.

    Args:
        queries: what they ask, drawn at random.
        seed: of the draw.
    """

    def __init__(self, queries: list[str], seed: int) -> None:
        self.queries, self.seed = queries, seed
        self.no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # made once; loopback needs none, httpx wants one

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=60, verify=self.no_tls, trust_env=False)

    async def figures(self, address: str) -> dict[str, float]:
        async with self.client() as client:
            lines = (await client.get(f"{address}metrics")).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def ask(self, address: str, clients: int, go_on: Callable[[int], bool]) -> Heard:
        """So many people ask one query after another.

        Args:
            address: of the server.
            clients: how many people.
            go_on: whether another query is to be asked, by how many were.
        """
        heard, asked = Heard(), 0
        chance = random.Random(self.seed)
        # what costs the people time is prepared: they and the server share one machine
        ready = [httpx.Request("GET", f"{address}api/search?q={quote(words)}") for words in self.queries]
        chance.shuffle(ready)

        async def person() -> None:
            nonlocal asked
            async with self.client() as client:  # a connection of one's own, as a browser has
                while asked < MOST_REQUESTS and go_on(asked):
                    asked += 1
                    request = ready[asked % len(ready)]
                    started = time.perf_counter()
                    answer = await client.send(request)
                    heard.latencies.append(time.perf_counter() - started)
                    heard.errors += answer.status_code != 200

        before = await self.figures(address)
        started = time.perf_counter()
        await asyncio.gather(*(person() for _ in range(clients)))
        heard.seconds = time.perf_counter() - started
        after = await self.figures(address)
        rise = {name: value - before.get(name, 0.0) for name, value in after.items()}
        heard.batch = rise['lpi_batch_size_sum{work="encode"}'] / rise['lpi_batch_size_count{work="encode"}']
        heard.cpu = rise["process_cpu_seconds_total"]
        return heard

    async def ask_for(self, address: str, clients: int, seconds: float) -> Heard:
        """For a while."""
        await self.ask(address, clients, lambda asked: asked < WARM_UP)
        end = time.perf_counter() + seconds
        return await self.ask(address, clients, lambda asked: time.perf_counter() < end)

    async def ask_beside(
        self, address: str, command: list[str], done: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """While a command changes the index, and until the server shows what it did.

        Args:
            address: of the server.
            command: what changes the index.
            done: whether what ``/api/health`` says is what it shall be.
        """
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        ended: dict[str, float] = {}

        async def watch() -> None:
            try:
                code = await asyncio.wait_for(process.wait(), MOST_SECONDS)
            finally:
                if process.returncode is None:
                    process.kill()
            if code != 0:
                raise SystemExit(f"{' '.join(command)} ended with {code}")
            ended["command"] = time.perf_counter()
            async with self.client() as client:
                while not done((await client.get(f"{address}api/health")).json()):
                    if time.perf_counter() - ended["command"] > 60:
                        raise SystemExit("the server didn't pick the change up within a minute")
                    await asyncio.sleep(0.02)
            ended["shown"] = time.perf_counter()

        watching = asyncio.create_task(watch())
        heard = await self.ask(address, BESIDE_CLIENTS, lambda asked: not watching.done())
        await watching
        return {
            "clients": BESIDE_CLIENTS,
            **heard.record(),
            "command_seconds": round(ended["command"] - started, 1),
            "shown_after_seconds": round(ended["shown"] - ended["command"], 2),
        }


@contextmanager
def server(index: Path, *options: str) -> Iterator[str]:
    """A real server over an index; gives its address once it listens."""
    command = [*LPI, "serve", "--index", str(index), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = [word for word in line.split() if word.startswith("http://127.0.0.1:")]
            if not found:
                raise SystemExit(f"{' '.join(command)} didn't begin: {line}")
            yield found[0]
        finally:
            process.terminate()


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure; requests and errors of all rounds."""
    whole = {name: round(median(one[name] for one in rounds), 2) for name in rounds[0]}
    whole |= {name: sum(one[name] for one in rounds) for name in ("requests", "errors")}
    return {**whole, "queries_per_second_each": [one["queries_per_second"] for one in rounds]}


async def measure(load: Load, addresses: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Every number of clients against every server, the servers in turns."""
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in addresses}
        for _ in range(options.rounds):
            for name, address in addresses.items():
                heard = await load.ask_for(address, clients, options.seconds)
                rounds[name].append(heard.record())
                print(clients, name, rounds[name][-1], file=sys.stderr, flush=True)
        own: dict[str, Any] = {name: summary(each) for name, each in rounds.items()}
        rates = [own[name]["queries_per_second"] for name in ("batched", "one_by_one")]
        found[str(clients)] = {**own, "gain": round(rates[0] / rates[1], 2)}
    return found


def captions(captioned: Path) -> list[str]:
    """Every caption of some folders of captioned pictures."""
    files = sorted(captioned.glob("*/captions.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted({words for row in rows for words in row["captions"]})[:MOST_QUERIES]


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    photos, captioned = draw(work / "drawn", train=options.pictures - options.pictures // 3, test=options.pictures // 3)
    index, later = work / "index", work / "later"
    (photos / NEW).rename(later)
    indexing = [*LPI, "index", str(photos), "--model", options.model, "--index", str(index)]
    subprocess.run(indexing, check=True, stdout=subprocess.DEVNULL)
    load = Load(captions(captioned), options.seed)
    cores = ("--threads", str(options.threads))
    with server(index, *cores) as batched, server(index, *cores, "--no-batching") as one_by_one:
        clients = asyncio.run(measure(load, {"batched": batched, "one_by_one": one_by_one}, options))
    with server(index, *cores) as address:
        later.rename(photos / NEW)
        pictures = len(list(photos.rglob("*.png")))
        beside = load.ask_beside(address, indexing, lambda health: health["pictures"] == pictures)
        while_indexing = asyncio.run(beside)
        teaching = [*LPI, "teach", NEW, str(captioned / NEW), "--index", str(index), "--even-if-worse"]
        teaching += ["--set", f"steps={options.steps}", "--set", "batch=32"]
        while_teaching = asyncio.run(load.ask_beside(address, teaching, lambda health: health["stage"] == 1))
    known = with_store(environment())
    for package in ("fastapi", "uvicorn", "httpx"):
        known["versions"][package] = metadata.version(package)
    return {
        "clients": clients,
        "batching_gain_at_32": clients["32"]["gain"],
        "while_indexing": while_indexing,
        "while_teaching": {**while_teaching, "steps": options.steps},
        "pictures": pictures - options.pictures,
        "pictures_after": pictures,
        "queries": len(load.queries),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "threads": options.threads,
        "model": options.model,
        "seed": options.seed,
        "command": "python benchmarks/search_load.py " + " ".join(sys.argv[1:]),
        **known,
    }


def main() -> None:
    options = arguments()
    work = Path(tempfile.mkdtemp(prefix="lpi-load-"))
    try:
        write_json(options.results, run(options, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(options.results.read_text())


if __name__ == "__main__":
    main()
