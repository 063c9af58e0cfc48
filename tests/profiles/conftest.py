"""What the tests of profiles share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Puts a text into a profile's file and gives its path."""

    def to_file(text: str, name: str = "ex630") -> Path:
        path = tmp_path / "example" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return to_file
