"""The common part of meter drivers: a query with its push parser, and the path of a value into the ring.

The driver of a protocol decides which queries return which points, and how a point is found in the readings of an
answer. Sending, gaps, units, ratios and signs are implemented here.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

from drivers.backoff import Backoff
from drivers.base import Decoded, Device
from drivers.clocks import offset_s
from drivers.framing import FrameScanner
from drivers.line import Answer, Line
from drivers.model import (
    FIRST_REASON,
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
from drivers.plan import decimal_plan, exact, pack_decimal
from drivers.registry import protocol_of
from drivers.units import unit_factor
from ext.ring import Ring

_log = logging.getLogger("meterhouse.meters")


class RawFrame(Protocol):
    """A frame of any protocol."""

    @property
    def raw(self) -> bytes: ...


F = TypeVar("F", bound=RawFrame)
REFUSALS = 2  # after this many refusals in a row, a query rests
# How long it rests, in seconds. If a single answer has all points, the first rest is short and each further one longer,
# because during a rest the meter has no readings at all.
FIRST_REST_S, REST_S = 60.0, 3600.0


class MeterRequest(Generic[F]):
    """One request to a meter, which the line's owner sends.

    Args:
        judge: judges a received frame. Returns the bytes of a valid answer, a LineError for a refusal, or None if the
        frame is not for us (another meter's frame, or our own echo). A MismatchError counts only if no right answer
        arrives after it.
        broken: returns (bytes of the best attempt, offset, error) for bytes that contain no frame.
        place: the place of the request in its sequence, counted from 0. In some sequences, requests with the same bytes
        have different answers, such as "send the next telegram".
    """

    __slots__ = ("_broken", "_judge", "_parser", "expect", "frame", "function", "place", "unit", "where")
    registers = None  # a meter request reads no registers

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
        place: int = 0,
    ) -> None:
        self.frame, self.function, self.unit, self.where, self.expect = frame, function, unit, where, expect
        self._parser, self._judge, self._broken, self.place = parser, judge, broken, place

    def find(self, response: bytes, final: bool) -> bytes | LineError | None:
        """See ``drivers.line.Request``. An echo of our own bytes is not an answer (field pains 20, 22)."""
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
        return seen  # only an echo, or frames of other meters, were received: this meter was silent

    def noise(self, received: bytes) -> int | None:
        """See ``drivers.line.Request``."""
        parser = self._parser()
        size = sum(len(frame.raw) for frame in parser.feed(received))
        return None if parser.is_inside_frame else len(received) - size


@dataclass(frozen=True, slots=True)
class MeterQuery:
    """One query, and the points in its answer. The form of ``query_id`` is specific to the protocol."""

    query_id: str
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one query, with the time at which its last byte arrived."""

    readings: Sequence[Reading]
    time_ns: int
    mono_ns: int
    suspect: bool = False


def field_of(name: str, words: str) -> bool:
    """Whether ``name`` is ``words`` after at most one more word: ``energy`` and ``heat.energy`` match ``energy``."""
    return words in (name, name.partition(".")[2])


class MeterDevice(Device[MeterQuery, Response]):
    """A meter on a line. A protocol implements ``plan`` and the abstract methods of this class.

    If a protocol has alternative queries, it also implements ``learn``.
    """

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self._asked = 0  # requests sent since this visit began
        self._warned: set[int] = set()  # numbers of the points whose wrong unit has already been logged
        for point in spec.points:
            self.check(point)
        self._decimals = [None if p.is_text else decimal_plan(n, p, spec) for n, p in enumerate(spec.points)]

    # --- implemented by a protocol

    @abstractmethod
    def check(self, point: Point) -> None:
        """Raise ConfigError if a point's key is invalid in this protocol."""

    @abstractmethod
    async def fetch(self, query_id: str) -> Response:
        """Send a query and return its answer. Raises LineError."""

    @abstractmethod
    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        """The readings of the frames that answer ``query_id``. Raises LineError if they are unusable."""

    @abstractmethod
    def brings(self, point: Point, query_id: str) -> bool:
        """Whether an answer to ``query_id`` contains the value of a point."""

    @abstractmethod
    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        """The reading of a point in an answer. None if the answer does not contain it."""

    @abstractmethod
    def cost(self, query_id: str) -> tuple[int, int]:
        """The approximate cost of a query: (number of requests, number of bytes in both directions)."""

    # --- called by pollers and commands

    async def probe(self) -> None:
        """Send one query. Raises LineError if the device is silent. A refusal counts as an answer."""
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
        """The readings in recorded answers (query -> frames), by point name. Sends nothing. Raises LineError."""
        found: dict[int, Reading] = {}
        zeros: set[int] = set()
        for query_id, raw in frames.items():
            numbers = [n for n, point in enumerate(self.spec.points) if self.brings(point, query_id)]
            response = Response(self.explain(query_id, raw), 0, 0)
            query = MeterQuery(query_id, tuple(numbers))
            found.update(self.readings(query, response))
            zeros |= self.zeros(query, response)
        self.drop_zeros(found, zeros)
        return {reading.name: reading for reading in found.values()}

    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        found: dict[str, list[bytes]] = {}
        for query_id, text in frames.items():
            parser = protocol_of(self.protocol).new_parser()
            assert parser is not None  # every meter protocol has a parser
            found[query_id] = [frame.raw for frame in parser.feed(bytes.fromhex(text))]
            if not found[query_id]:
                raise ValueError(f"the recorded frame of {query_id} is invalid")
        return self.read_frames(found)

    def plan_summary(self, paces: int) -> PlanSummary:
        """The estimated cost of one visit for these paces. It is only an estimate, because the length of answers
        varies.
        """
        due, timing = self.due(paces), self._timing
        costs = [self.cost(query.query_id) for query in self.plan(due)]
        requests, size = sum(c[0] for c in costs), sum(c[1] for c in costs)
        seconds = (requests * (timing.quiet_ns + timing.turnaround_ns) + size * timing.byte_ns) / 1e9
        return PlanSummary(requests, (size + 1) // 2, len(due), seconds)

    # --- from bytes to a value

    async def exchange(self, request: MeterRequest[F]) -> Answer:
        """Send one request on the line and count it. Raises LineError."""
        self._asked += 1
        return await self._line.exchange(request, self._options)

    def take(self, query: MeterQuery, answer: Response, tick_ms: int, positions: list[int]) -> None:
        self.write(self.decoded(query, answer), (tick_ms, answer.time_ns, answer.mono_ns), positions)

    def zeros(self, query: MeterQuery, answer: Response) -> frozenset[int]:
        values = self.decoded(query, answer)
        return frozenset(one.number for one in values if isinstance(one.value, tuple) and not one.value[0])

    def without(self, query: MeterQuery, numbers: Set[int]) -> MeterQuery:
        return replace(query, points=tuple(n for n in query.points if n not in numbers))

    def decoded(self, query: MeterQuery, answer: Response) -> Iterator[Decoded]:
        for number in query.points:
            point, plan = self.spec.points[number], self._decimals[number]
            found = self.pick(point, query.query_id, answer) or Reading(point.name, None, quality=Reason.ABSENT)
            given, quality = self._given(number, found, answer)
            value: tuple[int, int] | str | None = None
            if isinstance(given, str):
                value = given
            elif given is not None and plan is None:
                value = exact(Decimal(given))
            elif given is not None and plan is not None:
                ((_, mantissa, exponent, judged),) = plan.values(pack_decimal(given))
                quality, value = judged or quality, (mantissa, exponent) if judged < FIRST_REASON else None
            has_time = value is not None and point.kind not in (Kind.TEXT, Kind.STATE)
            yield Decoded(number, value, quality, found.raw, found.time if has_time else "")

    def _given(self, number: int, found: Reading, answer: Response) -> tuple[Decimal | int | str | None, int]:
        """Return (value in the point's unit, quality), before the point's plan is applied. (None, gap reason) if there
        is no value.
        """
        point, value = self.spec.points[number], found.value
        quality: int = found.quality if value is None or not answer.suspect else Quality.SUSPECT
        if value is None:
            return None, quality
        if point.clock:
            seconds = value if isinstance(value, str) else int(value)
            lead_s = offset_s(seconds, point.clock, self.spec.zone, answer.time_ns)
            return lead_s, Reason.SENTINEL if lead_s is None else quality
        if point.kind is Kind.TEXT:
            return (str(value), quality) if str(value) not in point.no_texts else (None, Reason.SENTINEL)
        if isinstance(value, str):
            return None, Reason.MISMATCH
        factor = Decimal(1) if point.kind is Kind.STATE else unit_factor(found.unit, point.unit)
        if factor is not None:
            return int(value) if point.kind is Kind.STATE else value * factor, quality
        if number not in self._warned:
            self._warned.add(number)
            name, profile, unit = point.name, self.spec.profile, found.unit
            _log.warning(
                "%s: %s: the meter sends the unit %r, but profile %s expects %r",
                self.where,
                name,
                unit,
                profile,
                point.unit,
            )
        return None, Reason.MISMATCH

    # --- what a device refuses

    async def visit(self, queries: list[MeterQuery], tick_ms: int, result: PollResult) -> list[MeterQuery]:
        self._asked = 0
        # pass a copy, because ``failed`` may replace queries in the list
        silent = await super().visit(list(queries), tick_ms, result)
        result.asked = self._asked
        return silent

    def failed(self, query: MeterQuery, error: LineError, tick_ms: int, result: PollResult) -> Sequence[MeterQuery]:
        """Return an alternative query, if there is one. Otherwise the points become gaps.

        After two refusals in a row, the query rests. A meter that is only busy is asked again at the next tick.
        """
        if not isinstance(error, DeviceException):
            return super().failed(query, error, tick_ms, result)
        result.answered += 1
        if self.learn(query, error):
            self.replan()
            return self.plan(query.points)
        result.error = error
        if not error.busy:
            self._refused(query)
        self.write_gaps(query.points, Reason.EXCEPTION, tick_ms, result)
        return ()

    def _refused(self, query: MeterQuery) -> None:
        """Count a refusal. After two in a row, let the query rest."""
        failures = self.count_failure(query)
        if failures.count < REFUSALS:
            return
        seconds = REST_S
        if protocol_of(self.protocol).one_answer:
            failures.backoff = failures.backoff or Backoff(FIRST_REST_S, REST_S)
            seconds = failures.backoff.next_s()
        self.rest(failures, seconds, Reason.EXCEPTION)
        _log.info(
            "%s: the device refuses the request %s; the agent sends this request again in %d min",
            self.where,
            query.query_id,
            seconds // 60,
        )
