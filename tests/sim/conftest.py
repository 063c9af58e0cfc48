"""Every test of the simulator closes its ports, pseudo-terminals and threads."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kits.lines import loop_factories


def _files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return found


def _ours(files: set[str]) -> set[str]:
    return {f for f in files if f.startswith("socket:") or "ptmx" in f or f.startswith("/dev/pts")}


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    """No socket, pty or line thread outlives a test."""
    before, running = _ours(_files()), set(threading.enumerate())
    yield
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        left = _ours(_files()) - before
        threads = [t.name for t in threading.enumerate() if t.name.startswith("sim ") and t not in running]
        if not left and not threads:
            return
        gc.collect()
        threading.Event().wait(0.01)
    assert not left, f"files left open: {left}"
    assert not threads, f"threads left: {threads}"


@pytest.fixture
def made_up() -> None:
    """A test with this fixture runs on made-up time."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories(item, "made_up", "raw")
