"""A SunSpec device's registers, built from the Alliance's definitions: marker, chain of models, end model."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from drivers.model import UsageError
from drivers.sunspec.models import NUMBERS, GroupDef, PointDef, definition

Raw = int | float | str


def model_registers(model_id: int, values: Mapping[str, Raw]) -> list[int]:
    """A model, id and length first. ``values``: name (``W``, ``module[1].DCW``) -> raw; the rest is not implemented.

    Repeating groups come as often as ``values`` names them.
    """
    found = definition(model_id)
    if found is None:
        raise UsageError(f"no SunSpec model {model_id}", where="simulator")
    left = dict(values)
    raw = b"".join(_group(found, "", left))
    if left:
        raise UsageError(f"model {model_id} has no {', '.join(left)}", where="simulator")
    words = list(struct.unpack(f">{len(raw) // 2}H", raw))
    words[0], words[1] = model_id, len(words) - 2
    return words


def _group(group: GroupDef, prefix: str, values: dict[str, Raw]) -> list[bytes]:
    pieces = [_point(point, values.pop(prefix + point.name, None)) for point in group.points]
    for inner in group.groups:
        if inner.count is None:
            pieces += _group(inner, f"{prefix}{inner.name}.", values)
            continue
        number = 0
        while any(name.startswith(f"{prefix}{inner.name}[{number}].") for name in values):
            pieces += _group(inner, f"{prefix}{inner.name}[{number}].", values)
            number += 1
    return pieces


def _point(point: PointDef, value: Raw | None) -> bytes:
    size = 2 * point.size
    if point.type == "string":
        return str(value or "").encode("utf-8")[:size].ljust(size, b"\0")
    code, absent = ("H", 0xFFFF) if point.type == "pad" else NUMBERS.get(point.type, ("", 0))
    if not code or struct.calcsize(code) != size:
        return bytes(size)
    return struct.pack(f">{code}", absent if value is None else value)
