"""Makes signed packs for tests and vectors. It is slow, and uses rfc8785 and cryptography, but none of our code.

Everything can be overridden, so that broken packs are made the same way as sound ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

START = 1_795_500_900  # UTC seconds, on every grid used here
BOOTS = ("3f2a9c41d07be815", "b1946ac92492d234", "6c5aeb6d9f0e1a77", "0d4f8f2b90aa31ce")
POINTS: tuple[tuple[str, str, str, int | None], ...] = (  # name, kind, unit, period in seconds
    ("ac.power.generation", "gauge", "kW", 5),
    ("ac.voltage.l1", "gauge", "V", 5),
    ("ac.energy.generation", "counter", "kWh", 60),
    ("device.state", "state", "", 5),
    ("device.firmware", "text", "", None),
)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Key:
    """A key that is made from a seed. It is for tests only."""

    def __init__(self, seed: int = 1, alg: str = "Ed25519") -> None:
        self.alg = alg
        if alg == "Ed25519":
            self._edwards = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
            raw = self._edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.jwk = {"crv": "Ed25519", "kty": "OKP", "x": b64(raw)}
        else:
            self._curve = ec.derive_private_key(1_000_003 * seed, ec.SECP256R1())
            numbers = self._curve.public_key().public_numbers()
            self.jwk = {
                "crv": "P-256",
                "kty": "EC",
                "x": b64(numbers.x.to_bytes(32, "big")),
                "y": b64(numbers.y.to_bytes(32, "big")),
            }
        self.kid = b64(hashlib.sha256(rfc8785.dumps(self.jwk)).digest())

    def raw_sign(self, signed: bytes) -> bytes:
        if self.alg == "Ed25519":
            return self._edwards.sign(signed)
        r, s = utils.decode_dss_signature(self._curve.sign(signed, ec.ECDSA(SHA256(), deterministic_signing=True)))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def jws(self, payload: bytes, typ: str = "mh-pack", **header: Any) -> str:
        """Detached JWS; ``header`` overrides members, None leaves one out."""
        members = {"alg": self.alg, "b64": False, "crit": ["b64"], "kid": self.kid, "typ": typ, **header}
        encoded = b64(rfc8785.dumps({name: value for name, value in members.items() if value is not None}))
        return f"{encoded}..{b64(self.raw_sign(encoded.encode() + b'.' + payload))}"


def sign(fields: Mapping[str, Any], key: Key, typ: str = "mh-pack", **header: Any) -> bytes:
    """The published bytes of an object."""
    return sign_and_hash(fields, key, typ, **header)[0]


def sign_and_hash(fields: Mapping[str, Any], key: Key, typ: str = "mh-pack", **header: Any) -> tuple[bytes, str]:
    """The published bytes of an object, and the hash that ``prev`` and ``birth`` use. Each member is written once.

    A member of type bytes must be canonical JSON already. This is faster for large members.
    """
    members = {name: _member(name, value) for name, value in fields.items() if name != "sig"}
    payload = _joined(members)
    members["sig"] = _member("sig", key.jws(payload, typ, **header))
    return _joined(members), b64(hashlib.sha256(payload).digest())


def _member(name: str, value: Any) -> bytes:
    return rfc8785.dumps(name) + b":" + (value if isinstance(value, bytes) else rfc8785.dumps(value))


def _joined(members: Mapping[str, bytes]) -> bytes:
    """The members in the order of RFC 8785, which is that of their UTF-16 code units."""
    return b"{" + b",".join(members[name] for name in sorted(members, key=lambda n: n.encode("utf-16-be"))) + b"}"


def payload_hash(raw: bytes) -> str:
    """The hash of a published object that ``prev`` and ``birth`` use."""
    fields = json.loads(raw)
    del fields["sig"]
    return b64(hashlib.sha256(rfc8785.dumps(fields)).digest())


def key_record(key: Key, before: Key | None = None, since: int = START, signer: Key | None = None, **more: Any) -> dict:
    record = {
        "alg": key.alg,
        "jwk": key.jwk,
        "kid": key.kid,
        "not_before": since,
        "prev": before.kid if before else None,
        **more,
    }
    return {**record, "sig": (signer or before or key).jws(rfc8785.dumps(record), "mh-keys")}


def keys_object(
    records: Sequence[Mapping[str, Any]], signer: Key, counter: int = 1, gateway: str = "park7/gw01", **more: Any
) -> bytes:
    fields = {"counter": counter, "gateway": gateway, "records": list(records), "v": 1, **more}
    return sign(fields, signer, "mh-keys")


def keys(*chain: Key, counter: int = 1, gateway: str = "park7/gw01") -> bytes:
    """The keys object of a chain of keys, each signed by the one before."""
    records = [key_record(key, chain[n - 1] if n else None, START + n) for n, key in enumerate(chain)]
    return keys_object(records, chain[-1], counter, gateway)


def checkpoint(heads: Sequence[Mapping[str, Any]], key: Key, counter: int = 1, **more: Any) -> bytes:
    fields = {
        "counter": counter,
        "gateway": "park7/gw01",
        "heads": list(heads),
        "page": 1,
        "pages": 1,
        "prev": None,
        "time": START + 900,
        "v": 1,
    }
    return sign({**fields, **more}, key, "mh-checkpoint")


def table(points: Sequence[tuple[str, str, str, int | None]] = POINTS, phase: float = 0) -> dict[str, Any]:
    """A birth's table object."""
    return {
        "config": b64(hashlib.sha256(b"config").digest()),
        "device": {
            "address": "1",
            "evidence": "derived",
            "firmware": None,
            "identity": None,
            "label": "1#车间屋顶",
            "parent": {},
            "profile": "huawei/sun2000",
            "profile_hash": b64(hashlib.sha256(b"profile").digest()),
            "protocol": "modbus",
            "ratio": {"ct": 1, "pt": 1},
            "reversed": [],
            "roles": {"ac": "generation.pv"},
            "variant": "",
        },
        "points": [
            {
                "kind": kind,
                "labels": {},
                "n": name,
                "pace": "normal" if period else "once",
                "period": period,
                "phase": phase,
                "source": {"address": 32000 + n, "count": 2, "function": 3, "scale": "0.001", "type": "i32"},
                **({"u": unit} if unit else {}),
            }
            for n, (name, kind, unit, period) in enumerate(points)
        ],
    }


