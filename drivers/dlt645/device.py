"""One DL/T 645 meter on a line. The identifiers in its profile select the edition, 2007 or 1997. Reads only.

A point's ``key`` is one of:

- ``DI``: a data identifier as the standard prints it (8 hex digits for 2007, 4 for 1997);
- ``DI#N``: the N-th value, counted from 0, of a block that is requested as a whole;
- ``DI@time``: the time that the meter reports for the value;
- ``DATE+TIME``: two identifiers. Their values together are the meter's clock.

Frozen values (05..) are read together with the time of the freeze.
Points whose identifiers differ only in phase or tariff are read as one block. If a meter refuses a block, the points of
this block are read one by one from then on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from drivers.dlt645.fields import Field
from drivers.dlt645.frames import (
    READ,
    READ_97,
    READ_NEXT,
    READ_NEXT_97,
    Frame,
    Parser,
    broken,
    build_read,
    build_read_next,
    error_text,
    join,
)
from drivers.dlt645.tables import FIXED, FIXED_97, MOMENTARY
from drivers.dlt645.values import decode
from drivers.line import Line
from drivers.meter_device import MeterDevice, MeterQuery, MeterRequest, Response
from drivers.model import (
    ConfigError,
    DeviceException,
    DeviceSpec,
    FrameError,
    LineError,
    MismatchError,
    Point,
    Quality,
    Reading,
    Reason,
)
from ext.ring import Ring

_KEY = re.compile(
    r"([0-9A-F]{8}\+[0-9A-F]{8}|[0-9A-F]{4}\+[0-9A-F]{4}|[0-9A-F]{8}|[0-9A-F]{4})(?:#(\d{1,2})|(@time))?", re.IGNORECASE
)
_FREEZE = re.compile(r"05(..)(?!00)..(..)")
_MOST_FRAMES = 32  # an answer with more frames is treated as an error, although the sequence number allows 255
_ENVELOPE = 4 + 12  # bytes around the data: wake-up bytes and the frame


class Dlt645Device(MeterDevice):
    """Reads the meter with the address ``spec.address`` (up to 12 digits). An address whose digits are all A reaches
    any meter, so it needs a line with a single meter.

    Raises:
        ConfigError: an invalid address or key, or a Modbus TCP line.
    """

    protocol = "dlt645"

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self._address = spec.address.upper().rjust(12, "0")
        self._whose = re.compile(self._address.replace("A", "[0-9A-F]"))
        self._no_blocks: set[str] = set()  # blocks that this meter refuses

    def check(self, point: Point) -> None:
        if not _KEY.fullmatch(point.key):
            raise ConfigError(
                f"key {point.key!r} is not a data identifier",
                where=f"{self.spec.profile}: {point.name}",
                hint='Such as "02010100", "0001FF00#2", "01010000@time" or, for 1997, "9010"',
            )

    def plan(self, numbers: Sequence[int]) -> list[MeterQuery]:
        singles: dict[str, list[int]] = {}
        blocks: dict[str, set[str]] = {}
        for number in numbers:
            di, _, _ = _parts(self.spec.points[number])
            singles.setdefault(di, []).append(number)
            block = block_of(di)
            if block is not None and block[0] not in self._no_blocks:
                blocks.setdefault(block[0], set()).add(di)
        queries: dict[str, list[int]] = {}
        for di, those in singles.items():
            block = block_of(di)
            whole = block is not None and len(blocks.get(block[0], ())) > 1
            queries.setdefault(block[0] if whole and block else di, []).extend(those)
        return [MeterQuery(query_id, tuple(those)) for query_id, those in queries.items()]

    def learn(self, query: MeterQuery, error: LineError) -> bool:
        asks_block = any(_parts(self.spec.points[n])[0] != query.query_id for n in query.points)
        if not asks_block or not isinstance(error, DeviceException):
            return False
        self._no_blocks.add(query.query_id)
        return True

    async def fetch(self, query_id: str) -> Response:
        if "+" in query_id:
            return await self._clock(*query_id.split("+"))
        frozen = _FREEZE.fullmatch(query_id)
        if frozen is None:
            return await self._one(query_id)
        moment = f"05{frozen[1]}00{frozen[2]}"
        try:
            before = _text(await self._one(moment))
        except DeviceException:
            # the reading has no time, because the meter does not report the time of the freeze
            return await self._one(query_id)
        response = await self._one(query_id)
        if _text(await self._one(moment)) != before:
            raise MismatchError(f"the meter stored new frozen values while {query_id} was being read", where=self.where)
        return replace(response, readings=[replace(reading, time=before) for reading in response.readings])

    async def _clock(self, date_di: str, time_di: str) -> Response:
        """Read the meter's date and its time of day as one text, stamped with the arrival of the time of day.

        The date is read first. It is read again if the time of day shows that midnight may have passed between the two
        reads.
        """
        before = _text(await self._one(date_di))
        response = await self._one(time_di)
        clock = _text(response)
        if clock.startswith("00:0"):
            before = _text(await self._one(date_di))
        time_text = f"{before}T{clock}" if before and clock else None
        quality = Quality.GOOD if time_text else Reason.SENTINEL
        raw = response.readings[0].raw if response.readings else b""  # an answer may have no data
        return replace(response, readings=[Reading("device.time", time_text, quality=quality, raw=raw)])

    async def _one(self, query_id: str) -> Response:
        is_97 = len(query_id) == 4
        answer = await self.exchange(
            self._request(build_read(self._address, query_id), READ_97 if is_97 else READ, query_id)
        )
        frames = [Frame(answer.payload)]
        suspect = answer.suspect
        while frames[-1].more:
            number = len(frames)
            if number == _MOST_FRAMES:
                raise MismatchError(f"the answer for {query_id} has more than {_MOST_FRAMES} frames", where=self.where)
            request = self._request(
                build_read_next(self._address, query_id, number), READ_NEXT_97 if is_97 else READ_NEXT, query_id, number
            )
            answer = await self.exchange(request)
            suspect |= answer.suspect
            frames.append(Frame(answer.payload))
        return Response(self.explain(query_id, [f.raw for f in frames]), answer.time_ns, answer.mono_ns, suspect)

    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        try:
            return decode(query_id, join([Frame(raw) for raw in frames]))
        except FrameError as error:
            raise MismatchError(error.what, where=self.where) from error

    def brings(self, point: Point, query_id: str) -> bool:
        di = _parts(point)[0]
        if "+" in di:
            # a clock is compared with the arrival time of its answer, and a recorded answer has no arrival time
            return False
        return query_id in (di, (block_of(di) or ("",))[0])

    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        di, number, wants_time = _parts(point)
        if di != query_id:
            block = block_of(di)
            number = block[1] if block is not None else 0
        if number >= len(response.readings):
            return None
        reading = response.readings[number]
        if wants_time:
            return replace(reading, value=reading.time, unit="") if reading.time else None
        return reading

    def cost(self, query_id: str) -> tuple[int, int]:
        if "+" in query_id:
            parts = [self.cost(part) for part in query_id.split("+")]
            return sum(p[0] for p in parts), sum(p[1] for p in parts)
        asked = _ENVELOPE + len(query_id) // 2
        return 1, asked + asked + _data_bytes(query_id)

    def _request(self, frame: bytes, function: int, di: str, sequence: int = 0) -> MeterRequest[Frame]:
        def judge(found: Frame) -> bytes | LineError | None:
            if not found.is_reply or not self._whose.fullmatch(found.address):
                return None
            if found.function != function:
                return MismatchError(
                    f"answer has control code {found.control:02X}h, expected {function:02X}h", where=self.where
                )
            if found.is_error:
                code = found.error_code or 0
                return DeviceException(f"the meter answers {di}: {error_text(code)}", where=self.where, code=code)
            if found.identifier != di:
                return MismatchError(f"answer has identifier {found.identifier}, expected {di}", where=self.where)
            if sequence and found.sequence not in (None, sequence):
                return MismatchError(
                    f"answer is follow-on frame {found.sequence}, expected {sequence}", where=self.where
                )
            return found.raw

        expect = _ENVELOPE + len(di) // 2 + _data_bytes(di)
        return MeterRequest(frame, function, self._address, self.where, expect, Parser, judge, broken, sequence)


def _text(response: Response) -> str:
    """The text of an answer with a single value. "" if the meter has no value."""
    value = response.readings[0].value if response.readings else None
    return value if isinstance(value, str) else ""


def _parts(point: Point) -> tuple[str, int, bool]:
    """Split a point's key into (identifier, index of the value in the answer, whether the key asks for the value's
    time).
    """
    found = _KEY.fullmatch(point.key)
    assert found is not None  # the key was checked when the device was made
    return found[1].upper(), int(found[2] or 0), bool(found[3])


def block_of(di: str) -> tuple[str, int] | None:
    """Return (block that contains the value of an identifier, position of the value in the block). None if no block has
    it.

    Source: DL/T 645-2007 annex A (DI1 = FF: all tariffs or phases), DL/T 645-1997 annex A (low digit F).
    """
    if "+" in di:
        return None
    code = int(di, 16)
    if len(di) == 4:
        return _block_97(di, code)
    family, kind, part, last = code >> 24, code >> 16 & 0xFF, code >> 8 & 0xFF, code & 0xFF
    if part == 0xFF or last == 0xFF:
        return None
    if family in (0x00, 0x01) and kind < 0x80 and code not in FIXED:
        return f"{di[:4]}FF{di[6:]}", part
    if family == 0x02 and last == 0 and kind in MOMENTARY:
        place = part if MOMENTARY[kind][6] else part - 1
        return (f"{di[:4]}FF00", place) if 0 <= place <= 3 else None
    return None


def _block_97(di: str, code: int) -> tuple[str, int] | None:
    group, when, part, item = code >> 12, code >> 8 & 0xF, code >> 4 & 0xF, code & 0xF
    if item == 0xF:
        return None
    if group in (0x9, 0xA) and when & 3 < 2:
        return f"{di[:3]}F", item
    if code >> 8 == 0xB6 and item <= 3:
        place = item if part in (0x3, 0x4, 0x5) else item - 1
        return (f"{di[:3]}F", place) if place >= 0 else None
    return None


def _data_bytes(di: str) -> int:
    """The approximate number of data bytes in an answer for this identifier. The deadline of the request depends on
    it.
    """
    code = int(di, 16)
    field: Field | None = FIXED_97.get(code) if len(di) == 4 else FIXED.get(code)
    if field is not None:
        return field.size
    return 20 if "F" in di[-4:] else 8 if di.startswith(("01", "A")) and len(di) in (4, 8) else 4
