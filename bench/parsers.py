"""Speed of each protocol's parser on one core: frames per second found in a stream, and found and decoded.

    python -m bench.parsers [--json] [--repeat 7]

The stream repeats one frame. Three stray bytes precede each copy of it. The parser gets the stream in pieces of 240
bytes, as from a port. Times are CPU time of this thread. The fastest of all repeats counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from agent.cli.bench import least_time
from drivers.framing import FrameScanner, crc16
from drivers.iec62056.data_sets import decode_readout
from drivers.iec62056.frames import Parser as ReadoutParser
from drivers.modbus.frames import ModbusRequest
from drivers.modbus.requests import read_request
from drivers.sunspec.models import decode_model
from tests.kits.codecs import cjt188, dlt645, mbus
from tests.kits.readouts import E350

# frames per second that each parser must reach. For readouts, whose length varies, it is values per second
LIMIT = 20_000
FRAMES = 1_000
NOISE = b"\x00\x68\xff"

DLT645 = "68 61 01 00 00 00 00 68 91 08 33 33 34 33 AB 89 67 45 78 16"
WATER = "68 10 44 33 22 11 00 33 78 81 16 1F 90 00 56 34 12 00 2C 00 00 12 00 2C 30 15 22 24 11 26 20 00 FF FA 16"
HEAT = (
    "68 20 32 41 31 40 00 00 00 81 2E 1F 90 01 00 45 23 01 05 25 00 30 01 05 41 97 00 00 17 00 15 02 00 35 54 76 98 00"
    " 2C 23 85 00 10 45 00 24 10 00 30 15 22 24 11 26 20 00 00 70 16"
)
MBUS = (
    "68 42 42 68 08 00 72 45 00 94 63 AE 4C 08 04 F9 00 00 00 0C 06 19 90 01 00 0C 13 19 11 62 01 0C 3B 00 00 00 00 0C"
    " 2B 00 00 00 00 02 5A 67 01 02 5E E9 00 03 60 46 31 00 0C 78 45 00 94 63 0C FD 10 45 00 94 63 1F B6 16"
)
KINDS: tuple[tuple[str, Callable[[], FrameScanner[Any]], Callable[[Any], object], str], ...] = (
    ("DL/T 645, one value", dlt645.Parser, dlt645.decode_frame, DLT645),
    ("CJ/T 188 water, 4 values", cjt188.Parser, cjt188.decode_frame, WATER),
    ("CJ/T 188 heat, 10 values", cjt188.Parser, cjt188.decode_frame, HEAT),
    ("M-Bus heat, 11 records", mbus.Parser, mbus.decode_frame, MBUS),
    ("IEC 62056-21 readout, 24 values", ReadoutParser, decode_readout, E350.hex()),
)
VALUES = {"IEC 62056-21 readout, 24 values": 24}


def best(work: Callable[[], int], repeat: int) -> float:
    """Frames per second of CPU time, in the fastest run."""
    return work() / least_time(work, repeat=repeat, clock=time.thread_time)


def hunting(parser: Callable[[], FrameScanner[Any]], text: str, decode: Callable[[Any], object] | None) -> int:
    """Feed a stream of repeated frames to a parser. If ``decode`` is given, decode each frame. Returns the number of
    frames.
    """
    stream = (NOISE + bytes.fromhex(text)) * FRAMES
    hunter, count = parser(), 0
    for at in range(0, len(stream), 240):
        for frame in hunter.feed(stream[at : at + 240]):
            count += 1
            if decode is not None:
                decode(frame)
    assert count == FRAMES
    return count


def modbus(request: ModbusRequest, heard: bytes, tcp: bool) -> int:
    """Check one answer repeatedly. In RTU the frame must be found in the bytes; in TCP the header gives its length."""
    for _ in range(FRAMES):
        found = request.judge_from(1, heard[1:-2]) if tcp else request.find(NOISE + heard, False)
        assert isinstance(found, bytes)
    return FRAMES


def models() -> int:
    """Decode all points of a SunSpec model 103 repeatedly."""
    registers = [103, 50, *range(1, 51)]
    for _ in range(FRAMES):
        decode_model(40002, registers)
    return FRAMES


def frame_end(repeat: int) -> list[tuple[str, float | None, float | None]]:
    """Measure all parsers. Returns rows (name, frames per second found, frames per second found and decoded).

    A number is None if it is not measured.
    """
    rows: list[tuple[str, float | None, float | None]] = []
    for what, parser, decode, text in KINDS:
        found, decoded = (best(partial(hunting, parser, text, then), repeat) for then in (None, decode))
        rows.append((what, found, decoded))
    for count in (10, 100):
        request = read_request(1, 3, 0, count, "bench")
        body = bytes((1, 3, 2 * count)) + bytes(n & 0xFF for n in range(2 * count))
        heard = body + crc16(body).to_bytes(2, "little")
        rows.append((f"Modbus RTU, {count} registers", best(partial(modbus, request, heard, False), repeat), None))
    rows.append(("Modbus TCP, 100 registers", best(partial(modbus, request, heard, True), repeat), None))
    rows.append(("SunSpec, model 103", None, best(models, repeat)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if a parser is slower than ``LIMIT``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args(argv)
    rows = frame_end(args.repeat)
    slowest = min(rate * VALUES.get(what, 1) for what, *rates in rows for rate in rates if rate)
    if args.json:
        print(json.dumps([{"parser": w, "found": f and round(f), "decoded": d and round(d)} for w, f, d in rows]))
    else:
        print("| parser | frames/s found | found and decoded |\n|---|---:|---:|")
        for what, found, decoded in rows:
            print(f"| {what} | {f'{found:,.0f}' if found else ''} | {f'{decoded:,.0f}' if decoded else ''} |")
        print(f"\nAsked: {LIMIT:,} frames/s each, of readouts as many values; the slowest: {slowest:,.0f}.")
    return int(slowest < LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
