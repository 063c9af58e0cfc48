"""Time per reading of each compiled kernel, and of plain Python code with the same result, in the same process.

    python -m bench.kernels [--json] [--repeat 30]

The plain versions use struct, Decimal and json. Before the measurement, their results are compared with those of the
kernels. The fastest of all repeats counts.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import struct
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

from agent.cli.bench import POINTS, TICKS, float_plan, least_time
from ext.canon import PointLayout, Table, seal
from ext.decode import Plan
from ext.ring import Ring

START_MS = 1_795_500_900_000
LIMIT_NS = 400.0  # limit per reading for decode, ring and canon together; the answers contain 100 float32

Value = tuple[int, int, int, int]  # (point, mantissa, exponent, quality)
Answer = tuple[int, int, list[Value]]  # (tick in ms, read time in ns, values)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Times are in ns per reading."""

    name: str
    kernel_ns: float
    plain_ns: float

    @property
    def ratio(self) -> float:
        """How many times faster the kernel is than plain Python."""
        return self.plain_ns / self.kernel_ns


def best(work: Callable[[], object], readings: int, repeat: int) -> float:
    """The time of the fastest call, in ns per reading."""
    return least_time(work, repeat=repeat) * 1e9 / readings


# -- plain versions


def plain_shortest(value: float) -> tuple[int, int]:
    """Mantissa and exponent of the shortest decimal that identifies a float32."""
    raw = struct.pack(">f", value)
    text = next(t for digits in range(1, 10) if struct.pack(">f", float(t := f"{value:.{digits}g}")) == raw)
    sign, digits, exponent = Decimal(text).normalize().as_tuple()
    return int("".join(map(str, digits))) * (-1 if sign else 1), int(exponent)


def plain_f32(payload: bytes) -> list[Value]:
    """Decode a block of float32. NaN becomes a gap. Any other value becomes its shortest decimal."""
    values = []
    for point, value in enumerate(struct.unpack(f">{POINTS}f", payload)):
        if math.isfinite(value):
            values.append((point, *plain_shortest(value), 0))
        else:
            values.append((point, 0, 0, 133))
    return values


def plain_u16(payload: bytes) -> list[Value]:
    """Decode a block of u16 with scale 0.1. 0xFFFF becomes a gap."""
    values = []
    for point, value in enumerate(struct.unpack(f">{POINTS}H", payload)):
        values.append((point, 0, 0, 133) if value == 0xFFFF else (point, value, -1, 0))
    return values


def plain_ring(memory: bytearray, values: list[Value]) -> list[Value]:
    """Write values to shared memory and read them again."""
    for n, (point, mantissa, exponent, quality) in enumerate(values):
        struct.pack_into("<qHhBBH", memory, 16 * n, mantissa, point, exponent, quality, 0, 0)
    back = []
    for n in range(len(values)):
        mantissa, point, exponent, quality, _, _ = struct.unpack_from("<qHhBBH", memory, 16 * n)
        back.append((point, mantissa, exponent, quality))
    return back


def plain_canon(answers: list[Answer], names: list[str]) -> bytes:
    """Make SenML records of the answers, and check that every due reading is in them."""
    records, seen, base = [], set(), None
    for tick_ms, time_ns, values in answers:
        for point, mantissa, exponent, quality in values:
            if quality or (point, tick_ms) in seen:
                continue
            seen.add((point, tick_ms))
            number = float(Decimal(mantissa).scaleb(exponent))
            record: dict[str, object] = {"n": names[point], "u": "kW", "v": int(number) if number % 1 == 0 else number}
            if base is None:
                record["bn"] = "park7/gw01/inv1/"
            if base != time_ns // 1_000_000:
                base = time_ns // 1_000_000
                record["bt"] = base // 1000 if base % 1000 == 0 else base / 1000
            records.append(record)
    assert len(seen) == POINTS * TICKS
    return json.dumps(records, sort_keys=True, separators=(",", ":")).encode()


# -- the comparison


