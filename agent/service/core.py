"""The service: puts the parts together, runs them, stops them in order."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agent
import ext.clock
import ext.memory
from agent.config import Config, DeviceConfig, line_config
from agent.keys import load_key
from agent.pack import Head, Packer, StreamTable, base64url
from agent.poll import DevicePoll, Grid, LinePoller
from agent.service.checkpoints import Checkpoints
from agent.service.contact import Contacts
from agent.service.pen import KeyWatch, Pen
from agent.service.places import taken
from agent.service.recover import Recovered, recover
from agent.service.roster import Roster, Unit, known_devices
from agent.service.sealing import Sealing, pack_clock
from agent.service.snapshot import Snapshot
from agent.service.streams import Stream
from agent.service.writer import Writer
from agent.store import Store
from drivers.line import FrameTrace, LeaseDesk, Line, frames_each, open_line
from drivers.model import DeviceSpec, GatewayError
from drivers.registry import driver_class
from ext.ring import Ring

if TYPE_CHECKING:
    from agent.uplink import Uplink

log = logging.getLogger("meterhouse")
LOOK_EVERY_S = 1.0  # at the wall clock
SNAPSHOT_EVERY_S = 2.0
GIVE_BACK_EVERY = 5  # snapshots
PRUNE_EVERY_S = 60.0
LAST_VISIT_S = 2.0  # for visits under way when the agent stops
LAST_PACKS_S = 6.0  # for the last packs to leave


class Service:
    """One run of the agent.

    Args:
        ready: called once when the store is open and the lines are being served.
    """

    def __init__(self, config: Config, ready: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self._ready = ready
        self.boot = secrets.token_bytes(8).hex()
        self.grid = Grid()
        self.started_ms = self.grid.now_ms()
        self.units: list[Unit] = []
        self.lines: dict[str, Line] = {}
        self.uplinks: list[Uplink] = []
        self._next_table = 0
        self._packers: dict[str, Packer] = {}
        self._pollers: dict[LinePoller, asyncio.Task[None]] = {}
        self._ring: Ring | None = None
        self._snapshot: Snapshot | None = None
        self.checkpoints: Checkpoints | None = None

    # --- life

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set. Raises GatewayError where the agent cannot start at all."""
        with taken(self.config.state_dir, self.config.runtime_dir):
            key_path = self.config.key.path(os.environ)
            self.pen = Pen(load_key(key_path), self.config.base)
            self.writer = Writer(self._open_store, pack_clock)
            self.sealing = Sealing(self.writer, self.grid, self.config.pack.every_ms)
            self.writer.on_trouble = self.sealing.trouble_is
            await self.writer.start()
            try:
                await self._start(key_path)
                await self._serve(stop)
            finally:
                await self._stop()

    def _open_store(self) -> Store:
        store = self.config.store
        return Store.open(
            self.config.store_path,
            max_size_bytes=store.max_size_bytes,
            keep_delivered_s=store.keep_delivered_s,
            destinations=[uplink.name for uplink in self.config.uplinks],
            now_ms=time.time_ns() // 1_000_000,
        )

    async def _start(self, key_path: Path) -> None:
        config = self.config
        await self.writer.call(self.pen.take_up)  # before anything is sealed: a wrong key signs nothing
        note, publish = self.sealing.remark, self._publish_keys
        self.key_watch = KeyWatch(self.pen, key_path, self.writer, publish, note, self._make_checkpoint)
        self._heads = {
            name: Head(boot=head.boot, seq=head.seq, hash=base64url(head.hash), to_ms=head.to_ms)
            for name, head in (await self.writer.call(Store.heads)).items()
        }
        recovered = await self.writer.call(
            lambda store: recover(store, config.runtime_dir, self._packer, pack_clock(), self.started_ms)
        )
        self._open_lines()
        known = known_devices(await self.writer.call(Store.devices))
        self._roster = Roster(config, known, self.started_ms)
        specs = [(device, self._roster.spec(device)) for device in config.devices]
        tables = [self._roster.table(device, spec) for device, spec in specs]
        gateway = Stream(f"{config.base}/_gateway", self._packer(f"{config.base}/_gateway"), self.started_ms)
        tables.insert(0, self._roster.gateway_table(gateway.name, agent.__version__))
        self.started_ms = self.grid.now_ms()
        ring = self._make_ring(tables)
        gateway.become(self._number(), tables[0], self.started_ms)
        self.sealing.open(ring, gateway)
        self._contacts = Contacts(self.sealing, self.writer, ring, self._register, self._number)
        for (device, spec), table in zip(specs, tables[1:], strict=True):
            self._admit(ring, device, spec, table)
        await self._register(list(enumerate(tables)))
        await self.writer.call(lambda store: store.forget_rings([ring.ring_id]))
        self.sealing.note(gateway, _start_event(recovered))
        self._start_uplinks()

    def _packer(self, stream: str) -> Packer:
        if stream not in self._packers:
            self._packers[stream] = Packer(
                stream,
                self.boot,
                self._heads.get(stream),
                self.pen.sign,
                self.started_ms,
                self.config.pack.max_size_bytes,
            )
        return self._packers[stream]

    def _open_lines(self) -> None:
        config = self.config
        desk = LeaseDesk(config.runtime_dir / "leases")
        frames = frames_each(len(config.lines))
        for line in config.lines:
            trace = FrameTrace(config.runtime_dir / f"frames.{line.name}", frames)
            self.lines[line.name] = open_line(line_config(line), desk=desk, trace=trace)

    def _make_ring(self, tables: Sequence[StreamTable]) -> Ring:
        digest = hashlib.sha256(b"".join(table.encoded for table in tables)).digest()
        self.ring_path = self.config.runtime_dir / f"ring.{self.boot}"
        self._ring = Ring.create(
            str(self.ring_path), self.config.ring.size_bytes, secrets.randbits(63), int(self.boot, 16), digest
        )
        return self._ring

    def _number(self) -> int:
        self._next_table += 1
        return self._next_table - 1

    def _admit(self, ring: Ring, device: DeviceConfig, spec: DeviceSpec, table: StreamTable) -> None:
        line = self.lines[device.line]
        stream = Stream(spec.stream, self._packer(spec.stream), self.started_ms)
        stream.become(self._number(), table, self.started_ms)
        driver = driver_class(spec.protocol)(spec, line, ring, stream.shape.number)
        poll = DevicePoll(driver, ring, self.started_ms)
        self.units.append(Unit(device, self._roster.profile(device), line, stream, poll))
        self.sealing.admit(stream, poll)

    async def _register(self, tables: Sequence[tuple[int, StreamTable]]) -> None:
        """Make tables durable before the first record that names them."""
        assert self._ring is not None
        ring_id = self._ring.ring_id
        rows = ((number, table.stream, table.encoded) for number, table in tables)
        await self.writer.call(lambda store: store.register_tables(ring_id, rows))

    def _start_uplinks(self) -> None:
        config = self.config
        self.checkpoints = Checkpoints(self.writer, self.pen, config.base, self.uplinks)
        if not config.uplinks:
            return
        from agent.uplink import Uplink

        loop = asyncio.get_running_loop()
        for uplink in config.uplinks:
            self.uplinks.append(
                Uplink(
                    uplink,
                    site=config.site,
                    gateway=config.gateway,
                    outbox=self.writer,
                    keys=self.pen.records,
                    version=agent.__version__,
                    pack_every_ms=config.pack.every_ms,
                    live_rate=1000 * (len(config.devices) + 1) / config.pack.every_ms,
                    on_event=lambda event: loop.call_soon_threadsafe(self.sealing.remark, event),
                )
            )
        self.writer.serve(self.uplinks)
        for running in self.uplinks:
            running.start()

    def _publish_keys(self, keys: bytes) -> None:
        """From the writer's thread, before anything that only these keys explain."""
        for uplink in self.uplinks:
            uplink.retain("keys", keys)

    async def _make_checkpoint(self) -> None:
        if self.checkpoints is not None:
            await self.checkpoints.make()

    async def _serve(self, stop: asyncio.Event) -> None:
        for note in self.config.notes:
            log.warning("%s", note)
        for text in await self.writer.call(lambda store: [*store.warnings(), *_store_line(store)]):
            log.info("%s", text)
        self._start_pollers()
        self._snapshot = Snapshot(self.config, self.boot, self.ring_path.name)
        self._snapshot.write(self)
        self._ready()
        log.info("serving %d devices on %d lines, boot %s", len(self.units), len(self.lines), self.boot)
        works: list[Coroutine[Any, Any, None]] = [
            self.sealing.run(),
            self._watch_clock(),
            self._snapshots(self._snapshot),
            self._watch_pollers(),
            self._housekeeping(),
            self.key_watch.run(),
            *([self.checkpoints.run()] if self.checkpoints else []),
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _stop(self) -> None:
        """From the source: no more polls, seal what is held, commit, try to send for a bounded time."""
        await self._stop_pollers()
        for line in self.lines.values():
            await line.close()
        try:
            sealed = await self.sealing.close()
            if sealed and self.checkpoints is not None:
                await self.checkpoints.make()
        except GatewayError as error:
            log.error("%s", error)  # the ring stays: the next start seals it
            sealed = False
        await asyncio.gather(*(asyncio.to_thread(uplink.stop, LAST_PACKS_S) for uplink in self.uplinks))
        await self.writer.stop()
        if self._ring is not None:
            self._ring.close()
            if sealed:
                self.ring_path.unlink(missing_ok=True)
        if self._snapshot is not None:
            self._snapshot.remove()

    # --- asking

    def _start_pollers(self) -> None:
        by_line: dict[str, list[DevicePoll]] = {}
        self._unit_of = {id(unit.poll): unit for unit in self.units}
        for unit in self.units:
            by_line.setdefault(unit.config.line, []).append(unit.poll)
        for line, polls in by_line.items():
            poller = LinePoller(polls, self.grid, self._contact, self._collect)
            self._pollers[poller] = asyncio.create_task(poller.run(), name=f"line {line}")

    async def _stop_pollers(self) -> None:
        """Let visits end that end soon; what is asked for longer than that is given up and stays due."""
        for poller, task in self._pollers.items():
            if poller.busy:
                poller.stopping = True
            else:
                task.cancel()
        tasks = list(self._pollers.values())
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_VISIT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pollers.clear()

    async def _watch_pollers(self) -> None:
        """A poller only ends by a bug; the service must not go on without its line and nobody knowing."""
        while True:
            for task in list(self._pollers.values()):
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            await asyncio.sleep(1)

    def _collect(self, device: DevicePoll, positions: list[int], answered: bool) -> None:
        self._unit_of[id(device)].stream.record(device.driver.table, positions, answered)

    async def _contact(self, device: DevicePoll, tick_ms: int) -> None:
        """Read who the device is before its data counts."""
        await self._contacts.meet(self._unit_of[id(device)], tick_ms, self._roster)

    # --- watching

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if step := self.grid.look():
                log.warning("the clock was set from %.3f to %.3f", step[0] / 1000, step[1] / 1000)
                await self._stop_pollers()
                if await self.sealing.cut(*step):
                    self.grid.take_step()
                    for unit in self.units:
                        unit.poll.align(self.grid.now_ms())
                self._start_pollers()

    async def _housekeeping(self) -> None:
        """Keep the store within its bounds; what had to be dropped is stated in the stream's next pack."""
        while True:
            trusted = ext.clock.state().synced is not False
            try:
                self.sealing.owe(await self.writer.prune(time.time_ns() // 1_000_000 if trusted else 0))
            except GatewayError as error:
                self.sealing.trouble_is(str(error))
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _snapshots(self, snapshot: Snapshot) -> None:
        beat = 0
        while True:
            await asyncio.sleep(SNAPSHOT_EVERY_S)
            snapshot.write(self)
            beat += 1
            self._stay_small(beat % GIVE_BACK_EVERY == 1)

    def _stay_small(self, give_back: bool) -> None:
        """Let go of pages of ring and traces, which are in the runtime directory anyway, and of what was freed."""
        if self._ring is not None:
            self._ring.trim()
        for line in self.lines.values():
            line.trim()
        if give_back:
            ext.memory.give_back()


def _start_event(recovered: Recovered) -> dict[str, Any]:
    event: dict[str, Any] = {"event": "start", "version": agent.__version__}
    if recovered.packs:
        event["recovered"] = {"packs": recovered.packs, "readings": recovered.readings}
        log.info("sealed %d readings that the run before left in the ring", recovered.readings)
    if recovered.lost_rings:
        event["rings_set_aside"] = recovered.lost_rings
    return event


def _store_line(store: Store) -> list[str]:
    """What is really in effect, at every start (field pain 54); and what had to be set aside, if anything."""
    usage = store.usage()
    lines = [f"store {usage.path}: {usage.settings}; at most {usage.max_bytes >> 20} MiB, now {usage.disk_bytes >> 20}"]
    if store.quarantine is not None:
        damaged = store.quarantine
        lines.append(f"the database before was damaged ({damaged.reason}); it is set aside as {damaged.path}")
    return lines
