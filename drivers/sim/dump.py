"""Recorded registers from a file."""

from __future__ import annotations

import json
from pathlib import Path

from drivers.sim.encode import EncodeError
from drivers.sim.image import Image


class DumpError(EncodeError):
    """A dump cannot be read or is not one."""

    exit_code = 3


def load_dump(path: Path) -> tuple[Image, int]:
    """Registers and address of ``{"protocol": "modbus", "address": 1, "holding": {"35000": 1, ...}, "input": {...}}``.

    Raises DumpError that names the file and the error in it.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DumpError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise DumpError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise DumpError("is not a dump", where=str(path), hint='Wanted: {"protocol": "modbus", "holding": {"0": 1}}')
    if found.get("protocol", "modbus") != "modbus":
        raise DumpError(f"protocol {found['protocol']!r} is not modbus", where=str(path))
    address = found.get("address", 1)
    if isinstance(address, str) and address.isdigit():
        address = int(address)
    if not isinstance(address, int) or not 1 <= address <= 255:
        raise DumpError(f"address {address!r} is not 1 to 255", where=str(path))
    try:
        return Image.from_dump(found), address
    except EncodeError as error:
        raise DumpError(error.what, where=f"{path}: {error.where}", hint=error.hint) from error
