"""Identity checks find out which device answers, before its readings count. A swapped meter begins a new epoch.

The agent reads the identity at the first contact, after each absence, and once a day. It compares the identity with the
known facts, which may come from an earlier run. A difference becomes an event, with the last counter readings of the
old device and the first counter readings of the new device. In the stream, the event precedes the birth with the new
epoch.

The quirks that a driver learns are stored too. They are valid for one profile, identity and firmware. To learn them, a
driver needs failed requests, each sent twice. So they must not be learned again at every start (field pains 24, 30,
40).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from agent.pack import BirthTable, changes, contradicts, seconds
from agent.service.births import DeviceCatalog, RunningDevice
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import Stream
from agent.service.sealing import SealScheduler
from agent.store import StoreDamaged, StoreError
from drivers.encoding import exact_text
from drivers.model import (
    ConfigError,
    DeviceSpec,
    GatewayError,
    Kind,
    LineDown,
    MismatchError,
    ProfileError,
    Quality,
    Reading,
    Reason,
    clean_text,
)
from drivers.plan import KnownHoles
from drivers.plan.holes import holes_key
from drivers.protocol import Driver
from drivers.registry import driver_class
from ext.ring import ANSWER, Ring

log = logging.getLogger("meterhouse")
LOOK_BACK = 512  # the last reading of each counter is searched for in this number of packs

Identity = dict[str, str | None]
Register = Callable[[Ring, Sequence[tuple[int, BirthTable]]], Awaitable[None]]
Counts = dict[str, dict[str, Any]]  # point -> {"t": time of the reading, "v": exact decimal}


class IdentityNotStored(LineDown):
    """The store could not commit a new identity. The check is repeated at the next tick of the device."""

    reason = Reason.DISK


class IdentityChecker:
    """Reads the identities of devices, and handles changes. The pollers call it.

    Args:
        register: stores new point tables of a ring.
        number: returns the next table number in the ring.
        map_quirks: stores the quirks that drivers have learned. None: quirks are not stored.
    """

    def __init__(
        self,
        sealing: SealScheduler,
        db_thread: DatabaseThread,
        register: Register,
        number: Callable[[], int],
        map_quirks: MapQuirks | None = None,
    ) -> None:
        self._sealing, self._db_thread = sealing, db_thread
        self._register, self._number = register, number
        self._map_quirks = map_quirks
        self._facts: dict[str, bytes] = {}  # by stream: the facts that are not stored yet
        self._storing = asyncio.Lock()

    async def verify(self, device: RunningDevice, tick_ms: int) -> None:
        """Read the identity of a device, and handle a change.

        Raises:
            LineError: the device does not answer, or its answers contradict each other.
        """
        driver, catalog = device.poll.driver, device.catalog
        # the first request is a cheap one, so that a dead device costs one timeout and not one for each register
        await driver.probe()
        read = await self._read_identity(device)
        known = _known(device, catalog)
        if contradicts(known, read):
            # Read again, because one late answer or corrupted register must not begin a new epoch (field pains 10, 14,
            # 18).
            again = await self._read_identity(device)
            if again != read:
                what = "inconsistent identity: two reads returned different values"
                raise MismatchError(what, where=device.config.name)
        identity = _merged(known, read)
        if self._map_quirks is not None:
            self._map_quirks.load(device, driver, device.profile.hash, identity)
        if device.identity is None or identity != device.identity:
            try:
                await self._identified(device, identity, tick_ms, catalog)
            except StoreDamaged:
                raise  # the error ends the service; the next start sets the database aside
            except StoreError as error:
                raise IdentityNotStored(error.what, where=error.where, hint=error.hint) from error

    async def _read_identity(self, device: RunningDevice) -> Identity:
        """Read the identity that the device reports. Items that it does not report are None."""
        driver = device.poll.driver
        known = {point.name for point in driver.spec.points}
        names = [name for name in device.profile.identity_points if name in known]
        if not names:
            return {}
        found = await driver.read_points(names)
        return {name: None if r.value is None else _text(r.value) for name, r in found.items()}

    async def _identified(
        self, device: RunningDevice, identity: Identity, tick_ms: int, catalog: DeviceCatalog
    ) -> None:
        poll, before = device.poll, catalog.known.get(device.stream.name)
        spec = catalog.spec(device.config, identity)
        table = catalog.table(device.config, spec, identity)
        found = changes(before, table.facts) if before else []
        if found:
            assert before is not None
            epoch = max(before.epoch + 1, tick_ms // 1000)
            table = catalog.table(device.config, spec, identity, epoch)
        if not found and table.same_as(device.stream.table_version.table):
            if before != table.facts:
                await self._keep_facts(table.stream, table.facts.encode())
            device.identity, catalog.known[table.stream] = identity, table.facts
            return
        driver = poll.driver
        if found or spec.points != driver.spec.points or spec.limits != driver.spec.limits:
            # a new driver is needed even for the same points, because the old driver keeps quirks and counters of the
            # previous device
            driver = self._make_driver(device, spec)
        number = self._number()
        await self._register(poll.ring, [(number, table)])
        if driver is not poll.driver:
            device.line.apply_options(device.line.request_options(spec.limits, spec.serial))
        if found:
            # ``_first_counts`` raises LineError if the device no longer answers; nothing has changed yet, so the
            # check can be repeated
            await self._add_events(device, found, table, await _first_counts(driver, spec))
        device.identity, catalog.known[table.stream] = identity, table.facts
        device.stream.switch_table(number, table, tick_ms)
        poll.give_up_before(device.stream.table_version.start_ms)
        driver.table = number
        if driver is not poll.driver:
            poll.driver = driver
            poll.driver_changed()
            if self._map_quirks is not None:
                self._map_quirks.load(device, driver, device.profile.hash, identity)

    @staticmethod
    def _make_driver(device: RunningDevice, spec: DeviceSpec) -> Driver:
        """Make the driver for the points of an identity.

        It gets its table number later. Otherwise each failed check would use up a number.

        Raises MismatchError, so that only this device has gaps. For example, a variant of the profile may have a value
        that is longer than the configured ``max_words``.
        """
        try:
            return driver_class(spec.protocol)(spec, device.line, device.poll.ring, device.poll.driver.table)
        except (ConfigError, ProfileError) as error:
            what = f"the device reported its identity, but the points for this identity cannot be read: {error.what}"
            raise MismatchError(what, where=device.config.name, hint=error.hint) from error

    async def _keep_facts(self, stream: str, text: bytes) -> None:
        """Store the facts of a device. Raises StoreError.

        The facts of all waiting calls are stored together, because a start may identify thousands of devices.
        """
        self._facts[stream] = text
        async with self._storing:
            facts, self._facts = self._facts, {}
            if stream not in facts:  # another call has stored the facts of this stream already
                self._facts = facts
                return
            try:
                await self._db_thread.call(lambda store: store.documents.keep_facts(facts))
            except BaseException:  # the other waiting calls then try again with their own facts
                self._facts = facts | self._facts
                del self._facts[stream]
                raise

    async def _add_events(
        self,
        device: RunningDevice,
        found: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]],
        table: BirthTable,
        first: Counts,
    ) -> None:
        old = await self._last_counts(device.stream, table)
        units = {name: unit for name, unit, kind in table.points.names if kind == Kind.COUNTER}
        counters = [
            {"n": name, "new": first.get(name), "old": old.get(name), "u": units.get(name, "")}
            for name in sorted(old.keys() | first.keys())
        ]
        for name, before, after in found:
            event = {"counters": counters, "epoch": table.facts.epoch, "event": name, "new": after, "old": before}
            self._sealing.add_event(device.stream, event)
            log.warning("%s: %s", device.config.name, change_sentence(name, before, after))
            if name == "identity":
                what = difference(before, after)
                device.swapped = {"t": seconds(time.time_ns() // 1_000_000), "what": what}

    async def _last_counts(self, stream: Stream, table: BirthTable) -> Counts:
        """Return the last good reading of each counter of the stream, from this run or an earlier run."""
        found = _unsealed(stream)
        wanted = set(table.facts.counters)
        for version in stream.table_versions:
            wanted |= version.table.facts.counters.keys()
        missing = wanted - found.keys()
        if missing:
            newest = lambda store: last_counts(store.packs.newest(stream.name, LOOK_BACK), missing)  # noqa: E731
            found |= await self._db_thread.call(newest)
        return found


def change_sentence(event: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe a change of a device in a sentence for the log."""
    what = {"identity": "another device answers", "variant": "another register map"}.get(event, f"another {event}")
    return f"{what}: {difference(old, new) or 'details'}. Its counters begin a new epoch"


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe the differences, for example ``serial B-2 instead of A-1``. At most six items are named."""
    differ = [name for name in dict.fromkeys((*new, *old)) if old.get(name) != new.get(name)]
    differ.sort(key=lambda name: (not name.startswith("serial"), not name.startswith("model"), name))
    parts = [f"{name} {_shown(new.get(name))} instead of {_shown(old.get(name))}" for name in differ[:6]]
    return ", ".join(parts) + (f" and {len(differ) - 6} more" if len(differ) > 6 else "")


def _shown(value: Any) -> str:
    text = ", ".join(str(one) for one in value) if isinstance(value, (list, tuple)) else str(value or "none")
    return clean_text(text or "none", 60)


def last_counts(packs: Iterable[bytes], names: Iterable[str]) -> Counts:
    """Return the last good reading of each point in ``names``. ``packs``: published packs, newest first."""
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


def _unsealed(stream: Stream) -> Counts:
    """Return the last good reading of each counter in the unsealed records of the ring."""
    found: Counts = {}
    for version in stream.table_versions:
        names = [name if kind == Kind.COUNTER else "" for name, _, kind in version.table.points.names]
        for position in version.positions:
            record = version.ring.record(position)
            if record is None or record.kind != ANSWER:
                continue
            for value in record.values:
                if value.quality == Quality.GOOD and (name := names[value.point]):
                    exact = exact_text(Decimal(value.mantissa).scaleb(value.exponent))
                    found[name] = {"t": seconds(record.time_ns // 1_000_000), "v": exact}
    return found


async def _first_counts(driver: Any, spec: DeviceSpec) -> Counts:
    """Read the counters now. These readings are the first of the new epoch."""
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


def _text(value: Decimal | int | str) -> str:
    return clean_text(exact_text(value) if isinstance(value, (Decimal, int)) else value, 120)


def _known(device: RunningDevice, catalog: DeviceCatalog) -> Identity:
    """Return the identity at the last check, which may have been in an earlier run."""
    if device.identity is not None:
        return device.identity
    facts = catalog.known.get(device.stream.name)
    known = facts.identity if facts else {}
    names = device.profile.identity_points
    return {name: known[short] for name in names if (short := name.removeprefix("device.")) in known}


def _merged(known: Identity, read: Identity) -> Identity:
    """Combine known and read identity.

    If both are of the same device, items that it does not report now keep their known value.
    """
    versions = {"device.firmware", "device.protocol"}
    other = {name: text for name, text in read.items() if name not in versions}
    if contradicts(known, other):
        return read
    return {name: read[name] if read[name] is not None else known.get(name) for name in read}


# --- learned register maps


class MapQuirks:
    """Loads and stores the quirks that drivers have learned about register maps. Used only in the loop.

    Args:
        rows: (facts, quirks) of each stream, as in the store.
    """

    def __init__(self, db_thread: DatabaseThread, rows: Mapping[str, tuple[bytes | None, bytes | None]]) -> None:
        self._db_thread = db_thread
        self._stored: dict[str, dict[str, Any]] = {}
        for stream, (_, quirks) in rows.items():
            if quirks is not None and (plain := _decoded(quirks)) is not None:
                self._stored[stream] = plain

    def load(self, device: RunningDevice, driver: Any, profile_hash: str, identity: Mapping[str, str | None]) -> None:
        """Give a driver the stored quirks of its device, if profile, identity and firmware are still the same."""
        learned = _holes_of(driver)
        if learned is None:
            return
        known = {name: text for name, text in identity.items() if text is not None}
        firmware = known.pop("device.firmware", None)
        key = holes_key(profile_hash, known, firmware)
        if learned.key == key:
            return
        stream = device.stream.name
        holes = KnownHoles.from_json(self._stored.get(stream, {}), key, _now_s())
        if summary := holes.summary():
            log.info("%s: register map learned earlier: %s", device.config.name, summary)
        elif not learned.key:  # nothing is stored, so the driver keeps what it has learned during this check
            learned.key = key
            return
        driver.holes = holes

    async def save(self, devices: Iterable[RunningDevice]) -> None:
        """Store the quirks that have changed since the last call."""
        for device in devices:
            holes = _holes_of(device.poll.driver)
            if holes is not None and holes.key:
                holes.expire(_now_s())
                await self._save(device, holes)

    async def _save(self, device: RunningDevice, holes: KnownHoles) -> None:
        stream, plain = device.stream.name, holes.to_json()
        old = self._stored.get(stream)
        if plain == old or (old is None and not holes.summary()):
            return
        text = json.dumps(plain, separators=(",", ":")).encode() if holes.summary() else None
        try:
            await self._db_thread.call(lambda store: store.documents.keep_learned(stream, text))
        except GatewayError as error:
            log.warning("%s: the learned register map cannot be stored: %s", device.config.name, error)
            return
        if text is None:
            self._stored.pop(stream, None)
        else:
            self._stored[stream] = plain


def quirks_summary(driver: object) -> str:
    """Describe the quirks that a driver has learned in one line, for a technician; "" if there are none."""
    holes = _holes_of(driver)
    return "" if holes is None else holes.summary()


def _holes_of(driver: object) -> KnownHoles | None:
    """What a driver has learned about the registers of its device. None: it learns nothing about them."""
    holes = getattr(driver, "holes", None)
    return holes if isinstance(holes, KnownHoles) else None


def _decoded(text: bytes) -> dict[str, Any] | None:
    try:
        plain = json.loads(text)
    except ValueError:
        return None
    return plain if isinstance(plain, dict) else None


def _now_s() -> int:
    return time.time_ns() // 1_000_000_000
