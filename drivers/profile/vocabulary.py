"""The vocabulary of point names. For each name it has the meaning, the allowed units, and how values behave over
time.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import firmware_profiles
from drivers.model import Kind
from drivers.units import unit_factor

# variable of a pattern -> words that can replace it; None: any number from 1 on
VARIABLES: Mapping[str, tuple[str, ...] | None] = {
    "{l}": ("l1", "l2", "l3"),
    "{ll}": ("l12", "l23", "l31"),
    **dict.fromkeys(("{n}", "{r}", "{p}", "{m}", "{c}", "{s}"), None),
}


@dataclass(frozen=True, slots=True)
class VocabularyEntry:
    """The entry for one pattern of names. ``Vocabulary.find`` puts the numbers of a name into ``en`` and ``zh``."""

    pattern: str
    dimension: str
    kind: Kind
    units: tuple[str, ...]  # allowed units; empty: the quantity has no unit
    en: str
    zh: str
    low: Decimal | None = None  # lowest plausible value, in the first unit of ``units``; ``high`` is the highest
    high: Decimal | None = None
    flips: bool = False
    swap: str = ""


@dataclass(slots=True)
class _Node:
    words: dict[str, _Node] = field(default_factory=dict)
    variables: dict[str, _Node] = field(default_factory=dict)
    entry: VocabularyEntry | None = None
    prefix: tuple[str, str] | None = None


class Vocabulary:
    """All names, units and states that profiles may use."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.senml: frozenset[str] = frozenset(document["units"]["senml"])
        self.units: frozenset[str] = self.senml | frozenset(document["units"]["other"])
        self.dimensions: Mapping[str, tuple[str, ...]] = {k: tuple(v) for k, v in document["dimensions"].items()}
        self.states: Mapping[str, tuple[str, str]] = {k: (v[0], v[1]) for k, v in document["states"].items()}
        self._bounds: Mapping[str, tuple[Decimal, Decimal]] = {
            unit: (Decimal(low), Decimal(high)) for unit, (low, high) in document["bounds"].items()
        }
        self.patterns: tuple[str, ...] = ()
        self._root = _Node()
        for name, meaning in document["prefix"].items():
            self._node(name).prefix = (meaning[0], meaning[1])
        patterns: list[str] = []
        scopes: Mapping[str, list[str]] = document["scope"]
        for group in document["group"]:
            for rest, given in group["points"].items():
                for scope in group["at"]:
                    pattern = f"{scope}.{rest}"
                    self._node(pattern).entry = self._entry(pattern, given, scopes.get(scope, ["", ""]))
                    patterns.append(pattern)
        self.patterns = tuple(patterns)

    def _entry(self, pattern: str, given: Any, scope: list[str]) -> VocabularyEntry:
        if isinstance(given, list):
            given = dict(zip(("dim", "kind", "en", "zh"), given, strict=True))
        low, high = given.get("range", (None, None))
        return VocabularyEntry(
            pattern=pattern,
            dimension=given["dim"],
            kind=Kind(given["kind"]),
            units=self.dimensions[given["dim"]],
            en=scope[0] + given["en"],
            zh=scope[1] + given["zh"],
            low=None if low is None else Decimal(low),
            high=None if high is None else Decimal(high),
            flips=given.get("flips", False),
            swap=given.get("swap", ""),
        )

    def bounds(self, unit: str) -> tuple[Decimal, Decimal] | None:
        """The (lowest, highest) value of a healthy device in this unit. None if the vocabulary has no bounds for the
        unit.
        """
        for known, (low, high) in self._bounds.items() if unit else ():
            factor = unit_factor(unit, known)
            if factor is not None:
                return low / factor, high / factor
        return None

    def entries(self) -> Iterator[VocabularyEntry]:
        """All entries, in the order of the file."""
        for pattern in self.patterns:
            entry = self._node(pattern).entry
            assert entry
            yield entry

    def _node(self, pattern: str) -> _Node:
        node = self._root
        for word in pattern.split("."):
            branch = node.variables if word in VARIABLES else node.words
            node = branch.setdefault(word, _Node())
        return node

    def find(self, name: str) -> VocabularyEntry | None:
        """The entry for the name of a point. Its meaning contains the numbers that the name has, such as the phase.

        None if the name is unknown.
        """
        return self._find(tuple(name.split(".")), depth=0)

    def _find(self, words: tuple[str, ...], depth: int) -> VocabularyEntry | None:
        for node, values in _reach(self._root, words):
            if node.entry:
                return _filled(node.entry, values)
        if depth:  # a name has at most one prefix
            return None
        for cut in range(1, len(words)):
            for node, values in _reach(self._root, words[:cut]):
                if node.prefix and (rest := self._find(words[cut:], depth + 1)):
                    en, zh = (_fill(text, values) for text in node.prefix)
                    return replace(rest, en=en + rest.en, zh=zh + rest.zh)
        return None

    def nearest(self, name: str) -> str:
        """The known name that is closest to ``name``, with the numbers of ``name`` in it. "" if no known name is
        close.
        """
        shape = ".".join(_shape(word) for word in name.split("."))
        found = self._longer(shape) or difflib.get_close_matches(shape, _shapes(self), n=8, cutoff=0.6)
        if not found:
            return ""
        front = shape.partition(".")[0]
        # prefer names with the same first word, because the first word is rarely mistyped
        found.sort(key=lambda one: one.partition(".")[0] != front)
        seen: dict[str, list[str]] = {}
        for word in name.split("."):
            if (key := _shape(word)) != word:
                seen.setdefault(key, []).append(word)
        return ".".join(seen[w].pop(0) if seen.get(w) else _example(w) for w in found[0].split("."))

    def _longer(self, shape: str) -> list[str]:
        """The first known name that begins with ``shape``. If there is none, the first name that ends with it: for
        power.active, this is ac.power.active.
        """
        shapes = _shapes(self)
        found = [one for one in shapes if one.startswith(f"{shape}.")]
        return (found or [one for one in shapes if one.endswith(f".{shape}")])[:1]


