"""The access list of docs/deploy.md in a real mosquitto: who may write which topics; the agent works with it."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.uplink import Uplink
from agent.verify.mqtt import hang_up
from tests.kits.delivery import PATIENCE_S, Mosquitto, StoreOutbox, destination, fresh, password, until
from tests.kits.packs import Maker

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
OURS, OTHER = "park7/gw01", "park7/gw02"
USERS = (OURS, OTHER, "platform", "auditor")
# the platform writes these topics, the gateway all others
ASKED = ("ack", "replay/request")


def block(heading: str) -> str:
    """The first block of code below a heading of docs/deploy.md."""
    _, found, rest = (DOCS / "deploy.md").read_text().partition(f"\n### {heading}\n")
    assert found, heading
    return re.findall(r"```\w*\n(.*?)```", rest, re.S)[0]


def topics(gateway: str) -> list[str]:
    """All topics of a gateway, as docs/asyncapi.yaml has them."""
    addresses = re.findall(r"address: (meterhouse/v1/\S+)", (DOCS / "asyncapi.yaml").read_text())
    site, box = gateway.split("/")
    names = {"{site}": site, "{gateway}": box, "{stream}": "inv1", "{page}": "0"}
    found = [re.sub(r"\{\w+\}", lambda m: names[m[0]], address) for address in addresses]
    assert len(found) == 9
    return found


class Person:
    """A client with a name and a password."""

    def __init__(self, port: int, name: str) -> None:
        self._codes: queue.Queue[str] = queue.Queue()
        self._ready: queue.Queue[Any] = queue.Queue()
        self.heard: list[str] = []
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.username_pw_set(name, f"of {name}")
        self.client.on_publish = lambda client, data, mid, code, properties: self._codes.put(code.getName())
        self.client.on_message = lambda client, data, message: self.heard.append(message.topic)
        self.client.on_subscribe = lambda *rest: self._ready.put(None)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def writes(self, topic: str, text: str = "{}") -> bool:
        """Publish; whether the broker let us."""
        self.client.publish(topic, text, 1)
        code = self._codes.get(timeout=PATIENCE_S)
        assert code in {"Success", "No matching subscribers", "Not authorized"}, code
        return code != "Not authorized"

    def listen(self, topic: str) -> None:
        self.client.subscribe(topic, 1)
        self._ready.get(timeout=PATIENCE_S)

    def close(self) -> None:
        hang_up(self.client)


@pytest.fixture
def port(broker: Callable[..., Mosquitto], tmp_path: Path) -> int:
    """A mosquitto with the documented access list and the users in it."""
    if not shutil.which("mosquitto_passwd"):
        pytest.skip("no mosquitto_passwd here: apt-get install mosquitto")
    acl, passwords = tmp_path / "meterhouse.acl", tmp_path / "meterhouse.passwd"
    acl.write_text(block("mosquitto"))
    passwords.write_text("".join(f"{name}:of {name}\n" for name in USERS))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
    for path in (acl, passwords):
        path.chmod(0o600)
    return broker("allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}").port


@pytest.fixture
def person(port: int) -> Iterator[Callable[[str], Person]]:
    made: list[Person] = []

    def come(name: str) -> Person:
        made.append(Person(port, name))
        return made[-1]

    yield come
    for one in made:
        one.close()


def test_each_user_writes_only_its_own_topics(person: Callable[[str], Person]) -> None:
    people = {name: person(name) for name in USERS}
    for topic in topics(OURS):
        asked = topic.endswith(ASKED)
        may = {name for name in USERS if people[name].writes(topic)}
        assert may == ({"platform"} if asked else {OURS}), topic
    assert not people[OURS].writes("meterhouse/v1/park7/gw01/inv1/other")
    assert not people[OURS].writes("elsewhere") and not people["auditor"].writes(f"meterhouse/v1/{OURS}/ack")


def test_a_gateway_receives_only_its_own_messages(person: Callable[[str], Person]) -> None:
    ours, other, platform, auditor = (person(name) for name in USERS)
    for one in (ours, other, platform, auditor):
        one.listen("meterhouse/#")
    for topic in topics(OURS):
        assert (platform if topic.endswith(ASKED) else ours).writes(topic)
    everything = sorted(topics(OURS))
    until(lambda: sorted(platform.heard) == sorted(auditor.heard) == everything)
    until(lambda: sorted(ours.heard) == [topic for topic in everything if topic.endswith(ASKED)])
    assert other.heard == []


def test_the_agent_delivers_and_replays_with_this_access_list(
    person: Callable[[str], Person],
    port: int,
    outbox: Callable[..., StoreOutbox],
    uplink: Callable[..., Uplink],
    tmp_path: Path,
) -> None:
    """Packs are delivered when the platform's ack has arrived, and a replay is answered."""
    platform, at, make = person("platform"), outbox(), Maker("park7/gw01/inv1")
    platform.listen(f"meterhouse/v1/{OURS}/#")
    up = uplink(at, destination(port, username=OURS, password=password(tmp_path, f"of {OURS}"), confirm="platform"))
    packs = [make(birth=True), fresh(make), fresh(make)]
    at.commit(*packs)
    base = f"meterhouse/v1/{OURS}"
    until(lambda: platform.heard.count(f"{base}/inv1/readings") + platform.heard.count(f"{base}/inv1/backfill") == 3)
    assert at.pending() == 3
    digest = make.prev
    ack = {"stream": make.stream, "boot": make.boot, "first": 1, "last": 3, "hash": digest}
    assert platform.writes(f"{base}/ack", json.dumps(ack))
    until(lambda: at.pending() == 0)
    request = {"id": "7f", "stream": make.stream, "first": 2, "last": 3}
    assert platform.writes(f"{base}/replay/request", json.dumps(request))
    until(lambda: f"{base}/replay/reply" in platform.heard)
    until(lambda: {f"{base}/status", f"{base}/keys", f"{base}/inv1/birth"} <= set(platform.heard))
    assert up.state().error is None, up.state()
