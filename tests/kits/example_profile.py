"""A small profile for tests to break, and the complaints about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.model import ProfileError
from drivers.profile import load_profile

HEAD = """\
schema = 1
vendor = "Example Instruments"
models = ["EX-630*"]
kind = "meter"
protocol = "modbus"
source = "EX-630 register map rev 1.8 (2021-03), table 4"
evidence = "derived"
"""
POINT = """
[[point]]
name = "ac.voltage.l1"
function = 3
address = 0x10
type = "u16"
scale = 0.1
unit = "V"
"""

Write = Callable[[str], Path]


def complaints(write: Write, text: str) -> list[str]:
    """All complaints about a profile that must not load."""
    with pytest.raises(ProfileError) as caught:
        load_profile(write(text))
    assert caught.value.exit_code == 3
    return [str(c) for c in caught.value.complaints]
