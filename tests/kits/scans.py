"""What the tests of scans share: simulated buses on lines whose loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.sim import Bus, Image, SerialLine, SimDevice, TcpLine


class Park:
    """Simulated lines; each runs until ``stop``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[SerialLine | TcpLine] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sim park")
        self._thread.start()

    def pty(self, bus: Bus, baud: int = 115200) -> SerialLine:
        line = SerialLine(bus, self._folder / f"tty{len(self._lines)}", baud=baud)
        return self._started(line)

    def tcp(self, bus: Bus, framing: Any = "mbap") -> TcpLine:
        return self._started(TcpLine(bus, framing=framing))

    def _started(self, line: Any) -> Any:
        self.call(line.start)
        self._lines.append(line)
        return line

    def call(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run something in the loop of the lines."""

        async def run() -> Any:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def stop(self) -> None:
        for line in self._lines:
            self.call(line.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


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
