"""Settles packs whose completeness could not be checked when they arrived.

There are two kinds of them: packs that arrived before their birth, and packs that are one of several parts of a tick.
All parts of a tick are checked together.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from agent.verify import Balance, CheckedPack, KeyRing, PointTable, balance, check
from receiver.bodies import Bodies
from receiver.chains import SETTLE_LOCK
from receiver.checker import add_chains, implausible
from receiver.database import Connection, statement
from receiver.key_chains import stored_keys

AT_ONCE: Final = 200  # one transaction settles at most this many packs, and this many ticks in parts

_WHOLE: Final = statement("unsettled")
_TICKS: Final = statement("ticks_in_parts")
_PARTS: Final = statement("parts")
_SETTLED: Final = """
UPDATE packs SET due = %s, gaps = %s, asleep = %s, reasons = %s, faults = %s
WHERE stream = %s AND seq = %s AND boot = %s AND from_ms = %s"""
_AGAIN: Final = """
CREATE TEMP TABLE new ON COMMIT DROP AS
SELECT p.stream, p.seq, p.boot, p.from_ms, p.readings, p.due, p.gaps, p.asleep, p.reasons, p.faults
FROM packs p JOIN settled s USING (stream, seq, boot, from_ms)
WHERE EXISTS (SELECT FROM lots l WHERE l.lot = p.lot AND l.checked IS NOT NULL)"""


def settle_late(connection: Connection) -> int:
    """Settle up to ``AT_ONCE`` waiting packs and ticks in parts. Returns the number of packs that were settled."""
    settler = _Settler(connection)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SETTLE_LOCK])
        for row in cursor.execute(_WHOLE, [AT_ONCE]).fetchall():
            settler.settle([row], cursor)
        for *tick, is_rest in cursor.execute(_TICKS, [AT_ONCE]).fetchall():
            if rows := cursor.execute(_PARTS, tick).fetchall():
                settler.settle(rows, cursor, is_rest=is_rest)
        if settler.done:
            _count(cursor, settler.done)
    return len(settler.done)


class _Settler:
    """Checks stored packs again, now that their point table is known."""

    def __init__(self, connection: Connection) -> None:
        self.done: list[tuple[int, int, int, int]] = []
        self._connection, self._bodies = connection, Bodies(connection)
        self._rings: dict[str, KeyRing] = {}

    def settle(self, rows: list[tuple[Any, ...]], cursor: psycopg.Cursor[Any], *, is_rest: bool = False) -> None:
        """Settle one pack, or all parts of a tick. The due readings and gaps of all parts are stored with the first
        part.

        Args:
            is_rest: another part of the tick breaks a rule, so the due readings of the tick are not known.
        """
        table, ring = PointTable(rows[0][6]), self._ring(rows[0][5])
        if not ring.keys:
            return  # the thumbprint was replaced: the packs wait for the keys that belong to the new one
        packs = [self._check(bytes(row[4]), ring, table) for row in rows]
        own = [[pack] if isinstance(pack, str) else [fault.code for fault in pack.faults] for pack in packs]
        made, shared = Balance(), list[str]()
        # A pack that breaks a rule gets no counts, and neither does its tick. The result is the same as if the birth
        # had arrived before the pack.
        if not any(own) and not is_rest:
            made = balance([pack.counts for pack in packs if isinstance(pack, CheckedPack)], table)
            shared = [*dict.fromkeys(fault.code for fault in made.faults), *implausible(made)]
        found = []
        for place, (row, codes) in enumerate(zip(rows, own, strict=True)):
            counted = made if place == 0 and not shared else Balance()
            gaps = Jsonb(dict(counted.gaps)) if counted.gaps else None
            faults = list(dict.fromkeys(codes)) or shared or None
            cursor.execute(
                _SETTLED,
                [counted.due, sum(counted.gaps.values()), counted.gaps.get("asleep", 0), gaps, faults, *row[:4]],
            )
            # a fault of the whole tick is a finding of its first part
            found += [(*row[:3], code) for code in (codes or (shared if place == 0 else ()))]
        cursor.executemany(
            "INSERT INTO findings (stream, seq, boot, code) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", found
        )
        self.done += [row[:4] for row in rows]

    def _check(self, body: bytes, ring: KeyRing, table: PointTable) -> CheckedPack | str:
        """Check a stored pack. Returns the code of a finding if it is not valid any more."""
        try:
            raw = self._bodies.read(body)
        except ValueError:
            return "damaged"
        pack = check(raw, None, ring, lambda birth: table)
        if isinstance(pack, CheckedPack):
            return pack
        # The pack was valid when it arrived. If its key was not revoked or replaced since then, the row has changed.
        return "revoked" if pack.code in ("revoked", "kid") else "damaged"

    def _ring(self, gateway: str) -> KeyRing:
        ring = self._rings.get(gateway)
        if ring is None:
            ring = self._rings[gateway] = ring_of(self._connection, gateway)
        return ring


def ring_of(connection: Connection, gateway: str) -> KeyRing:
    """The trusted keys of a gateway, from the database. Empty if none of the stored keys is pinned any more."""
    pins = [pin for (pin,) in connection.execute("SELECT thumbprint FROM pins WHERE gateway = %s", [gateway])]
    ring = KeyRing(gateway, pins)
    add_chains(ring, stored_keys(connection, gateway))
    return ring


def _count(cursor: psycopg.Cursor[Any], settled: list[tuple[int, int, int, int]]) -> None:
    """Add the settled packs to the sums by day.

    Packs of an unchecked lot are left out, because the check of the lot will add them.
    """
    cursor.execute("CREATE TEMP TABLE settled (stream bigint, seq bigint, boot bigint, from_ms bigint) ON COMMIT DROP")
    cursor.executemany("INSERT INTO settled VALUES (%s, %s, %s, %s)", settled)
    cursor.execute(_AGAIN)
    cursor.execute(statement("days"))
    cursor.execute(statement("gap_days"))
