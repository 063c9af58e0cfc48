"""Asks gateways for packs that should be here and are not."""

from __future__ import annotations

import json
from typing import Final
from uuid import uuid4

from receiver.database import Connection
from receiver.publisher import Publisher

SETTLED_MIN: Final = 10  # minutes that a hole may fill by itself: backfill comes out of order
AT_ONCE: Final = 200  # requests of one round, one for each gateway
MOST_PACKS: Final = 10_000  # of one request
# holes between packs, and the end that a checkpoint names; each again after 1, 2, 4 ... hours
_WANTED: Final = """
WITH behind AS (
  SELECT h.stream, int8range((SELECT max(upper(b.seqs)) FROM boots b WHERE b.stream = h.stream), h.seq, '[]') AS seqs
  FROM checkpoint_heads h WHERE NOT h.retired AND h.seq >= (SELECT max(upper(b.seqs)) FROM boots b WHERE b.stream = h.stream)
    AND h.to_ms < extract(epoch FROM now() - make_interval(mins => %(settled)s)) * 1000
), wanted AS (
  SELECT h.stream, part.seqs FROM holes h CROSS JOIN LATERAL unnest(h.missing) AS part (seqs)
  WHERE (SELECT p.from_ms FROM packs p WHERE p.stream = h.stream AND p.seq = upper(part.seqs) LIMIT 1)
    < extract(epoch FROM now() - make_interval(mins => %(settled)s)) * 1000
  UNION ALL SELECT stream, seqs FROM behind WHERE NOT isempty(seqs)
)
SELECT DISTINCT ON (s.gateway) w.stream, s.name, s.gateway, lower(w.seqs), least(upper(w.seqs) - 1, lower(w.seqs) + %(most)s - 1)
FROM wanted w JOIN streams s ON s.id = w.stream JOIN gateways g ON g.name = s.gateway
LEFT JOIN replays r ON r.stream = w.stream AND r.first = lower(w.seqs)
WHERE r.stream IS NULL OR r.asked < now() - interval '1 hour' * least(24, 2 ^ (r.times - 1))
ORDER BY s.gateway, lower(w.seqs) LIMIT %(limit)s"""


def ask_again(connection: Connection, publisher: Publisher) -> int:
    """One round of requests. Returns how many were sent."""
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
