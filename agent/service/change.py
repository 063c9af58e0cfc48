"""Lines and devices from one configuration to the next while the agent runs; what stays as it was goes on undisturbed.

``prepare`` makes all that can fail, and changes nothing. ``carry_out`` then exchanges: each device that changes takes
up no new tick until what is pending was asked for, is exchanged, and goes on: a change costs no reading. A line that
changes is opened anew in such a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.config import Config, DeviceConfig, gathered, line_config, make_driver
from agent.pack import StreamTable
from agent.poll import Life
from agent.service.devices import DeviceManager, PreparedDevice
from agent.service.roster import Device, DeviceCatalog
from drivers.line import FrameTrace, Line
from drivers.model import ConfigError, DeviceSpec, GatewayError, ProfileError
from drivers.registry import Driver

log = logging.getLogger("meterhouse")
# what is written into files, packs or memory at the start and cannot be another in the same boot
FIXED: Mapping[str, Callable[[Config], object]] = {
    "site.id": lambda config: config.site,
    "site.gateway": lambda config: config.gateway,
    "site.timezone": lambda config: config.timezone,
    "ring.size": lambda config: config.ring,
    "interval.length": lambda config: config.interval.length_ms,
    "interval.max_gap": lambda config: config.interval.max_gap_ms,
    "interval.demand": lambda config: (config.interval.demand_period_ms, config.interval.demand_slip_ms),
    "paths.state_dir": lambda config: config.state_dir,
    "paths.runtime_dir": lambda config: config.runtime_dir,
}


def fixed(old: Config, new: Config) -> list[ConfigError]:
    """One complaint for each key that only a restart can bring into effect."""
    return [
        ConfigError(
            "can only change at a restart", where=new.at(key), hint="`systemctl restart meterhouse`, or put it back"
        )
        for key, value in FIXED.items()
        if value(old) != value(new)
    ]


@dataclass(slots=True)
class DeviceSwap:
    """What becomes of a device that stays. ``driver`` None: only its table says something else."""

    unit: Device
    device: DeviceConfig
    spec: DeviceSpec
    table: StreamTable
    number: int
    driver: Driver | None
    identity: Mapping[str, str | None] | None  # that the table was made for
    same_address: bool


@dataclass(slots=True)
class DeviceChanges:
    """All of one step, ready to be carried out."""

    config: Config
    roster: DeviceCatalog
    lines: dict[str, Line] = field(default_factory=dict)  # new ones and those that take the place of one of that name
    traces: list[FrameTrace] = field(default_factory=list)  # theirs, hidden until they serve
    gone_lines: set[str] = field(default_factory=set)  # closed: removed, or exchanged
    gone: list[Device] = field(default_factory=list)
    exchanged: list[DeviceSwap] = field(default_factory=list)
    added: list[PreparedDevice] = field(default_factory=list)

    @property
    def tables(self) -> list[tuple[int, StreamTable]]:
        """Every table that this step needs, with its number."""
        return [(e.number, e.table) for e in self.exchanged] + [(made.number, made.table) for made in self.added]

    def __str__(self) -> str:
        """What a log says of it."""
        parts = [
            (len(self.added), "added"),
            (len(self.exchanged), "changed"),
            (len(self.gone), "removed"),
        ]
        said = ", ".join(f"{count} {what}" for count, what in parts if count)
        return f"devices: {said or 'none changed'}"

    async def discard(self) -> None:
        """It is not carried out: let go of what was made."""
        for line in self.lines.values():
            await _close(line)
        for trace in self.traces:
            trace.discard()


async def prepare(fleet: DeviceManager, config: Config, roster: DeviceCatalog | None = None) -> DeviceChanges:
    """Make what another configuration needs; nothing that is in use changes.

    Args:
        roster: of that configuration, where it was made before.

    Raises:
        ConfigError: with all that is wrong.
        ProfileError: a profile is gone since the configuration was read.
    """
    if roster is None:
        roster = await asyncio.to_thread(DeviceCatalog, config, fleet.roster.known, fleet.grid.now_ms())
    change, wrong = DeviceChanges(config, roster), list[GatewayError]()
    try:
        _lines(fleet, change, wrong)
        _devices(fleet, change, wrong)
        if wrong:
            raise gathered(wrong, str(config.path))
    except BaseException:
        await change.discard()
        raise
    return change


def _lines(fleet: DeviceManager, change: DeviceChanges, wrong: list[GatewayError]) -> None:
    gone = set(fleet.lines)
    for entry in change.config.lines:
        gone.discard(entry.name)
        old = fleet.lines.get(entry.name)
        if old is not None and old.config == line_config(entry):
            continue
        try:
            line, trace = fleet.make_line(entry, change.config, hidden=True)
        except ConfigError as error:
            wrong.append(error)
        except OSError as error:
            what = f"its trace cannot be made in the runtime directory: {error.strerror}"
            wrong.append(ConfigError(what, where=change.config.at(f"line.{entry.name}")))
        else:
            change.lines[entry.name] = line
            change.traces.append(trace)
            if old is not None:
                change.gone_lines.add(entry.name)
    change.gone_lines |= gone


def _devices(fleet: DeviceManager, change: DeviceChanges, wrong: list[GatewayError]) -> None:
    units = {unit.config.name: unit for unit in fleet.units}
    for device in change.config.devices:
        unit = units.pop(device.name, None)
        line = change.lines.get(device.line) or fleet.lines.get(device.line)
        if line is None:  # it could not be made, which was said
            continue
        try:
            if unit is None:
                spec = change.roster.spec(device)
                change.added.append(fleet.make(change.config, device, spec, change.roster.table(device, spec), line))
            elif (exchange := _exchange(fleet, change, unit, device, line)) is not None:
                change.exchanged.append(exchange)
        except (ConfigError, ProfileError) as error:
            wrong.append(error)
    change.gone = list(units.values())


def _exchange(
    fleet: DeviceManager, change: DeviceChanges, unit: Device, device: DeviceConfig, line: Line
) -> DeviceSwap | None:
    same_address = (device.line, device.address, device.profile) == (
        unit.config.line, unit.config.address, unit.config.profile
    ) and device.line not in change.lines  # fmt: skip
    identity = unit.identity if same_address else None
    spec = change.roster.spec(device, identity)
    same_profile = change.roster.profile(device).hash == unit.profile.hash
    if device == unit.config and same_address and same_profile and spec == unit.poll.driver.spec:
        return None
    table, number = change.roster.table(device, spec, identity), fleet.number()
    driver: Driver | None = None
    if spec != unit.poll.driver.spec or not same_address:
        driver = make_driver(change.config, spec, line, fleet.ring, number)
    return DeviceSwap(unit, device, spec, table, number, driver, unit.identity, same_address)


async def carry_out(fleet: DeviceManager, change: DeviceChanges) -> None:
    """Bring it into effect. Waits for visits under way, never for a device that is not asked."""
    fleet.roster, fleet.config = change.roster, change.config
    gone_lines = change.gone_lines
    in_place = [e for e in change.exchanged if e.device.line == e.unit.config.line and e.device.line not in gone_lines]
    gone = [unit for unit in change.gone if unit.config.line not in gone_lines]
    await _all(*(_in_place(fleet, e) for e in in_place), *(_leave(fleet, unit) for unit in gone))
    fleet.start_pollers()  # without those that have left
    rest = [e for e in change.exchanged if e not in in_place]
    held = [unit for unit in fleet.units if unit.config.line in gone_lines]
    held += [e.unit for e in rest if e.unit not in held]
    try:
        await _all(*(unit.poll.hold() for unit in held))
        for name in gone_lines:
            if name in fleet.pollers:
                fleet.end_poller(name)
            await _close(fleet.lines[name])
        fleet.lines = {line.name: change.lines.get(line.name) or fleet.lines[line.name] for line in change.config.lines}
        for unit in [unit for unit in change.gone if unit.config.line in gone_lines]:
            fleet.dismiss(unit)
        for exchange in rest:
            _swap(fleet, exchange)
        now_ms = fleet.grid.now_ms()
        for made in change.added:
            fleet.admit(made, now_ms)
        order = {device.name: n for n, device in enumerate(change.config.devices)}
        fleet.units.sort(key=lambda unit: order[unit.config.name])
        for unit in fleet.units:
            unit.roster = change.roster
    finally:
        for unit in held:
            unit.poll.release()
    fleet.start_pollers()
    _show_traces(fleet, change)


async def _all(*steps: Coroutine[Any, Any, None]) -> None:
    """Side by side, each to its end, also where one fails: what goes on later would meet the repair."""
    for error in await asyncio.gather(*steps, return_exceptions=True):
        if error is not None:
            raise error


async def _close(line: Line) -> None:
    try:
        await line.close()
    except OSError as error:  # an adapter that was pulled out; the port is gone in any case
        log.warning("%s: closing: %s", line.where, error.strerror)


def _show_traces(fleet: DeviceManager, change: DeviceChanges) -> None:
    """Those of new lines take their names, those of lines that are gone go. Only ``watch --frames`` would miss them."""
    try:
        for trace in change.traces:
            trace.show()
        for name in change.gone_lines - fleet.lines.keys():
            (change.config.runtime_dir / f"frames.{name}").unlink(missing_ok=True)
    except OSError as error:
        log.warning("frames of some lines cannot be watched: %s: %s", error.filename, error.strerror)


async def _in_place(fleet: DeviceManager, exchange: DeviceSwap) -> None:
    """One device of a line that stays: the others on it do not notice."""
    try:
        await exchange.unit.poll.hold()
        _swap(fleet, exchange)
    finally:
        exchange.unit.poll.release()
    fleet.pollers[exchange.device.line].wake()


async def _leave(fleet: DeviceManager, unit: Device) -> None:
    try:
        await unit.poll.hold()  # and it stays held
        fleet.dismiss(unit)
    except BaseException:
        unit.poll.release()
        raise


def _swap(fleet: DeviceManager, exchange: DeviceSwap) -> None:
    """The device goes on as another, from the first tick that was not due yet."""
    unit, cut_ms = exchange.unit, fleet.cut_ms(exchange.unit)
    unit.config, unit.roster = exchange.device, fleet.roster
    unit.line = fleet.lines[exchange.device.line]
    unit.line.heed(unit.line.manners(exchange.spec.limits, exchange.spec.serial))
    met_anew = unit.identity != exchange.identity  # while this was prepared: its table and driver are of today
    if met_anew or not exchange.same_address:
        unit.identity = None
    if exchange.driver is not None:
        unit.stream.become(exchange.number, exchange.table, cut_ms)
        unit.poll.exchange(exchange.driver, cut_ms)
    elif met_anew:
        unit.poll.life = Life.UNKNOWN  # it is met once more, and gets the table of the new configuration then
    else:
        unit.stream.become(exchange.number, exchange.table, cut_ms)
        unit.poll.driver.table = exchange.number
