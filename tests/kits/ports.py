"""TCP ports for tests. No two processes get the same port, and the kernel uses none of them for a connection."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

_FIRST, _SHARES, _SHARE = 20_000, 20, 600  # below the range of outgoing connections, 32768 and above
held: set[int] = set()  # descriptors of the sockets that reserve shares; no test has left them open
_shares: dict[int, Iterator[int]] = {}  # by process id, because a forked process has its own share


def free_port() -> int:
    """A port on which nothing listens, and which no other process of the tests chooses while this process lives.

    A share has more ports than a whole run takes, because a line that was stopped for a while must find its port free.

    A process that another thread is just starting has a copy of the probe until its program begins. With SO_REUSEADDR
    that copy is in no server's way.
    """
    ports = _shares.get(os.getpid()) or _shares.setdefault(os.getpid(), itertools.cycle(_share()))
    while True:
        for port in itertools.islice(ports, _SHARE):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return port
        # another program has all of them, such as a bench that simulates thousands of devices
        ports = _shares[os.getpid()] = itertools.cycle(_share())


def _share() -> range:
    """Reserve ports for this process until it ends. It holds a Unix socket whose name has the number of the share.

    Like a port, an abstract socket name can be held by only one process in a network namespace, whatever its user and
    folder.
    """
    for number in range(_SHARES):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0meterhouse-test-ports-{number}")
        except OSError:
            holder.close()
            continue
        held.add(holder.detach())  # open as long as the process lives
        first = _FIRST + number * _SHARE
        return range(first, first + _SHARE)
    raise RuntimeError(
        f"all ports for tests, {_FIRST} to {_FIRST + _SHARES * _SHARE - 1}, are in use by other programs"
    )
