"""Listening: a free port, one line that says where, and a clean end."""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from lpi.errors import LpiError, OutputError
from lpi.search.index import SearchIndex
from lpi.search.places import SERVER
from lpi.serve.app import create_app
from lpi.serve.connections import ACCEPTED, complain_seldom, protocol_for
from lpi.serve.limits import Limits
from lpi.serve.listening import listen, page_address
from lpi.serve.security import is_loopback, token_for
from lpi.serve.service import Service
from lpi.storage import read_json, write_json

if TYPE_CHECKING:
    from lpi.methods.grounding.base import GroundingMethod

GRACE_SECONDS = 5
WAITING_OUTSIDE = 1024  # connections that the system keeps until they are taken
KEEP_ALIVE_SECONDS = 60  # a person looks at pictures for a while before asking again


class Server(uvicorn.Server):
    """Uvicorn's server, which also tells when it listens.

    Args:
        config: uvicorn's.
        on_listening: called once requests are answered.
    """

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, or who watches over the process: answer what was asked, then end; however often it is said."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        complain_seldom()
        await super().startup(sockets=sockets)
        for own in sockets or ():
            own.listen(WAITING_OUTSIDE)
        if self.started:
            self._on_listening()


def serve(
    index: SearchIndex,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    grounder: GroundingMethod | None = None,
    batching: bool = True,
    threads: int | None = None,
    open_page: bool = False,
    limits: Limits | None = None,
    teaching: bool = True,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """Serve an index until Ctrl-C.

    Args:
        index: what is searched.
        host: the address to listen at. Others than this machine can reach it only at another than loopback's, and then
            need the token.
        port: to listen at; 0 takes a free one.
        token: see :func:`lpi.serve.security.token_for`.
        grounder, batching, threads, limits, teaching: see :class:`lpi.serve.service.Service`.
        open_page: open the page in a browser.
        say: told the one line that says where the page is.

    Raises:
        ConfigError: the port is in use or mustn't be used, or there is no such host.
    """
    wanted = token_for(host, token)
    listening = listen(host, port)
    address = page_address(host, listening.getsockname()[1])
    service = Service(index, grounder=grounder, batching=batching, threads=threads, limits=limits, teaching=teaching)
    found_at = index.folder / SERVER
    app = create_app(service, token=wanted, local=is_loopback(host))

    def begun() -> None:
        with contextlib.suppress(OutputError):  # somebody else's index
            write_json(found_at, {"address": address, "server": service.name})
        entry = f"{address}?token={wanted}" if wanted is not None and token is None else address
        pictures = "1 picture" if len(index) == 1 else f"{len(index):,} pictures"
        say(f"Search {pictures} of {index.root.name} at {entry} (Ctrl-C ends it)")
        if open_page:
            webbrowser.open(f"{address}?token={wanted}" if wanted is not None else address)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would hold what people look for, and the token
        server_header=False,
        proxy_headers=False,
        http=protocol_for(service.limits),
        backlog=ACCEPTED,
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with listening:
        server = Server(config, begun)
        try:
            server.run(sockets=[listening])
        finally:
            with contextlib.suppress(LpiError, OSError):
                if read_json(found_at, dict).get("server") == service.name:
                    found_at.unlink()
    if not server.started:
        raise LpiError("the server couldn't begin; the lines above say why.")
