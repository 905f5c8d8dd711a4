"""``lpi serve`` as a process: from a folder of pictures to answers, and to a clean end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from commands import Type, refused
from conftest import Painted

import lpi

ENVIRONMENT = {
    "PYTHONPATH": str(Path(lpi.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "PATH": os.environ["PATH"],
    "PYTHONWARNINGS": "ignore",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for colour in ("red", "blue"):
        for shape in ("dot", "box", "bar"):
            file = folder / colour / f"{shape}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Painted(colour, shape, 1).open().save(file)
    return folder


@contextmanager
def running(words: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and the one line that it says."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *words], env={**ENVIRONMENT, **environment}, **pipes) as process:
        try:
            out: IO[str] = process.stdout  # type: ignore[assignment]
            line = out.readline()
            assert line, process.communicate()[1]
            yield process, line
        finally:
            process.kill()


def answered(address: str) -> float:
    """How many searches a server has answered."""
    counted = r'^lpi_requests_total\{method="GET",route="/api/search",status="200"\} (.*)$'
    found = re.search(counted, httpx.get(f"{address}metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_newcomer_gets_from_a_folder_to_answers(photos: Path, type_command: Type) -> None:
    with running(["-m", "lpi", "serve", str(photos), "--port", "0", "--threads", "1"]) as (process, line):
        said = re.fullmatch(r"Search 6 pictures of photos at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        assert said, line
        address = said[1]
        assert httpx.get(f"{address}api/info").json()["folders"] == [".", "blue", "red"], "not its own index"
        hits = httpx.get(f"{address}api/search", params={"q": "a red dot"}).json()["hits"]
        assert len(hits) == 6
        assert httpx.get(address.rstrip("/") + hits[0]["thumbnail"]).content[:2] == b"\xff\xd8"
        asked = ("search", "a red dot", "--index", photos, "--json")
        before = answered(address)
        there, here = type_command(*asked), type_command(*asked, "--server", "none")
        assert answered(address) == before + 1, "it is asked, so that no model need be loaded"
        assert [hit["path"] for hit in json.loads(there.out)["hits"]] == [hit["path"] for hit in hits]
        near = pytest.approx([hit["score"] for hit in json.loads(here.out)["hits"]], abs=1e-5)
        assert [hit["score"] for hit in json.loads(there.out)["hits"]] == near
        assert json.loads(there.out)["hits"][0].keys() == json.loads(here.out)["hits"][0].keys()
        alike = type_command("search", "--image", photos / hits[0]["path"], "--index", photos, "--server", address)
        assert (alike.code, hits[0]["path"] in alike.out) == (0, True)
        wrong = type_command("search", "x", "--index", photos, "--server", address, "--stage", 7)
        refused(wrong, "stage must be between 0 and 0; got 7")
        large = httpx.post(f"{address}api/search", content=b"x" * 21_000_000)
        assert (large.status_code, "at most 20,971,520 bytes" in large.json()["error"]) == (413, True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "")
        assert err.endswith("Stopped.\n")
        assert "Traceback" not in err
        assert not (photos / ".lpi-index" / ".lpi-index").exists()
        assert not (photos / ".lpi-index" / "server.json").exists()
        refused(type_command(*asked, "--server", address), address.rstrip("/"), "no server of lpi answers there")
        assert json.loads(type_command(*asked).out)["hits"][0]["path"] == hits[0]["path"]


def test_python_serves_with_a_token_and_ends_when_it_is_told(photos: Path) -> None:
    script = (
        "import sys, lpi\n"
        "photos = lpi.SearchIndex.build('lpi-tiny', sys.argv[1], device='cpu')\n"
        "photos.serve(port=0, token='a-long-token', threads=1)\n"
    )
    with running(["-c", script, str(photos)]) as (process, line):
        address = line.split()[6]
        assert "a-long-token" not in line, "who gave it knows it"
        assert httpx.get(f"{address}api/health").status_code == 401
        told = {"Authorization": "Bearer a-long-token"}
        assert httpx.get(f"{address}api/health", headers=told).json()["pictures"] == 6
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_mistakes_are_one_line_and_exit_code_2(
    photos: Path, tmp_path: Path, type_command: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPI_INDEX", raising=False)
    serve = ("serve", "--port", 0)  # the usual port may be in use
    refused(type_command(*serve), "Name a folder of pictures, or an index with --index")
    refused(type_command(*serve, "--index", tmp_path / "no"), "there is no index")
    refused(type_command(*serve, tmp_path / "no"), "there is no such folder")
    refused(type_command(*serve, "--index", tmp_path, "--model", "lpi-tiny"), "--model is for a folder")
    refused(type_command(*serve, photos, "--token", "short"), "a token must have at least 8 letters")
    refused(type_command("serve", "--index", tmp_path, "--port", 70_000), "--port")
    lpi.SearchIndex.build("lpi-tiny", photos, index=tmp_path / "index", device="cpu")
    at = (*serve, "--index", tmp_path / "index")
    refused(type_command(*at, "--ground", tmp_path / "no"), tmp_path / "no")
    refused(type_command(*at, "--host", "no-such-host.invalid"), "no-such-host.invalid", "--host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(type_command("serve", photos, "--port", port), f"port {port} of 127.0.0.1 is in use", "--port")
        assert not (photos / ".lpi-index").exists(), "found before anything was indexed"
