"""Texts in two languages, in texts.toml of a folder or in a table of Python: each is whole, with the same values."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from drivers.texts import Catalogue

ROOT = Path(__file__).resolve().parents[2]
HAN = re.compile("[\u4e00-\u9fff]")
VALUE = re.compile(r"\{(\w*)[^{}]*\}")
NAMES = re.compile(
    "((BALANCE|KIND|CONFIRM|CSV)_)?WORDS|TEXTS|KEYS|LABELS|FACTS|FLAGS|QUALITIES|LINE_TROUBLE|REASONS|BECAUSE|FINDINGS|HEADS|ROLES"
)
ENGLISH_ALONE = {"s", "what"}  # values that Chinese does without: a plural, an article with its noun
MUST = {  # what a person reads of these is in a table; errors and help are in the catalogue (test_chinese, test_help)
    "agent/cli/finding_words.py", "agent/roles.py",
}  # fmt: skip
SAME = frozenset({"", "URL", "CRC", "PUE", "COP", "Modbus", "ms"})  # written alike in both


def catalogues() -> Iterator[tuple[str, str, Any]]:
    """(file, name, table) of each table of the texts.toml files."""
    for path in sorted(ROOT.glob("**/texts.toml")):
        if ".venv" not in path.as_posix():
            for name, table in tomllib.loads(path.read_text("utf-8")).items():
                yield path.relative_to(ROOT).as_posix(), name, table


def tables() -> Iterator[tuple[str, str, Any]]:
    """(file, name, table) of each module constant that holds texts by language."""
    for path in sorted(ROOT.glob("agent/**/*.py")):
        text = path.read_text("utf-8")
        if not HAN.search(text):
            continue
        for node in ast.parse(text).body:
            target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
            if isinstance(target, ast.Name) and NAMES.fullmatch(target.id):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found = getattr(importlib.import_module(module), target.id)
                if not isinstance(found, Catalogue):
                    yield path.relative_to(ROOT).as_posix(), target.id, found


def pairs(table: Any) -> Iterator[tuple[str, str, str]]:
    """(key, English, Chinese) of a table in any of the forms that we have."""
    if isinstance(table, Mapping) and set(table) == {"en", "zh"}:
        assert table["en"].keys() == table["zh"].keys(), table["en"].keys() ^ table["zh"].keys()
        for key, english in table["en"].items():
            yield from _texts(key, english, table["zh"][key])
    elif isinstance(table, Mapping):
        for key, entry in table.items():
            if isinstance(entry, Mapping):
                yield str(key), entry["en"], entry["zh"]
            elif hasattr(entry, "found"):
                yield key, *entry.found
                yield key, *entry.advice
            else:
                yield key, *entry
    else:
        for key, english, chinese in table:
            yield key, english, chinese


def _texts(key: str, english: Any, chinese: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(english, str):
        yield key, english, chinese
        return
    assert len(english) == len(chinese), key
    yield from ((key, *both) for both in zip(english, chinese, strict=True))


FOUND = [*catalogues(), *tables()]


def test_each_screen_has_its_table() -> None:
    assert not MUST - {file for file, _, _ in FOUND}


@pytest.mark.parametrize(("file", "name", "table"), FOUND, ids=[f"{file}:{name}" for file, name, _ in FOUND])
def test_no_text_is_missing_in_a_language(file: str, name: str, table: Any) -> None:
    wrong = []
    for key, english, chinese in pairs(table):
        if key == "language":  # each in its own
            continue
        here, there = set(VALUE.findall(english)), set(VALUE.findall(chinese))
        same_values = there <= here and here - there <= ENGLISH_ALONE
        plain = VALUE.sub("", re.sub("`[^`]*`", "", english)).strip(" .,:;()")
        spoken = (
            HAN.search(chinese)
            or not VALUE.sub("", chinese).strip()
            or (english == chinese and plain in SAME)
            or not re.search("[A-Za-z]", plain)
        )
        if bool(english) != bool(chinese) or HAN.search(english) or not same_values or not spoken:
            wrong.append((key, english, chinese))
    assert not wrong, wrong
