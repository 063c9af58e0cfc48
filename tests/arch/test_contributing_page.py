"""The page for newcomers names files and definitions that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drivers.model import Reason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
LAYERS = (ROOT / "docs" / "architecture.md").read_text().partition("\n## Layers\n")[2]
QUESTIONS = re.findall(r"^\| (.+\?) \|", PAGE, re.MULTILINE)
FOLDERS = "agent|drivers|ext|receiver|tests|docs|firmware_profiles|bench|systemd"
PLACES = sorted(set(re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", PAGE)))
NAMES = sorted(set(re.findall(r"`([\w/]+\.pyx?)`: `(?:\w+\.)?(\w+)`", PAGE)))


@pytest.mark.parametrize("place", PLACES)
def test_it_names_places_that_exist(place: str) -> None:
    assert (ROOT / place).exists(), place


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_it_names_definitions_that_exist(file: str, name: str) -> None:
    assert re.search(rf"^ *(?:class|def|async def|cdef class|cpdef) {name}\b", (ROOT / file).read_text(), re.MULTILINE)


def test_the_path_of_a_reading_has_as_many_files_as_it_says() -> None:
    """Not counted: those in parentheses, and the list of files below them."""
    section = PAGE.partition("## Follow one reading")[2].partition("\n## ")[0]
    steps = "".join(re.findall(r"^(?:\d\. |   ).*\n", section, re.MULTILINE))
    files = set(re.findall(r"`([\w/]+\.(?:pyx?|pxd))`", re.sub(r"\([^)]*\)", "", steps)))
    stated = re.search(r"(\d+) files to read", section)
    assert stated and int(stated[1]) == len(files), sorted(files)


def test_every_reason_of_a_gap_has_a_row() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", PAGE.partition("| reason |")[2], re.MULTILINE)
    named = [word for row in rows for word in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(reason.name.lower() for reason in Reason) == sorted(named)


def test_it_answers_the_questions_of_a_newcomer() -> None:
    """Twelve questions or more, each with a file; every folder of the map is there."""
    rows = re.findall(r"^\| .+\? \| .*`\w+/.+` ?.*\|$", PAGE, re.MULTILINE)
    assert len(rows) >= 12 and len(NAMES) >= 20


@pytest.mark.parametrize(
    "words",
    [
        "MQTT topic", "Modbus RTU", "as root", "NTP", "summer time", "word order", "delivered twice", "migrated",
        "WAL", "password", "size limit",
    ],
)  # fmt: skip
def test_a_question_names_what_a_newcomer_looks_for(words: str) -> None:
    """New engineers looked for these by name, and did not find them within three steps."""
    assert any(words in question for question in QUESTIONS)


def test_the_folder_map_has_every_folder_of_code() -> None:
    rows = re.findall(r"^\| `(\w+)/", PAGE, re.MULTILINE)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= set(rows)


def test_every_module_has_a_layer() -> None:
    parts = [path for top in ("agent", "drivers") for path in (ROOT / top).iterdir() if not path.name.startswith("__")]
    modules = {f"{path.parent.name}/{path.name}" for path in parts if path.suffix == ".py"}
    packages = {f"{path.parent.name}/{path.name}/" for path in parts if (path / "__init__.py").exists()}
    named = set(re.findall(r"`([\w/.]+)`", LAYERS))
    assert modules | packages | {"receiver/"} <= named, sorted((modules | packages | {"receiver/"}) - named)