def _reach(node: _Node, words: tuple[str, ...]) -> Iterator[tuple[_Node, dict[str, str]]]:
    """Follow ``words`` down the tree of name patterns. Yields each node that is reached, with the values of the
    variables. Fixed words are tried before variables.
    """
    if not words:
        yield node, {}
        return
    word, rest = words[0], words[1:]
    if word in node.words:
        yield from _reach(node.words[word], rest)
    for variable, below in node.variables.items():
        if _fits(variable, word):
            for end, values in _reach(below, rest):
                yield end, {variable: word, **values}


def _fits(variable: str, word: str) -> bool:
    allowed = VARIABLES[variable]
    if allowed is None:
        return word.isascii() and word.isdigit() and not word.startswith("0")
    return word in allowed


def _filled(entry: VocabularyEntry, values: Mapping[str, str]) -> VocabularyEntry:
    return replace(entry, en=_fill(entry.en, values), zh=_fill(entry.zh, values)) if values else entry


def _fill(text: str, values: Mapping[str, str]) -> str:
    for variable, word in values.items():
        text = text.replace(variable, word.upper() if word.startswith("l") else word)
    return text


def _shape(word: str) -> str:
    if word in VARIABLES:
        allowed = VARIABLES[word]
        return "#" if allowed is None else word
    if word.isdigit():
        return "#"
    for variable, allowed in VARIABLES.items():
        if allowed and word in allowed:
            return variable
    return word


def _example(word: str) -> str:
    allowed = VARIABLES.get(word)
    return allowed[0] if allowed else "1" if word == "#" else word


@lru_cache(maxsize=4)
def _shapes(vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(dict.fromkeys(".".join(_shape(w) for w in p.split(".")) for p in vocabulary.patterns))


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The shipped vocabulary, read once."""
    text = (Path(firmware_profiles.__file__).parent / "vocabulary.toml").read_text("utf-8")
    return Vocabulary(tomllib.loads(text, parse_float=Decimal))
