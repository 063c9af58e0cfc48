"""Waking the uplink's thread: no ring is lost, whenever it comes."""

from __future__ import annotations

import os
import select

import pytest

from agent.uplink.bell import Bell


def rung(bell: Bell) -> bool:
    poll = select.poll()
    poll.register(bell.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_a_ring_while_the_bell_is_heard_leaves_it_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left before that ring is seen after hearing; the next ring wakes again."""
    bell = Bell()
    read = os.read

    def read_late(fd: int, size: int) -> bytes:
        bell.ring()
        return read(fd, size)

    bell.ring()
    with monkeypatch.context() as late:
        late.setattr(os, "read", read_late)
        bell.heard()
    bell.ring()
    assert rung(bell), "a ring after hearing wakes"
    bell.close()


def test_many_rings_are_one_wake_up() -> None:
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    bell.heard()
    assert not rung(bell)
    bell.ring()
    assert rung(bell)
    bell.close()
    bell.ring()  # nobody waits any more
