"""The real agent before brokers that the other tests do not use. A broker that is not installed is skipped by name."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.cli.demo import BROKER_CONFIG
from agent.verify import Verifier
from agent.verify.mqtt import hang_up
from receiver.private_rabbitmq import NoRabbit, PrivateRabbit
from tests.kits.broker import until
from tests.kits.house import SECONDLY, House, Meter
from tests.kits.ports import free_port

RUMQTTD = """\
import sys, threading
from iotcore import Broker
Broker(config_path=sys.argv[1]).start()
threading.Event().wait()
"""
AEDES = """\
const lib = require(process.argv[1] + "/aedes");
const start = lib.Aedes && lib.Aedes.createBroker ? lib.Aedes.createBroker() : Promise.resolve(lib());
start.then((broker) => require("net").createServer(broker.handle).listen(+process.argv[2], "127.0.0.1"));
"""
NODE = Path(sys.prefix) / "node" / "node_modules"
NANOMQ = """\
listeners.tcp {{ bind = "127.0.0.1:{port}" }}
mqtt {{ max_packet_size = 1MB }}
auth {{ allow_anonymous = true, no_match = allow }}
"""


class OtherBroker:
    """A broker on a port of loopback."""

    unix = ""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as made:
        yield made


def run(house: House, command: Sequence[str | Path], port: int) -> OtherBroker:
    """Start a broker as a process, and wait until it accepts connections."""
    log = house.folder / "broker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=house.folder)

    def stop() -> None:
        process.terminate()
        process.wait(60)

    house.at_end(stop)

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(answers, what=lambda: log.read_text(errors="replace"))
    return OtherBroker(port)


def rabbitmq(house: House) -> OtherBroker:
    try:
        cluster = PrivateRabbit()
    except NoRabbit as error:
        pytest.skip(str(error))
    house.at_end(cluster.stop)
    cluster.start()
    return OtherBroker(cluster.nodes[0].mqtt_port)


def rumqttd(house: House) -> OtherBroker:
    if find_spec("iotcore") is None:
        pytest.skip("rumqttd is not installed (pip install 'meterhouse[demo]')")
    port, config = free_port(), house.folder / "rumqttd.toml"
    config.write_text(BROKER_CONFIG.format(port=port))
    return run(house, [sys.executable, "-c", RUMQTTD, config], port)


def aedes(house: House) -> OtherBroker:
    if not shutil.which("node") or not (NODE / "aedes").exists():
        pytest.skip(f"aedes is not installed (npm install --prefix {NODE.parent} aedes)")
    port = free_port()
    return run(house, ["node", "-e", AEDES, NODE, str(port)], port)


def nanomq(house: House) -> OtherBroker:
    program = shutil.which("nanomq")
    if program is None:
        pytest.skip("nanomq is not in PATH (neither Debian, PyPI nor npm has it)")
    port, config = free_port(), house.folder / "nanomq.conf"
    config.write_text(NANOMQ.format(port=port))
    return run(house, [program, "start", "--conf", config], port)


@pytest.mark.process
@pytest.mark.parametrize(
    ("start", "version"),
    [(rabbitmq, "5"), (rumqttd, "5"), (nanomq, "5"), (aedes, "3.1.1")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_packs_are_acknowledged_by_another_broker_and_verified_at_its_subscriber(
    house: House, start: Callable[[House], OtherBroker], version: str
) -> None:
    broker = start(house)
    agent = house.agent(
        broker,  # type: ignore[arg-type]
        {"roof": house.field.tcp(Meter(1), Meter(2))}, {"m1": ("roof", 1), "m2": ("roof", 2)}, every=SECONDLY,
        uplink='confirm = "broker"',
    )  # fmt: skip
    verifier, packs = Verifier([agent.kid]), list[str]()
    subscribed: list[bool] = []
    client = Client(
        CallbackAPIVersion.VERSION2,
        protocol=MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311,
    )
    client.on_connect = lambda client, *_: client.subscribe("meterhouse/#", 1)
    client.on_subscribe = lambda *_: subscribed.append(True)

    def came(_client: object, _user: object, message: object) -> None:
        verifier.feed(message.payload, message.topic)  # type: ignore[attr-defined]
        packs.append(message.topic)  # type: ignore[attr-defined]

    client.on_message = came
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    house.at_end(lambda: hang_up(client))
    until(lambda: subscribed)

    agent.start()
    until(lambda: sum(topic.endswith("/m2/readings") for topic in packs) >= 5, what=lambda: agent.said)
    until(lambda: agent.snapshot()["uplinks"]["platform"]["confirmed"] >= 10, what=lambda: agent.snapshot()["uplinks"])
    uplink = agent.snapshot()["uplinks"]["platform"]
    agent.stop()
    until(lambda: not verifier.report().missing, what=verifier.report)
    report = verifier.report()

    assert (uplink["mqtt"], uplink["refused"]) == (version, 0)
    assert report.failed == 0 and report.readings >= 10, report
