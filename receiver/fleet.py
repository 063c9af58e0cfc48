"""A simulated fleet for the demo and for measurements. Keys and signatures are real, and some gateways have faults."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.keys.signer import Signer, SoftEd25519
from agent.verify.jws import TYP_CHECKPOINT, TYP_KEYS, TYP_PACK, base64url
from ext.canon import dumps

POINTS: Final = (  # (name, kind, unit, period in seconds)
    ("ac.power.active", "gauge", "kW", 1), ("ac.voltage.l1", "gauge", "V", 1), ("ac.voltage.l2", "gauge", "V", 1),
    ("ac.voltage.l3", "gauge", "V", 1), ("ac.current.l1", "gauge", "A", 1), ("ac.current.l2", "gauge", "A", 1),
    ("ac.current.l3", "gauge", "A", 1), ("ac.frequency", "gauge", "Hz", 1), ("ac.power.factor", "gauge", "", 1),
    ("ac.energy.import", "counter", "kWh", 1),
)  # fmt: skip
FAULTS: Final = ("", "hole", "short", "tampered", "fork", "clone", "late", "lost", "foreign")


@dataclass(slots=True)
class MadeStream:
    """One device of a simulated gateway."""

    name: str  # <site>/<gateway>/<device>
    signer: Signer
    boot: str
    rng: random.Random
    at_ms: int
    seq: int = 0
    prev: str | None = None
    birth: str | None = None
    energy: float = 0.0

    def pack(self, seconds: int = 10, **members: Any) -> bytes:
        """Make the next pack. The first pack is a birth. Later packs have ``seconds`` readings of each point, one per
        second.
        """
        is_birth = self.birth is None
        to_ms = self.at_ms if is_birth else self.at_ms + seconds * 1000
        value: dict[str, Any] = {
            "boot": self.boot,
            "clock": {"error_ms": 1.2, "kernel_boot": self.boot, "mono_ms": 1000 * self.seq, "synced": True},
            "from": _seconds(self.at_ms), "prev": self.prev, "seq": self.seq + 1, "stream": self.name,
            "to": _seconds(to_ms), "v": 1,
        }  # fmt: skip
        if is_birth:
            value |= {"prev_boot": None, "table": _table()}
        else:
            value |= {"birth": self.birth, "e": self._records(seconds)}
        return self.seal({**value, **members})

    def seal(self, value: Mapping[str, Any]) -> bytes:
        """Sign a pack, and make it the newest pack of the stream's chain."""
        payload = dumps(
            {name: member for name, member in value.items() if member is not None or name in ("prev", "prev_boot")}
        )
        digest = base64url(sha256(payload).digest())
        self.seq, self.prev, self.at_ms = value["seq"], digest, round(value["to"] * 1000)
        self.birth = self.birth or digest
        sig = f',"sig":"{self.signer.sign(TYP_PACK, payload)}"'.encode()
        place = payload.rfind(b',"stream":"')
        return payload[:place] + sig + payload[place:]

    def _records(self, seconds: int) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for second in range(seconds):
            power = 40 + 8 * self.rng.random()
            self.energy += power / 3600
            volts = [230 + 4 * self.rng.random() for _ in range(3)]
            amperes = [60 + 9 * self.rng.random() for _ in range(3)]
            values = [power, *volts, *amperes,
                      50 + 0.1 * self.rng.random(), 0.9 + 0.1 * self.rng.random(), 120_000 + self.energy]  # fmt: skip
            for number, ((name, _, unit, _), value) in enumerate(zip(POINTS, values, strict=True)):
                record: dict[str, Any] = {"n": name, "v": round(value, 4)}
                if unit:
                    record["u"] = unit
                if number == 0:
                    record["bt"] = _seconds(self.at_ms + 1000 * second + 250)
                records.append(record)
        records[0]["bn"] = f"{self.name}/"
        return records


