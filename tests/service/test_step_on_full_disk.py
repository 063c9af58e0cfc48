"""The clock is set while the store cannot commit: the step waits for the store, and polling goes on meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agent.service import app
from agent.store import StoreFull
from agent.store.packs import PackTable
from tests.service.test_reload_refused import running, until

HOUR_NS = 3600 * 10**9


async def test_a_step_that_cannot_be_committed_does_not_stop_polling_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each second all visits were stopped, and the same step was logged, for days if the disk stayed full."""
    monkeypatch.setattr(app, "CLOCK_CHECK_S", 0.01)
    monkeypatch.setattr(app, "RETRY_S", 0.05)
    async with running(tmp_path) as park:
        service = park.service
        manager, clock = service.device_manager, service.clock
        await until(lambda: all(device.stream.packs for device in service.devices))
        stops = looks = 0
        stop, look = manager.stop_pollers, clock.check_step

        async def stopped() -> None:
            nonlocal stops
            stops += 1
            await stop()

        def looked() -> tuple[int, int] | None:
            nonlocal looks
            looks += 1
            return look()

        def full(*args: Any, **named: Any) -> None:
            raise StoreFull("the disk is full", where="store")

        monkeypatch.setattr(manager, "stop_pollers", stopped)
        monkeypatch.setattr(clock, "check_step", looked)
        with monkeypatch.context() as broken:
            broken.setattr(PackTable, "commit", full)
            broken.setattr(clock, "_utc", lambda: time.time_ns() + HOUR_NS)
            await until(lambda: looks > 60 and stops > 0)
            assert stops == 1 and service.sealing.trouble and len(manager.pollers) == 2
        monkeypatch.setattr(clock, "_utc", lambda: time.time_ns() + HOUR_NS)
        await until(lambda: clock.now_ms() > time.time_ns() // 1_000_000 + 3_000_000)
        assert stops >= 2, "taken when the store works again"
        assert sum("the clock was set from" in text for text in caplog.messages) == 1
        packs = {device.config.name: device.stream.packs for device in service.devices}
        await until(lambda: all(one.stream.packs > packs[one.config.name] for one in service.devices))
