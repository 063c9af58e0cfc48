"""The watchdog stops where the work stops, and only there; what the agent says to systemd."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.service.db_thread import DatabaseThread
from agent.service.devices import DeviceManager
from agent.service.systemd import STUCK_S, Watchdog, notify
from drivers.line.stats import LineStats


class Thread:
    """Stands for the database thread, which may hang."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    async def call(self, function: Any) -> Any:
        self.asked.set()
        await self.answer.wait()
        return function(SimpleNamespace(usage=lambda: None, lost_packs=0))


class Bench:
    def __init__(self, **environ: str) -> None:
        self.now_s, self.said, self.thread = 1000.0, [], Thread()  # type: float, list[str], Thread
        self.poller = SimpleNamespace(turns=0, busy=False)
        self.stats = LineStats()
        manager = SimpleNamespace(pollers={"roof": self.poller}, lines={"roof": SimpleNamespace(stats=self.stats)})
        self.watchdog = Watchdog(
            cast(DatabaseThread, self.thread),
            cast(DeviceManager, manager),
            lambda: "well",
            environ,
            lambda: self.now_s,
            self.said.append,
        )

    async def later(self, seconds: float) -> None:
        self.now_s += seconds
        await self.watchdog.feed()


async def test_beats_thrice_as_often_as_the_watchdog_wants() -> None:
    bench = Bench(WATCHDOG_USEC="6000000")
    assert bench.watchdog.every_s == 2.0 and Bench().watchdog.every_s == 10.0
    assert Bench(WATCHDOG_USEC="60000000").watchdog.every_s == 10.0
    await bench.later(0)
    await bench.later(1.9)
    assert bench.said == ["WATCHDOG=1\nSTATUS=well"]
    await bench.later(0.2)
    assert len(bench.said) == 2


async def test_a_thread_that_hangs_has_no_pulse() -> None:
    """A timer in the loop would go on feeding the watchdog while nothing becomes durable."""
    # field pain 73
    bench = Bench()
    bench.thread.answer.clear()
    beat = asyncio.create_task(bench.watchdog.feed())
    await bench.thread.asked.wait()
    bench.now_s += 1000
    assert not bench.said and not beat.done()
    bench.thread.answer.set()
    await beat
    assert len(bench.said) == 1


async def test_a_visit_that_never_ends_has_no_pulse(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.poller.busy = True
    await bench.later(0)
    for _ in range(4):  # a slow line that gets on is no dead one
        bench.stats.timeouts += 1
        await bench.later(STUCK_S - 1)
    assert len(bench.said) == 5
    await bench.later(STUCK_S + 1)
    await bench.later(20)
    assert len(bench.said) == 5
    assert [record.message for record in caplog.records if record.levelname == "CRITICAL"] == [
        "line roof has made no progress for 300 s; the watchdog will restart the agent"
    ]
    bench.poller.turns += 1
    await bench.later(20)
    assert len(bench.said) == 6


async def test_a_line_with_nothing_due_is_well() -> None:
    bench = Bench()
    for _ in range(5):
        await bench.later(STUCK_S)
    assert len(bench.said) == 5


def test_words_arrive_and_nobody_there_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("WATCHDOG=1\nSTATUS=well")
        assert door.recv(200) == b"WATCHDOG=1\nSTATUS=well"
