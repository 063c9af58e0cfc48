"""Formulas of indicators. A formula is parsed once into a tree and checked for units, then computed exactly.

``eval`` is never used.

Grammar: ``+ - * / ( )``, decimal numbers, a number with its unit in brackets (``200000 [tce]``), names of quantities
(``grid.import``, ``generation.*.energy``, ``factor.heat.co2``), and ``min max positive``.

A formula has at most 4,096 characters, 32 levels of brackets and 200 operations. With its terms, it has at most
1,000 quantities and a tree of 400 levels. So a hostile file cannot waste time or memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from agent.indicators.units import NUMBER, Dimension, multiply, parse_unit, show_dimension

MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 32
# limit for a formula with its terms: an exact result may have as many digits as all its inputs together
MAX_QUANTITIES: Final = 1000
# limit for the tree of a formula with its terms: each level takes two of the 1,000 levels of Python's stack
MAX_LEVELS: Final = 400
MAX_SIGNS: Final = 200  # limit of operations, because a long chain of sums makes a deep tree
FUNCTIONS: Final = ("min", "max", "positive")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)(?:\s*\[(?P<unit>[^\]]{0,40})\])?"
    r"|(?P<name>[a-z][a-z0-9_]*(?:\.(?:[a-z0-9][a-z0-9_]*|\*))*)|(?P<sign>[-+*/(),]))"
)


class FormulaError(ValueError):
    """A formula cannot be parsed, or its units do not match.

    The text of the error names the position in the formula.
    """


@dataclass(frozen=True, slots=True)
class Number:
    """A constant in base units. The number 0 without a unit fits every dimension."""

    value: Fraction
    dimension: Dimension | None


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a quantity, a term or a factor."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """``+ - * /`` of two parts, or a function of one or more parts."""

    sign: str
    parts: tuple[Node, ...]


Node = Number | Name | Operation


def parse(text: str) -> Node:
    """Parse a formula. Returns its tree. Raises FormulaError."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"is {len(text)} characters long, at most {MAX_LENGTH} are read")
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth, self._signs = text, 0, 0, 0
        self._token: re.Match[str] | None = None
        self._next()

    def whole(self) -> Node:
        tree = self._sum()
        if self._token is not None:
            raise self._wrong("expected + - * / or the end")
        return tree

    def _next(self) -> None:
        rest = self._text[self._at :]
        if not rest.strip():
            self._token = None
            return
        self._token = _TOKEN.match(self._text, self._at)
        if self._token is None:
            raise self._wrong("expected a number, a name or a sign")
        self._at = self._token.end()

    def _step(self) -> None:
        self._signs += 1
        if self._signs > MAX_SIGNS:
            raise self._wrong(f"more than {MAX_SIGNS} operations; split it into terms")
        self._next()

    def _wrong(self, what: str) -> FormulaError:
        start = self._token.start(self._token.lastgroup or 0) if self._token else self._at
        seen = self._text[start : start + 20].strip() or "the end"
        return FormulaError(f"at character {start + 1} ({seen!r}): {what}")

    def _sign(self, *wanted: str) -> str:
        sign = self._token["sign"] if self._token is not None else None
        return sign if sign in wanted else ""

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"nested deeper than {MAX_DEPTH} levels")
        left = self._term()
        while sign := self._sign("+", "-"):
            self._step()
            left = Operation(sign, (left, self._term()))
        self._depth -= 1
        return left

    def _term(self) -> Node:
        left = self._atom()
        while sign := self._sign("*", "/"):
            self._step()
            left = Operation(sign, (left, self._atom()))
        return left

    def _atom(self) -> Node:
        token = self._token
        if token is None:
            raise self._wrong("expected a number, a name or (")
        if token["number"] is not None:
            return self._number(token)
        if token["name"] is not None:
            self._next()
            return self._call(token["name"]) if self._sign("(") else Name(token["name"])
        if self._sign("-"):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise self._wrong(f"nested deeper than {MAX_DEPTH} levels")
            self._next()
            below = Operation("-", (Number(Fraction(0), None), self._atom()))
            self._depth -= 1
            return below
        if not self._sign("("):
            raise self._wrong("expected a number, a name or (")
        self._next()
        inner = self._sum()
        self._close()
        return inner

    def _number(self, token: re.Match[str]) -> Number:
        value = Fraction(token["number"])
        if token["unit"] is None:
            self._next()
            return Number(value, None if value == 0 else NUMBER)
        try:
            unit = parse_unit(token["unit"])
        except ValueError as error:
            raise self._wrong(str(error)) from None
        self._next()
        return Number(value * unit.factor, unit.dimension)

    def _call(self, function: str) -> Node:
        if function not in FUNCTIONS:
            raise self._wrong(f"unknown function {function!r}; known are {', '.join(FUNCTIONS)}")
        self._next()
        parts = [self._sum()]
        while self._sign(","):
            self._next()
            parts.append(self._sum())
        self._close()
        if function == "positive":
            if len(parts) != 1:
                raise self._wrong("positive takes one value")
            return Operation("max", (parts[0], Number(Fraction(0), None)))
        return Operation(function, tuple(parts))

    def _close(self) -> None:
        if not self._sign(")"):
            raise self._wrong("expected )")
        self._next()


