"""Which requests must not pass through a proxy: those to this machine, and to the cluster that this process runs on."""

from __future__ import annotations

import contextlib
import ipaddress
import netrc
import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies

# As NO_PROXY lists this machine. Not every program reads the network; the last two are the services that give a machine
# or a container of AWS its credentials, which a proxy would ask for its own.
_LOCAL = ("localhost", "127.0.0.1", "::1", "127.0.0.0/8", "169.254.169.254", "169.254.170.2")


def is_loopback(host: str) -> bool:
    """Return whether a host, by its name alone, is this machine: localhost, 127.0.0.0/8, ::1, or 0.0.0.0 and ::."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    return host.lower().rstrip(".") == "localhost"


def is_direct(host: str) -> bool:
    """Return whether requests to a host must ignore proxies.

    True for this machine, also if another name or notation resolves to a loopback address (127.1, the machine's own
    name), and for the head of the cluster whose job this process is: nodes reach their head without a proxy.
    """
    own_head = urlsplit(f"//{os.environ.get('RAY_ADDRESS', '').rpartition('://')[2]}").hostname
    if is_loopback(host) or host == own_head:
        return True
    if not getproxies():
        return False
    try:
        found = {each[4][0] for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return all(is_loopback(str(address)) for address in found)


def without_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep the programs of an environment from sending requests for this machine elsewhere.

    The proxies stay in effect for all other hosts. Both spellings of NO_PROXY are set: some programs read only one of
    them, and Python prefers the lower-case one. NETRC: see `_answers_for_loopback`.
    """
    lower, upper = environment.get("no_proxy"), environment.get("NO_PROXY")
    found = {"no_proxy": lower or upper or "", "NO_PROXY": upper or lower or ""}
    if "no_grpc_proxy" in environment:  # gRPC then reads no other
        found["no_grpc_proxy"] = environment["no_grpc_proxy"]
    changed = {name: _with_loopback(value) for name, value in found.items()}
    if _answers_for_loopback(environment):
        changed["NETRC"] = os.devnull
    return changed


def _with_loopback(no_proxy: str) -> str:
    entries = [entry.strip() for entry in no_proxy.split(",") if entry.strip()]
    if entries == ["*"]:  # all hosts, but only if it is the only entry
        return "*"
    return ",".join(dict.fromkeys([*entries, *_LOCAL]))


def _answers_for_loopback(environment: Mapping[str, str]) -> bool:
    """Return whether the user's .netrc has a password for this machine, or one for all hosts (`default`).

    `requests`, with which Ray's own State API client asks the head, would send this password instead of the token.
    """
    names = [environment["NETRC"]] if "NETRC" in environment else ["~/.netrc", "~/_netrc"]
    paths = [path for path in map(os.path.expanduser, names) if os.path.exists(path)]
    try:
        hosts = netrc.netrc(paths[0]).hosts if paths else {}
    except (OSError, netrc.NetrcParseError, UnicodeError):
        return False  # `requests` ignores it, too
    return any(host == "default" or is_loopback(host) for host in hosts)
