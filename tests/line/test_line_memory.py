"""What a silent device costs in memory: nothing, however often it is asked."""

from __future__ import annotations

import gc
import tracemalloc

from drivers.line import Answer
from drivers.model import LineTimeout
from tests.kits.lines import Field, ask, open_files, sim_device

WARM, ROUNDS = 50, 200


async def test_exceptions_of_a_gateway_leave_nothing_behind(field: Field) -> None:
    """field pain 67: messages kept by id, leaks where a gateway answers for a device that is gone."""
    sim = await field.tcp(sim_device(1), absent=0x0B)
    line = field.line(sim, timeout_s=20.0)

    async def rounds(count: int) -> None:
        for _ in range(count):
            good, gone = await line.burst([ask(), ask(unit=2)], line.request_options())
            assert isinstance(good, Answer) and isinstance(gone, LineTimeout)

    await rounds(WARM)
    field.bus(0).trace.clear()
    gc.collect()  # sockets of tests before this one too
    files = open_files()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await rounds(ROUNDS)
        field.bus(0).trace.clear()  # the simulator's own
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000, f"{grown} bytes after {ROUNDS} exceptions"
    assert open_files() == files and sim.accepted == 1
