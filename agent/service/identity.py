"""Meeting a device: who it is, before its data counts. A meter that was swapped begins a new counter epoch.

Identity is read at every first contact, after each absence and once a day. What differs from what is known, also from
a run before this one, is an event with the last counter readings of the old and the first of the new; it stands in the
stream before the birth that carries the new epoch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, runtime_checkable

from agent.pack import StreamTable, changes, contradicts, seconds
from agent.service.births import Device, DeviceCatalog
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import Stream
from agent.service.sealing import SealScheduler
from agent.store import Store, StoreDamaged, StoreError
from drivers.model import DeviceSpec, GatewayError, Kind, LineDown, MismatchError, Quality, Reading, Reason, clean_text
from drivers.plan import KnownHoles, holes_key
from drivers.registry import driver_class
from ext.ring import ANSWER, Ring

log = logging.getLogger("meterhouse")
LOOK_BACK = 512  # packs in which the last readings of all counters are looked for

Identity = dict[str, str | None]
Register = Callable[[Sequence[tuple[int, StreamTable]]], Awaitable[None]]
Counts = dict[str, dict[str, Any]]  # point -> {"t": read time, "v": exact decimal}


class IdentityNotStored(LineDown):
    """Who the device is could not be made durable: no word about the device, which is met again at its next tick."""

    reason = Reason.DISK


class IdentityChecker:
    """Reads who devices are and carries out what follows from it. Used by the pollers, each for its own devices.

    Args:
        ring, register, number: where tables of new shapes are made known, and the next number of one.
        learned: what devices taught their drivers before.
    """

    def __init__(
        self,
        sealing: SealScheduler,
        writer: DatabaseThread,
        ring: Ring,
        register: Register,
        number: Callable[[], int],
        learned: MapQuirks | None = None,
    ) -> None:
        self._sealing, self._writer = sealing, writer
        self._ring, self._register, self._number = ring, register, number
        self._learned = learned

    async def meet(self, unit: Device, tick_ms: int) -> None:
        """Make sure that we know who answers. Raises LineError where the device is silent or does not make sense."""
        device, roster = unit.poll, unit.roster
        await device.driver.probe()  # one cheap request: a silent device costs one timeout, not one a register
        said = await self._said(unit)
        known = _known(unit, roster)
        if contradicts(known, said):
            # one late answer, one mangled register must not cost an epoch (field pains 10, 14, 18): ask once more
            again = await self._said(unit)
            if again != said:
                raise MismatchError("says another thing each time it is asked who it is", where=unit.config.name)
        identity = _joined(known, said)
        if self._learned is not None:
            self._learned.teach(unit, device.driver, unit.profile.hash, identity)
        if unit.identity is None or identity != unit.identity:
            try:
                await self._identified(unit, identity, tick_ms, roster)
            except StoreDamaged:
                raise  # ends the service: the next start sets the file aside
            except StoreError as error:
                raise IdentityNotStored(error.what, where=error.where, hint=error.hint) from error

    async def _said(self, unit: Device) -> Identity:
        """What the device says of itself; None for what it does not say."""
        spec = unit.poll.driver.spec
        known = {point.name for point in spec.points}
        names = [name for name in unit.profile.identity_points if name in known]
        if not names:
            return {}
        found = await unit.poll.driver.read_points(names)
        return {name: None if r.value is None else _text(r.value) for name, r in found.items()}

    async def _identified(self, unit: Device, identity: Identity, tick_ms: int, roster: DeviceCatalog) -> None:
        device, before = unit.poll, roster.known.get(unit.stream.name)
        spec = roster.spec(unit.config, identity)
        table = roster.table(unit.config, spec, identity)
        found = changes(before, table.facts) if before else []
        if found:
            assert before is not None
            epoch = max(before.epoch + 1, tick_ms // 1000)
            table = roster.table(unit.config, spec, identity, epoch)
        if not found and table.same_as(unit.stream.shape.table):
            if before != table.facts:
                await self._writer.call(lambda store: store.keep_facts(table.stream, table.facts.encode()))
            unit.identity, roster.known[table.stream] = identity, table.facts
            return
        number = self._number()
        await self._register([(number, table)])
        driver = device.driver
        if found or spec.points != driver.spec.points or spec.limits != driver.spec.limits:
            # also for the same points: what it has learned, and where counters stood, was about another device
            driver = driver_class(spec.protocol)(spec, unit.line, self._ring, number)
            unit.line.heed(unit.line.manners(spec.limits, spec.serial))
        if found:
            # raises where the device went silent: then nothing has changed yet, and it is met again
            await self._tell(unit, found, table, await _first_counts(driver, spec))
        unit.identity, roster.known[table.stream] = identity, table.facts
        unit.stream.become(number, table, tick_ms)
        if driver is device.driver:
            driver.table = number
        else:
            device.driver = driver
            device.respecified()
            if self._learned is not None:
                self._learned.teach(unit, driver, unit.profile.hash, identity)

    async def _tell(
        self,
        unit: Device,
        found: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]],
        table: StreamTable,
        first: Counts,
    ) -> None:
        old = await self._last_counts(unit.stream, table)
        units = {name: unit for name, unit, kind in table.points.names if kind == Kind.COUNTER}
        counters = [
            {"n": name, "new": first.get(name), "old": old.get(name), "u": units.get(name, "")}
            for name in sorted(old.keys() | first.keys())
        ]
        for name, before, after in found:
            event = {"counters": counters, "epoch": table.facts.epoch, "event": name, "new": after, "old": before}
            self._sealing.note(unit.stream, event)
            log.warning("%s: %s changed from %s to %s", unit.config.name, name, before, after)

    async def _last_counts(self, stream: Stream, table: StreamTable) -> Counts:
        """The last good reading of each counter that the stream had: of this run, else of those before."""
        found = _unsealed(self._ring, stream)
        wanted = set(table.facts.counters)
        for shape in stream.shapes:
            wanted |= shape.table.facts.counters.keys()
        missing = wanted - found.keys()
        if missing:
            newest = lambda store: last_counts(store.newest(stream.name, LOOK_BACK), missing)  # noqa: E731
            found |= await self._writer.call(newest)
        return found


def last_counts(packs: Iterable[bytes], names: Iterable[str]) -> Counts:
    """The last good reading of each of ``names`` in packs as published, from the newest back."""
    found: Counts = {}
    missing = set(names)
    for data in packs:
        if not missing:
            break
        base = Decimal(0)
        here: Counts = {}
        for record in json.loads(data, parse_float=Decimal).get("e", ()):
            base = Decimal(record.get("bt", base))
            if record["n"] in missing and "v" in record and "q" not in record:
                at = base + Decimal(record.get("t", 0))
                here[record["n"]] = {"t": seconds(int(at * 1000)), "v": record.get("x") or exact_text(record["v"])}
        found |= here
        missing -= here.keys()
    return found


def _unsealed(ring: Ring, stream: Stream) -> Counts:
    """The same of what waits to be sealed."""
    found: Counts = {}
    for shape in stream.shapes:
        names = [name if kind == Kind.COUNTER else "" for name, _, kind in shape.table.points.names]
        for position in shape.positions:
            record = ring.record(position)
            if record is None or record.kind != ANSWER:
                continue
            for value in record.values:
                if value.quality == Quality.GOOD and (name := names[value.point]):
                    exact = exact_text(Decimal(value.mantissa).scaleb(value.exponent))
                    found[name] = {"t": seconds(record.time_ns // 1_000_000), "v": exact}
    return found


async def _first_counts(driver: Any, spec: DeviceSpec) -> Counts:
    """What the counters stand at now, read at once: nothing of the new epoch is older."""
    names = [point.name for point in spec.points if point.kind is Kind.COUNTER]
    if not names:
        return {}
    found: Mapping[str, Reading] = await driver.read_points(names)
    now = seconds(time.time_ns() // 1_000_000)
    return {
        name: {"t": now, "v": exact_text(reading.value)}
        for name, reading in found.items()
        if isinstance(reading.value, (int, Decimal)) and reading.quality == Quality.GOOD
    }


def exact_text(value: Decimal | int) -> str:
    """A decimal without exponent and without zeros that say nothing."""
    text = format(Decimal(value), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: Decimal | int | str) -> str:
    return clean_text(exact_text(value) if isinstance(value, (Decimal, int)) else value, 120)


def _known(unit: Device, roster: DeviceCatalog) -> Identity:
    """Who the device was when it was last met, be it in a run before this one."""
    if unit.identity is not None:
        return unit.identity
    facts = roster.known.get(unit.stream.name)
    known = facts.identity if facts else {}
    names = unit.profile.identity_points
    return {name: known[short] for name in names if (short := name.removeprefix("device.")) in known}


def _joined(known: Identity, said: Identity) -> Identity:
    """What is known now. What the same device does not say this time stays known; another one starts afresh."""
    versions = {"device.firmware", "device.protocol"}
    other = {name: text for name, text in said.items() if name not in versions}
    if contradicts(known, other):
        return said
    return {name: said[name] if said[name] is not None else known.get(name) for name in said}


@runtime_checkable
class LearnsMap(Protocol):
    """A driver that learns."""

    holes: KnownHoles


class MapQuirks:
    """The lessons of all devices. Only the loop touches it.

    Args:
        rows: by stream, (facts, lessons) as the store has them.
    """

    def __init__(self, writer: DatabaseThread, rows: Mapping[str, tuple[bytes | None, bytes | None]]) -> None:
        self._writer = writer
        self._kept: dict[str, dict[str, Any]] = {}
        for stream, (_, lessons) in rows.items():
            if lessons is not None and (said := _decoded(lessons)) is not None:
                self._kept[stream] = said

    def teach(self, unit: Device, driver: object, profile_hash: str, identity: Mapping[str, str | None]) -> None:
        """Give a driver what its device taught us before; another identity, firmware or profile starts afresh."""
        if not isinstance(driver, LearnsMap):
            return
        known = {name: text for name, text in identity.items() if text is not None}
        firmware = known.pop("device.firmware", None)
        key = holes_key(profile_hash, known, firmware)
        if driver.holes.key == key:
            return
        stream = unit.stream.name
        holes = KnownHoles.from_json(self._kept.get(stream, {}), key, _now_s())
        if summary := holes.summary():
            log.info("%s: known of its map from before: %s", unit.config.name, summary)
        elif not driver.holes.key:  # what it learned while it was being met is about this very device
            driver.holes.key = key
            return
        driver.holes = holes

    async def keep(self, units: Iterable[Device]) -> None:
        """Make durable what was learned or forgotten since."""
        for unit in units:
            driver, stream = unit.poll.driver, unit.stream.name
            if not isinstance(driver, LearnsMap) or not driver.holes.key:
                continue
            driver.holes.expire(_now_s())
            said = driver.holes.to_json()
            old = self._kept.get(stream)
            if said == old or (old is None and not driver.holes.summary()):
                continue
            text = json.dumps(said, separators=(",", ":")).encode() if driver.holes.summary() else None
            try:
                await self._writer.call(partial(_keep, stream, text))
            except GatewayError as error:
                log.warning("%s: what was learned of its map is not kept: %s", unit.config.name, error)
                continue
            if text is None:
                self._kept.pop(stream, None)
            else:
                self._kept[stream] = said


def _keep(stream: str, text: bytes | None, store: Store) -> None:
    store.keep_learned(stream, text)


def lessons_of(driver: object) -> str:
    """One line for a technician; "" where nothing was learned."""
    return driver.holes.summary() if isinstance(driver, LearnsMap) else ""


def _decoded(text: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _now_s() -> int:
    return time.time_ns() // 1_000_000_000
