"""Where to listen, and what a person opens to get there. Needs none of the server's parts, so it answers at once."""

from __future__ import annotations

import errno
import socket

from lpi.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the port is in use or mustn't be used, or there is no such host.
    """
    name = host.strip("[]")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"--host {host}: there is no such address here. Use 127.0.0.1, or one of this machine."
        ) from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use. Name another with --port, or 0 for a free one."
            ) from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} may not be used. Name one above 1023 with --port.") from error
        raise ConfigError(
            f"{host}:{port} can't be listened at ({error.strerror}). Name another --host or --port."
        ) from error
    return opened


def page_address(host: str, port: int) -> str:
    """The address that a person opens.

    >>> page_address("127.0.0.1", 8000), page_address("::1", 8000)
    ('http://127.0.0.1:8000/', 'http://[::1]:8000/')
    """
    name = host.strip("[]")
    if name in ("0.0.0.0", "::", ""):  # every address of this machine: others know it by its name
        name = socket.gethostname()
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"
