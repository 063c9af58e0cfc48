"""Complaints about a profile: collected with file, line and key, raised together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from drivers.model import ProfileError
from drivers.profile.places import Path, key_lines

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h|d)")
_SECONDS: Mapping[str, Decimal] = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}


class Complaints:
    """Everything wrong with one file so far."""

    def __init__(self, file: str, text: str) -> None:
        self._file, self._text = file, text
        self._lines: dict[Path, int] | None = None
        self._errors: dict[tuple[str, str], tuple[int, ProfileError]] = {}

    def add(self, path: Path, what: str, hint: str = "") -> None:
        """Note that ``what`` is wrong at ``path``; the same complaint twice (a repeat) counts once."""
        line = self._line(path)
        where = f"{self._file}:{line}" if line else self._file
        self._errors.setdefault((where, what), (line, ProfileError(what, where=where, hint=hint)))

    def _line(self, path: Path) -> int:
        if self._lines is None:
            self._lines = key_lines(self._text) if self._text else {}
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)

    def __bool__(self) -> bool:
        return bool(self._errors)

    def check(self) -> None:
        """Raise one ProfileError that carries all complaints in file order, if there are any."""
        if not self._errors:
            return
        errors = tuple(error for _, error in sorted(self._errors.values(), key=lambda item: item[0]))
        first = errors[0]
        if len(errors) == 1:
            raise first
        rest = "".join(f"\n{error}" for error in errors[1:])
        if first.hint:
            raise ProfileError(first.what, where=first.where, hint=first.hint + rest, complaints=errors)
        raise ProfileError(first.what + rest, where=first.where, complaints=errors)


class Table:
    """One table of a profile, read key by key: wrong types and unknown keys become complaints."""

    def __init__(self, document: Mapping[str, Any], path: Path, complaints: Complaints, called: str = "") -> None:
        self.document, self.path, self.complaints = document, path, complaints
        self.called = f"{called}: " if called else ""

    def add(self, key: str, what: str, hint: str = "") -> None:
        self.complaints.add((*self.path, key), f"{self.called}{what}", hint)

    def unknown(self, known: Iterable[str]) -> None:
        """Complain about every key that is not in ``known``, naming the nearest that is."""
        names = tuple(known)
        for key in self.document:
            if key not in names:
                self.add(key, f"unknown key {key!r}", did_you_mean(key, names))

    def get(self, key: str, kinds: tuple[type, ...], wanted: str, default: Any = None) -> Any:
        """The value under ``key`` if it is of ``kinds`` (bool is no int), else ``default`` and a complaint."""
        if key not in self.document:
            return default
        value = self.document[key]
        if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
            return value
        self.add(key, f"{key} is {shown(value)}, want {wanted}")
        return default

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        value: str = self.get(key, (str,), "a text", default)
        if required and not value.strip():
            if key not in self.document:
                self.complaints.add(self.path, f"{self.called}the key {key!r} is missing")
            elif isinstance(self.document[key], str):
                self.add(key, f"{key} is empty")
        return value

    def choice(self, key: str, allowed: Iterable[str], default: str = "", *, required: bool = False) -> str:
        value = self.text(key, default, required=required)
        names = tuple(allowed)
        if value and value not in names:
            hint = did_you_mean(value, names) or f"Allowed: {', '.join(n or '(nothing)' for n in names)}"
            self.add(key, f"{key} is {value!r}, which is not known", hint)
            return default
        return value

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int | None:
        value: int | None = self.get(key, (int,), f"an integer from {low} to {high}", default)
        if value is not None and key in self.document and not low <= value <= high:
            self.add(key, f"{key} is {value}, want {low} to {high}")
            return default
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value: bool = self.get(key, (bool,), "true or false", default)
        return value

    def number(self, key: str, default: Decimal | None = None) -> Decimal | None:
        value = self.get(key, (int, Decimal), "a number", default)
        if value is None:
            return None
        value = Decimal(value)
        if not value.is_finite():
            self.add(key, f"{key} is {value}, want a number")
            return default
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self.get(key, (dict,), "a table", {})
        return value

    def tables(self, key: str) -> list[Mapping[str, Any]]:
        """An array of tables; complaints name items that are something else."""
        value = self.get(key, (list,), "an array of tables", [])
        good: list[Mapping[str, Any]] = [item for item in value if isinstance(item, dict)]
        if len(good) != len(value):
            self.add(key, f"{key} must hold tables only")
        return good

    def texts(self, key: str) -> tuple[str, ...]:
        """One text or an array of texts."""
        value = self.get(key, (str, list), "a text or an array of texts", [])
        items = [value] if isinstance(value, str) else value
        if not all(isinstance(item, str) and item for item in items):
            self.add(key, f"{key} must hold texts only")
            return ()
        return tuple(items)

    def seconds(self, key: str) -> float | None:
        """A duration such as "20 ms" in seconds."""
        if key not in self.document:
            return None
        value = self.document[key]
        found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if not found:
            self.add(key, f"{key} is {shown(value)}, want a duration", 'Write it as "20 ms", "1.5 s", "5 min"')
            return None
        return float(Decimal(found[1]) * _SECONDS[found[2]])

    def keyed(self, key: str) -> dict[int, Any]:
        """A table whose keys are numbers (TOML writes them as texts), decimal or 0x."""
        result: dict[int, Any] = {}
        for name, value in self.table(key).items():
            try:
                result[int(name, 0)] = value
            except ValueError:
                self.add(key, f"{key} has the key {name!r}, want a number")
        return result


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "Did you mean 'scale'?" or nothing."""
    near = difflib.get_close_matches(word, tuple(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """A value as a person would write it, cut to a length."""
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