def blocks(kind: str) -> tuple[Plan, list[bytes]]:
    """Return (decode plan of 100 points, ten answers to decode)."""
    if kind == "f32":
        return float_plan(), [
            struct.pack(f">{POINTS}f", *(random.uniform(0, 500) for _ in range(POINTS))) for _ in range(TICKS)
        ]
    plan = Plan(POINTS * 2)
    for point in range(POINTS):
        plan.add(point, point * 2, kind, scale=(1, -1))
    return plan, [struct.pack(f">{POINTS}H", *(random.randrange(65535) for _ in range(POINTS))) for _ in range(TICKS)]


def pipeline(ring: Ring, kind: str, plain: Callable[[bytes], list[Value]], repeat: int) -> tuple[Row, Row]:
    """Measure two steps: decoding answers into the ring, and making canonical JSON from the ring."""
    plan, payloads = blocks(kind)
    names = [f"ac.power.p{point:03d}" for point in range(POINTS)]
    table = Table("park7/gw01/inv1/", PointLayout([(name, "u", "kW", 0, 0) for name in names], [1_000]))
    times = [(START_MS + 1_000 * n, (START_MS + 1_000 * n) * 1_000_000 + 12_345_678) for n in range(TICKS)]
    end_ms = START_MS + 1_000 * TICKS

    def decode() -> array[int]:
        return array("Q", [plan.decode_into(ring, p, 1, *t, 0) for t, p in zip(times, payloads, strict=True)])

    def plain_decode() -> list[Answer]:
        return [(*t, plain(p)) for t, p in zip(times, payloads, strict=True)]

    positions, answers = decode(), plain_decode()
    for position, (_, _, values) in zip(positions, answers, strict=True):
        record = ring.record(position)
        assert record is not None
        assert [tuple(v) for v in record.values] == values
    piece = seal(ring, positions, table, START_MS, end_ms)
    assert piece.complete
    assert piece.e == plain_canon(answers, names)

    def canon() -> object:
        return seal(ring, positions, table, START_MS, end_ms)

    readings = POINTS * TICKS
    kernel_canon = best(canon, readings, repeat)
    kernel_decode = best(decode, readings, repeat)
    slow = max(repeat // 10, 3)
    return (
        Row(f"decode {kind} into the ring", kernel_decode, best(plain_decode, readings, slow)),
        Row(f"canon of {kind} from the ring", kernel_canon, best(lambda: plain_canon(answers, names), readings, slow)),
    )


def slow_road(ring: Ring, repeat: int) -> Row:
    """Measure the path that tools and some protocols use: Python values are written to the ring and read again."""
    values: list[Value] = [(n, random.randrange(10**6), -2, 0) for n in range(POINTS)]
    memory = bytearray(16 * POINTS)

    def kernel() -> object:
        return ring.record(ring.append_values(1, 0, 0, 0, values))

    assert plain_ring(memory, values) == values
    return Row(
        "ring, in and out as tuples",
        best(kernel, POINTS, repeat),
        best(lambda: plain_ring(memory, values), POINTS, repeat),
    )


def measure(repeat: int = 30, seed: int = 1) -> list[Row]:
    """Measure all rows. The limit applies to the first row only."""
    random.seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        ring = Ring.create(str(Path(folder) / "bench.ring"), 16 << 20, 1, 1, bytes(32))
        try:
            f32 = pipeline(ring, "f32", plain_f32, repeat)
            whole = Row("decode + ring + canon, f32", sum(r.kernel_ns for r in f32), sum(r.plain_ns for r in f32))
            u16 = pipeline(ring, "u16", plain_u16, repeat)
            return [whole, *f32, *u16, slow_road(ring, repeat)]
        finally:
            ring.close()


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| kernel | ns a reading | plain Python, ns | times faster |", "|---|---:|---:|---:|"]
    lines += [f"| {r.name} | {r.kernel_ns:.1f} | {r.plain_ns:.0f} | {r.ratio:.0f} |" for r in rows]
    return "\n".join(lines)


def main() -> int:
    """Print the table. The exit code is 1 if the limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeat", type=int, default=30, help="number of repeats, of which the fastest counts (30)")
    arguments = parser.parse_args()
    rows = measure(arguments.repeat)
    if arguments.json:
        print(json.dumps({"limit_ns": LIMIT_NS, "rows": [asdict(r) | {"ratio": r.ratio} for r in rows]}))
    else:
        print(table(rows))
    return 0 if rows[0].kernel_ns <= LIMIT_NS else 1


if __name__ == "__main__":
    raise SystemExit(main())
