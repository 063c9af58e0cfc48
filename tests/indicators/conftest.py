"""A stretch of a park's life, played once for all tests here."""

from __future__ import annotations

import pytest

from tests.kits.lived import Lived, live


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """See ``lived_kit.live``."""
    return live(tmp_path_factory.mktemp("lived"))
