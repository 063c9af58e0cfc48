"""What drivers of meters have in common: a question with its push parser, and how a value gets into the ring.

A protocol's driver says which questions bring which points and how a point is found among the readings of an answer;
asking, gaps, units, ratios and signs are here.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, TypeVar

from drivers.base import Device
from drivers.clocks import offset_s, time_ms
from drivers.framing import FrameScanner
from drivers.line import Answer, Line
from drivers.model import (
    DeviceException,
    DeviceSpec,
    FrameError,
    Kind,
    LineError,
    MismatchError,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reading,
    Reason,
)
from drivers.plan import exact, ratio_of
from drivers.profile import concerned
from drivers.registry import protocol_of
from drivers.units import unit_factor
from ext.ring import Ring

_log = logging.getLogger("meterhouse.meters")
F = TypeVar("F")
REFUSALS, REST_S = 2, 3600.0  # after so many refusals in a row a question rests for this long


class MeterRequest(Generic[F]):
    """One question to a meter for the line's owner.

    Args:
        judge: the bytes of a sound frame that answers, a LineError if it refuses, None if it is not for us
            (another meter's, our own echo); a MismatchError is kept in mind while the right one may still come.
        broken: (bytes of the best attempt, its offset, what is wrong) of bytes that do not contain a frame.
    """

    __slots__ = ("_broken", "_judge", "_parser", "expect", "frame", "function", "unit", "where")
    registers = None  # it reads none

    def __init__(
        self,
        frame: bytes,
        function: int,
        unit: str,
        where: str,
        expect: int,
        parser: Callable[[], FrameScanner[F]],
        judge: Callable[[F], bytes | LineError | None],
        broken: Callable[[bytes], tuple[bytes, int, str]],
    ) -> None:
        self.frame, self.function, self.unit, self.where, self.expect = frame, function, unit, where, expect
        self._parser, self._judge, self._broken = parser, judge, broken

    def find(self, response: bytes, final: bool) -> bytes | LineError | None:
        """As ``drivers.line.Request`` says. An echo of our own bytes is not an answer (field pains 20, 22)."""
        seen: LineError | None = None
        frames = self._parser().feed(response)
        for frame in frames:
            verdict = self._judge(frame)
            if isinstance(verdict, MismatchError):
                seen = verdict
            elif verdict is not None:
                return verdict
        if not final or not response:
            return None
        if seen is None and not frames:
            return FrameError(self._broken(response)[2], where=self.where)
        return seen  # only an echo or other meters' words: this one was silent


@dataclass(frozen=True, slots=True)
class MeterQuery:
    """One question and the points that its answer brings; ``query_id`` is the protocol's own."""

    query_id: str
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """What one question brought, stamped when its last byte came in."""

    readings: Sequence[Reading]
    time_ns: int
    mono_ns: int
    suspect: bool = False


def field_of(name: str, words: str) -> bool:
    """Whether a reading's name is ``words``, or ``words`` below the medium's own first word (``heat.energy``)."""
    return words in (name, name.partition(".")[2])


class MeterDevice(Device[MeterQuery, Response]):
    """A meter on a line; a protocol fills in ``plan``, ``fetch``, ``pick`` and, where it can ask in another way,
    ``learn``.
    """

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self._asked = 0  # requests sent since the visit began
        self._warned: set[int] = set()
        for number in range(len(spec.points)):
            self.check(spec.points[number])

    # --- what a protocol fills in

    @abstractmethod
    def check(self, point: Point) -> None:
        """Raise ConfigError if a point's key is invalid in this protocol."""

    @abstractmethod
    async def fetch(self, query_id: str) -> Response:
        """Ask. Raises LineError."""

    @abstractmethod
    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        """The readings of the frames that answer ``query_id``. Raises LineError where they cannot be used."""

    @abstractmethod
    def brings(self, point: Point, query_id: str) -> bool:
        """Whether an answer to ``query_id`` holds a point."""

    @abstractmethod
    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        """The reading of a point among those of an answer; None where it is not there."""

    @abstractmethod
    def cost(self, query_id: str) -> tuple[int, int]:
        """Approximate (requests, bytes of both directions) of a question."""

    # --- what pollers and commands call

    async def probe(self) -> None:
        """One question. Raises LineError if the device is silent; a refusal is an answer."""
        wanted = [n for n, point in enumerate(self.spec.points) if point.name == self.spec.probe] or [0]
        try:
            await self.fetch(self.plan(wanted[:1])[0].query_id)
        except DeviceException:
            return

    async def ask(self, queries: Sequence[MeterQuery]) -> Sequence[Response | LineError]:
        try:
            return [await self.fetch(queries[0].query_id)]
        except LineError as error:
            return [error]

    def read_frames(self, frames: Mapping[str, Sequence[bytes]]) -> dict[str, Reading]:
        """What recorded answers hold, by point: question -> its frames. Asks nothing. Raises LineError."""
        found: dict[int, Reading] = {}
        for query_id, raw in frames.items():
            numbers = [n for n, point in enumerate(self.spec.points) if self.brings(point, query_id)]
            response = Response(self.explain(query_id, raw), 0, 0)
            found.update(self.readings(MeterQuery(query_id, tuple(numbers)), response))
        return {reading.name: reading for reading in found.values()}

    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        found: dict[str, list[bytes]] = {}
        for query_id, text in frames.items():
            parser = protocol_of(self.protocol).new_parser()
            assert parser is not None  # a protocol of meters has frames of its own
            found[query_id] = [frame.raw for frame in parser.feed(bytes.fromhex(text))]
            if not found[query_id]:
                raise ValueError(f"the frame of {query_id} is not sound")
        return self.read_frames(found)

    def plan_summary(self, paces: int) -> PlanSummary:
        """The estimated cost of one visit for these paces; answers of meters vary in length."""
        due, timing = self.due(paces), self._timing
        costs = [self.cost(query.query_id) for query in self.plan(due)]
        requests, size = sum(c[0] for c in costs), sum(c[1] for c in costs)
        seconds = (requests * (timing.quiet_ns + timing.turnaround_ns) + size * timing.byte_ns) / 1e9
        return PlanSummary(requests, (size + 1) // 2, len(due), seconds)

    # --- from bytes to a value

    async def exchange(self, request: MeterRequest[F]) -> Answer:
        """One request on the line, counted. Raises LineError."""
        self._asked += 1
        return await self._line.exchange(request, self._options)

    def readings(self, query: MeterQuery, answer: Response) -> dict[int, Reading]:
        found: dict[int, Reading] = {}
        for number in query.points:
            point = self.spec.points[number]
            value, quality, raw, time = self._judged(number, query.query_id, answer)
            found[number] = Reading(point.name, value if quality < 128 else None, point.unit, quality, raw, time=time)
        return found

    def take(self, query: MeterQuery, answer: Response, tick_ms: int, positions: list[int]) -> None:
        values: list[tuple[int, int, int, int, int | None]] = []
        stamp = (tick_ms, answer.time_ns, answer.mono_ns)
        for number in query.points:
            value, quality, _, time = self._judged(number, query.query_id, answer)
            if quality >= 128:
                values.append((number, 0, 0, quality, None))
            elif isinstance(value, str):
                positions.append(self.append_text(number, quality, stamp, value))
            elif value is not None:
                if number in self._guard.counters and quality == Quality.GOOD:
                    doubtful = self._guard.is_suspect([(number, Decimal(value))], answer.mono_ns / 1e9)
                    quality = Quality.SUSPECT if doubtful else quality
                own_ms = time_ms(time, self.spec.zone) if time else None
                values.append((number, *exact(Decimal(value)), quality, own_ms))
        if values:
            try:
                positions.append(self._ring.append_values(self.table, *stamp, values))
            except OverflowError:  # no meter shows 19 digits: one value was nonsense, the others must not suffer
                for one in values:
                    try:
                        positions.append(self._ring.append_values(self.table, *stamp, [one]))
                    except OverflowError:
                        positions.append(self.gap(tick_ms, Reason.SENTINEL, (one[0],)))

    def _judged(
        self, number: int, query_id: str, response: Response
    ) -> tuple[Decimal | int | str | None, int, bytes, str]:
        """(value in the point's unit, quality or reason, the value's bytes, the device's own time of it)."""
        point = self.spec.points[number]
        reading = self.pick(point, query_id, response)
        if reading is None:
            return None, Reason.ABSENT, b"", ""
        if reading.value is None:
            return None, reading.quality, reading.raw, ""
        quality: int = Quality.SUSPECT if response.suspect else reading.quality
        value: Decimal | int | str | None
        if point.kind is Kind.TEXT:
            value = str(reading.value)
        elif point.clock:
            device_time = reading.value if isinstance(reading.value, str) else int(reading.value)
            value = offset_s(device_time, point.clock, self.spec.zone, response.time_ns)
            quality = Reason.SENTINEL if value is None else quality
        elif isinstance(reading.value, str):
            value, quality = None, Reason.MISMATCH
        elif point.kind is Kind.STATE:
            value = _state(point, int(reading.value))
        else:
            value, quality = self._number(number, Decimal(reading.value), reading.unit, quality)
        return value, quality, reading.raw, "" if point.kind in (Kind.TEXT, Kind.STATE) else reading.time

    def _number(self, number: int, value: Decimal, unit: str, quality: int) -> tuple[Decimal | None, int]:
        """A number in the point's unit, with ratio and sign; None where the unit does not fit."""
        point = self.spec.points[number]
        factor = unit_factor(unit, point.unit)
        if factor is None:
            if number not in self._warned:
                self._warned.add(number)
                name, profile = point.name, self.spec.profile
                _log.warning("%s: %s: the meter gives %r, %s expects %r", self.where, name, unit, profile, point.unit)
            return None, Reason.MISMATCH
        value = (value * factor + point.offset) * point.scale
        if (point.low is not None and value < point.low) or (point.high is not None and value > point.high):
            quality = Quality.RANGE
        value *= ratio_of(point, self.spec)
        return (-value if point.flips and concerned(point.name, self.spec.reversed) else value), quality

    # --- what a device refuses

    async def visit(self, queries: list[MeterQuery], tick_ms: int, result: PollResult) -> list[MeterQuery]:
        self._asked = 0
        silent = await super().visit(list(queries), tick_ms, result)  # what is asked instead is of this visit only
        result.asked = self._asked
        return silent

    def failed(self, query: MeterQuery, error: LineError, tick_ms: int, result: PollResult) -> Sequence[MeterQuery]:
        """Ask in another way now; what cannot be asked in another way is a gap, and rests when it was refused twice."""
        if not isinstance(error, DeviceException):
            return super().failed(query, error, tick_ms, result)
        result.answered += 1
        if self.learn(query, error):
            self.replan()
            return self.plan(query.points)
        result.error = error
        failures = self.failures(query)
        if failures.count >= REFUSALS:
            self.rest(failures, REST_S, Reason.EXCEPTION)
            _log.info("%s: refuses %s; it is asked again in an hour", self.where, query.query_id)
        self.refused(query.points, Reason.EXCEPTION, tick_ms, result)
        return ()


def _state(point: Point, number: int) -> int:
    if point.bit is not None:
        return number >> point.bit & 1
    if point.mask:
        return (number & point.mask) >> ((point.mask & -point.mask).bit_length() - 1)
    return number
