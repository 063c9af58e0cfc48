"""The ports of the tests themselves."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import ExitStack

import pytest

from tests.kits import ports


def test_a_share_of_ports_that_another_program_holds_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench beside the tests simulates 3,000 devices: a test then looked for a port for ever."""
    base = ports.free_port()
    taken, spare = range(base, base + 2), range(base + 2, base + 4)
    rest = iter([spare])
    monkeypatch.setattr(ports, "_SHARE", 2)
    monkeypatch.setattr(ports, "_shares", {os.getpid(): itertools.cycle(taken)})
    monkeypatch.setattr(ports, "_share", lambda: next(rest))
    with ExitStack() as stack:
        for port in taken:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        assert ports.free_port() in spare


def test_a_process_that_starts_meanwhile_holds_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between fork and exec it has copies of all sockets, also of one that is about to be closed."""
    copies: list[int] = []

    class Copied(socket.socket):
        def close(self) -> None:
            copies.append(os.dup(self.fileno()))
            super().close()

    with ExitStack() as stack:
        with monkeypatch.context() as patched:
            ports.free_port()  # this process has its share
            patched.setattr(socket, "socket", Copied)
            port = ports.free_port()
        for copy in copies:
            stack.callback(os.close, copy)
        assert copies
        stack.enter_context(socket.create_server(("127.0.0.1", port)))
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
