"""Modbus TCP answers, whole, cut, mutated and mixed with noise: answers or an error of the line's, nothing else."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys

import pytest

from drivers.line import Answer
from drivers.line.config import RequestOptions
from drivers.line.port import Port
from drivers.line.stats import LineStats
from drivers.modbus.mbap import MbapLink
from drivers.model import LineError
from tests.kits.lines import ask

TIMEOUT_S = 3600.0


class OneWay(Port):
    """What is sent is kept for a look, what the other end of the pair says is read."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("test", sock.fileno(), sock.recv, self._keep)
        self.sent = b""

    def _keep(self, frame: bytes) -> int:
        self.sent = frame
        return len(frame)

    def close(self) -> None:
        """The pair outlives the link."""


async def shake(count: int, seed: int) -> tuple[int, int]:
    """(answers, errors) of ``count`` questions, each followed by one piece of what may come back."""
    rng = random.Random(seed)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    port = OneWay(ours)
    answered = refused = 0
    lost: list[LineError] = []

    def link_of() -> MbapLink:
        return MbapLink(port, lambda: (0, 0), LineStats(0), None, lambda _, error: lost.append(error))

    link = link_of()
    for _ in range(count):
        words = rng.randrange(1, 5)
        results: list[Answer | LineError] = []
        done = link.run([ask(0, words)], results, RequestOptions(timeout_s=TIMEOUT_S))
        tid = int.from_bytes(port.sent[:2]) if rng.random() < 0.9 else rng.randrange(0x10000)
        pdu = (
            bytes((3, 2 * words)) + rng.randbytes(2 * words) if rng.random() < 0.8 else bytes((0x83, rng.randrange(12)))
        )
        frame = bytearray(tid.to_bytes(2) + b"\0\0" + (1 + len(pdu)).to_bytes(2) + b"\1" + pdu)
        if rng.random() < 0.5:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        if rng.random() < 0.2:
            del frame[rng.randrange(len(frame)) :]
        theirs.send(frame)
        for _ in range(2):  # the loop looks at its sockets, then calls whoever reads
            await asyncio.sleep(0)
        verdict = done.result() if done.done() else None
        assert verdict is None or isinstance(verdict, LineError)
        assert not results or isinstance(results[0], Answer)
        answered, refused = answered + bool(results), refused + (verdict is not None)
        link.abandon()
        if lost:
            lost.clear()
            link.close()
            link = link_of()
    link.close()
    ours.close()
    theirs.close()
    return answered, refused


async def test_mutated_answers_never_raise() -> None:
    answered, refused = await shake(2_000, seed=502)
    assert answered > 300 and refused > 300


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_mutated_answers_never_raise_and_leave_nothing_in_memory(
    made_up_time: asyncio.AbstractEventLoop,
) -> None:
    async def blocks_after(seed: int) -> int:
        await shake(1_000, seed)
        await asyncio.sleep(TIMEOUT_S + 1)  # until then, the deadline of a request keeps its closed link
        gc.collect()
        return sys.getallocatedblocks()

    before = made_up_time.run_until_complete(blocks_after(seed=1_000))
    for seed in range(1_000):
        after = made_up_time.run_until_complete(blocks_after(seed))

    assert after - before < 100
