"""Checks everything that involves more than one pack, lot by lot. A lot consists of the packs that a worker has
committed in one transaction.

Lots may be checked in any order, by any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import psycopg

from receiver.database import Connection, statement

LOTS: Final = 200  # one transaction checks at most this many lots
SETTLE_LOCK: Final = 7_235_702  # advisory lock, which receiver/settle.py also takes, so that no pack is counted twice

_NEW: Final = statement("new_packs")
_FORK_FINDINGS: Final = statement("fork_findings")
_STARTED: Final = statement("started_boots")


def check_lots(connection: Connection, most: int = LOTS) -> int:
    """Check up to ``most`` unchecked lots in one transaction. Returns the number of their packs."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [SETTLE_LOCK])
        cursor.execute(
            "SELECT lot FROM lots WHERE checked IS NULL ORDER BY lot LIMIT %s FOR UPDATE SKIP LOCKED", [most]
        )
        lots = [lot for (lot,) in cursor]
        if not lots:
            return 0
        cursor.execute(_NEW, [lots])
        packs = cursor.rowcount
        # processes that check packs of the same streams wait here for each other; the order by id avoids a deadlock
        cursor.execute("SELECT id FROM streams WHERE id IN (SELECT stream FROM new) ORDER BY id FOR NO KEY UPDATE")
        cursor.execute(statement("forked"))
        cursor.execute(_FORK_FINDINGS)
        started = [stream for (stream,) in cursor.execute(_STARTED)]
        cursor.execute(statement("boots"))
        for stream in started:
            assign_lines(cursor, stream)
        for name in ("revoked_new", "seams", "conflicts", "days", "gap_days"):
            cursor.execute(statement(name))
        cursor.execute("UPDATE lots SET checked = now() WHERE lot = ANY(%s)", [lots])
        return packs


def assign_lines(cursor: psycopg.Cursor[Any], stream: int) -> None:
    """Assign each boot of a stream to its history. A history begins with a boot that does not continue an earlier
    boot.
    """
    cursor.execute("SELECT boot, prev_boot, begun, from_ms, line FROM boots WHERE stream = %s", [stream])
    rows = cursor.fetchall()
    lines = lines_of((boot, prev, begun, from_ms) for boot, prev, begun, from_ms, _ in rows)
    changed = [(lines[boot], stream, boot) for boot, _, _, _, line in rows if lines[boot] != line]
    if not changed:
        return
    cursor.executemany("UPDATE boots SET line = %s WHERE stream = %s AND boot = %s", changed)
    # conflicts must be found again, because two boots that now belong to different histories no longer conflict
    cursor.execute(statement("conflicts_of_stream"), {"stream": stream})


def lines_of(boots: Iterable[tuple[int, int | None, bool, int]]) -> dict[int, int]:
    """Map each boot to the boot that began its history. The value is -1 if that boot is not known.

    Args:
        boots: (boot, previous boot, whether the first pack of the boot is stored, beginning of its oldest pack in UTC
        ms).
    """
    facts = {boot: (prev, begun, from_ms) for boot, prev, begun, from_ms in boots}
    roots = {boot: from_ms for boot, (prev, begun, from_ms) in facts.items() if begun and prev is None}
    lines: dict[int, int] = {}
    for boot in facts:
        path, at = [], boot
        while at not in lines and at not in roots and at not in path:
            path.append(at)
            prev, begun, _ = facts[at]
            if not begun or prev is None or prev not in facts:
                break
            at = prev
        line = lines.get(at, at if at in roots else None)
        if line is None:  # an earlier pack is missing, so assume the latest history that began before this boot
            before = [(since, root) for root, since in roots.items() if since <= facts[boot][2]]
            line = max(before)[1] if before else -1
        for step in (*path, boot):
            lines[step] = line
    return lines


def apply_revocations(connection: Connection) -> int:
    """Mark stored packs that a revoked key signed after the last sequence for which the key is trusted.

    Returns the number of gateways with new revocations.
    """
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SETTLE_LOCK])
        cursor.execute("UPDATE gateways SET cut = true WHERE NOT cut RETURNING name")
        gateways = [name for (name,) in cursor]
        for gateway in gateways:
            cursor.execute(statement("revoked_all"), {"gateway": gateway})
    return len(gateways)
