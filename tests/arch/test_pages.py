"""Pages of docs/ as a reader's Markdown viewer shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
SEPARATOR = re.compile(r"\|(?: *:?-+:? *\|)+")


def blocks(text: str) -> list[list[str]]:
    """Runs of lines that begin with a bar, outside of code."""
    found: list[list[str]] = []
    inside_code = before = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside_code = not inside_code
        is_row = line.startswith("|") and not inside_code
        if is_row and not before:
            found.append([])
        if is_row:
            found[-1].append(line)
        before = is_row
    return found


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_renders(page: Path) -> None:
    """An empty line inside a table cuts it: what follows has no head and shows as bars."""
    for rows in blocks(page.read_text(encoding="utf-8")):
        assert len(rows) > 1 and SEPARATOR.fullmatch(rows[1].strip()), f"no table: {rows[0][:80]}"
        assert {cells(row) for row in rows} == {cells(rows[0])}, [r[:80] for r in rows if cells(r) != cells(rows[0])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_page_of_ours_leads_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        where = (page.parent / file).resolve() if file else page
        assert where.exists(), f"{target} is not there"
        if anchor and where.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", where.read_text(encoding="utf-8"), re.MULTILINE)
            names = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in names, f"{target}: no such heading"
