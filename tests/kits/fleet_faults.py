"""Made-up streams with real signatures, each broken in one way, and a source that delivers them to a worker."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.keys.key_records import Revocation, key_records
from agent.keys.signer import Signer, SoftEd25519
from agent.verify.jws import base64url
from receiver.fleet import MadeGateway, MadeStream
from receiver.sources import Message

START_MS = 1_795_500_900_000
Sent = tuple[str, bytes]  # topic, bytes
PACKS = 12


@dataclass
class Broken:
    """The keys of one gateway, and the messages that it sends."""

    kind: str
    gateway: MadeGateway
    keys: list[bytes]
    sent: list[Sent] = field(default_factory=list)
    late_keys: list[bytes] = field(default_factory=list)  # keys that arrive after all packs

    @property
    def stream(self) -> MadeStream:
        return self.gateway.streams[0]

    @property
    def topic(self) -> str:
        return f"meterhouse/v1/{self.stream.name}/readings"

    def send(self, *packs: bytes) -> None:
        self.sent += [(self.topic, raw) for raw in packs]

    def run(self, count: int) -> list[bytes]:
        return [self.stream.pack() for _ in range(count)]


def signer_of(seed: str) -> Signer:
    return Signer(SoftEd25519(Ed25519PrivateKey.from_private_bytes(sha256(seed.encode()).digest())), 1_767_225_600)


def make(kind: str, number: int, start_ms: int = START_MS) -> Broken:
    """Make gateway ``number`` with one stream, which the function ``_<kind>`` below breaks."""
    name, signer = f"site{number // 20:02d}/gw{number:05d}", signer_of(f"{kind}/{number}")
    boot = sha256(f"{kind}.{number}".encode()).hexdigest()[:16]
    stream = MadeStream(f"{name}/meter", signer, boot, random.Random(number), start_ms)
    gateway = MadeGateway(name, signer, [stream])
    made = Broken(kind, gateway, [gateway.keys()])
    KINDS[kind](made)
    return made


def _whole(b: Broken) -> None:
    b.send(*b.run(PACKS))


def _hole(b: Broken) -> None:
    packs = b.run(PACKS)
    b.send(*packs[:5], *packs[7:])


def _two_holes(b: Broken) -> None:
    packs = b.run(PACKS)
    b.send(*packs[:4], *packs[5:9], *packs[10:])


def _tampered(b: Broken) -> None:
    packs = b.run(PACKS)
    packs[6] = packs[6].replace(b'"v":23', b'"v":99', 1)
    b.send(*packs)


def _fork(b: Broken, later_ms: int = 0) -> None:
    b.send(*b.run(6))
    before = (b.stream.seq, b.stream.prev, b.stream.at_ms)
    first = b.stream.pack()
    after = (b.stream.seq, b.stream.prev, b.stream.at_ms)
    b.stream.seq, b.stream.prev, b.stream.at_ms = before
    b.stream.at_ms += later_ms
    twin = b.stream.pack()
    b.stream.seq, b.stream.prev, b.stream.at_ms = after
    b.send(first, twin, *b.run(4))


def _fork_of_another_time(b: Broken) -> None:
    _fork(b, 40 * 86_400_000)


def _clone(b: Broken) -> None:
    """A copy of the gateway's disk runs at the same time as the gateway."""
    b.send(*b.run(6))
    state = (b.stream.seq, b.stream.prev, b.stream.at_ms, b.stream.boot, b.stream.birth)
    b.send(*b.run(3))
    now = (b.stream.seq, b.stream.prev, b.stream.at_ms, b.stream.boot, b.stream.birth)
    b.stream.seq, b.stream.prev, b.stream.at_ms, old, _ = state
    b.stream.boot, b.stream.birth = "feedfeedfeedfeed", None
    b.send(b.stream.pack(prev_boot=old), b.stream.pack())
    b.stream.seq, b.stream.prev, b.stream.at_ms, b.stream.boot, b.stream.birth = now
    b.send(*b.run(2))


def _short(b: Broken) -> None:
    b.send(*b.run(5))
    records = b.stream._records(10)[:-3]
    b.send(b.stream.pack(e=records), *b.run(4))


def _end_cut(b: Broken) -> None:
    packs = b.run(PACKS)
    b.send(*packs[:8])


def _start_cut(b: Broken) -> None:
    packs = b.run(PACKS)
    b.send(*packs[4:])


def _loss(b: Broken, hash_of: Callable[[MadeStream], str | None] = lambda stream: stream.prev) -> None:
    b.send(*b.run(6))
    first, from_ms = b.stream.seq + 1, b.stream.at_ms
    b.run(3)
    b.send(b.stream.pack(events=[_loss_event(b.stream, first, from_ms, hash_of(b.stream))]), *b.run(3))


def _wrong_loss(b: Broken) -> None:
    _loss(b, lambda stream: base64url(sha256(b"another").digest()))


def _loss_of_a_part(b: Broken) -> None:
    """Four packs are missing, but the loss event names only the last two."""
    b.send(*b.run(6))
    b.run(2)
    first, from_ms = b.stream.seq + 1, b.stream.at_ms
    b.run(2)
    b.send(b.stream.pack(events=[_loss_event(b.stream, first, from_ms, b.stream.prev)]), *b.run(3))


def _loss_event(stream: MadeStream, first: int, from_ms: int, digest: str | None) -> dict[str, Any]:
    return {
        "boot": stream.boot, "event": "loss", "first": first, "from": from_ms // 1000, "hash": digest,
        "last": stream.seq, "reason": "size_cap", "t": stream.at_ms // 1000, "to": stream.at_ms // 1000,
    }  # fmt: skip


