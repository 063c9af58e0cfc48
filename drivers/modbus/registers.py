"""The common part of register devices (Modbus maps, SunSpec models): reads in bursts, decoded by plan."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import ClassVar

from drivers.base import Decoded, Device, decimal_of
from drivers.clocks import offset_s
from drivers.line import Answer, Line
from drivers.modbus.frames import ModbusRequest
from drivers.modbus.requests import read_request
from drivers.model import (
    FIRST_REASON,
    DeviceException,
    DeviceSpec,
    GatewayTimeout,
    Limits,
    LineError,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reason,
)
from drivers.plan import (
    Block,
    KnownHoles,
    TextSlot,
    block_decoder,
    exact,
    plan_blocks,
    plan_summary,
    text_of,
)
from ext.decode import Plan
from ext.ring import Ring

DEVICE_FAILURE = 4  # Modbus exception "server device failure"


@dataclass(slots=True)
class Read:
    """One read, with its frame, and the members of the ``BlockDecoder`` that decodes its answer."""

    block: Block
    request: ModbusRequest
    plan: Plan | None
    counters: Plan | None
    texts: tuple[TextSlot, ...]
    points: memoryview

    @property
    def query_id(self) -> tuple[int, int, int]:
        return self.block.function, self.block.address, self.block.count


class RegisterDevice(Device[Read, Answer]):
    """A device that is read with Modbus. Polling makes no Python object per reading."""

    ADDRESS: ClassVar[str] = "unit"

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self.unit = int(spec.address)
        self.points: Sequence[Point] = spec.points  # the points with the register addresses of this device
        self._probes = 0  # number of second requests that ``probe`` has sent; each one reads other registers

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit for these paces on this line."""
        return plan_summary((read.block for read in self.visit_plan(paces).queries), self._timing)

    @abstractmethod
    def probe_request(self) -> ModbusRequest:
        """One cheap read, for probes."""

    def proves_life(self, error: LineError) -> bool:
        """Whether the device itself sent the error.

        On a line with its own framing, exception 04h proves nothing: many serial servers send it for a missing device.
        """
        is_doubtful = isinstance(error, DeviceException) and error.code == DEVICE_FAILURE
        return isinstance(error, DeviceException) and (self._line.target.carries_bytes or not is_doubtful)

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        result = await super().poll(tick_ms, paces)
        if not result.answered and isinstance(result.error, DeviceException):
            result.error = self._failing(result.error)
        return result

    async def probe(self) -> None:
        """Send one cheap request. Raises LineError if the device is silent; a refusal counts as an answer.

        A serial server may answer with a failure in place of a missing device. So after a failure, other registers are
        read, too: some devices only fail for registers that they do not have.
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
        return GatewayTimeout(f"every request fails: {error.what}", where=error.where, hint=error.hint)

    def ask(self, queries: Sequence[Read]) -> Awaitable[Sequence[Answer | LineError]]:
        return self._line.burst([read.request for read in queries[: self._line.burst_size]], self._options)

    def reads(self, numbers: Sequence[int], limits: Limits, holes: KnownHoles | None = None) -> list[Read]:
        """The reads that cover these points in the least time. Raises ProfileError."""
        found: list[Read] = []
        for block in plan_blocks(self.points, limits, self._timing, numbers, holes):
            request = read_request(self.unit, block.function, block.address, block.count, self.where)
            found.append(Read(block, request, *block_decoder(block, self.points, self.spec)))
        return found

    def take(self, query: Read, answer: Answer, tick_ms: int, positions: list[int]) -> None:
        payload, time_ns, mono_ns, suspect = answer
        quality = Quality.SUSPECT if suspect else Quality.GOOD
        if query.counters is not None and self._is_suspect(query.counters, payload, mono_ns):
            # all values become suspect, because an impossible counter shows that the whole answer is wrong
            quality = Quality.SUSPECT
        why, stamp = self.spec.lack(tick_ms), (tick_ms, time_ns, mono_ns)
        if query.plan is not None:
            positions.append(query.plan.decode_into(self._ring, payload, self.table, *stamp, quality, why))
        if query.texts:
            self.write(self._texts_of(query, answer, quality, why), stamp, positions)

    def zeros(self, query: Read, answer: Answer) -> frozenset[int]:
        return frozenset(n for n in query.points if not any(self._raw_of(query, n, answer.payload)))

    def without(self, query: Read, numbers: Set[int]) -> Read:
        block = replace(query.block, points=tuple(n for n in query.block.points if n not in numbers))
        return Read(block, query.request, *block_decoder(block, self.points, self.spec))

    def decoded(self, query: Read, answer: Answer) -> Iterator[Decoded]:
        quality: int = Quality.SUSPECT if answer.suspect else Quality.GOOD
        yield from self._texts_of(query, answer, quality, Reason.SENTINEL)
        for number, mantissa, exponent, judged in query.plan.values(answer.payload) if query.plan is not None else ():
            value = None if judged >= FIRST_REASON else (mantissa, exponent)
            yield Decoded(number, value, judged or quality, self._raw_of(query, number, answer.payload))

    def _texts_of(self, query: Read, answer: Answer, quality: int, lack: Reason) -> Iterator[Decoded]:
        """The texts and clocks among the points. The decode kernel does not decode them."""
        for number, offset, size in query.texts:
            point, raw = self.points[number], answer.payload[offset : offset + size]
            text = text_of(point, raw)
            value: tuple[int, int] | str | None = text
            if point.clock and text is not None:
                lead_s = offset_s(text, point.clock, self.spec.zone, answer.time_ns)
                value = None if lead_s is None else exact(lead_s)
            yield Decoded(number, value, lack if value is None else quality, raw)

    def _raw_of(self, query: Read, number: int, payload: bytes) -> bytes:
        """The bytes from which a point's value was decoded. For coils, all bytes that contain one of its bits."""
        point, first = self.points[number], self.points[number].address - query.block.address
        if query.block.function >= 3:
            return payload[2 * first : 2 * (first + point.count)]
        return payload[first // 8 : (first + point.count + 7) // 8]

    def _is_suspect(self, counters: Plan, payload: bytes, mono_ns: int) -> bool:
        values = [(n, decimal_of(m, e)) for n, m, e, quality in counters.values(payload) if quality == Quality.GOOD]
        return self._guard.is_suspect(values, mono_ns / 1e9)
