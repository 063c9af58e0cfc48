"""docs/field-pains.md: every row names tests that are there, and every number is cited by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "field-pains.md"
ROWS = {int(m[1]): m[0] for m in re.finditer(r"^\| (\d+) \|.*$", PAGE.read_text("utf-8"), re.MULTILINE)}
OURS = range(10, 44)
RUNNING = range(65, 74)  # in docs/deploy.md


def cited() -> set[int]:
    """Numbers that tests name as `field pain N`, `field pains N, M and O` or `field pains N to M`."""
    found: set[int] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for match in re.finditer(r"field pains?((?:[ ,]|and|to|\d|\(|field pain)+)", path.read_text("utf-8")):
            for first, last in re.findall(r"(\d+)(?: to (\d+))?", match[1]):
                found.update(range(int(first), int(last or first) + 1))
    return found


def test_every_pain_has_its_row_and_is_cited() -> None:
    assert list(ROWS) == list(OURS)
    assert not set(OURS) - cited()


@pytest.mark.parametrize("number", OURS)
def test_a_row_names_tests_that_are_there(number: int) -> None:
    names = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", ROWS[number])
    assert names
    for file, name in names:
        text = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE) if name else text, f"{file} has no {name}"


@pytest.mark.parametrize("number", RUNNING)
def test_a_row_about_running_for_years_names_tests_that_are_there(number: int) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| {number} \|.*$", page, re.MULTILINE)
    files = re.findall(r"tests/[\w/]+\.py", row)
    assert files and all((ROOT / file).is_file() for file in files)
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")]
    for name in re.findall(r"`(test_\w+)`", row):
        assert any(f"def {name}(" in source for source in sources), name
    assert number in cited()