def _foreign_topic(b: Broken) -> None:
    b.send(*b.run(PACKS))
    topic, raw = b.sent[5]
    b.sent[5] = topic.replace("/meter/", "/other/"), raw


def _restart(b: Broken) -> None:
    b.send(*b.run(5))
    old, b.stream.boot, b.stream.birth = b.stream.boot, "abcdabcdabcdabcd", None
    b.send(b.stream.pack(prev_boot=old), *b.run(4))


def _restart_without_its_first_pack(b: Broken) -> None:
    _restart(b)
    del b.sent[5]


def _anew(b: Broken) -> None:
    """The database was lost: the history begins once more."""
    b.send(*b.run(6))
    b.stream.boot, b.stream.birth, b.stream.seq, b.stream.prev = "0123012301230123", None, 0, None
    b.send(*b.run(4))


def _wrong_prev(b: Broken) -> None:
    b.send(*b.run(5))
    b.stream.prev = base64url(sha256(b"?").digest())
    b.send(*b.run(4))


def _overlap(b: Broken) -> None:
    b.send(*b.run(5))
    b.stream.at_ms -= 5000
    b.send(*b.run(4))


def _step(b: Broken) -> None:
    """The clock was set: the event says so."""
    b.send(*b.run(5))
    old = b.stream.at_ms
    b.stream.at_ms += 90_000
    event = {"event": "clock_step", "new": b.stream.at_ms // 1000, "old": old // 1000, "t": b.stream.at_ms // 1000}
    b.send(b.stream.pack(events=[event]), *b.run(4))


def _gap(b: Broken) -> None:
    b.send(*b.run(4))
    low, high = b.stream.at_ms // 1000, b.stream.at_ms // 1000 + 10
    b.send(b.stream.pack(e=None, gaps=[{"from": low, "points": "*", "reason": "timeout", "to": high}]), *b.run(3))


def _wrong_unit(b: Broken) -> None:
    b.send(*b.run(4))
    records = b.stream._records(10)
    records[3]["u"] = "mV"
    b.send(b.stream.pack(e=records), *b.run(3))


def _unknown_point(b: Broken) -> None:
    b.send(*b.run(4))
    records = b.stream._records(10)
    records[3]["n"] = "ac.voltage.l9"
    b.send(b.stream.pack(e=records), *b.run(3))


def _parts(b: Broken, order: Sequence[int] = (1, 2, 3), leave_out: int = 0) -> None:
    """A tick too large for one pack: three packs of equal time."""
    b.send(*b.run(4))
    from_ms, records = b.stream.at_ms, b.stream._records(10)
    third = -(-len(records) // 3)
    for number, part in enumerate(order):
        some = [dict(record) for record in records[number * third : (number + 1) * third]]
        some[0] |= {"bn": f"{b.stream.name}/", "bt": records[0]["bt"]}
        b.stream.at_ms = from_ms
        raw = b.stream.pack(e=some, part=[part, 3])
        if part != leave_out:
            b.send(raw)
    b.send(*b.run(3))


def _part_missing(b: Broken) -> None:
    _parts(b, leave_out=2)


def _parts_out_of_order(b: Broken) -> None:
    _parts(b, order=(1, 3, 2))


def _new_key(b: Broken) -> None:
    b.send(*b.run(5))
    new = signer_of(f"new/{b.gateway.name}")
    b.keys.append(key_records(new, b.gateway.name, b.keys[0], b.gateway.signer))
    b.stream.signer = new
    b.send(*b.run(4))


def _old_key_again(b: Broken) -> None:
    _new_key(b)
    b.stream.signer = b.gateway.signer
    b.send(*b.run(2))


def _revoked_later(b: Broken) -> None:
    """A thief signed the last three packs. The key was revoked after they had arrived."""
    b.send(*b.run(9))
    new = signer_of(f"new/{b.gateway.name}")
    gone = Revocation(b.gateway.signer.kid, {b.stream.name: 6})
    b.late_keys.append(key_records(new, b.gateway.name, b.keys[0], b.gateway.signer, revokes=[gone]))


KINDS: dict[str, Callable[[Broken], None]] = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name.startswith("_") and callable(function) and getattr(function, "__module__", "") == __name__
    and name != "_loss_event"
}  # fmt: skip


class Feed:
    """A source that delivers a list of messages."""

    def __init__(self, sent: Sequence[Sent]) -> None:
        self.left = [Message(topic, raw, number) for number, (topic, raw) in enumerate(sent)]
        self.acknowledged: set[int] = set()

    def take(self, most: int, wait_s: float) -> list[Message]:
        taken, self.left = self.left[:most], self.left[most:]
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        self.acknowledged |= {message.token for message in messages}

    def problem(self) -> str:
        return ""

    def close(self) -> None:
        pass


def publish_all(port: int, sent: Sequence[Sent], *, retain: bool = False) -> list[int]:
    """Publish at QoS 1 and wait for each PUBACK. Returns their reason codes: 16 if a topic has no subscriber."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    reasons: list[int] = []
    client.on_publish = lambda _client, _data, _mid, reason, _properties: reasons.append(reason.value)
    client.max_inflight_messages_set(500)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for info in [client.publish(topic, raw, qos=1, retain=retain) for topic, raw in sent]:
        info.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()
    return reasons


def has_subscriber(port: int, topic: str) -> bool:
    """Return True if the topic has a subscriber, which the broker's PUBACK shows."""
    return publish_all(port, [(topic, b"{}")]) == [0]
