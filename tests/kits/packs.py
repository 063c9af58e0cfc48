"""Packs as the sealer makes them: canonical, chained, with values that change. The signatures are random bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.store import Store, StoredPack

BOOT = "3f2a9c41d07be815"
START_MS = 1_795_500_900_000
HEADER = base64.urlsafe_b64encode(
    b'{"alg":"Ed25519","b64":false,"crit":["b64"],"kid":"n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg","typ":"mh-pack"}'
).rstrip(b"=")


def _names() -> list[tuple[str, str]]:
    phases = [
        (f"{name}.l{phase}", unit)
        for phase in (1, 2, 3)
        for name, unit in (
            ("ac.voltage", "V"), ("ac.current", "A"), ("ac.power.active", "kW"), ("ac.power.reactive", "kvar"),
            ("ac.power.apparent", "kVA"), ("ac.factor", "/"),
        )
    ]  # fmt: skip
    whole = [
        ("ac.power.active", "kW"), ("ac.power.reactive", "kvar"), ("ac.frequency", "Hz"), ("ac.energy.import", "kWh"),
        ("ac.energy.export", "kWh"), ("ac.energy.reactive.import", "kvarh"), ("device.temperature", "Cel"),
        ("ac.power.generation", "kW"), ("ac.energy.generation", "kWh"), ("dc.power", "kW"),
    ]  # fmt: skip
    strings = [(f"dc.string.{n}.{q}", u) for n in range(1, 12) for q, u in (("voltage", "V"), ("current", "A"))]
    return phases + whole + strings


POINTS = _names()  # 50


@dataclass
class Pack:
    """Has the members of ``agent.pack.SealedPack``."""

    stream: str
    boot: str
    seq: int
    from_ms: int
    to_ms: int
    hash: bytes
    is_birth: bool
    data: bytes
    ring_id: int = 1 << 63 | 5  # a u64 beyond what SQLite's integers hold
    ring_pos: int = 0


class Maker:
    """Makes the packs of one stream, each after the one before.

    Args:
        points: names and units. Each point has one reading per tick.
        ticks: number of ticks per pack.
        pad: further bytes in each pack.
    """

    def __init__(
        self,
        stream: str = "park7/gw01/inv1",
        points: Sequence[tuple[str, str]] = POINTS[:5],
        ticks: int = 1,
        pad: int = 0,
        boot: str = BOOT,
        step_ms: int = 10_000,
    ) -> None:
        self.stream, self.boot, self._points, self._ticks, self._pad = stream, boot, points, ticks, pad
        self._random = random.Random(stream)
        self._values = [self._random.uniform(10, 500) for _ in points]
        self.seq, self.at_ms, self._step_ms = 0, START_MS, step_ms
        self.prev: str | None = None
        self.birth: str | None = None
        self.made: list[Pack] = []

    def __call__(self, birth: bool = False, to_ms: int | None = None) -> Pack:
        from_ms = self.at_ms if to_ms is None else to_ms - self._step_ms
        self.at_ms = from_ms + (0 if birth and to_ms is None else self._step_ms)
        self.seq += 1
        clock = {
            "error_ms": round(self._random.uniform(0.5, 3), 3),
            "mono_ms": 8_640_012 + from_ms % 10**9,
            "synced": True,
        }
        body: dict[str, Any] = {
            "boot": self.boot, "clock": clock, "from": from_ms / 1000, "prev": self.prev, "seq": self.seq,
            "stream": self.stream, "to": self.at_ms / 1000, "v": 1,
        }  # fmt: skip
        if self.seq == 1:
            body["prev_boot"] = None
        if birth:
            body["table"] = {"points": [{"kind": "gauge", "n": n, "u": u} for n, u in self._points]}
        else:
            body["birth"], body["e"] = self.birth, self._readings(from_ms)
            if self._pad:
                body["pad"] = "x" * self._pad
            if self.birth is None:
                del body["birth"]
        payload = _canonical(body)
        digest = hashlib.sha256(payload).digest()
        signature = base64.urlsafe_b64encode(self._random.randbytes(64)).rstrip(b"=")
        data = _canonical({**body, "sig": (HEADER + b".." + signature).decode()})
        self.prev = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if birth:
            self.birth = self.prev
        pack = Pack(self.stream, self.boot, self.seq, from_ms, self.at_ms, digest, birth, data, ring_pos=self.seq * 100)
        self.made.append(pack)
        return pack

    def _readings(self, from_ms: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for tick in range(self._ticks):
            at = (from_ms + tick * self._step_ms // self._ticks + self._random.randint(2, 40)) / 1000
            for n, (name, unit) in enumerate(self._points):
                record: dict[str, Any] = {"n": name, "u": unit, "v": self._move(n, name)}
                if n == 0:
                    record["bt"] = at
                found.append(record)
        if found:
            found[0]["bn"] = self.stream + "/"
        return found

    def _move(self, n: int, name: str) -> float:
        value = self._values[n]
        if "energy" in name:
            self._values[n] = value + self._random.uniform(0, 0.3)
            return round(value + 120_000, 1)
        if "voltage" in name:
            return round(value + self._random.gauss(0, 2), 1)
        if "factor" in name:
            return round(0.9 + self._random.uniform(0, 0.1), 3)
        if "frequency" in name:
            return round(50 + self._random.gauss(0, 0.03), 2)
        return round(abs(value + self._random.gauss(0, value * 0.05)), 2)


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def stored(store: Store, stream: str, first: int = 1, last: int = 10**6) -> list[StoredPack]:
    """Packs ``first`` to ``last`` of a stream that are in the store."""
    return store.packs.after(stream, first - 1, last, limit=last)


def bad_packs(store: Store) -> int:
    """Check the whole store. Returns the number of bad packs. Raises StoreDamaged."""
    check = store.start_check(lambda data: True)
    while check.step():
        pass
    return check.bad_packs
