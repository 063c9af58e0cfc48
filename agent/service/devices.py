"""Lines and devices of the running agent, and one poller a line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.config import Config, DeviceConfig, gathered, line_config, make_driver
from agent.config.tree import LineEntry
from agent.pack import StreamTable
from agent.poll import DevicePoll, Grid, Life, LinePoller
from agent.service.births import Device, DeviceCatalog
from agent.service.db_thread import DatabaseThread
from agent.service.identity import IdentityChecker, MapQuirks
from agent.service.seal_jobs import Stream
from agent.service.sealing import SealScheduler
from drivers.line import FrameTrace, Line, frames_each, open_line
from drivers.model import ConfigError, DeviceSpec, GatewayError, ProfileError
from drivers.registry import Driver
from ext.ring import Ring

LAST_VISIT_S = 2.0  # for visits under way when the agent stops

Planned = tuple[DeviceConfig, DeviceSpec, StreamTable]


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """A device that is ready to be asked. ``number`` is that of its table in the ring."""

    device: DeviceConfig
    spec: DeviceSpec
    table: StreamTable
    number: int
    driver: Driver


class DeviceManager:
    """All lines and devices. Only the loop touches it.

    Args:
        stream_of: the stream of a name, going on where the store left it, else from a time in ms.

    ``lock`` is held by whoever stops or changes pollers: a step of the clock and a reload do not mix.
    """

    def __init__(
        self,
        config: Config,
        grid: Grid,
        sealing: SealScheduler,
        writer: DatabaseThread,
        stream_of: Callable[[str, int], Stream],
    ) -> None:
        self.config, self.grid, self.sealing = config, grid, sealing
        self._writer, self._stream_of = writer, stream_of
        self.units: list[Device] = []
        self.lines: dict[str, Line] = {}
        self.pollers: dict[str, LinePoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unit_of: dict[int, Device] = {}
        self._next_table = 0
        self.lock = asyncio.Lock()
        self.roster: DeviceCatalog
        self.ring: Ring
        self.learned: MapQuirks | None = None
        self._contacts: IdentityChecker

    def plan(self, roster: DeviceCatalog) -> list[Planned]:
        """What the configured devices are asked for, before any was met. Makes the lines; no port is opened."""
        self.roster = roster
        for line in self.config.lines:
            self.lines[line.name], _ = self.make_line(line, self.config)
        specs = [(device, roster.spec(device)) for device in self.config.devices]
        return [(device, spec, roster.table(device, spec)) for device, spec in specs]

    def open(
        self, ring: Ring, planned: Sequence[Planned], start_ms: int, learned: MapQuirks
    ) -> list[tuple[int, StreamTable]]:
        """Make the devices; returns their tables, to be made durable before anybody is asked.

        Raises ConfigError with a complaint for each device that its driver cannot serve.
        """
        self.ring, self.learned = ring, learned
        self._contacts = IdentityChecker(self.sealing, self._writer, ring, self.register, self.number, self.learned)
        made: list[PreparedDevice] = []
        wrong: list[ConfigError] = []
        for device, spec, table in planned:
            try:
                made.append(self.make(self.config, device, spec, table, self.lines[device.line]))
            except ConfigError as error:
                wrong.append(error)
        if wrong:
            raise gathered(wrong, str(self.config.path))
        for one in made:
            self.admit(one, start_ms)
        return [(one.number, one.table) for one in made]

    def make(
        self, config: Config, device: DeviceConfig, spec: DeviceSpec, table: StreamTable, line: Line
    ) -> PreparedDevice:
        """A device with its driver. Raises ConfigError that names its place; nothing else has changed."""
        number = self.number()
        return PreparedDevice(device, spec, table, number, make_driver(config, spec, line, self.ring, number))

    def make_line(self, entry: LineEntry, config: Config, hidden: bool = False) -> tuple[Line, FrameTrace]:
        """A line, not yet open, and the empty trace of its frames; ``hidden`` until the trace is to be shown.

        Raises ConfigError or OSError.
        """
        path = config.runtime_dir / f"frames.{entry.name}"
        trace = FrameTrace(path, frames_each(len(config.lines)), hidden=hidden)
        return open_line(line_config(entry), trace=trace), trace

    def number(self) -> int:
        """A number for a table in the ring, used once in a boot."""
        self._next_table += 1
        return self._next_table - 1

    async def register(self, tables: Iterable[tuple[int, StreamTable]]) -> None:
        """Make tables durable before the first record that names them."""
        ring_id = self.ring.ring_id
        rows = [(number, table.stream, table.encoded) for number, table in tables]
        await self._writer.call(lambda store: store.register_tables(ring_id, rows))

    def admit(self, made: PreparedDevice, start_ms: int) -> None:
        """A device that is asked from ``start_ms`` on, once its line has a poller."""
        line = self.lines[made.device.line]
        line.heed(line.manners(made.spec.limits, made.spec.serial))
        stream = self._stream_of(made.spec.stream, start_ms)
        stream.become(made.number, made.table, start_ms)
        poll = DevicePoll(made.driver, self.ring, start_ms)
        unit = Device(made.device, self.roster, line, stream, poll)
        self.sealing.admit(stream, poll)
        self.units.append(unit)
        self._unit_of[id(poll)] = unit

    def dismiss(self, unit: Device) -> None:
        """A device that is configured no more, while it is held: its stream is sealed up to now and rests."""
        end_ms = self.cut_ms(unit)
        self.sealing.retire(unit.stream, end_ms)
        self.units.remove(unit)

    def cut_ms(self, unit: Device) -> int:
        """From here on a held device may be another: what was due before is answered or a gap in the ring."""
        now_ms, next_ms = self.grid.now_ms(), unit.poll.next_ms
        at = next_ms if 0 < next_ms <= now_ms else now_ms + 1
        return max(at, unit.stream.sealed_ms, unit.stream.shape.start_ms)

    # --- asking

    def start_pollers(self) -> None:
        """One task a line that has devices; a poller that runs is told who its devices are now."""
        by_line: dict[str, list[DevicePoll]] = {}
        self._unit_of = {id(unit.poll): unit for unit in self.units}
        for unit in self.units:
            by_line.setdefault(unit.config.line, []).append(unit.poll)
        for line, polls in by_line.items():
            if line in self.pollers:
                self.pollers[line].serve(polls)
                continue
            poller = self.pollers[line] = LinePoller(polls, self.grid, self._contact, self._collect)
            self._tasks[line] = asyncio.create_task(poller.run(), name=f"line {line}")
        for line in self.pollers.keys() - by_line.keys():
            self.end_poller(line)

    def end_poller(self, line: str) -> None:
        """For a line whose devices are all idle."""
        self.pollers.pop(line)
        self._tasks.pop(line).cancel()

    async def stop_pollers(self) -> None:
        """Let visits end that end soon; what is asked for longer than that is given up and stays due."""
        tasks = list(self._tasks.values())
        for line, poller in self.pollers.items():
            if poller.busy:
                poller.stopping = True
            else:
                self._tasks[line].cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_VISIT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.pollers.clear()
        self._tasks.clear()

    async def watch(self) -> None:
        """A poller only ends by a bug; the service must not go on without its line and nobody knowing."""
        while True:
            for task in list(self._tasks.values()):
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            await asyncio.sleep(1)

    async def close(self) -> None:
        """No more polls, and the ports are free."""
        await self.stop_pollers()
        await self.keep_lessons()
        for line in self.lines.values():
            await line.close()

    async def keep_lessons(self) -> None:
        """Make durable what devices taught their drivers."""
        if self.learned is not None:
            await self.learned.keep(self.units)

    def trim(self) -> None:
        """Let go of pages that lie in the runtime directory anyway."""
        for line in self.lines.values():
            line.trim()

    # --- what a visit brings

    def _collect(self, device: DevicePoll, positions: list[int], answered: bool) -> None:
        self._unit_of[id(device)].stream.record(device.driver.table, positions, answered)

    async def _contact(self, device: DevicePoll, tick_ms: int) -> None:
        """Read who the device is before its data counts."""
        await self._contacts.meet(self._unit_of[id(device)], tick_ms)


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
