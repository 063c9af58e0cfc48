"""One Snail meter on a line. A point's ``key`` is the name of its value, such as "E"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

from drivers.meter_device import MeterDevice, MeterQuery, MeterRequest, Response
from drivers.model import ConfigError, Point, Reading
from meterhouse_snail.frames import Frame, Parser, broken, build

UNITS = {"E": "kWh", "P": "kW", "U": "V"}


class SnailDevice(MeterDevice):
    protocol: ClassVar[str] = "snail"

    def check(self, point: Point) -> None:
        if not re.fullmatch(r"[A-Z]{1,4}", point.key):
            where = f"{self.spec.profile}: {point.name}"
            raise ConfigError(f"key {point.key!r} names no value of a snail", where=where, hint="Such as E, P or SN")

    def plan(self, numbers: Sequence[int]) -> list[MeterQuery]:
        return [MeterQuery("all", tuple(numbers))] if numbers else []

    async def fetch(self, query_id: str) -> Response:
        answer = await self.exchange(request(self.spec.address, self.where))
        return Response(self.explain(query_id, [answer.payload]), answer.time_ns, answer.mono_ns, answer.suspect)

    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        return [reading for raw in frames for reading in readings(Frame(raw))]

    def brings(self, point: Point, query_id: str) -> bool:
        return True

    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        return next((reading for reading in response.readings if reading.name == point.key), None)

    def cost(self, query_id: str) -> tuple[int, int]:
        return 1, 60


def readings(frame: Frame) -> list[Reading]:
    return [
        Reading(name, Decimal(text) if name in UNITS else text, UNITS.get(name, ""))
        for name, text in frame.values.items()
    ]


def request(address: str, where: str) -> MeterRequest[Frame]:
    whose = re.compile(address.upper().rjust(4, "0").replace("A", "[0-9]"))

    def judge(found: Frame) -> bytes | None:
        return found.raw if found.is_answer and whose.fullmatch(found.address) else None

    return MeterRequest(build(address.upper(), "Q"), 0x51, address, where, 50, Parser, judge, broken)
