"""Who may ask: on loopback whoever sits at this machine, and no page from elsewhere; otherwise who has the token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response

from lpi.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHORTEST_TOKEN = 8
HEADERS = {
    # nothing but our own files: no inline script or style, no frame around the page, nothing from elsewhere
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # or any page could show pictures whose ids it knows
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def token_for(host: str, given: str | None) -> str | None:
    """The token that is asked for: the given one, a new one where others can reach the server, or none.

    Raises:
        ConfigError: the given one is too short, or can't stand in a header.
    """
    if given is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if len(given) < SHORTEST_TOKEN or not given.isascii() or not given.isprintable() or set(given) & set(' ";,\\'):
        raise ConfigError(
            f"a token must have at least {SHORTEST_TOKEN} letters, digits or signs without spaces, quotes, commas and "
            "semicolons. Leave it out to get one."
        )
    return given


def host_name(header: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("localhost:8000"), host_name("[::1]:8000")
    ('localhost', '::1')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def from_here(headers: Headers) -> bool:
    """Whether a request comes from the server's own page, or from no page at all.

    A browser says which. Over an unencrypted connection to another machine it only says the address of the page.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


class Guard:
    """Stands before everything else: refuses who may not ask, and tells browsers what a page may do.

    A server on loopback has no token by default, but any page in a browser on the machine could reach it under a name
    of its own that was made to point to 127.0.0.1. Such requests carry that name as their Host, and are refused. So is
    whatever another site's page sends that may change something.

    Args:
        app: what it stands before.
        token: who has it may ask; ``None`` lets everybody.
        local: the server listens on loopback.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, local: bool) -> None:
        self.app, self.local = app, local
        self.token = None if token is None else token.encode()
        # servers on other ports of this host share its cookies
        self.cookie = "" if token is None else f"lpi-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets here

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(scope)
        await (self.app if answer is None else answer)(scope, receive, guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """The refusal of a request; ``None`` for a request that is all right."""
        headers = Headers(scope=scope)
        host = host_name(headers.get("host", ""))
        if self.local and not is_loopback(host):
            message = f"this server answers as localhost only; got the host {host[:80]!r}. Open it as http://127.0.0.1."
            return JSONResponse({"error": message}, 403)
        if scope["method"] not in ("GET", "HEAD") and not from_here(headers):
            message = (
                "this comes from a page of another site, which mustn't change anything here. Use the server's own."
            )
            return JSONResponse({"error": message}, 403)
        if self.token is None:
            return None
        entered = parse_qs(scope["query_string"].decode("latin-1")).get("token") if scope["path"] == "/" else None
        if entered is not None and self._is_token(entered[0].encode()):
            welcome = RedirectResponse("./", 303)
            welcome.set_cookie(self.cookie, self.token.decode(), httponly=True, samesite="strict", path="/")
            return welcome
        scheme, _, told = headers.get("authorization", "").partition(" ")
        kept = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        if (scheme.lower() == "bearer" and self._is_token(told.strip().encode())) or self._is_token(kept.encode()):
            return None
        message = "a token is needed. Open /?token=TOKEN in a browser, or send the header Authorization: Bearer TOKEN."
        return JSONResponse({"error": message}, 401, {"WWW-Authenticate": "Bearer"})

    def _is_token(self, given: bytes) -> bool:
        return self.token is not None and hmac.compare_digest(given, self.token)
