"""Declared values, such as roof areas, certificates and weighbridge tickets.

Entries can be added and replaced, but never changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from agent.indicators.definitions import decimal
from agent.indicators.figure import Amount, Period
from agent.indicators.units import Unit, parse_unit
from agent.pack import base64url, seconds
from drivers.model import UsageError, clean_text

MAX_TEXT: Final = 200
_NAME = re.compile(r"declared\.[a-z][a-z0-9_]{0,60}")
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class EnteredBy:
    """The operating system's user who entered a declaration, as the kernel reports it."""

    uid: int
    login: str = ""  # "" if the system has no name for the uid


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declared value. An amount belongs to ``[from_ms, to_ms)``.

    A state is valid from ``from_ms`` on; it has no ``to_ms``.

    ``replaces``: id of an earlier entry that this entry replaces. If ``value`` is empty, the earlier entry is only
    withdrawn.
    """

    id: str  # 16 hex digits
    name: str  # such as "declared.certificates"
    value: str  # as typed
    unit: str
    from_ms: int
    to_ms: int | None
    who: str
    at_ms: int  # when the entry was made, in UTC ms
    document: str = ""  # the source of the value, such as the number of a certificate or ticket
    replaces: str = ""
    by: EnteredBy | None = None  # None: the version of meterhouse that stored this entry did not record the user

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as the object in a pack. Keys without a value are left out. Times are in seconds."""
        plain: dict[str, Any] = {"at": seconds(self.at_ms), "from": seconds(self.from_ms), "id": self.id}
        plain |= {"n": self.name, "u": self.unit, "v": self.value, "who": self.who}
        if self.to_ms is not None:
            plain["to"] = seconds(self.to_ms)
        if self.document:
            plain["document"] = self.document
        if self.replaces:
            plain["replaces"] = self.replaces
        if self.by is not None:
            plain["by"] = {"login": self.by.login, "uid": self.by.uid} if self.by.login else {"uid": self.by.uid}
        return plain


def from_dict(plain: Mapping[str, Any]) -> Declaration:
    """The reverse of ``as_dict``; checks the entry. Raises UsageError, which names the invalid field."""
    to = plain.get("to")
    made = Declaration(
        _text(plain, "id"),
        _text(plain, "n"),
        _text(plain, "v"),
        _text(plain, "u"),
        _ms(plain, "from"),
        None if to is None else _ms(plain, "to"),
        _text(plain, "who"),
        _ms(plain, "at"),
        _text(plain, "document", ""),
        _text(plain, "replaces", ""),
        _by(plain.get("by")),
    )
    check(made)
    return made


def check(made: Declaration) -> None:
    """Raise UsageError for an invalid entry. Does not check whether the plan has such an input with this unit."""
    if not _ID.fullmatch(made.id) or (made.replaces and not _ID.fullmatch(made.replaces)):
        raise UsageError("an id must have 16 hex digits", where="declare")
    if not _NAME.fullmatch(made.name):
        hint = "Write a name such as declared.certificates"
        raise UsageError(f"invalid name {clean_text(made.name, 80)!r}", where="declare", hint=hint)
    if made.value or not made.replaces:
        try:
            decimal(made.value)
            parse_unit(made.unit)
        except ValueError as error:
            raise UsageError(str(error), where="declare") from None
    if made.to_ms is not None and made.to_ms <= made.from_ms:
        raise UsageError("the entry ends before it begins", where="declare")
    if not made.who.strip():
        raise UsageError("the person who declares the value is not named", where="declare", hint="--who NAME")


def _text(plain: Mapping[str, Any], key: str, default: str | None = None) -> str:
    found = plain.get(key, default)
    if not isinstance(found, str) or len(found) > MAX_TEXT or clean_text(found, MAX_TEXT) != found:
        raise UsageError(f"{key} must be a text of at most {MAX_TEXT} characters on one line", where="declare")
    return found


def _by(found: Any) -> EnteredBy | None:
    if found is None:
        return None
    if not isinstance(found, dict) or type(found.get("uid")) is not int or not 0 <= found["uid"] < 1 << 32:
        raise UsageError("by must be {uid, login}", where="declare")
    return EnteredBy(found["uid"], _text(found, "login", ""))


def _ms(plain: Mapping[str, Any], key: str) -> int:
    found = plain.get(key)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1e11:
        raise UsageError(f"{key} must be a Unix time in seconds", where="declare")
    return round(found * 1000)


def in_force(entries: Iterable[Declaration]) -> list[Declaration]:
    """Return the entries in effect, in the order of entry: those that have a value and are not replaced."""
    entries = list(entries)
    replaced = {entry.replaces for entry in entries if entry.replaces}
    return [entry for entry in entries if entry.id not in replaced and entry.value]


def countable(entries: Iterable[Declaration], from_ms: int) -> list[Declaration]:
    """Return the entries in effect that can count in a period from ``from_ms`` on: states, and amounts that end later.

    Figures belong to a day, a month or a year. So for the figures of one moment, ``from_ms`` is the start of its year.
    """
    return [entry for entry in in_force(entries) if entry.to_ms is None or entry.to_ms > from_ms]


def hash_of_ids(entries: Iterable[Declaration]) -> str:
    """Return the hash of the ids of entries: SHA-256, base64url, of the sorted ids joined by spaces."""
    return base64url(hashlib.sha256(" ".join(sorted(entry.id for entry in entries)).encode()).digest())


def amount(entries: Iterable[Declaration], name: str, unit: Unit, kind: str, period: Period) -> Amount | None:
    """Return the value of one input over a period, from its entries; None if it has no entry.

    Amounts are added up. An amount that extends beyond the period counts in proportion to time, and this part of the
    sum is ``estimated``. Of states, only the last one that begins before the end of the period counts.
    """
    mine = [entry for entry in in_force(entries) if entry.name == name]
    if kind == "state":
        return _state(mine, name, unit, period)
    whole, shared, used = Fraction(0), Fraction(0), list[str]()
    for entry in mine:
        if entry.to_ms is None:
            continue
        overlap = min(entry.to_ms, period.end_ms) - max(entry.from_ms, period.start_ms)
        if overlap <= 0:
            continue
        value = decimal(entry.value) * parse_unit(entry.unit).factor
        if overlap == entry.to_ms - entry.from_ms:
            whole += value
        else:
            shared += value * overlap / (entry.to_ms - entry.from_ms)
        used.append(entry.id)
    if not used:
        return None
    total = whole + shared
    estimated = shared / total if total else Fraction(0)
    return Amount(name, total, unit, "declared", estimated=estimated, entries=tuple(used))


def _state(mine: list[Declaration], name: str, unit: Unit, period: Period) -> Amount | None:
    holding = [entry for entry in mine if entry.from_ms < period.end_ms]
    if not holding:
        return None
    last = max(holding, key=lambda entry: (entry.from_ms, entry.at_ms))
    value = decimal(last.value) * parse_unit(last.unit).factor
    return Amount(name, value, unit, "declared", entries=(last.id,))
