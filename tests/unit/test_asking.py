"""Whom ``lpi search`` asks: a server of the index on this machine, one that a person names, or the index itself."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import Type, refused
from search_world import World

from lpi.cli import asking
from lpi.storage import write_json


@contextmanager
def server_of(index: Path, answers: dict[str, tuple[int, Any]]) -> Iterator[list[str]]:
    """Something at an address of this machine that an index names as its server; gives the paths that are asked."""
    asked: list[str] = []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            code, content = answers[self.path.partition("?")[0]]
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *what: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_json(index / "server.json", {"address": f"http://127.0.0.1:{server.server_port}/", "server": "it"})
        try:
            yield asked
        finally:
            server.shutdown()


@pytest.mark.parametrize("address", ["http://192.0.2.1:8000/", "http:///", "file:///etc/", "http://[::1", 5, None])
def test_another_machine_that_a_folder_names_is_told_nothing(
    address: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    class Opener:
        def open(self, request: Any, timeout: float) -> Any:
            sent.append((request.full_url, request.get_header("Authorization")))
            raise OSError

    monkeypatch.setenv("LPI_TOKEN", "a-secret-token")
    monkeypatch.setattr(asking, "build_opener", lambda *handlers: Opener())
    write_json(tmp_path / "server.json", {"address": address, "server": "it"})
    assert asking.running(tmp_path) is None
    assert sent == []
    write_json(tmp_path / "server.json", {"address": "http://127.0.0.1:1/", "server": "it"})
    assert asking.running(tmp_path) is None
    assert sent == [("http://127.0.0.1:1/api/health", "Bearer a-secret-token")]


def test_what_a_server_refuses_the_index_itself_answers(world: World, tmp_path: Path, type_command: Type) -> None:
    mine = world.copy(tmp_path)
    answers = {"/api/health": (200, {"server": "it"}), "/api/search": (400, {"error": "too long for me"})}
    with server_of(mine.index, answers) as asked:
        ended = type_command("search", "a red dot", "--index", mine.index, "--json")
        assert asked[0] == "/api/health"
        assert asked[1].startswith("/api/search?q=a+red+dot")
        assert len(json.loads(ended.out)["hits"]) == 10
        at = json.loads((mine.index / "server.json").read_text())["address"]
        refused(type_command("search", "a red dot", "--index", mine.index, "--server", at), "too long for me")


def test_what_cannot_be_asked_of_a_server_is_said(tmp_path: Path, type_command: Type) -> None:
    asked = ("search", "x", "--index", tmp_path, "--server", "http://127.0.0.1:1")
    for option in (("--device", "cpu"), ("--domain", ""), ("--count", 501), ("--method-file", "x.py")):
        refused(type_command(*asked, *option), "a server isn't asked for --device")
