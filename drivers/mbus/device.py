"""One M-Bus meter on a line, by primary or secondary address. Sends only SND_NKE, REQ_UD2 and selection.

A point's ``key`` is ``QUANTITY[@STORAGE[/TARIFF[/SUBUNIT[/FUNCTION]]]][#N]``:

- QUANTITY: a name of ``drivers.mbus.names`` without its first word (``energy``, ``volume``, ``temperature.supply``), or
  a whole name such as ``device.time``;
- STORAGE, TARIFF, SUBUNIT: the numbers of the record; 0 if left out;
- FUNCTION: ``now``, ``max``, ``min`` or ``error``; ``now`` if left out;
- N: if several records agree in all of this and have a suitable unit, the N-th of them, counted from 1.

The keys ``header.serial``, ``header.vendor``, ``header.version``, ``header.medium``, ``header.status`` and
``header.access`` mean fields in the header of the telegram.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from drivers.line import Answer, Line
from drivers.mbus.link import (
    FCB,
    REQ_UD2,
    SELECTED,
    SND_NKE,
    SND_UD,
    Frame,
    Parser,
    broken,
    build_req_ud2,
    build_select,
    build_snd_nke,
)
from drivers.mbus.records import FUNCTIONS
from drivers.mbus.telegram import BUSY, Telegram, decode_frame
from drivers.meter_device import MeterDevice, MeterQuery, MeterRequest, Response, field_of
from drivers.model import (
    ConfigError,
    DeviceException,
    DeviceSpec,
    Kind,
    LineError,
    MismatchError,
    Point,
    Quality,
    Reading,
)
from drivers.units import unit_factor
from ext.ring import Ring

_KEY = re.compile(
    r"([a-z_][a-z0-9_.]*)(?:@(\d{1,9})(?:/(\d{1,6}))?(?:/(\d{1,4}))?(?:/(now|max|min|error))?)?(?:#(\d{1,2}))?"
)
_WHEN = dict(zip(("now", "max", "min", "error"), FUNCTIONS, strict=True))
_HEADER = ("serial", "vendor", "version", "medium", "status", "access")
_ACCESS = {0x72: 15, 0x73: 11, 0x76: 15, 0x77: 11, 0x7A: 7, 0x7B: 7}  # CI -> index of the access number in a frame
_MOST_TELEGRAMS = 32  # a readout has at most this many telegrams
_ANSWER = 261  # length of the longest frame in bytes; deadlines are long enough for it
# one lock for each line, because only one meter on a line can be selected at a time
_sessions: WeakKeyDictionary[Line, asyncio.Lock] = WeakKeyDictionary()


class MbusDevice(MeterDevice):
    """Reads the meter with the address ``spec.address``, which is primary or secondary.

    A primary address is 0 to 250. 254 means any meter, so it needs a line with a single meter.

    Raises:
        ConfigError: an invalid address or key, or a Modbus TCP line.
    """

    protocol = "mbus"

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self._select: tuple[str, int, int, int] | None = None
        self._primary = SELECTED
        text = spec.address.upper()
        if len(text) <= 3:
            self._primary = int(text)
        elif len(text) == 8:
            self._select = text, 0xFFFF, 0xFF, 0xFF
        else:  # the secondary address as it is sent: number, maker (low byte first), version, medium
            maker = int.from_bytes(bytes.fromhex(text[8:12]), "little")
            self._select = text[:8], maker, int(text[12:14], 16), int(text[14:], 16)
        self._fcb = True
        # whether the next readout begins with SND_NKE or selection, so that it starts with the first telegram
        self._reset = True
        self._opened = 0  # how often the line had been opened at the last readout
        self._telegrams = 1  # number of telegrams in the last readout

    def check(self, point: Point) -> None:
        found = _KEY.fullmatch(point.key)
        if not found or (found[1].startswith("header.") and found[1].partition(".")[2] not in _HEADER):
            raise ConfigError(
                f"key {point.key!r} does not select a record",
                where=f"{self.spec.profile}: {point.name}",
                hint='Such as "energy", "energy@1", "volume@0/0/1", "power@0/0/0/max", "header.serial"',
            )

    def plan(self, numbers: Sequence[int]) -> list[MeterQuery]:
        return [MeterQuery("readout", tuple(numbers))] if numbers else []

    async def fetch(self, query_id: str) -> Response:
        """Read all telegrams of one readout."""
        lock = _sessions.setdefault(self._line, asyncio.Lock())
        async with lock:
            try:
                return await self._readout()
            except BaseException:
                self._reset = True
                raise

    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        found = _KEY.fullmatch(point.key)
        assert found is not None  # the key was checked when the device was made
        storage, tariff, subunit = (int(found[n] or 0) for n in (2, 3, 4))
        function, place = _WHEN[found[5] or "now"], int(found[6] or 1)
        fitting: list[Reading] = []
        for reading in response.readings:
            own = reading.storage, reading.tariff, reading.subunit, reading.function or FUNCTIONS[0]
            # the name of an energy of one tariff ends in the tariff, which the key need not repeat
            names = reading.name, reading.name.removesuffix(f".tariff.{tariff}")
            if own == (storage, tariff, subunit, function) and any(_is_named(name, found[1]) for name in names):
                fitting.append(reading)
        # compare units, because some meters have one record in kWh and another in MJ
        if point.kind not in (Kind.TEXT, Kind.STATE):
            fitting = [r for r in fitting if unit_factor(r.unit, point.unit) is not None] or fitting
        if len(fitting) < place:
            return None
        chosen = fitting[place - 1]
        if not storage and function == FUNCTIONS[0]:
            return chosen
        when = [r.value for r in response.readings if _dates(r, storage, function)]
        return replace(chosen, time=str(when[0])) if len(when) == 1 else chosen

    def cost(self, query_id: str) -> tuple[int, int]:
        before = 2 if self._select else 0
        return self._telegrams + before // 2, 18 * before // 2 + self._telegrams * (5 + _ANSWER // 2)

    async def _readout(self) -> Response:
        frames: list[bytes] = []
        suspect = False
        # a tool that used the line in the meantime may have changed the frame count bit; the meter would then repeat
        # its last telegram
        reopened = not self._line.is_open or self._line.stats.opened != self._opened
        if self._select is None and (self._reset or reopened or self._telegrams > 1):
            await self.exchange(self._acknowledged(build_snd_nke(self._primary), SND_NKE))
            self._fcb = True
        self._opened = self._line.stats.opened
        while True:
            answer = await self._next(len(frames))
            if frames and _content(answer.payload) == _content(frames[-1]):
                # the meter ignores the frame count bit and has sent the same telegram again: this was the last one
                break
            frames.append(answer.payload)
            suspect |= answer.suspect
            self._fcb = not self._fcb
            if len(frames) == _MOST_TELEGRAMS or not decode_frame(Frame(answer.payload)).more:
                break
        self._telegrams = len(frames)
        self._reset = False
        return Response(self.explain("readout", frames), answer.time_ns, answer.mono_ns, suspect)

    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        head: dict[str, Reading] = {}
        found: list[Reading] = []
        for raw in frames:
            telegram = decode_frame(Frame(raw))
            self._judge(telegram)
            found += telegram.readings
            for reading in _header(telegram):
                head.setdefault(reading.name, reading)
        return (*head.values(), *found)

    def brings(self, point: Point, query_id: str) -> bool:
        return True

    async def _next(self, place: int) -> Answer:
        """Request the telegram number ``place`` of the readout. The selection and the request for the first telegram,
        number 0, share one turn, so that no other selection can come between them.
        """
        if self._select is None or place:
            return await self.exchange(self._question(place))
        self._fcb = True
        select = self._acknowledged(build_select(*self._select), SND_UD)
        self._asked += 2
        answers = await self._line.burst((select, self._question(place)), self._options)
        if isinstance(answers[-1], LineError):
            raise answers[-1]
        if isinstance(answers[0], LineError):
            raise answers[0]
        return answers[-1]

    def _judge(self, telegram: Telegram) -> None:
        """Raise an error if a telegram cannot be used."""
        if telegram.error:
            raise DeviceException(
                f"the meter answers: {telegram.error}", where=self.where, code=0x70, busy=telegram.error == BUSY
            )
        if telegram.encrypted:
            raise DeviceException(
                "the telegram is encrypted", where=self.where, hint="Disable encryption in the meter", code=0
            )
        wanted = self._select[0] if self._select else ""
        if (
            wanted
            and telegram.identity
            and not all(w in ("F", d) for w, d in zip(wanted, telegram.identity, strict=False))
        ):
            raise MismatchError(f"meter {telegram.identity} answered, but {wanted} was selected", where=self.where)

    def _question(self, place: int) -> MeterRequest[Frame]:
        def judge(found: Frame) -> bytes | LineError | None:
            if not found.from_device or found.kind != "long":
                return None  # ignore our own echo, and the acknowledgement of another meter
            if self._primary not in (found.address, SELECTED, 254):
                return MismatchError(
                    f"answer is from address {found.address}, expected address {self._primary}", where=self.where
                )
            return found.raw

        frame = build_req_ud2(self._primary, fcb=self._fcb)
        return self._request(frame, REQ_UD2 | (FCB if self._fcb else 0), _ANSWER, judge, place)

    def _acknowledged(self, frame: bytes, control: int) -> MeterRequest[Frame]:
        return self._request(frame, control, 1, lambda found: found.raw if found.kind == "ack" else None)

    def _request(
        self,
        frame: bytes,
        control: int,
        expect: int,
        judge: Callable[[Frame], bytes | LineError | None],
        place: int = 0,
    ) -> MeterRequest[Frame]:
        return MeterRequest(frame, control, self.spec.address, self.where, expect, Parser, judge, broken, place)


def _content(raw: bytes) -> bytes:
    """A telegram without its checksum and its access number. Some meters count the access number up even when they
    repeat a telegram.
    """
    at = _ACCESS.get(raw[6], len(raw))
    return raw[4:-2] if at >= len(raw) - 2 else raw[4:at] + raw[at + 1 : -2]


def _is_named(name: str, words: str) -> bool:
    return name == words or field_of(name.removeprefix("x.mbus."), words)


def _dates(reading: Reading, storage: int, function: str) -> bool:
    """Whether a record is the time stamp of the values with this storage number and function (EN 13757-3, annex)."""
    if reading.name not in ("x.mbus.datetime", "x.mbus.date") or not isinstance(reading.value, str):
        return False
    return (reading.storage, reading.function or FUNCTIONS[0]) == (storage, function)


def _header(telegram: Telegram) -> list[Reading]:
    """The header of a telegram as readings."""
    texts: dict[str, str | int | None] = {
        "serial": telegram.identity or None,
        "vendor": telegram.manufacturer or None,
        "version": telegram.version,
        "medium": telegram.medium,
        "status": telegram.status,
        "access": telegram.access,
    }
    return [
        Reading(f"header.{name}", value, quality=Quality.GOOD, function=FUNCTIONS[0])
        for name, value in texts.items()
        if value is not None
    ]
