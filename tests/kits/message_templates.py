"""The texts in the source of agent and drivers, with `{}` for each inserted value."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CALLS = {"ConfigWarning", "InvalidValue", "LineDown", "LineTimeout", "LineLent", "NoAgent", "BadParameter", "StoreFull"}
CALLS |= {"complain", "add", "at", "unlike", "as_complaint", "say", "CommandEntry", "matching"}
NAMES = {"hint", "what", "where"}


class Message(NamedTuple):
    """A text that a user may see, and its place in the source."""

    template: str
    file: str
    line: int


def templates(node: ast.AST | None) -> list[str]:
    """The texts that an expression can have, one for each branch. Empty if it is not a text."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)]
        case ast.IfExp(body=body, orelse=other):
            return templates(body) + templates(other)
        case ast.BoolOp(values=values):
            return [text for value in values for text in templates(value)]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            first, second = templates(left), templates(right)
            return [a + b for a in first or ["{}"] for b in second or ["{}"]] if first or second else []
    return []


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for room in ("agent", "drivers", "receiver"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if "chinese" not in path.parts:
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"))


@lru_cache(maxsize=1)
def written() -> frozenset[str]:
    """Every text of the source. Also each paragraph and each line of longer texts, such as helps of commands."""
    texts = {text for _, tree in _trees() for node in ast.walk(tree) for text in templates(node)}
    long = [text for text in texts if "\n" in text]
    parts = {" ".join(part.split()) for text in long for part in re.split(r"\n[ \t]*\n", text.replace("\b", ""))}
    lines = {line.rpartition("   ")[2].strip() for text in long for line in text.split("\n")}
    return frozenset(texts | parts | lines)


def _said(node: ast.AST) -> Iterator[str]:
    """The texts of one call or assignment that are for people."""
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in CALLS or name.endswith("Error"):
            for given in node.args:
                yield from templates(given)
        for keyword in node.keywords:
            if keyword.arg in NAMES:
                yield from templates(keyword.value)
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Name) and target.id in NAMES:
            yield from templates(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for name, given in zip(target.elts, value.elts, strict=False):
                if isinstance(name, ast.Name) and name.id in NAMES:
                    yield from templates(given)


def messages() -> Mapping[str, Message]:
    """The texts of errors, warnings and hints, by template."""
    found: dict[str, Message] = {}
    for file, tree in _trees():
        for node in ast.walk(tree):
            for text in _said(node):
                found.setdefault(text, Message(text, file, getattr(node, "lineno", 0)))
    return found
