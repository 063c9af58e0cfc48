"""A SunSpec device's registers, built from the Alliance's definitions: marker, chain of models, end model."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from drivers.model import UsageError
from drivers.sim.image import Image
from drivers.sunspec.models import END_MODEL, GroupDef, PointDef, definition
from drivers.sunspec.walk import MARKER

Raw = int | float | str
_CODES = {
    **dict.fromkeys(("int16", "sunssf"), ("h", -0x8000)),
    **dict.fromkeys(("uint16", "enum16", "bitfield16", "count", "pad"), ("H", 0xFFFF)),
    "acc16": ("H", 0),
    "int32": ("i", -0x80000000),
    **dict.fromkeys(("uint32", "enum32", "bitfield32"), ("I", 0xFFFFFFFF)),
    **dict.fromkeys(("acc32", "ipaddr"), ("I", 0)),
    "int64": ("q", -0x8000000000000000),
    **dict.fromkeys(("uint64", "bitfield64"), ("Q", 0xFFFFFFFFFFFFFFFF)),
    "acc64": ("Q", 0),
    "float32": ("f", float("nan")),
    "float64": ("d", float("nan")),
}


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
    code, absent = _CODES.get(point.type, ("", 0))
    if not code or struct.calcsize(code) != size:
        return bytes(size)
    return struct.pack(f">{code}", absent if value is None else value)


def sunspec_image(models: Sequence[tuple[int, Mapping[str, Raw]] | Sequence[int]], base: int = 40000) -> Image:
    """Holding registers of a device with these models, in order; a plain list of words stands for itself."""
    words = list(MARKER)
    for model in models:
        if len(model) == 2 and isinstance(model[1], Mapping):
            words += model_registers(model[0], model[1])
        else:
            words += model  # type: ignore[arg-type]
    image = Image()
    image.put_words(base, [*words, END_MODEL, 0])
    return image
