"""Reads tables into msgspec structs. The fields of a struct define the keys of the table and their types."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from drivers.toml import parsers
from drivers.toml.parsers import InvalidValue, show
from drivers.toml.table import TomlTable

S = TypeVar("S", bound=msgspec.Struct)
_WHOLE = parsers.whole(-(2**63), 2**63 - 1)


def read_struct(table: TomlTable, kind: type[S]) -> S | None:
    """Read the struct that a table describes. None if anything in the table is invalid; then there are complaints.

    A field may be str, int, ``str | int`` (a number, kept as it was written), a Literal, another struct, or a list or
    dict of these. Each of them may be combined with ``| None``.
    """
    before = len(table.complaints.items)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if table.has(field.name):
            values[field.name] = _value(table, field.name, field.type)
        elif field.required:
            table.complain(None, "", f'the key "{field.name}" is missing')
    table.done()
    return None if len(table.complaints.items) > before else kind(**values)


def _value(table: TomlTable, key: str, kind: Any) -> Any:
    kind = _without_none(kind)
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        if _is_struct(item):
            return [read_struct(one, item) for one in table.tables(key)]
        return list(table.items(key, _parser(item)) or ())
    if get_origin(kind) is dict:
        item = get_args(kind)[1]
        if get_origin(item) is not list:
            return table.pairs(key, parsers.text, _parser(item))
        inner = table.table(key)
        return {} if inner is None else {name: _value(inner, name, item) for name in inner.raw}
    if _is_struct(kind):
        inner = table.table(key)
        return None if inner is None else read_struct(inner, kind)
    return table.take(key, _parser(kind), None)


def _parser(kind: Any) -> Callable[[object], Any]:
    if kind is str:
        return _text
    if kind is int:
        return _WHOLE
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        return parsers.choice(*allowed) if isinstance(allowed[0], str) else _one_of(allowed)
    return _number_as_written


def _text(value: object) -> str:
    """Parse a text. A decimal number without quotes is accepted as a text, because existing plans contain such
    numbers.
    """
    return str(value) if isinstance(value, Decimal) else parsers.text(value)


def _one_of(allowed: tuple[Any, ...]) -> Callable[[object], Any]:
    def parse(value: object) -> Any:
        if isinstance(value, bool) or value not in allowed:
            raise InvalidValue(f"unknown value {show(value)}", f"Allowed: {', '.join(map(str, allowed))}")
        return value

    return parse


def _number_as_written(value: object) -> str:
    """Parse a number, with or without quotes. It is returned as text, with all its digits."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise InvalidValue(f"{show(value)} is not a number", 'Write for example 0.25 or "0.25"')
    return str(value)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType) or NoneType not in get_args(kind):
        return kind
    rest = [one for one in get_args(kind) if one is not NoneType]
    return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 - of a list known at run time only


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
