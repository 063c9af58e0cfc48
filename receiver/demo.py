"""`meterhouse platform demo`: runs the whole platform on this machine, with packs of a simulated fleet."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from drivers.model import GatewayError
from receiver.database import connect, create_tables
from receiver.fleet import MadeGateway, make_fleet
from receiver.fleet_state import FleetState, fleet_state
from receiver.private_postgres import PrivatePostgres
from receiver.trust import Enrolment, enrol

ROUNDS: Final = 12  # number of packs that each stream publishes
DEVICES: Final = 2
SILENT_MS: Final = 600_000
STUCK_S: Final = 120.0  # the demo fails after this time without progress
MOSQUITTO: Final = """listener 0 {socket}
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
"""


class DemoError(GatewayError):
    """The demo cannot run here, or did not finish."""

    exit_code = 5


def run_demo(gateways: int, say: Callable[[str], None]) -> FleetState:
    """Start all programs, publish the packs of the fleet, wait until all are checked, and stop all programs.

    Returns the state of the fleet. Raises NoPostgres or DemoError if a program is missing, and DemoError if the demo
    does not finish.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="meterhouse-platform-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = PrivatePostgres()
        began = time.monotonic()
        postgres.start()
        stack.callback(postgres.stop)
        create_tables(postgres.dsn)
        say(f"private PostgreSQL with our tables, ready after {time.monotonic() - began:.1f} s")
        port = _start_mosquitto(stack, folder)
        say(f"mosquitto on 127.0.0.1:{port}")
        start_ms = round(time.time() - ROUNDS * 10) * 1000
        fleet = _fleet(gateways, start_ms)
        want = _expected(gateways, start_ms)
        with connect(postgres.dsn) as connection:
            enrol(connection, [Enrolment(one.name, [one.signer.kid]) for one in fleet[:-1]])
        say(f"{gateways} gateways with {DEVICES} meters each; all but one enrolled")
        broker = f"mqtt://127.0.0.1:{port}"
        for number in (1, 2):
            _spawn(stack, folder, "work", "--from", broker, "--db", postgres.dsn, "--name", f"demo{number}")
        _spawn(stack, folder, "keep", "--broker", broker, "--db", postgres.dsn)
        sent = _publish(fleet, port, folder)
        say(f"{sent} messages published, each confirmed by the broker; two workers and a keeper at work")
        return _settled(postgres.dsn, want, folder)


def _fleet(gateways: int, start_ms: int) -> list[MadeGateway]:
    """Make the simulated fleet. Every fiftieth gateway has been silent for ten minutes."""
    fleet = make_fleet(gateways, DEVICES, start_ms)
    for gateway in fleet[5::50]:
        for stream in gateway.streams:
            stream.at_ms -= SILENT_MS
    return fleet


def _start_mosquitto(stack: ExitStack, folder: Path) -> int:
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise DemoError("mosquitto is not installed", where="demo", hint="apt-get install mosquitto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "mosquitto.conf"
    config.write_text(MOSQUITTO.replace("0 {socket}", f"{port} 127.0.0.1"))
    process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(_end, process)
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return port
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise DemoError(
                    "mosquitto did not start", where=str(config), hint="Try it by hand: mosquitto -c FILE"
                ) from None
            time.sleep(0.05)


def _spawn(stack: ExitStack, folder: Path, *command: str) -> None:
    log = (folder / f"{command[0]}{command[-1]}.log".replace("/", "_")).open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "agent.cli.main", "platform", *command],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    log.close()
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def messages(fleet: list[MadeGateway]) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (topic, bytes, retained) of all messages. In each round the gateways come in another random order."""
    shuffled = random.Random(7)
    for gateway in fleet:
        yield f"meterhouse/v1/{gateway.name}/keys", gateway.keys(), True
    for number in range(ROUNDS):
        order = list(fleet)
        shuffled.shuffle(order)
        for gateway in order:
            for topic, body in gateway.round(number):
                yield topic, body, False
                if number == ROUNDS // 2 and shuffled.random() < 0.1:
                    yield topic, body, False  # a duplicate
    for gateway in fleet:
        yield f"meterhouse/v1/{gateway.name}/checkpoint/1", gateway.checkpoint(), True


def _publish(fleet: list[MadeGateway], port: int, folder: Path) -> int:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    _wait_for_subscribers(client, folder)
    sent, pending = 0, list[Any]()
    for topic, body, retain in messages(fleet):
        pending.append(client.publish(topic, body, qos=1, retain=retain))
        sent += 1
        if len(pending) >= 1000:
            for info in pending:
                info.wait_for_publish(30)
            pending.clear()
    for info in pending:
        info.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()
    return sent


def _wait_for_subscribers(client: mqtt.Client, folder: Path) -> None:
    """Wait until a worker has subscribed, because the broker drops messages that nobody has subscribed to.

    The reason code in the PUBACK for a test message tells whether there was a subscriber.
    """
    until = time.monotonic() + 60
    taken: list[int] = []

    def on_publish(client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        taken.append(reason.value)

    client.on_publish = on_publish
    answered = 0
    while answered < 2:  # until two probes in a row were confirmed
        client.publish("meterhouse/v1/demo/probe/status", b'{"state":"online"}', qos=1)
        time.sleep(0.2)
        answered = answered + 1 if taken and taken[-1] == 0 else 0
        if time.monotonic() > until:
            raise DemoError("no worker subscribed", where="demo", hint=_last_words(folder))
    client.on_publish = None


def _settled(dsn: str, want: int, folder: Path) -> FleetState:
    """Wait until every pack is stored, checked and settled."""
    progress, moved = (0, 0), time.monotonic()
    query = "SELECT (SELECT count(*) FROM packs), (SELECT count(*) FROM lots WHERE checked IS NULL)"
    with connect(dsn) as connection:
        while True:
            packs, lots = connection.execute(query).fetchall()[0]
            if packs >= want and lots == 0:
                state = fleet_state(connection)
                if not state.unsettled and state.unknown and all(one.newest_ms is not None for one in state.gateways):
                    return state
            if (packs, lots) != progress:
                progress, moved = (packs, lots), time.monotonic()
            if time.monotonic() - moved > STUCK_S:
                raise DemoError(f"{packs} of {want} packs arrived", where="demo", hint=_last_words(folder))
            time.sleep(0.3)


def _expected(gateways: int, start_ms: int) -> int:
    """The number of packs that must be stored. It is counted by generating the fleet again. The last gateway is not
    enrolled, so its packs do not count.
    """
    fleet = _fleet(gateways, start_ms)[:-1]
    sent = {
        (topic.rpartition("/")[0], body)
        for one in fleet
        for number in range(ROUNDS)
        for topic, body in one.round(number)
    }
    return len(sent) - sum(one.fault in ("tampered", "foreign", "fork") for one in fleet)


def _last_words(folder: Path) -> str:
    """The last lines in the logs of workers and keeper."""
    lines = [
        line for file in sorted(folder.glob("*.log")) for line in file.read_text(errors="replace").splitlines()[-1:]
    ]
    return " / ".join(lines) or "The workers logged nothing"
