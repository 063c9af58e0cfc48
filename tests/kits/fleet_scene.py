"""A database with a made-up fleet for the fleet's page: two weeks, every kind of fault, and hostile names."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta

from receiver.database import Connection, connect
from receiver.fleet import MadeGateway, make_fleet
from receiver.keeper import Keeper
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import Feed

MARKUP = '<img src=x onerror="alert(1)">&"\''
GATEWAYS, ROUNDS = 30, 9
LONG_S = 10_800  # length of the stream ``long``


def fill(dsn: str) -> list[MadeGateway]:
    """Fill a database: a worker and a keeper process the fleet's messages. The last gateway is not enrolled."""
    now_s = int(time.time()) // 900 * 900
    fleet = make_fleet(GATEWAYS, 2, (now_s - 600) * 1000)
    sent: list[tuple[str, bytes]] = []
    for one in fleet:
        sent.append((f"meterhouse/v1/{one.name}/keys", one.keys()))
    for number in range(ROUNDS):
        sent += [message for one in fleet for message in one.round(number)]
    sent += _three_hours(fleet[0], now_s)
    sent += [(f"meterhouse/v1/{one.name}/checkpoint/1", one.checkpoint()) for one in fleet]
    version = '{"state":"online","version":"' + MARKUP.replace('"', '\\"') + '"}'
    sent.append((f"meterhouse/v1/{fleet[0].name}/status", version.encode()))
    sent += [(f"meterhouse/v1/{fleet[1].name}/meter1/readings", MARKUP.encode() + b"%d" % n) for n in range(20)]
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(one.name, [one.signer.kid]) for one in fleet[:-1]])
        enrol(connection, [Enrolment("site09/silent", [fleet[0].signer.kid[::-1]])])
    feed = Feed(sent)
    store = Store(dsn)
    worker, keeper = Worker(feed, [store]), Keeper(dsn)
    while feed.left or worker.waiting:
        worker.step(0)
    while keeper.step():
        pass
    store.close()
    keeper.close()
    with connect(dsn) as connection:
        _two_weeks(connection)
    return fleet


def _three_hours(gateway: MadeGateway, now_s: int) -> list[tuple[str, bytes]]:
    """A stream of three hours: whole quarters, one with a gap, one without three of its packs, one doubtful."""
    stream = make_fleet(1, 3, (now_s - LONG_S) * 1000)[0].streams[2]
    stream.signer, stream.name = gateway.signer, f"{gateway.name}/long"
    topic, sent = f"meterhouse/v1/{stream.name}/readings", [stream.pack()]
    for number in range(LONG_S // 60):
        if number == 65:  # a minute of silence, which the gateway states
            low = stream.at_ms // 1000
            gap = {"from": low, "points": "*", "reason": "timeout", "to": low + 60}
            sent.append(stream.pack(60, e=[], gaps=[gap]))
        elif number == 100:
            records = stream._records(60)
            records[0] |= {"q": "suspect"}
            sent.append(stream.pack(60, e=records))
        else:
            made = stream.pack(60)
            if not 45 <= number < 48:  # these three packs never arrive
                sent.append(made)
    return [(topic, raw) for raw in sent]


def _two_weeks(connection: Connection) -> None:
    """Add sums for the days before, as if their packs had been dropped."""
    rng, today = random.Random(1), datetime.now(UTC).date()
    rows, reasons = [], []
    for (stream,) in connection.execute("SELECT id FROM streams ORDER BY name").fetchall():
        for back in range(1, 14):
            due = 86_400
            gaps = rng.choice((0, 0, 0, 0, 0, 200, 900, 9_000, 60_000)) if rng.random() < 0.5 else 0
            day = today - timedelta(days=back)
            rows.append((stream, day, 1440, due - gaps, due, gaps))
            if gaps:
                reasons.append((stream, day, rng.choice(("timeout", "crc", "absent")), gaps))
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO days VALUES (%s, %s, %s, %s, %s, %s, 0) ON CONFLICT DO NOTHING", rows)
        cursor.executemany("INSERT INTO gap_days VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", reasons)
        row = (reasons[0][0], today, MARKUP, 5)
        cursor.execute("INSERT INTO gap_days VALUES (%s, %s, %s, %s)", row)
