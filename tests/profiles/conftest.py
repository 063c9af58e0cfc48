"""Where the recorded cases of other people lie; without them their tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(os.environ.get("MH_CASES") or ROOT.parent / "shared" / "reference" / "cases")


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of recorded cases."""
    if not (CASES / "modbus" / "manifest.json").is_file():
        pytest.skip(f"no recorded cases in {CASES}; MH_CASES says where they are")
    return CASES


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Puts a text into a profile's file and gives its path."""

    def to_file(text: str, name: str = "ex630") -> Path:
        path = tmp_path / "example" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return to_file
