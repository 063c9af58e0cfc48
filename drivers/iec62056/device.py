"""One meter of IEC 62056-21 on a line. Reads only: it sends the sign-on and the choice of a readout.

A point's ``key`` is one of:

- ``CODE``: an OBIS or EDIS code as the meter sends it, such as ``1.8.0`` or ``1-0:1.8.0``. ``1.8.0*01`` is the value of
  a past billing period.
- ``CODE#N``: the N-th bracket after the code, counted from 0.
- ``CODE@time``: the time that the meter reports for the value.
- ``CODE+CODE``: the codes of a date and a time of day. Their values together are the meter's clock.
- ``maker`` or ``model``: a text from the identification that the meter sends at the sign-on.

A point's ``type`` is a unit, for a value that the meter sends without unit; or ``hex``, for a state in hexadecimal.

All points come in one readout. The sign-on uses the device's configured speed. If this is 300 baud, the line then
switches to the speed that the meter offers. If the data fail twice at the offered speed, they are read at 300 baud for
an hour. Mode B does not allow this: there the meter sends at its own speed in any case.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import ClassVar

from drivers.base import WHO
from drivers.iec62056.codes import parse_code
from drivers.iec62056.data_sets import clock_text, decode_readout, is_blank, matching, number_of, printable, time_of
from drivers.iec62056.frames import ANY, Readout
from drivers.iec62056.requests import SignOn, speed_rule, stay
from drivers.line import Line
from drivers.meter_device import MeterDevice, MeterQuery, Response
from drivers.model import (
    ConfigError,
    DeviceException,
    DeviceSpec,
    FrameError,
    Kind,
    LineError,
    LineTimeout,
    MismatchError,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reading,
    Reason,
)
from drivers.units import unit_factor
from ext.ring import Ring

READOUT = "readout"  # the only query
# after this many failures at the speed that the meter offers, read at 300 baud for this time
FAILURES, SLOW_S = 2, 3600.0
HELD_S = 5.0  # a readout of at most this age is reused for the next query
_KEY = re.compile(r"(maker|model)|([^+#@]+)\+([^+#@]+)|([^+#@]+?)(?:#([0-9]{1,2})|(@time))?")
_HEX = re.compile(r"[0-9A-Fa-f]{1,16}")
_BYTES_A_SET = 24
_OWN_NUMBER = re.compile(r"0\.0\.[0-9]|C\.1\.0|96\.1\.0")
# a number with at least this many digits counts as a unique serial number; a shorter one counts as a bus address
_LEAST_SERIAL = 4
_log = logging.getLogger("meterhouse.meters")


class Iec62056Device(MeterDevice):
    """Reads the meter with the device address ``spec.address``. ``*`` sends no address, so it needs a line with a
    single meter.

    Raises:
        ConfigError: an invalid address or key, or a Modbus TCP line.
    """

    protocol = "iec62056"
    ADDRESS: ClassVar[str] = "address"

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self._rule = speed_rule(self._options.setting if line.can_switch else None, line.config.serial)
        self._who = [n for n, point in enumerate(spec.points) if point.name.startswith(WHO)]
        self._fast_failures = 0
        self._slow_until_s = 0.0
        self._last: Response | None = None  # the latest readout; None: there is none, or a poll has used it
        self._is_probed = False  # whether a probe requested the readout in ``_last``
        self._seen_bytes = 0

    # --- implementation of MeterDevice

    def check(self, point: Point) -> None:
        where = f"{self.spec.profile}: {point.name}"
        found = _KEY.fullmatch(point.key)
        codes = [code for code in (found[2], found[3], found[4]) if code is not None] if found else []
        if found is None or any(parse_code(code) is None for code in codes):
            raise ConfigError(
                f"key {point.key!r} is not an OBIS code",
                where=where,
                hint='Such as "1.8.0", "1-0:1.8.0", "1.8.0*01", "1.6.0@time", "0.9.2+0.9.1", "maker" or "model"',
            )
        if point.type not in ("", "hex") and unit_factor(point.type, point.unit) is None:
            raise ConfigError(
                f"type {point.type!r} cannot be converted to unit {point.unit!r}",
                where=where,
                hint='Write the unit of values that the meter sends without a unit, such as "kWh"; for a state, '
                'write "hex"',
            )

    def plan(self, numbers: Sequence[int]) -> list[MeterQuery]:
        return [MeterQuery(READOUT, tuple(numbers))] if numbers else []

    async def fetch(self, query_id: str) -> Response:
        is_slow = self.mono_s() < self._slow_until_s
        request = SignOn(self.spec.address, self.where, stay if is_slow else self._rule)
        self._asked += 1
        try:
            answer = await self._line.exchange(request, self._options)
        except (FrameError, LineTimeout):
            self._failed_at(request)
            raise
        if request.speed.switch_to is not None:
            self._fast_failures = 0
        self._seen_bytes = len(answer.payload)
        readings = self.explain(query_id, [answer.payload])
        is_proven = says_address(readings, self.spec.address)
        if is_proven is False:
            named = ", ".join(f"{reading.label} {_text(reading)}" for reading in numbers_said(readings))
            what = f"the answering meter identifies itself as {named}, not {self.spec.address}"
            raise MismatchError(what, where=self.where, hint="Is the address correct? Two meters may share it")
        suspect = answer.suspect and not is_proven
        self._last = Response(readings, answer.time_ns, answer.mono_ns, suspect)
        return self._last

    def _failed_at(self, request: SignOn) -> None:
        """Count a failure at the speed that the meter offers: the meter identified itself, but no valid data
        followed. Only for meters in mode C: no other meter lets us choose the speed.
        """
        found = request.identification
        if request.speed.switch_to is None or found is None or found.mode != "C":
            return
        self._fast_failures += 1
        if self._fast_failures >= FAILURES:
            self._slow_until_s = self.mono_s() + SLOW_S
            fast, slow = request.speed.switch_to.baud, self._options.setting
            _log.warning("%s: no readout at %d baud; the agent reads at %s for the next hour", self.where, fast, slow)

    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        return [reading for raw in frames for reading in decode_readout(Readout(raw))]

    def brings(self, point: Point, query_id: str) -> bool:
        return query_id == READOUT and "+" not in point.key

    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        found = _KEY.fullmatch(point.key)
        assert found is not None  # the key was checked when the device was made
        named, date, time, code, bracket, wants_time = found.groups()
        if named:
            label = "identification" if named == "model" else named
            return next((r for r in response.readings if r.label == label), None)
        if date:
            return _clock(_first(response, date), _first(response, time))
        reading = _first(response, code, int(bracket) if bracket else None)
        if reading is None:
            return None
        if wants_time:
            return replace(reading, value=reading.time, unit="", quality=Quality.GOOD) if reading.time else None
        return _as_kind(point, reading)

    def take(self, query: MeterQuery, answer: Response, tick_ms: int, positions: list[int]) -> None:
        super().take(query, answer, tick_ms, positions)
        for number in self._who:  # check the identity in every readout, because every readout contains it
            text = self.readings(MeterQuery(READOUT, (number,)), answer)[number].value
            if isinstance(text, str):
                encoded = text.encode("utf-8", "replace")
                self._other_texts += self._texts.setdefault(number, encoded) != encoded
                self._texts[number] = encoded

    def cost(self, query_id: str) -> tuple[int, int]:
        return 1, self._seen_bytes or 64 + _BYTES_A_SET * len(self.spec.points)

    # --- called by pollers and commands

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        if self._last is not None and self._last.time_ns < tick_ms * 1_000_000:
            self._last = None  # this readout is too old for the poll: a reading must not be older than its tick
        try:
            return await super().poll(tick_ms, paces)
        finally:
            self._last, self._is_probed = None, False

    async def probe(self) -> None:
        """Request a whole readout. A sign-on alone would not be cheaper: without a select, the meter sends its data at
        the slow speed. Raises LineError if the meter is silent. A refusal counts as an answer.
        """
        try:
            await self.fetch(READOUT)
        except DeviceException:
            return
        self._is_probed = True

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        if not self._is_probed:
            self._last = None
        self._is_probed = False
        return await super().read_points(names)

    async def ask(self, queries: Sequence[MeterQuery]) -> Sequence[Response | LineError]:
        """Return the readout that a probe or an identity check has just received. If there is none, request a new
        readout.
        """
        held = self._last
        if held is not None and self.mono_s() - held.mono_ns / 1e9 <= HELD_S:
            return [held]
        return await super().ask(queries)

    def plan_summary(self, paces: int) -> PlanSummary:
        """The estimated cost of one visit. If the meter chooses the speed, 9600 baud is assumed."""
        due = self.due(paces)
        if not due:
            return PlanSummary(0, 0, 0, 0.0)
        _, size = self.cost(READOUT)
        setting = self._options.setting
        char_s = setting.char_s if setting is not None else self._timing.byte_ns / 1e9 or 10 / 300
        data_char_s = 10 / 9600 if setting is not None and setting.baud == 300 else char_s
        seconds = 32 * char_s + size * data_char_s + 3 * (self._timing.quiet_ns + self._timing.turnaround_ns) / 1e9
        return PlanSummary(1, (size + 1) // 2, len(due), seconds)


def numbers_said(readings: Sequence[Reading]) -> list[Reading]:
    """The numbers in a readout that identify its meter: address (0.0.0), serial number and other numbers (0.0.1 to
    0.0.9).
    """
    found = []
    for reading in readings:
        code = parse_code(reading.label)
        is_own = code is not None and _OWN_NUMBER.fullmatch(code.quantity) is not None and not reading.subunit
        if is_own and any(character.isdigit() for character in _text(reading)):
            found.append(reading)
    return found


def says_address(readings: Sequence[Reading], address: str) -> bool | None:
    """Whether a readout comes from the meter with the requested address. None if this is uncertain.

    The result is True if one of the readout's numbers agrees with the address. Leading zeros do not count. The shorter
    of the two may be the end of the longer, because the maker's code may precede a serial number. An address of up to
    three digits is a bus address. A bus address is contradicted only by another number in 0.0.0, not by another serial
    number.
    """
    if address == ANY:
        return None
    asked, given = _plain(address), numbers_said(readings)
    if any(_is_same(asked, _plain(_text(reading))) for reading in given):
        return True
    is_serial = len(asked) >= _LEAST_SERIAL
    judged = is_serial or any((code := parse_code(r.label)) and code.quantity == "0.0.0" for r in given)
    return False if given and judged else None


def _is_same(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= _LEAST_SERIAL and long.endswith(short))


def _plain(number: str) -> str:
    return "".join(c for c in number.upper() if c.isalnum()).lstrip("0")


def _first(response: Response, code: str, bracket: int | None = None) -> Reading | None:
    """The reading of a code from its bracket with the number ``bracket``. If ``bracket`` is None, the bracket that has
    the value is used.
    """
    wanted = parse_code(code)
    assert wanted is not None  # the key was checked when the device was made
    found = matching(response.readings, wanted)
    if bracket is None:
        return found[0] if found else None
    return next((reading for reading in found if reading.subunit == bracket), None)


def _clock(date: Reading | None, time: Reading | None) -> Reading | None:
    if date is None or time is None:
        return None
    text = clock_text(_text(date), _text(time))
    return Reading("device.time", text or None, quality=Quality.GOOD if text else Reason.SENTINEL, raw=time.raw)


def _text(reading: Reading) -> str:
    return printable(reading.raw.decode("latin-1"))


def _as_kind(point: Point, reading: Reading) -> Reading:
    """Adapt a reading to its point: a text keeps its zeros, a clock becomes a time, and a state may be hexadecimal."""
    text = _text(reading)
    if is_blank(text):
        return reading
    if point.clock or point.name.endswith("device.time"):
        moment = time_of(text)
        return replace(reading, value=moment or None, quality=Quality.GOOD if moment else Reason.SENTINEL)
    if point.kind is Kind.TEXT:
        return replace(reading, value=text, quality=Quality.GOOD)
    if point.type == "hex" and _HEX.fullmatch(text):
        return replace(reading, value=int(text, 16), unit="", quality=Quality.GOOD)
    value = number_of(text) if isinstance(reading.value, str) else reading.value
    unit = reading.unit or (point.type if isinstance(value, Decimal) else "")
    return reading if value is None else replace(reading, value=value, unit=unit)
