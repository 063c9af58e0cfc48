"""The fleet's page with many gateways: response times and sizes.

    python -m bench.fleet_page [--gateways 1000] [--streams 10] [--days 60] [--json]

SQL statements write the state of a simulated fleet to a private PostgreSQL: sums, boots, heads, holes, findings and
refusals. Only a few packs are written: those next to holes, and the newest ones. First the query of the fleet's state
is measured alone. Then each page is requested five times, and the slowest response counts.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from receiver.database import Connection, connect, create_tables
from receiver.private_postgres import PrivatePostgres

MADE = """
CREATE TEMP TABLE s AS
  SELECT n AS id, gateway || '/meter' || d AS name, gateway, g, d FROM (
    SELECT row_number() OVER () AS n, g, d,
      'site' || lpad((g / 20)::text, 3, '0') || '/gw' || lpad(g::text, 6, '0') AS gateway
    FROM generate_series(1, %(gateways)s) g, generate_series(1, %(streams)s) d) x;
INSERT INTO streams SELECT id, name, gateway FROM s;
INSERT INTO pins SELECT DISTINCT gateway, 'thumb' FROM s;
INSERT INTO statuses SELECT DISTINCT gateway, '0.1.0', true, true FROM s;
INSERT INTO days SELECT id, current_date - b, 1440, 86000, 86400, 400, 0 FROM s, generate_series(0, %(days)s - 1) b;
INSERT INTO gap_days SELECT id, current_date - b, 'timeout', 400 FROM s, generate_series(0, %(days)s - 1) b;
INSERT INTO boots SELECT id, 1, NULL, true, 1,
  CASE WHEN mod(id, 10) = 0 THEN '{[1,100),[103,5000)}' ELSE '{[1,5000)}' END::int8multirange,
  extract(epoch FROM now() - interval '30 days') * 1000, extract(epoch FROM now()) * 1000 FROM s;
INSERT INTO checkpoint_heads
  SELECT id, 1, 4999, md5(id::text)::uuid, extract(epoch FROM now()) * 1000, 1, false FROM s;
INSERT INTO packs
  SELECT id, seq, 1, NULL, 1795500900000 + seq * 60000, 1795500960000 + seq * 60000, md5(id::text)::uuid, NULL,
    md5('b')::uuid, 0, 1, 600, 600, 0, 0, NULL, NULL, NULL, false, false, NULL, NULL, ''
  FROM s, unnest(ARRAY[99, 103, 4999]) seq WHERE mod(id, 10) = 0 OR seq = 4999;
INSERT INTO findings SELECT id, 7, 1, 'chain' FROM s WHERE mod(id, 50) = 0;
INSERT INTO refusals SELECT gateway, current_date, 'signature', 9, 'no', now() FROM s WHERE d = 1 AND mod(g, 7) = 0;
ANALYZE;
"""


PAGES = {"fleet": "/", "filtered": "/?state=incomplete&sort=seen", "gateway": "/gateway/site000/gw000007"}


def fill(connection: Connection, gateways: int, streams: int, days: int) -> None:
    """Write a fleet in which every tenth stream has a hole, and every fiftieth stream has a finding."""
    size = {"gateways": gateways, "streams": streams, "days": days}
    for text in MADE.split(";\n"):
        if text.strip():
            connection.execute(text.encode(), size if "%(" in text else None)


def measure(gateways: int, streams: int, days: int) -> dict[str, Any]:
    """Measure the query of the fleet's state, and for each page the response time in seconds and the size in bytes."""
    from starlette.testclient import TestClient

    from receiver.page.app import make_app
    from receiver.page.data import FleetData

    server = PrivatePostgres(settings=["fsync=off"])
    server.start()
    try:
        create_tables(server.dsn)
        with connect(server.dsn) as connection:
            fill(connection, gateways, streams, days)
        made: dict[str, Any] = {"gateways": gateways, "streams": gateways * streams, "days": days}
        begin = time.perf_counter()
        data = FleetData([server.dsn])
        data.fleet()
        made["state_s"] = round(time.perf_counter() - begin, 3)
        data.close()
        with TestClient(make_app([server.dsn]), "http://127.0.0.1") as browser:
            browser.get("/")  # this is not measured, because the first request of a new process is slower
            for name, path in PAGES.items():
                times = []
                for _ in range(5):
                    begin = time.perf_counter()
                    answer = browser.get(path)
                    times.append(time.perf_counter() - begin)
                    assert answer.status_code == 200, answer.text
                made[f"{name}_s"], made[f"{name}_bytes"] = round(max(times), 3), len(answer.content)
        return made
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gateways", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    made = measure(options.gateways, options.streams, options.days)
    print(json.dumps(made) if options.json else "\n".join(f"{name:20} {value}" for name, value in made.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
