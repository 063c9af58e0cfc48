"""Helpers for the tests of scans: simulated buses on wires, and commands that scan them in made-up time."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Sequence
from typing import Any

from agent.cli.main import outcome
from drivers.line import Line, LineConfig, SerialSetting, open_line
from drivers.line.config import Target
from drivers.line.port import Port
from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from tests.conftest import MadeUpTime
from tests.kits.wires import SerialWire, Wire, clock


class Park:
    """Simulated lines on wires, and commands that use them in this process, in made-up time."""

    def __init__(self) -> None:
        self._lines: dict[str, Wire] = {}
        self.now_s = 1_000_000.0  # continues from one command to the next

    def pty(self, bus: Bus, baud: int = 115200) -> SerialWire:
        return self._added(SerialWire(bus, len(self._lines), baud=baud))

    def tcp(self, bus: Bus, framing: Any = "mbap") -> Wire:
        return self._added(Wire(bus, len(self._lines), framing=framing))

    def also(self, wire: Wire, scheme: str) -> str:
        """Add the same line under another scheme, whose frames it does not understand. Returns the URL."""
        url = f"{scheme}://{wire.url.partition('://')[2]}"
        self._lines[url] = wire
        return url

    def _added(self, wire: Any) -> Any:
        self._lines[wire.url] = wire
        return wire

    def outcome(self, args: Sequence[str]) -> int:
        """Run a command line that uses our lines. Returns its exit code."""
        before = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(_Made(self))
        try:
            return outcome(args, self._line)
        finally:
            asyncio.set_event_loop_policy(before)

    def _line(self, config: LineConfig, *, trace: Any = None) -> Line:
        return open_line(config, self._clock, trace=trace, opener=self._open)

    def _clock(self) -> tuple[int, int]:
        try:
            return clock()
        except RuntimeError:  # a line that is made before its loop runs
            return time.time_ns(), round(self.now_s * 1e9)

    async def _open(self, config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
        wire = self._lines.get(config.url)
        if wire is None:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return await wire.open_port(config, target, setting)

    def loop(self) -> MadeUpTime:
        """A loop whose time continues where that of the last loop ended."""
        made = MadeUpTime(self.now_s)
        close = made.close

        def closed() -> None:
            self.now_s = made.time()
            close()

        made.close = closed  # type: ignore[method-assign]
        return made


class _Made(asyncio.DefaultEventLoopPolicy):
    """The policy from which ``asyncio.run`` gets its loop."""

    def __init__(self, park: Park) -> None:
        super().__init__()
        self._park = park

    def new_event_loop(self) -> MadeUpTime:
        return self._park.loop()


def sampled(profile_id: str, unit: int, **more: Any) -> SimDevice:
    """A device with the words of the first sample of a shipped profile."""
    profile = load_profile(find_profile(profile_id, [shipped_dir()]), [shipped_dir()])
    image = Image()
    for function, words in profile.samples[0].words.items():
        for address, word in words.items():
            image.put_words(address, [word], function=function)
    return SimDevice(unit, image, **more)


def plain(unit: int, function: int = 3, **more: Any) -> SimDevice:
    """A device that has register 0 in one of its tables and nothing else."""
    image = Image()
    image.put_words(0, [7], function=function)
    return SimDevice(unit, image, **more)