def names(tree: Node) -> Iterator[str]:
    """Yield every name in the order of the text, with repetitions."""
    if isinstance(tree, Name):
        yield tree.name
    elif isinstance(tree, Operation):
        for part in tree.parts:
            yield from names(part)


def dimension(tree: Node, of_name: Callable[[str], Dimension]) -> Dimension | None:
    """Return the dimension of the result; None if the formula is a 0 without unit.

    Raises FormulaError if units do not match.
    """
    if isinstance(tree, Number):
        return tree.dimension
    if isinstance(tree, Name):
        return of_name(tree.name)
    found = [dimension(part, of_name) for part in tree.parts]
    if tree.sign in "*/":
        left, right = (part or NUMBER for part in found)
        return multiply(left, right, 1 if tree.sign == "*" else -1)
    known = [part for part in found if part is not None]
    if any(part != known[0] for part in known[1:]):
        shown = " and ".join(show_dimension(part) for part in known)
        raise FormulaError(f"the operator {tree.sign} cannot combine {shown}")
    return known[0] if known else None


def count(tree: Node, of_name: Callable[[str], int]) -> int:
    """Return the number of quantities and constants in a formula.

    ``of_name`` returns how many of them a name stands for: a term stands for several.
    """
    if isinstance(tree, Number):
        return 1
    return of_name(tree.name) if isinstance(tree, Name) else sum(count(part, of_name) for part in tree.parts)


def levels(tree: Node, of_name: Callable[[str], int]) -> int:
    """Return the number of levels of a formula's tree.

    ``of_name`` returns how many of them are below a name: a term has the levels of its formula.
    """
    if isinstance(tree, Number):
        return 1
    return 1 + (of_name(tree.name) if isinstance(tree, Name) else max(levels(part, of_name) for part in tree.parts))


def value(tree: Node, of_name: Callable[[str], Fraction]) -> Fraction:
    """Return the exact result in base units. Raises ZeroDivisionError, and all errors that ``of_name`` raises."""
    if isinstance(tree, Number):
        return tree.value
    if isinstance(tree, Name):
        return of_name(tree.name)
    return _OPERATIONS[tree.sign](*(value(part, of_name) for part in tree.parts))


def show(tree: Node) -> str:
    """Return the canonical text of a formula, which goes into its hash.

    Formulas with the same tree have the same text.
    """
    if isinstance(tree, Number):
        unit = "" if tree.dimension is None or tree.dimension == NUMBER else f"[{tree.dimension}]"
        return f"{tree.value}{unit}"
    if isinstance(tree, Name):
        return tree.name
    return f"({tree.sign} {' '.join(show(part) for part in tree.parts)})"


_OPERATIONS: Mapping[str, Callable[..., Fraction]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "min": lambda *parts: min(parts),
    "max": lambda *parts: max(parts),
}
