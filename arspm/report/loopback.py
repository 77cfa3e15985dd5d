"""What the servers on loopback have in common: a token in the URL's path, the host names, and the first free port.

Every user of the machine can connect to loopback, so the URL's path starts with a token, a new one at each start.
"""

from __future__ import annotations

import errno
import re
import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

FOREIGN_HOST = b"The host name must be localhost or 127.0.0.1.\n"  # what such a request is answered
_HOST_HEADER = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?", re.IGNORECASE)
_PORTS_TRIED = 50

T = TypeVar("T")


def new_token() -> str:
    """Return a token of 128 bits."""
    return secrets.token_urlsafe(16)


def is_local(hosts: Sequence[str]) -> bool:
    """Return whether a request's Host headers are one that names loopback.

    DNS rebinding: a foreign host name that resolves to 127.0.0.1 would let that site's page use the server.
    """
    return len(hosts) == 1 and _HOST_HEADER.fullmatch(hosts[0].strip()) is not None


def has_token(path: str, root: str) -> bool:
    """Return whether a request's path begins with the root that contains the token, in constant time."""
    return secrets.compare_digest(path[: len(root)].encode(), root.encode())


def require_port(port: int) -> None:
    """Raise ValueError for a number that is no port's. 0 stands for any free port."""
    if not 0 <= port < 65536:
        raise ValueError(f"port {port}: must be from 0 to 65535")


def at_free_port(port: int, bind: Callable[[int], T]) -> T:
    """Return `bind(candidate)` for the first port from `port` on that is free. Raises ValueError if there is none."""
    require_port(port)
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        try:
            return bind(candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"port {candidate}: {error.strerror}; choose another") from None
    raise ValueError(f"port {port} and the next {_PORTS_TRIED - 1} are taken; choose another")
