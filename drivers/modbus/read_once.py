"""The slow road: some points now, as values for a person. One bad register must not spoil the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

from drivers.clocks import offset_s
from drivers.line import Answer, Line, RequestOptions
from drivers.modbus.requests import read_request
from drivers.model import (
    DeviceException,
    DeviceSpec,
    Kind,
    Limits,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    Point,
    Quality,
    Reading,
    Reason,
    UsageError,
)
from drivers.plan import Block, KnownHoles, LineTiming, compile_block, plan_blocks, text_of, text_slots
from drivers.plan.holes import STRIKES
from drivers.toml import show, suggestion

_ROUNDS = 40  # halving a block until the missing register is isolated takes few; never endless


async def read_once(
    spec: DeviceSpec,
    names: Sequence[str],
    line: Line,
    unit: int,
    limits: Limits,
    options: RequestOptions,
    timing: LineTiming,
    holes: KnownHoles,
    where: str,
) -> dict[str, Reading]:
    """Name -> reading, in the order of ``names``. Raises UsageError, and LineError if nothing at all is answered."""
    places = {point.name: n for n, point in enumerate(spec.points)}
    for name in names:
        if name not in places:
            raise UsageError(f"unknown point {show(name)}", where=spec.name, hint=suggestion(name, places))
    found: dict[int, Reading] = {}
    wanted = {places[name] for name in names}
    tries: Counter[Block] = Counter()
    alive = False
    for _ in range(_ROUNDS):
        missing = wanted - found.keys()
        found.update({n: _nothing(spec.points[n], Reason.EXCEPTION) for n in missing if holes.lacks(spec.points[n])})
        blocks = plan_blocks(spec.points, limits, timing, wanted - found.keys(), holes)
        if not blocks:
            break
        for block in blocks:
            request = read_request(unit, block.function, block.address, block.count, where)
            tries[block] += 1
            try:
                answer = await line.exchange(request, options)
            except (LineDown, LineLent):
                raise
            except LineError as error:
                if isinstance(error, LineTimeout) and not alive:
                    raise
                alive = True
                if isinstance(error, DeviceException):
                    learned = holes.refused(block, spec.points, error.code, line.clock()[0] // 1_000_000_000)
                    if learned or tries[block] < STRIKES:
                        continue  # the next round asks smaller, or once more
                found.update({n: _nothing(spec.points[n], error.reason) for n in block.points})
                continue
            alive = True
            holes.good(block)
            found.update(_readings(block, spec, answer))
    for n in wanted - found.keys():
        found[n] = _nothing(spec.points[n], Reason.EXCEPTION)
    return {name: found[places[name]] for name in names}


def _nothing(point: Point, reason: Reason) -> Reading:
    return Reading(point.name, None, point.unit, reason)


def _readings(block: Block, spec: DeviceSpec, answer: Answer) -> dict[int, Reading]:
    points, payload, suspect = spec.points, answer.payload, answer.suspect
    found: dict[int, Reading] = {}
    quality: int = Quality.SUSPECT if suspect else Quality.GOOD
    for slot in text_slots(block, points):
        raw = payload[slot.offset : slot.offset + slot.size]
        point = points[slot.point]
        text = text_of(point, raw)
        if point.clock:
            off = None if text is None else offset_s(text, point.clock, spec.zone, answer.time_ns)
            judged = Reason.SENTINEL if off is None else quality
            found[slot.point] = Reading(point.name, off, point.unit, judged, raw)
            continue
        found[slot.point] = Reading(
            points[slot.point].name, text, quality=Reason.SENTINEL if text is None else quality, raw=raw
        )
    if any(not points[n].is_text for n in block.points):
        for number, mantissa, exponent, judged in compile_block(block, points, spec).values(payload):
            point, raw = points[number], _raw(block, points[number], payload)
            if judged >= 128:
                found[number] = Reading(point.name, None, point.unit, judged, raw)
                continue
            value = Decimal(mantissa).scaleb(exponent)
            shown = int(value) if point.kind is Kind.STATE and value == int(value) else value
            found[number] = Reading(point.name, shown, point.unit, judged or quality, raw)
    return found


def _raw(block: Block, point: Point, payload: bytes) -> bytes:
    """The bytes that a point's value was made of; of coils, all bytes that they touch."""
    if block.function >= 3:
        at = 2 * (point.address - block.address)
        return payload[at : at + 2 * point.count]
    first = point.address - block.address
    return payload[first // 8 : (first + point.count + 7) // 8]
