"""Waking the uplink thread: no wake-up is lost, whenever it comes."""

from __future__ import annotations

import os
import select

import pytest

from agent.uplink.queues import WakePipe


def woken(pipe: WakePipe) -> bool:
    poll = select.poll()
    poll.register(pipe.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_a_wake_during_a_drain_leaves_the_pipe_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was put before that wake is processed after the drain; the next wake makes the pipe readable again."""
    pipe = WakePipe()
    read = os.read

    def read_late(fd: int, size: int) -> bytes:
        pipe.wake()
        return read(fd, size)

    pipe.wake()
    with monkeypatch.context() as late:
        late.setattr(os, "read", read_late)
        pipe.drain()
    pipe.wake()
    assert woken(pipe), "a wake after the drain"
    pipe.close()


def test_many_wakes_are_one_wake_up() -> None:
    pipe = WakePipe()
    for _ in range(100_000):
        pipe.wake()
    pipe.drain()
    assert not woken(pipe)
    pipe.wake()
    assert woken(pipe)
    pipe.close()
    pipe.wake()  # does nothing
