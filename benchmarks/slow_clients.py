"""300 half-sent requests at a server that may open 256 files: how long everybody else waits, and what the log says.

python benchmarks/slow_clients.py --results results/slow_clients.json
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image
from search_data import with_store

from lpi.evaluation.machine import environment
from lpi.storage import write_json

FILES, CLIENTS, SEARCHES = 256, 300, 40


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def started(work: Path) -> tuple[subprocess.Popen[bytes], int, Path]:
    """A server of a small folder, its port and its log."""
    for number in range(12):
        (work / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), (20 * number, 90, 200 - 10 * number)).save(work / "photos" / f"{number}.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = work / "log"
    words = [sys.executable, "-m", "lpi", "serve", "photos", "--model", "lpi-tiny", "--port", str(port)]
    server = subprocess.Popen(words, cwd=work, stdout=log.open("wb"), stderr=subprocess.STDOUT, preexec_fn=few_files)
    for _ in range(240):
        time.sleep(0.5)
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).status_code == 200:
                return server, port, log
        except httpx.HTTPError:
            continue
    raise RuntimeError(log.read_text())


def half(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    return client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/slow_clients.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        server, port, log = started(Path(place))
        slow, seconds, failed = [], [], 0
        try:
            for _ in range(CLIENTS):
                slow.append(half(port))
            for number in range(SEARCHES):
                begun = time.monotonic()
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/api/search", params={"q": f"red {number}"}, timeout=30)
                    failed += answer.status_code != 200
                except httpx.HTTPError:
                    failed += 1
                seconds.append(time.monotonic() - begun)
                slow.append(half(port))  # they go on coming
        finally:
            for client in slow:
                client.close()
            server.terminate()
            server.wait(timeout=60)
        write_json(
            options.results,
            {
                "open_files": FILES,
                "half_sent": len(slow),
                "searches": SEARCHES,
                "failed": failed,
                "median_seconds": round(statistics.median(seconds), 4),
                "slowest_seconds": round(max(seconds), 4),
                "log_bytes": log.stat().st_size,
                "command": "python benchmarks/slow_clients.py " + " ".join(sys.argv[1:]),
                **with_store(environment()),
            },
        )


if __name__ == "__main__":
    main()
