"""The platform behind a real broker: packs per second of one worker, and CPU seconds of all processes.

    python -m bench.platform_load [--broker mosquitto] [--gateways 200] [--rounds 31] [--json]

Packs of a simulated fleet are published while the worker is stopped, so that the publisher does not compete for the
CPU. Each pack has 100 readings of random digits. Then the worker continues, with a private PostgreSQL and a keeper.
``--broker rabbitmq`` uses a quorum queue on one node.

CPU seconds are per million readings. ``signature_us`` is the time of one signature check, measured in the same run. The
last two lines are the wall time and the CPU time per pack. They are multiples of ``signature_us``, so that different
machines can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.platform import START_MS, postgres_s
from bench.publisher import connected, publish
from bench.rig import broker, cost_of, pid_of, process
from receiver.database import Connection, connect, create_tables
from receiver.fleet import MadeGateway, make_fleet
from receiver.private_postgres import PrivatePostgres
from receiver.private_rabbitmq import PrivateRabbit
from receiver.trust import Enrolment, enrol

READINGS = 100  # number of readings in a pack
IN_FLIGHT = 5000
STUCK_S = 120.0


def measure(kind: str, gateways: int, rounds: int) -> dict[str, Any]:
    """Publish all packs, then let one worker store them and one keeper check them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meterhouse-load-")))
        server = PrivatePostgres()
        server.start()
        stack.callback(server.stop)
        create_tables(server.dsn)
        fleet = make_fleet(gateways, 2, START_MS, faults=False)
        connection = stack.enter_context(connect(server.dsn))
        enrol(connection, [Enrolment(one.name, [one.signer.kid]) for one in fleet])
        if kind == "rabbitmq":
            rabbit = PrivateRabbit()
            stack.callback(rabbit.stop)
            rabbit.start()
            port, source, broker_pid = rabbit.nodes[0].mqtt_port, rabbit.amqp_url(), rabbit.nodes[0].pid
        else:
            port = stack.enter_context(broker(folder))
            source, broker_pid = f"mqtt://127.0.0.1:{port}", pid_of(str(folder / "mosquitto.conf"))
        command = [sys.executable, "-m", "agent.cli.main", "platform"]
        named = f"load{os.getpid()}"
        worker = stack.enter_context(
            process([*command, "work", "--from", source, "--db", server.dsn, "--name", named], folder / "work.log")
        )
        client = stack.enter_context(connected(port, folder, IN_FLIGHT))
        keeper = stack.enter_context(process([*command, "keep", "--db", server.dsn], folder / "keep.log"))
        pids = {"worker": worker.pid, "keeper": keeper.pid, "broker": broker_pid}
        _wait(connection, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meterhouse'", 3)
        worker.send_signal(signal.SIGSTOP)
        before = _costs(pids, server.folder)
        packs = publish(client, _sent(fleet, rounds), IN_FLIGHT) - len(fleet)
        begin = time.monotonic()
        worker.send_signal(signal.SIGCONT)
        _wait(connection, "SELECT coalesce(sum(packs), 0) FROM lots", packs)
        seconds = time.monotonic() - begin
        _wait(connection, "SELECT coalesce(sum(packs), 0) FROM lots WHERE checked IS NOT NULL", packs)
        used = {name: cost - before[name] for name, cost in _costs(pids, server.folder).items()}
    millions, unit_s = packs * READINGS / 1e6, _signature_s()
    return {
        "broker": kind, "packs": packs, "packs_a_second": round(packs / seconds),
        **{f"{name}_s": round(cost / millions, 2) for name, cost in used.items()},
        "all_s": round(sum(used.values()) / millions, 2),
        "signature_us": round(unit_s * 1e6, 1),
        "wall_signatures": round(seconds / packs / unit_s, 2),
        "cpu_signatures": round(sum(used.values()) / packs / unit_s, 2),
    }  # fmt: skip


def _signature_s() -> float:
    """CPU seconds of one signature check over 5.4 kB. It is used as a unit, so that machines can be compared."""
    key, message = Ed25519PrivateKey.generate(), bytes(5400)
    signature, public, rounds = key.sign(message), key.public_key(), 3000
    begin = time.process_time()
    for _ in range(rounds):
        public.verify(signature, message)
    return (time.process_time() - begin) / rounds


def _costs(pids: Mapping[str, int], database: Path) -> dict[str, float]:
    return {name: cost_of(pid).cpu_s for name, pid in pids.items()} | {"postgres": postgres_s(database)}


def _sent(fleet: list[MadeGateway], rounds: int) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (topic, body, retained) of all messages of the fleet."""
    for one in fleet:
        yield f"meterhouse/v1/{one.name}/keys", one.keys(), True
    for number in range(rounds):
        for one in fleet:
            for topic, body in one.round(number):
                yield topic, body, False


def _wait(connection: Connection, query: str, wanted: int) -> None:
    """Wait until a query returns ``wanted`` or more. Raises TimeoutError if its result has not changed for a long
    time.
    """
    seen, moved = -1, time.monotonic()
    while (now := int(connection.execute(query.encode()).fetchall()[0][0])) < wanted:
        if now != seen:
            seen, moved = now, time.monotonic()
        elif time.monotonic() - moved > STUCK_S:
            raise TimeoutError(f"{now} of {wanted}: {query}")
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", choices=["mosquitto", "rabbitmq"], default="mosquitto")
    parser.add_argument("--gateways", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    made = measure(options.broker, options.gateways, options.rounds)
    print(json.dumps(made) if options.json else "\n".join(f"{name:16} {value}" for name, value in made.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
