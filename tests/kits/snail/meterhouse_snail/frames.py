"""Frames: STX, four digits of address, Q or A, text, ETX, and the XOR of 20h and the bytes between STX and ETX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from operator import xor

from drivers.framing import REJECT, FrameScanner


@dataclass(frozen=True, slots=True)
class Frame:
    raw: bytes
    offset: int = 0

    @property
    def address(self) -> str:
        return self.raw[1:5].decode("ascii")

    @property
    def is_answer(self) -> bool:
        return self.raw[5:6] == b"A"

    @property
    def values(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.raw[6:-2].decode("ascii").split(";") if "=" in pair)


class Parser(FrameScanner[Frame]):
    starts = re.compile(rb"\x02")
    longest = 200

    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        end = buffer.find(b"\x03", start) + 2
        if end < 2:
            return size + 1 if size - start < self.longest else REJECT
        if end > size:
            return end
        good = re.fullmatch(rb"\x02[0-9A]{4}[QA][ -~]*\x03", buffer[start : end - 1])
        return end if good and _check(bytes(buffer[start + 1 : end - 2])) == buffer[end - 1] else REJECT

    def build(self, raw: bytes, offset: int) -> Frame:
        return Frame(raw, offset)


def build(address: str, kind: str, text: str = "") -> bytes:
    body = f"{address.rjust(4, '0')}{kind}{text}".encode("ascii")
    return b"\x02" + body + b"\x03" + bytes((_check(body),))


def broken(stream: bytes) -> tuple[bytes, int, str]:
    return stream, 0, "no frame: STX, address, kind and ETX not found"


def _check(body: bytes) -> int:
    return reduce(xor, body, 0x20)
