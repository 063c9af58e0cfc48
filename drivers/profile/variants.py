"""The conditions on firmware and identity by which a variant is selected."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from itertools import zip_longest

_CONDITION = re.compile(r"\s*(>=|<=|==|!=|<|>)?\s*(\S.*?)\s*")
_CHUNK = re.compile(r"\d+|[A-Za-z]+")


def condition_error(condition: str) -> str:
    """The error in a firmware condition. "" if the condition is valid."""
    found = _CONDITION.fullmatch(condition)
    if not found:
        return "empty"
    operator, value = found.groups()
    if operator and any(c in value for c in "*?["):
        return f"the operator {operator} cannot be combined with a pattern"
    if operator and not _CHUNK.search(value):
        return "the condition has no version number"
    return ""


def holds(condition: str, firmware: str) -> bool:
    """Whether a firmware text meets a condition: ``>=3.1``, ``<V200R002``, ``==1.4``, ``!=1.4``, or a pattern such as
    ``V100*``.

    Versions are compared by their numbers and letters, from left to right:

    - V100R001C00SPC153 comes before V100R001C00SPC200.
    - Missing numbers count as 0: 3 equals 3.0.
    - If the version in the condition begins with a digit, letters before the first digit of the firmware are ignored:
      "FW 1.23" meets >=1.2.
    """
    found = _CONDITION.fullmatch(condition)
    if not found:
        return False
    operator, value = found.groups()
    firmware = firmware.strip()
    if not operator:
        return fnmatch.fnmatchcase(firmware, value) or firmware == value
    if value[0].isdigit():
        firmware = re.sub(r"^\D+", "", firmware)
    order = _compare(firmware, value)
    return {
        ">=": order >= 0,
        "<=": order <= 0,
        "==": order == 0,
        "!=": order != 0,
        "<": order < 0,
        ">": order > 0,
    }[operator]


def _compare(left: str, right: str) -> int:
    nothing = (1, 0, "")  # a missing number is compared as 0
    for a, b in zip_longest(_chunks(left), _chunks(right), fillvalue=nothing):
        if a != b:
            return 1 if a > b else -1
    return 0


def _chunks(version: str) -> list[tuple[int, int, str]]:
    """Split a version into numbers and letters that can be compared. Letters sort before numbers: 1.0rc1 comes before
    1.0.1.
    """
    return [(1, int(c), "") if c.isdigit() else (0, 0, c.lower()) for c in _CHUNK.findall(version)]


def identity_holds(wanted: Mapping[str, str], identity: Mapping[str, str]) -> bool:
    """Whether each wanted identity text is known and matches its pattern. Upper and lower case are not
    distinguished.
    """
    return all(name in identity and _alike(identity[name], pattern) for name, pattern in wanted.items())


def _alike(text: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(text.strip().upper(), one.strip().upper()) for one in pattern.split("|"))
