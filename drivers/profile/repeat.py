"""Expands [[repeat]] tables: one description becomes many points."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from drivers.profile.complaints import ProfileComplaints
from drivers.toml import KeyPath, TomlTable, show

REPEAT_KEYS = ("over", "count", "values", "first", "stride", "point", "repeat")
# no device has so many points; the limit prevents a typing error in a parameter from exhausting the memory
MAX_POINTS = 20_000

Described = tuple[Mapping[str, Any], KeyPath]  # (the table of a point, the path of this table in the file)


def described_points(
    document: Mapping[str, Any], path: KeyPath, params: Mapping[str, int | str], complaints: ProfileComplaints
) -> list[Described]:
    """All point tables below ``document``: first the plain points, then those of expanded repeats, each in file
    order.
    """
    result: list[Described] = []
    for item in _expanded(document, path, params, complaints, {}, 0):
        result.append(item)
        if len(result) > MAX_POINTS:
            complaints.at(path, f"the profile has more than {MAX_POINTS} points", "Is a parameter too large?")
            break
    return result


def _expanded(
    document: Mapping[str, Any],
    path: KeyPath,
    params: Mapping[str, int | str],
    complaints: ProfileComplaints,
    values: Mapping[str, str],
    shift: int,
) -> Iterator[Described]:
    table = complaints.table(document, path)
    for point in table.tables("point"):
        yield _shifted(point.raw, values, shift), point.path
    for reader in table.tables("repeat"):
        reader.unknown(REPEAT_KEYS)
        over = reader.text("over", required=True)
        if not re.fullmatch(r"[a-z]{1,8}", over):
            if over:
                reader.add(
                    "over",
                    f"over = {show(over)} is not a name of 1 to 8 lowercase letters",
                    'Write for example over = "r"',
                )
            continue
        if over in values:
            reader.add("over", f"over = {show(over)} is already used by the enclosing repeat")
        stride = reader.integer("stride", -0xFFFF, 0xFFFF, 0) or 0
        for turn, word in enumerate(_words(reader, params)):
            yield from _expanded(
                reader.raw, reader.path, params, complaints, {**values, over: word}, shift + turn * stride
            )


def _words(reader: TomlTable, params: Mapping[str, int | str]) -> list[str]:
    """The values that the variable of a repeat takes, in their order."""
    if "values" in reader.raw:
        for key in ("count", "first"):
            if key in reader.raw:
                reader.add(key, f'the keys "{key}" and "values" cannot be used together')
        words = reader.texts("values")
        if not words:
            reader.add("values", 'the key "values" has an empty list')
        return list(words)
    count = reader.of_types("count", (int, str), "a number or the name of a parameter")
    if isinstance(count, str):
        if not isinstance(params.get(count), int):
            known = ", ".join(params) or "none"
            reader.add(
                "count", f"count = {show(count)} is not the name of a numeric parameter", f"Known parameters: {known}"
            )
            return []
        count = params[count]
    if count is None:
        if "count" not in reader.raw:
            reader.add("count", 'the key "count" or "values" is missing')
        return []
    if int(count) > MAX_POINTS:  # check the number before the values are expanded, to limit the memory
        reader.add("count", f"count is {count}, but at most {MAX_POINTS} are allowed", "Is a parameter too large?")
        return []
    if int(count) < 0:
        reader.add("count", f"count is {count}, but it cannot be negative")
        return []
    first = reader.integer("first", 0, 0xFFFF, 1)
    return [str((1 if first is None else first) + i) for i in range(int(count))]


def _shifted(point: Mapping[str, Any], values: Mapping[str, str], shift: int) -> Mapping[str, Any]:
    if not values:
        return point
    result = dict(point)
    for key in ("name", "together", "key"):
        if isinstance(result.get(key), str):
            result[key] = _filled(result[key], values)
    if isinstance(result.get("address"), int):
        result["address"] += shift
    if isinstance(result.get("parts"), list):
        result["parts"] = [
            {**part, "address": part["address"] + shift} if isinstance(part.get("address"), int) else part
            for part in result["parts"]
            if isinstance(part, dict)
        ]
    return result


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, word in values.items():
        text = text.replace("{" + name + "}", word)
    return text
