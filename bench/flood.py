"""An attacker sends a million small messages to a platform: their cost, and whether all honest packs are stored.

    python -m bench.flood [--messages 1000000] [--json]

A private mosquitto, PostgreSQL, worker and keeper run on loopback. Ten honest gateways publish while the attacker sends
several kinds of messages:

- garbage on the topic of one of these gateways;
- packs and keys of gateways that are not enrolled;
- messages on foreign topics, broken frames and status messages.

Exits with 1 if an honest pack is not stored, if a finding appears, or if a table exceeds its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.publisher import connected, publish
from bench.rig import cost_of, pid_of
from receiver.database import connect, create_tables
from receiver.demo import _spawn, _start_mosquitto
from receiver.fleet import MadeGateway, make_fleet
from receiver.private_postgres import PrivatePostgres
from receiver.store import MAX_REFUSED_OF_ONE, MAX_UNKNOWN
from receiver.trust import Enrolment, enrol

ROUNDS = 12
IN_FLIGHT, WINDOW = 20_000, 2000
STUCK_S = 120.0
STATE = (
    "SELECT (SELECT count(*) FROM packs), (SELECT count(*) FROM refused), "
    "(SELECT coalesce(sum(times), 0) FROM refusals), "
    "(SELECT count(*) FROM unknown_gateways), (SELECT count(*) FROM all_findings), pg_database_size(current_database())"
)


def garbage(count: int, victim: str, gateway: str) -> Iterator[tuple[str, bytes]]:
    """Yield (topic, body) of each message of the attacker. The kinds are mixed."""
    for number in range(count):
        kind = number % 10
        if kind < 3:
            yield f"meterhouse/v1/{victim}/readings", b"x%d" % number
        elif kind < 6:
            yield f"meterhouse/v1/evil{number % 100_000}/g/m/readings", b"{}"
        elif kind < 8:
            yield f"meterhouse/v1/evil/g{number % 300_000}/keys", b'{"records":[{"kid":"' + b"A" * 43 + b'"}]}'
        elif kind == 8:
            topic = f"{gateway}/checkpoint/1" if number % 20 == 8 else "a b/c/d/readings"
            yield f"meterhouse/v1/{topic}", b"\x28\xb5\x2f\xfd\x00"
        else:
            yield f"meterhouse/v1/{gateway}/status", b'{"state":"online","version":"%d"}' % number


def measure(messages: int) -> dict[str, Any]:
    """Send all messages, then wait until the honest packs are stored and the tables do not change any more."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meterhouse-flood-")))
        server = PrivatePostgres()
        server.start()
        stack.callback(server.stop)
        create_tables(server.dsn)
        port = _start_mosquitto(stack, folder)
        fleet = make_fleet(10, 1, round(time.time() - 600) * 1000, faults=False)
        honest = [message for number in range(ROUNDS) for one in fleet for message in one.round(number)]
        with connect(server.dsn) as connection:
            enrol(connection, [Enrolment(one.name, [one.signer.kid]) for one in fleet])
        broker, name = f"mqtt://127.0.0.1:{port}", f"flood{os.getpid()}"
        _spawn(stack, folder, "work", "--from", broker, "--db", server.dsn, "--name", name)
        _spawn(stack, folder, "keep", "--broker", broker, "--db", server.dsn)
        begin = time.monotonic()
        with connected(port, folder, WINDOW) as client:
            publish(client, _mixed(fleet, honest, messages), IN_FLIGHT)
        sent_s = time.monotonic() - begin
        state = _settled(server.dsn, len(honest))
        cost = cost_of(pid_of(name))
    packs, kept, refused, unknown, findings, size = state
    return {
        "messages": messages, "sent_s": round(sent_s), "settled_s": round(time.monotonic() - begin),
        "worker_us": round(cost.cpu_s / messages * 1e6), "worker_mib": round(cost.rss_mb), "honest_packs": len(honest),
        "stored_packs": packs, "refused": int(refused), "refused_kept": kept, "unknown_kept": unknown,
        "findings": findings, "database_mb": round(size / 1e6),
    }  # fmt: skip


def _mixed(
    fleet: list[MadeGateway], honest: list[tuple[str, bytes]], messages: int
) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (topic, body, retained): first the keys of the fleet, then its packs, spread evenly among the garbage."""
    for one in fleet:
        yield f"meterhouse/v1/{one.name}/keys", one.keys(), True
    waiting, each = iter(honest), max(1, messages // len(honest))
    for number, (topic, body) in enumerate(garbage(messages, fleet[0].streams[0].name, fleet[1].name)):
        yield topic, body, False
        if number % each == 0 and (pack := next(waiting, None)):
            yield *pack, False
    for topic, body in waiting:
        yield topic, body, False


def _settled(dsn: str, honest: int) -> tuple[Any, ...]:
    """Wait until nothing has changed for some seconds. Returns the row of the query ``STATE``."""
    before, moved = None, time.monotonic()
    with connect(dsn) as connection:
        while True:
            now = connection.execute(STATE).fetchall()[0]
            if now[:4] != before:
                before, moved = now[:4], time.monotonic()
            quiet = time.monotonic() - moved
            if (quiet > 10 and now[0] >= honest) or quiet > STUCK_S:
                return now
            time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    made = measure(options.messages)
    print(json.dumps(made) if options.json else "\n".join(f"{name:16} {value}" for name, value in made.items()))
    lost = made["stored_packs"] != made["honest_packs"] or made["findings"]
    return 1 if lost or made["refused_kept"] > 2 * MAX_REFUSED_OF_ONE or made["unknown_kept"] > MAX_UNKNOWN else 0


if __name__ == "__main__":
    raise SystemExit(main())
