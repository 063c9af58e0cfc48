"""Cells of CSV files that people open in a spreadsheet: no text in them is taken for a formula.

A module of its own because every command that writes CSV for people uses it, and so it has one place to be right in.
"""

from __future__ import annotations

import re
from typing import Final

from agent.cli.common import clean

# the full-width forms are what an East Asian keyboard types, and spreadsheets there take them for the plain ones
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def safe_cell(value: object) -> object:
    """``value`` as it is, but text that could be a formula with an apostrophe in front; a number stays a number.

    Text has nothing in it that a terminal would obey, or that makes a row of its own.
    """
    if not isinstance(value, str):
        return value
    formula = value.startswith(FORMULA) and not _NUMBER.fullmatch(value)
    return clean(f"'{value}" if formula else value)
