"""The lines and devices of the running agent, with one poller per line, and how a reload changes them.

A reload has two steps. ``prepare`` does everything that can fail, without changing anything in use. ``apply`` puts the
result into use. A changed device is paused: it begins no new tick, and its pending points are polled first. Then it is
replaced and continues, so no reading is lost. A changed line is reopened during such a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent.clock import SteadyClock, TickTimer
from agent.config import Config, DeviceConfig, gathered, line_config, make_driver
from agent.config.tree import LineEntry
from agent.pack import BirthTable, changes
from agent.poll import Availability, DevicePoll, LinePoller
from agent.service.births import DeviceCatalog, RunningDevice, derived_rows
from agent.service.db_thread import DatabaseThread
from agent.service.identity import IdentityChecker, MapQuirks
from agent.service.seal_jobs import Stream
from agent.service.sealing import SealScheduler
from agent.store import StoreDamaged, StoreError
from drivers.line import FrameTrace, Line, frames_each, open_line, target
from drivers.model import ConfigError, DeviceSpec, GatewayError, ProfileError
from drivers.protocol import Driver
from ext.ring import Ring

log = logging.getLogger("meterhouse")
LAST_VISIT_S = 2.0  # when the agent stops, the current polls get this time to finish
# Lines start in groups of this size, with this pause between the groups. If all lines started at once, the first
# reading would have to wait for the last connection.
LINES_AT_ONCE, LINES_PAUSE_S = 50, 0.005

PlannedDevice = tuple[DeviceConfig, DeviceSpec, BirthTable]


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """A device that is ready to be polled. ``number``: the number of its table in the ring."""

    entry: DeviceConfig
    spec: DeviceSpec
    table: BirthTable
    number: int
    driver: Driver


class DeviceManager:
    """All lines and devices. Used only in the loop.

    Args:
        make_stream: gets a name and a time in UTC ms, and returns the stream of this name. A stream that the store
            knows is continued. A new stream begins at this time.

    ``lock``: held while pollers are stopped or changed, so that a clock step and a reload cannot interfere.
    """

    def __init__(
        self,
        config: Config,
        clock: SteadyClock,
        sealing: SealScheduler,
        db_thread: DatabaseThread,
        make_stream: Callable[[str, int], Stream],
    ) -> None:
        self.config, self.clock, self.sealing = config, clock, sealing
        self._timer = TickTimer(clock)
        self._db_thread, self._make_stream = db_thread, make_stream
        self.devices: list[RunningDevice] = []
        self.lines: dict[str, Line] = {}
        self.pollers: dict[str, LinePoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # tasks that start groups of lines; a reload can begin another one before the first has ended
        self._starters: set[asyncio.Task[None]] = set()
        self._next_table = 0
        self.lock = asyncio.Lock()
        self.catalog: DeviceCatalog
        self.ring: Ring
        self.map_quirks: MapQuirks | None = None
        self._identity_checker: IdentityChecker

    def plan(self, catalog: DeviceCatalog) -> list[PlannedDevice]:
        """Create the lines, without opening a port.

        Returns specs and tables of the devices. The devices are not identified yet.
        """
        self.catalog = catalog
        for line in self.config.lines:
            self.lines[line.name], _ = self.make_line(line, self.config)
        specs = [(entry, catalog.spec(entry)) for entry in self.config.devices]
        return [(entry, spec, catalog.table(entry, spec)) for entry, spec in specs]

    def open(
        self, ring: Ring, planned: Sequence[PlannedDevice], start_ms: int, map_quirks: MapQuirks
    ) -> list[tuple[int, BirthTable]]:
        """Create the devices. Returns (number, table) of each device.

        These tables must be durable before the first poll.

        Raises ConfigError, with one complaint for each device that its driver rejects.
        """
        self.ring, self.map_quirks = ring, map_quirks
        self._identity_checker = IdentityChecker(
            self.sealing, self._db_thread, self.register, self.number, self.map_quirks
        )
        made: list[PreparedDevice] = []
        wrong: list[ConfigError] = []
        for entry, spec, table in planned:
            try:
                made.append(self.make(self.config, entry, spec, table, self.lines[entry.line]))
            except ConfigError as error:
                wrong.append(error)
        if wrong:
            raise gathered(wrong, str(self.config.path))
        for one in made:
            self.add(one, start_ms)
        return [(one.number, one.table) for one in made]

    def make(
        self, config: Config, entry: DeviceConfig, spec: DeviceSpec, table: BirthTable, line: Line
    ) -> PreparedDevice:
        """Prepare a device and its driver. Raises ConfigError, which names the place in the configuration file."""
        number = self.number()
        return PreparedDevice(entry, spec, table, number, make_driver(config, spec, line, self.ring, number))

    def make_line(self, entry: LineEntry, config: Config, hidden: bool = False) -> tuple[Line, FrameTrace]:
        """Create a closed line and its empty frame trace.

        ``hidden``: tools cannot see the trace until its ``show`` is called.

        Raises ConfigError.
        """
        path = config.runtime_dir / f"frames.{entry.name}"
        try:
            trace = FrameTrace(path, frames_each(len(config.lines)), hidden=hidden)
        except OSError as error:
            what = f"frame trace cannot be created in the runtime directory: {error.strerror}"
            raise ConfigError(what, where=config.at(f"line.{entry.name}")) from error
        return open_line(line_config(entry), trace=trace), trace

    def number(self) -> int:
        """Return the next number for a table in the ring. No number is used twice in a boot."""
        self._next_table += 1
        return self._next_table - 1

    async def register(self, ring: Ring, tables: Iterable[tuple[int, BirthTable]]) -> None:
        """Store tables of a ring. Call this before the first record that refers to them."""
        ring_id = ring.ring_id
        rows = [(number, table.stream, table.encoded) for number, table in tables]
        await self._db_thread.call(lambda store: store.documents.register_tables(ring_id, rows))

    def add(self, made: PreparedDevice, start_ms: int) -> None:
        """Add a device. It is due from ``start_ms`` on. Its polls begin when its line has a poller."""
        line = self.lines[made.entry.line]
        line.apply_options(line.request_options(made.spec.limits, made.spec.serial))
        stream = self._make_stream(made.spec.stream, start_ms)
        stream.switch_table(made.number, made.table, start_ms, self.ring)
        poll = DevicePoll(made.driver, self.ring, start_ms, partial(self.sealing.record, stream))
        device = RunningDevice(made.entry, self.catalog, line, stream, poll)
        poll.begin_at = stream.begin_at
        # looked up at each call, because a reload may change ``device.line``
        poll.opened = lambda: device.line.stats.opened
        poll.answers = lambda: device.line.stats.answers + device.line.stats.exceptions
        self.sealing.add(stream, poll)
        poll.identify = partial(self._identity_checker.verify, device)
        self.devices.append(device)

    def remove(self, device: RunningDevice) -> None:
        """Remove a paused device. Its stream will be sealed up to the present time."""
        end_ms = self.cut_ms(device)
        self.sealing.remove(device.stream, end_ms)
        self.devices.remove(device)

    def cut_ms(self, device: RunningDevice) -> int:
        """Return the time in UTC ms at which a paused device can be replaced.

        All earlier ticks are answered, or are gaps.
        """
        now_ms, next_ms = self.clock.now_ms(), device.poll.next_ms
        at = next_ms if 0 < next_ms <= now_ms else now_ms + 1
        return max(at, device.stream.sealed_ms, device.stream.table_version.start_ms)

    # --- polling

    def start_pollers(self) -> None:
        """Start a poller for each line that has devices.

        Update the devices of running pollers, and stop unused pollers.
        """
        by_line: dict[str, list[DevicePoll]] = {}
        for device in self.devices:
            by_line.setdefault(device.config.line, []).append(device.poll)
        turns: list[asyncio.Event] = []
        started = 0
        for line, polls in by_line.items():
            if line in self.pollers:
                self.pollers[line].serve(polls)
                continue
            if started % LINES_AT_ONCE == 0:
                turns.append(asyncio.Event())
            started += 1
            poller = self.pollers[line] = LinePoller(polls, self.clock, self._timer)
            self._tasks[line] = asyncio.create_task(_run_in_turn(poller, turns[-1]), name=f"line {line}")
            self._tasks[line].add_done_callback(self._poller_ended)
        if turns:
            turns[0].set()
        if len(turns) > 1:
            starter = asyncio.create_task(_give_turns(turns), name="lines in turn")
            self._starters.add(starter)
            starter.add_done_callback(self._starters.discard)
        for line in self.pollers.keys() - by_line.keys():
            self.stop_poller(line)

    def stop_poller(self, line: str) -> None:
        """Stop the poller of a line whose devices are all idle."""
        self.pollers.pop(line)
        self._tasks.pop(line).cancel()

    async def stop_pollers(self) -> None:
        """Stop all pollers. A poll that does not finish within two seconds is cancelled; its points stay due."""
        starters = list(self._starters)
        for starter in starters:
            starter.cancel()
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
        await asyncio.gather(*starters, *tasks, return_exceptions=True)
        self.pollers.clear()
        self._tasks.clear()

    async def watch(self) -> None:
        """Raise the error that ended a poller.

        Such an error is always a bug, and the agent must not continue without a line.
        """
        await self._failure

    def _poller_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def close(self) -> None:
        """Stop polling and close the ports."""
        await self.stop_pollers()
        await self.save_quirks()
        for line in self.lines.values():
            await _close(line)

    async def save_quirks(self) -> None:
        """Store the quirks that the drivers have learned."""
        if self.map_quirks is not None:
            await self.map_quirks.save(self.devices)

    def trim(self) -> None:
        """Release the mapped memory of the frame traces; the files keep the frames."""
        for line in self.lines.values():
            line.trim()


async def _run_in_turn(poller: LinePoller, turn: asyncio.Event) -> None:
    await turn.wait()
    await poller.run()


async def _give_turns(turns: Sequence[asyncio.Event]) -> None:
    """Start the groups of lines one after the other, with a short pause for the loop. No group waits for answers."""
    for turn in turns:
        turn.set()
        await asyncio.sleep(LINES_PAUSE_S)


# --- another ring


@dataclass(frozen=True, slots=True)
class RingMove:
    """A device that moves to another ring. ``number``: the number of its table in that ring."""

    device: RunningDevice
    number: int
    table: BirthTable


async def move_to_ring(manager: DeviceManager, ring: Ring, moves: Sequence[RingMove]) -> None:
    """Let all devices continue in another ring. Each device moves between two ticks.

    The tables in ``moves`` are already durable. A device that was identified after ``moves`` was made has a newer
    table, which is stored first. If the store cannot commit it, the device stays in the previous ring, and that ring is
    kept.
    """
    manager.ring = ring
    await _all(*(_move(manager, ring, move) for move in moves))


async def _move(manager: DeviceManager, ring: Ring, move: RingMove) -> None:
    device, number = move.device, move.number
    try:
        await device.poll.pause()
        table = device.stream.table_version.table
        if table is not move.table:  # the device was identified meanwhile, so its table has changed
            number = manager.number()
            await manager.register(ring, [(number, table)])
        device.stream.switch_table(number, table, manager.cut_ms(device), ring)
        device.poll.use_ring(ring, number)
    except StoreDamaged:
        raise  # the error ends the service; the next start sets the database aside
    except StoreError as error:
        log.warning("%s could not move to the new ring and stays in the previous ring: %s", device.config.name, error)
    finally:
        device.poll.resume()
    manager.pollers[device.config.line].wake()


# --- another configuration


@dataclass(slots=True)
class DeviceSwap:
    """A device whose configuration changes. ``driver``: its new driver; None: only its table changes."""

    device: RunningDevice
    entry: DeviceConfig
    spec: DeviceSpec
    table: BirthTable
    number: int
    driver: Driver | None
    identity: Mapping[str, str | None] | None  # the identity for which the table was made
    same_address: bool


@dataclass(slots=True)
class DeviceChanges:
    """Everything that a reload changes in lines and devices, ready to be applied."""

    config: Config
    catalog: DeviceCatalog
    # all new and changed lines; a changed line has the name of the line that it replaces
    lines: dict[str, Line] = field(default_factory=dict)
    # the traces of ``lines``; they are hidden until the lines are in use
    traces: list[FrameTrace] = field(default_factory=list)
    # names of the lines to close, because they are removed or replaced
    gone_lines: set[str] = field(default_factory=set)
    gone: list[RunningDevice] = field(default_factory=list)
    changed: list[DeviceSwap] = field(default_factory=list)
    added: list[PreparedDevice] = field(default_factory=list)
    specs: list[tuple[DeviceConfig, DeviceSpec]] = field(default_factory=list)  # of all configured devices

    def use_ring(self, ring: Ring) -> None:
        """Let the prepared drivers write into this ring."""
        for made in self.added:
            made.driver.use_ring(ring, made.number)
        for swap in self.changed:
            if swap.driver is not None:
                swap.driver.use_ring(ring, swap.number)

    @property
    def tables(self) -> list[tuple[int, BirthTable]]:
        """Return (number, table) of every table that these changes need."""
        return [(e.number, e.table) for e in self.changed] + [(made.number, made.table) for made in self.added]

    def __str__(self) -> str:
        """Summarise the changes for the log."""
        parts = [
            (len(self.added), "added"),
            (len(self.changed), "changed"),
            (len(self.gone), "removed"),
        ]
        text = ", ".join(f"{count} {what}" for count, what in parts if count)
        return f"devices: {text or 'none changed'}"

    async def discard(self) -> None:
        """Release the prepared objects, because they will not be applied."""
        for line in self.lines.values():
            await _close(line)
        for trace in self.traces:
            trace.discard()


async def prepare(manager: DeviceManager, config: Config, catalog: DeviceCatalog | None = None) -> DeviceChanges:
    """Create what a new configuration needs, without changing anything that is in use.

    Args:
        catalog: the catalog of the new configuration, if it exists already.

    Raises:
        ConfigError: contains all errors.
        ProfileError: a profile was removed after the configuration was read.
    """
    if catalog is None:
        catalog = await asyncio.to_thread(DeviceCatalog, config, manager.catalog.known, manager.clock.now_ms())
    change, wrong = DeviceChanges(config, catalog), list[GatewayError]()
    try:
        _prepare_lines(manager, change, wrong)
        _prepare_devices(manager, change, wrong)
        if wrong:
            raise gathered(wrong, str(config.path))
    except BaseException:
        await change.discard()
        raise
    return change


def _prepare_lines(manager: DeviceManager, change: DeviceChanges, wrong: list[GatewayError]) -> None:
    gone = set(manager.lines)
    for entry in change.config.lines:
        gone.discard(entry.name)
        old = manager.lines.get(entry.name)
        if old is not None and old.config == line_config(entry):
            continue
        try:
            line, trace = manager.make_line(entry, change.config, hidden=True)
        except ConfigError as error:
            wrong.append(error)
        else:
            change.lines[entry.name] = line
            change.traces.append(trace)
            if old is not None:
                change.gone_lines.add(entry.name)
    change.gone_lines |= gone


def _prepare_devices(manager: DeviceManager, change: DeviceChanges, wrong: list[GatewayError]) -> None:
    devices = {device.config.name: device for device in manager.devices}
    for entry in change.config.devices:
        device = devices.pop(entry.name, None)
        line = change.lines.get(entry.line) or manager.lines.get(entry.line)
        if line is None:  # the line could not be created, which is already reported
            continue
        try:
            if device is None:
                spec = change.catalog.spec(entry)
                change.specs.append((entry, spec))
                change.added.append(manager.make(change.config, entry, spec, change.catalog.table(entry, spec), line))
            elif (swap := _prepare_swap(manager, change, device, entry, line)) is not None:
                change.changed.append(swap)
        except (ConfigError, ProfileError) as error:
            wrong.append(error)
    change.gone = list(devices.values())


def _prepare_swap(
    manager: DeviceManager, change: DeviceChanges, device: RunningDevice, entry: DeviceConfig, line: Line
) -> DeviceSwap | None:
    same_address = (entry.line, entry.address, entry.profile) == (
        device.config.line, device.config.address, device.config.profile
    ) and entry.line not in change.lines  # fmt: skip
    identity = device.identity if same_address else None
    spec = change.catalog.spec(entry, identity)
    change.specs.append((entry, spec))
    same_profile = change.catalog.profile(entry).hash == device.profile.hash
    same_derived = derived_rows(change.config, entry.name) == derived_rows(manager.config, entry.name)
    same_table = entry == device.config and same_profile and same_derived
    if same_table and same_address and spec == device.poll.driver.spec:
        return None
    table, number = change.catalog.table(entry, spec, identity), manager.number()
    driver: Driver | None = None
    if spec != device.poll.driver.spec or not same_address:
        driver = make_driver(change.config, spec, line, manager.ring, number)
    return DeviceSwap(device, entry, spec, table, number, driver, device.identity, same_address)


async def apply(manager: DeviceManager, change: DeviceChanges) -> None:
    """Put prepared changes into use. This waits only for pending polls."""
    manager.catalog, manager.config = change.catalog, change.config
    gone_lines = change.gone_lines
    in_place = [e for e in change.changed if e.entry.line == e.device.config.line and e.entry.line not in gone_lines]
    gone = [device for device in change.gone if device.config.line not in gone_lines]
    await _all(*(_swap_in_place(manager, e) for e in in_place), *(_remove_in_place(manager, device) for device in gone))
    manager.start_pollers()  # the pollers then run without the removed devices
    for name, line in change.lines.items():
        manager.lines.setdefault(name, line)  # a line of a known name is replaced in ``_change_lines``
    rest = [e for e in change.changed if e not in in_place]
    await _all(*(_change_lines(manager, change, *group) for group in _groups(manager, change, rest)))
    manager.lines = {line.name: manager.lines[line.name] for line in change.config.lines}
    now_ms = manager.clock.now_ms()
    for made in change.added:
        manager.add(made, now_ms)
    order = {entry.name: n for n, entry in enumerate(change.config.devices)}
    manager.devices.sort(key=lambda device: order[device.config.name])
    for device in manager.devices:
        device.catalog = change.catalog
    manager.start_pollers()
    _publish_traces(manager, change)


def _groups(
    manager: DeviceManager, change: DeviceChanges, swaps: Iterable[DeviceSwap]
) -> list[tuple[set[str], list[DeviceSwap]]]:
    """Split a change into parts that need not wait for each other: (lines to close, devices to replace).

    Two lines are in one part if a device moves from one to the other, or if one gets the port of the other. A port must
    be closed before another line opens it.
    """
    groups: list[tuple[set[str], list[DeviceSwap]]] = [({name}, []) for name in sorted(change.gone_lines)]
    ports: dict[tuple[str, int], set[str]] = {}  # port -> the lines to close that have it now
    for name in change.gone_lines:
        ports.setdefault(_port(manager.lines[name]), set()).add(name)
    for swap in swaps:
        touched = {swap.entry.line, swap.device.config.line}
        if (line := change.lines.get(swap.entry.line)) is not None:
            touched |= ports.get(_port(line), set())
        mine = [group for group in groups if group[0] & touched]
        groups = [group for group in groups if group not in mine]
        groups.append((set().union(*(lines for lines, _ in mine)), [*(s for _, more in mine for s in more), swap]))
    return groups


def _port(line: Line) -> tuple[str, int]:
    where = target(line.config)
    return where.host, where.port


async def _change_lines(
    manager: DeviceManager, change: DeviceChanges, lines: set[str], swaps: Sequence[DeviceSwap]
) -> None:
    """Close lines and replace devices, as soon as all devices of these lines and all replaced devices are idle."""
    paused = [device for device in manager.devices if device.config.line in lines]
    paused += [swap.device for swap in swaps if swap.device not in paused]
    try:
        await _all(*(device.poll.pause() for device in paused))
        for name in lines:
            if name in manager.pollers:
                manager.stop_poller(name)
            await _close(manager.lines[name])
        manager.lines |= {name: change.lines[name] for name in lines if name in change.lines}
        for device in [device for device in change.gone if device.config.line in lines]:
            manager.remove(device)
        for swap in swaps:
            _swap(manager, swap)
    finally:
        for device in paused:
            device.poll.resume()
    manager.start_pollers()


async def _all(*steps: Coroutine[Any, Any, None]) -> None:
    """Run all steps to their end, then raise the first error.

    The caller rolls back after an error, and no step may still be running then.
    """
    for error in await asyncio.gather(*steps, return_exceptions=True):
        if error is not None:
            raise error


async def _close(line: Line) -> None:
    try:
        await line.close()
    except OSError as error:  # for example, the adapter is unplugged; the port is closed in any case
        log.warning("%s: error while closing the line: %s", line.where, error.strerror)


def _publish_traces(manager: DeviceManager, change: DeviceChanges) -> None:
    """Make the traces of new lines visible, and delete the traces of removed lines.

    An error is only logged, because only the display of frames needs the traces.
    """
    try:
        for trace in change.traces:
            trace.show()
        for name in change.gone_lines - manager.lines.keys():
            (change.config.runtime_dir / f"frames.{name}").unlink(missing_ok=True)
    except OSError as error:
        log.warning("frame traces of some lines are not available: %s: %s", error.filename, error.strerror)


async def _swap_in_place(manager: DeviceManager, swap: DeviceSwap) -> None:
    """Replace one device of an unchanged line. The other devices of the line are not paused."""
    try:
        await swap.device.poll.pause()
        _swap(manager, swap)
    finally:
        swap.device.poll.resume()
    manager.pollers[swap.entry.line].wake()


async def _remove_in_place(manager: DeviceManager, device: RunningDevice) -> None:
    try:
        await device.poll.pause()  # the device is not resumed, because it is removed
        manager.remove(device)
    except BaseException:
        device.poll.resume()
        raise


def _swap(manager: DeviceManager, swap: DeviceSwap) -> None:
    """Put the new configuration of a paused device into use, from the first tick that is not settled."""
    device, cut_ms = swap.device, manager.cut_ms(swap.device)
    device.config, device.catalog = swap.entry, manager.catalog
    device.line = manager.lines[swap.entry.line]
    device.line.apply_options(device.line.request_options(swap.spec.limits, swap.spec.serial))
    # True: the device was identified after ``prepare``, so its table and driver are newer than those in ``swap``
    identified_meanwhile = device.identity != swap.identity
    if identified_meanwhile or not swap.same_address:
        device.identity = None
    if swap.driver is not None:
        known = manager.catalog.known.get(swap.table.stream)
        if known is not None and changes(known, swap.table.facts):
            # before its first reading, the device is identified again, which begins a new counter epoch
            device.identity = None
        device.stream.switch_table(swap.number, swap.table, cut_ms, manager.ring)
        device.poll.exchange(swap.driver, cut_ms)
        device.poll.use_ring(manager.ring, swap.number)
    elif identified_meanwhile:
        # the next visit identifies the device again, and makes its table from the new configuration
        device.poll.availability = Availability.UNKNOWN
    else:
        device.stream.switch_table(swap.number, swap.table, cut_ms, manager.ring)
        device.poll.use_ring(manager.ring, swap.number)
