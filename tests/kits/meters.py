"""Helpers for the tests of meters: simulated buses, our ends of them, devices from shipped profiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from drivers.line import Line
from drivers.model import DeviceSpec, Limits, Point
from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.registry import driver_class
from drivers.sim.bus import Bus
from drivers.sim.meters import MixedBus, SimMeter
from drivers.sim.rtu import SerialLine
from ext.ring import Ring
from tests.kits.lines import PATIENCE_S, our_end
from tests.kits.wires import SerialWire, Wire, clock

TICK = 1_795_500_000_000
ALL = 31  # every pace


def bcd(digits: str) -> bytes:
    """Packed BCD, low byte first."""
    return bytes.fromhex(digits)[::-1]


def points_of(profile_id: str, names: Iterable[str] = ()) -> tuple[Point, ...]:
    """Points of a shipped profile, all or those named."""
    profile = load_profile(find_profile(profile_id, [shipped_dir()]), [shipped_dir()])
    wanted = tuple(names)
    found = {point.name: point for point in profile.points}
    return tuple(found[name] for name in wanted) if wanted else profile.points


@dataclass
class Cabinet:
    """Simulated lines on wires, our ends of them and the ring; all closed after the test. Time is made up."""

    folder: Path
    ring: Ring
    sims: list[Any] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    position: int = 0

    timeout_s = 0.25  # for devices for which the test sets no other timeout

    async def pty(self, bus: Bus, *, baud: int = 115200, **more: Any) -> Line:
        return self._opened(SerialWire(bus, len(self.sims), baud=baud), **more)

    async def tcp(self, bus: Bus, framing: Any = "rtu", **more: Any) -> Line:
        return self._opened(Wire(bus, len(self.sims), framing=framing), **more)

    def _opened(self, sim: Wire, **more: Any) -> Line:
        self.sims.append(sim)
        return our_end(self.lines, sim, clock=clock, opener=sim.open_port, **more)

    def device(self, line: Line, protocol: str, address: str, points: Iterable[Point], **more: Any) -> Any:
        limits = Limits(**{k: more.pop(k) for k in list(more) if k in Limits.__slots__})
        limits = limits.over(Limits(timeout_s=self.timeout_s, late_s=0.0))
        spec = DeviceSpec(
            "m1", "p/g/m1", address, protocol, f"{protocol}/test", tuple(points), (1000, 5000, 60000, 0, 86_400_000),
            limits=limits, **more,
        )  # fmt: skip
        return driver_class(protocol)(spec, line, self.ring, 3)

    def since(self, points: Iterable[Point]) -> dict[str, object]:
        """New values in the ring since the last call: name -> value (Decimal or text), (value, quality), or "gap N"."""
        names = [point.name for point in points]
        found: dict[str, object] = {}
        for record in self.ring.scan(self.position, self.ring.head):
            for value in record.values:
                shown: object = Decimal(value.mantissa).scaleb(value.exponent)
                if value.quality >= 128:
                    shown = f"gap {value.quality}"
                elif value.quality:
                    shown = (shown, value.quality)
                found[names[value.point]] = shown
            if record.kind == 2:
                found.update({names[n]: f"gap {record.aux}" for n in record.points or ()})
            if record.kind == 3 and record.points:
                found[names[record.points[0]]] = record.text.decode()
        self.position = self.ring.head
        return found

    async def close(self) -> None:
        for line in self.lines:
            await line.close()
        for sim in self.sims:
            await sim.stop()


class RealCabinet(Cabinet):
    """The same on pseudo-terminals in real time. A device has half a minute to answer."""

    timeout_s = PATIENCE_S

    async def pty(self, bus: Bus, *, baud: int = 115200, **more: Any) -> Line:
        sim = SerialLine(bus, self.folder / f"tty{len(self.sims)}", baud=baud)
        await sim.start()
        self.sims.append(sim)
        return our_end(self.lines, sim, **more)


def sent_frames(bus: Bus) -> list[bytes]:
    """The frames that masters sent on a simulated bus."""
    return [traced.frame for traced in bus.trace if not traced.sent]


def bus_of(*meters: SimMeter, **more: Any) -> MixedBus:
    return MixedBus(meters, **more)


def numbers(values: Mapping[str, object]) -> dict[str, object]:
    """The values without trailing zeros of decimals, for comparisons."""
    return {name: value.normalize() if isinstance(value, Decimal) else value for name, value in values.items()}


__all__ = ["ALL", "TICK", "Cabinet", "RealCabinet", "bcd", "bus_of", "numbers", "points_of", "replace", "sent_frames"]
