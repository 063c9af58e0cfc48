"""One CJ/T 188 heat, water or gas meter on a line. Reads only.

A point's ``key`` is ``FIELD`` or ``DI:FIELD``:

- DI is the identifier to read, as four hex digits. Without it, identifier 901F (current data) is read.
- FIELD is a name of ``drivers.cjt188.values`` without its first word (``volume``, ``energy``, ``temperature.supply``),
  or a whole name such as ``device.time``.
- ``FIELD@N`` is the value at the N-th last settlement.

A point's ``type`` is the meter type that the request addresses, in hex (``10`` cold water, ``20`` heat, ``AA`` any).

The driver finds the byte order of the identifier by trial. Until the meter has answered with data once, each timeout or
refusal makes the driver swap the order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from drivers.cjt188.frames import ANY, CURRENT, READ, Frame, Parser, broken, build_read
from drivers.cjt188.values import LONGEST, decode_frame
from drivers.line import Line
from drivers.meter_device import MeterDevice, MeterQuery, MeterRequest, Response, field_of
from drivers.model import (
    ConfigError,
    DeviceException,
    DeviceSpec,
    LineError,
    LineTimeout,
    MismatchError,
    Point,
    Reading,
)
from ext.ring import Ring

_KEY = re.compile(r"(?:([0-9A-Fa-f]{4}):)?([a-z_][a-z0-9_.]*)(?:@(\d{1,2}))?")
_TYPE = re.compile(r"[1-4][0-9A-Fa-f]|[Aa][Aa]|")
_ANSWER = 13 + 3 + LONGEST  # length of the longest answer with current data, in bytes


class Cjt188Device(MeterDevice):
    """Reads the meter with the address ``spec.address`` (up to 14 digits). An address whose digits are all A reaches
    any meter, so it needs a line with a single meter.

    Raises:
        ConfigError: an invalid address, key or meter type, or a Modbus TCP line.
    """

    protocol = "cjt188"

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        self._address = spec.address.upper().rjust(14, "0")
        self._whose = re.compile(self._address.replace("A", "[0-9A-F]"))
        self._low_first = False
        self._proven = False  # whether the meter has answered a read in this byte order of the identifier
        self._echoes_serial = True
        self._serial = 0

    def check(self, point: Point) -> None:
        if not _KEY.fullmatch(point.key):
            raise ConfigError(
                f"key {point.key!r} is not the name of a field",
                where=f"{self.spec.profile}: {point.name}",
                hint='Such as "energy", "temperature.supply", "D120:volume.settlement@1"',
            )
        if not _TYPE.fullmatch(point.type):
            raise ConfigError(
                f"type {point.type!r} is not a meter type",
                where=f"{self.spec.profile}: {point.name}",
                hint="Two hex digits: 10 to 19 water, 20 to 29 heat, 30 to 39 gas, 40 to 49 other, AA any",
            )

    def plan(self, numbers: Sequence[int]) -> list[MeterQuery]:
        queries: dict[str, list[int]] = {}
        for number in numbers:
            point = self.spec.points[number]
            queries.setdefault(f"{(point.type or 'AA').upper()} {_parts(point)[0]:04X}", []).append(number)
        return [MeterQuery(query_id, tuple(those)) for query_id, those in queries.items()]

    async def fetch(self, query_id: str) -> Response:
        try:
            answer = await self.exchange(self._request(query_id))
        except (LineTimeout, DeviceException):
            if not self._proven:  # before the first answer, try both byte orders: some meters accept only one
                self._low_first = not self._low_first
            raise
        self._proven = True
        frame = Frame(answer.payload)
        self._echoes_serial = self._echoes_serial and frame.serial == self._serial
        return Response(self.explain(query_id, [answer.payload]), answer.time_ns, answer.mono_ns, answer.suspect)

    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        return [reading for raw in frames for reading in decode_frame(Frame(raw))]

    def brings(self, point: Point, query_id: str) -> bool:
        return f"{_parts(point)[0]:04X}" == query_id.rpartition(" ")[2].upper()

    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        _, name, storage = _parts(point)
        return next((r for r in response.readings if field_of(r.name, name) and r.storage == storage), None)

    def cost(self, query_id: str) -> tuple[int, int]:
        return 1, 3 + 16 + 3 + _ANSWER

    def _request(self, query_id: str) -> MeterRequest[Frame]:
        self._serial = (self._serial + 1) & 0xFF
        meter_type, identifier, serial = int(query_id[:2], 16), int(query_id[3:], 16), self._serial

        def judge(found: Frame) -> bytes | LineError | None:
            if not found.is_reply or not self._whose.fullmatch(found.address):
                return None
            wrong = ""
            if meter_type != ANY and found.meter_type >> 4 != meter_type >> 4:
                wrong = f"answer is from meter type {found.meter_type:02X}h, expected {meter_type:02X}h"
            elif found.function != READ:
                wrong = f"answer has control code {found.control:02X}h, expected the control code of a read answer"
            # a late answer, or one for another master
            elif self._proven and self._echoes_serial and found.serial != serial:
                wrong = f"answer has serial number {found.serial}, expected {serial}"
            elif found.is_error:
                status = found.error_status
                shown = status.hex().upper() or "(none)"
                what = f"the meter refuses to send identifier {identifier:04X}; it answered with status {shown}"
                return DeviceException(what, where=self.where, code=status[0] if status else 0)
            elif found.identifier != identifier:
                wrong = f"answer has identifier {found.identifier or 0:04X}, expected {identifier:04X}"
            return MismatchError(wrong, where=self.where) if wrong else found.raw

        frame = build_read(meter_type, self._address, identifier, serial=serial, low_first=self._low_first)
        return MeterRequest(frame, READ, self._address, self.where, _ANSWER, Parser, judge, broken)


def _parts(point: Point) -> tuple[int, str, int]:
    """Split a point's key into (identifier, field, storage)."""
    found = _KEY.fullmatch(point.key)
    assert found is not None  # the key was checked when the device was made
    return int(found[1], 16) if found[1] else CURRENT, found[2], int(found[3] or 0)