class Stream:
    """Seals packs of one stream one after the other."""

    def __init__(
        self,
        name: str = "inv1",
        key: Key | None = None,
        *,
        gateway: str = "park7/gw01",
        boot: str = BOOTS[0],
        points: Sequence[tuple[str, str, str, int | None]] = POINTS,
        start: float = START,
    ) -> None:
        self.stream = f"{gateway}/{name}"
        self.key = key or Key()
        self.points = points
        self.boot = boot
        self.seq = 0
        self.prev: str | None = None
        self.prev_boot: str | None = None
        self.first = True
        self.at: float = start
        self.birth: str | None = None

    def restart(self, boot: str) -> None:
        """Begin another boot with the next pack."""
        self.prev_boot, self.boot, self.first, self.birth = self.boot, boot, True, None

    def topic(self, kind: str = "readings") -> str:
        return f"meterhouse/v1/{self.stream}/{kind}"

    def due(self, start: float, end: float, period: float) -> list[float]:
        first = -(-start // period)
        return [k * period for k in range(int(first), int(-(-end // period)))]

    def readings(self, start: float, end: float, skip: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A record for each due tick of each gauge and counter."""
        records: list[dict[str, Any]] = []
        ticks = sorted({t for _, kind, _, p in self.points if p for t in self.due(start, end, p)})
        for tick in ticks:
            for n, (name, kind, unit, period) in enumerate(self.points):
                if period is None or tick % period or kind not in ("gauge", "counter") or name in skip:
                    continue
                record: dict[str, Any] = {"n": name, "v": round(230.1 + n + (tick % 97) / 8, 3)}
                if unit:
                    record["u"] = unit
                if not records:
                    record |= {"bn": self.stream + "/", "bt": tick + 0.25}
                elif record["n"] == self.points[0][0]:
                    record["bt"] = tick + 0.25
                records.append(record)
        return records

    def fields(self, seconds: float = 10, **override: Any) -> dict[str, Any]:
        """The members of the next pack, which is not sealed yet. None leaves a member out."""
        end = self.at + seconds
        made: dict[str, Any] = {
            "birth": self.birth,
            "boot": self.boot,
            "clock": {"error_ms": 1.2, "kernel_boot": "0b6f3c0e", "mono_ms": 1000 * self.seq, "synced": True},
            "e": self.readings(self.at, end) or None,
            "from": self.at,
            "seq": self.seq + 1,
            "stream": self.stream,
            "to": end,
            "v": 1,
        }
        made |= override
        made = {name: value for name, value in made.items() if value is not None}
        made.setdefault("prev", self.prev)
        if self.first:
            made.setdefault("prev_boot", self.prev_boot)
        return made

    def seal(self, fields: Mapping[str, Any], *, key: Key | None = None, typ: str = "mh-pack", **header: Any) -> bytes:
        """Sign a pack, and make it the newest pack of the stream."""
        raw, digest = sign_and_hash(fields, key or self.key, typ, **header)
        self.seq, self.prev, self.at = fields["seq"], digest, fields["to"]
        if "table" in fields:
            self.birth = self.prev
        self.first = False
        return raw

    def make_birth(self, **override: Any) -> bytes:
        return self.seal(self.fields(0, **{"table": table(self.points), "birth": None, "e": None, **override}))

    def pack(self, seconds: float = 10, **override: Any) -> bytes:
        return self.seal(self.fields(seconds, **override))

    def gap(self, seconds: float, reason: str = "timeout", **override: Any) -> bytes:
        """A pack without any reading."""
        hole = {"from": self.at, "points": "*", "reason": reason, "to": self.at + seconds}
        return self.seal(self.fields(seconds, **{"e": None, "gaps": [hole], **override}))

    def run(self, count: int, seconds: float = 10) -> list[bytes]:
        """A birth if one is due, then packs, ``count`` in all."""
        made = [self.make_birth()] if self.birth is None else []
        return made + [self.pack(seconds) for _ in range(count - len(made))]
