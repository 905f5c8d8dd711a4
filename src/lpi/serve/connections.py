"""Connections that ask for nothing: they are given little time, and make room for those that do ask.

A server holds each connection open until a request has come in whole, and a process may hold only so many. Whoever
sends halves of requests, by accident or to do harm, would soon have taken all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lpi.serve.limits import Limits

ACCEPTED = 16  # connections that are taken at once: asyncio takes so many before it looks at any
RESERVED = 128  # files that are open besides: those of the index, and connections that are just being closed
SELDOM_SECONDS = 60.0


def most_connections() -> int:
    """How many connections may be open at once, by how many files this process may."""
    try:
        import resource

        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except ImportError:  # Windows has no such limit
        return 1000
    if files == resource.RLIM_INFINITY:
        return 1000
    return max(files // 4, min(1000, files - RESERVED))


class PatientProtocol(H11Protocol):
    """Uvicorn's protocol of one connection, which gives up on a request that doesn't come in.

    Attributes:
        limits: of requests.
        most: connections at once.
    """

    limits: ClassVar[Limits] = Limits()
    most: ClassVar[int] = 1000

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.since = self.loop.time()  # when it last began to wait for a request, or for the rest of one
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, and wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            others = [own for own in self.connections if isinstance(own, PatientProtocol) and own is not self]
            least = least_needed(others)
            least.transport.abort()
            self.connections.discard(least)  # it counts no more, though it is closed a moment later
        self._await()

    def data_received(self, data: bytes) -> None:
        """Take what came in, and wait for the rest."""
        super().data_received(data)
        self._await()

    def on_response_complete(self) -> None:
        """Wait for the next request, part of which may be here."""
        super().on_response_complete()
        self._await()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock of a connection that is gone."""
        self._set_deadline("", None)
        super().connection_lost(exc)

    @property
    def awaited(self) -> str:
        """What hasn't come in yet: the rest of a ``head`` or of a ``body``, the ``next`` request, or nothing."""
        if self.conn.their_state is h11.IDLE:
            served = self.cycle is not None and not self.conn.trailing_data[0]
            return "next" if served else "head"
        return "body" if self.conn.their_state is h11.SEND_BODY else ""

    def _await(self) -> None:
        """Let time begin when something else is awaited: whoever sends a byte now and then wins none."""
        awaited = self.awaited
        if awaited != self._awaited:
            # between two requests, uvicorn has a limit of its own
            seconds = {"head": self.limits.head_seconds, "body": self.limits.body_seconds}.get(awaited)
            self._set_deadline(awaited, seconds)

    def _set_deadline(self, awaited: str, seconds: float | None) -> None:
        self._awaited, self.since = awaited, self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()


def least_needed(connections: Iterable[PatientProtocol]) -> PatientProtocol:
    """The connection to close: the oldest without a whole head, else the oldest idle one, else one without its body."""
    order = ("head", "next", "body", "")
    return min(connections, key=lambda one: (order.index(one.awaited), one.since))


def protocol_for(limits: Limits) -> type[PatientProtocol]:
    """The protocol with these limits, as uvicorn's ``http`` takes it."""
    most = limits.connections or most_connections()
    return type("LimitedProtocol", (PatientProtocol,), {"limits": limits, "most": most})


class Seldom(logging.Filter):
    """Lets a complaint through once a minute: anybody may cause thousands, and they would fill a disk."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a complaint may be logged now."""
        line = record.getMessage().partition("\n")[0]
        if record.name != "asyncio" and record.levelno != logging.WARNING:  # a fault of ours is always told
            return True
        now = time.monotonic()
        if now - self._said.get(line, -SELDOM_SECONDS) < SELDOM_SECONDS:
            return False
        if len(self._said) > 100:
            self._said.clear()
        self._said[line] = now
        return True


def complain_seldom() -> None:
    """Let what any client may cause be logged once a minute."""
    seldom = Seldom()
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(own, Seldom) for own in logger.filters):
            logger.addFilter(seldom)
