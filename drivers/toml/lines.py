"""Finds the line of each key in a TOML text. This is needed because tomllib gives no line numbers.

tomllib has already accepted the text, so this module does not check it again.
"""

from __future__ import annotations

import re

KeyPath = tuple[str | int, ...]

_KEY = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*""")
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRINGS = (  # a string of several lines may end in one or two quotes of its own
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (counted from 1) of each key and each table, by its path, such as ``("point", 3, "scale")``."""
    return _Walker(text).walk()


class _Walker:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.counted_to, self.newlines = 0, 0  # a position in the text, and the number of newlines before it
        self.lines: dict[KeyPath, int] = {}
        self.counts: dict[KeyPath, int] = {}  # path of an array of tables -> number of its tables so far

    def walk(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self._skip()
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found
        self.at = found.end()

    def _line(self) -> int:
        self.newlines += self.text.count("\n", self.counted_to, self.at)
        self.counted_to = self.at  # positions only increase, so no newline is counted twice
        return self.newlines + 1

    def _dotted(self) -> list[str]:
        names: list[str] = []
        while True:
            found = _KEY.match(self.text, self.at)
            if not found:
                return names
            names.append(next(g for g in found.groups() if g is not None))
            self.at = found.end()
            if self.text[self.at : self.at + 1] != ".":
                return names
            self.at += 1

    def _header(self) -> KeyPath:
        line, double = self._line(), self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        names = self._dotted()
        self.at += 2 if double else 1
        path: KeyPath = ()
        for depth, name in enumerate(names):
            path += (name,)
            if depth == len(names) - 1 and double:
                number = self.counts.get(path, 0)
                self.counts[path] = number + 1
                path += (number,)
            # this table lies below an array of tables, so it belongs to the newest item of the array
            elif path in self.counts:
                path += (self.counts[path] - 1,)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        before, line = self.at, self._line()
        path = table
        for name in self._dotted():
            path += (name,)
            self.lines.setdefault(path, line)
        self.at = self.text.find("=", self.at) + 1
        if self.at <= before:
            self.at = len(self.text)  # this cannot happen in a text that tomllib accepted; skip the rest
            return
        self._skip()
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self.text[self.at : self.at + 1]
        if first == "{":
            self._inside(path, "}")
        elif first == "[":
            self._inside(path, "]")
        elif first in {'"', "'"}:
            found = next(m for pattern in _STRINGS if (m := pattern.match(self.text, self.at)))
            self.at = found.end()
        else:
            scalar = _SCALAR.match(self.text, self.at)
            self.at = scalar.end() if scalar else self.at + 1

    def _inside(self, path: KeyPath, close: str) -> None:
        self.at += 1
        number = 0
        while True:
            self._skip()
            if self.at >= len(self.text):
                return
            if self.text[self.at] == close:
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
            elif close == "}":
                self._pair(path)
            else:
                self.lines[(*path, number)] = self._line()
                self._value((*path, number))
                number += 1
