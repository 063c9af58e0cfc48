"""Publishes the newest values of each device as one retained message, for dashboards. All values are from verified
packs.

The messages are not signed, but each value names the signed pack that contains it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from receiver.bodies import Bodies
from receiver.database import Connection, boot_text, json_text, statement
from receiver.publisher import Publisher

PREFIX: Final = "meterhouse/latest/v1/"  # not below meterhouse/v1/, so that no gateway has the right to publish here
AT_ONCE: Final = 200  # one round publishes at most this many messages
EVERY_S: Final = 10.0  # minimum time between two messages of a device
PACKS: Final = 100  # one round reads at most the newest 100 packs of a device
LOCK: Final = 7_235_704  # advisory lock, so that only one keeper of a database publishes

_NEWS: Final = statement("latest_news")
_PACKS: Final = statement("latest_packs")
_GONE: Final = statement("latest_gone")


class LatestPublisher:
    """Publishes new values. The database records which values were published, so they are not published again after a
    restart.
    """

    def __init__(self, publisher: Publisher, every_s: float = EVERY_S) -> None:
        self._publisher, self._every_s = publisher, every_s
        self._is_first = True
        self.sent = 0

    def step(self, connection: Connection) -> int:
        """Run one round. Returns the number of devices with new values."""
        if not self._publisher.is_connected:
            return 0
        is_first, self._is_first, sent = self._is_first, True, 0
        limits = {"all": is_first, "every": self._every_s, "most": AT_ONCE}
        with connection.transaction():
            if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK]).fetchall() != [(True,)]:
                return 0
            gone = connection.execute(_GONE, limits).fetchall()
            for (name,) in gone:
                self._publisher.publish(PREFIX + name, b"", retain=True)  # an empty message removes the retained one
            # a removed value is replaced even if the gateway is silent and has no new packs
            rows = connection.execute(_NEWS, limits | {"all": is_first or bool(gone)}).fetchall()
            bodies = Bodies(connection)
            for stream, name, boot, after, seq, points in rows:
                found = _newest(connection, bodies, stream, boot, after)
                merged = {**(points or {}), **found}
                body = json.dumps({"points": merged, "stream": name}, sort_keys=True, separators=(",", ":"))
                if found and not self._publisher.publish(PREFIX + name, body.encode(), retain=True):
                    break
                _note(connection, stream, boot, seq, merged)
                sent += bool(found)
        # if there may be more devices, the next round again looks at packs of any age
        self._is_first = len(rows) == AT_ONCE
        self.sent += sent
        return sent


def _newest(connection: Connection, bodies: Bodies, stream: int, boot: int, after: int) -> dict[str, dict[str, Any]]:
    """The last reading of each point in the sound packs after the sequence ``after``: point name -> reading."""
    limits = {"stream": stream, "boot": boot, "after": after, "most": PACKS}
    rows = connection.execute(_PACKS, limits).fetchall()
    found: dict[str, dict[str, Any]] = {}
    for seq, number, body in reversed(rows):
        try:
            records = json.loads(bodies.read(bytes(body)))["e"]
        except ValueError:
            continue  # the row is damaged, which `platform audit` reports
        base = 0.0
        for record in records:
            base = record.get("bt", base)
            found[record["n"]] = _value(record, base, f"{boot_text(number)}/{seq}")
    return found


def _value(record: dict[str, Any], base: float, pack: str) -> dict[str, Any]:
    value = next(record[name] for name in ("v", "vs", "vb") if name in record)
    made = {"pack": pack, "q": record.get("q", "good"), "t": round(base + record.get("t", 0), 3),
            "u": record.get("u", record.get("du", "")), "v": value}  # fmt: skip
    return made | ({"x": record["x"]} if "x" in record else {})


def _note(connection: Connection, stream: int, boot: int, seq: int, points: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO latest (stream, boot, seq, points) VALUES (%s, %s, %s, %s) ON CONFLICT (stream) DO UPDATE SET "
        "boot = excluded.boot, seq = excluded.seq, points = excluded.points, published = clock_timestamp()",
        [stream, boot, seq, json_text(points)],
    )
