"""The service: puts the parts together, runs them, stops them in order."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ext.clock
from agent.config import Config, DeviceConfig, device_spec, line_config, site_profiles
from agent.keys import Signer, key_records, load_key
from agent.pack import Head, Packer, StreamTable, base64url, seconds
from agent.poll import DevicePoll, Grid, LinePoller
from agent.service.recover import Recovered, recover
from agent.service.snapshot import Snapshot
from agent.service.streams import SealJob, Stream
from agent.service.tables import Source, device_table, gateway_table
from agent.service.writer import Writer
from agent.store import Store
from drivers.line import FrameTrace, LeaseDesk, Line, frames_each, open_line
from drivers.model import DeviceSpec, GatewayError, Reason, clean_text
from drivers.profile import Profile, vocabulary
from drivers.registry import driver_class
from ext.ring import Ring

if TYPE_CHECKING:
    from agent.uplink import Uplink

log = logging.getLogger("meterhouse")
LOOK_EVERY_S = 1.0  # at the wall clock
SNAPSHOT_EVERY_S = 2.0
PRUNE_EVERY_S = 60.0
FIRST_SEAL_S = 1.5  # the first packs wait at most this long for the first readings
SEAL_OFFSET_MS = 250  # sealing waits until the tick's own burst is over
LAST_VISIT_S = 2.0  # for visits under way when the agent stops
STOP_S = 6.0  # for the last packs to leave


@dataclass(slots=True)
class Unit:
    """One device in the running agent."""

    config: DeviceConfig
    profile: Profile
    line: Line
    stream: Stream
    poll: DevicePoll
    identity: dict[str, str | None] | None = None


class Service:
    """One run of the agent.

    Args:
        ready: called once when the store is open and the lines are being served.
    """

    def __init__(self, config: Config, ready: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self._ready = ready
        self.version = version("meterhouse")
        self.boot = secrets.token_bytes(8).hex()
        self._kernel_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._next_table = 0
        self._trouble: str | None = None
        self._units: list[Unit] = []
        self._streams: dict[str, Stream] = {}
        self._uplinks: list[Uplink] = []
        self._lines: dict[str, Line] = {}
        self._pollers: dict[LinePoller, asyncio.Task[None]] = {}
        self._seal_lock = asyncio.Lock()
        self._grid = Grid()
        self.started_ms = 0

    # --- life

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set. Raises GatewayError where the agent cannot start at all."""
        config = self.config
        config.runtime_dir.mkdir(parents=True, exist_ok=True)
        config.state_dir.mkdir(parents=True, exist_ok=True)
        signer = load_key(config.key.path(os.environ))
        self._sign = signer.signer("mh-pack")
        self._writer = Writer(self._open_store, self._clock, self._store_trouble)
        await self._writer.start()
        try:
            await self._start(signer)
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

    async def _start(self, signer: Signer) -> None:
        config = self.config
        self._heads = {
            name: Head(boot=head.boot, seq=head.seq, hash=base64url(head.hash), to_ms=head.to_ms)
            for name, head in (await self._writer.call(Store.heads)).items()
        }
        self.started_ms = self._grid.now_ms()
        packers: dict[str, Packer] = {}

        def packer_of(stream: str) -> Packer:
            if stream not in packers:
                packers[stream] = Packer(
                    stream,
                    self.boot,
                    self._heads.get(stream),
                    self._sign,
                    self.started_ms,
                    config.pack.max_size_bytes,
                )
            return packers[stream]

        recovered = await self._writer.call(
            lambda store: recover(store, config.runtime_dir, packer_of, self._clock(), self.started_ms)
        )
        self.started_ms = self._grid.now_ms()
        find = site_profiles(config.profiles_dir)
        profiles = {device.profile: find(device.profile) for device in config.devices}
        desk = LeaseDesk(config.runtime_dir / "leases")
        frames = frames_each(len(config.lines))
        for line in config.lines:
            trace = FrameTrace(config.runtime_dir / f"frames.{line.name}", frames)
            self._lines[line.name] = open_line(line_config(line), desk=desk, trace=trace)
        # the ring is made last of all that its header speaks of
        shapes: list[tuple[DeviceConfig, Profile, Any]] = [
            (device, profiles[device.profile], device_spec(config, device, profiles[device.profile]))
            for device in config.devices
        ]
        documents = [self._table(device, spec, profile, None) for device, profile, spec in shapes]
        gateway = gateway_table(config, self.version)
        digest = hashlib.sha256(json.dumps([gateway, *documents], sort_keys=True).encode()).digest()
        self._ring_path = config.runtime_dir / f"ring.{self.boot}"
        self._ring = Ring.create(
            str(self._ring_path), config.ring.size_bytes, secrets.randbits(63), int(self.boot, 16), digest
        )
        tables: list[tuple[int, StreamTable]] = []
        self._gateway = Stream(f"{config.base}/_gateway", packer_of(f"{config.base}/_gateway"), self.started_ms)
        tables.append(self._shape(self._gateway, gateway, self.started_ms))
        self._streams[self._gateway.name] = self._gateway
        for (device, profile, spec), document in zip(shapes, documents, strict=True):
            stream = Stream(spec.stream, packer_of(spec.stream), self.started_ms)
            number, _ = shape = self._shape(stream, document, self.started_ms)
            tables.append(shape)
            driver = driver_class(spec.protocol)(spec, self._lines[device.line], self._ring, number)
            unit = Unit(
                device, profile, self._lines[device.line], stream, DevicePoll(driver, self._ring, self.started_ms)
            )
            self._units.append(unit)
            self._streams[stream.name] = stream
        await self._register(tables)
        self._note_start(recovered)
        keys = await self._writer.call(lambda store: self._keys(store, signer))
        if config.uplinks:
            from agent.uplink import Uplink
        for uplink in config.uplinks:
            self._uplinks.append(
                Uplink(
                    uplink,
                    site=config.site,
                    gateway=config.gateway,
                    outbox=self._writer,
                    keys=keys,
                    version=self.version,
                    pack_every_ms=config.pack.every_ms,
                )
            )
        self._writer.serve(self._uplinks)
        for running in self._uplinks:
            running.start()
        self._snapshot = Snapshot(config, self.boot, self._ring_path.name)

    def _keys(self, store: Store, signer: Signer) -> bytes:
        """The ``keys`` object to publish, kept so that a later key can be recorded by this one."""
        kept = store.key_record()
        data = key_records(signer, self.config.base, kept[1] if kept else None)
        store.add_key_record(json.loads(data)["counter"], data)
        return data

    async def _serve(self, stop: asyncio.Event) -> None:
        self._start_pollers()
        self._ready()
        log.info("serving %d devices on %d lines, boot %s", len(self._units), len(self._lines), self.boot)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._sealing(), name="sealing"),
                group.create_task(self._watch_clock(), name="clock"),
                group.create_task(self._snapshots(), name="snapshot"),
                group.create_task(self._watch_pollers(), name="pollers"),
                group.create_task(self._housekeeping(), name="housekeeping"),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _stop(self) -> None:
        """From the source: no more polls, seal what is held, commit, try to send for a bounded time."""
        await self._stop_pollers()
        for line in self._lines.values():
            await line.close()
        sealed = False
        if self._streams and hasattr(self, "_ring"):
            self._note(self._gateway, {"event": "stop"})
            sealed = await self._seal(self._grid.now_ms() + 1, list(self._streams.values()))
        await asyncio.gather(*(asyncio.to_thread(uplink.stop, STOP_S) for uplink in self._uplinks))
        await self._writer.stop()
        if hasattr(self, "_ring"):
            self._ring.close()
            if sealed:
                self._ring_path.unlink(missing_ok=True)
        if hasattr(self, "_snapshot"):
            self._snapshot.remove()

    # --- tables

    def _table(
        self, device: DeviceConfig, spec: DeviceSpec, profile: Profile, identity: Mapping[str, str | None] | None
    ) -> dict[str, Any]:
        source = Source(profile.id, profile.hash, profile.evidence)
        return device_table(self.config, device, spec, source, identity, vocabulary().senml)

    def _shape(self, stream: Stream, document: dict[str, Any], start_ms: int) -> tuple[int, StreamTable]:
        number = self._next_table
        self._next_table += 1
        table = StreamTable(stream.name, document)
        stream.become(number, table, start_ms)
        return number, table

    async def _register(self, tables: Sequence[tuple[int, StreamTable]]) -> None:
        """Make tables durable before the first record that names them."""
        ring_id = self._ring.ring_id
        rows = [(number, table.stream, table.document) for number, table in tables]
        await self._writer.call(lambda store: store.register_tables(ring_id, rows))

    # --- asking

    def _start_pollers(self) -> None:
        by_line: dict[str, list[DevicePoll]] = {}
        self._unit_of = {id(unit.poll): unit for unit in self._units}
        self._unit_by_stream = {unit.stream.name: unit for unit in self._units}
        for unit in self._units:
            by_line.setdefault(unit.config.line, []).append(unit.poll)
        pollers = {line: LinePoller(polls, self._grid, self._contact, self._collect) for line, polls in by_line.items()}
        self._pollers = {
            poller: asyncio.create_task(poller.run(), name=f"line {line}") for line, poller in pollers.items()
        }

    async def _stop_pollers(self) -> None:
        """Let visits end that end soon; what is asked for longer than that is given up and stays due."""
        idle = [task for poller, task in self._pollers.items() if not poller.busy]
        for poller in self._pollers:
            poller.stopping = True
        for task in idle:
            task.cancel()
        if self._pollers:
            await asyncio.wait(self._pollers.values(), timeout=LAST_VISIT_S)
        for task in self._pollers.values():
            task.cancel()
        await asyncio.gather(*self._pollers.values(), return_exceptions=True)
        self._pollers = {}

    async def _watch_pollers(self) -> None:
        """A poller only ends by a bug; the service must not go on without its line and nobody knowing."""
        while True:
            for task in self._pollers.values():
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            await asyncio.sleep(1)

    def _collect(self, device: DevicePoll, positions: list[int], answered: bool) -> None:
        self._unit_of[id(device)].stream.record(device.driver.table, positions, answered)

    async def _contact(self, device: DevicePoll, tick_ms: int) -> None:
        """Read who the device is before its data counts. A new identity or variant makes a new table."""
        unit = self._unit_of[id(device)]
        names = [n for n in unit.profile.identity_points if any(p.name == n for p in device.driver.spec.points)]
        if not names:
            await device.driver.probe()
            identity: dict[str, str | None] = {}
        else:
            readings = await device.driver.read_points(names)
            identity = {
                name: None if reading.value is None else clean_text(str(reading.value), 120)
                for name, reading in readings.items()
            }
        if identity == unit.identity:
            return
        await self._identified(unit, identity, tick_ms)

    async def _identified(self, unit: Unit, identity: dict[str, str | None], tick_ms: int) -> None:
        device, before = unit.poll, unit.identity
        known = {name: text for name, text in identity.items() if text is not None}
        spec = device_spec(
            self.config, unit.config, unit.profile, firmware=known.get("device.firmware"), identity=known
        )
        document = self._table(unit.config, spec, unit.profile, identity)
        unit.identity = identity
        if document == unit.stream.shape.table.document:
            return
        shape = self._shape(unit.stream, document, tick_ms)
        await self._register([shape])
        if spec.points != device.driver.spec.points or spec.limits != device.driver.spec.limits:
            device.driver = driver_class(spec.protocol)(spec, unit.line, self._ring, shape[0])
            device.respecified()
        else:
            device.driver.table = shape[0]
        if before is not None:
            self._note(unit.stream, {"event": "identity", "old": before, "new": identity})
            log.warning("%s is another device or has another firmware: %s, was %s", unit.config.name, identity, before)

    # --- sealing

    def _clock(self) -> Mapping[str, Any]:
        state = ext.clock.state()
        return {
            "error_ms": None if state.error_us is None else state.error_us / 1000,
            "kernel_boot": self._kernel_boot,
            "mono_ms": time.monotonic_ns() // 1_000_000,
            "synced": state.synced,
        }

    def _note(self, stream: Stream, event: dict[str, Any]) -> None:
        """An event of a stream: into the ring, so that it survives, and into the next pack."""
        now_ms = self._grid.now_ms()
        event = {"t": seconds(now_ms), **event}
        self._ring.append_event(
            stream.shape.number, now_ms * 1_000_000, time.monotonic_ns(), json.dumps(event).encode()
        )
        stream.events.append((now_ms, event))

    def _note_start(self, recovered: Recovered) -> None:
        event: dict[str, Any] = {"event": "start", "version": self.version}
        if recovered.packs:
            event["recovered"] = {"packs": recovered.packs, "readings": recovered.readings}
            log.info("sealed %d readings that the run before left in the ring", recovered.readings)
        if recovered.lost_rings:
            event["rings_set_aside"] = recovered.lost_rings
        self._note(self._gateway, event)

    async def _sealing(self) -> None:
        """The first packs right after the first readings, then every pack interval on the grid."""
        begin = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - begin < FIRST_SEAL_S and not self._first_round():
            await asyncio.sleep(0.02)
        await self._seal(self._grid.now_ms(), list(self._streams.values()))
        every = self.config.pack.every_ms
        offset = min(SEAL_OFFSET_MS, every // 4)
        done_ms = self._grid.now_ms() // every * every
        while True:
            now = self._grid.now_ms()
            boundary = (now - offset) // every * every
            done_ms = min(done_ms, boundary)  # the clock was set back
            waiting = [s for s in self._streams.values() if s.sealed_ms < boundary and s.due(boundary)]
            ready = [s for s in waiting if self._settled_ms(s) >= boundary]
            if ready:
                await self._seal(boundary, ready)
            if len(ready) < len(waiting):
                await asyncio.sleep(min(0.25, every / 4000))
                continue
            done_ms = max(boundary, done_ms)
            await asyncio.sleep(max(0.01, (done_ms + every + offset - self._grid.now_ms()) / 1000))

    def _first_round(self) -> bool:
        return all(unit.poll.settled_ms > unit.poll.first_ms for unit in self._units)

    def _settled_ms(self, stream: Stream) -> int:
        unit = self._unit_by_stream.get(stream.name)
        return unit.poll.settled_ms if unit else 1 << 62

    async def _seal(self, to_ms: int, streams: Sequence[Stream]) -> bool:
        """Seal and commit these streams, each up to where it is settled. False if the store could not."""
        async with self._seal_lock:
            unknown = Reason.DISK if self._trouble else Reason.STOPPED
            jobs = []
            for stream in streams:
                end = min(to_ms, self._settled_ms(stream))
                if end >= stream.sealed_ms or stream.start_ms is not None:
                    jobs.append(stream.job(end, unknown))
            return await self._carry_out(jobs)

    async def _carry_out(self, jobs: Sequence[SealJob]) -> bool:
        outcome = await self._writer.seal(self._ring, jobs)
        for job in jobs:
            job.stream.sealing = False
        for sealed in outcome or ():
            sealed.job.stream.done(sealed.job, sealed.readings, sealed.gap_readings, sealed.packs, sealed.quiet)
        return outcome is not None

    def _store_trouble(self, text: str | None) -> None:
        if text and not self._trouble:
            log.error("sealing pauses: %s", text)
        elif self._trouble and not text:
            log.warning("sealing goes on: the store commits again")
        self._trouble = text

    # --- watching

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if step := self._grid.look():
                await self._clock_step(*step)

    async def _clock_step(self, old_ms: int, new_ms: int) -> None:
        """Cut every stream at the step; ticks that it skips or repeats are not due."""
        log.warning("the clock was set from %.3f to %.3f", old_ms / 1000, new_ms / 1000)
        await self._stop_pollers()
        async with self._seal_lock:
            jobs = [stream.job(max(old_ms, stream.sealed_ms), Reason.CLOCK) for stream in self._streams.values()]
            for job in jobs:
                job.step_ms = new_ms
            if await self._carry_out(jobs):
                self._grid.take_step()
                for unit in self._units:
                    unit.poll.align(self._grid.now_ms())
        self._start_pollers()

    async def _housekeeping(self) -> None:
        """Keep the store within its bounds; what had to be dropped is stated in the stream's next pack."""
        while True:
            trusted = ext.clock.state().synced is not False
            try:
                lost = await self._writer.prune(time.time_ns() // 1_000_000 if trusted else 0)
            except GatewayError as error:
                self._store_trouble(str(error))
                lost = set()
            for name in lost & self._streams.keys():
                self._streams[name].news = True
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _snapshots(self) -> None:
        while True:
            self._snapshot.write(self._status())
            await asyncio.sleep(SNAPSHOT_EVERY_S)

    def _status(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "started": seconds(self.started_ms),
            "devices": {
                unit.config.name: {
                    "line": unit.config.line,
                    "life": unit.poll.life.value,
                    "last_answer": seconds(unit.poll.last_answer_ms) if unit.poll.last_answer_ms else None,
                    "error": unit.poll.last_error or None,
                    "overloads": unit.poll.overloads,
                    "identity": unit.identity,
                    "readings": unit.stream.readings,
                    "gap_readings": unit.stream.gap_readings,
                    "packs": unit.stream.packs,
                    "sealed_to": seconds(unit.stream.sealed_ms),
                }
                for unit in self._units
            },
            "lines": {name: _line_facts(line) for name, line in self._lines.items()},
            "uplinks": {u.name: u.state() for u in self._uplinks},
            "store": {"trouble": self._trouble, "path": str(self.config.store_path)},
            "tables": {
                str(shape.number): {
                    "stream": stream.name,
                    "points": [
                        {"n": p["n"], "u": p.get("u") or p.get("du") or "", "kind": p["kind"]}
                        for p in shape.table.document["points"]
                    ],
                }
                for stream in self._streams.values()
                for shape in stream.shapes
            },
        }


def _line_facts(line: Line) -> dict[str, Any]:
    stats = line.stats
    return {
        "url": line.config.url,
        "open": line.is_open,
        "lent": line.lent or None,
        "busy_share": round(stats.busy_share(time.monotonic_ns()), 4),
        "sent": {str(function): count for function, count in sorted(stats.sent.items())},
        "answers": stats.answers,
        "timeouts": stats.timeouts,
        "broken": stats.broken,
        "mismatches": stats.mismatches,
        "exceptions": stats.exceptions,
        "stale": stats.stale,
        "foreign": stats.foreign,
        "opened": stats.opened,
        "open_failures": stats.open_failures,
        "lost": stats.lost,
        "notes": stats.notes,
    }
