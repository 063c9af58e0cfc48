"""One SunSpec device on one line, over Modbus TCP, RTU or raw TCP: its models are found first, then read by plan.

A point's ``key`` is ``MODELS.POINT``, alternatives after ``|``: ``103.W``, ``101,102,103.W``,
``inverter.WH|701.TotWhInj``, ``160.module[0].DCW``. The first model that the device has, and that implements the
point, gives it. ``inverter`` stands for 101 to 103 and 111 to 113, ``meter`` for 201 to 204 and 211 to 214;
``203:2.W`` is the second model 203. A value and its scale factor always come from one read (field pain 38).
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import ClassVar

from drivers.addresses import demand_address
from drivers.counter_guard import CounterGuard
from drivers.line import READ_FUNCTIONS, Answer, Line, ModbusRequest
from drivers.modbus.read_plan import timing_of
from drivers.modbus.requests import read_request
from drivers.model import (
    PACES,
    DeviceException,
    DeviceSpec,
    FrameError,
    Kind,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reading,
    Reason,
    UsageError,
    clean_text,
)
from drivers.plan import decoded, exact
from drivers.sunspec.plan import Reach, Spot, alternatives, find_spots, reaches, share_of
from drivers.sunspec.walk import BASES, MAX_READ, Device, decode_image, discover
from drivers.toml import show, suggestion
from ext.decode import Plan
from ext.ring import Ring

_log = logging.getLogger("meterhouse.sunspec")
HOLDING = 3


class SunSpecDevice:
    """Owns no task and no socket; the poller calls it. The chain of models is walked at the first contact and again
    after the device was silent or refused, since a firmware update may have moved them.

    Raises:
        ConfigError: an address or key that cannot be.
    """

    protocol: ClassVar[str] = "sunspec"
    FRAMES: ClassVar[Mapping[str, str]] = {f"function {HOLDING}": READ_FUNCTIONS[HOLDING]}

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        self.spec, self.table = spec, table
        self.where = f"{spec.name} (line {line.name} unit {spec.address})"
        demand_address(self.protocol, spec.address, line.target.scheme, f"device {spec.name}")
        for point in spec.points:
            alternatives(point.key, f"{spec.profile}: {point.name}")
        self.unit = int(spec.address)
        self._line, self._ring = line, ring
        limits = spec.limits.over(line.config.limits)
        self._most = min(limits.max_words or MAX_READ, MAX_READ)
        self._options = line.request_options(spec.limits, spec.serial)
        self._timing = timing_of(line, limits, spec.serial)
        self._bases = list(BASES)
        self._asked = 0
        self._guard = CounterGuard(spec)
        self.device: Device | None = None  # as last walked
        self._spots: dict[int, Spot] = {}
        self._reaches: dict[int, list[Reach]] = {}  # by mask of paces

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Read the due points; a point that the device lacks is a gap ``absent``."""
        result, self._asked = PollResult(), 0
        due = [n for n, point in enumerate(self.spec.points) if paces >> PACES.index(point.pace) & 1]
        try:
            if self.device is None:
                await self.walk()
        except LineError as error:
            result.error = error
            result.asked, result.answered = self._asked, int(isinstance(error, DeviceException))
            result.positions.append(self._gap(tick_ms, self.spec.silence(error.reason, tick_ms), due))
            return result
        lacking = [n for n in due if n not in self._spots]
        if lacking:
            result.positions.append(self._gap(tick_ms, Reason.ABSENT, lacking))
        reads = self._visit(paces, due)
        at, size = 0, self._line.burst_size
        while at < len(reads):
            requests = [self._request(r.address, r.count) for r in reads[at : at + size]]
            answers = await self._line.burst(requests, self._options)
            self._asked += len(answers)
            for reach, answer in zip(reads[at:], answers, strict=False):
                self._answered(reach, answer, tick_ms, result)
            at += len(answers)
            if isinstance(answers[-1], LineTimeout | LineDown | LineLent):
                break
        reason = result.error.reason if result.error else Reason.TIMEOUT
        if not result.answered:
            reason = self.spec.silence(reason, tick_ms)
        for reach in reads[at:]:
            result.positions.append(
                self._ring.append_gap(self.table, reason, tick_ms, *self._line.clock(), reach.points)
            )
        result.asked = self._asked
        return result

    async def probe(self) -> None:
        """Two registers. Raises LineError if the device is silent."""
        base = self.device.base if self.device is not None else self._bases[0]
        try:
            await self._line.exchange(self._request(base, 2), self._options)
        except DeviceException:
            return

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Values now, for a person or an identity check. Raises UsageError, or LineError if the device is silent."""
        places = {point.name: n for n, point in enumerate(self.spec.points)}
        for name in names:
            if name not in places:
                raise UsageError(f"unknown point {show(name)}", where=self.spec.name, hint=suggestion(name, places))
        if self.device is None:
            await self.walk()
        wanted = [places[name] for name in dict.fromkeys(names)]
        found = {n: _nothing(self.spec.points[n], Reason.ABSENT) for n in wanted}
        spots = [self._spots[n] for n in wanted if n in self._spots]
        for reach in reaches(spots, self.spec, self._most, self._timing):
            try:
                answer = await self._line.exchange(self._request(reach.address, reach.count), self._options)
            except DeviceException as error:
                self.device = None
                found.update({n: _nothing(self.spec.points[n], error.reason) for n in reach.points})
                continue
            except LineTimeout:
                self.device = None
                raise
            found.update(self._readings(reach, answer))
        return {name: found[places[name]] for name in names}

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit; before the models are known, one read of 60 registers for each pace is assumed."""
        due = [n for n, point in enumerate(self.spec.points) if paces >> PACES.index(point.pace) & 1]
        counts = [r.count for r in self._visit(paces, due)] if self.device is not None else [60] * bool(due)
        seconds = sum(self._timing.cost_ns(2 * count) for count in counts) / 1e9
        return PlanSummary(len(counts), sum(counts), len(due), seconds)

    async def walk(self) -> Device:
        """Find the models. Raises LineError; DeviceException where there is no SunSpec."""
        walk = discover(self._bases, self._most)
        asked = next(walk)
        while True:
            registers: tuple[int, ...] | None
            try:
                self._asked += 1
                payload = (await self._line.exchange(self._request(*asked), self._options)).payload
                registers = _words(payload)
            except DeviceException:
                registers = None
            except LineTimeout:
                if asked[0] == self._bases[0]:  # some are silent where they have nothing: begin elsewhere next time
                    self._bases.append(self._bases.pop(0))
                raise
            try:
                asked = walk.send(registers)
            except StopIteration as done:
                device: Device = done.value
                break
            except FrameError as error:
                raise DeviceException(error.what, where=self.where, hint=error.hint, code=2) from error
        self._bases.sort(key=lambda base: base != device.base)
        for text in device.warnings:
            _log.info("%s: %s", self.where, text)
        self._adopt(device)
        return device

    def read_image(self, words: Mapping[int, int]) -> dict[str, Reading]:
        """The values of recorded registers, by point; points of missing registers are left out.

        Raises FrameError without a marker.
        """
        first = min(words, default=0)
        registers = [words.get(address, 0) for address in range(first, max(words, default=0) + 1)]
        self._adopt(decode_image(first, registers))
        found = {n: _nothing(point, Reason.ABSENT) for n, point in enumerate(self.spec.points)}
        whole = []
        for number, spot in self._spots.items():
            if all(address in words for address in range(spot.address, spot.address + spot.place.point.size)) and (
                spot.scale_at is None or spot.scale_at in words
            ):
                whole.append(spot)
            else:
                del found[number]
        for reach in reaches(whole, self.spec, self._most, self._timing):
            payload = b"".join(words.get(reach.address + n, 0).to_bytes(2) for n in range(reach.count))
            found.update(self._readings(reach, Answer(payload, 0, 0, False)))
        return {reading.name: reading for reading in found.values()}

    def _adopt(self, device: Device) -> None:
        self._spots = find_spots(device, self.spec, self._most, self.where)
        self._reaches.clear()
        for model in device.models:  # only where they lie is needed from now on
            model.points = {}
        self.device = device

    # --- the road of one answer

    def _answered(self, reach: Reach, answer: Answer | LineError, tick_ms: int, result: PollResult) -> None:
        if not isinstance(answer, Answer):
            result.error = answer
            result.answered += isinstance(answer, DeviceException)
            if isinstance(answer, DeviceException | LineTimeout):
                self.device = None
            reason = answer.reason if result.answered else self.spec.silence(answer.reason, tick_ms)
            clock = self._line.clock()
            result.positions.append(self._ring.append_gap(self.table, reason, tick_ms, *clock, reach.points))
            return
        result.answered += 1
        quality = Quality.SUSPECT if answer.suspect else Quality.GOOD
        stamp, lack = (tick_ms, answer.time_ns, answer.mono_ns), self.spec.lack(tick_ms)
        if reach.counters is not None:
            found = reach.counters.values(answer.payload)
            values = [(n, Decimal(m).scaleb(e)) for n, m, e, judged in found if judged == Quality.GOOD]
            if self._guard.is_suspect(values, answer.mono_ns / 1e9):
                quality = Quality.SUSPECT
        if reach.plan is not None:
            result.positions.append(
                reach.plan.decode_into(self._ring, answer.payload, self.table, *stamp, quality, lack)
            )
        if reach.factors is not None:
            shares = [
                (n, *exact(value), lack if q == Reason.SENTINEL else q)
                for n, value, q in self._shares(reach.factors, answer, quality)
            ]
            result.positions.append(self._ring.append_values(self.table, *stamp, shares))
        for number, at, size in reach.texts:
            text = _text(answer.payload[at : at + size])
            if text:
                said = text.encode("utf-8")
                result.positions.append(self._ring.append_text(self.table, number, quality, *stamp, said))
            else:
                result.positions.append(self._gap(tick_ms, Reason.SENTINEL, [number]))

    def _readings(self, reach: Reach, answer: Answer) -> dict[int, Reading]:
        points, quality = self.spec.points, int(Quality.SUSPECT if answer.suspect else Quality.GOOD)
        found: dict[int, Reading] = {}
        for number, at, size in reach.texts:
            raw = answer.payload[at : at + size]
            text = _text(raw) or None
            found[number] = Reading(points[number].name, text, quality=quality if text else Reason.SENTINEL, raw=raw)
        if reach.factors is not None:
            for number, share, judged in self._shares(reach.factors, answer, quality):
                found[number] = Reading(points[number].name, share if judged < 128 else None, "", judged)
        for number, mantissa, exponent, judged in reach.plan.values(answer.payload) if reach.plan is not None else ():
            point, spot = points[number], self._spots[number]
            at = 2 * (spot.address - reach.address)
            raw = answer.payload[at : at + 2 * spot.place.point.size]
            value = None if judged >= 128 else Decimal(mantissa).scaleb(exponent)
            shown = int(value) if value is not None and point.kind is Kind.STATE else value
            found[number] = Reading(point.name, shown, point.unit, judged or quality, raw)
        return found

    def _shares(self, plan: Plan, answer: Answer, quality: int) -> list[tuple[int, Decimal, int]]:
        """(point, value, quality) of power factors; a reason for quality where there is none."""
        found: list[tuple[int, Decimal, int]] = []
        for number, mantissa, exponent, judged in plan.values(answer.payload):
            if judged >= 128:
                found.append((number, Decimal(0), judged))
            else:
                found.append((number, *share_of(number, mantissa, exponent, quality, self.spec)))
        return found

    def _visit(self, paces: int, due: Sequence[int]) -> list[Reach]:
        if paces not in self._reaches:
            spots = [self._spots[n] for n in due if n in self._spots]
            self._reaches[paces] = reaches(spots, self.spec, self._most, self._timing)
        return self._reaches[paces]

    def _request(self, address: int, count: int) -> ModbusRequest:
        return read_request(self.unit, HOLDING, address, count, self.where)

    def _gap(self, tick_ms: int, reason: Reason, points: Sequence[int]) -> int:
        return self._ring.append_gap(self.table, reason, tick_ms, *self._line.clock(), memoryview(array("H", points)))


def _words(payload: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(payload[i : i + 2]) for i in range(0, len(payload), 2))


def _text(raw: bytes) -> str:
    return clean_text(decoded(raw.split(b"\0", 1)[0].rstrip(b"\xff")).strip(), 250)


def _nothing(point: Point, reason: Reason) -> Reading:
    return Reading(point.name, None, point.unit, reason)
