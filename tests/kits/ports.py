"""TCP ports for tests: no two processes get the same, and the kernel gives none of them to a connection."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import tempfile
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
    """Ports that are this process's until it ends: it holds the lock of a file of theirs."""
    for number in range(_SHARES):
        path = os.path.join(tempfile.gettempdir(), f"meterhouse-test-ports-{os.getuid()}-{number}")
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        first = _FIRST + number * _SHARE
        return range(first, first + _SHARE)
    raise RuntimeError(f"{_SHARES} processes use the ports of tests already")
