"""Reads names and units from the SenML records of a pack. Checks that each record has one value of the right type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from .point_table import Unit, unit_of
from .strict import MAX_SHOWN, Columns, Refused, shown

# SenML labels that would change the meaning of the readings; packs must not use them
_FOREIGN: Final = frozenset(("bs", "bu", "bv", "bver", "vd"))
_NUMBERS: Final = frozenset((int, float))
_TYPES: Final = {"v": _NUMBERS, "vs": frozenset((str,)), "vb": frozenset((bool,))}
_USUAL: Final = (frozenset(("n", "v")), frozenset(("n", "u", "v")))  # most records have exactly these members


@dataclass(slots=True)
class PackRecords:
    """The names and units of all records. Both lists have one entry for each record, in the same order."""

    names: list[str] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    early: int = 0  # number of read times that are more than 1 s before the start of the pack

    @property
    def pairs(self) -> Iterable[tuple[str, Unit]]:
        """The (name, unit) of each record."""
        return zip(self.names, self.units, strict=True)

    def unit_changes(self) -> list[tuple[str, Unit]]:
        """Return the first pair of each name, and each pair whose unit differs from the previous one of that name.

        When the birth has arrived, ``PointTable.check_units`` finds the same fault in them as in all records. They are
        not a set, because a unit of a hostile pack may be unhashable.
        """
        seen: dict[str, Unit] = {}
        kept = []
        for name, unit in self.pairs:
            if name not in seen or seen[name] != unit:
                seen[name] = unit
                kept.append((name, unit))
        return kept


def read_records(e: object, columns: Columns | None, stream: str, earliest_ms: int) -> PackRecords:
    """Read the records in the member ``e`` of a pack.

    Args:
        columns: columns of ``e``; None if the parser made none. Records with only name, unit and number are read by
            columns, which is faster.
        earliest_ms: a read time before this counts as early.

    Raises:
        Refused: with code ``shape``, if a record is invalid.
    """
    if not isinstance(e, list):
        raise Refused("shape", "e is not an array of records")
    records, others = PackRecords(), e
    if columns and columns.columns.keys() in _USUAL and type(columns.columns["n"][0]) is str:
        usual = columns.columns
        if type(usual["v"][0]) is str:
            raise Refused("shape", "a record whose v is not a number")
        records.names, others = usual["n"], columns.odd
        records.units = usual.get("u") or [""] * len(records.names)
    if not {dict}.issuperset(map(type, others)):
        raise Refused("shape", "e is not an array of records")
    if e and ("bt" not in e[0] or "bn" not in e[0]):
        raise Refused("shape", "the first record has no bn and bt")
    try:
        names = [record["n"] for record in others]
    except KeyError:
        raise Refused("shape", "a record without its name") from None
    if not {str}.issuperset(map(type, names)):
        raise Refused("shape", "a record whose name is not a string")
    records.names = records.names + names
    records.units = records.units + [unit_of(record.get("u", ""), record.get("du", "")) for record in others]
    _check(others, stream, earliest_ms, records)
    return records


def _check(others: list[dict[str, Any]], stream: str, earliest_ms: int, records: PackRecords) -> None:
    """Check records one by one, and count early read times."""
    base_ms = 0.0
    for record in others:
        if len(record) - ("u" in record) == 2 and "v" in record:
            if type(record["v"]) not in _NUMBERS:
                raise Refused("shape", "a record whose v is not a number")
            continue
        for label in record:
            if label.endswith("_") or label in _FOREIGN:
                raise Refused("shape", f"SenML label {shown(label)} must be understood, but is unknown")
        if record.get("bn", stream + "/") != stream + "/":
            raise Refused("shape", f"records of {shown(record['bn'])} in a pack of {stream}")
        times = [record[label] for label in ("bt", "t") if label in record]
        if not _NUMBERS.issuperset(map(type, times)) or type(record.get("mt", 0)) not in _NUMBERS:
            raise Refused("shape", f"{record['n'][:MAX_SHOWN]} has a time that is not a number")
        if "bt" in record:
            base_ms = record["bt"] * 1000
        if times and base_ms + record.get("t", 0) * 1000 < earliest_ms:
            records.early += 1
        present = [label for label in _TYPES if label in record]
        if len(present) != 1:
            raise Refused("shape", f"{record['n'][:MAX_SHOWN]} has {len(present)} values, expected one")
        kind = type(record[present[0]])
        if kind not in _TYPES[present[0]]:
            raise Refused("shape", f"{record['n'][:MAX_SHOWN]} has {present[0]} of type {kind.__name__}")
