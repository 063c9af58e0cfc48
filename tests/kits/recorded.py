"""What others recorded or documented: frames and images with their meanings, and registers (tests/data/README.md)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"


def cases(topic: str, *kinds: str) -> list[dict[str, Any]]:
    """The cases of a topic: ``{"id", "kind", "input", "expected", "source"}``; all kinds, or those that are named."""
    lines = (DATA / "cases" / f"{topic}.jsonl").read_text("utf-8").splitlines()
    found = [case for case in map(json.loads, lines) if not kinds or case["kind"] in kinds]
    assert found, f"{topic} has no case of {kinds}"
    return found


def recorded(topic: str, *kinds: str) -> list[Any]:
    """The same as parameters of a test."""
    return [pytest.param(case, id=case["id"]) for case in cases(topic, *kinds)]


def registers(*tables: str) -> list[dict[str, str]]:
    """The rows of tables of registers, as dictionaries by column."""
    found: list[dict[str, str]] = []
    for table in tables:
        with (DATA / "registers" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            found += csv.DictReader(file)
    return found
