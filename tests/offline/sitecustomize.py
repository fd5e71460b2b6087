"""Denies the network to a Python process: only this machine itself can be reached.

Python imports a module of this name at start-up. With this folder in PYTHONPATH (isolation.py
puts it there) the tests, the notebooks' kernels and everything that they start are cut off.
"""

import errno
import ipaddress
import socket
import sys

LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname"}  # the first argument is the host
SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # the arguments: socket, address
OWN_NAMES = {"localhost", socket.gethostname()}


def _deny(event: str, arguments: tuple) -> None:
    if event in LOOK_UPS:
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        # an address needs no look-up; whether it may be connected to is checked below
        if host and host not in OWN_NAMES and _address(host) is None:
            raise socket.gaierror(
                socket.EAI_NONAME, f"tests run without a network, so {host!r} is not looked up"
            )
    elif event in SENDS and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        host = arguments[1][0] if arguments[1] else "localhost"  # none: it is connected already
        address = _address(host)
        if host not in OWN_NAMES and not (
            address and (address.is_loopback or address.is_unspecified)
        ):
            raise OSError(
                errno.ENETUNREACH, f"tests run without a network, so {host!r} is not reached"
            )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:  # a name
        return None


sys.addaudithook(_deny)
