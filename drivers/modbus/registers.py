"""What devices with registers have in common, Modbus maps and SunSpec models: reads in bursts, decoded by plan."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from drivers.base import Device
from drivers.clocks import offset_s
from drivers.line import Answer, Line
from drivers.modbus.frames import ModbusRequest
from drivers.model import (
    DeviceException,
    DeviceSpec,
    GatewayTimeout,
    Kind,
    LineError,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reading,
    Reason,
)
from drivers.plan import Block, TextSlot, exact, plan_summary, text_of
from ext.decode import Plan
from ext.ring import Ring

DEVICE_FAILURE = 4  # the exception code
Value = tuple[int, Decimal | str | None, int, bytes]  # point, value, quality or reason, bytes


@dataclass(slots=True)
class Read:
    """One read: its frame and its compiled plan."""

    block: Block
    request: ModbusRequest
    plan: Plan | None  # None: texts only
    counters: Plan | None  # of its counters alone; None: it has none
    texts: tuple[TextSlot, ...]
    points: memoryview  # uint16 numbers, for gaps
    factors: Plan | None = None  # SunSpec: of its power factors

    @property
    def query_id(self) -> tuple[int, int, int]:
        return self.block.function, self.block.address, self.block.count


class RegisterDevice(Device[Read, Answer]):
    """A device that is read with Modbus. The hot path makes no Python object per reading."""

    ADDRESS: ClassVar[str] = "unit"

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self.unit = int(spec.address)
        self._probes = 0  # second ones

    def plan_summary(self, paces: int) -> PlanSummary:
        """What one visit for these paces costs on this line."""
        return plan_summary((read.block for read in self.visit_plan(paces).queries), self._timing)

    @abstractmethod
    def probe_request(self) -> ModbusRequest:
        """One cheap read."""

    def proves_life(self, error: LineError) -> bool:
        """Over Modbus TCP, many serial servers answer exception 04h for a device that is not there."""
        is_doubtful = isinstance(error, DeviceException) and error.code == DEVICE_FAILURE
        return isinstance(error, DeviceException) and (self._line.target.carries_bytes or not is_doubtful)

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        result = await super().poll(tick_ms, paces)
        if not result.answered and isinstance(result.error, DeviceException):
            result.error = self._failing(result.error)
        return result

    async def probe(self) -> None:
        """One cheap request. Raises LineError if the device is silent; a refusal is an answer.

        A failure that may be a serial server's word is asked about once more, of other registers each time: some
        devices fail on registers that they do not have.
        """
        try:
            await self._line.exchange(self.probe_request(), self._options)
        except DeviceException as error:
            if self.proves_life(error):
                return
            reads = self.visit_plan(self._used).queries if self.is_prepared else []
            if not reads:
                raise self._failing(error) from error
            self._probes += 1
            try:
                await self._line.exchange(reads[self._probes % len(reads)].request, self._options)
            except DeviceException as again:
                if not self.proves_life(again):
                    raise self._failing(again) from again

    def _failing(self, error: DeviceException) -> GatewayTimeout:
        return GatewayTimeout(f"{error.what}, whatever it is asked", where=error.where, hint=error.hint)

    def ask(self, queries: Sequence[Read]) -> Awaitable[Sequence[Answer | LineError]]:
        return self._line.burst([read.request for read in queries[: self._line.burst_size]], self._options)

    def take(self, query: Read, answer: Answer, tick_ms: int, positions: list[int]) -> None:
        payload, time_ns, mono_ns, suspect = answer
        quality = Quality.SUSPECT if suspect else Quality.GOOD
        if query.counters is not None and self._is_suspect(query.counters, payload, mono_ns):
            quality = Quality.SUSPECT  # all of it: an answer that is not what was asked for shows at its counters
        why = Reason.SENTINEL if self.spec.night is None else self.spec.lack(tick_ms)
        if query.plan is not None:
            stamp = (tick_ms, time_ns, mono_ns)
            positions.append(query.plan.decode_into(self._ring, payload, self.table, *stamp, quality, why))
        if query.texts or query.factors is not None:
            for number, value, judged, _ in self.beside(query, answer, quality):
                stamp = (tick_ms, time_ns, mono_ns)
                if value is None:
                    positions.append(self.gap(tick_ms, why if judged == Reason.SENTINEL else Reason(judged), (number,)))
                elif isinstance(value, str):
                    positions.append(self.append_text(number, judged, stamp, value))
                else:
                    values = [(number, *exact(value), judged)]
                    positions.append(self._ring.append_values(self.table, *stamp, values))

    def readings(self, query: Read, answer: Answer) -> dict[int, Reading]:
        points = self.spec.points
        quality: int = Quality.SUSPECT if answer.suspect else Quality.GOOD
        found: dict[int, Reading] = {}
        for number, value, judged, raw in self.beside(query, answer, quality):
            found[number] = Reading(points[number].name, value, points[number].unit, judged, raw)
        decoded = query.plan.values(answer.payload) if query.plan is not None else ()
        for number, mantissa, exponent, judged in decoded:
            point, raw = points[number], self.raw_of(query, number, answer.payload)
            exact_value = None if judged >= min(Reason) else Decimal(mantissa).scaleb(exponent)
            is_whole = exact_value is not None and point.kind is Kind.STATE and exact_value == int(exact_value)
            shown = int(exact_value) if exact_value is not None and is_whole else exact_value
            found[number] = Reading(point.name, shown, point.unit, judged or quality, raw)
        return found

    def beside(self, query: Read, answer: Answer, quality: int) -> Iterator[Value]:
        """What the kernel does not decode: texts and clocks."""
        for number, offset, size in query.texts:
            point, raw = self.spec.points[number], answer.payload[offset : offset + size]
            value: Decimal | str | None = self.text_of(point, raw)
            if point.clock and isinstance(value, str):
                value = offset_s(value, point.clock, self.spec.zone, answer.time_ns)
            yield number, value, Reason.SENTINEL if value is None else quality, raw

    def text_of(self, point: Point, raw: bytes) -> str | None:
        """The text in the bytes of a point."""
        return text_of(point, raw)

    def raw_of(self, query: Read, number: int, payload: bytes) -> bytes:
        """The bytes that a point's value was made of; of coils, all bytes that they touch."""
        point, first = self.spec.points[number], self.spec.points[number].address - query.block.address
        if query.block.function >= 3:
            return payload[2 * first : 2 * (first + point.count)]
        return payload[first // 8 : (first + point.count + 7) // 8]

    def _is_suspect(self, counters: Plan, payload: bytes, mono_ns: int) -> bool:
        values = [(n, Decimal(m).scaleb(e)) for n, m, e, quality in counters.values(payload) if quality == Quality.GOOD]
        return self._guard.is_suspect(values, mono_ns / 1e9)
