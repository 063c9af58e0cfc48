"""Addresses by protocol: the one rule for drivers, the configuration and samples.

Light on purpose: a check of a configuration does not load the drivers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from drivers.model import ConfigError, clean_text

MBAP = "modbus-tcp"
# the address that asks the only device of a line, whichever it is; samples of these protocols are frames
ANYBODY: Mapping[str, str] = {"dlt645": "A" * 12, "cjt188": "A" * 14, "mbus": "254"}


@dataclass(frozen=True, slots=True)
class InvalidAddress:
    """Why a device cannot be asked. ``key`` is what has to change: its address, or the line that it is on."""

    key: str
    what: str
    hint: str


def _modbus(address: str, scheme: str) -> InvalidAddress | None:
    """A unit. On a serial bus 0 is a broadcast, which has no answer."""
    low, high = (0, 255) if scheme in ("", MBAP) else (1, 247)
    if address.isascii() and address.isdigit() and low <= int(address[:9]) <= high:
        return None
    return _wrong(address, "a Modbus", f"Allowed: {low} to {high}")


def _dlt645(address: str, scheme: str) -> InvalidAddress | None:
    """Digits as on the plate; A stands for any digit."""
    if re.fullmatch(r"[0-9Aa]{1,12}", address):
        return _raw("DL/T 645", scheme)
    return _wrong(address, "a DL/T 645", 'The digits on the meter\'s plate, at most 12, such as "000000000161"')


def _cjt188(address: str, scheme: str) -> InvalidAddress | None:
    """Digits as on the plate; A stands for any digit."""
    if re.fullmatch(r"[0-9Aa]{1,14}", address):
        return _raw("CJ/T 188", scheme)
    return _wrong(address, "a CJ/T 188", "The digits on the meter's plate, at most 14")


def _mbus(address: str, scheme: str) -> InvalidAddress | None:
    """Primary 0 to 250 and 254, or secondary: 8 digits (F: any), maker, version and medium behind them in hex."""
    primary = re.fullmatch(r"[0-9]{1,3}", address)
    if (primary and (int(address) <= 250 or int(address) == 254)) or re.fullmatch(
        r"[0-9Ff]{8}([0-9A-Fa-f]{8})?", address
    ):
        return _raw("M-Bus", scheme)
    hint = 'A primary address "0" to "250", the 8 digits of the meter\'s number, or all 16 hex digits'
    return _wrong(address, "an M-Bus", hint)


def _wrong(address: str, name: str, hint: str) -> InvalidAddress:
    return InvalidAddress("address", f'"{clean_text(address, 40)}" is not {name} address', hint)


def _raw(name: str, scheme: str) -> InvalidAddress | None:
    """Frames of their own, which a Modbus TCP gateway does not pass on."""
    if scheme != MBAP:
        return None
    hint = "Use a line with tcp://HOST:PORT (raw bytes) or a serial port"
    return InvalidAddress("line", f"{name} does not go over modbus-tcp", hint)


RULES: Mapping[str, Callable[[str, str], InvalidAddress | None]] = {
    "modbus": _modbus,
    "sunspec": _modbus,
    "dlt645": _dlt645,
    "cjt188": _cjt188,
    "mbus": _mbus,
}


def check_address(protocol: str, address: str, scheme: str = "") -> InvalidAddress | None:
    """The error in the address of a device, or in its line; None without an error.

    Args:
        scheme: of the line's url; "" where the line is not known.
    """
    rule = RULES.get(protocol)
    return rule(address, scheme) if rule else None


def demand_address(protocol: str, address: str, scheme: str, where: str) -> None:
    """For a driver that is made: raises ConfigError where ``check_address`` finds something wrong."""
    if (wrong := check_address(protocol, address, scheme)) is not None:
        raise ConfigError(wrong.what, where=where, hint=wrong.hint)
