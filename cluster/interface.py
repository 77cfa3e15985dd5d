"""The network interface that a node's part of a cluster uses: `python -m cluster.interface [NAME]` prints it.

Printed are its name and its IPv4 address. Without a name it is the first interface with a private address; those that
container engines and virtual machines create are left out, because other nodes do not reach their addresses.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

_SIOCGIFADDR = 0x8915  # Linux' request for an interface's IPv4 address, see netdevice(7)
_LOCAL = ("docker", "br-", "veth", "virbr", "vnet", "cni", "flannel", "cali", "podman", "lxc")


class Interface(NamedTuple):
    name: str
    address: str  # IPv4


def interfaces() -> list[Interface]:
    """Return this machine's interfaces that have an IPv4 address, in the kernel's order."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                reply = fcntl.ioctl(any_socket, _SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address
                continue
            found.append(Interface(name, socket.inet_ntoa(reply[20:24])))
    return found


def choose(found: Sequence[Interface], name: str) -> Interface:
    """Return the interface of this name, or the first one with a private address if the name is empty.

    Raises ValueError, in one line with what there is.
    """
    there = ", ".join(f"{each.name} {each.address}" for each in found) or "none"
    if name:
        for each in found:
            if each.name == name:
                return each
        raise ValueError(f"no network interface {name} with an IPv4 address; there is: {there}")
    for each in found:
        address = ipaddress.ip_address(each.address)
        if address.is_private and not (address.is_loopback or address.is_link_local or each.name.startswith(_LOCAL)):
            return each
    raise ValueError(f"no network interface has a private IPv4 address; name one by ARSPM_INTERFACE, of: {there}")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        print(*choose(interfaces(), name))
    except ValueError as error:
        sys.exit(f"error: {socket.gethostname()}: {error}")


if __name__ == "__main__":
    main()
