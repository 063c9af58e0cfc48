"""Lines and devices of the running agent, and one poller a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agent.config import Config, DeviceConfig, gathered, line_config, make_driver
from agent.config.tree import LineEntry
from agent.pack import StreamTable
from agent.poll import DevicePoll, Grid, LinePoller
from agent.service.db_thread import DatabaseThread
from agent.service.identity import IdentityChecker
from agent.service.learned import MapQuirks
from agent.service.roster import Device, DeviceCatalog
from agent.service.seal_jobs import Stream
from agent.service.sealing import SealScheduler
from drivers.line import FrameTrace, Line, frames_each, open_line
from drivers.model import ConfigError, DeviceSpec
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
