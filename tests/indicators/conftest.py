"""A stretch of a park's life, played once for all tests here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from lived_kit import Lived, live


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """See ``lived_kit.live``."""
    return live(tmp_path_factory.mktemp("lived"))
