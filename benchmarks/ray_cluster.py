"""Embed in bulk on a Ray cluster of two nodes, with the tables in a folder and on an S3 server; be killed meanwhile.

    python benchmarks/ray_cluster.py --results results/ray.json

Two Ray nodes run on this machine, each with processes of its own; so does the S3 server (moto's, an emulation). Drawn
pictures are indexed by one process, by the cluster, by the cluster with the tables on S3, and so again after the
command was killed in the middle. Every vector is compared with the single process's.

Needs the packages ``ray``, ``daft``, ``moto`` and ``flask`` beside what an index needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lpi.data.scenes import load_scenes
from lpi.evaluation.machine import environment
from lpi.search import SearchIndex
from lpi.search.building import create
from lpi.storage import write_json

NODES = 2
BUCKET = "pictures"
KILLED = """
import os, signal, sys
from lpi.search.writer import change
def count(what, done, total):
    if what == "embedding pictures" and done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
with change(sys.argv[1], device="cpu", processes=int(sys.argv[3]), keep_seconds=0.5) as writer:
    writer.update(on_progress=count)
"""
Json = dict[str, Any]


class Busy:
    """Processor seconds that the processes of each node spent on what is asked meanwhile.

    Args:
        roots: the first process of each node.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self.roots = roots
        self._seconds: list[dict[int, float]] = [{} for _ in roots]
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Busy:
        self._look()
        self._before = self._sums()
        self._watching.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._ended.set()
        self._watching.join()

    def seconds(self) -> list[float]:
        """Of each node."""
        return [round(now - before, 1) for now, before in zip(self._sums(), self._before, strict=True)]

    def _sums(self) -> list[float]:
        return [sum(own.values()) for own in self._seconds]

    def _watch(self) -> None:
        while not self._ended.wait(0.3):
            self._look()

    def _look(self) -> None:
        for root, own in zip(self.roots, self._seconds, strict=True):
            for process in psutil.Process(root).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    spent = process.cpu_times()
                    own[process.pid] = spent.user + spent.system


def draw(folder: Path, count: int) -> Path:
    """Drawn pictures, as PNG files."""
    folder.mkdir()
    each = -(-count // 4)
    records = load_scenes(families=["food", "animal"], train=each, validation=0, test=each, held_out=0)
    for number, record in enumerate(records[:count]):
        record.picture.open(96).save(folder / f"{number:04}.png")  # type: ignore[call-arg]
    return folder


def indexed(photos: Path, place: Path, *more: str, **env: str) -> Json:
    """Index pictures in a process of its own; returns seconds, and how many pictures it embedded."""
    started = time.monotonic()
    command = [sys.executable, "-m", "lpi", "index", str(photos), "--index", str(place), "--device", "cpu", "--json"]
    command += more
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}")
    return {"seconds": round(time.monotonic() - started, 1), "embedded": json.loads(done.stdout)["embedded"]}


def vectors(place: Path) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float32]]]:
    """Ids of an index's pictures, and their vectors."""
    rows = SearchIndex.open(place, device="cpu").rows()
    ids = sorted(rows.columns("id")["id"])
    return ids, rows.vectors(ids)


def compared(place: Path, alone: Path) -> Json:
    """How far the vectors of an index are from those that one process made."""
    (ids, found), (expected, single) = vectors(place), vectors(alone)
    return {
        "pictures": len(ids),
        "same_pictures": ids == expected,
        "bits_equal": found.tobytes() == single.tobytes(),
        "largest_difference": float(np.abs(found - single).max()) if found.shape == single.shape else None,
    }


def killed(place: Path, at: int, **env: str) -> None:
    """Go on with an index, and be killed once so many pictures are embedded."""
    words = [sys.executable, "-c", KILLED, str(place), str(at), str(NODES)]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"it wasn't killed: {done.stderr}")


def measured(work: Path, count: int, cluster: Json, s3: Json, roots: Sequence[int]) -> Json:
    """What comes out of each way to embed."""
    photos = draw(work / "photos", count)
    alone, spread, stored, broken = (work / name for name in ("alone", "spread", "stored", "broken"))
    many = ("--processes", str(NODES))
    found: Json = {"one_process": indexed(photos, alone, "--model", "lpi-tiny")}
    with Busy(roots) as busy:
        told = indexed(photos, spread, "--model", "lpi-tiny", *many, **cluster)
    found["cluster"] = {**told, "seconds_of_each_node": busy.seconds(), **compared(spread, alone)}
    told = indexed(photos, stored, "--model", "lpi-tiny", *many, "--store", f"s3://{BUCKET}/whole", **cluster, **s3)
    found["cluster_with_tables_on_s3"] = {**told, **compared(stored, alone)}
    create(broken, photos, "lpi-tiny", device="cpu", store=f"s3://{BUCKET}/killed")
    killed(broken, count // 2, **cluster, **s3)
    counted = len(SearchIndex.open(broken, device="cpu"))
    found["killed_in_the_middle_and_given_again"] = {
        "searchable_after_the_kill": counted,
        **indexed(photos, broken, *many, **cluster, **s3),
        **compared(broken, alone),
    }
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--results", type=Path, default=Path("results/ray.json"))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    from moto.server import ThreadedMotoServer
    from ray.cluster_utils import Cluster

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    roots = [
        own.all_processes["raylet"][0].process.pid
        for own in sorted(cluster.list_all_nodes(), key=lambda own: not own.head)
    ]
    try:
        s3 = credentials(server.get_host_and_port()[1])
        with tempfile.TemporaryDirectory() as work:
            os.environ |= s3
            address = {"DAFT_RUNNER": "ray", "RAY_ADDRESS": cluster.address}
            found = measured(Path(work), options.pictures, address, s3, roots)
    finally:
        cluster.shutdown()
        server.stop()
    command = shlex.join(["python", "benchmarks/ray_cluster.py", *sys.argv[1:]])
    about = environment()
    about["versions"] |= {name: version(name) for name in ("daft", "lancedb", "moto", "ray")}
    record = {"nodes": NODES, **found, "command": command, **about}
    write_json(options.results, record)
    print(json.dumps(record, indent=1))


def credentials(port: int) -> dict[str, str]:
    """The environment in which the S3 server on this machine is reached; makes the bucket."""
    import boto3

    address = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT": address,
        "AWS_ALLOW_HTTP": "true",
    }
    os.environ |= env
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    return env


if __name__ == "__main__":
    main()
