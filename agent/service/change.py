"""From one configuration to the next while the agent runs: what stays as it was goes on undisturbed.

Everything that can fail comes first. Then each device that changes takes up no new tick until what is pending was
asked for, is exchanged, and goes on: a change costs no reading. A line that changes is opened anew in such a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.config import Config, DeviceConfig
from agent.pack import StreamTable
from agent.poll import Life
from agent.service.fleet import Fleet, Planned
from agent.service.roster import Roster, Unit
from drivers.line import Line
from drivers.model import ConfigError, DeviceSpec
from drivers.registry import Driver, driver_class

# what is written into files, packs or memory at the start and cannot be another in the same boot
FIXED = (
    ("site.id", "site"),
    ("site.gateway", "gateway"),
    ("site.timezone", "timezone"),
    ("ring.size", "ring"),
    ("interval.length", "interval"),
    ("paths.state_dir", "state_dir"),
    ("paths.runtime_dir", "runtime_dir"),
)


def check_fixed(old: Config, new: Config) -> None:
    """Raises ConfigError, one complaint a key, where only a restart can bring ``new`` into force."""
    wrong = [
        ConfigError("can only change at a restart", where=key, hint="`systemctl restart meterhouse`, or put it back")
        for key, name in FIXED
        if getattr(old, name) != getattr(new, name)
    ]
    if wrong:
        raise ConfigError(
            f"{wrong[0].what}", where=", ".join(one.where for one in wrong), hint=wrong[0].hint, complaints=tuple(wrong)
        )


@dataclass(slots=True)
class Exchange:
    """What becomes of a device that stays. ``driver`` None: only its table says something else."""

    unit: Unit
    device: DeviceConfig
    spec: DeviceSpec
    table: StreamTable
    number: int
    driver: Driver | None
    identity: Mapping[str, str | None] | None  # that the table was made for
    same_address: bool


@dataclass(slots=True)
class Change:
    """All of one step, ready to be carried out."""

    config: Config
    roster: Roster
    lines: dict[str, Line] = field(default_factory=dict)  # new ones and those that take the place of one of that name
    gone_lines: set[str] = field(default_factory=set)  # closed: removed, or exchanged
    gone: list[Unit] = field(default_factory=list)
    exchanged: list[Exchange] = field(default_factory=list)
    added: list[tuple[Planned, int]] = field(default_factory=list)

    @property
    def tables(self) -> list[tuple[int, StreamTable]]:
        """Every table that this step needs, with its number."""
        return [(e.number, e.table) for e in self.exchanged] + [(n, table) for (_, _, table), n in self.added]

    def __str__(self) -> str:
        """What a log says of it."""
        parts = [
            (len(self.added), "added"),
            (len(self.exchanged), "changed"),
            (len(self.gone), "removed"),
        ]
        said = ", ".join(f"{count} {what}" for count, what in parts if count)
        return f"devices: {said or 'none changed'}"


async def prepare(fleet: Fleet, config: Config) -> Change:
    """Make what the new configuration needs. Raises GatewayError before anything was changed."""
    roster = await asyncio.to_thread(Roster, config, fleet.roster.known, fleet.grid.now_ms())
    change = Change(config, roster)
    try:
        _lines(fleet, change)
        _devices(fleet, change)
    except BaseException:
        for line in change.lines.values():
            await line.close()
        raise
    return change


def _lines(fleet: Fleet, change: Change) -> None:
    old = {line.name: line for line in fleet.config.lines}
    for entry in change.config.lines:
        if old.pop(entry.name, None) != entry:
            if entry.name in fleet.lines:
                change.gone_lines.add(entry.name)
            change.lines[entry.name] = fleet.make_line(entry, change.config)
    change.gone_lines |= old.keys()


def _devices(fleet: Fleet, change: Change) -> None:
    units = {unit.config.name: unit for unit in fleet.units}
    roster = change.roster
    for device in change.config.devices:
        unit = units.pop(device.name, None)
        if unit is None:
            spec = roster.spec(device)
            change.added.append(((device, spec, roster.table(device, spec)), fleet.number()))
            driver_class(spec.protocol)  # raises here rather than half way
            continue
        exchange = _exchange(fleet, change, unit, device)
        if exchange is not None:
            change.exchanged.append(exchange)
    change.gone = list(units.values())


def _exchange(fleet: Fleet, change: Change, unit: Unit, device: DeviceConfig) -> Exchange | None:
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
        line = change.lines.get(device.line) or fleet.lines[device.line]
        driver = driver_class(spec.protocol)(spec, line, fleet.ring, number)
    return Exchange(unit, device, spec, table, number, driver, unit.identity, same_address)


async def carry_out(fleet: Fleet, change: Change) -> None:
    """Bring it into force. Waits for visits under way, never for a device that is not asked."""
    fleet.roster, fleet.config = change.roster, change.config
    gone_lines = change.gone_lines
    in_place = [e for e in change.exchanged if e.device.line == e.unit.config.line and e.device.line not in gone_lines]
    gone = [unit for unit in change.gone if unit.config.line not in gone_lines]
    await asyncio.gather(*(_in_place(fleet, e) for e in in_place), *(_leave(fleet, unit) for unit in gone))
    fleet.start_pollers()  # without those that have left
    rest = [e for e in change.exchanged if e not in in_place]
    held = [unit for unit in fleet.units if unit.config.line in gone_lines]
    held += [e.unit for e in rest if e.unit not in held]
    try:
        await asyncio.gather(*(unit.poll.hold() for unit in held))
        for name in gone_lines:
            if name in fleet.pollers:
                fleet.end_poller(name)
            await fleet.lines.pop(name).close()
        fleet.lines = {line.name: change.lines.get(line.name) or fleet.lines[line.name] for line in change.config.lines}
        for unit in [unit for unit in change.gone if unit.config.line in gone_lines]:
            fleet.dismiss(unit)
        for exchange in rest:
            _swap(fleet, exchange)
        now_ms = fleet.grid.now_ms()
        for (device, spec, table), number in change.added:
            fleet.admit(device, spec, table, number, now_ms)
        order = {device.name: n for n, device in enumerate(change.config.devices)}
        fleet.units.sort(key=lambda unit: order[unit.config.name])
    finally:
        for unit in held:
            unit.poll.release()
    fleet.start_pollers()
    for name in gone_lines - fleet.lines.keys():
        (change.config.runtime_dir / f"frames.{name}").unlink(missing_ok=True)


async def _in_place(fleet: Fleet, exchange: Exchange) -> None:
    """One device of a line that stays: the others on it do not notice."""
    try:
        await exchange.unit.poll.hold()
        _swap(fleet, exchange)
    finally:
        exchange.unit.poll.release()
    fleet.pollers[exchange.device.line].wake()


async def _leave(fleet: Fleet, unit: Unit) -> None:
    await unit.poll.hold()  # and it stays held
    fleet.dismiss(unit)


def _swap(fleet: Fleet, exchange: Exchange) -> None:
    """The device goes on as another, from the first tick that was not due yet."""
    unit, cut_ms = exchange.unit, fleet.cut_ms(exchange.unit)
    unit.config, unit.profile = exchange.device, fleet.roster.profile(exchange.device)
    unit.line = fleet.lines[exchange.device.line]
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
