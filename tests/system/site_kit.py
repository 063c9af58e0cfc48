"""The devices of the site: played by this process, so that the books can be compared with what was really served."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from drivers.sim.bus import Bus
from drivers.sim.tcp import TcpLine
from tests.kits.faults.tally import Ledger, Tally
from tests.kits.house import Field

CLONE_NEWNET = 0x40000000
PERIOD_MS = 500
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(network: int) -> None:
    if _libc.setns(network, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


async def _inside(leader: int, work: Coroutine[Any, Any, None]) -> None:
    """Sockets belong to the network in which they were made: that of the machine."""
    ours, theirs = (os.open(path, os.O_RDONLY) for path in ("/proc/thread-self/ns/net", f"/proc/{leader}/ns/net"))
    _enter(theirs)
    try:
        await work
    finally:
        _enter(ours)
        os.close(ours)
        os.close(theirs)


class Site(Field):
    """m1 behind a TCP line, which comes later; m2 on a pseudo-terminal that is bound into the machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.m1, self.m2 = Tally(1), Tally(2)
        self.port = os.path.realpath(self.serial(folder / "line", self.m2).link)
        os.chown(self.port, 0, 20)  # dialout has this number on every Debian
        os.chmod(self.port, 0o660)
        self._roof: TcpLine | None = None

    def play_the_roof(self, leader: int, port: int = 5020) -> None:
        """m1 and its line are there from now on."""
        if self._roof is None:
            self._roof = TcpLine(Bus([self.m1.sim]), port=port)
            self.do(_inside(leader, self._roof.start()))
            self._lines.append(self._roof)

    def pull_the_roof(self) -> None:
        """The cable of m1's line is out."""
        if self._roof is not None:
            self._lines.remove(self._roof)
            self.do(self._roof.stop())
            self._roof = None

    def balance(self, folder: Path) -> dict[str, Ledger]:
        """Compare exported packs with what was served: nothing made up, nothing twice, nothing lost unsaid."""
        bodies = [
            body for path in sorted(folder.rglob("*.jsonl")) for body in map(json.loads, path.read_bytes().splitlines())
        ]
        packs = [body for body in bodies if "seq" in body and "from" in body]
        found = {}
        for name, meter in (("m1", self.m1), ("m2", self.m2)):
            ledger = found[name] = Ledger(name, meter, PERIOD_MS)
            own = {(p["boot"], p["seq"]): p for p in packs if p["stream"].endswith(f"/{name}")}
            ledger.take(own.values())
            assert ledger.came and not ledger.twice, (name, ledger.twice[:5])
            end_ns = max(p["to"] for p in own.values()) * 1e9  # what was served since waits in the ring
            lost = [number for number in ledger.unaccounted() if meter.served[number] < end_ns]
            times = [meter.served[n] / 1e9 for n in lost[:5]]
            assert not lost, f"{name}: {lost[:5]} were served at {times}, did not come, and are not stated"
        return found
