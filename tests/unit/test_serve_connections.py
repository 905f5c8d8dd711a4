"""Connections that ask for nothing are closed in time, and never keep out one that does ask."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn

from lpi.serve.connections import RESERVED, Seldom, most_connections, protocol_for
from lpi.serve.limits import Limits
from lpi.serve.listening import listen
from lpi.serve.server import Server

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and says hello."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextmanager
def serving(limits: Limits) -> Iterator[int]:
    """A server in a thread; gives its port."""
    begun = threading.Event()
    config = uvicorn.Config(
        app, http=protocol_for(limits), ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    with listen("127.0.0.1", 0) as opened:
        server = Server(config, begun.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        assert begun.wait(20)
        try:
            yield opened.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def connect(port: int, said: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=20)
    opened.sendall(said)
    return opened


def closed(one: socket.socket) -> bool:
    """Waits until the server closes a connection, or says something on it."""
    try:
        return one.recv(100) == b""
    except ConnectionResetError:
        return True


def answered(one: socket.socket) -> bool:
    """Waits for a whole answer."""
    said = b""
    while not said.endswith(b"hello") and (more := one.recv(1000)):
        said += more
    return b"200 OK" in said and said.endswith(b"hello")


@pytest.mark.parametrize("said", [b"", b"GET", ASK, ASK + b"X: " + b"a" * 5000])
def test_half_a_head_is_given_up(said: bytes) -> None:
    with serving(Limits(head_seconds=0.2)) as port, connect(port, said) as half:
        assert closed(half)
        with connect(port, ASK + b"\r\n") as whole:
            assert answered(whole)


def test_a_byte_now_and_then_wins_no_time() -> None:
    with serving(Limits(head_seconds=0.5)) as port, connect(port, ASK) as slow:
        slow.settimeout(0.05)
        for _ in range(200):
            try:
                slow.sendall(b"X")
                if slow.recv(10) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("it was never closed")


def test_a_second_half_request_after_a_whole_one_is_given_up() -> None:
    with serving(Limits(head_seconds=0.2)) as port, connect(port, ASK + b"\r\n") as kept:
        assert answered(kept)
        kept.sendall(ASK)
        while kept.recv(1000):
            pass


def test_a_body_that_does_not_come_is_given_up() -> None:
    with serving(Limits(body_seconds=0.2)) as port:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"
        with connect(port, head) as half:
            assert closed(half)


def test_one_too_many_closes_the_oldest_half_and_never_the_one_that_asks() -> None:
    with serving(Limits(connections=4)) as port, ExitStack() as stack:
        idle = stack.enter_context(connect(port, ASK + b"\r\n"))
        assert answered(idle)
        halves = [stack.enter_context(connect(port, ASK)) for _ in range(8)]
        assert all(closed(half) for half in halves[:4])
        with connect(port, ASK + b"\r\n") as whole:
            assert answered(whole)
        idle.sendall(ASK + b"\r\n")
        assert answered(idle), "who was served already comes after the halves"


def test_there_are_fewer_connections_than_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for files, most in ((256, 256 - RESERVED), (1024, 1024 - RESERVED), (100, 25), (resource.RLIM_INFINITY, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, files=files: (files, files))
        assert most_connections() == most


def test_what_any_client_may_cause_is_logged_once_a_minute() -> None:
    seldom = Seldom()

    def record(name: str, level: int, message: str) -> logging.LogRecord:
        return logging.LogRecord(name, level, __file__, 1, message, None, None)

    said = [seldom.filter(record("uvicorn.error", logging.WARNING, "Invalid HTTP request received.")) for _ in range(9)]
    assert said == [True] + [False] * 8
    said = [seldom.filter(record("asyncio", logging.ERROR, f"out of system resource\nsocket: {n}")) for n in range(9)]
    assert said == [True] + [False] * 8
    assert all(seldom.filter(record("uvicorn.error", logging.ERROR, "Exception in ASGI application")) for _ in range(9))
