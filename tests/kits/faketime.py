"""The wall clock of one process. libfaketime sets it while the process runs; the machine's clock stays as it is."""

from __future__ import annotations

from pathlib import Path

from tests.kits.broker import Listener

LIBRARIES = sorted(Path("/usr/lib").glob("*-linux-gnu*/faketime/libfaketimeMT.so.1"))


class Clock:
    """The clock of the agent's process. ``set`` gives its difference from ours in seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # 1 would end each wait for the GIL at once, so that threads spin
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
        }

    def set(self, seconds: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self._file)


def steps(listener: Listener, device: str) -> list[tuple[float, float]]:
    return [(e["old"], e["new"]) for e in listener.events(device) if e["event"] == "clock_step"]
