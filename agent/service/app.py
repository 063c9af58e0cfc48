"""The application: creates all parts of the agent, runs them, and stops them in the right order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agent
import ext.clock
import ext.memory
from agent.certificates import Expiry, expiries, stamps
from agent.clock import STEP_MS, ClockSet, SteadyClock, sleep_to_multiple
from agent.config import (
    Config,
    ConfigWarning,
    RingPlan,
    UplinkConfig,
    file_system_bytes,
    plan_ring,
    reading_rate,
    ring_notes,
)
from agent.keys import load_own_key
from agent.outbox import outbox_names
from agent.pack import Head, Packer, base64url
from agent.service.births import DeviceCatalog, RunningDevice, known_devices
from agent.service.checkpoints import CheckpointMaker
from agent.service.control.peer import Caller, Right
from agent.service.control.server import ControlServer, ReadThrottle, RunningAccess
from agent.service.db_thread import DatabaseThread
from agent.service.devices import DeviceManager
from agent.service.identity import MapQuirks
from agent.service.recovery import LostTransactions, Recovered, recover, resume_after_loss
from agent.service.reload import LAST_PACKS_S, Reloader, ReloadOutcome
from agent.service.results.publisher import ResultPublisher, make_producers
from agent.service.rings import RingFiles, tables_hash
from agent.service.runtime_dir import instance_lock
from agent.service.seal_jobs import Stream
from agent.service.sealing import RETRY_S, SealScheduler, pack_clock
from agent.service.signing_key import ActiveKey, KeyFileWatcher
from agent.service.status import FUTURE_MS, StatusFile, summary
from agent.service.store_check import StoreScrubber
from agent.service.systemd import Watchdog, notify
from agent.store import Store, StoreDamaged
from drivers.line import Line
from drivers.model import GatewayError
from drivers.profile import vocabulary
from drivers.rate_limit import RateLimitedLog

if TYPE_CHECKING:
    from agent.uplink import Uplink

log = logging.getLogger("meterhouse")
CLOCK_CHECK_S = 1.0  # interval between two comparisons with the wall clock
SNAPSHOT_EVERY_S, SNAPSHOT_MOST_S = 2.0, 10.0
SNAPSHOT_FIRST_TURNS = 5  # the first writes may be skipped during this many turns
# share of the loop's time for the status file; so it is written every 2 to 6 s with two devices, every 10 s with ten
SNAPSHOT_SHARE = 0.0002
# Time after which a computing thread must give the interpreter to a thread that returns from a system call. With
# Python's default of 5 ms, the first packs of 1,600 devices took 3 s, because each signature, hash and write waited for
# the loop, which was connecting the other devices. After the first packs, 1 ms has no use: with 3,000 devices and packs
# of 1 s, it costs 4 % of the CPU time.
FIRST_SWITCH_S, SWITCH_S = 0.001, 0.005
PRUNE_EVERY_S = 60.0
# Memory is released together with the status, and every 4 s if the ring has grown by this many slots of 16 bytes: by
# 100 devices with 100 points at 1 Hz, but not by ten.
RELEASE_SLOTS = 1 << 15


class Service:
    """One run of the agent.

    Args:
        ready: called once, when the store is open and polling has begun.
        load: reads the configuration again for a reload. None: each reload fails.
    """

    def __init__(
        self, config: Config, ready: Callable[[], None] = lambda: None, load: Callable[[], Config] | None = None
    ) -> None:
        self.config = config
        self.loaded_ms = time.time_ns() // 1_000_000
        self.complaints: list[str] = []  # the errors of the last reload, if it was rejected
        self._reloads = Reloader(self, load)
        self._ready = ready
        self.boot = secrets.token_bytes(8).hex()
        self.clock = SteadyClock()
        self.started_ms, self.started_s = self.clock.now_ms(), time.monotonic()
        self.clock_set: ClockSet | None = None  # the last step of the clock
        self.uplinks: list[Uplink] = []
        self.packers: dict[str, Packer] = {}
        self.rings = RingFiles(config.runtime_dir, self.boot)
        self.ring_plan: RingPlan
        self._snapshot: StatusFile | None = None
        self._status_log = RateLimitedLog()
        self.checkpoints: CheckpointMaker | None = None
        self._slices, self._sums = ReadThrottle(), ReadThrottle()
        self.newest_stored_ms = 0  # end in UTC ms of the newest pack of earlier runs; 0: there is none
        self.certificates: list[Expiry] = []  # of all destinations; a change of the files is noticed within a minute
        self._control = ControlServer(self._access, config.runtime_dir, lambda: self.config.control.group)

    @property
    def devices(self) -> Sequence[RunningDevice]:
        """All devices in use."""
        return self.device_manager.devices

    @property
    def lines(self) -> dict[str, Line]:
        """All lines in use, by name."""
        return self.device_manager.lines

    # --- life

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set. Raises GatewayError if the agent cannot start at all."""
        sys.setswitchinterval(FIRST_SWITCH_S)
        with instance_lock(self.config.state_dir, self.config.runtime_dir), self._control:
            key_path = self.config.key.path(os.environ)
            self.active_key = ActiveKey(load_own_key(key_path, self.config.store_path), self.config.base)
            self.db_thread = DatabaseThread(self._open_store, pack_clock)
            self.sealing = SealScheduler(self.db_thread, self.clock, self.config.pack.every_ms)
            self.db_thread.on_trouble = self.sealing.set_trouble
            notify("STATUS=opening the store")
            self.device_manager = DeviceManager(self.config, self.clock, self.sealing, self.db_thread, self._stream)
            self.publisher = ResultPublisher(self.config, self.db_thread, self.sealing, self.clock, self._packer)
            self.publisher.producers = make_producers(self.config)
            self.scrubber = StoreScrubber(self.db_thread, self.sealing.gateway_event)
            self.watchdog = Watchdog(self.db_thread, self.device_manager, lambda: summary(self), os.environ)
            await self.db_thread.start()
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
            destinations=outbox_names(uplink.name for uplink in self.config.uplinks),
            now_ms=time.time_ns() // 1_000_000,
            asked={uplink.name: uplink.streams for uplink in self.config.uplinks},
        )

    async def _start(self, key_path: Path) -> None:
        config = self.config
        # the key is activated before anything is signed, because a wrong key raises an error here
        await self.db_thread.call(self.active_key.activate)
        note, publish = self.sealing.gateway_event, self._publish_keys
        self.key_watcher = KeyFileWatcher(
            self.active_key, key_path, self.db_thread, publish, note, self._make_checkpoint
        )
        gone = await self.db_thread.call(lambda store: resume_after_loss(store, config.runtime_dir))
        self._heads = {
            name: Head(boot=head.boot, seq=head.seq, hash=base64url(head.hash), to_ms=head.to_ms)
            for name, head in (await self.db_thread.call(lambda store: store.packs.heads())).items()
        }
        self.newest_stored_ms = max((head.to_ms for head in self._heads.values()), default=0)
        _warn_of_the_future(self.newest_stored_ms)
        recovered = await self.db_thread.call(
            lambda store: recover(store, config.runtime_dir, self._packer, pack_clock(), self.started_ms)
        )
        await self.db_thread.call(self.db_thread.reload_losses)
        rows = await self.db_thread.call(lambda store: store.documents.devices())
        catalog = DeviceCatalog(config, known_devices(rows), self.started_ms)
        planned = self.device_manager.plan(catalog)
        name = f"{config.base}/_gateway"
        self.gateway = gateway = Stream(name, self._packer(name, self.started_ms), self.started_ms)
        table = catalog.gateway_table(name, agent.__version__)
        self.started_ms = self.clock.now_ms()
        scratch = self.rings.scratch()
        rate = reading_rate(config, ((entry, spec) for entry, spec, _ in planned), self.lines, scratch)
        scratch.close()
        plan = plan_ring(config.ring, rate, config.pack.every_ms, file_system_bytes(config.runtime_dir))
        self.use_ring_plan(plan)
        file = self.rings.create(plan.size_bytes, tables_hash([table, *(table for _, _, table in planned)]))
        self.rings.use(file)
        ring = file.ring
        number = self.device_manager.number()
        gateway.switch_table(number, table, self.started_ms, ring)
        self.sealing.open(gateway)
        tables = self.device_manager.open(ring, planned, self.started_ms, MapQuirks(self.db_thread, rows))
        await self.device_manager.register(ring, [*tables, (number, table)])
        await self.db_thread.call(lambda store: store.documents.forget_rings([ring.ring_id]))
        self.sealing.add_event(gateway, _start_event(recovered, gone))
        await self.publisher.open(ring, catalog.results_table(f"{config.base}/_indicators", agent.__version__))
        self._start_uplinks()

    def _packer(self, stream: str, from_ms: int | None = None) -> Packer:
        if stream not in self.packers:
            start_ms, most = self.started_ms if from_ms is None else from_ms, self.config.pack.max_size_bytes
            self.packers[stream] = Packer(
                stream, self.boot, self._heads.get(stream), self.active_key.sign, start_ms, most
            )
        return self.packers[stream]

    def _stream(self, name: str, start_ms: int) -> Stream:
        return Stream(name, self._packer(name, start_ms), start_ms)

    def _start_uplinks(self) -> None:
        config = self.config
        self.checkpoints = CheckpointMaker(
            self.db_thread,
            self.active_key,
            config.base,
            self.uplinks,
            lambda: [device.name for device in self.config.devices],
        )
        self.uplinks += [self.make_uplink(uplink, config) for uplink in config.uplinks]
        self.db_thread.set_uplinks(self.uplinks)
        for running in self.uplinks:
            running.start()

    def make_uplink(self, entry: UplinkConfig, config: Config) -> Uplink:
        from agent.uplink import Uplink

        loop = asyncio.get_running_loop()
        return Uplink(
            entry,
            site=config.site,
            gateway=config.gateway,
            outbox=self.db_thread,
            keys=self.active_key.records,
            version=agent.__version__,
            pack_every_ms=config.pack.every_ms,
            live_rate=_live_rate(config),
            on_event=lambda event: loop.call_soon_threadsafe(self.sealing.gateway_event, event),
        )

    def adapt_uplinks(self, uplinks: Iterable[Uplink], config: Config) -> None:
        """Give the remaining destinations the pack interval and the number of devices of another configuration."""
        for uplink in uplinks:
            uplink.change_rates(config.pack.every_ms, _live_rate(config))

    def _access(self, caller: Caller, right: Right) -> RunningAccess:
        """Create the access for a control request.

        Read-only requests take turns, because they share the throttle of the store.
        """
        return RunningAccess(self, caller, self._slices if right is Right.LOOK else None, self._sums)

    def _publish_keys(self, keys: bytes) -> None:
        """Publish key records.

        This is called in the database thread, before the first pack signed with the newest key.
        """
        for uplink in self.uplinks:
            uplink.retain("keys", keys)

    async def _make_checkpoint(self) -> None:
        if self.checkpoints is not None:
            await self.checkpoints.make()

    async def _serve(self, stop: asyncio.Event) -> None:
        for note in self.notes():
            log.warning("%s", note)
        log.info("ring: %s", self.ring_plan)
        for text in await self.db_thread.call(_store_line):
            log.info("%s", text)
        self.device_manager.start_pollers()
        self.sealing.on_turn = self._turn
        await self._turn()  # reads the usage of the store, which the first status shows
        self._snapshot = StatusFile(self.config, self.boot)
        self.write_status()
        self._ready()
        devices, lines = len(self.devices), len(self.lines)
        plural = ("" if devices == 1 else "s", "" if lines == 1 else "s")
        log.info("serving %d device%s on %d line%s, boot %s", devices, plural[0], lines, plural[1], self.boot)
        works: list[Coroutine[Any, Any, None]] = [
            self.sealing.run(),
            self._watch_clock(),
            self._snapshots(),
            self.device_manager.watch(),
            self._housekeeping(),
            self._reloads.run(),
            self.key_watcher.run(),
            self.publisher.run(),
            self.scrubber.run(),
            self._control.run(),
            *([self.checkpoints.run()] if self.checkpoints else []),
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _stop(self) -> None:
        """Stop in the order of the data flow: end polling, seal all readings, commit, and send for a limited time."""
        await self.device_manager.close()
        for uplink in self.uplinks:
            uplink.expect_stop()
        try:
            sealed = await self.sealing.close()
            await self.publisher.close()
            if sealed and self.checkpoints is not None:
                await self.checkpoints.make()
        except GatewayError as error:
            log.error("%s", error)  # the ring file stays, and the next start seals its records
            sealed = False
        await asyncio.gather(*(asyncio.to_thread(uplink.stop, LAST_PACKS_S) for uplink in self.uplinks))
        await self.db_thread.stop()
        self.rings.close(sealed)
        if self._snapshot is not None:
            self._snapshot.remove()

    async def _turn(self) -> None:
        try:
            await self.watchdog.feed()
            await self.remove_sealed_rings()
        except StoreDamaged:
            raise
        except GatewayError as error:  # for example, the disk is full: the next turn tries again
            self.sealing.set_trouble(str(error))

    async def remove_sealed_rings(self) -> None:
        """Seal the remaining records of rings that a reload has replaced.

        Remove each ring when all its records are sealed. If the store then fails to delete the tables of the ring, the
        next call tries again.
        """
        if self.rings.changing:
            ring = self.rings.current.ring
            moved = [stream for stream in self.sealing.streams.values() if stream.table_version.ring is ring]
            await self.sealing.seal(self.clock.now_ms(), [s for s in moved if s.table_versions[0].ring is not ring])
            if self.rings.remove_sealed(self.sealing.rings()):
                log.info("the previous ring is sealed and removed")
        # The tables are deleted by ring id, because a reload may have stored the tables of a ring that is not in use
        # yet. Two callers may delete the same tables.
        if removed := frozenset(self.rings.removed):
            await self.db_thread.call(lambda store: store.documents.delete_tables(removed))
            self.rings.removed -= removed

    def use_ring_plan(self, plan: RingPlan) -> None:
        """Seal by this plan from now on."""
        self.ring_plan, self.sealing.seals_early = plan, plan.early_s is not None

    # --- another configuration

    def reload(self) -> asyncio.Future[ReloadOutcome]:
        """Apply the current configuration files without losing a reading. After an error, nothing has changed."""
        return self._reloads.request()

    def notes(self) -> list[ConfigWarning]:
        """Return the warnings about the configuration in effect."""
        return [*self.config.notes, *ring_notes(self.config, self.ring_plan)]

    def write_status(self) -> None:
        """Write the status and the metrics for local tools."""
        # the agent must continue even if the runtime directory is full
        for path, error in self._snapshot.write(self) if self._snapshot is not None else ():
            what = "status" if path == self.config.snapshot_path else "metrics"
            self._status_log.log(log.warning, "%s: the %s cannot be written: %s", path, what, error.strerror)

    def summary(self) -> str:
        """Return one line about the agent for ``systemctl status``."""
        return summary(self)

    # --- watching

    async def _watch_clock(self) -> None:
        told_ms, retry_s = 0, 0.0  # the step that was logged last; loop time of the next try after a failure
        while True:
            await sleep_to_multiple(CLOCK_CHECK_S)
            step = self.clock.check_step()
            if step is None:
                told_ms, retry_s = 0, 0.0
                continue
            by_ms = step[1] - step[0]
            if abs(by_ms - told_ms) > STEP_MS:
                log.warning("the clock was set from %.3f to %.3f", step[0] / 1000, step[1] / 1000)
                told_ms, retry_s = by_ms, 0.0
            now_s = asyncio.get_running_loop().time()
            # each try stops polling, so there is no try while the store cannot commit; this may last for days
            if not retry_s or (now_s >= retry_s and not self.sealing.trouble):
                retry_s = 0.0 if await self._take_step() else now_s + RETRY_S

    async def _take_step(self) -> bool:
        """Continue with the time of the wall clock. Returns False if the store could not commit the step."""
        async with self.device_manager.lock:
            await self.device_manager.stop_pollers()
            # Time has passed since the step was found: many seconds if a reload held the lock. The readings of this
            # time must be sealed too.
            step = self.clock.check_step()
            done = step is None or await self.sealing.cut(*step)
            if step and done:
                self.clock.take_step()
                now_ms = self.clock.now_ms()
                self.clock_set = ClockSet((step[1] - step[0]) / 1000, time.monotonic())
                for device in self.devices:
                    device.poll.step(step[0], now_ms)
            self.device_manager.start_pollers()
        return done

    async def _housekeeping(self) -> None:
        """Once a minute, keep the store within its limits, save quirks, and check the certificates.

        If the store had to drop packs of a stream, the next pack of this stream states the loss.
        """
        seen: object = None
        while True:
            trusted = ext.clock.state().synced is not False
            try:
                self.sealing.loss_pending(await self.db_thread.prune(time.time_ns() // 1_000_000 if trusted else 0))
            except GatewayError as error:
                self.sealing.set_trouble(str(error))
            await self.device_manager.save_quirks()
            now = await asyncio.to_thread(stamps, self.config.uplinks)
            if now != seen:  # a certificate file was replaced, or the configuration has changed
                self.certificates = await asyncio.to_thread(expiries, self.config.uplinks)
                seen = now
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _snapshots(self) -> None:
        due_s, released = 0.0, 0  # the position of the ring when memory was last released
        for turn in count():
            await sleep_to_multiple(SNAPSHOT_EVERY_S)
            # at a start with thousands of devices, their first packs are more urgent than the status
            first = self.sealing.first_packs_wait
            sys.setswitchinterval(FIRST_SWITCH_S if first else SWITCH_S)
            busy = turn < SNAPSHOT_FIRST_TURNS and first
            now_s, grown = time.monotonic(), self.rings.current.ring.head - released
            writes = now_s >= due_s and not busy
            if writes:
                began = time.thread_time()
                self.write_status()
                cost_s = time.thread_time() - began
                due_s = now_s + min(cost_s / SNAPSHOT_SHARE, SNAPSHOT_MOST_S) - SNAPSHOT_EVERY_S / 2
            # not more often, since the pages and the heap are soon needed again
            if writes or (turn % 2 and grown >= RELEASE_SLOTS):
                self._release_memory()
                released += grown

    def _release_memory(self) -> None:
        """Release memory: mapped pages of the ring and trace files, and the free part of the heap."""
        self.rings.trim()
        self.device_manager.trim()
        vocabulary.cache_clear()  # the vocabulary takes a megabyte, and is needed only while profiles are read
        ext.memory.give_back()


def _live_rate(config: Config) -> float:
    """Return the approximate number of packs that are sealed per second."""
    return 1000 * (len(config.devices) + 1) / config.pack.every_ms


def _warn_of_the_future(newest_ms: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    if newest_ms > now_ms + FUTURE_MS:
        newest, now = (datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "minutes") for ms in (newest_ms, now_ms))
        text = "the clock shows %s, but the store has packs up to %s: one of the two is wrong, check the clock"
        log.warning(text, now, newest)


def _start_event(recovered: Recovered, gone: LostTransactions | None) -> dict[str, Any]:
    event: dict[str, Any] = {"event": "start", "version": agent.__version__}
    if recovered.packs:
        event["recovered"] = {"packs": recovered.packs, "readings": recovered.readings}
        log.info("sealed %d readings that the previous run left in the ring", recovered.readings)
    if gone is not None:
        event["went_back"] = {"exact": gone.exact, "packs": gone.packs, "streams": gone.streams}
    if recovered.lost_rings:
        event["rings_set_aside"] = recovered.lost_rings
    return event


def _store_line(store: Store) -> list[str]:
    """Return the log line that shows the settings of the store at every start (field pain 54)."""
    usage = store.usage()
    return [f"store {usage.path}: {usage.settings}; at most {usage.max_bytes >> 20} MiB, now {usage.disk_bytes >> 20}"]
