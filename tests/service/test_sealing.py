"""When what is sealed, with a clock that is set at the worst moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from agent.poll import Grid
from agent.service.sealing import Sealing
from agent.service.streams import SealJob, Stream
from agent.service.writer import Writer
from ext.ring import Ring

EVERY_MS = 100


class SetClock:
    """A wall clock that a test can set; the monotonic one is the machine's."""

    def __init__(self) -> None:
        self.beside_ns = 0
        self.grid = Grid(lambda: time.time_ns() + self.beside_ns, time.monotonic_ns)


class CountingWriter:
    """Takes a while for each commit, as a card does, and notes up to where each stream was sealed."""

    def __init__(self) -> None:
        self.sealed: list[tuple[str, int]] = []
        self.begun = asyncio.Event()

    async def seal(self, ring: Ring, jobs: Sequence[SealJob]) -> list[Any]:
        self.begun.set()
        await asyncio.sleep(0.02)
        self.sealed += [(job.stream.name, job.step_ms or job.to_ms) for job in jobs]
        return [SimpleNamespace(job=job, readings=0, gap_readings=0, packs=1, quiet=False) for job in jobs]


class Gateway(Stream):
    """A stream that always has something to say."""

    def due(self, to_ms: int) -> bool:
        return True

    def job(self, to_ms: int, unknown: Any = None) -> SealJob:
        return SealJob(self, to_ms, [], [])


async def test_a_clock_set_back_while_a_pack_is_committed_does_not_stop_sealing() -> None:
    """It did, for as long as the step was: the pause to the next boundary was counted from the old time."""
    clock, writer = SetClock(), CountingWriter()
    sealing = Sealing(cast(Writer, writer), clock.grid, EVERY_MS)
    gateway = Gateway("park7/gw01/_gateway", cast(Any, None), clock.grid.now_ms())
    sealing.open(cast(Ring, object()), gateway)
    task = asyncio.create_task(sealing.run())
    try:
        for _ in range(3):
            writer.begun.clear()
            await asyncio.wait_for(writer.begun.wait(), 5)
        clock.beside_ns -= 3_600_000_000_000  # while this commit is on its way
        step = clock.grid.look()
        assert step and step[1] - step[0] < -3_590_000
        waiting = asyncio.create_task(sealing._seal(step[0], [gateway]))  # and another one waits for its turn
        assert await sealing.cut(*step)
        clock.grid.take_step()
        await waiting
        done = len(writer.sealed)
        assert writer.sealed[-1][1] <= clock.grid.now_ms() + 1, "nothing is sealed up to a time that is not yet"
        async with asyncio.timeout(5):
            while len(writer.sealed) < done + 3:  # noqa: ASYNC110 - the fake writer has no event to wait for
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert all(at <= clock.grid.now_ms() + 1 for _, at in writer.sealed[done:])
