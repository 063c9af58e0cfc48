"""The demo park: devices of the shipped families on simulated lines. All their values belong to one energy balance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drivers.model import UsageError
from drivers.profile import find_profile, load_profile
from drivers.registry import all_protocols
from drivers.sim.bus import Bus, SimLine
from drivers.sim.device import SimDevice
from drivers.sim.display import Display, ParkClock
from drivers.sim.families import device_from_profile, meter_from_profile
from drivers.sim.meter_display import MeterDisplay
from drivers.sim.meters import MixedBus, SimMeter, Simulated
from drivers.sim.rtu import SerialLine
from drivers.sim.slots import CABINETS, HALLS, PLAN, ParkSlot
from drivers.sim.tcp import TcpLine

__all__ = ["CABINETS", "DEMO", "METERS", "Park", "ParkDevice", "ParkMeter", "ParkSlot", "make_park"]

SERIAL_LINES = frozenset({"cabinet", "meters"})  # these lines are pseudo-terminals, all others use TCP
BAUD = 9600


def _protocol_slots() -> Iterator[ParkSlot]:
    for protocol in all_protocols():
        # ignore these errors, because a broken third-party protocol must not stop the demo
        with suppress(ImportError, AttributeError):
            if (slot := protocol.demo_slot()) is not None:
                yield slot


METERS: tuple[ParkSlot, ...] = (*sorted(_protocol_slots(), key=lambda slot: (slot.baud or BAUD, slot.unit)), HALLS)
DEMO: tuple[ParkSlot, ...] = (*CABINETS, *METERS)


@dataclass(slots=True)
class ParkDevice:
    """A device of the park that has registers."""

    slot: ParkSlot
    sim: SimDevice
    display: Display


@dataclass(slots=True)
class ParkMeter:
    """A meter of the park, which has its own frames."""

    slot: ParkSlot
    sim: SimMeter
    display: MeterDisplay


class Park:
    """A running park. ``lines``, ``devices`` (those with registers) and ``meters`` are dictionaries by name. ``stop``
    ends it.
    """

    def __init__(
        self,
        clock: ParkClock,
        lines: dict[str, SimLine],
        devices: dict[str, ParkDevice],
        meters: dict[str, ParkMeter],
        slots: Sequence[ParkSlot],
    ) -> None:
        self.clock, self.lines, self.devices, self.meters, self.slots = clock, lines, devices, meters, tuple(slots)

    def served(self) -> dict[str, Simulated]:
        """All devices and meters by name, in the order of the slots. Faults can be set on each of them."""
        found: dict[str, Simulated] = {}
        for slot in self.slots:
            name = slot.name
            found[name] = self.devices[name].sim if name in self.devices else self.meters[name].sim
        return found

    def serial(self, slot: ParkSlot) -> str:
        """The serial setting with which this device must be read. "" over TCP."""
        line = self.lines[slot.line]
        if not isinstance(line, SerialLine):
            return ""
        return f"{slot.baud} 8E1" if slot.baud else line.serial

    async def start(self) -> None:
        """Open all lines. If a line fails, all of them are closed again."""
        try:
            for line in self.lines.values():
                await line.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close all lines."""
        for line in self.lines.values():
            await line.stop()

    def agent_toml(self, *, uplink: str = "mqtt://127.0.0.1:1883", site: str = "demo") -> str:
        """The text of an agent.toml that reads this park. The agent's files then lie in the same folder as
        agent.toml.
        """
        text = f'[site]\nid = {_toml(site)}\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n\n'
        text += '[paths]\nstate_dir = "state"\nruntime_dir = "run"\n\n'
        text += f'[[uplink]]\nname = "platform"\nurl = {_toml(uplink)}\n'
        for name, line in self.lines.items():
            text += f"\n[[line]]\nname = {_toml(name)}\nurl = {_toml(line.url)}\n"
            if isinstance(line, SerialLine):
                text += f"serial = {_toml(line.serial)}\n"
        for slot in self.slots:
            name = slot.name
            text += f"\n[[device]]\nname = {_toml(name)}\nlabel = {_toml(slot.label)}\nline = {_toml(slot.line)}\n"
            text += f"address = {_toml(slot.address or str(slot.unit))}\nprofile = {_toml(slot.profile)}\n"
            if slot.baud:
                text += f"serial = {_toml(self.serial(slot))}\n"
            if slot.every:
                text += f"every = {_toml(slot.every)}\n"
            if slot.points:
                text += f"points = {_toml(list(slot.points))}\n"
            if slot.params:
                text += f"params = {_toml(slot.params)}\n"
            text += f"roles = {_toml(slot.roles)}\n"
            if slot.parent:
                text += f"parent = {_toml(slot.parent)}\n"
        return text

    def write_config(self, folder: Path) -> Path:
        """Write agent.toml, with intervals of one minute, and the plan for the park's figures. Raises OSError."""
        path = folder / "agent.toml"
        text = (
            self.agent_toml()
            + '\n[interval]\nlength = "1 min"\nmax_gap = "1 min"\n\n[indicators]\nplan = "indicators.toml"\n'
        )
        (folder / "indicators.toml").write_text(PLAN, encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        return path


def _toml(value: object) -> str:
    """A value as TOML. Strings are written as JSON, because the basic strings of TOML have the same escapes."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def make_park(
    runtime_dir: Path,
    *,
    seed: int = 1,
    speed: float = 1.0,
    slots: Sequence[ParkSlot] = DEMO,
    baud: int = BAUD,
    profile_dirs: Sequence[Path] | None = None,
    clock: ParkClock | None = None,
    sleeps: bool = False,
) -> Park:
    """Make a park without starting it. The links to its serial lines lie in ``runtime_dir``.

    With ``sleeps``, its inverters are silent in the dark. Otherwise they are in standby and answer.

    Raises ProfileError if a profile is missing, UsageError if two devices have the same name or unit.
    """
    clock = clock or ParkClock(seed, speed)
    buses: dict[str, Bus] = {}
    devices: dict[str, ParkDevice] = {}
    meters: dict[str, ParkMeter] = {}
    for number, slot in enumerate(slots):
        if slot.name in devices or slot.name in meters:
            raise UsageError(f"two devices are called {slot.name}", where="simulated park")
        profile = load_profile(find_profile(slot.profile, profile_dirs))
        if slot.address:
            meter, shown = meter_from_profile(
                profile,
                address=slot.address,
                name=slot.name,
                role=slot.role,
                clock=clock,
                baud=slot.baud,
                seed=seed * 1000 + number,
            )
            _mixed(buses, slot.line).meters.append(meter)
            meters[slot.name] = ParkMeter(slot, meter, shown)
            continue
        sim, display = device_from_profile(
            profile,
            unit=slot.unit,
            name=slot.name,
            role=slot.role,
            clock=clock,
            params=slot.params,
            seed=seed * 1000 + number,
            texts=slot.texts,
            sleeps=sleeps,
        )
        buses.setdefault(slot.line, Bus(name=slot.line)).add(sim)
        devices[slot.name] = ParkDevice(slot, sim, display)
    lines: dict[str, SimLine] = {
        name: SerialLine(bus, runtime_dir.absolute() / f"tty-{name}", baud=baud)
        if name in SERIAL_LINES
        else TcpLine(bus)
        for name, bus in buses.items()
    }
    return Park(clock, lines, devices, meters, slots)


def _mixed(buses: dict[str, Bus], line: str) -> MixedBus:
    """The bus of a line with meters. Devices that are already on the line are kept."""
    bus = buses.get(line)
    if not isinstance(bus, MixedBus):
        bus = buses[line] = MixedBus(devices=bus.devices.values() if bus else (), name=line)
    return bus
