"""Recognises a device that answers at two addresses and reports no serial number: both have the same moving values."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

from drivers.line import Line
from drivers.model import Kind, LineDown, LineError, LineLent, Point
from drivers.profile import Profile
from drivers.scan.fit import least_params, read_points
from drivers.scan.plan import FoundDevice
from ext.ring import Ring

Value = Decimal | int | str | None
Values = Mapping[str, Value]  # by point
Read = Callable[[], Awaitable[Values]]

ROUNDS: Final = 10
# the pauses between rounds grow by this, so that they do not match a rhythm of the values
PAUSE_S: Final = 0.23
STATES: Final = 4  # this many different states must have been equal
MOST_EACH: Final = 5  # this many counters and this many gauges are compared, so that a read is short
DIGITS: Final = 4  # a counter with fewer digits may be equal by chance, for example in two new meters


def tells_devices_apart(values: Values, counters: frozenset[str]) -> bool:
    """Whether one of the counters is high enough to be hardly equal in two devices."""
    return any(
        isinstance(value, Decimal | int) and len(Decimal(value).as_tuple().digits) >= DIGITS
        for value in (values.get(name) for name in counters)
    )


def may_be_one(first: Values, second: Values, counters: frozenset[str]) -> bool:
    """Whether the counters, read shortly after each other, may be those of one device."""
    if first.keys() != second.keys() or not tells_devices_apart(first, counters):
        return False
    return all(_is_near(first[name], second[name]) for name in counters)


def _is_near(a: Value, b: Value) -> bool:
    if isinstance(a, Decimal | int) and isinstance(b, Decimal | int):
        return abs(Decimal(a) - Decimal(b)) <= max(abs(Decimal(a)), Decimal(1)) / 100
    return a == b


async def is_one(first: Read, second: Read, counters: frozenset[str]) -> bool:
    """Whether one device answers both reads.

    ``second`` is read between two reads of ``first``. If these two are equal, ``second`` must be equal too, in every
    value. This must hold for several states: two devices whose values rest could be equal by chance.
    """
    states: list[Values] = []
    for count in range(ROUNDS):
        before, between, after = await first(), await second(), await first()
        if before == after:
            if between != before or not tells_devices_apart(before, counters):
                return False
            if before not in states:
                states.append(before)
            if len(states) == STATES:
                return True
        await asyncio.sleep(PAUSE_S * (count + 1))
    return False


async def find_doubles(
    line: Line, profile: Profile, devices: Sequence[FoundDevice]
) -> list[tuple[FoundDevice, list[FoundDevice]]]:
    """Return the devices that answer at several addresses, each with its other addresses. Raises LineDown or LineLent.

    ``devices``: devices of one model without a serial number, all of which fit ``profile``.
    """
    resolved = profile.resolve(least_params(profile)).points
    sorts = ([point for point in resolved if point.kind is kind] for kind in (Kind.COUNTER, Kind.GAUGE))
    points = [point for some in sorts for point in some[:MOST_EACH]]
    counters = frozenset(point.name for point in points if point.kind is Kind.COUNTER)
    kept: list[tuple[FoundDevice, Read, Values, list[FoundDevice]]] = []
    with tempfile.TemporaryDirectory(prefix="meterhouse-scan-") as folder:
        ring = Ring.create(f"{folder}/ring", 1 << 16, 0, 0, bytes(32))  # drivers need a ring; its content is not used
        try:
            for device in devices:
                read = partial(_values, line, ring, profile, points, device)
                try:
                    values = await read()
                    for _, first, seen, doubles in kept:
                        if may_be_one(seen, values, counters) and await is_one(first, read, counters):
                            doubles.append(device)
                            break
                    else:
                        kept.append((device, read, values, []))
                except (LineDown, LineLent):
                    raise
                except LineError:  # a device that does not answer now is kept
                    continue
        finally:
            ring.close()
    return [(device, doubles) for device, _, _, doubles in kept if doubles]


async def _values(line: Line, ring: Ring, profile: Profile, points: Sequence[Point], device: FoundDevice) -> Values:
    readings = await read_points(line, ring, profile, tuple(points), device.address, device.serial)
    return {name: reading.value for name, reading in readings.items()}
