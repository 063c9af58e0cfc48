"""Commands to a running simulator, mostly about faults. Each line of a terminal, pipe or file is one command."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from drivers.model import UsageError
from drivers.sim.bus import SimLine
from drivers.sim.faults import KINDS
from drivers.sim.meters import Simulated

T = TypeVar("T")
HELP = """\
DEVICE FAULT            switch a fault on, for example `inv1 late=0.5*3`; FAULT is KIND[=VALUE][*TIMES][/EVERY][+SKIP]
DEVICE clear [KIND]     switch off the faults of this kind, or all faults
LINE unplug [SECONDS]   remove the port, for SECONDS or until the command `LINE plug`
LINE plug               bring the port back under the same name
LINE say HEX            send unsolicited bytes on the line
status                  active faults, and counts of requests
help                    show this text
`*` instead of DEVICE or LINE means all of them. Faults:
""" + "\n".join(f"  {kind:<10} {what}" for kind, what in KINDS.items())


class Control:
    """Carries out commands on the devices and lines of a simulator. Owns the tasks that plug a line in again after the
    command `unplug SECONDS`.
    """

    def __init__(self, lines: Mapping[str, SimLine], devices: Mapping[str, Simulated]) -> None:
        self._lines, self._devices = lines, devices
        self._returns: set[asyncio.Task[None]] = set()

    async def run(self, command: str) -> str:
        """Execute one command and return its output. Raises UsageError for a mistake."""
        words = command.split("#", 1)[0].split()
        if not words:
            return ""
        if words[0] in ("help", "status") and len(words) == 1:
            return HELP if words[0] == "help" else self.status()
        target, rest = words[0], words[1:]
        if not rest:
            raise UsageError("the target is not followed by a command", where=f"command {command!r}", hint="Try `help`")
        if rest[0] in ("unplug", "plug"):
            return await self._line(target, rest, command)
        if rest[0] == "say":
            return self._say(target, rest, command)
        answers = [self._fault(device, rest, command) for device in self._named(target, self._devices, "device")]
        return "\n".join(answers)

    def _named(self, target: str, known: Mapping[str, T], what: str) -> list[T]:
        if target == "*":
            return list(known.values())
        if target not in known:
            raise UsageError(f"no {what} {target!r}", where="command", hint=f"Here: {', '.join(known)}")
        return [known[target]]

    def _fault(self, device: Simulated, rest: list[str], command: str) -> str:
        if rest[0] == "clear" and len(rest) <= 2:
            device.faults.clear(rest[1] if len(rest) == 2 else None)
        elif len(rest) == 1:
            return f"{device.name}: {device.faults.set(rest[0])}"
        else:
            raise UsageError(f"{rest[1]!r} is unexpected", where=f"command {command!r}", hint="Try `help`")
        return f"{device.name}: {', '.join(str(fault) for fault in device.faults.active) or 'no faults'}"

    def _say(self, target: str, rest: list[str], command: str) -> str:
        try:
            frame = bytes.fromhex("".join(rest[1:]))
        except ValueError:
            raise UsageError(f"{' '.join(rest[1:])!r} is not hex", where=f"command {command!r}") from None
        for line in self._named(target, self._lines, "line"):
            line.say(frame)
        return f"{target}: sent {len(frame)} bytes"

    async def _line(self, target: str, rest: list[str], command: str) -> str:
        try:
            seconds = float(rest[1]) if len(rest) > 1 else None
        except ValueError:
            raise UsageError(f"{rest[1]!r} is not a number of seconds", where=f"command {command!r}") from None
        if len(rest) > 2 or (rest[0] == "plug" and seconds is not None):
            raise UsageError("the command has too many arguments", where=f"command {command!r}", hint="Try `help`")
        for line in self._named(target, self._lines, "line"):
            if rest[0] == "plug":
                await line.plug()
                continue
            await line.unplug()
            if seconds is not None:
                task = asyncio.ensure_future(self._plug_later(line, seconds))
                self._returns.add(task)
                task.add_done_callback(self._returns.discard)
        return f"{target}: {rest[0]}ged" + (f" for {seconds:g} s" if seconds is not None else "")

    async def _plug_later(self, line: SimLine, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await line.plug()

    def status(self) -> str:
        """The state as text. One line for each device: requests, answers, faults."""
        rows = []
        for name, device in self._devices.items():
            active = ", ".join(str(fault) for fault in device.faults.active) or "no faults"
            asked = (
                ", ".join(f"{count} of function {code}" for code, count in sorted(device.requests.items())) or "nothing"
            )
            rows.append(f"{name}: asked {asked}; answered {device.answered}; {active}")
        return "\n".join(rows)

    async def close(self) -> None:
        """Cancel the tasks that would plug lines in again."""
        for task in list(self._returns):
            task.cancel()
        await asyncio.gather(*self._returns, return_exceptions=True)
