"""Texts that people read, in English and Chinese, from the file texts.toml of a folder.

A table of the file has the texts of one screen or command; each text has a key and one string for each language. Values
are inserted by name, as `str.format` does; {n:pack|packs} is "pack" if the value ``n`` is 1. A third language is one
more string for each text, and its name in ``LANGUAGES``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any, Final

from drivers.model import clean_text

LANGUAGES: Final = ("en", "zh")


class _Inserter(Formatter):
    def format_field(self, value: Any, spec: str) -> str:
        one, is_counted, many = spec.partition("|")
        if is_counted:
            return one if str(value) == "1" else many
        return str(super().format_field(value, spec))


_INSERTER: Final = _Inserter()


class Catalogue:
    """The texts of one table of a folder's texts.toml. The file is read at the first use of a text.

    Args:
        package: the folder, as an import name.
        table: name of the table.
    """

    def __init__(self, package: str, table: str) -> None:
        self._package, self._table = package, table

    def __getitem__(self, language: str) -> Mapping[str, str]:
        """Return key -> text in a language. Raises KeyError for a language that does not exist."""
        return _by_language(self._package, self._table)[language]

    def __contains__(self, key: object) -> bool:
        return key in self["en"]

    def text(self, key: str, language: str, **values: object) -> str:
        """Return a text with its values inserted.

        A text that cannot take its values is shown as its key and the values, so that a broken text hides no fact.
        Raises KeyError for a key that does not exist.
        """
        text = self[language][key]
        try:
            return _INSERTER.vformat(text, (), values)
        except (LookupError, ValueError, AttributeError):
            return clean_text(" ".join((key, *(f"{name}={value}" for name, value in values.items()))), 1000)


@cache
def _by_language(package: str, table: str) -> dict[str, dict[str, str]]:
    entries = _tables(package)[table]
    return {language: {key: entry[language] for key, entry in entries.items()} for language in LANGUAGES}


@cache
def _tables(package: str) -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads((files(package) / "texts.toml").read_text("utf-8"))
