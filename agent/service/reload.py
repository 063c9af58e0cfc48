"""Reload: a new configuration takes effect as a whole while the agent runs, or nothing changes.

    read the files     on errors: the reload is rejected
    prepare            make lines, drivers, key, plan, destinations and a larger ring; on errors: rejected
    one transaction    commit tables, limits, destinations and key records; if the store cannot commit: rejected
    another ring       only if a larger ring was made: all devices move to it; the previous one is sealed and removed
    apply              put the prepared objects into use; an error is a bug: the same steps restore the previous ones

A rejection lists all errors at once, and the previous configuration stays in effect.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import agent
from agent.certificates import expiries
from agent.config import Config, RingPlan, file_system_bytes, gathered, plan_ring, reading_rate
from agent.config.changes import ACCEPTED, ConfigChange, config_changes
from agent.outbox import outbox_names
from agent.pack import BirthTable
from agent.service.births import DeviceCatalog
from agent.service.devices import DeviceChanges, RingMove, apply, move_to_ring, prepare
from agent.service.results.interval_builder import IntervalBuilder
from agent.service.results.publisher import ResultProducer, make_producers
from agent.service.rings import RingFile, discard, tables_hash
from agent.service.signing_key import PreparedKey
from agent.service.systemd import notify
from agent.store import Store
from drivers.model import ConfigError, GatewayError

if TYPE_CHECKING:
    from agent.service.app import Service
    from agent.uplink import Uplink

log = logging.getLogger("meterhouse")
LAST_PACKS_S = 6.0  # a removed destination gets this time to send its last packs
MAX_LOGGED = 20  # at most this many complaints are logged; the snapshot contains all of them

# A reload cannot change these keys, because their values have been in files, packs or memory since the start.
RESTART_ONLY: Mapping[str, Callable[[Config], object]] = {
    "site.id": lambda config: config.site,
    "site.gateway": lambda config: config.gateway,
    "site.timezone": lambda config: config.timezone,
    "interval.length": lambda config: config.interval.length_ms,
    "interval.max_gap": lambda config: config.interval.max_gap_ms,
    "interval.demand": lambda config: (config.interval.demand_period_ms, config.interval.demand_slip_ms),
    "paths.state_dir": lambda config: config.state_dir,
    "paths.runtime_dir": lambda config: config.runtime_dir,
}


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """The outcome of a reload. ``complaints``: why the files were rejected; empty if they are in effect."""

    config: str  # hash of the configuration that is in effect after the reload
    changed: str = ""  # summary of the changes for the log
    complaints: tuple[str, ...] = ()
    fault: bool = False  # True: the reload was rejected because of an internal error, so the files may be correct
    changes: tuple[ConfigChange, ...] = ()
    warnings: tuple[str, ...] = ()  # notes about settings that are valid, but probably not intended

    @property
    def accepted(self) -> bool:
        """True if the configuration of the files is in effect."""
        return not self.complaints

    def as_json(self) -> dict[str, Any]:
        """Return the answer to the tool that requested the reload."""
        return {
            "ok": self.accepted,
            "config": self.config,
            "changed": self.changed,
            "complaints": list(self.complaints),
            "fault": self.fault,
            "changes": [change.as_json() for change in self.changes],
            "warnings": [text[:1000] for text in self.warnings[:MAX_LOGGED]],
        }


class HalfReloaded(GatewayError):
    """Parts of the new and of the previous configuration are in effect. The agent must not continue."""


def restart_only_changes(old: Config, new: Config) -> list[ConfigError]:
    """Return one complaint for each changed key that only a restart can put into effect."""
    return [
        ConfigError(
            "this setting can only change at a restart of the agent",
            where=new.at(key),
            hint="Run `systemctl restart meterhouse`, or restore the old value",
        )
        for key, value in RESTART_ONLY.items()
        if value(old) != value(new)
    ]


@dataclass(frozen=True, slots=True)
class RingChange:
    """A larger ring, and the streams that move to it: those of the remaining devices, and the gateway's own stream."""

    file: RingFile
    moves: Sequence[RingMove]
    gateway: tuple[int, BirthTable]  # (number in the new ring, table) for the gateway's own stream

    @property
    def tables(self) -> list[tuple[int, BirthTable]]:
        """Return (number in the new ring, table) of each stream that moves."""
        return [*((move.number, move.table) for move in self.moves), self.gateway]


