"""Meters end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ext.ring import Ring
from tests.kits.lines import loop_factories
from tests.kits.meters import Cabinet, RealCabinet


@pytest.fixture
async def cabinet(tmp_path: Path) -> AsyncIterator[Cabinet]:
    """Lines and devices of a test, and the ring that they write to."""
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 9, bytes(32))
    made = Cabinet(tmp_path, ring, position=ring.head)
    yield made
    await made.close()
    ring.close()


@pytest.fixture
async def real_cabinet(tmp_path: Path) -> AsyncIterator[RealCabinet]:
    """The same on pseudo-terminals."""
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 9, bytes(32))
    made = RealCabinet(tmp_path, ring, position=ring.head)
    yield made
    await made.close()
    ring.close()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories(item, "cabinet")
