"""Meters end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from ext.ring import Ring
from tests.kits.lines import loop_factories
from tests.kits.meters import Cabinet, RealCabinet

C = TypeVar("C", bound=Cabinet)


@asynccontextmanager
async def opened(kind: type[C], folder: Path) -> AsyncIterator[C]:
    ring = Ring.create(str(folder / "ring"), 1 << 20, 7, 9, bytes(32))
    made = kind(folder, ring, position=ring.head)
    yield made
    await made.close()
    ring.close()


@pytest.fixture
async def cabinet(tmp_path: Path) -> AsyncIterator[Cabinet]:
    """Lines and devices of a test, and the ring that they write to."""
    async with opened(Cabinet, tmp_path) as made:
        yield made


@pytest.fixture
async def real_cabinet(tmp_path: Path) -> AsyncIterator[RealCabinet]:
    """The same on pseudo-terminals."""
    async with opened(RealCabinet, tmp_path) as made:
        yield made


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories(item, "cabinet")
