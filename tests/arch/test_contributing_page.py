"""The page for newcomers names files and definitions that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
PLACES = sorted(set(re.findall(r"`((?:agent|drivers|ext|tests|docs|firmware_profiles|bench)/[\w./-]*)`", PAGE)))
NAMES = sorted(set(re.findall(r"`([\w/]+\.pyx?)`: `(\w+)`", PAGE)))


@pytest.mark.parametrize("place", PLACES)
def test_it_names_places_that_exist(place: str) -> None:
    assert (ROOT / place).exists(), place


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_it_names_definitions_that_exist(file: str, name: str) -> None:
    assert re.search(rf"^(?:class|def|async def|cdef class|cpdef) {name}\b", (ROOT / file).read_text(), re.MULTILINE)


def test_it_answers_the_questions_of_a_newcomer() -> None:
    """Twelve questions or more, each with a file; every folder of the map is there."""
    rows = re.findall(r"^\| .+\? \| .*`\w+/.+` ?.*\|$", PAGE, re.MULTILINE)
    assert len(rows) >= 12 and len(NAMES) >= 20
