"""Meters end to end over pseudo-terminals and TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ext.ring import Ring
from tests.kits.meters import Cabinet


@pytest.fixture
async def cabinet(tmp_path: Path) -> AsyncIterator[Cabinet]:
    """Lines and devices of a test, and the ring that they write to."""
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 9, bytes(32))
    made = Cabinet(tmp_path, ring, position=ring.head)
    yield made
    await made.close()
    ring.close()
