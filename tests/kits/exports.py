"""A gateway's state directory as an agent leaves it: a store with packs of two devices, signed by a real key."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.keys import create_key, key_records
from agent.pack import BirthTable, Head, Packer, SealedPack, base64url
from agent.store import Store
from agent.verify import Report, Verifier
from agent.verify.files import read_paths
from drivers.model import Reason
from ext.ring import Ring

BASE = "park7/gw01"
T0 = 1_795_500_000_000
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 86400123, "synced": True}
POINTS = (("ac.power.active", "gauge"), ("ac.energy.import", "counter"))
CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"
"""


def table(names: tuple[tuple[str, str], ...] = POINTS) -> dict[str, Any]:
    points = [
        {"n": n, "u": "W", "kind": kind, "pace": "fast", "period": 1, "phase": 0, "source": None} for n, kind in names
    ]
    return {"config": None, "device": None, "points": points}


class Gateway:
    """Seals packs of one second each into a store. ``restart`` begins another boot."""

    def __init__(self, folder: Path, *streams: str) -> None:
        self.folder = folder
        (folder / "profiles").mkdir(exist_ok=True)
        (folder / "agent.toml").write_text(CONFIG)
        (folder / "state").mkdir()
        self.signer = create_key(folder / "state" / "signing.key", T0 // 1000 - 100)
        self.keys = key_records(self.signer, BASE)
        self.ring = Ring.create(str(folder / "ring"), 1 << 20, 77, 2, bytes(32))
        self.now_ms, self.boots, self.made = T0, 0, list[SealedPack]()
        self.names = [f"{BASE}/{name}" for name in streams or ("inv1", "births")]
        self._value = 0
        self.restart()
        self.keep(lambda store: store.keys.add(1, self.keys))

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    def keep(self, job: Callable[[Store], Any]) -> Any:
        store = Store.open(self.folder / "state" / "store.db", 64 << 20, destinations=["platform"])
        try:
            return job(store)
        finally:
            store.close()

    def restart(self) -> None:
        """Begin another boot, as a restart of the agent does."""
        self.boots += 1
        heads = self.keep(lambda store: store.packs.heads())
        self.packers = {}
        for name in self.names:
            known = heads.get(name)
            head = Head(known.boot, known.seq, base64url(known.hash), known.to_ms) if known else None
            packer = Packer(name, f"{self.boots:016x}", head, self.signer.signer("mh-pack"), self.now_ms, 1 << 16)
            packer.use(BirthTable(name, table()))
            self.packers[name] = packer

    def seal(self, seconds: int, silent: bool = False, late_ms: int = 40) -> list[SealedPack]:
        """Seal one pack per second for each stream, and commit all. A reading is taken ``late_ms`` after its tick."""
        packs: list[SealedPack] = []
        for _ in range(seconds):
            tick, self.now_ms = self.now_ms, self.now_ms + 1000
            for packer in self.packers.values():
                positions = array("Q")
                if not silent:
                    self._value += 1
                    values = [(0, self._value, -1, 0), (1, 12345678901234560 + self._value, -3, 0)]
                    at = (tick + late_ms) * 1_000_000
                    positions.append(self.ring.append_values(0, tick, at, 1, values))
                packs += packer.seal(self.ring, positions, self.now_ms, CLOCK, (), Reason.TIMEOUT)
        self.keep(lambda store: store.packs.commit(packs))
        self.made += packs
        return packs

    def broker(self, packs: list[SealedPack] | None = None) -> Report:
        """The report on the packs as a broker would have delivered them."""
        verifier = Verifier([self.signer.kid])
        verifier.feed(self.keys, f"meterhouse/v1/{BASE}/keys")
        for pack in self.made if packs is None else packs:
            verifier.feed(pack.data, f"meterhouse/v1/{pack.stream}/readings")
        return verifier.finish()

    def folder_report(self, folder: Path) -> Report:
        """The report on an exported folder."""
        verifier = Verifier([self.signer.kid])
        read_paths(verifier, [folder])
        return verifier.finish()


def seqs(folder: Path, name: str) -> list[int]:
    """Sequences in the file of a stream."""
    text = (folder / "packs" / f"{name}.packs.jsonl").read_text()
    return [json.loads(line)["seq"] for line in text.splitlines()]
