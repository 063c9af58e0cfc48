"""Requests missing packs from gateways."""

from __future__ import annotations

import json
from typing import Final
from uuid import uuid4

from receiver.database import Connection, statement
from receiver.publisher import Publisher

# a hole is requested after this many minutes, because backfill arrives out of order and may still fill the hole
SETTLED_MIN: Final = 10
AT_ONCE: Final = 200  # one round sends at most this many requests, one to each gateway
MOST_PACKS: Final = 10_000  # one request names at most this many packs
_WANTED: Final = statement("wanted")


def ask_again(connection: Connection, publisher: Publisher) -> int:
    """Send one round of requests. Returns their number."""
    if not publisher.is_connected:
        return 0
    limits = {"settled": SETTLED_MIN, "most": MOST_PACKS, "limit": AT_ONCE}
    sent = 0
    for stream, name, gateway, first, last in connection.execute(_WANTED, limits).fetchall():
        request = uuid4().hex[:16]
        body = {"first": first, "id": request, "last": last, "stream": name}
        if not publisher.publish(f"meterhouse/v1/{gateway}/replay/request", json.dumps(body).encode()):
            break
        connection.execute(
            "INSERT INTO replays (stream, first, last, id) VALUES (%s, %s, %s, %s) ON CONFLICT (stream, first, last) "
            "DO UPDATE SET id = excluded.id, asked = now(), times = replays.times + 1",
            [stream, first, last, request],
        )
        sent += 1
    return sent
