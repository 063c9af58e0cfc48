"""The ring between real processes: no torn read, kill -9 at any moment, one writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ext.ring
from ext.decode import Plan
from ext.ring import Ring

MIN = 64 * 1024
PATIENCE_S = 45.0  # nobody in health waits for so long
EVER = 2**64
KERNELS = str(Path(ext.ring.__file__).parents[1])

# Reads as fast as it can, from the oldest record on; every value of a record must say the same number as its head. How
# many were read, and how often it was overtaken, it tells while it runs.
READER = """
import os, sys
from ext.ring import Ring
ring, read, lost, newest = Ring.open(sys.argv[1]), 0, 0, 0
while True:
    done, at = ring.boot, ring.tail  # boot is the writer's word that it is done
    for record in ring.scan(at, 2**64):
        n = record.tick_ms
        assert record.time_ns == record.mono_ns == n and len(record.values) == n % 100 + 1, record
        assert all(v.mantissa == n and v.point == k for k, v in enumerate(record.values)), record
        read, newest, at = read + 1, n, record.next
    lost += at < ring.tail
    os.pwrite(1, read.to_bytes(8) + lost.to_bytes(8) + newest.to_bytes(8), 0)
    if done:
        break
"""

# Writes answers and decoded payloads until it is killed; says the number of the newest record that it surely committed.
WRITER = """
import os, sys
from ext.decode import Plan
from ext.ring import Ring
ring = Ring.open(sys.argv[1], writable=True)
n = int(sys.argv[2])
plan = Plan(200)
for k in range(100):
    plan.add(k, 2 * k, "u16")
while True:
    if n % 2:
        ring.append_values(1, n, n, n, [(k, n % 65000, 0, 0) for k in range(n % 97)])
    else:
        plan.decode_into(ring, (n % 65000).to_bytes(2) * 100, 1, n, n, n)
    os.pwrite(1, n.to_bytes(8), 0)
    n += 1
"""


@contextmanager
def python(code: str, *arguments: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """A second interpreter with the same kernels; ended afterwards, whatever happened."""
    environment = os.environ | {"PYTHONPATH": KERNELS}
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=stdout, env=environment, cwd=KERNELS)
    try:
        yield child
    finally:
        child.kill()
        child.wait(PATIENCE_S)
        if child.stdout:
            child.stdout.close()


def test_no_torn_read_in_another_process(tmp_path: Path) -> None:
    """The writer laps the reader again and again; what the reader gets is whole."""
    path, said = str(tmp_path / "a.ring"), tmp_path / "said"
    ring, n = Ring.create(path, MIN, 1, 0, bytes(32)), 0

    def told() -> tuple[int, int, int]:
        """(records read, times overtaken, the newest record)"""
        raw = said.read_bytes().ljust(24, b"\0")
        return int.from_bytes(raw[:8]), int.from_bytes(raw[8:16]), int.from_bytes(raw[16:])

    with said.open("wb") as out, python(READER, path, stdout=out.fileno()) as reader:
        deadline = time.monotonic() + PATIENCE_S
        while told()[0] < 8_000 or told()[1] < 5:
            assert reader.poll() is None and time.monotonic() < deadline, told()
            for _ in range(200):
                ring.append_values(1, n, n, n, [(k, n, 0, 0) for k in range(n % 100 + 1)])
                n += 1
        ring.close()
        Ring.open(path, writable=True, boot=1).close()
        assert reader.wait(PATIENCE_S) == 0
    assert told()[2] == n - 1, "at last it reads up to the end"


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Everything that was committed and still fits is there; the next writer goes on behind it. Field pain 51."""
    path, said = str(tmp_path / "a.ring"), tmp_path / "said"
    Ring.create(path, MIN, 1, 2, bytes(32)).close()
    n, reader = 0, Ring.open(path)
    for round_ in range(5):
        said.write_bytes(b"")
        with said.open("wb") as out, python(WRITER, path, str(n), stdout=out.fileno()) as writer:
            deadline = time.monotonic() + PATIENCE_S
            while len(said.read_bytes()) < 8 or int.from_bytes(said.read_bytes()) < n + 300 + 37 * round_:
                assert writer.poll() is None and time.monotonic() < deadline
                time.sleep(0.001)
            writer.send_signal(signal.SIGKILL)
            writer.wait(PATIENCE_S)
        surely = int.from_bytes(said.read_bytes())
        records = list(reader.scan(0, EVER))
        numbers = [r.tick_ms for r in records]
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), "no hole"
        assert numbers[-1] in (surely, surely + 1)
        for r in records:
            assert len(r.values) == (r.tick_ms % 97 if r.tick_ms % 2 else 100)
            assert {v.mantissa for v in r.values} <= {r.tick_ms % 65000}
        n = numbers[-1] + 1
    assert reader.overwritten > 0
    reader.close()


def test_one_writer(tmp_path: Path) -> None:
    """A second process may not write to a ring that has its writer; after that one's end it may."""
    path = str(tmp_path / "a.ring")
    Ring.create(path, MIN, 1, 2, bytes(32)).close()
    with open(tmp_path / "said", "wb") as out, python(WRITER, path, "0", stdout=out.fileno()) as writer:
        deadline = time.monotonic() + PATIENCE_S
        while (tmp_path / "said").stat().st_size < 8:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        with pytest.raises(BlockingIOError, match=f"process {writer.pid} writes this ring"):
            Ring.open(path, writable=True)
        Ring.open(path).close()
    again = Ring.open(path, writable=True)
    position = again.append_gap(1, 128, 0, 0, 0)
    assert again.record(position) is not None
    plan = Plan(2)
    plan.add(0, 0, "u16")
    plan.decode_into(again, b"\0\1", 1, 2, 3, 4)
    again.close()
