"""Lines against the simulator. Every port, pty and thread is closed at the end of each test."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ext.ring import Ring
from tests.kits.lines import Field, Ports, loop_factories, open_files


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    """No socket, pty or line thread outlives a test."""
    before = open_files()
    yield
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        left = open_files() - before
        threads = [t.name for t in threading.enumerate() if t.name.startswith("sim ")]
        if not left and not threads:
            return
        gc.collect()
        threading.Event().wait(0.01)
    assert not left, f"left open: {left}"
    assert not threads, f"threads left: {threads}"


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    """A small ring of our own."""
    made = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 9, bytes(32))
    yield made
    made.close()


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    """Where lines and devices of a test come from: wires, and made-up time."""
    made = Field()
    yield made
    await made.close()


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[Ports]:
    """The same on real ports and pseudo-terminals, in real time."""
    made = Ports(tmp_path)
    yield made
    await made.close()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories(item, "field")


@pytest.fixture
def values(ring: Ring) -> Callable[[], dict[int, object]]:
    """What the ring says since the last call: point -> value, "gap REASON", or text."""
    position = ring.head

    def since() -> dict[int, object]:
        nonlocal position
        found: dict[int, object] = {}
        for record in ring.scan(position, ring.head):
            for value in record.values:
                shown = value.mantissa * 10**value.exponent if value.quality < 128 else f"gap {value.quality}"
                found[value.point] = shown if value.quality in (0, *range(128, 256)) else (shown, value.quality)
            if record.kind == 2:
                found.update({n: f"gap {record.aux}" for n in record.points or ()})
            if record.kind == 3 and record.points:
                found[record.points[0]] = record.text.decode()
        position = ring.head
        return found

    return since