@dataclass(slots=True)
class MadeGateway:
    """A gateway with its own key."""

    name: str  # <site>/<gateway>
    signer: Signer
    streams: list[MadeStream]
    fault: str = ""
    kept: list[bytes] = field(default_factory=list)

    @property
    def pin(self) -> tuple[str, str]:
        """(name of the gateway, its thumbprint). With this entry the platform trusts the gateway."""
        return self.name, self.signer.kid

    def keys(self) -> bytes:
        """The signed keys object of the gateway."""
        record = {
            "alg": self.signer.alg,
            "jwk": self.signer.jwk,
            "kid": self.signer.kid,
            "not_before": 1_767_225_600,
            "prev": None,
        }
        record["sig"] = self.signer.sign(TYP_KEYS, dumps(record))
        return self.signer.sign_object(TYP_KEYS, {"counter": 1, "gateway": self.name, "records": [record], "v": 1})

    def checkpoint(self, counter: int = 1) -> bytes:
        """A checkpoint of one page, with the heads of all streams."""
        heads = [
            {"boot": s.boot, "hash": s.prev, "seq": s.seq, "stream": s.name, "to": _seconds(s.at_ms)}
            for s in self.streams
        ]
        time_s = max(_seconds(s.at_ms) for s in self.streams)
        return self.signer.sign_object(
            TYP_CHECKPOINT,
            {
                "counter": counter,
                "gateway": self.name,
                "heads": heads,
                "page": 1,
                "pages": 1,
                "prev": None,
                "time": time_s,
                "v": 1,
            },
        )

    def round(self, number: int) -> Iterator[tuple[str, bytes]]:
        """Yield (topic, bytes) of one pack of each stream. If this gateway has a fault, it appears in rounds 5 to 8."""
        for place, stream in enumerate(self.streams):
            topic = f"meterhouse/v1/{stream.name}/readings"
            broken = self.fault if place == 0 else ""
            if broken == "lost" and number == 7:
                first, lost_from = stream.seq + 1, stream.at_ms
                stream.pack()
                event = {
                    "boot": stream.boot, "event": "loss", "first": first, "from": _seconds(lost_from),
                    "hash": stream.prev,
                    "last": stream.seq, "reason": "size_cap", "t": _seconds(stream.at_ms), "to": _seconds(stream.at_ms),
                }  # fmt: skip
                yield topic, stream.pack(events=[event])
                continue
            before = (stream.seq, stream.prev, stream.at_ms)
            made = stream.pack()
            if broken == "hole" and number in (5, 6):
                continue
            if broken == "late" and number in (5, 6):
                self.kept.append(made)
                continue
            if broken == "late" and number == 8:
                yield from ((topic.replace("/readings", "/backfill"), kept) for kept in self.kept)
            if broken == "tampered" and number == 6:
                made = made.replace(b'"v":23', b'"v":99', 1)
            if broken == "foreign" and number == 6:
                topic = topic.replace(f"/{stream.name.rpartition('/')[2]}/", "/other/")
            yield topic, made
            if broken in ("fork", "clone", "short") and number == 6:
                yield from self._twist(stream, broken, before, topic)

    def _twist(
        self, stream: MadeStream, how: str, before: tuple[int, str | None, int], topic: str
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the additional, faulty pack.

        For ``fork`` and ``clone`` this is a pack that a copy of the gateway's disk would send. For ``short`` it is a
        pack that lacks readings without stating a gap.
        """
        now = (stream.seq, stream.prev, stream.at_ms, stream.boot)
        if how == "short":
            records = stream._records(10)[:-3]
            yield topic, stream.pack(e=records)
            return
        stream.seq, stream.prev, stream.at_ms = before
        if how == "clone":
            stream.boot = "feedfeedfeedfeed"
            birth, stream.birth = stream.birth, None
            yield topic, stream.pack(prev_boot=now[3])
            stream.birth = birth
        else:
            yield topic, stream.pack()
        stream.seq, stream.prev, stream.at_ms, stream.boot = now


def make_fleet(gateways: int, devices: int, start_ms: int, seed: int = 0, faults: bool = True) -> list[MadeGateway]:
    """Make simulated gateways. They are for demos only, because anyone can derive their keys from the seed.

    Args:
        devices: number of streams of each gateway.
        start_ms: beginning of the first packs in UTC ms.
        faults: whether every seventh gateway gets a fault: the entries of ``FAULTS``, in turn. The entry "" means no
        fault.
    """
    made = []
    for number in range(gateways):
        name = f"site{number // 20:02d}/gw{number:05d}"
        secret = sha256(f"{seed}/{number}".encode()).digest()
        signer = Signer(SoftEd25519(Ed25519PrivateKey.from_private_bytes(secret)))
        streams = []
        for device in range(devices):
            own = sha256(f"{seed}/{number}/{device}".encode()).hexdigest()
            rng = random.Random(own)
            streams.append(MadeStream(f"{name}/meter{device + 1}", signer, own[:16], rng, start_ms))
        fault = FAULTS[number // 7 % len(FAULTS)] if faults and number % 7 == 3 else ""
        made.append(MadeGateway(name, signer, streams, fault))
    return made


def _table() -> dict[str, Any]:
    points = [
        {"kind": kind, "n": name, "pace": "normal", "period": period, "phase": 0, **({"u": unit} if unit else {})}
        for name, kind, unit, period in POINTS
    ]
    return {"config": None, "device": {"profile": "demo/meter", "protocol": "demo"}, "epoch": 0, "points": points}


def _seconds(ms: int) -> float | int:
    return ms // 1000 if ms % 1000 == 0 else ms / 1000