@dataclass(slots=True)
class Prepared:
    """All objects of a new configuration; none of them is in use yet."""

    config: Config
    change: DeviceChanges
    key: PreparedKey | None
    gateway: tuple[int, BirthTable]
    results: BirthTable
    producers: Sequence[ResultProducer]
    builder: IntervalBuilder | None
    uplinks: dict[str, Uplink]  # destinations that are new or changed
    ring_plan: RingPlan
    ring: RingChange | None = None  # the larger ring; None: none is needed

    async def discard(self) -> None:
        """Release all objects, because they will not be used."""
        await self.change.discard()
        await _stop_unused(self.uplinks.values())
        if self.ring is not None:
            discard(self.ring.file)


async def _stop_unused(uplinks: Iterable[Uplink]) -> None:
    """Stop uplinks that never connected. Each has a thread, which waits for ``start`` or ``stop``."""
    for uplink in uplinks:
        await asyncio.to_thread(uplink.stop, 0.0)


class Reloader:
    """Reloads the configuration, one reload at a time. Used only in the loop.

    Args:
        load: reads the configuration files. None: there are no files, so each reload fails.
    """

    def __init__(self, service: Service, load: Callable[[], Config] | None) -> None:
        self._service, self._load = service, load
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[ReloadOutcome]] = []

    def request(self) -> asyncio.Future[ReloadOutcome]:
        """Request a reload. Returns a future, whose result is the outcome of the reload."""
        future: asyncio.Future[ReloadOutcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        return future

    async def run(self) -> None:
        """Carry out requested reloads until cancelled."""
        waiting: list[asyncio.Future[ReloadOutcome]] = []
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                waiting, self._waiting = self._waiting, []
                notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reading the configuration")
                outcome = await self.reload()
                self._service.complaints = list(outcome.complaints)
                self._service.write_status()
                self._log(outcome)
                notify(f"READY=1\nSTATUS={self._service.summary()}")
                for future in waiting:
                    if not future.done():
                        future.set_result(outcome)
        finally:
            for future in (*waiting, *self._waiting):
                future.cancel()

    async def reload(self) -> ReloadOutcome:
        """Read the files and apply them. Never raises an error, because the outcome contains all errors."""
        try:
            if self._load is None:
                raise ConfigError("this agent has no configuration files to reload", where="reload")
            changed, changes = await self._reload(await asyncio.to_thread(self._load))
            changes += self._accept_swapped()
            certificates = await asyncio.to_thread(expiries, self._service.config.uplinks)
            # set before the status is written, because the status shows the certificates
            self._service.certificates = certificates
        except HalfReloaded:
            raise
        except GatewayError as error:
            return self._rejected(*(str(one) for one in getattr(error, "complaints", (error,))))
        except OSError as error:
            return self._rejected(f"{error.filename or 'runtime directory'}: {error.strerror}")
        except Exception as error:  # a bug raised it: the agent must continue, whatever the files contain
            log.error("reload: internal error", exc_info=error)
            return self._rejected(f"internal error: {type(error).__name__}: {error}", fault=True)
        warnings = tuple(str(note) for note in self._service.notes())
        return ReloadOutcome(self._service.config.hash(), changed, changes=changes, warnings=warnings)

    def _accept_swapped(self) -> tuple[ConfigChange, ...]:
        """Accept swapped devices: reset their ``swapped``. Returns these devices for the answer."""
        found = []
        for device in self._service.devices:
            if device.swapped is not None:
                found.append(ConfigChange("device", device.config.name, ACCEPTED, (device.swapped["what"],)))
                device.swapped = None
        return tuple(found)

    def _rejected(self, *complaints: str, fault: bool = False) -> ReloadOutcome:
        return ReloadOutcome(self._service.config.hash(), complaints=complaints, fault=fault)

    def _log(self, outcome: ReloadOutcome) -> None:
        """Log the outcome. This is called after the status file is written, so that tools can see the outcome too."""
        if outcome.accepted:
            log.info("reloaded, configuration %s: %s", outcome.config, outcome.changed)
            for change in outcome.changes[:MAX_LOGGED]:
                log.info("reload: %s", change)
            for text in outcome.warnings:
                log.warning("%s", text)
            return
        count = f"{len(outcome.complaints)} error{'' if len(outcome.complaints) == 1 else 's'}"
        log.error("reload rejected, %s; the previous configuration stays in effect", count)
        for text in outcome.complaints[:MAX_LOGGED]:
            log.error("reload: %s", text)

    # --- all or nothing

    async def _reload(self, config: Config) -> tuple[str, tuple[ConfigChange, ...]]:
        """Apply a configuration. Returns a summary and the changes.

        After an exception the previous configuration is in effect, unless the rollback has failed too.
        """
        service = self._service
        async with service.key_watcher.locked(), service.device_manager.lock:
            prepared = await self._prepare(config)
            renewed = [swap.device.config.name for swap in prepared.change.changed]
            changes = config_changes(service.config, config, renewed)
            try:
                await self._commit(prepared)
            except BaseException:
                await prepared.discard()
                raise
            before = (service.config, service.device_manager.catalog, tuple(service.publisher.producers))
            loaded_ms, kid = service.loaded_ms, service.key_watcher.kid
            try:
                if prepared.ring is not None:
                    await self._change_ring(prepared.ring)
                result = await self._apply(prepared)
            except Exception as error:
                try:
                    await self._roll_back(prepared, *before)
                except Exception as more:
                    log.error("reload: internal error", exc_info=error)
                    what = f"the reload failed ({error}), and so did the return to the previous configuration ({more})"
                    hint = (
                        "A restart reads the configuration files again and seals the readings that are still in the "
                        "ring buffer; systemd restarts the agent automatically"
                    )
                    raise HalfReloaded(what, where=str(config.path), hint=hint) from more
                service.loaded_ms = loaded_ms
                raise
            try:
                self._announce(prepared)
                await service.key_watcher.announce(kid)
            except Exception as error:  # a bug raised it, but the new configuration is in effect
                log.error(
                    "reload: the new configuration is in effect, but was not announced everywhere", exc_info=error
                )
        return result, changes

    async def _prepare(self, config: Config) -> Prepared:
        """Do everything that can fail, without changing anything in use. Raises ConfigError with all errors."""
        service = self._service
        wrong: list[GatewayError] = [*restart_only_changes(service.config, config)]
        key: PreparedKey | None = None
        change: DeviceChanges | None = None
        made: list[ResultProducer] = []
        uplinks: dict[str, Uplink] = {}
        ring: RingChange | None = None
        try:
            try:
                key = await service.key_watcher.prepare(config.key.path(os.environ))
            except GatewayError as error:
                wrong.append(error)
            try:
                change = await prepare(service.device_manager, config)
            except GatewayError as error:
                wrong.append(error)
            try:
                made = make_producers(config)
            except GatewayError as error:
                wrong.append(error)
            self._make_uplinks(config, uplinks, wrong)
            if wrong or change is None:
                raise gathered(wrong, str(config.path))
            ring_plan = self._plan_ring(config, change)
            ring = self._prepare_ring(ring_plan, change)
            number = service.device_manager.number()
            return Prepared(
                config,
                change,
                key,
                (number, change.catalog.gateway_table(service.gateway.name, agent.__version__)),
                change.catalog.results_table(f"{config.base}/_indicators", agent.__version__),
                made,
                service.publisher.prepare(config),
                uplinks,
                ring_plan,
                ring,
            )
        except BaseException:
            if change is not None:
                await change.discard()
            if ring is not None:
                discard(ring.file)
            await _stop_unused(uplinks.values())
            raise

    def _plan_ring(self, config: Config, change: DeviceChanges) -> RingPlan:
        """Plan the ring for a configuration. A reload never makes the ring smaller."""
        manager = self._service.device_manager
        rate = reading_rate(config, change.specs, {**manager.lines, **change.lines}, manager.ring)
        plan = plan_ring(config.ring, rate, config.pack.every_ms, file_system_bytes(config.runtime_dir))
        return replace(plan, size_bytes=max(plan.size_bytes, self._service.rings.current.size_bytes))

    def _prepare_ring(self, plan: RingPlan, change: DeviceChanges) -> RingChange | None:
        """Create a larger ring. Returns None if the current ring is large enough. Raises GatewayError."""
        service, manager = self._service, self._service.device_manager
        if plan.size_bytes == service.rings.current.size_bytes:
            return None
        gateway = (manager.number(), service.gateway.table_version.table)
        moves = [
            RingMove(device, manager.number(), device.stream.table_version.table)
            for device in manager.devices
            if device not in change.gone
        ]
        file = service.rings.create(plan.size_bytes, tables_hash([gateway[1], *(move.table for move in moves)]))
        change.use_ring(file.ring)
        return RingChange(file, moves, gateway)

    async def _change_ring(self, change: RingChange) -> None:
        """Let all streams continue in another ring, and seal the records in the previous ring."""
        service, ring = self._service, change.file.ring
        service.rings.use(change.file)
        number, table = change.gateway
        start_ms = max(service.clock.now_ms() + 1, service.gateway.sealed_ms)
        service.gateway.switch_table(number, table, start_ms, ring)
        service.sealing.ring_changed()
        service.publisher.ring = ring
        await move_to_ring(service.device_manager, ring, change.moves)
        begin_ms = max(stream.table_version.start_ms for stream in service.sealing.streams.values())
        # wait until each stream writes into the new ring, which usually takes 1 ms
        wait_ms = begin_ms - service.clock.now_ms()
        await asyncio.sleep(max(0, min(wait_ms, 1000)) / 1000)
        await service.remove_sealed_rings()  # after an error, ``Service._turn`` tries again

    def _make_uplinks(self, config: Config, uplinks: dict[str, Uplink], wrong: list[GatewayError]) -> None:
        """Create new and changed destinations. Each of them has its thread already, but does not connect yet."""
        same = {uplink.name: uplink.config for uplink in self._service.uplinks}
        for entry in config.uplinks:
            if same.get(entry.name) == entry:
                continue
            try:
                uplinks[entry.name] = self._service.make_uplink(entry, config)
                uplinks[entry.name].prepare()
            except GatewayError as error:
                wrong.append(error)
            except (OSError, RuntimeError) as error:  # no file descriptors or threads are left
                what = f"the uplink cannot be started: {error}"
                wrong.append(ConfigError(what, where=config.at(f"uplink.{entry.name}")))

    async def _commit(self, prepared: Prepared) -> None:
        """Commit everything that must be durable before ``_apply``, in one transaction. Raises StoreError."""
        key, ring, moved = prepared.key, self._service.device_manager.ring, list[tuple[int, BirthTable]]()
        if prepared.ring is not None:
            ring, moved = prepared.ring.file.ring, prepared.ring.tables
        tables = (*prepared.change.tables, prepared.gateway, *moved)
        ring_id, rows = ring.ring_id, [(number, table.stream, table.encoded) for number, table in tables]

        def also(store: Store) -> None:
            store.documents.register_tables(ring_id, rows)
            if key is not None and key.signer is not None:
                store.keys.add(key.counter, key.records)

        await self._reconfigure(prepared.config, also)

    async def _reconfigure(self, config: Config, also: Callable[[Store], None]) -> None:
        bounds, asked = config.store, {uplink.name: uplink.streams for uplink in config.uplinks}
        now_ms = time.time_ns() // 1_000_000
        await self._service.db_thread.reconfigure(
            lambda store: store.change_limits(
                bounds.max_size_bytes, bounds.keep_delivered_s, outbox_names(asked), now_ms, lambda: also(store), asked
            )
        )

    async def _apply(self, prepared: Prepared) -> str:
        """Put the prepared objects into use. Returns a summary of the changes."""
        service, config = self._service, prepared.config
        await apply(service.device_manager, prepared.change)
        service.config, service.loaded_ms = config, time.time_ns() // 1_000_000
        service.use_ring_plan(prepared.ring_plan)
        service.sealing.every_ms = config.pack.every_ms
        for packer in service.packers.values():
            packer.limit(config.pack.max_size_bytes)
        await service.publisher.reload(config, prepared.results, prepared.builder, prepared.producers)
        text = await self._swap_uplinks(config, prepared.uplinks)
        if prepared.key is not None:  # the key comes last, because packs signed with a new key cannot be taken back
            await service.key_watcher.activate(prepared.key)
        return f"{prepared.change}{text}"

    def _announce(self, prepared: Prepared) -> None:
        """State the configuration in effect in the gateway's own stream, if the table of this stream has changed."""
        service, (number, table) = self._service, prepared.gateway
        if not table.same_as(service.gateway.table_version.table):
            service.gateway.switch_table(number, table, max(service.clock.now_ms() + 1, service.gateway.sealed_ms))
            service.sealing.add_event(service.gateway, {"event": "reload", "config": prepared.config.hash()})

    async def _swap_uplinks(self, config: Config, fresh: dict[str, Uplink]) -> str:
        """Stop removed and changed destinations, and start new and changed ones.

        Returns a summary; "" if no destination has changed.
        """
        service = self._service
        staying = {
            uplink.name: uplink
            for uplink in service.uplinks
            if uplink.name not in fresh and any(entry.name == uplink.name for entry in config.uplinks)
        }
        leaving = [uplink for uplink in service.uplinks if uplink.name not in staying]
        await asyncio.gather(*(asyncio.to_thread(uplink.stop, LAST_PACKS_S) for uplink in leaving))
        service.uplinks[:] = [staying.get(entry.name) or fresh[entry.name] for entry in config.uplinks]
        service.db_thread.set_uplinks(service.uplinks)
        service.adapt_uplinks(staying.values(), config)
        for uplink in fresh.values():
            uplink.start()
        if service.checkpoints is not None:
            service.checkpoints.again(fresh.values())
        return f"; destinations: {len(fresh)} new or changed, {len(leaving)} closed" if fresh or leaving else ""

    async def _roll_back(
        self, failed: Prepared, config: Config, catalog: DeviceCatalog, made: Sequence[ResultProducer]
    ) -> None:
        """Put the previous configuration into effect again after an internal error.

        This works like a reload. If it raises an error, parts of both configurations may be in use.
        """
        service = self._service
        log.error(
            "reload: internal error while the new configuration was applied; restoring the previous configuration"
        )
        uplinks: dict[str, Uplink] = {}
        try:
            change = await prepare(service.device_manager, config, catalog)
            wrong: list[GatewayError] = []
            self._make_uplinks(config, uplinks, wrong)
            if wrong:
                raise gathered(wrong, str(config.path))
            front = catalog.gateway_table(service.gateway.name, agent.__version__)
            results = catalog.results_table(f"{config.base}/_indicators", agent.__version__)
            builder = service.publisher.prepare(config)
            gateway = (service.device_manager.number(), front)
            back = Prepared(config, change, None, gateway, results, made, builder, uplinks, service.ring_plan)
            key = failed.key

            def also(store: Store) -> None:
                store.documents.register_tables(
                    service.device_manager.ring.ring_id, [(n, t.stream, t.encoded) for n, t in change.tables]
                )
                if key is not None and key.signer is not None and service.key_watcher.kid != key.signer.kid:
                    store.keys.delete(key.counter)

            await self._reconfigure(config, also)
            await self._apply(back)
        finally:
            # stop the new destinations that never connected
            both = (*failed.uplinks.values(), *uplinks.values())
            await _stop_unused(uplink for uplink in both if uplink not in service.uplinks)
