"""An export as a verifier may get it: three streams, three boots, two keys, gaps, a loss, parts, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from agent.verify import Report, Verifier
from agent.verify.files import read_paths
from tests.kits.signed import BOOTS, Key, Stream, checkpoint, keys, payload_hash
from tests.verify.corpus import in_parts
from tests.verify.corpus_pages import head

OLD, NEW = Key(1), Key(2, "ES256")
NAMES = ("_gateway", "gate-meter", "inv1")
CHECKPOINTS = "checkpoints.jsonl"
Files = dict[str, list[bytes]]  # name -> lines


def packs_of(name: str) -> str:
    return f"packs/{name}.packs.jsonl"


class Maker:
    """Seals packs as a gateway does, and makes checkpoints of two pages."""

    def __init__(self) -> None:
        self.streams = {name: Stream(name, OLD, points=() if name == "_gateway" else _POINTS) for name in NAMES}
        self.files: Files = {"keys.json": [keys(OLD, NEW, counter=2)], CHECKPOINTS: []}
        self.files |= {packs_of(name): [] for name in NAMES}
        self.counter = 100
        self._before: list[bytes] = []

    def add(self, name: str, *packs: bytes) -> None:
        self.files[packs_of(name)] += packs

    def run(self, count: int) -> None:
        for name, stream in self.streams.items():
            self.add(name, *stream.run(count))

    def restart(self, boot: str, seconds: float = 60) -> None:
        for name, stream in self.streams.items():
            stream.restart(boot)
            self.add(name, stream.make_birth())
            self.add(name, stream.gap(seconds, "stopped") if stream.points else stream.pack(seconds))

    def checkpoint(self, key: Key = OLD) -> list[bytes]:
        heads = [head(stream) for stream in self.streams.values()]
        self.counter += 1
        made = []
        for n, some in enumerate((heads[:2], heads[2:])):
            prev = payload_hash(self._before[n]) if self._before else None
            time = max(stream.at for stream in self.streams.values()) + 5
            made.append(checkpoint(some, key, self.counter, page=n + 1, pages=2, prev=prev, time=time))
        self._before = made
        self.files[CHECKPOINTS] += made
        return made


_POINTS = Stream().points


def whole() -> Files:
    """The files of a valid export."""
    made = Maker()
    gateway, meter, inverter = made.streams.values()
    made.run(5)
    made.checkpoint()
    made.add("inv1", *in_parts(inverter))
    made.add("gate-meter", meter.pack(5), meter.gap(40))
    made.add("_gateway", gateway.pack(5), gateway.pack(40))
    for _ in range(3):
        inverter.pack()
    loss = {
        "boot": inverter.boot, "event": "loss", "first": inverter.seq - 2, "from": inverter.at - 30,
        "hash": inverter.prev, "last": inverter.seq, "reason": "disk", "t": inverter.at, "to": inverter.at,
    }  # fmt: skip
    made.add("inv1", inverter.pack(events=[loss]))
    made.checkpoint()
    made.restart(BOOTS[1])
    made.run(3)
    made.checkpoint()
    for stream in made.streams.values():
        stream.key = NEW
    made.run(2)
    made.checkpoint(NEW)
    made.restart(BOOTS[2], 30)
    made.run(3)
    made.checkpoint(NEW)
    return made.files


def only(files: Mapping[str, list[bytes]], keep: Callable[[dict[str, object]], bool]) -> Files:
    """The lines whose object ``keep`` selects, and all keys."""
    return {name: [raw for raw in some if name == "keys.json" or keep(json.loads(raw))] for name, some in files.items()}


def write(files: Mapping[str, Sequence[bytes]], folder: Path) -> Path:
    for name, lines in files.items():
        if lines:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\n".join(lines) + b"\n")
    return folder


def judge(folders: Iterable[Path]) -> Report:
    verifier = Verifier([OLD.kid])
    read_paths(verifier, folders)
    return verifier.finish()
