"""TCP ports for tests: no two processes get the same, and the kernel gives none of them to a connection."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

_FIRST, _SHARES, _SHARE = 20_000, 20, 600  # below the range of outgoing connections, 32768 and above
_shares: dict[int, Iterator[int]] = {}  # by process id: a forked process has a share of its own


def free_port() -> int:
    """A port that nobody listens on, and that nobody else will choose while this process lives.

    A share is larger than what a whole run takes: a line that was stopped for a while must find its port free.
    """
    ports = _shares.get(os.getpid()) or _shares.setdefault(os.getpid(), itertools.cycle(_share()))
    while True:
        port = next(ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _share() -> range:
    """Ports that are this process's until it ends: it holds a socket with their number as its name.

    Abstract names are as ports are: one process has them, of whichever user and folder, within a network namespace.
    """
    for number in range(_SHARES):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0meterhouse-test-ports-{number}")
        except OSError:
            holder.close()
            continue
        holder.detach()  # open as long as the process lives
        first = _FIRST + number * _SHARE
        return range(first, first + _SHARE)
    raise RuntimeError(f"{_SHARES} processes use the ports of tests already")


_shares[os.getpid()] = itertools.cycle(_share())  # before the first test, which would seem to leave the socket open
