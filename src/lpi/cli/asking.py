"""One search, answered by the index itself or by a server of it that runs already: then no model need be loaded."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from lpi.errors import ConfigError, LpiError
from lpi.storage import read_json

if TYPE_CHECKING:
    from lpi.search.hits import Hit

NOBODY = "none"
LOOK_SECONDS, ANSWER_SECONDS = 2.0, 120.0


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        stage: that was searched.
        cut: the model read only the start of the words.
        routes: the domains that answered, and how much each counted.
        hits: the best first.
        known: whether it can be said how well pictures fit.
    """

    stage: int
    cut: bool
    routes: list[tuple[str, float]]
    hits: list[Hit]
    known: bool


def running(place: Path) -> str | None:
    """The address of a server of an index on this machine; ``None`` where none answers.

    What another machine is sent (words, pictures, the token) is for a person to decide, not for what lies in a folder.
    """
    from lpi.search.places import SERVER

    try:
        told = read_json(place / SERVER, dict)
        address = str(told["address"])
        if not is_here(urlsplit(address).hostname or ""):
            return None
        answer = _answer(f"{address}api/health", seconds=LOOK_SECONDS)
        return address if answer["server"] == told["server"] else None
    except (LpiError, KeyError, TypeError, ValueError):
        return None


def is_here(host: str) -> bool:
    """Whether an address is one of this machine: at any other nobody here could listen.

    >>> is_here("127.0.0.1"), is_here("192.0.2.1"), is_here("")
    (True, False, False)
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as own:
            own.bind(place)
    except (OSError, UnicodeError):
        return False
    return bool(host)


def ask(address: str, parameters: Mapping[str, object], image: Path | None) -> Found:
    """The answer of a server; its token, if it needs one, is that of ``LPI_TOKEN``.

    Raises:
        LpiError: it can't be reached, or refuses; the message is its own.
        ConfigError: the picture can't be read.
    """
    from lpi.search.hits import Hit

    given = {name: str(value) for name, value in parameters.items() if value is not None}
    try:
        content = None if image is None else image.read_bytes()
    except OSError as error:
        raise ConfigError(f"{image} can't be read: {error.strerror}.") from error
    told = _answer(f"{address.rstrip('/')}/api/search?{urlencode(given)}", content)
    names = [field.name for field in fields(Hit)]
    hits = [Hit(**{name: hit[name] for name in names} | {"copies": tuple(hit["copies"])}) for hit in told["hits"]]
    routes = [(route["task"], route["weight"]) for route in told["routes"]]
    return Found(told["stage"], told["cut"], routes, hits, told["fits_well"] is not None)


def _answer(address: str, content: bytes | None = None, *, seconds: float = ANSWER_SECONDS) -> Any:
    token = os.environ.get("LPI_TOKEN")
    headers = {"Content-Type": "application/octet-stream", **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        request = Request(address, content, headers)
        with build_opener(ProxyHandler({})).open(request, timeout=seconds) as answer:
            return json.load(answer)
    except HTTPError as error:
        try:
            said = json.load(error)["error"]
        except (ValueError, KeyError, TypeError):
            said = f"the server answered {error.code}."
        raise LpiError(said) from error
    except (URLError, OSError, ValueError) as error:
        where = address.partition("/api/")[0]
        raise LpiError(f"{where}: no server of lpi answers there. Check --server, or leave it out.") from error
